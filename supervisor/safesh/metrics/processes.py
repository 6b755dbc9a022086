"""Processes for tables: one direct read each, CPU percent from call to call, the rest only where asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from safesh import _platform
from safesh._platform import Info
from safesh._platform import system as platform
from safesh.clock import monotonic, wall
from safesh.metrics.model import MIB, ProcessUsage
from safesh.metrics.system import Rate

_MOST_KNOWN = 10_000

Select = Callable[[ProcessUsage], bool]


class ProcessTable:
    """Remembers each process's CPU time by pid and start, so that a reused pid is never given another's rate."""

    def __init__(self) -> None:
        self._rates: dict[tuple[int, int], Rate] = {}

    def look_at_all(
        self,
        select: Select | None = None,
        *,
        pids: Iterable[int] | None = None,
        exact: bool = False,
        details: bool = True,
    ) -> list[ProcessUsage]:
        """See ``ResourceMonitor.processes``."""
        if pids is None:
            known = platform.visible()
        else:
            known = {one.pid: one for one in map(_platform.info, pids) if one is not None}
        found = []
        # Who is not looked at this time starts anew the next time: a rate over a gap would not be that of the table.
        rates, self._rates = self._rates, {}
        for pid in sorted(known):
            info = known[pid]
            key = (pid, info.start)
            self._rates[key] = rates.get(key) or Rate()
            usage = self.describe(info, command=details or select is not None)
            if select is not None and not select(usage):
                continue
            if details:
                self.add_details(usage)
            if exact:
                add_exact(usage)
            found.append(usage)
        return found

    def look_at(self, pid: int, exact: bool = False) -> ProcessUsage | None:
        """One process, None when it is gone."""
        info = _platform.info(pid)
        if info is None:
            for key in [key for key in self._rates if key[0] == pid]:
                del self._rates[key]
            return None
        usage = self.look_at_info(info)
        if exact:
            add_exact(usage)
        return usage

    def look_at_info(self, info: Info) -> ProcessUsage:
        """One process of which the first read has been made."""
        key = (info.pid, info.start)
        self._rates[key] = self._rates.pop(key) if key in self._rates else Rate()
        while len(self._rates) > _MOST_KNOWN:  # who has not been asked for the longest time
            del self._rates[next(iter(self._rates))]
        usage = self.describe(info, command=True)
        self.add_details(usage)
        return usage

    def describe(self, info: Info, *, command: bool) -> ProcessUsage:
        """What one read has told, and the command line where wanted."""
        platform.complete(info)
        rate = self._rates.get((info.pid, info.start))
        busy = rate.count(monotonic(), info.cpu_seconds) if rate is not None else None
        return ProcessUsage(
            pid=info.pid,
            start=info.start,
            ppid=info.ppid,
            name=info.command,
            command=(" ".join(_platform.cmdline(info.pid)) if command else "") or f"[{info.command}]",
            cpu_percent=None if busy is None else 100.0 * busy[0],
            cpu_seconds=info.cpu_seconds,
            memory_mb=info.memory_bytes / MIB,
            num_threads=info.threads,
            state=info.state,
            started_at=info.started_at,
            runtime_seconds=max(0.0, wall() - info.started_at),
            uid=info.uid,
        )

    def add_details(self, usage: ProcessUsage) -> None:
        """Descriptors and I/O; what ended meanwhile, or is closed to us, has None there."""
        usage.fds = _platform.open_files(usage.pid)
        pair = platform.disk_io(usage.pid)
        if pair is not None:
            usage.read_bytes, usage.write_bytes = pair


def add_exact(usage: ProcessUsage) -> None:
    """PSS and USS."""
    pair = platform.exact_memory(usage.pid)
    if pair is not None:
        usage.pss_mb, usage.uss_mb = pair[0] / MIB, pair[1] / MIB


def own_lineage() -> set[int]:
    """Us and everybody above us: what a table of other people's processes may want to leave out."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        info = _platform.info(pid)
        pid = info.ppid if info is not None else 0
    return found
