"""``ResourceMonitor``: one object that is asked how the system, a process or a tree is.

It keeps what rates are counted from, so two questions some time apart to the *same* monitor give rates. A probe that
fails gives None and one event, however often it fails again; nothing here raises for what it looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from safesh import _platform
from safesh.clock import monotonic, wall
from safesh.core.contain import open_group
from safesh.metrics import container
from safesh.metrics.gpu import Gpus
from safesh.metrics.model import MIB, ProcessUsage, SystemSnapshot, TreeUsage
from safesh.metrics.processes import ProcessTable, Select, add_exact
from safesh.metrics.system import OnEvent, Probes, Rate, System
from safesh.metrics.tree import Reading, TreeWatch, exact_bytes

__all__ = ["OnEvent", "ResourceMonitor"]

_MOST_TREES = 64  # remembered at once


class _Known:
    """What is kept of one tree between two looks."""

    def __init__(self, watch: TreeWatch) -> None:
        self.watch = watch
        self.rate = Rate()
        self.peak = 0
        self.looks = 0


class ResourceMonitor:
    """Looks at the system, processes and trees. Not for several threads at once: give each its own."""

    def __init__(self, disk_path: str = "/", gpu: bool = True, on_event: OnEvent | None = None) -> None:
        """disk_path: whose file system counts as the disk; gpu: whether graphics cards are asked; on_event: called with
        ``"probe_failed"`` and ``{"probe", "reason"}`` once when a probe begins to fail, and with
        ``"probe_recovered"`` and ``{"probe"}`` when it answers again."""
        self.probes = Probes(on_event)
        self._system = System(disk_path, self.probes)
        self._gpus = Gpus() if gpu else None
        self._table = ProcessTable()
        self._single = ProcessTable()
        self._trees: dict[tuple[Any, ...], _Known] = {}

    def get_resource_snapshot(self) -> SystemSnapshot:
        """The system now. Rates (CPU, network, disk) are None the first time."""
        shot = self._system.look()
        if self._gpus is not None:
            shot.gpus = self.probes.ask("gpu", self._gpus.look) or []
            if shot.gpus:
                shot.sources["gpus"] = "NVML"
        shot.failed = dict(self.probes.failing)
        return shot

    def get_process_resources(self, pid: int, exact: bool = False) -> ProcessUsage | None:
        """One process; None when it is gone. exact: PSS and USS too, at some milliseconds for each GiB."""
        return self.probes.ask("process", lambda: self._single.look_at(pid, exact))

    def get_process_limits(self, pid: int) -> dict[str, dict[str, float | str]]:
        """What a process may have at most, and what says so: see ``container.find_limits``."""
        return self.probes.ask("limits", lambda: container.find_limits(pid)) or {}

    def get_tree_resources(self, run: Mapping[str, Any] | int, exact: bool = False, members: bool = False) -> TreeUsage:
        """One tree. run: a run's record or status (as in ``<instance>.json``), or the pid of a root, itself counted in.

        exact: memory as PSS where no control group counts it; members: list them too. A run that nobody holds any more
        gives what its record says of its end, without processes.
        """
        usage = self.probes.ask("tree", lambda: self._look_at_tree(run, exact, members))
        if usage is None:
            usage = TreeUsage(at=wall(), run_id="" if isinstance(run, int) else str(run.get("run_id") or ""))
        return usage

    def processes(
        self,
        select: Select | None = None,
        *,
        pids: Iterable[int] | None = None,
        exact: bool = False,
        details: bool = True,
    ) -> list[ProcessUsage]:
        """All visible processes, or ``pids``, for tables, by pid; cpu_percent since the last call, by (pid, start).

        details: command line, descriptors and I/O too, else only what one read tells. select: called with the cheap
        part (name and command line are there); what it refuses is not asked further. exact: PSS and USS too, dear.
        """
        table = self._table
        return self.probes.ask(
            "processes", lambda: table.look_at_all(select, pids=pids, exact=exact, details=details)
        ) or []  # fmt: skip

    def gpu_reason(self) -> str:
        """Why no graphics card is told of ("" where one is), for ``doctor``."""
        if self._gpus is None:
            return "not asked for"
        self.probes.ask("gpu", self._gpus.look)
        return self._gpus.reason

    def close(self) -> None:
        """Let go of what is held open: the driver's library, handles of processes."""
        if self._gpus is not None:
            self._gpus.close()
        for known in self._trees.values():
            known.watch.close()
        self._trees.clear()

    # ---- trees

    def _look_at_tree(self, run: Mapping[str, Any] | int, exact: bool, members: bool) -> TreeUsage | None:
        run_id = "" if isinstance(run, int) else str(run.get("run_id") or "")
        known = self._know(run, run_id)
        reading = known.watch.look() if known is not None else None
        if known is None or reading is None:
            return None if isinstance(run, int) else _at_its_end(run, run_id)
        usage = TreeUsage(run_id=run_id, at=wall(), sources=dict(reading.sources))
        self._fill(usage, known, reading, exact)
        if members:
            usage.members = self._list(reading, exact)
        return usage

    def _fill(self, usage: TreeUsage, known: _Known, reading: Reading, exact: bool) -> None:
        sources = usage.sources
        usage.processes = len(reading.members)
        usage.cpu_seconds = reading.cpu_seconds
        rates = known.rate.count(monotonic(), reading.cpu_seconds)
        if rates is not None:
            usage.cpu_percent = 100.0 * rates[0]
        usage.threads, usage.fds = reading.threads, reading.fds
        usage.read_bytes, usage.write_bytes = reading.read_bytes, reading.write_bytes
        if reading.held is not None:
            held, sources["memory_mb"] = reading.held, sources.pop("memory")
        elif exact:
            held, sources["memory_mb"] = exact_bytes(reading.members), "PSS of each member"
        else:
            held = reading.resident
            sources["memory_mb"] = "resident memory of each member, so what they share is counted often"
        usage.memory_mb = held / MIB
        known.peak = max(known.peak, held)
        known.looks += 1
        if reading.peak is not None:
            usage.peak_memory_mb, sources["peak_memory_mb"] = reading.peak / MIB, sources.pop("peak")
        else:
            looks = f"{known.looks} look{'s' if known.looks > 1 else ''}"
            usage.peak_memory_mb, sources["peak_memory_mb"] = known.peak / MIB, f"the most seen in {looks}"

    def _list(self, reading: Reading, exact: bool) -> list[ProcessUsage]:
        found = []
        for info in sorted(reading.members, key=lambda one: one.pid):
            usage = self._single.look_at_info(info)
            if exact:
                add_exact(usage)
            found.append(usage)
        return found

    def _know(self, run: Mapping[str, Any] | int, run_id: str) -> _Known | None:
        """The watch over this tree, made when it is first asked for; None where nobody of it can live."""
        root: tuple[int, int] | None
        main: tuple[int, int] | None = None
        group, keeper = None, False
        if isinstance(run, int):
            start = _platform.start_time(run)
            root = None if start is None else (run, start)
        else:
            main, held_by = _living(run.get("main")), _living(run.get("keeper"))
            group = open_group(str(run.get("cgroup") or ""))
            # A keeper that is gone has left the tree to its supervisor, which is ending it.
            root, keeper = (held_by, True) if held_by is not None else (main, False)
        if root is None:
            return None
        key = (run_id, root, keeper, group.path if group is not None else "")
        known = self._trees.pop(key, None)
        if known is None:
            known = _Known(TreeWatch(root[0], keeper=keeper, main=main, group=group))
        self._trees[key] = known
        while len(self._trees) > _MOST_TREES:  # the one that nobody has asked for the longest time goes first
            self._trees.pop(next(iter(self._trees))).watch.close()
        return known


