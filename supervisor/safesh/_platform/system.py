"""What ``metrics`` asks of the platform; one contract, chosen here. Nothing of it is imported by the lean processes.

The machine (each raises OSError or ValueError where the answer cannot be had, for the caller to note):

- ``cpu_times() -> dict[int, tuple[float, float]]``: seconds (busy, all) since boot by number of the processor.
- ``memory() -> tuple[int, int]``: bytes (all, available to new programs without swapping); ``swap()``: (all, used).
- ``network() -> tuple[int, int, str]``: bytes (received, sent) since boot and whose they are; stacked devices and
  loopback are left out, where counting them would count twice. ``disks()``: the same, (read, written).
- ``pressure() -> dict | None``: see ``metrics.model.SystemSnapshot``; None where the kernel does not keep it.
- ``SOURCES``: name of the function -> where its answer comes from.

Processes (None where gone or closed to us):

- ``visible() -> dict[int, Info]``: all, with time and memory. ``complete(info)``: adds owner and start in wall time.
- ``disk_io(pid, alone=False) -> tuple[int, int] | None``: bytes (read, written) to the disk, those of waited-for
  children included; alone: of its first thread only.
- ``exact_memory(pid) -> tuple[int, int] | None``: bytes (PSS, USS).
- ``address_space(pid) -> int | None``: bytes that count against RLIMIT_AS.
- ``rlimit(pid, name) -> int | None``: the soft limit (``RLIMIT_AS``...), None for unlimited or unknown.
- ``affinity(pid) -> set[int] | None``: processors it may run on.
"""

from __future__ import annotations

import sys

from safesh._platform import forced_backend

if sys.platform == "linux" and forced_backend() != "posix":
    from safesh._platform.system_linux import (
        SOURCES,
        address_space,
        complete,
        cpu_times,
        disk_io,
        disks,
        exact_memory,
        memory,
        network,
        pressure,
        swap,
        visible,
    )
else:
    from safesh._platform.system_posix import (
        SOURCES,
        address_space,
        complete,
        cpu_times,
        disk_io,
        disks,
        exact_memory,
        memory,
        network,
        pressure,
        swap,
        visible,
    )

from safesh._platform.system_posix import affinity, rlimit

__all__ = [
    "SOURCES",
    "address_space",
    "affinity",
    "complete",
    "cpu_times",
    "disk_io",
    "disks",
    "exact_memory",
    "memory",
    "network",
    "pressure",
    "rlimit",
    "swap",
    "visible",
]
