"""Portable: the machine's and the processes' numbers as psutil tells them (see ``system.py`` for the contract)."""

from __future__ import annotations

import os

from safesh._platform import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh._platform.base import Info

SOURCES = dict.fromkeys(("cpu_times", "memory", "swap", "network", "disks", "pressure"), "psutil")
_LOOPBACK = ("lo", "lo0")


def cpu_times() -> dict[int, tuple[float, float]]:
    found = {}
    for number, one in enumerate(posix._load().cpu_times(percpu=True)):
        told = one._asdict()
        # Guest time is in user time already, on the one system that tells it.
        total = sum(told.values()) - told.get("guest", 0.0) - told.get("guest_nice", 0.0)
        found[number] = (total - told.get("idle", 0.0) - told.get("iowait", 0.0), total)
    return found


def memory() -> tuple[int, int]:
    told = posix._load().virtual_memory()
    return int(told.total), int(told.available)


def swap() -> tuple[int, int]:
    import warnings

    with warnings.catch_warnings():  # psutil warns where paging is not told, which nobody asked for
        warnings.simplefilter("ignore")
        told = posix._load().swap_memory()
    return int(told.total), int(told.used)


def network() -> tuple[int, int, str]:
    told = posix._load().net_io_counters(pernic=True)
    mine = {name: one for name, one in told.items() if name not in _LOOPBACK}
    received = sum(one.bytes_recv for one in mine.values())
    return received, sum(one.bytes_sent for one in mine.values()), f"psutil ({', '.join(sorted(mine))})"


def disks() -> tuple[int, int, str]:
    told = posix._load().disk_io_counters()
    if told is None:
        raise OSError("psutil knows of no disk")
    return int(told.read_bytes), int(told.write_bytes), "psutil"


def pressure() -> dict[str, dict[str, float]] | None:
    """None: nobody keeps it."""
    return None


def visible() -> dict[int, Info]:
    found = {}
    for pid in posix._load().pids():
        one = posix.info(pid)
        if one is not None:
            found[pid] = one
    return found


def complete(info: Info) -> None:
    """Nothing to add: ``info`` told it."""


def _ask(pid: int, question: str) -> Any:
    psutil = posix._load()
    try:
        return getattr(psutil.Process(pid), question)()
    except (psutil.Error, AttributeError, OSError, ValueError):
        return None


def disk_io(pid: int, alone: bool = False) -> tuple[int, int] | None:
    """None on macOS, where psutil does not tell, and for a process without those it waited for."""
    told = None if alone else _ask(pid, "io_counters")
    return None if told is None else (int(told.read_bytes), int(told.write_bytes))


def exact_memory(pid: int) -> tuple[int, int] | None:
    """Where the system has no PSS (macOS), USS stands for it."""
    told = _ask(pid, "memory_full_info")
    if told is None:
        return None
    uss = int(getattr(told, "uss", 0))
    return int(getattr(told, "pss", uss)), uss


def address_space(pid: int) -> int | None:
    told = _ask(pid, "memory_info")
    return None if told is None else int(told.vms)


def rlimit(pid: int, name: str) -> int | None:
    """getrlimit(2) for ourselves, prlimit(2) for others where there is one."""
    import resource

    which = getattr(resource, name, None)
    if which is None:
        return None
    try:
        if pid in (0, os.getpid()):
            soft = resource.getrlimit(which)[0]
        elif hasattr(resource, "prlimit"):
            soft = resource.prlimit(pid, which)[0]
        else:
            return None
    except (OSError, ValueError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def affinity(pid: int) -> set[int] | None:
    """sched_getaffinity(2); None where there is none (macOS) or the process is gone."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        return os.sched_getaffinity(0 if pid == os.getpid() else pid)
    except OSError:
        return None
