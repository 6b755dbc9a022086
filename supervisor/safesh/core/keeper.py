"""The keeper: parent and subreaper of one run, and its undertaker when the supervisor vanishes.

One keeper a run, forked by the supervisor. It holds the lock's descriptor, so nobody can start a second
instance before the tree is empty, and the reading end of a lifeline pipe: end of file there means that the supervisor
is gone, however it went. It wakes for a child's end and for the lifeline, and for nothing else.
"""

from __future__ import annotations

import os
import select

from safesh import _platform, wire
from safesh.clock import format_size, monotonic
from safesh.core import ctty, fds, kill, reap
from safesh.core.contain import Tree, make_group
from safesh.core.output import Capture
from safesh.core.spawn import spawn
from safesh.core.tally import Tally
from safesh.errors import SafeshError
from safesh.model import ExitInfo, LogPolicy, StopPolicy, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, NoReturn

    from safesh._platform import Handle
    from safesh.model import TargetSpec
else:
    import _signal


BY_KERNEL = "(killed by the kernel)"  # ends the cause of an exit for a limit that a cgroup kept


_DRAIN_SECONDS = 2.0


class Run:
    """What a keeper needs to know about the run it is to hold."""

    def __init__(
        self,
        spec: TargetSpec,
        run_id: str,
        env: dict[str, str],
        stdin: int,
        output: tuple[int, int],
        keep_open: list[int],
        on_orphaned: Callable[[ExitInfo | None, Verdict, dict[str, Any] | None], None],
        log: str = "",
        tty: int = -1,
        errors: int = -1,
        terminal: int = -1,
    ) -> None:
        """output: both ends of the log's pipe; keep_open: the lock's descriptor and the like. tty: a terminal whose
        foreground group the target becomes, with our stdio; there is no log then, and output is (-1, -1).
        errors: a standard error apart from the output. terminal: becomes the controlling one of the target's session.

        on_orphaned(exit of the main process, verdict, usage as in ``core.tally``) runs in the keeper after it has ended
        the tree of a supervisor that vanished; log: where the target's output goes on until then.
        """
        self.spec = spec
        self.run_id = run_id
        self.env = env
        self.stdin = stdin
        self.output = output
        self.keep_open = keep_open
        self.on_orphaned = on_orphaned
        self.log = log
        self.tty = tty
        self.errors = errors
        self.terminal = terminal


