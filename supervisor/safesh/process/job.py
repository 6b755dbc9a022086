"""One command of the process API: how it is started, what is kept of it, and how its end is told.

A job is driven by one of two: ``blocking.drive`` in the caller's own thread, or the loop that all others share. Both
use the steps here, so that there is one way to start, to collect and to conclude.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import forking, quick, signals
from safesh.core.spawn import explain_exhausted
from safesh.errors import SafeshError
from safesh.model import Limits, StopPolicy
from safesh.process import streams
from safesh.process.errors import CommandTimeout, StatusLost
from safesh.process.result import ExecutionResult, Usage
from safesh.process.spool import Spool
from safesh.process.streams import Collector, Feed, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from safesh._platform import Handle
    from safesh.core.keeper import KeeperLink
    from safesh.model import Member, Verdict
    from safesh.process.dispatch import Outlet
    from safesh.process.ending import Mark
    from safesh.process.errors import LimitExceeded
    from safesh.process.logs import EventLogger
    from safesh.process.monitor import Monitor, Sample
    from safesh.process.streams import Store

DRAIN_SECONDS = 0.5  # for output that is still on its way when everybody has been ended
SETTLE_SECONDS = 1.0  # for what the main process left behind to finish writing, before it is ended
DEFAULT_STOP = StopPolicy(signal="SIGTERM", scope="main", grace=0.5)
DEFAULT_MAX_OUTPUT = 1 << 28  # bytes of each stream


def _as_it_is(text: str) -> str:
    return text


class Plan:
    """A call's arguments, checked; see ``api.execute_command`` for what each means."""

    __slots__ = (
        "argv", "contain", "cwd", "encoding", "env", "errors", "input", "keep_stdin", "limits", "logger", "max_output",
        "mode", "on_complete", "on_error", "on_output", "on_sample", "output_fd", "pty", "redact", "run_id", "shown",
        "stdin_file", "stop", "timeout"
    )  # fmt: skip

    def __init__(self, argv: list[str], env: Mapping[bytes, bytes], run_id: str) -> None:
        self.argv = argv
        self.shown = argv
        self.env = env
        self.run_id = run_id
        self.mode = "blocking"
        self.cwd: str | None = None
        self.timeout: float | None = None
        self.input: bytes | memoryview | None = None
        self.keep_stdin = False  # a pipe that stays open for write_to_process
        self.output_fd = -1  # a descriptor that takes stdout and stderr, instead of pipes
        self.stdin_file = -1  # a descriptor that becomes the child's stdin as it is
        self.on_output: Callable[[Any], object] | None = None
        self.on_error: Callable[[Any], object] | None = None
        self.on_complete: Callable[[ExecutionResult], object] | None = None
        self.on_sample: Callable[[Sample], object] | None = None
        self.encoding: str | None = "utf-8"
        self.errors = "replace"
        self.pty: bool | str = False
        self.max_output: int | None = DEFAULT_MAX_OUTPUT
        self.stop = DEFAULT_STOP
        self.limits: Limits | None = None
        self.contain = "session"
        self.redact: Callable[[str], str] = _as_it_is
        self.logger: EventLogger | None = None

    def text_env(self) -> dict[str, str]:
        return {os.fsdecode(name): os.fsdecode(value) for name, value in self.env.items()}


