"""One look at whether a target serves: :class:`Check` inside a loop, :func:`check_now` without one.

Each kind lives in a file of its own that is imported by the first check of that kind, so that a supervisor carries only
what its target asked for.
"""

from __future__ import annotations

import os
import select

from safesh.clock import format_duration, milliseconds, monotonic, wall
from safesh.errors import SafeshError
from safesh.model import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.model import Probe
    from safesh.supervise.probe_log import LogScan

    Readers = dict[int, tuple[int, Callable[[], None]]]
    Finish = Callable[[bool, str], None]  # (does it serve, one line why)

# File times come from a clock that moves with the kernel's tick, up to 10 ms behind the one that time() reads.
_TICK_SLACK = 0.05
_CLOCK_SLACK = 1.0
_COLLECT_SECONDS = 1.0


class Result(Record):
    """What a check showed. message: one line for people; seconds: how long it took."""

    ok: bool
    message: str = ""
    seconds: float = 0.0


class Context:
    """What the checks of one run share.

    cwd, env: of a command probe (env is the whole environment); started_at: wall time at which the run began, no later
    than its first instruction; log, log_offset: where this run's output begins.
    """

    def __init__(self, cwd: str, env: dict[str, str], started_at: float, log: str = "", log_offset: int = 0) -> None:
        self.cwd = cwd
        self.env = env
        self.started_at = started_at
        self.log = log
        self.log_offset = log_offset
        self.log_scan: LogScan | None = None  # reads on where the last check ended; its maker closes it
        self.heard: Callable[[], tuple[bool, str]] | None = None  # sd_notify's word, where somebody listens
        self.beats: dict[str, Beat] = {}
        self._offset = wall() - monotonic()

    def clock_step(self) -> float:
        """Seconds by which the wall clock was set forward (back: negative) since this was made."""
        return wall() - monotonic() - self._offset

    def close(self) -> None:
        """Let go of the log."""
        if self.log_scan is not None:
            self.log_scan.close()
            self.log_scan = None


class Attempt:
    """One kind's way of looking. It calls ``finish`` once, and blocks nowhere."""

    def __init__(self, finish: Finish) -> None:
        self.finish = finish

    def readers(self) -> Readers:
        return {}

    def children(self) -> list[int]:
        return []

    def reaped(self, _pid: int, _status: int) -> bool:
        return False

    def ended(self) -> None:
        """A child has ended and is about to be collected."""

    def waits_for(self) -> str:
        """What has not happened yet, for the message of a timeout."""
        return "no answer"

    def close(self) -> None:
        """Let go of descriptors, kill children; :meth:`children` names those not collected yet."""