def _living(identity: object) -> tuple[int, int] | None:
    """(pid, start) of an identity as records hold it; None unless exactly that process is there."""
    if not isinstance(identity, Mapping):
        return None
    pid, start, boot = identity.get("pid"), identity.get("start"), identity.get("boot")
    if not isinstance(pid, int) or not isinstance(start, int) or boot != _platform.boot_id():
        return None
    return (pid, start) if _platform.start_time(pid) == start else None


def _at_its_end(run: Mapping[str, Any], run_id: str) -> TreeUsage:
    """What the record keeps of a run that is over: the main process and whom it waited for."""
    usage = TreeUsage(run_id=run_id, at=wall())
    end, totals = run.get("last_exit"), run.get("usage")
    if isinstance(totals, Mapping) and totals.get("user_seconds") is not None:
        usage.cpu_seconds = float(totals["user_seconds"]) + float(totals.get("system_seconds") or 0.0)
        usage.sources["cpu_seconds"] = "its keeper's account of the whole tree"
        usage.read_bytes, usage.write_bytes = totals.get("read_bytes"), totals.get("write_bytes")
        if totals.get("peak_memory_bytes"):
            usage.peak_memory_mb = totals["peak_memory_bytes"] / MIB
            usage.sources["peak_memory_mb"] = (
                "the tree's"
                if totals.get("peak_memory_of") == "tree"
                else "rusage: the most that one process had resident"
            )
    elif isinstance(end, Mapping):
        usage.cpu_seconds = float(end.get("user_seconds") or 0.0) + float(end.get("system_seconds") or 0.0)
        usage.sources["cpu_seconds"] = "rusage of the main process at its end, with those it waited for"
        peak = end.get("peak_memory_bytes")
        if isinstance(peak, (int, float)) and peak > 0:
            usage.peak_memory_mb = peak / MIB
            usage.sources["peak_memory_mb"] = "rusage: the most that one process had resident"
    return usage
