"""Checks of one probe, one at a time: what readiness and health have in common."""

from __future__ import annotations

from safesh.clock import monotonic, wall
from safesh.supervise.port_owner import PortOwner, loopback_port
from safesh.supervise.probes import Check, Context
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.model import Probe
    from safesh.supervise.probes import Readers, Result
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor

_DOOMED = ("stopping", "backoff", "finished", "failed")


class Prober(Watcher):
    """Runs ``probe`` at times that :meth:`start_at` gives; :meth:`judge` has each result.

    A check is over when its children have been collected, too: only then the next one may begin.
    """

    def __init__(self, supervisor: Supervisor, run: LiveRun, probe: Probe) -> None:
        self.supervisor = supervisor
        self.probe = probe
        port = loopback_port(probe)
        self._owner = PortOwner(port) if port else None
        self.last: Result | None = None
        env = {}
        if probe.kind in ("command", "http", "tcp"):
            env = run.environment()
            # A probe's own READY=1 would be this run's.
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
                env.pop(name, None)
        spec = supervisor.spec
        self.context = Context(spec.cwd, env, wall(), supervisor.record["log"])
        self._check: Check | None = None
        self._judged = False  # the check's result has been dealt with
        self._next: float | None = None

    def judge(self, result: Result) -> None:
        """A check has come to its result."""

    def start_at(self, when: float) -> None:
        """Begin the next check at ``when`` (monotonic seconds), or as soon after it as the last one is over."""
        self._next = when
        self.plan()

    def plan(self) -> None:
        """Set ``due``."""
        if self._check is not None and self._check.result is None and not self._judged:
            self.due = self._check.due
        elif self._check is not None:
            self.due = None  # its child's end wakes us
        else:
            self.due = self._next

    def readers(self) -> Readers:
        if self._check is None:
            return {}
        return {fd: (mask, self._then_settle(call)) for fd, (mask, call) in self._check.readers().items()}

    def _then_settle(self, call: Callable[[], None]) -> Callable[[], None]:
        return lambda: self._settle(call)

    def tick(self) -> None:
        if self._check is not None:
            self._settle(self._check.tick)
        elif self._next is not None and monotonic() >= self._next:
            self._next = None
            self._judged = False
            self._check = Check(self.probe, self.context)
            self._settle(lambda: None)
        else:
            self.plan()

    def children(self) -> list[int]:
        return self._check.children() if self._check is not None else []

    def reaped(self, pid: int, status: int) -> bool:
        check = self._check
        if check is None or pid not in check.children():
            return False
        self._settle(lambda: check.reaped(pid, status))
        return True

    def _settle(self, call: Callable[[], object]) -> None:
        """Let the check go on, and see whether that has brought its result."""
        check = self._check
        call()
        if check is not None and check is self._check and check.result is not None:
            if not check.children():
                self._check = None
            if not self._judged:
                self._judged = True
                self.last = self._ours(check.result)
                self.judge(self.last)
        self.plan()

    def _ours(self, result: Result) -> Result:
        """The result, unless it is the answer of somebody else on the port."""
        if result.ok and self._owner is not None:
            stranger = self._owner.find_stranger(self.supervisor.record)
            if stranger:
                result.ok = False
                result.message = f"port {self._owner.port} is taken by {stranger}, which is not of this run"
        return result

    def on_event(self, _event: str) -> None:
        if self.supervisor.state in _DOOMED:
            self.quit()

    def quit(self) -> None:
        """No more checks; one under way is given up, its child killed."""
        self._next = None
        if self._check is not None:
            self._judged = True
            self._check.close()
            if not self._check.children():
                self._check = None
        self.plan()

    def close(self) -> None:
        self.quit()
        self.context.close()
