"""The system as one snapshot: each number from its best source, each failure a None with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from safesh._platform import groups
from safesh._platform import system as platform
from safesh.clock import monotonic, wall
from safesh.metrics import container
from safesh.metrics.model import GIB, MIB, SystemSnapshot

T = TypeVar("T")
OnEvent = Callable[[str, dict[str, Any]], None]

_LEAST = 0.01  # seconds between two looks below which a rate says nothing: a clock tick is as long


class Probes:
    """Asks, and turns a failure into None and one event."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self.failing: dict[str, str] = {}
        self._on_event = on_event

    def ask(self, name: str, question: Callable[[], T]) -> T | None:
        """The answer, None where it cannot be had."""
        try:
            answer = question()
        except Exception as error:  # whatever it is: looking must not end who looks
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if self.failing.get(name) is None:
                self._tell("probe_failed", {"probe": name, "reason": reason})
            self.failing[name] = reason
            return None
        if self.failing.pop(name, None) is not None:
            self._tell("probe_recovered", {"probe": name})
        return answer

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event, facts)
            except Exception:  # the listener's own trouble (a full disk under its log) is not ours
                pass


class Rate:
    """Counters turned into units a second."""

    def __init__(self) -> None:
        self._last: tuple[float, tuple[float, ...]] | None = None
        self._told: list[float] | None = None

    def count(self, now: float, *counters: float) -> list[float] | None:
        """What each has grown a second since the last call; None the first time, and after a reset of a counter.

        now: in the unit of the rate's time. Two calls in one clock tick give the same answer.
        """
        last = self._last
        if last is not None and 0 <= now - last[0] < _LEAST:
            return self._told
        self._last = (now, counters)
        self._told = None
        if last is not None and now > last[0] and all(new >= old for new, old in zip(counters, last[1], strict=True)):
            self._told = [(new - old) / (now - last[0]) for new, old in zip(counters, last[1], strict=True)]
        return self._told


class System:
    """Looks at the system again and again."""

    def __init__(self, disk_path: str, probes: Probes) -> None:
        self.disk_path = disk_path
        self.probes = probes
        self._network = Rate()
        self._disks = Rate()
        self._cpu = Rate()
        self._cpu_source = ""

    def look(self) -> SystemSnapshot:
        """A snapshot without graphics cards."""
        shot = SystemSnapshot(at=wall())
        ask = self.probes.ask
        ask("cpu", lambda: self._look_at_cpu(shot))
        ask("memory", lambda: self._look_at_memory(shot))
        ask("swap", lambda: self._look_at_swap(shot))
        ask("disk", lambda: self._look_at_disk(shot))
        ask("load", lambda: self._look_at_load(shot))
        ask("network", lambda: self._look_at_network(shot))
        ask("disk_io", lambda: self._look_at_disks(shot))
        ask("pressure", lambda: self._look_at_pressure(shot))
        shot.failed = dict(self.probes.failing)
        return shot

    def _look_at_cpu(self, shot: SystemSnapshot) -> None:
        cores = container.find_cores()
        shot.cpus = cores.count
        shot.sources["cpus"] = cores.source
        used = groups.cpu_seconds(cores.quota) if cores.quota is not None else None
        if used is not None and cores.quota is not None:
            # Under a quota the machine's idle time says nothing about ours.
            source, now, busy, whole = f"{cores.quota.source} cpu usage", monotonic(), used, cores.count
        else:
            told = platform.cpu_times()
            mine = [pair for number, pair in told.items() if cores.numbers is None or number in cores.numbers]
            mine = mine or list(told.values())
            source = platform.SOURCES["cpu_times"]
            if len(mine) < len(told):
                source += f" ({len(mine)} of {len(told)} processors)"
            now, busy, whole = sum(one[1] for one in mine), sum(one[0] for one in mine), 1.0
        if source != self._cpu_source:
            self._cpu, self._cpu_source = Rate(), source
        rates = self._cpu.count(now, busy)
        if rates is not None:
            shot.cpu_percent = min(100.0, 100.0 * rates[0] / whole)
            shot.sources["cpu_percent"] = source

    def _look_at_memory(self, shot: SystemSnapshot) -> None:
        room = container.find_memory()
        shot.memory_total_mb = room.total / MIB
        shot.memory_available_mb = room.available / MIB
        shot.memory_percent = 100.0 * (room.total - room.available) / room.total if room.total else None
        shot.sources.update(dict.fromkeys(("memory_total_mb", "memory_available_mb", "memory_percent"), room.source))

    def _look_at_swap(self, shot: SystemSnapshot) -> None:
        total, used = platform.swap()
        source = platform.SOURCES["swap"]
        for limit, group_used, name in groups.swap_limits():
            if limit < total:
                total, used, source = limit, group_used, name
        shot.swap_used_mb = used / MIB
        shot.swap_percent = 100.0 * used / total if total else 0.0
        shot.sources.update(swap_used_mb=source, swap_percent=source)

    def _look_at_disk(self, shot: SystemSnapshot) -> None:
        told = os.statvfs(self.disk_path)
        used = told.f_blocks - told.f_bfree
        usable = used + told.f_bavail  # without what is kept for root, as df(1) counts
        shot.disk_percent = 100.0 * used / usable if usable else None
        shot.disk_free_gb = told.f_bavail * told.f_frsize / GIB
        source = f"statvfs {self.disk_path}"
        shot.sources.update(disk_percent=source, disk_free_gb=source)

    def _look_at_load(self, shot: SystemSnapshot) -> None:
        shot.load = os.getloadavg()
        shot.sources["load"] = "getloadavg"

    def _look_at_network(self, shot: SystemSnapshot) -> None:
        received, sent, source = platform.network()
        rates = self._network.count(monotonic(), received, sent)
        if rates is not None:
            shot.network_rx_bytes_s, shot.network_tx_bytes_s = rates
            shot.sources.update(network_rx_bytes_s=source, network_tx_bytes_s=source)

    def _look_at_disks(self, shot: SystemSnapshot) -> None:
        read, written, source = platform.disks()
        rates = self._disks.count(monotonic(), read, written)
        if rates is not None:
            shot.disk_read_bytes_s, shot.disk_write_bytes_s = rates
            shot.sources.update(disk_read_bytes_s=source, disk_write_bytes_s=source)

    def _look_at_pressure(self, shot: SystemSnapshot) -> None:
        shot.pressure = platform.pressure()
        if shot.pressure is not None:
            shot.sources["pressure"] = platform.SOURCES["pressure"]