class Check:
    """One attempt at ``probe``, inside somebody's poll loop; nothing here blocks or raises.

    due: monotonic seconds of its timeout, when :meth:`tick` ends it. result: None until then or until it is known.
    A check that has its result may still have children to be collected.
    """

    def __init__(self, probe: Probe, context: Context) -> None:
        self.probe = probe
        self.result: Result | None = None
        self._began = monotonic()
        self.due: float = self._began + probe.timeout
        self._attempt: Attempt | None = None
        self._closed = False
        self._guard(lambda: self._begin(probe, context))

    def _begin(self, probe: Probe, context: Context) -> None:
        self._attempt = _make(probe, context, self._finish)
        if self.result is not None:  # it was known at once
            self.close()

    def readers(self) -> Readers:
        """fd -> (poll's event mask, what to call then)."""
        if self._attempt is None or self._closed:
            return {}
        return {fd: (mask, self._guarded(call)) for fd, (mask, call) in self._attempt.readers().items()}

    def _guarded(self, call: Callable[[], None]) -> Callable[[], None]:
        return lambda: self._guard(call)

    def tick(self) -> None:
        """Call at ``due``: a check without a result has failed then."""
        if self.result is None and monotonic() >= self.due:
            waits_for = self._attempt.waits_for() if self._attempt is not None else "no answer"
            self._finish(False, f"{waits_for} within {format_duration(self.probe.timeout)}")

    def children(self) -> list[int]:
        """Pids that are to be collected and told to :meth:`reaped`."""
        return self._attempt.children() if self._attempt is not None else []

    def ended(self) -> None:
        """A child has ended and has not been collected yet. Only callers that are no subreaper need to say so."""
        if self._attempt is not None:
            self._guard(self._attempt.ended)

    def reaped(self, pid: int, status: int) -> bool:
        """A child was collected with this wait status; True when it was this check's."""
        mine = pid in self.children()
        if mine and self._attempt is not None:
            attempt = self._attempt
            self._guard(lambda: attempt.reaped(pid, status))
        return mine

    def close(self) -> None:
        """Give up; children are killed whole and stay in :meth:`children` until they have been collected."""
        if not self._closed and self._attempt is not None:
            self._closed = True
            try:
                self._attempt.close()
            except (OSError, SafeshError):
                pass  # a descriptor or process that is gone already

    def _finish(self, ok: bool, message: str) -> None:
        if self.result is None:
            self.result = Result(ok=ok, message=_line(message), seconds=monotonic() - self._began)
            self.close()

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except (OSError, SafeshError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._finish(False, f"cannot be checked: {text}")
        except Exception as error:  # a probe's bug must not take the supervisor along
            self._finish(False, f"cannot be checked: {type(error).__name__}: {error}")


def check_now(probe: Probe, context: Context) -> Result:
    """One check, waited for; at most ``probe.timeout`` seconds, and a moment to collect a killed child."""
    check = Check(probe, context)
    deadline = None
    try:
        while check.result is None or check.children():
            if check.result is not None and deadline is None:
                deadline = monotonic() + _COLLECT_SECONDS
            if deadline is not None and monotonic() >= deadline:
                break
            _turn(check, deadline or check.due)
    finally:
        check.close()
        context.close()
    return check.result or Result(ok=False, message="was given up")


def _turn(check: Check, until: float) -> None:
    watch = select.poll()
    readers = check.readers()
    for fd, (mask, _call) in readers.items():
        watch.register(fd, mask)
    left = max(0.0, until - monotonic())
    # Nobody tells us of a child's end here: a caller's SIGCHLD is its own affair.
    for fd, _event in watch.poll(milliseconds(min(left, 0.01) if check.children() else left)):
        if fd in readers:
            readers[fd][1]()
    for pid in check.children():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            check.ended()
            check.reaped(*os.waitpid(pid, 0))
    check.tick()


def _make(probe: Probe, context: Context, finish: Finish) -> Attempt | None:
    kind = probe.kind
    if kind in ("tcp", "http"):
        from safesh.supervise import probe_net

        return probe_net.begin(probe, context, finish)
    if kind == "command":
        from safesh.supervise.probe_command import Command

        return Command(probe, context, finish)
    if kind == "heartbeat":
        finish(*look_at_heartbeat(probe.heartbeat, probe.max_age, context))
    elif kind == "log":
        from safesh.supervise.probe_log import look_at_log

        finish(*look_at_log(probe.log, context))
    elif kind == "notify":
        finish(*(context.heard() if context.heard is not None else (False, "only its supervisor hears sd_notify")))
    else:
        finish(False, "there is no probe")
    return None


class Beat:
    """A heartbeat file as it was last seen. age: seconds it had ``at`` that monotonic time."""

    def __init__(self, mtime: int, at: float, age: float) -> None:
        self.mtime = mtime
        self.at = at
        self.age = age


def look_at_heartbeat(path: str, max_age: float, context: Context) -> tuple[bool, str]:
    """(whether this run has touched the file within ``max_age`` seconds, one line why).

    Only the first look compares the file's time with the wall clock. From then on what counts is when it was seen to
    change, by a clock that nobody can set.
    """
    try:
        mtime = os.stat(path).st_mtime_ns
    except OSError as error:
        context.beats.pop(path, None)
        return False, f"{path}: {error.strerror}"
    now, age = monotonic(), wall() - mtime / 1e9
    note = f", its time is {format_duration(-age)} ahead of the clock" if age < -_CLOCK_SLACK else ""
    beat = context.beats.get(path)
    if beat is None:
        wrong = _foreign_beat(path, mtime / 1e9, age, context)
        if wrong:
            return False, wrong
        beat = Beat(mtime, now, max(0.0, age))
    elif beat.mtime != mtime:
        beat = Beat(mtime, now, 0.0 if note else max(0.0, min(age, now - beat.at)))
    context.beats[path] = beat
    age = beat.age + now - beat.at
    if age > max_age:
        return False, f"{path}: last touched {format_duration(age)} ago, expected every {format_duration(max_age)}"
    return True, f"touched {format_duration(age)} ago{note}"


def _foreign_beat(path: str, mtime: float, age: float, context: Context) -> str:
    """Why a file seen for the first time proves nothing about this run; "" when it does.

    Where the clock was stepped since the run began the time may be by the old clock or the new one: either will do.
    """
    step = context.clock_step()
    step = step if abs(step) > _CLOCK_SLACK else 0.0
    begun = min(context.started_at, context.started_at + step)
    if mtime < begun - _TICK_SLACK:
        # Not remembered: the first touch by this run is a first look again.
        return f"{path} is from an earlier run: {format_duration(begun - mtime)} older than this one"
    if min(-age, -age + step) > _CLOCK_SLACK:
        return f"{path} is {format_duration(-age)} in the future: who set its time, or the clock?"
    return ""


def _line(message: str) -> str:
    """One printable line of at most 300 characters."""
    text = " ".join(message.split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 300 else text[:297] + "..."
