"""What the kernel tells and does, behind one contract; chosen here, in one place.

The contract of a platform module (``linux.py``, ``posix.py``), all pids as seen from our pid namespace:

- ``boot_id() -> str``: names this boot and pid namespace (see ``model.Identity``).
- ``start_time(pid) -> int | None``: the identity's second half; None when there is no such process.
- ``info(pid) -> Info | None`` and ``scan() -> dict[int, Info]``: one process, or every visible one.
- ``descendants(pid) -> dict[int, Info] | None``: those below a process at the price of those alone; None where there is
  no such way. For samples: it may miss one. ``pss(pid)``, ``open_files(pid) -> int | None``: None when nobody tells.
- ``io_bytes(pid, alone=False) -> tuple[int, int] | None``: read from and written to storage, waited-for children's
  included; ``alone``: by its first thread. None when nobody tells.
- ``cmdline(pid) -> list[str]`` (empty when unreadable), ``environ(pid, having="") -> dict | None``: having: empty at
  once for one that has this text nowhere, for whoever asks all processes for their mark.
- ``open_paths(pid) -> list[str] | None``: what its descriptors lead to, files by where they are now; None when closed.
- ``open_handle(pid, start) -> Handle | None``: a handle of exactly that process, None when it is gone.
- ``open_child(pid, start, fd=-1)``: of our own child that nobody has collected; ``child_opener``: the C function that
  opens its descriptor, or None; ``exit_status(handle) -> int | None``: the wait status of one that somebody else has
  collected, where the kernel still tells it.
- ``plain_handle(pid, start)``: the same without a descriptor. A handle's ``alive()`` is false for zombies, and its
  ``send()`` says false for them; a process whose first thread has ended lives as long as another does.
- ``HAS_SUBREAPER``: whether orphans stay with us, however they got away (``posix.py``: what is missed where not).
- ``become_subreaper() -> bool``, ``is_subreaper() -> bool``: orphans below us re-parent to us (prctl(2)).
- ``set_pdeathsig(sig) -> bool``, ``set_name(name)``: prctl(2); no-ops where there is none.
- ``listeners(port) -> set[int]`` and ``sockets_of(pid) -> set[int] | None``: socket inodes, to tell whose port it is.
- ``SignalSource(numbers)``: blocked or handled signals with ``fileno()`` to poll, ``read() -> list[int]``, ``close()``,
  which leaves handlers and mask as they were.
- ``reopen(fd, flags) -> int``: an open file description of our own for somebody's terminal or pipe.
- ``tee(source, sink, length) -> int``: see a pipe's bytes without taking them (tee(2)); -1 where there is none.
- ``INBLOCK_UNIT``: bytes of storage in one of ``ru_inblock`` and ``ru_oublock`` (getrusage(2): Linux counts the bytes
of
  proc_pid_io(5) in these units); 0 where they count calls.
- ``MAXRSS_UNIT``: bytes in one unit of ``ru_maxrss`` (getrusage(2): kilobytes on Linux, bytes on macOS).
- ``oom_kills() -> int | None``: how often the kernel's out-of-memory killer has acted since boot.

Backends, best first: ``cgroup`` (a cgroup v2 group of our own), ``subreaper``, ``posix``
(session + run id + psutil). ``SAFESH_BACKEND`` forces one.
"""

from __future__ import annotations

import os
import sys

from safesh.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from safesh._platform.base import PlainHandle
    from safesh._platform.linux import Handle as PidfdHandle

    Handle = PidfdHandle | PlainHandle  # what open_handle gives
    Backend = Literal["cgroup", "subreaper", "posix"]

BACKENDS: tuple[Backend, ...] = ("cgroup", "subreaper", "posix")


def forced_backend() -> str:
    """``$SAFESH_BACKEND``, "" when unset; ConfigError when it names none."""
    name = os.environ.get("SAFESH_BACKEND", "")
    if name and name not in BACKENDS:
        raise ConfigError(
            f"{name!r} is no backend", place="SAFESH_BACKEND", hint="use cgroup, subreaper or posix, or unset it"
        )
    return name


if sys.platform == "linux" and forced_backend() != "posix":
    from safesh._platform.linux import (
        HAS_SUBREAPER,
        INBLOCK_UNIT,
        MAXRSS_UNIT,
        Info,
        SignalSource,
        become_subreaper,
        boot_id,
        child_opener,
        cmdline,
        descendants,
        environ,
        exit_status,
        info,
        io_bytes,
        is_subreaper,
        listeners,
        oom_kills,
        open_child,
        open_files,
        open_handle,
        open_paths,
        plain_handle,
        pss,
        reopen,
        scan,
        set_name,
        set_pdeathsig,
        sockets_of,
        start_time,
        tee,
    )
else:
    from safesh._platform.posix import (  # type: ignore[assignment]
        HAS_SUBREAPER,
        INBLOCK_UNIT,
        MAXRSS_UNIT,
        Info,
        SignalSource,
        become_subreaper,
        boot_id,
        child_opener,
        cmdline,
        descendants,
        environ,
        exit_status,
        info,
        io_bytes,
        is_subreaper,
        listeners,
        oom_kills,
        open_child,
        open_files,
        open_handle,
        open_paths,
        plain_handle,
        pss,
        reopen,
        scan,
        set_name,
        set_pdeathsig,
        sockets_of,
        start_time,
        tee,
    )

__all__ = [
    "BACKENDS",
    "HAS_SUBREAPER",
    "INBLOCK_UNIT",
    "MAXRSS_UNIT",
    "Info",
    "SignalSource",
    "become_subreaper",
    "boot_id",
    "child_opener",
    "cmdline",
    "descendants",
    "environ",
    "exit_status",
    "forced_backend",
    "info",
    "io_bytes",
    "is_subreaper",
    "listeners",
    "oom_kills",
    "open_child",
    "open_files",
    "open_handle",
    "open_paths",
    "plain_handle",
    "pss",
    "reopen",
    "scan",
    "set_name",
    "set_pdeathsig",
    "sockets_of",
    "start_time",
    "tee",
]
