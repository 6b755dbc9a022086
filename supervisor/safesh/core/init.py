"""The init of ``safe.sh exec``: one child, every signal handed on, every zombie reaped, one exit status.

One process, one loop: block everything, spawn, then fetch signals one by one until CMD has ended.
"""

from __future__ import annotations

import os

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import ctty, initwait, signals
from safesh.core.initwait import Caller, Received
from safesh.core.spawn import spawn
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Literal

    from safesh._platform import Handle
    from safesh.core.spawn import Session

    OnExit = Literal["term", "leave", "end"]
    Scope = Literal["", "group", "child"]
else:
    import _signal

TIMED_OUT = 124  # timeout(1)

# What timeout(1) takes for "end now", and so starts --kill-after.
_ENDING = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
# Typed at a terminal, these reach its whole foreground group at once.
_TYPED = (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGTSTP, _signal.SIGWINCH)
# Zombies reaped before the loop looks at signals again, so that a storm of them delays none.
_REAP_AT_ONCE = 100
_GRACE = 10.0


class Options:
    """What the command line asked for; durations in seconds, 0 meaning none.

    scope "": the group where CMD has one of its own, else CMD alone. rewrite: received -> sent, 0 drops.
    """

    def __init__(self) -> None:
        self.command: list[str] = []
        self.scope: Scope = ""
        self.session: Session = "new"
        self.rewrite: dict[int, int] = {}
        self.subreaper = True
        self.warn_reap = False
        self.verbose = False
        self.on_exit: OnExit = "term"
        self.ok_exit: set[int] = set()
        self.pdeathsig = 0
        self.timeout = 0.0
        self.timeout_signal = int(_signal.SIGTERM)
        self.kill_after = 0.0
        self.preserve_status = False


def run(options: Options, caller: Caller, say: Callable[[str], None]) -> int:
    """Run the command to its end; the exit status for our own caller.

    ``caller`` comes from ``initwait.take_over``, which must have been called before anything else. Raises what
    ``spawn`` raises, and UsageError for what this system cannot do; then nothing was started.
    """
    return _Init(options, caller, say).run()


