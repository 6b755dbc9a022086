"""One scrape: from what was seen of the instances and of the system to samples.

The instances are looked at by the caller (this room stands beside ``instance``); what a look cannot tell is absent, and
a look that fails is counted, never raised.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from safesh import __version__
from safesh.clock import monotonic
from safesh.core.rotation import scan_parts
from safesh.metrics.exposition import INSTANCE, Series, labels_text
from safesh.metrics.model import GIB, MIB, SystemSnapshot, TreeUsage
from safesh.model import STATES

DEAD = "dead"  # nobody holds it, though nobody ended it in order: its pid file, its lock or its processes are left
_SHORTEST = 0.2  # seconds; over less the system's CPU share would be noise
_OF_RUN = (
    "safesh_instance_cpu_seconds_total",
    "safesh_instance_read_bytes_total",
    "safesh_instance_written_bytes_total",
)


@dataclass(slots=True, kw_only=True)
class Seen:
    """One instance at one moment.

    record: its status record, None where there is none or it cannot be used (``damaged``); code: LSB's status code;
    held: its supervisor or keeper lives; uptime: seconds; log: the log's path, "" where it has none.
    """

    project: str
    instance: str
    target: str
    code: int
    record: dict[str, Any] | None = None
    damaged: bool = False
    held: bool = False
    main_alive: bool = False
    ending: bool = False
    uptime: float | None = None
    strays: int = 0
    problems: int = 0
    log: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {"project": self.project, INSTANCE: self.instance, "target": self.target}

    @property
    def state(self) -> str | None:
        """One of ``STATES`` or ``DEAD``; None where nobody knows."""
        if self.damaged or self.code == 4:
            return None
        state = self.record["state"] if self.record is not None else ""
        if self.code == 0:
            return str(state) or "starting"
        if self.code == 3:
            return str(state) if state in ("finished", "failed") else "idle"
        return "stopping" if self.ending else DEAD

    @property
    def up(self) -> bool | None:
        """Whether the main process lives; None where the record that would name it cannot be used."""
        return None if self.code == 4 or (self.damaged and self.code != 3) else self.main_alive


class Monitor(Protocol):
    """What of ``ResourceMonitor`` is needed here."""

    def get_resource_snapshot(self) -> SystemSnapshot: ...

    def get_tree_resources(self, run: dict[str, Any], /) -> TreeUsage: ...


class Floors:
    """What a run's counters have been: a sum over living processes may fall when one vanishes, a counter must not."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, dict[str, float]]] = {}  # labels -> (when the run began, counters)

    def raise_to(self, labels: str, began: float, name: str, value: float) -> float:
        """``value``, or what was told before of the same run where that was more."""
        known = self._known.get(labels)
        if known is None or known[0] != began:
            known = self._known[labels] = (began, {})
        known[1][name] = value = max(value, known[1].get(name, 0.0))
        return value

    def forget_others(self, labels: Iterable[str]) -> None:
        """Keep only these."""
        kept = set(labels)
        self._known = {key: value for key, value in self._known.items() if key in kept}

    def learn(self, text: str) -> None:
        """Take over what an earlier scrape wrote, in our own spelling; other lines are passed over."""
        found: dict[str, dict[str, float]] = {}
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            if brace and (name in _OF_RUN or name == "safesh_instance_start_time_seconds"):
                try:
                    found.setdefault(brace + labels, {})[name] = float(value)
                except ValueError:
                    continue
        for labels, values in found.items():
            began = values.pop("safesh_instance_start_time_seconds", None)
            if began is not None:
                self._known[labels] = (began, values)


