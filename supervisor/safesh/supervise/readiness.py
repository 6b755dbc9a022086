"""Readiness: a run is starting until its probe says that it serves, and has failed when it takes too long."""

from __future__ import annotations

from safesh.clock import format_duration, monotonic
from safesh.supervise.prober import Prober

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.supervise.notify_socket import NotifySocket
    from safesh.supervise.probes import Result
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor

_NOT_YET = "not ready yet"
_GATHER = 0.02  # seconds in which lines of output are looked at together


class Readiness(Prober):
    """Feeds ``ready`` once, or condemns the run after ``ready.within`` seconds."""

    def __init__(self, supervisor: Supervisor, run: LiveRun, notify: NotifySocket | None) -> None:
        """StateError when the log cannot be read; made before the run writes its first line."""
        spec = supervisor.spec
        super().__init__(supervisor, run, spec.ready)
        self._within = spec.ready.within
        self._deadline: float | None = None
        self._began = 0.0
        self._log = spec.ready.kind == "log"
        if self._log:
            from safesh.supervise.probe_log import LogScan

            self.context.log_scan = LogScan(supervisor.record["log"])
        if notify is not None and spec.ready.notify:
            notify.on_ready = self._on_ready
            notify.on_extend = self._extend

    def on_event(self, event: str) -> None:
        if event == "spawned" and self.supervisor.state == "starting":
            self._began = monotonic()
            self._deadline = self._began + self._within
            if not self.probe.notify:
                self.start_at(self._began)
            self.plan()
        elif event == "exited" and self.supervisor.record["message"].startswith(_NOT_YET):
            self.supervisor.record["message"] = ""  # how it ended says more
        super().on_event(event)

    def on_output(self) -> None:
        if self._log and self._deadline is not None:
            self.start_at(min(self._next or float("inf"), monotonic() + _GATHER))

    def plan(self) -> None:
        super().plan()
        if self._deadline is not None:
            self.due = self._deadline if self.due is None else min(self.due, self._deadline)

    def tick(self) -> None:
        if self._deadline is not None and monotonic() >= self._deadline:
            reason = self.last.message if self.last is not None else ""
            if self.probe.notify:
                reason = "READY=1 has not come by $NOTIFY_SOCKET"
            self.quit()
            self.supervisor.condemn(
                "policy",
                f"not ready within {format_duration(self._within)}: {reason or 'no check has ended'}",
                event="not_ready",
            )
            return
        super().tick()

    def judge(self, result: Result) -> None:
        if result.ok:
            self._on_ready()
        elif self._deadline is not None:
            self._show(f"{_NOT_YET}: {result.message}")
            scan = self.context.log_scan
            if self._log and scan is not None:
                # New output wakes us; nothing else can change the answer.
                if scan.more:
                    self.start_at(monotonic())
            else:
                self.start_at(monotonic() + self.probe.interval)

    def _show(self, message: str) -> None:
        """In status; a reason that stays the same is written once."""
        if self.supervisor.record["message"] != message and self.supervisor.state == "starting":
            self.supervisor.record["message"] = message
            self.supervisor.journal.save()

    def _on_ready(self) -> None:
        if self._deadline is None or self.supervisor.state != "starting":
            return
        seconds = monotonic() - self._began
        message = self.last.message if self.last is not None else "it said READY=1"
        self.quit()
        self.context.close()
        self.supervisor.journal.event("ready", seconds=round(seconds, 3), message=message)
        self.supervisor.feed("ready")

    def _extend(self, seconds: float) -> None:
        """EXTEND_TIMEOUT_USEC: at least so long from now, however long it has taken."""
        if self._deadline is not None:
            self._deadline = max(self._deadline, monotonic() + seconds)
            self.plan()

    def quit(self) -> None:
        self._deadline = None
        super().quit()