class Job:
    """One run of the process API, from before its start until it is forgotten."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_id = plan.run_id
        self.shown = plan.shown
        self.encoding = plan.encoding
        self.redact = plan.redact
        self.started_at = time.time()
        self.began = monotonic()
        self.deadline = self.began + plan.timeout if plan.timeout is not None else None
        self.lock = threading.RLock()
        self.talk = threading.Lock()  # one conversation at a time
        self.finished_all = False  # everything is told, callbacks included
        self._done: threading.Event | None = None  # made when somebody waits for that
        self.pid = 0
        self.born: list[int] = []  # its pid from the very moment that there is one, and its pidfd
        self._start_time = 0
        self.handle: Handle | None = None
        self.link: KeeperLink | None = None
        self.out: Stream | None = None
        self.err: Stream | None = None
        self.feed: Feed | None = None
        self.exited = False  # the main process is a zombie, or was collected
        self.reaped = False
        self.ending = False  # somebody is ending the tree
        self.enders = 0  # how many are at it
        self.after_ending: Callable[[], None] | None = None
        self.driver = 0  # the thread of a blocking run
        self.line = -1  # our end of its terminal, once more
        self.settle_by: float | None = None
        self.stores: dict[str, Store] = {}
        self.outlet: Outlet | None = None
        self.take: Callable[[str, Sequence[Any]], None] | None = None
        self.is_full: Callable[[], bool] | None = None
        self.held_back: list[Stream] = []  # not read from until there is room again
        self.monitor: Monitor | None = None
        self.limit_error: LimitExceeded | None = None
        self.ear: tuple[int, Any] | None = None  # a conversation's poll object and its descriptor
        self.early: list[dict[str, Any]] = []  # what the keeper said before the loop listened
        self.rest: dict[str, bytes] = {}  # read of a stream and not given to anybody yet
        self.over = False  # the result is complete
        self.departing = False  # it has ended, and what it left behind is seen to
        self.keeper_gone = False
        self.kept_done = False  # the keeper has said its last word
        self.taken: threading.Event | None = None  # set when all that was written has been taken, or never will be
        self.samples: list[Sample] = []
        self.sampled_peak = 0
        self.finished: list[Callable[[], None]] = []  # called once, after ``done``
        self.closed = False
        self.burden = (0, 0)  # on the registry of the ended, as ``weigh`` told
        self.given = False  # the caller has the result
        self.timers: list[list[Any]] = []  # of the loop, which lets go of them at its end
        self.heard_at = 0.0  # when that was last done
        self.heard: Stream | None = None  # which a conversation reads, and the loop does not
        self.result = ExecutionResult(self)

    # --- starting -----------------------------------------------------------------------------

    def begin(self, make_store: Callable[[int | None], Store] = Collector) -> bool:
        """Start it; False when it could not be, which the result then tells."""
        plan = self.plan
        theirs: list[int] = []
        try:
            stdio = self._open_pty(theirs, make_store) if plan.pty else self._open_pipes(theirs, make_store)
            self._launch(stdio)
        except OSError as error:
            self._fail(explain_exhausted(plan.argv[0], error))
            return False
        except SafeshError as error:
            self._fail(error)
            return False
        except BaseException:
            self.abandon()
            raise
        finally:
            for fd in theirs:
                forking.close_fd(fd)
        self.result.pid = self.pid
        return True

    def abandon(self) -> None:
        """Interrupted (Ctrl-C) before anybody looked after it: nothing of it may stay."""
        try:
            if self.born and not self.pid:
                self.pid = self.born[0]
            if len(self.born) > 1 and self.handle is None:
                self.handle = _platform.open_child(self.pid, 0, self.born[1])
            if self.pid and self.link is None and not self.reaped:
                from safesh.process.ending import end_runs

                end_runs([self.mark()], self.plan.stop, now=True)
                self.collect()
        finally:
            self.close()  # a keeper ends its tree when its lifeline does

    def _fail(self, error: SafeshError) -> None:
        self.close()
        self.result._error = error
        self.exited = self.reaped = True
        code = error.exit_code
        if code in (126, 127):  # the shell's words for it
            self.result.return_code = code
        self.result.execution_time = round(monotonic() - self.began, 6)

    def _open_pipes(self, theirs: list[int], make_store: Callable[[int | None], Store]) -> tuple[int, int, int]:
        plan = self.plan
        if plan.stdin_file >= 0:
            stdin = plan.stdin_file
        elif plan.input is None and not plan.keep_stdin:
            stdin = null_device()
        else:
            stdin, ours = forking.make_pipe()
            theirs.append(stdin)
            self.feed = Feed(ours)
            os.set_blocking(ours, False)
            self._fill_feed()
        if plan.output_fd >= 0:
            return stdin, plan.output_fd, plan.output_fd
        ours, out = forking.make_pipe()
        theirs.append(out)
        self.out = self._stream("stdout", ours, make_store, plan.on_output)
        ours, err = forking.make_pipe()
        theirs.append(err)
        self.err = self._stream("stderr", ours, make_store, plan.on_error)
        return stdin, out, err

    def _open_pty(self, theirs: list[int], make_store: Callable[[int | None], Store]) -> tuple[int, int, int]:
        from safesh.process.terminal import open_pair

        plan = self.plan
        with forking.lock:
            master, slave = open_pair(raw=plan.pty == "raw")
            theirs.append(forking.own_fd(slave))
            self.out = self._stream("stdout", forking.own_fd(master), make_store, plan.on_output, pty=True)
            # Kept until the end: a command that closes its outputs before it exits would see its terminal hang up, and
            # be ended by that (SIGHUP).
            self.line = forking.own_fd(os.dup(master))
            # The same open file, twice in the poll set.
            self.feed = Feed(forking.own_fd(os.dup(master)), terminal=plan.pty is True)
        os.set_blocking(master, False)
        self._fill_feed()
        return slave, slave, slave

    def _fill_feed(self) -> None:
        assert self.feed is not None
        if self.plan.input is not None:
            self.feed.push(self.plan.input)
            if len(self.plan.input) >= 1 << 17:
                streams.set_pipe_size(self.feed.fd, 1 << 20)
        self.feed.closing = not self.plan.keep_stdin

    def _stream(
        self,
        name: str,
        fd: int,
        make_store: Callable[[int | None], Store],
        callback: Callable[[Any], object] | None,
        *,
        pty: bool = False,
    ) -> Stream:
        store = self.stores[name] = make_store(self.plan.max_output)
        stream = Stream(name, fd, store, pty=pty)
        if callback is not None:
            from safesh.process.lines import LineSplitter

            stream.splitter = LineSplitter(self.plan.encoding, self.plan.errors)
            stream.deliver = self.deliver
        return stream

    def _launch(self, stdio: tuple[int, int, int]) -> None:
        plan = self.plan
        if plan.contain == "keeper":
            self._launch_kept(stdio)
            return
        if plan.pty:
            from safesh.core.quickpty import start_on_pty

            pid = start_on_pty(plan.argv, cwd=plan.cwd, env=plan.text_env(), slave=stdio[0])
        else:
            opener = _platform.child_opener
            pid = quick.start(plan.argv, cwd=plan.cwd, env=plan.env, stdio=stdio, born=self.born, opener=opener)
        self.pid = pid
        # Our own child, not collected yet: its pid cannot mean anybody else.
        handle = _platform.open_child(pid, 0, self.born[1] if len(self.born) > 1 else -1)
        if handle.fileno() < 0:  # then signals go by its start time
            handle = _platform.plain_handle(pid, self.start_time)
        self.handle = handle

    def _launch_kept(self, stdio: tuple[int, int, int]) -> None:
        from safesh.process import kept

        kept.launch(self, stdio)

    @property
    def start_time(self) -> int:
        """The identity's second half, looked up when it is first asked for; 0 once it is too late."""
        if not self._start_time and self.pid and not self.reaped:
            try:
                self._start_time = _platform.start_time(self.pid) or 0
            except OSError:
                pass  # no descriptor left to look with; asked again the next time
        return self._start_time

    def mark(self) -> Mark:
        from safesh.process.ending import Mark

        return Mark(self.pid, self.start_time, self.run_id)

    def known_start(self, start: int) -> None:
        self._start_time = start

    # --- while it runs ------------------------------------------------------------------------

    def deliver(self, name: str, lines: Sequence[Any]) -> None:
        """Hand lines to the caller's callback: here and now, or through the queue of a loop's job."""
        if self.take is not None:
            self.take(name, lines)
        elif self.outlet is not None:
            self.outlet.post(self._hand_over, name, lines, weight=64 * len(lines) + sum(map(len, lines)))
        else:
            self._hand_over(name, lines)

    def _hand_over(self, name: str, lines: Sequence[Any]) -> None:
        callback = self.plan.on_output if name == "stdout" else self.plan.on_error
        for line in lines:
            self.call(callback, line)

    @property
    def full(self) -> bool:
        """Whether whoever takes its lines has enough for now."""
        if self.is_full is not None:
            return self.is_full()
        return self.outlet is not None and self.outlet.full

    @property
    def waits_for_itself(self) -> bool:
        """Whether one of its own callbacks asks: its end comes after that callback's."""
        if self.outlet is None:
            return self.driver == threading.get_ident()
        return self.outlet.is_mine

    def expect_verdict(self, *, ending: bool = True) -> None:
        """Somebody begins to end it: the result is not complete before their verdict is in it.

        ending: what is left of it is theirs to end, too.
        """
        with self.lock:
            self.ending = self.ending or ending
            self.enders += 1

    def give_verdict(self, verdict: Verdict | None) -> None:
        """The answer to ``expect_verdict``; None when there came none."""
        with self.lock:
            if self.result.verdict is None:
                self.result.verdict = verdict
            self.enders -= 1
            call = None
            if not self.enders:
                call, self.after_ending = self.after_ending, None
        if call is not None:
            call()

    def once_ended(self, call: Callable[[], None]) -> None:
        """Call it now, or as soon as nobody's verdict is missing."""
        with self.lock:
            if self.enders and self.result.verdict is None:
                self.after_ending = call
                return
        call()

    def call(self, callback: Callable[[Any], object] | None, argument: Any) -> None:
        """A callback that raises is told in the result and the log, and ends nothing."""
        if callback is None:
            return
        try:
            callback(argument)
        except BaseException as error:
            # In the caller's own thread Ctrl-C is meant for the caller; on a thread of ours nobody else would be told.
            if self.outlet is None and not isinstance(error, Exception):
                raise
            if len(self.result.callback_errors) < 100:
                self.result.callback_errors.append(error)
            self.tell(
                "callback_failed",
                level="error",
                callback=getattr(callback, "__qualname__", repr(callback)),
                error=f"{type(error).__name__}: {error}",
            )

    def tell(self, event: str, level: str = "info", **fields: Any) -> None:
        if self.plan.logger is not None:
            self.plan.logger.emit(event, level, run_id=self.run_id, pid=self.pid or None, **fields)

    def streams(self) -> list[Stream]:
        """Those still open."""
        return [one for one in (self.out, self.err) if one is not None and one.fd >= 0]

    # --- the end ------------------------------------------------------------------------------

    def look_for_exit(self) -> bool:
        """Whether the main process has ended; for those that nothing wakes us for."""
        if not self.exited:
            handle = self.handle
            # A child of ours is asked for by wait: exact, and no descriptor is needed.
            by_wait = self.link is None and (handle is None or handle.fileno() < 0)
            self.exited = not (_still_there(self.pid) if by_wait or handle is None else handle.alive())
        return self.exited

    def collect(self) -> None:
        """Collect the ended main process: its status, and what it and those it waited for have used."""
        with self.lock:
            if self.reaped:
                return
            self.reaped = True
        try:
            # By pidfd where there is one: were our child collected by somebody else, its number could be another's.
            fd = self.handle.fileno() if self.handle is not None else -1
            which = (os.P_PIDFD, fd) if fd >= 0 else (os.P_PID, self.pid)
            if os.waitid(*which, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                raise ChildProcessError
            _pid, status, used = os.wait4(self.pid, 0)
        except ChildProcessError:
            self._status_lost()
            return
        self.set_status(status)
        floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _platform.MAXRSS_UNIT
        self.result.usage = Usage(
            round(used.ru_utime, 6),
            round(used.ru_stime, 6),
            max(used.ru_maxrss * _platform.MAXRSS_UNIT, self.sampled_peak),
            used.ru_inblock * _platform.INBLOCK_UNIT if _platform.INBLOCK_UNIT else None,
            used.ru_oublock * _platform.INBLOCK_UNIT if _platform.INBLOCK_UNIT else None,
            floor,
        )

    def _status_lost(self) -> None:
        status = _platform.exit_status(self.handle) if self.handle is not None else None
        if status is not None:
            self.set_status(status)
        else:
            self.result._error = StatusLost(
                "its exit status was collected by somebody else in this process",
                place=self.shown[0],
                hint="leave SIGCHLD alone and wait for known pids only, or use contain='keeper'",
            )

    def set_status(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.result.return_code = code
        self.result.signal = signals.name(-code) if code < 0 else ""

    def time_out(self) -> None:
        """The deadline has come: told, and who has the output open is looked up while they still do."""
        self.result.timed_out = True
        self.result.pipe_holders = self._holders()
        self.tell_time_out()

    def _holders(self) -> list[Member]:
        """Who has the output open. The loop may close our ends meanwhile, so copies of them are looked at."""
        from safesh.process.ending import holders_of

        copies: list[int] = []
        found = {}
        try:
            with self.lock:
                for stream in self.streams():
                    copies.append(os.dup(stream.fd))
            for fd in copies:
                for one in holders_of(fd, {os.getpid()}):
                    found[(one.pid, one.start)] = one
        except OSError:
            pass  # no descriptor left to look with
        finally:
            for fd in copies:
                os.close(fd)
        return list(found.values())

    def tell_time_out(self) -> None:
        self.tell("process_timed_out", level="warning", timeout=self.plan.timeout)

    def conclude(self) -> None:
        """Everything is known: close what is left open, and tell."""
        result = self.result
        if self.streams() and not result.pipe_holders:
            result.pipe_holders = self._holders()
        with self.lock:
            self.departing = True  # from here on nobody signals through the handle
            self.close()
        if result.execution_time is None:
            result.execution_time = round(monotonic() - self.began, 6)
        if self.limit_error is not None and result._error is None:
            result._error = self.limit_error
        if result.timed_out and result._error is None:
            result._error = CommandTimeout(
                f"did not end within {self.plan.timeout:g} s and was ended",
                place=self.shown[0],
                timeout=self.plan.timeout or 0.0,
                holders=result.pipe_holders,
            )
        self.over = True
        if self.plan.logger is not None:
            self._tell_end()

    def _tell_end(self) -> None:
        result = self.result
        if result.leftovers is not None:
            self.tell(
                "process_leftovers", level="warning", members=[one.to_dict() for one in result.leftovers.asked[:20]]
            )
        error = result.error
        self.tell(
            "process_ended",
            level="info" if result.return_code == 0 and error is None else "warning",
            command=self.shown,
            mode=self.plan.mode,
            return_code=result.return_code,
            signal=result.signal,
            execution_time=result.execution_time,
            timed_out=result.timed_out,
            error=str(error) if error is not None else None,
            usage=result.usage.to_dict(),
        )

    def conclude_unstarted(self) -> None:
        """It could not be started, and the result says why."""
        self.over = True
        if self.plan.logger is not None:
            self._tell_end()
        self.finish()

    def orphan(self) -> None:
        """In a copy of the program made by fork(2): nothing of this is ours; see ``registry``."""
        self.lock = threading.RLock()
        self.talk = threading.Lock()
        self.finished_all = True
        self.finished.clear()
        for one in (self.out, self.err, self.feed):
            if one is not None:
                one.fd = -1
        self.line = -1
        for handle in (self.handle, self.link.handle if self.link is not None else None):
            if handle is not None:
                handle.close()
        self.handle = self.link = None

    def finish(self) -> None:
        """Wake whoever waits, after everything else."""
        with self.lock:
            self.finished_all = True
            waiting, self.finished = self.finished, []
            if self._done is not None:
                self._done.set()
        for call in waiting:
            call()

    def give(self) -> ExecutionResult:
        """The result for the caller, who keeps the job by it from here on."""
        result = self.result
        self.given = True
        return result

    def let_go(self) -> None:
        """Nobody finds it by its pid any more: it goes with its result, at once, and not when cycles are collected."""
        if not self.given:
            return
        self.given = False
        self.result = self.result.apart()
        self.monitor = self.is_full = self.take = None
        if self.outlet is not None:
            self.outlet.on_room = None
        for stream in (self.out, self.err):
            if stream is not None:
                stream.deliver = None

    def when_done(self, call: Callable[[], None]) -> None:
        with self.lock:
            if not self.finished_all:
                self.finished.append(call)
                return
        call()

    def spool(self, stream: str) -> Spool | None:
        """The store of a job in the loop; None for a stream that it has not."""
        store = self.stores.get(stream)
        return store if store is not None and hasattr(store, "unread") else None  # type: ignore[return-value]

    def weigh(self) -> tuple[int, int]:
        """(bytes of its output in memory, files that hold the rest)."""
        spools = [store for store in self.stores.values() if isinstance(store, Spool)]
        return sum(one.in_memory for one in spools), sum(one.has_file for one in spools)

    def wait(self, timeout: float | None = None) -> bool:
        if self.waits_for_itself:
            return self.over
        with self.lock:
            if self.finished_all:
                return True
            if self._done is None:
                self._done = threading.Event()
        return self._done.wait(timeout)

    def close(self) -> None:
        """Give every descriptor back, once: a number that was closed may be somebody else's by now."""
        if self.closed:
            return
        self.closed = True
        for stream in (self.out, self.err):
            if stream is not None:
                stream.close()
        if self.feed is not None:
            self.feed.close()
        if self.line >= 0:
            line, self.line = self.line, -1
            forking.close_fd(line)
        if self.handle is not None:
            self.handle.close()
        if self.link is not None:
            from safesh.core import holder

            holder.let_go(self.link)
        if self.monitor is not None:
            self.monitor.close()

    # --- what was kept ------------------------------------------------------------------------

    @property
    def truncated(self) -> bool:
        return any(store.lost for store in self.stores.values())

    def size_of(self, stream: str) -> int:
        store = self.stores.get(stream)
        return store.size if store is not None else 0

    def collected(self, stream: str) -> bytes:
        store = self.stores.get(stream)
        if store is None:
            return b""
        with self.lock:
            return store.all()

    def tail(self, stream: str, size: int) -> bytes:
        store = self.stores.get(stream)
        if store is None:
            return b""
        with self.lock:
            return store.tail(size)

    def show(self, data: bytes | bytearray) -> str:
        """``decode`` for people: never raises."""
        errors = self.plan.errors if self.encoding is not None and self.plan.errors != "strict" else "replace"
        return data.decode(self.encoding or "utf-8", errors)

    def decode(self, data: bytes) -> str:
        try:
            return data.decode(self.encoding or "utf-8", self.plan.errors if self.encoding else "replace")
        except UnicodeDecodeError as error:
            from safesh.process.errors import UndecodableOutput

            raise UndecodableOutput(
                f"is not {self.encoding}: {error.reason} at byte {error.start}",
                place=self.shown[0],
                hint="use errors='replace', or encoding=None for the bytes (result.stdout_bytes has them)",
            ) from None


def _still_there(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


_null = -1


def null_device() -> int:
    """/dev/null, opened once."""
    global _null
    if _null < 0:
        with forking.lock:
            if _null < 0:
                _null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return _null