class Collector:
    """Makes the samples of one scrape after another; for several threads, which wait for each other."""

    def __init__(self, look: Callable[[], tuple[list[Seen], bool, int]], monitor: Monitor) -> None:
        """look: gives (instances, whether safe.toml could not be read, looks that failed)."""
        self._look = look
        self._monitor = monitor
        self._turn = threading.Lock()
        self._system: tuple[float, SystemSnapshot] | None = None
        self.floors = Floors()

    def prime(self) -> None:
        """Look at the system once, so that the next scrape knows what has been used since."""
        with self._turn:
            self._look_at_system()

    @property
    def settled_at(self) -> float:
        """Monotonic seconds from which on the system's rates mean something."""
        return self._system[0] + _SHORTEST if self._system is not None else 0.0

    def scrape(self) -> Series:
        """All samples, measured now."""
        with self._turn:
            began = monotonic()
            series = Series()
            python = ".".join(map(str, sys.version_info[:3]))
            series.add("safesh_build_info", {"version": __version__, "python": python}, 1)
            try:
                found, misread, failed = self._look()
            except Exception:
                found, misread, failed = [], False, 1
            else:
                series.add("safesh_instances", {}, len(found))
                series.add("safesh_config_errors", {}, misread)
            for seen in found:
                failed += self._tell_instance(series, seen)
            if found:
                self.floors.forget_others(labels_text(seen.labels) for seen in found)
            snapshot = self._look_at_system()
            if snapshot is None:
                failed += 1
            else:
                _tell_system(series, snapshot)
            series.add("safesh_scrape_errors", {}, failed)
            series.add("safesh_scrape_duration_seconds", {}, round(monotonic() - began, 6))
            return series

    def _look_at_system(self) -> SystemSnapshot | None:
        now = monotonic()
        if self._system is not None and now < self._system[0] + _SHORTEST:
            return self._system[1]
        try:
            snapshot = self._monitor.get_resource_snapshot()
        except Exception:  # the monitor's promise is not to raise; a scrape does not depend on it
            return None
        self._system = (now, snapshot)
        return snapshot

    def _tell_instance(self, series: Series, seen: Seen) -> int:
        """How many looks failed."""
        labels, state, record = seen.labels, seen.state, seen.record
        series.add("safesh_record_errors", labels, seen.damaged)
        series.add("safesh_strays", labels, seen.strays)
        series.add("safesh_instance_problems", labels, seen.problems)
        series.add("safesh_instance_up", labels, seen.up)
        if state is not None:
            for one in (*STATES, DEAD):
                series.add("safesh_instance_state", {**labels, "state": one}, one == state)
        series.add("safesh_instance_log_size_bytes", labels, _log_size(seen.log))
        if record is None:
            if state is not None and not seen.held:
                series.add("safesh_instance_processes", labels, 0)
            return 0
        series.add("safesh_instance_restarts_total", labels, record["restarts"])
        series.add("safesh_instance_log_lost_bytes_total", labels, record["log_lost_bytes"])
        status = (record.get("health") or {}).get("status")
        if seen.code == 0 and status:
            series.add("safesh_instance_healthy", labels, status == "healthy")
        if not seen.held:
            series.add("safesh_instance_processes", labels, 0)
            return 0
        if seen.main_alive:
            series.add("safesh_instance_uptime_seconds", labels, seen.uptime)
        try:
            usage = self._monitor.get_tree_resources(record)
        except Exception:
            return 1
        self._tell_tree(series, labels, record["started_at"], usage)
        return 0

    def _tell_tree(self, series: Series, labels: dict[str, str], began: float, usage: TreeUsage) -> None:
        series.add("safesh_instance_processes", labels, usage.processes)
        if not usage.processes:  # between two runs: what the last one used is no longer kept
            return
        series.add("safesh_instance_start_time_seconds", labels, began)
        series.add("safesh_instance_threads", labels, usage.threads)
        series.add("safesh_instance_open_fds", labels, usage.fds)
        series.add("safesh_instance_memory_bytes", labels, _scaled(usage.memory_mb, MIB))
        # The most that was seen in looks is no peak: between two of them nobody knows.
        kept = usage.sources.get("peak_memory_mb", "").startswith("cgroup")
        series.add("safesh_instance_peak_memory_bytes", labels, _scaled(usage.peak_memory_mb, MIB) if kept else None)
        counted = zip(_OF_RUN, (usage.cpu_seconds, usage.read_bytes, usage.write_bytes), strict=True)
        for name, value in counted:
            if value is not None:
                series.add(name, labels, self.floors.raise_to(labels_text(labels), began, name, float(value)))


def _scaled(value: float | None, factor: float) -> float | None:
    """In base units: whole bytes, or a ratio; None stays None."""
    if value is None:
        return None
    return round(value * factor) if factor > 1 else round(value * factor, 6)


def _tell_system(series: Series, now: SystemSnapshot) -> None:
    for name, value, factor in (
        ("cpu_usage_ratio", now.cpu_percent, 0.01),
        ("cpus", now.cpus, 1.0),
        ("memory_total_bytes", now.memory_total_mb, MIB),
        ("memory_available_bytes", now.memory_available_mb, MIB),
        ("swap_used_bytes", now.swap_used_mb, MIB),
        ("disk_used_ratio", now.disk_percent, 0.01),
        ("disk_free_bytes", now.disk_free_gb, GIB),
    ):
        series.add(f"safesh_system_{name}", {}, _scaled(value, factor))
    for minutes, load in zip((1, 5, 15), now.load or (), strict=False):
        series.add(f"safesh_system_load{minutes}", {}, load)
    for resource, values in (now.pressure or {}).items():
        for kind in ("some", "full"):
            labels = {"resource": resource, "kind": kind}
            series.add("safesh_system_pressure_ratio", labels, _scaled(values.get(f"{kind}_avg10"), 0.01))
    for card in now.gpus:
        labels = {"gpu": str(card.index), "name": card.name}
        series.add("safesh_gpu_utilization_ratio", labels, _scaled(card.utilization_percent, 0.01))
        series.add("safesh_gpu_memory_used_bytes", labels, _scaled(card.memory_used_mb, MIB))
        series.add("safesh_gpu_memory_total_bytes", labels, _scaled(card.memory_total_mb, MIB))


def _log_size(path: str) -> int | None:
    """Bytes of a log and its rotated parts; None where there is none."""
    if not path:
        return None
    try:
        files = [path, *(part for forms in scan_parts(path).values() for part in forms[:1])]
    except OSError:
        return None
    total = None
    for file in files:
        try:
            total = (total or 0) + os.lstat(file).st_size
        except OSError:  # not there yet, or rotated away meanwhile
            continue
    return total
