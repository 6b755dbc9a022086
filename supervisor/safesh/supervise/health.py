"""Health, in Docker's words: checks of a run that is ready, and what is done when they fail."""

from __future__ import annotations

from safesh.clock import format_duration, monotonic, wall
from safesh.supervise.prober import Prober

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.supervise.notify_socket import NotifySocket
    from safesh.supervise.probes import Result
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor


class Health(Prober):
    """Keeps ``record["health"]``: ``{"status", "since", "checked_at", "message", "failures"}``.

    status: ``starting`` until the first success or the first unhealthy verdict, then ``healthy`` or ``unhealthy``.
    """

    def __init__(self, supervisor: Supervisor, run: LiveRun, notify: NotifySocket | None) -> None:
        spec = supervisor.spec
        super().__init__(supervisor, run, spec.health)
        self._policy = spec.health
        self._notify = notify
        self._lenient_until = 0.0
        self._running = False
        now = wall()
        self.state: dict[str, Any] = {"status": "starting", "since": now, "checked_at": None, "message": "",
                                      "failures": 0}  # fmt: skip
        supervisor.record["health"] = self.state
        if notify is not None and spec.health.notify:
            self.context.heard = self._hear
            notify.on_trouble = lambda: self.start_at(monotonic())

    def on_event(self, event: str) -> None:
        if event == "ready" and self.supervisor.state == "running":
            now = monotonic()
            self._running = True
            self._lenient_until = now + self._policy.start_period
            # Where a readiness probe has just shown that it serves, there is nothing to wait for.
            serves = self.supervisor.spec.ready.kind and not self._policy.notify
            self.start_at(now if serves else now + self._policy.interval)
        super().on_event(event)

    def _hear(self) -> tuple[bool, str]:
        """sd_notify's watchdog: whether WATCHDOG=1 came within ``max_age``."""
        notify = self._notify
        if notify is None or notify.triggered:
            return False, "it said WATCHDOG=trigger"
        age = monotonic() - notify.watchdog_at
        if age > self._policy.max_age:
            since = "last WATCHDOG=1" if notify.watchdog_seen else "no WATCHDOG=1 since it started,"
            return False, f"{since} {format_duration(age)} ago, expected every {format_duration(self._policy.max_age)}"
        return True, f"WATCHDOG=1 {format_duration(age)} ago"

    def judge(self, result: Result) -> None:
        if not self._running:
            return
        if self._notify is not None and self._notify.stopping:
            self.quit()  # it says that it ends; what it answers meanwhile says nothing
            return
        self.state["checked_at"] = wall()
        self.state["message"] = result.message
        if result.ok:
            self._on_success(result)
        else:
            self._on_failure(result)
        if self._running:
            self.start_at(monotonic() + self._policy.interval)
            self.supervisor.journal.save()

    def _on_success(self, result: Result) -> None:
        self._lenient_until = 0.0  # it has started, so from now on failures count
        self.state["failures"] = 0
        before = self.state["status"]
        if before == "healthy":
            return
        self._become("healthy")
        self.supervisor.journal.event("recovered" if before == "unhealthy" else "healthy", message=result.message)
        if before == "unhealthy":
            self.supervisor.feed("healthy")

    def _on_failure(self, result: Result) -> None:
        triggered = self._notify is not None and self._notify.triggered
        if monotonic() < self._lenient_until and not triggered:
            return
        self.state["failures"] += 1
        if self.state["status"] == "unhealthy" or (self.state["failures"] < self._policy.retries and not triggered):
            return
        self._become("unhealthy")
        why = f"unhealthy: {result.message}"
        action = self._policy.on_unhealthy
        self.supervisor.journal.event(
            "unhealthy", message=result.message, failures=self.state["failures"], action=action
        )
        self.supervisor.feed("unhealthy")
        if action != "notify":
            self.supervisor.condemn("restart" if action == "restart" else "stop", why)

    def _become(self, status: str) -> None:
        self.state |= {"status": status, "since": wall()}

    def quit(self) -> None:
        self._running = False
        super().quit()

    def close(self) -> None:
        super().close()
        if self.supervisor.record.get("health") is self.state:
            del self.supervisor.record["health"]