class KeeperLink:
    """The supervisor's end: the keeper's handle, its reports, and the lifeline."""

    def __init__(self, pid: int, handle: Handle, report: int, lifeline: int) -> None:
        self.pid = pid
        self.handle = handle
        self.report = report
        self._lifeline = lifeline
        self._partial = b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """(whole messages that have arrived, whether more can come)."""
        more = True
        try:
            while True:
                chunk = os.read(self.report, 65536)
                if not chunk:
                    more = False
                    break
                self._partial += chunk
        except BlockingIOError:
            pass
        *lines, self._partial = self._partial.split(b"\n")
        return [wire.loads(line.decode()) for line in lines if line], more

    def wake(self) -> None:
        """A keeper that somebody stopped (SIGSTOP) could not hear."""
        self.handle.send(_signal.SIGCONT)

    def end(self, policy: StopPolicy, *, now: bool = False) -> None:
        """Ask the keeper to end the tree; said again with ``now`` it stops waiting and kills."""
        self._send({"policy": policy.to_dict(), "now": now})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            os.write(self._lifeline, wire.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            pass  # the keeper is gone; its report's end of file tells the loop

    def close(self) -> None:
        os.close(self.report)
        os.close(self._lifeline)
        self.handle.close()


def start_keeper(run: Run) -> KeeperLink:
    """Fork the keeper of ``run``. OSError when there are no processes or descriptors left."""
    import resource  # noqa: F401  # wait4 makes its answers of it; in the middle of an ending it may not be loadable

    lifeline_read, lifeline = os.pipe()
    ends = [lifeline_read, lifeline]
    parent = os.getpid()
    # A signal must not meet our handlers in the child: it would be told through the pipe that wakes our own loop.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        report, report_write = os.pipe()
        ends += [report, report_write]
        pid = os.fork()
        if pid == 0:
            keep(run, lifeline_read, report_write, parent)
    except OSError:
        for fd in ends:
            os.close(fd)
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    os.close(lifeline_read)
    os.close(report_write)
    return link_to(pid, report, lifeline)


def link_to(pid: int, report: int, lifeline: int) -> KeeperLink:
    """The link to a keeper that is our unreaped child; the descriptors are the link's from here on."""
    os.set_blocking(report, False)
    start = _platform.start_time(pid)
    handle = _platform.open_handle(pid, start) if start is not None else None
    # Our own unreaped child cannot be gone; without a descriptor the plain handle does.
    return KeeperLink(pid, handle or _platform.plain_handle(pid, start or 0), report, lifeline)


def keep(run: Run, lifeline: int, report: int, parent: int, kind: type[Keeper] | None = None) -> NoReturn:
    """A keeper's whole life, and with it this process's."""
    code = 1
    try:
        code = (kind or Keeper)(run, lifeline, report, parent).hold()
    except BaseException as error:  # nobody above would ever see it
        tell(report, {"event": "broken", "message": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(code)


def tell(fd: int, message: dict[str, Any]) -> None:
    """One message to the supervisor, which may be gone."""
    data = wire.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


class Keeper:
    """One run's keeper, in the process that is nothing else."""

    def __init__(self, run: Run, lifeline: int, report: int, parent: int) -> None:
        self.run = run
        self.lifeline = lifeline
        self.report = report
        self.parent = parent
        self.orphaned = False
        self.hurry = False
        self.cutoff = float("inf")
        self.order: tuple[StopPolicy, bool] | None = None
        self.main: tuple[int, int] | None = None
        self.exit: ExitInfo | None = None
        self.tree = Tree(run.run_id, os.getpid())
        self.tally: Tally | None = None
        self.floor = 0  # bytes resident before exec, where somebody measured them
        self._partial = b""
        self.wake = -1
        self.capture: Capture | None = None
        self.oom_before = _platform.oom_kills() or 0

    def hold(self) -> int:
        """The keeper's whole life; its exit status."""
        self._settle()
        if not self._spawn():
            return 0
        while self.exit is None and self.order is None and not self.orphaned:
            self._wait([], None)
        policy, now = self.order or (self.run.spec.stop, False)
        verdict = kill.insist(
            lambda left: kill.end_tree(self.tree, left, main=self.main, wait=self._wait_ending, now=now),
            policy,
            self._is_alone,
        )
        self._collect()
        verdict.target = self.run.spec.name
        usage = self._account()
        self._tell({"event": "gone", "verdict": verdict.to_dict(), **({"usage": usage} if usage else {})})
        self._read_orders()
        if self.orphaned:
            self._close_log()
            self.run.on_orphaned(self.exit, verdict, usage)
        return 0

    def _is_alone(self) -> bool:
        """Whether nobody ends the tree when we leave; a living supervisor would."""
        self._read_orders()
        return self.orphaned

    def _before_exec(self) -> None:
        """In the child."""

    def _account(self) -> dict[str, Any] | None:
        """What the tree used, now that it is gone."""
        if self.tally is None:
            return None
        try:
            import resource  # loaded by now: wait4 makes its answers of it

            reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
            peak = reaped.ru_maxrss * _platform.MAXRSS_UNIT
            # What a fork of ours held: not more than we.
            floor = self.floor or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _platform.MAXRSS_UNIT
            return self.tally.account(reaped.ru_utime, reaped.ru_stime, peak, floor)
        except Exception:  # a figure that cannot be had must not cost the verdict
            return None

    def _take_over_log(self) -> None:
        """The supervisor is gone: a target that says much while it stops must not block on a full pipe."""
        if self.run.log and self.run.output[0] >= 0:
            try:
                # Without rotation: the file may have been rotated since the fork, so it is opened by its name.
                self.capture = Capture(self.run.output[0], self.run.log, LogPolicy(size=0, keep=0))
            except SafeshError:
                os.close(self.run.output[0])  # a log that cannot be written: let the target's writes fail
            self.run.output = (-1, -1)

    def _close_log(self) -> None:
        if self.capture is not None:
            self.capture.drain(monotonic() + _DRAIN_SECONDS)
            self.capture.close()
            self.capture = None

    def _settle(self) -> None:
        """Away from the terminal, deaf to everything but children and the lifeline."""
        _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
        _signal.set_wakeup_fd(-1)
        if self.run.tty < 0:
            if not ctty.leads_session():  # an executed keeper was started as the leader of its own
                os.setsid()
        else:
            # Job control needs the terminal's session, and a parent in another group of it (setpgid(2): orphaned).
            os.setpgid(0, 0)
        _platform.set_name("safesh-keeper")
        _platform.become_subreaper()
        os.chdir("/")
        run = self.run
        of_target = [run.stdin, *run.output, run.errors, run.terminal]
        fds.close_all_except([self.lifeline, self.report, *of_target, *run.keep_open])
        self.wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        _signal.signal(_signal.SIGCHLD, lambda _number, _frame: None)
        _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        os.set_blocking(self.lifeline, False)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])

    def _spawn(self) -> bool:
        run = self.run
        self._read_orders()
        if self.orphaned:
            return False
        group = make_group(run.run_id)
        self.tree.group = group
        limits = run.spec.limits
        lower = None
        if limits.memory.most or limits.processes.most or limits.open_files.most:
            from safesh.core import ceilings

            lower = ceilings.lower
            if group is not None:
                ceilings.set_on(group, limits)

        def enter() -> None:
            if lower is not None:
                lower(limits)
            self._before_exec()

        stdio = (run.stdin, run.output[1], run.output[1] if run.errors < 0 else run.errors)
        try:
            pid = spawn(
                run.spec.command,
                cwd=run.spec.cwd,
                env=run.env,
                stdio=stdio if run.tty < 0 else (0, 1, 2),
                session="new" if run.tty < 0 else "pgrp",
                tty=run.tty if run.tty >= 0 else run.terminal,
                before_exec=enter,
                fork=os.fork if group is None else group.fork,
            )
        except SafeshError as error:
            self.tree.remove_group()
            failure = {"event": "refused", "error": type(error).__name__, "code": error.exit_code}
            self._tell({**failure, "message": error.message, "place": error.place, "hint": error.hint})
            return False
        # The child cannot be reaped before we do it, so its start time is there to be read.
        self.main = (pid, _platform.start_time(pid) or 0)
        self.tree.adopt(*self.main, leads=True)
        if group is not None and not group.populated():
            self.tree.remove_group()  # it could not join; then the subreaper alone has to do
            group = self.tree.group
        self.tally = Tally(self.tree)
        # Whatever of the target's stayed open here would keep its readers waiting for an end that never comes.
        for fd in {run.stdin, run.output[1], run.errors, run.terminal}:
            if fd > 2:
                os.close(fd)
        fds.point_stdio_at_null()
        self._tell(
            {"event": "spawned", "pid": pid, "start": self.main[1], "group": group.path if group is not None else ""}
        )
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        tell(self.report, message)

    def _wait_ending(self, handles: list[Handle], deadline: float) -> bool:
        self._wait(handles, min(deadline, self.cutoff))
        hurry, self.hurry = self.hurry, False
        if monotonic() >= self.cutoff:
            hurry, self.cutoff = True, float("inf")
        return hurry

    def _wait(self, handles: list[Handle], deadline: float | None) -> None:
        """Sleep until a child ends, the supervisor speaks or vanishes, a handle fires or the deadline comes."""
        watch = select.poll()
        watch.register(self.wake, select.POLLIN)
        if not self.orphaned:
            watch.register(self.lifeline, select.POLLIN)
        if self.orphaned:
            self._take_over_log()
        if self.capture is not None:
            watch.register(self.capture.fileno(), select.POLLIN)
        blind = kill.register(watch, handles)
        if deadline is not None and monotonic() >= deadline:
            watch.poll(0)
        else:
            watch.poll(None if deadline is None else kill.poll_milliseconds(deadline, blind))
        if self.capture is not None and not self.capture.pump():
            self._close_log()
        self._collect()
        self._read_orders()

    def _collect(self) -> None:
        """Reap everybody; the main process's end is told at once, before the rest of the tree is dealt with."""
        try:
            while os.read(self.wake, 4096):
                pass
        except BlockingIOError:
            pass
        for pid, status, usage in reap.reap_all(stopped=self.run.tty >= 0):
            if os.WIFSTOPPED(status):
                if self.main is not None and pid == self.main[0] and self.order is None:
                    self._tell({"event": "paused"})
            elif self.main is not None and pid == self.main[0] and self.exit is None:
                self.exit = reap.read_status(status, usage)
                self._tell_memory_apart(self.exit)
                self._tell({"event": "exited", "exit": self.exit.to_dict()})

    def _tell_memory_apart(self, end: ExitInfo) -> None:
        """A SIGKILL that nobody here sent, while the kernel's out-of-memory killer was at work, was its doing."""
        if end.signal != "SIGKILL" or self.order is not None or self.orphaned:
            return
        group = self.tree.group
        most = self.run.spec.limits.memory.most
        if group is not None and group.oom_kills():
            if most and group.ran_out() and group.ceiling("memory.max") is not None:
                end.cause = f"ended: memory limit {format_size(most)} {BY_KERNEL}"
            else:
                end.cause = "killed by the kernel: the run's memory limit was reached (out of memory)"
        elif (_platform.oom_kills() or 0) > self.oom_before:
            end.cause = "killed by SIGKILL while the kernel was killing for lack of memory (out of memory)"

    def _read_orders(self) -> None:
        while not self.orphaned:
            try:
                chunk = os.read(self.lifeline, 65536)
            except BlockingIOError:
                break
            if not chunk:
                self.orphaned = True
            self._partial += chunk
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            order = wire.loads(line.decode())
            now = bool(order["now"])
            if self.order is not None or now:
                self.hurry = True
            policy = StopPolicy.from_dict(order["policy"])
            # Where the rest of a tree whose main process has ended is being asked already, the order shortens that.
            self.cutoff = min(self.cutoff, monotonic() + policy.grace)
            self.order = (policy, now)


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
