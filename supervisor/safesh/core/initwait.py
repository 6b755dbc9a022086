"""What an init takes over from its caller, and how it waits: signals blocked, then fetched one by one.

Nothing runs in a handler, so nothing can be interrupted half way, and a signal that comes while another is
being served waits in the kernel's queue (dumb-init's way; sigwaitinfo(2)).
"""

from __future__ import annotations

import os

from safesh.clock import monotonic
from safesh.core import signals
from safesh.core.environment import inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

# Set by bin/safe.sh: the caller's ignored signals as in proc_pid_status(5), and the caller's pid.
IGNORED_VARIABLE = "SAFESH_SIGIGN"
PARENT_VARIABLE = "SAFESH_PPID"

SI_USER = 0  # sigaction(2): sent by kill(2), and by the kernel in a process's name
SI_KERNEL = 0x80

# CMD's group gets STOP for these when it leads a session of its own: there its group is orphaned, and the
# kernel discards TSTP, TTIN and TTOU for orphaned groups (setpgid(2)).
STOPPING = (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU)

_WAITABLE = {int(n) for n in _signal.valid_signals()} - {int(_signal.SIGKILL), int(_signal.SIGSTOP)}
_LONGEST = 1e9  # seconds; time_t of any width takes it


class Caller:
    """mask, ignored: the signals that were blocked and ignored when we were executed; parent: its pid;
    env: the environment as it was handed to us."""

    def __init__(self, mask: set[int], ignored: set[int], parent: int, env: dict[str, str]) -> None:
        self.mask = mask
        self.ignored = ignored
        self.parent = parent
        self.env = env


def take_over() -> Caller:
    """Block every signal and note what the caller had set; from here on none is lost and no handler runs.

    Takes the launcher's variables out of ``os.environ``.
    """
    mask = {int(n) for n in _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())}
    ignored = {n for n in _WAITABLE if _signal.getsignal(n) == _signal.SIG_IGN}
    # Python itself ignores these two at start; only the launcher, which came before it, can tell.
    destroyed = {int(_signal.SIGPIPE), int(_signal.SIGXFSZ)}
    ignored = (ignored - destroyed) | (destroyed & _read_mask(os.environ.pop(IGNORED_VARIABLE, "")))
    # With SIGCHLD ignored the kernel reaps children itself and their status is lost (wait(2), NOTES).
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    told = os.environ.pop(PARENT_VARIABLE, "")
    parent = int(told) if told.isdecimal() else os.getppid()
    return Caller(mask, ignored, parent, inherited())


def _read_mask(text: str) -> set[int]:
    try:
        bits = int(text, 16)
    except ValueError:
        return set()
    return {n for n in _WAITABLE if bits >> (n - 1) & 1}


def fill_stdio() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed, in us only.

    Otherwise a pipe of ours would get that number, and our messages, or CMD's input, would go into it.
    """
    try:
        while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
            pass
        os.close(fd)
    except OSError:
        pass


def release_stdio() -> None:
    """Let go of stdin and stdout, which are CMD's alone: its closing them must be felt at the other end."""
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    for fd in (0, 1):
        os.dup2(null, fd, inheritable=False)
    os.close(null)


class Received:
    """One signal: number, sender (0: unknown or the kernel), code (sigaction(2), si_code)."""

    __slots__ = ("code", "number", "sender")

    def __init__(self, number: int, sender: int = 0, code: int = SI_USER) -> None:
        self.number = number
        self.sender = sender
        self.code = code

    @property
    def own(self) -> bool:
        """The echo of what we sent to a group that we are in ourselves."""
        return self.sender == os.getpid() and self.code == SI_USER


def wait_signal(deadline: float | None) -> Received | None:
    """The next signal; None at ``deadline`` (monotonic seconds; None: never)."""
    if deadline is None:
        if not hasattr(_signal, "sigwaitinfo"):
            return Received(int(_signal.sigwait(_WAITABLE)))
        info = _signal.sigwaitinfo(_WAITABLE)
    else:
        left = min(max(0.0, deadline - monotonic()), _LONGEST)
        if not hasattr(_signal, "sigtimedwait"):
            return _wait_by_alarm(left)
        got = _signal.sigtimedwait(_WAITABLE, left)
        if got is None:
            return None
        info = got
    return Received(info.si_signo, info.si_pid, info.si_code)


def _wait_by_alarm(left: float) -> Received | None:
    """macOS has no sigtimedwait: there our own SIGALRM says that the time is over."""
    _signal.setitimer(_signal.ITIMER_REAL, max(left, 1e-6))
    number = int(_signal.sigwait(_WAITABLE))
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    return None if number == _signal.SIGALRM else Received(number)


def find_ended(main: int) -> tuple[int, int | None] | None:
    """(pid, wait status) of a child that has ended, reaped; None when there is none.

    ``main`` is not reaped but left as a zombie, status None: so the number of its group cannot pass to others.
    """
    try:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            pid, status = os.waitpid(-1, os.WNOHANG)
            return (pid, status) if pid else None
        seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if seen is None:
            return None
        return (main, None) if seen.si_pid == main else os.waitpid(seen.si_pid, 0)
    except ChildProcessError:
        return None


def stopped_by(main: int) -> int:
    """The signal that has just stopped ``main``, 0 if none has."""
    try:
        seen = os.waitid(os.P_PID, main, os.WSTOPPED | os.WNOHANG)
    except (AttributeError, ChildProcessError):
        return 0
    return int(seen.si_status) if seen is not None else 0


def describe(status: int) -> str:
    """A wait status in words."""
    ended = os.waitstatus_to_exitcode(status)
    return f"killed by {signals.name(-ended)}" if ended < 0 else f"exit status {ended}"


def may_stop() -> bool:
    """Whether to stop ourselves now.

    A stop signal drops a SIGCONT that waits (kernel/signal.c, prepare_signal): we would stay stopped for ever. And for
    pid 1 that is all it would do, for nothing stops an init.
    """
    return os.getpid() != 1 and _signal.SIGCONT not in _signal.sigpending()


def stop_if_resumable(number: int) -> bool:
    """Take TSTP, TTIN or TTOU with its default action; False when it did nothing.

    The kernel does not stop a process whose group is orphaned, because no shell is there to resume it
    (setpgid(2)), nor one that was told to ignore the signal.
    """
    os.kill(os.getpid(), number)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {number})
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {number})
    return _signal.SIGCONT in _signal.sigpending()
