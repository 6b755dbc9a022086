"""How one target is, by its supervisor's word and by a probe made now: ``health``'s judgement.

The codes are those of the Nagios plugin guidelines. What has no answer of its own is decided here: a target in backoff
is critical, for nobody serves meanwhile (a monitor's soft states take care of a single restart); one that is being
stopped is a warning, for in a moment it is dead or starting.
"""

from __future__ import annotations

import os

from safesh import _platform
from safesh.clock import format_duration, format_time, milliseconds, monotonic, wall
from safesh.instance import lock as locks
from safesh.instance.view import look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safesh.instance.view import InstanceView
    from safesh.model import Health, Probe, TargetSpec
    from safesh.paths import InstancePaths
    from safesh.supervise.probes import Check, Context

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_SERVES = ("running", "unhealthy")
_STALE_MARGIN = 5.0  # seconds beyond two intervals after which a supervisor's word is too old
_COLLECT = 1.0  # seconds beyond its timeout in which a killed probe is collected
_AGAIN = 0.5  # seconds between two probes of what has just been started
_STEP = 2.0  # seconds; the kernel's idea of a start may be off by one, a clock that was set back by any number


class Vitals:
    """One target, looked at once. code, message: the answer, not final while :attr:`probe` is set.

    seconds: how long the probe took; started: a start of ours brought it up; patience: until when (monotonic
    seconds) a failing probe is made again.
    """

    def __init__(self, name: str, paths: InstancePaths, spec: TargetSpec | None, specs: list[TargetSpec]) -> None:
        """spec: None for what no safe.toml describes; specs: all targets of the instance."""
        self.name = name
        self.paths = paths
        self.spec = spec
        self.specs = specs
        self.code = UNKNOWN
        self.message = ""
        self.probe: Probe | None = None
        self.seconds: float | None = None
        self._dead = False
        self.started = False
        self.patience = 0.0
        self.state = ""
        self.pid: int | None = None
        self.uptime: float | None = None
        self.restarts: int | None = None
        self._record: dict[str, Any] = {}

    def say(self, code: int, message: str) -> None:
        """The answer."""
        self.code = code
        self.message = message

    def is_dead(self) -> bool:
        """Whether nothing of it runs, so that a start would bring it up."""
        return self._dead

    # ---- by the supervisor's word

    def look(self) -> None:
        """Look at the instance; sets the answer, or :attr:`probe` where only a probe can tell."""
        self.probe, self._dead, self.pid, self.uptime = None, False, None, None
        view = look(self.paths, tree=False, strays=False)
        self._record = view.record or {}
        if view.code == 4:
            self.say(UNKNOWN, view.problems[0] if view.problems else "its lock cannot be read")
        elif not view.supervisor_alive and view.lock == "held" and locks.is_elsewhere(view.holder):
            self.say(UNKNOWN, "held from another pid namespace (a container)")
        elif view.code != 0:
            self._is_dead(view)
        elif (other := self._other(view)) != "":
            self.say(CRITICAL, f"not running: {other} has the instance")
        else:
            self._lives(view)

    def _other(self, view: InstanceView) -> str:
        """The target that runs in the instance instead of the one asked for; "" where it is that one."""
        target = str(self._record.get("target") or (view.holder or {}).get("target") or "")
        return "" if self.spec is None or target == self.spec.name else target

    def _is_dead(self, view: InstanceView) -> None:
        record = self._record
        if view.keeper_alive:
            self.say(CRITICAL, "its supervisor is gone, and its keeper is ending what is left")
            return
        self._dead = True
        if view.lock == "held":
            self.say(CRITICAL, "not running, and its lock is held by nobody we know")
            return
        strays = look(self.paths, self.specs, tree=False).strays
        if strays:
            count = f"{len(strays)} stray{'s' if len(strays) > 1 else ''}"
            self.say(CRITICAL, f"not running, {count} left (pid {strays[0].pid}): safe.sh stop {self.name}")
        elif record and (self.spec is None or record["target"] == self.spec.name):
            self.state = record["state"]
            why = f": {record['message']}" if record["message"] else ""
            self.say(CRITICAL, f"not running since {format_time(record['since'])}{why}")
        else:
            self.say(CRITICAL, "not running")

    def _lives(self, view: InstanceView) -> None:
        record = self._record
        if not record:
            self.say(WARNING, "starting")
            return
        self.state, self.restarts = record["state"], record["restarts"]
        main = record["main"]
        info = _platform.info(main["pid"]) if main is not None and view.main_alive else None
        if info is not None:
            self.pid, self.uptime = info.pid, max(0.0, wall() - info.started_at)
        why = f": {record['message']}" if record["message"] else ""
        since = f"since {format_time(record['since'])} ({format_duration(wall() - record['since'])})"
        if self.state in ("idle", "starting"):
            self.say(WARNING, f"starting {since}{why}")
        elif self.state == "stopping":
            self.say(WARNING, f"stopping {since}{why}")
        elif self.state not in _SERVES:
            self.say(CRITICAL, f"down {since}{why}")
        elif self.pid is None:
            self.say(CRITICAL, "its process is gone")
        else:
            self._choose_probe(why, since)

    def _choose_probe(self, why: str, since: str) -> None:
        spec = self.spec
        probe: Probe | None = None
        if spec is not None:
            probe = spec.health if spec.health.kind else spec.ready if spec.ready.kind else None
        if spec is not None and probe is spec.health and probe.kind in ("log", "notify"):
            self._by_record(spec.health)
        elif probe is not None and probe.kind not in ("log", "notify"):
            self.probe = probe
        elif self.state == "unhealthy":
            self.say(CRITICAL, f"unhealthy {since}{why}")
        else:
            self.say(OK, f"running {since}")  # what only shows readiness has shown it, else it would be starting

    def _by_record(self, health: Health) -> None:
        """Only the supervisor hears sd_notify and has read the log from the run's beginning: its word, while fresh."""
        found = self._record.get("health")
        if not isinstance(found, dict):
            self.say(UNKNOWN, "its supervisor does not look at its health; restart it: safe.sh restart " + self.name)
            return
        status, message = str(found.get("status")), str(found.get("message") or "")
        at = found.get("checked_at")
        at = at if isinstance(at, (int, float)) else self._record["since"]
        age = wall() - at
        if age > 2 * health.interval + health.timeout + _STALE_MARGIN:
            self.say(UNKNOWN, f"its supervisor last looked {format_duration(age)} ago")
        elif status == "healthy" and not found.get("failures"):
            self.say(OK, f"healthy: {message}")
        elif status == "unhealthy":
            self.say(CRITICAL, f"unhealthy: {message}")
        elif status == "healthy":
            self.say(WARNING, f"failing, not yet unhealthy: {message}")
        else:
            self.say(WARNING, f"its health is not known yet{': ' if message else ''}{message}")

    # ---- by a probe

    def context(self, spec: TargetSpec) -> Context:
        """What the probe of a living target needs to know. ConfigError for an env_file that cannot be read."""
        from safesh.core.environment import inherited
        from safesh.supervise.probes import Context

        begun = float(self._record["started_at"])
        if self.uptime is not None and wall() - self.uptime < begun - _STEP:
            begun = wall() - self.uptime  # the clock was set back since: by today's clock it began earlier
        # Without the run's marks: a probe of ours is nobody's stray.
        env = {key: value for key, value in inherited().items() if not key.startswith("SAFESH_")}
        env |= {**spec.env, "SAFESH_TARGET": spec.name}
        return Context(spec.cwd, env, begun, str(self._record["log"]))

    def judge(self, ok: bool, message: str, seconds: float) -> None:
        """The probe's result is here."""
        self.seconds = seconds
        spec, record = self.spec, self._record
        health = record.get("health")
        status = health.get("status") if isinstance(health, dict) else ""
        if ok and spec is not None and (stranger := self._stranger(spec)):
            ok, message = False, stranger
        if ok and self.state == "unhealthy":
            self.say(WARNING, f"serves again ({message}), though its supervisor has not seen it yet")
        elif ok:
            self.say(OK, f"healthy: {message} in {seconds:.3f}s")
        elif spec is not None and status == "starting" and wall() - record["since"] < spec.health.start_period:
            self.say(WARNING, f"in its start period: {message}")
        else:
            self.say(CRITICAL, f"unhealthy: {message}")

    def _stranger(self, spec: TargetSpec) -> str:
        """Who answered instead of the target, in words; "" for itself, or where nobody can tell."""
        from safesh.supervise import port_owner

        port = port_owner.loopback_port(spec.health if spec.health.kind else spec.ready)
        if not port or not self._record.get("keeper"):
            return ""
        stranger = port_owner.look(port, self._record)[1]
        return f"port {port} is taken by {stranger}, which is not of this run" if stranger else ""


