"""What a mission uses, written down. Nothing here ever raises: a mission does not fail because of who watches it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from safesh.clock import monotonic
from safesh.mission import store

if TYPE_CHECKING:
    from safesh.metrics.history import History
    from safesh.metrics.jsonlog import ResourceLog
    from safesh.metrics.monitor import ResourceMonitor
    from safesh.metrics.sampler import Sample
    from safesh.mission.result import MissionResult

T = TypeVar("T")

LOG_NAME = "missions.jsonl"
_LOOK_SECONDS = 0.2  # between two looks: how busy processors are shows over time only
_RECENT = 10.0  # seconds for which the look before serves as the first of the two


class Machine:
    """The system, looked at for all missions of a runner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a ResourceMonitor is for one thread at a time
        self._monitor: ResourceMonitor | None = None
        self._looked_at = float("-inf")

    def look(self, wait: Callable[[float], None] | None) -> dict[str, Any]:
        """The system now. Raises what the looking raises. wait: sleeps, so that rates are known; None: as it is."""
        with self._lock:
            if self._monitor is None:
                from safesh.metrics.monitor import ResourceMonitor

                self._monitor = ResourceMonitor(disk_path=store.folder())
            age = monotonic() - self._looked_at
            if wait is not None and age > _RECENT:
                self._monitor.get_resource_snapshot()
                age = 0.0
            if wait is not None and age < _LOOK_SECONDS:
                wait(_LOOK_SECONDS - age)
            snapshot = self._monitor.get_resource_snapshot().to_dict()
            self._looked_at = monotonic()
            return snapshot

    def close(self) -> None:
        with self._lock:
            if self._monitor is not None:
                self._monitor.close()
                self._monitor = None


class Recorder:
    """The log and the history of one mission. problems: what went wrong, each kind once."""

    def __init__(
        self, open_log: Callable[[], ResourceLog | None], open_history: Callable[[], History | None], **fields: Any
    ) -> None:
        self.problems: list[str] = []
        self._told: set[str] = set()
        self._fields = fields
        self._run_id = ""
        self._early: list[Sample] = []
        self._lock = threading.Lock()
        self._log = self.attempt("log", open_log)
        self.history = self.attempt("history", open_history)

    def attempt(self, what: str, call: Callable[[], T]) -> T | None:
        """The answer, or None and a note."""
        try:
            return call()
        except Exception as error:
            self.tell(what, f"{what}: {str(error) or type(error).__name__}")
            return None

    def tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.problems.append(text)

    def write(self, message: str, *, level: str = "info", **metrics: Any) -> None:
        log = self._log
        if log is not None:
            fields = {**self._fields, "run_id": self._run_id or None}
            self.attempt("log", lambda: log.bind(**fields).write(message, level=level, **metrics))

    def on_run(self, run_id: str, initial: dict[str, Any] | None) -> None:
        """It runs, and has its id: what was seen before goes into the log now, in order."""
        with self._lock:
            self._run_id = run_id
            self.write("resources_initial", **(initial or {}))
            for sample in self._early:
                self._write_sample(sample)
            self._early.clear()

    def on_sample(self, sample: Sample) -> None:
        with self._lock:
            if not self._run_id:
                self._early.append(sample)
                return
        self._write_sample(sample)

    def on_event(self, event: str, fields: dict[str, Any]) -> None:
        """What the process API tells of the run."""
        if event == "monitoring_failed":
            self.tell("sampler", f"sampler: {fields.get('error')}")
        elif event == "process_limit_warning":
            told = {name: fields.get(name) for name in ("limit", "used", "most")}
            self.write("limit_warning", level="warning", **told)

    def _write_sample(self, sample: Sample) -> None:
        if sample.failed:
            self.tell("sample", f"sample: {sample.failed}")
        self.write("process_resources", **{name: value for name, value in sample.to_dict().items() if name != "at"})

    def note_run(self, result: MissionResult, mission_type: str, started_at: float, samples: list[Sample]) -> None:
        """The run's line in the history."""
        history = self.history
        if history is None:
            return
        usage = result.usage
        run = {
            "run_id": result.run_id, "target": result.mission_id, "instance": result.mission_id,
            "mission_id": result.mission_id, "mission_type": mission_type, "started_at": started_at,
            "duration": result.execution_time, "ended_at": started_at + (result.execution_time or 0.0),
            "exit_code": result.return_code if not result.signal else -1, "signal": result.signal,
            "cause": result.reason or "exited with code 0", "state": "finished" if result.success else "failed",
            "cpu_seconds": usage.cpu_seconds, "user_seconds": usage.user_seconds,
            "system_seconds": usage.system_seconds, "peak_memory_bytes": usage.peak_memory_bytes,
            "read_bytes": usage.read_bytes, "write_bytes": usage.write_bytes,
            "max_processes": max((one.processes for one in samples), default=None),
        }  # fmt: skip
        self.attempt("history", lambda: history.add_run(run))
        if samples:
            self.attempt("history", lambda: history.add_samples(result.run_id, result.mission_id, samples))


def default_log() -> str:
    """The log's path where none is named."""
    return os.path.join(store.folder(), LOG_NAME)