class _Init:
    def __init__(self, options: Options, caller: Caller, say: Callable[[str], None]) -> None:
        self.options = options
        self.caller = caller
        self.say = say
        self.pid = 0
        self.status: int | None = None
        self.whole_group = options.scope == "group" or (not options.scope and options.session != "keep")
        self.tty = -1  # kept open only with a group of its own, to pass the foreground back and forth
        self.owed: list[Received] = []
        self.deadline: float | None = None
        self.next_signal = options.timeout_signal
        self.killing = False
        self.timed_out = False

    def run(self) -> int:
        adopts = self._adopt_orphans()
        if self.options.on_exit == "end" and not adopts:
            raise UsageError(
                "--on-exit end needs the orphans of the tree, which come to pid 1 or a subreaper only",
                hint="leave --no-subreaper out, or use --on-exit term",
            )
        if not self._tie_to_parent():
            return 128 + self.options.pdeathsig
        if not adopts:
            self.say("neither pid 1 nor a subreaper: zombies that CMD leaves behind go to another process")
        self._start()
        status = self._watch()
        return self._finish(status)

    # Before the spawn.

    def _adopt_orphans(self) -> bool:
        """Whether orphans below us become our children: as pid 1, or as a subreaper (prctl(2))."""
        if os.getpid() == 1:
            return True
        if self.options.subreaper and _platform.become_subreaper():
            return True
        return _platform.is_subreaper()  # the bit survives execve: our caller may have set it

    def _tie_to_parent(self) -> bool:
        """--pdeathsig for ourselves; False when it is SIGKILL and the parent has died already."""
        signal = self.options.pdeathsig
        if not signal:
            return True
        if not _platform.set_pdeathsig(signal):
            raise UsageError("--pdeathsig is not available on this system", hint="leave it out")
        if os.getppid() != self.caller.parent:  # it died before the line above, so no signal will come
            if signal == _signal.SIGKILL:
                return False
            self.owed.append(Received(signal))
        return True

    def _tie_child(self, parent: int) -> None:
        """--pdeathsig in the child, for the case that we are killed. fork(2) has cleared it, execve(2) keeps it."""
        _platform.set_pdeathsig(self.options.pdeathsig)
        if os.getppid() != parent:
            os.kill(os.getpid(), self.options.pdeathsig)

    def _start(self) -> None:
        options = self.options
        tty = ctty.open_controlling() if options.session != "keep" else -1
        hand_over = tty
        if tty >= 0 and options.session == "new":
            # Only the session's leader can pass its terminal on; otherwise it is the caller's, and stays there.
            owed = ctty.give_up(tty) if ctty.leads_session() else None
            hand_over = -1 if owed is None else tty
            self.owed += [Received(number) for number in owed or ()]
        elif tty >= 0:
            # From the background nothing is taken: that foreground is somebody else's.
            self.tty = tty
            hand_over = tty if ctty.foreground(tty) == os.getpgrp() else -1
        parent = os.getpid()
        self.pid = spawn(
            options.command,
            env=self.caller.env,
            session=options.session,
            tty=hand_over,
            sigmask=self.caller.mask,
            ignored=self.caller.ignored,
            before_exec=(lambda: self._tie_child(parent)) if options.pdeathsig else None,
        )
        if tty >= 0 and self.tty < 0:
            os.close(tty)
        if options.timeout:
            self.deadline = monotonic() + options.timeout
        initwait.release_stdio()
        os.chdir("/")  # an init must not keep a file system from being unmounted

    # While CMD lives.

    def _watch(self) -> int:
        """Reap, hand on, keep the time until CMD has ended; its wait status."""
        more = True  # children that our caller left us may have ended before
        while True:
            if more:
                more = self._reap(_REAP_AT_ONCE)
                if self.status is not None:
                    return self.status
            if self.deadline is not None and monotonic() >= self.deadline:
                self._expire()
            one = self.owed.pop(0) if self.owed else initwait.wait_signal(monotonic() if more else self.deadline)
            if one is None:
                continue
            if one.number == _signal.SIGCHLD:
                more = True
                self._follow_stop()
            elif not one.own:
                self._receive(one)

    def _reap(self, most: int) -> bool:
        """Reap what has ended; True when there may be more of it. CMD's end is noted in ``status``."""
        for _ in range(most):
            ended = initwait.find_ended(self.pid if self.status is None else 0)
            if ended is None:
                return False
            pid, status = ended
            if pid == self.pid and self.status is None:
                self._leave_group()
                self.status = os.waitpid(pid, 0)[1] if status is None else status
                return True
            if self.options.warn_reap and status is not None:
                self.say(f"reaped zombie process {pid} ({initwait.describe(status)})")
        return True

    def _receive(self, one: Received) -> None:
        options = self.options
        number = one.number
        if number == _signal.SIGALRM and options.timeout and number not in options.rewrite:
            self._expire()  # timeout(1) treats it so: one that wraps another can ring its bell
            return
        sent = options.rewrite.get(number, number)
        if not sent:
            return
        if self._had_it(one):
            sent = 0
        elif options.session == "new" and number in initwait.STOPPING and number not in options.rewrite:
            sent = int(_signal.SIGSTOP)
        elif number == _signal.SIGCONT and self.tty >= 0 and ctty.foreground(self.tty) == os.getpgrp():
            ctty.take_foreground(self.tty, self.pid)  # the shell's fg gave it to us; it is CMD's
        if sent:
            self._send(sent)
        if sent in _ENDING or sent == options.timeout_signal:
            self._arm_kill()
        if number in initwait.STOPPING and initwait.may_stop():
            if options.session != "new" and one.code == initwait.SI_KERNEL:
                initwait.stop_if_resumable(number)
            else:
                os.kill(os.getpid(), _signal.SIGSTOP)
            # SIGCONT wakes us, is in the queue then, and goes on to CMD.

    def _had_it(self, one: Received) -> bool:
        """Typed at the terminal while CMD is in our own group: it has received this one itself."""
        if self.options.session != "keep" or one.code != initwait.SI_KERNEL or one.number not in _TYPED:
            return False
        return one.number not in self.options.rewrite and os.getpgid(self.pid) == os.getpgrp()

    def _follow_stop(self) -> None:
        """CMD stopped at the terminal in a group of its own: our shell sees only us, so stop with it."""
        if self.tty < 0 or ctty.leads_session():
            return
        if initwait.stopped_by(self.pid) in initwait.STOPPING:
            os.kill(0, _signal.SIGTSTP)  # whoever shares our group is part of the job
            if not initwait.stop_if_resumable(int(_signal.SIGTSTP)):
                self._send(int(_signal.SIGCONT))

    def _send(self, number: int) -> None:
        """To CMD and, with scope group, to all of its group. CMD is unreaped, so neither number is reused."""
        if self.options.verbose:
            self.say(f"sending signal {signals.name(number)} to command {self.options.command[0]!r}")
        try:
            if self.whole_group:
                group = os.getpgrp() if self.options.session == "keep" else self.pid
                os.killpg(group, number)
                if os.getpgid(self.pid) == group:
                    return
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            self.say(f"cannot send {signals.name(number)} to {self.options.command[0]}: Operation not permitted")

    def _arm_kill(self) -> None:
        if self.options.kill_after and not self.killing:
            self.killing = True
            self.next_signal = int(_signal.SIGKILL)
            # Asked to end already: --timeout has nothing left to do.
            self.deadline = monotonic() + self.options.kill_after

    def _expire(self) -> None:
        """The time is over: the signal, and --kill-after later SIGKILL."""
        self.timed_out = True
        number = self.next_signal
        self.deadline = None
        self._arm_kill()
        if number:
            self._send(number)
            if number not in (_signal.SIGKILL, _signal.SIGCONT):
                self._send(int(_signal.SIGCONT))  # a stopped process would never see it

    # After CMD's end.

    def _leave_group(self) -> None:
        """CMD is a zombie still, so its group's number is its own: the last moment to signal what is left there."""
        if self.tty >= 0 and ctty.foreground(self.tty) == self.pid:
            ctty.take_foreground(self.tty)
        if self.options.on_exit == "term" and self.options.session != "keep":
            try:
                os.killpg(self.pid, _signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                pass

    def _finish(self, status: int) -> int:
        survivors = 0
        if self.options.on_exit == "end":
            from safesh.core.initend import end_below

            grace = self.options.kill_after or _GRACE
            survivors = end_below(self.options.command[0], grace, self._wait_ending, self.say)
        self._reap(10_000)
        code = self._code(status)
        if code in self.options.ok_exit:
            code = 0
        return code or (1 if survivors else 0)

    def _code(self, status: int) -> int:
        ended = os.waitstatus_to_exitcode(status)
        if self.timed_out and not self.options.preserve_status and ended != -_signal.SIGKILL:
            return TIMED_OUT
        return 128 - ended if ended < 0 else ended

    def _wait_ending(self, _handles: list[Handle], deadline: float) -> bool:
        """``kill.Wait``: until a child ends or the deadline; True when somebody asks us to end too."""
        self._reap(_REAP_AT_ONCE)
        one = initwait.wait_signal(deadline)
        self._reap(_REAP_AT_ONCE)
        return one is not None and one.number in _ENDING