class Round:
    """Probes made side by side. Leaving the ``with`` block ends those under way, with all that they started."""

    def __init__(self, deadline: float) -> None:
        """deadline: monotonic seconds; a probe that has no answer by then has failed."""
        self._deadline = deadline
        self._running: dict[Vitals, tuple[Check, Context]] = {}
        self._later: dict[Vitals, float] = {}

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_problem: object) -> None:
        for check, context in self._running.values():
            check.close()
            context.close()

    def begin(self, one: Vitals) -> None:
        """Begin the probe that ``one`` wants; what cannot be begun is UNKNOWN."""
        from safesh import config as configs
        from safesh.errors import SafeshError
        from safesh.supervise.probes import Check

        spec, probe = one.spec, one.probe
        if spec is None or probe is None:
            return
        try:
            if probe.kind in ("command", "http", "tcp"):  # the others need neither folder nor environment
                spec = configs.resolve(configs.load(spec.config), spec.name)
            context = one.context(spec)
        except SafeshError as error:
            one.say(UNKNOWN, str(error))
            return
        timeout = min(probe.timeout, max(0.1, self._deadline - monotonic()))
        probe = type(probe)(**{**probe.__dict__, "timeout": timeout})
        self._running[one] = (Check(probe, context), context)

    def run(self) -> None:
        """Go on until every probe has its answer."""
        while self._running or self._later:
            for one, (check, context) in list(self._running.items()):
                result = check.result
                if result is not None and not (check.children() and monotonic() < check.due + _COLLECT):
                    del self._running[one]
                    check.close()
                    context.close()
                    one.judge(result.ok, result.message, result.seconds)
                    if one.code != OK and monotonic() + _AGAIN < one.patience:
                        self._later[one] = monotonic() + _AGAIN
            for one in [one for one, when in self._later.items() if when <= monotonic()]:
                del self._later[one]
                one.look()
                self.begin(one)
            if self._running or self._later:
                self._turn()

    def _turn(self) -> None:
        """Sleep until something can go on, and let it."""
        import select

        checks = [check for check, _context in self._running.values()]
        watch = select.poll()
        readers: dict[int, Callable[[], None]] = {}
        for check in checks:
            for fd, (mask, call) in check.readers().items():
                watch.register(fd, mask)
                readers[fd] = call
        dues = [check.due + (0.0 if check.result is None else _COLLECT) for check in checks]
        left = max(0.0, min([*dues, *self._later.values()]) - monotonic())
        if any(check.children() for check in checks):
            left = min(left, 0.01)  # nobody tells us of a child's end
        for fd, _event in watch.poll(milliseconds(left)):
            readers[fd]()
        for check in checks:
            for pid in check.children():
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    check.ended()
                    check.reaped(*os.waitpid(pid, 0))
            check.tick()
