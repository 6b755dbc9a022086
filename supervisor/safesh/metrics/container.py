"""What a process may have: the least of the machine, the control groups above it, and its own resource limits."""

from __future__ import annotations

import os
from dataclasses import dataclass

from safesh._platform import groups
from safesh._platform import system as platform
from safesh.metrics.model import Plain


@dataclass(slots=True, kw_only=True)
class Room(Plain):
    """Memory that may be used, in bytes: all of it, what is left, and what sets the limit."""

    total: int
    available: int
    source: str


@dataclass(slots=True, kw_only=True)
class Cores(Plain):
    """Processors that may be used. count: cores, a fraction under a quota; numbers: which, None for all;
    quota: the group whose quota is the least, where that is what limits."""

    count: float
    source: str
    numbers: set[int] | None = None
    quota: groups.Place | None = None


def find_memory(pid: int | None = None) -> Room:
    """pid: whose (None: ours). What is left is the least of what the machine and each limit leave.

    OSError or ValueError where not even the machine's memory is told.
    """
    whose = os.getpid() if pid is None else pid
    total, available = platform.memory()
    source = platform.SOURCES["memory"]
    for limit, held, name in groups.memory_limits("self" if pid is None else pid):
        available = min(available, max(0, limit - held))
        if limit < total:
            total, source = limit, name
    # RLIMIT_RSS has had no effect since Linux 2.4.30 (getrlimit(2)); what is enforced is the address space.
    limited = platform.rlimit(whose, "RLIMIT_AS")
    if limited is not None:
        available = min(available, max(0, limited - (platform.address_space(whose) or 0)))
        if limited < total:
            total, source = limited, "RLIMIT_AS"
    return Room(total=total, available=min(available, total), source=source)


def find_cores(pid: int | None = None) -> Cores:
    """pid: whose (None: ours)."""
    whose: int | str = "self" if pid is None else pid
    found = Cores(count=float(os.cpu_count() or 1), source="processors online")
    allowed = platform.affinity(os.getpid() if pid is None else pid)
    if allowed and len(allowed) < found.count:
        found = Cores(count=float(len(allowed)), source="sched_getaffinity", numbers=allowed)
    told = groups.cpu_set(whose)
    if told is not None and len(told[0]) <= found.count and (found.numbers is not None or len(told[0]) < found.count):
        # The affinity follows the set, so both say the same where nobody narrowed the affinity further.
        found = Cores(count=float(len(told[0])), source=told[1], numbers=told[0])
    for quota, place, source in groups.cpu_quotas(whose):
        if quota < found.count:
            found = Cores(count=quota, source=source, numbers=found.numbers, quota=place)
    return found


def find_limits(pid: int) -> dict[str, dict[str, float | str]]:
    """What one process may have: ``{"memory_mb": {"limit", "source"}, "cpus": ..., "open_files": ..., "processes"}``.

    Memory and cores without a limit of their own are told as the machine's; unlimited rlimits are left out. Empty for a
    process that is gone.
    """
    found: dict[str, dict[str, float | str]] = {}
    if platform.address_space(pid) is None:
        return found
    try:
        room = find_memory(pid)
        found["memory_mb"] = {"limit": room.total / (1024 * 1024), "source": room.source}
    except (OSError, ValueError):
        pass
    cores = find_cores(pid)
    found["cpus"] = {"limit": cores.count, "source": cores.source}
    for name, which in (("open_files", "RLIMIT_NOFILE"), ("processes", "RLIMIT_NPROC"), ("cpu_seconds", "RLIMIT_CPU")):
        soft = platform.rlimit(pid, which)
        if soft is not None:
            found[name] = {"limit": float(soft), "source": which}
    return found
