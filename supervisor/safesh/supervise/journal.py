"""What a supervisor leaves in writing: its record, and its lines in the event log."""

from __future__ import annotations

from safesh.clock import monotonic, wall
from safesh.config import fingerprint
from safesh.core.contain import choose_backend
from safesh.errors import SafeshError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.supervise.events import EventLog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safesh.model import TargetSpec
    from safesh.paths import InstancePaths
    from safesh.supervise.run import LiveRun

_AGAIN = 0.05  # seconds after which the same record is written again, were it only because somebody removed it


class Journal:
    """The record as a dict that is saved whole, and the events of one instance."""

    def __init__(self, spec: TargetSpec, paths: InstancePaths, mode: str) -> None:
        self.paths = paths
        self.log = EventLog(paths.events, spec.instance)
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []  # told of every event, once it is written
        self._told_loss = False
        self._saved = (0.0, "")  # when (monotonic seconds), and what
        now = wall()
        self.record: dict[str, Any] = {
            "project": spec.project,
            "instance": spec.instance,
            "target": spec.name,
            "state": "idle",
            "config": spec.config,
            "mode": mode,
            "backend": choose_backend()[0],
            "cgroup": "",
            "run_id": "",
            "supervisor": locks.own_identity(),
            "keeper": None,
            "main": None,
            "command": spec.command,
            "cwd": spec.cwd,
            "lock_file": paths.lock,  # for those who come when safe.toml has changed or is gone
            "pid_file": paths.pid,
            "log": paths.log(spec.name),
            "log_lost_bytes": 0,
            "grace": spec.stop.grace,
            "supervised_since": now,
            "since": now,
            "started_at": 0.0,
            "restarts": 0,
            "next_start_at": None,
            "last_exit": None,
            "last_verdict": None,
            "message": "",
            "fingerprint": fingerprint(spec),
        }

    def set_target(self, spec: TargetSpec) -> None:
        """A restart may bring another spec into the same instance."""
        self.record |= {"target": spec.name, "command": spec.command, "cwd": spec.cwd, "config": spec.config}
        self.record |= {"log": self.paths.log(spec.name), "grace": spec.stop.grace}
        self.record["fingerprint"] = fingerprint(spec)

    def save(self) -> None:
        """Write the record; a full disk costs an event, not the run.

        What was written a moment ago is not written once more: one step of the machine may lead at once to the next.
        """
        text = records.text_of(self.record)
        now = monotonic()
        if text == self._saved[1] and now - self._saved[0] < _AGAIN:
            return
        try:
            records.write_text(self.paths, text)
            self._saved = (now, text)
        except SafeshError as error:
            self.event("record_failed", message=str(error))

    def note_run(self, run: LiveRun, state: str, cause: str, seen: dict[str, Any]) -> None:
        """Keep the totals of a run that is over: in the record, and in the project's history.

        state: ``finished`` or ``failed``; seen: what samples add, ``peak_memory_bytes`` and ``max_processes``. Never
        raises and never waits: where nothing can be kept (a full disk), that costs an event, once.
        """
        record, used, end = self.record, run.usage or {}, run.exit
        peak, counted = seen.get("peak_memory_bytes", 0), used.get("peak_memory_bytes", 0)
        if not peak or counted > used.get("peak_memory_floor_bytes", 0):  # below its floor it says less than samples do
            peak = max(peak, counted)
        totals: dict[str, Any] = {
            name: used.get(name) for name in ("user_seconds", "system_seconds", "read_bytes", "write_bytes")
        }
        totals |= {"peak_memory_bytes": peak or None, "max_processes": seen.get("max_processes")}
        whose = "tree" if seen else used.get("peak_memory_of")
        record["usage"] = {"run_id": run.run_id, **totals, "peak_memory_of": whose}
        try:
            from safesh.metrics import spool

            kept = spool.note_run(
                self.paths.folder,
                {
                    **{name: record[name] for name in ("target", "instance", "project", "restarts", "started_at")},
                    **totals,
                    "run_id": run.run_id,
                    "ended_at": wall(),
                    "duration": round(max(0.0, monotonic() - run.began), 3),
                    "exit_code": end.code if end is not None else None,
                    "signal": end.signal if end is not None else None,
                    "cause": cause,
                    "state": state,
                },
            )
        except Exception:  # whatever it is, an end goes on
            kept = False
        if not kept and not self._told_loss:
            self.event("history_failed", message="the totals of this run could not be kept in the history")
        self._told_loss = not kept

    def event(self, name: str, /, **details: Any) -> None:
        """One line in events.jsonl, about the run under way."""
        self.log.write(name, self.record["target"], self.record["run_id"], **details)
        for listener in self.listeners:
            listener(name, details)
