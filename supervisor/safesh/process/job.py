"""One command of the process API: all that is known of it, and what its driver, its enders and its callers share.

A job is driven by one of two: ``blocking.drive`` in the caller's own thread, or the loop that all others share. Both
take the same steps: ``beginning`` starts it, ``conclusion`` collects and concludes it, ``output`` gives what was kept.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import forking
from safesh.process.result import ExecutionResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safesh._platform import Handle
    from safesh.core.keeper import KeeperLink
    from safesh.model import Verdict
    from safesh.process.arguments import Plan
    from safesh.process.dispatch import Outlet
    from safesh.process.ending import Mark
    from safesh.process.errors import LimitExceeded
    from safesh.process.monitor import Monitor, Sample
    from safesh.process.streams import Feed, Store, Stream


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

    # --- who it is ----------------------------------------------------------------------------

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
