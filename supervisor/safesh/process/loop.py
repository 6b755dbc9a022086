"""One thread that looks after every command which nobody waits for: their output, input, deadlines and ends.

It sleeps in epoll(7) (poll(2) elsewhere) until something happens, reads and writes without ever waiting, and gives the
caller's callbacks and whatever takes time to other threads (``dispatch``).
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import select
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.core import forking
from safesh.core.keeper import KeeperLink
from safesh.process import kept, registry
from safesh.process.dispatch import Outlet, Pool
from safesh.process.job import DRAIN_SECONDS, SETTLE_SECONDS
from safesh.process.spool import Spool
from safesh.process.streams import Feed, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh._platform import Handle
    from safesh.errors import SafeshError
    from safesh.process.job import Job
    from safesh.process.streams import Store

_CALLBACK_THREADS = 16
_ENDING_THREADS = 32
_LOOK_AGAIN = 0.05  # seconds, where the end of a child wakes nobody (no pidfd)
_FEW = 16  # younger processes that are looked at in the loop itself
_MOST_LOOKED_UP = 16  # of those whose deadline comes at once: who has their output open (a look at all descriptors)
_HAS_EPOLL = hasattr(select, "epoll")
_NEEDED = ("safesh._platform.others", "safesh.process.ending", "safesh.process.endings")  # at every command's end
_READ, _WRITE = 1, 4  # POLLIN and POLLOUT, EPOLLIN and EPOLLOUT
_KEEP_LENT = 0.02  # seconds after an exchange in which the next one is likely
_ONCE = 1 << 30  # EPOLLONESHOT, and nothing to wait for


class Loop:
    """The thread and what it watches. Any thread may add jobs and ask for things."""

    def __init__(self) -> None:
        with forking.lock:
            # A copy made by fork(2) in the midst of an import could never import that: another thread has its lock.
            for name in _NEEDED:
                import_module(name)
        self.callbacks = Pool("safesh-callbacks", _CALLBACK_THREADS, self.after)
        self.endings = Pool("safesh-endings", _ENDING_THREADS, self.after)
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[Job, Stream | Feed | KeeperLink | Handle]] = {}
        self._timers: list[list[Any]] = []  # [when, number, call]; no call: fired or cancelled
        self._cancelled = 0
        self._number = itertools.count()
        self._overdue: list[Job] = []
        self._blind: set[Job] = set()
        self._departed: list[Job] = []
        self._awake = False
        self._sleeps_until = 0.0
        self._thread = threading.Thread(target=self._run, name="safesh-loop", daemon=True)
        self._wake_read, self._wake_write = forking.make_pipe()
        self._poller: Any = None
        try:
            for fd in (self._wake_read, self._wake_write):
                os.set_blocking(fd, False)
            self._poller = select.epoll() if _HAS_EPOLL else select.poll()
            self._poller.register(self._wake_read, _READ)
            self.endings.open()
            self.callbacks.open()
            self._thread.start()
        except BaseException:
            # Threads of the pools that came to be stay, and wait for nothing.
            self.close()
            for fd in (self._wake_read, self._wake_write):
                forking.close_fd(fd)
            raise

    def close(self) -> None:
        """Give the poller's descriptor back."""
        if _HAS_EPOLL and self._poller is not None:
            self._poller.close()

    # --- from any thread ----------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Look after a started job from now on."""
        # Timers first: as soon as its end is watched it may be over, and nobody would cancel what comes later.
        if job.deadline is not None:
            self.at(job.deadline, lambda: self._deadline(job), job)
        if job.monitor is not None:
            self.at(job.monitor.due, lambda: self._sample(job), job)
        for stream in job.streams():
            os.set_blocking(stream.fd, False)
            self.watch(job, stream, _READ)
        feed = job.feed
        if feed is not None and feed.fd >= 0:
            with job.lock:
                self._pump_feed(job, feed)
        if job.link is not None:
            for message in job.early:
                self._hear(job, message)
            self.watch(job, job.link, _READ)
        elif job.handle is not None and job.handle.fileno() >= 0:
            self.watch(job, job.handle, _READ)
        else:
            self._blind.add(job)
            self._wake()

    def watch(self, job: Job, end: Stream | Feed | KeeperLink | Handle, events: int) -> None:
        if isinstance(end, (Stream, Feed)):
            fd = end.fd
        else:
            fd = end.report if isinstance(end, KeeperLink) else end.fileno()
        self._watched[fd] = (job, end)
        try:
            self._poller.register(fd, events)
        except FileExistsError:
            self._poller.modify(fd, events)
        if not _HAS_EPOLL:
            self._wake()

    def lend(self, job: Job, stream: Stream) -> None:
        """Somebody else reads from this stream for a while, and the loop does not. With ``job.lock`` held.

        A hang-up is told all the same (epoll_ctl(2)), but only once, and ``_serve`` passes over what is lent. Changing
        the mask is cheaper than to leave the set and come back.
        """
        job.heard = stream
        if _HAS_EPOLL and stream.fd in self._watched:
            self._poller.modify(stream.fd, _ONCE)
        else:
            self.forget(stream.fd)

    def lend_for_now(self, job: Job, stream: Stream) -> None:
        """Lent until some moments after the last exchange, so that a conversation of many short ones pays only once.

        With ``job.lock`` and ``job.talk`` held.
        """
        self.lend(job, stream)
        self.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))

    def _take_back_idle(self, job: Job, stream: Stream) -> None:
        if job.heard is not stream or stream.fd < 0:
            return
        if not job.talk.acquire(False):
            self.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))
            return
        try:
            with job.lock:
                if job.heard is stream:
                    if not job.exited and monotonic() - job.heard_at < _KEEP_LENT:
                        self.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))
                    else:
                        self.take_back(job, stream)
        finally:
            job.talk.release()

    def take_back(self, job: Job, stream: Stream) -> None:
        """With ``job.lock`` held."""
        job.heard = None
        fd = stream.fd
        if fd >= 0:
            if fd in self._watched:
                self._poller.modify(fd, _READ)
            else:
                self.watch(job, stream, _READ)

    def forget(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            try:
                self._poller.unregister(fd)
            except (OSError, KeyError, ValueError):
                pass

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        self.at(monotonic() + seconds, call)

    def at(self, when: float, call: Callable[[], object], job: Job | None = None) -> None:
        """Call it in the loop at ``when`` (monotonic seconds); not any more once ``job`` is over."""
        entry = [when, next(self._number), call]
        with self._lock:
            if job is not None:
                if job.over:
                    return
                if len(job.timers) > 8:
                    job.timers = [one for one in job.timers if one[2] is not None]
                job.timers.append(entry)
            heapq.heappush(self._timers, entry)
            wake = when < self._sleeps_until
        if wake:
            self._wake()

    def _cancel(self, job: Job) -> None:
        """Its timers hold it no longer: a deadline may be hours away."""
        with self._lock:
            for entry in job.timers:
                if entry[2] is not None:
                    entry[2] = None
                    self._cancelled += 1
            job.timers.clear()
            if self._cancelled > 64 and self._cancelled * 2 > len(self._timers):
                self._timers = [entry for entry in self._timers if entry[2] is not None]
                heapq.heapify(self._timers)
                self._cancelled = 0

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                os.write(self._wake_write, b"x")
            except OSError:
                pass

    def push(self, job: Job) -> None:
        """Something was added to the job's feed: write it, now or when it is taken. With ``job.lock`` held."""
        if job.feed is not None and job.feed.fd >= 0:
            self._pump_feed(job, job.feed)

    def close_stream(self, stream: Stream | Feed) -> None:
        self.forget(stream.fd)
        stream.close()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._awake = False
            wait = self._prepare_sleep()
            for fd, _event in self._poller.poll(wait):
                if fd == self._wake_read:
                    self._drain_wake()
                    continue
                self._attend(fd)
            self._sleeps_until = 0.0
            self._fire()
            if self._blind:
                self._look_around()

    # In functions of their own, so that nothing here holds a job while it sleeps.

    def _attend(self, fd: int) -> None:
        found = self._watched.get(fd)
        if found is not None:
            self._guard(found[0], self._serve, fd, *found)

    def _look_around(self) -> None:
        for job in list(self._blind):
            self._guard(job, self._look_blindly, job)

    def _prepare_sleep(self) -> float:
        """What the poller takes; a timer that is added from now on and comes earlier wakes it."""
        now = monotonic()
        with self._lock:
            until = self._timers[0][0] if self._timers else float("inf")
            if self._blind:
                until = min(until, now + _LOOK_AGAIN)
            self._sleeps_until = until
        if until == float("inf"):
            return -1
        wait = min(max(0.0, until - now), 86400.0)  # epoll_wait(2) counts milliseconds in an int
        return wait if _HAS_EPOLL else wait * 1000 + 1

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def _fire(self) -> None:
        now = monotonic()
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > now:
                    return
                entry = heapq.heappop(self._timers)
                call, entry[2] = entry[2], None
                if call is None:
                    self._cancelled -= 1
                    continue
            try:
                call()
            except Exception:
                _report()

    def _guard(self, job: Job, call: Callable[..., object], *arguments: Any) -> None:
        """One job's trouble is never another's."""
        try:
            call(*arguments)
        except Exception as error:
            _report()
            if job.result._error is None:
                from safesh.errors import ResourceError

                job.result._error = ResourceError(f"could not be looked after: {error}", place=job.shown[0])
            self.endings.submit(lambda: self._give_up(job))

    def _guard_only(self, call: Callable[[], object]) -> None:
        """What is good to know must not keep the rest from being done."""
        try:
            call()
        except Exception:
            _report()

    def _give_up(self, job: Job) -> None:
        try:
            self._end(job, now=True)
        finally:
            if job.exited:
                job.collect()
            self._conclude(job)

    def _serve(self, fd: int, job: Job, end: Stream | Feed | KeeperLink | Handle) -> None:
        with job.lock:
            if end is job.heard or self._watched.get(fd, (None, None))[1] is not end:
                return
            if isinstance(end, Stream):
                if not end.pump():
                    self.close_stream(end)
                elif job.full and end.deliver is not None:
                    self._hold_back(job, end)
                    return
                else:
                    return
            elif isinstance(end, Feed):
                self._pump_feed(job, end)
                return
            elif isinstance(end, KeeperLink):
                self._listen(job, end)
            elif not end.alive():
                self.forget(fd)
                job.exited = True
            else:
                return
        if job.heard is not None:
            self._take_back_idle(job, job.heard)
        self.progress(job)

    def _pump_feed(self, job: Job, feed: Feed) -> None:
        if feed.pump():
            if feed.fd not in self._watched:
                self.watch(job, feed, _WRITE)
            return
        if feed.over:
            self.close_stream(feed)
        else:
            self.forget(feed.fd)
        if job.taken is not None:
            job.taken.set()

    def _hold_back(self, job: Job, stream: Stream) -> None:
        """Callbacks are behind: nothing more is read until they have caught up, and the pipe holds the child back."""
        self.forget(stream.fd)
        job.held_back.append(stream)
        if job.outlet is not None and job.take is None:
            job.outlet.on_room = lambda: self.resume(job)
        if not job.full:  # they caught up meanwhile
            self.resume(job)

    def resume(self, job: Job) -> None:
        """Read on where ``_hold_back`` stopped; from any thread."""
        with job.lock:
            held, job.held_back = job.held_back, []
            for stream in held:
                if stream.fd >= 0 and stream is not job.heard:
                    self.watch(job, stream, _READ)

    def _listen(self, job: Job, link: KeeperLink) -> None:
        messages, more = link.read()
        for message in messages:
            self._hear(job, message)
        if not more:
            self.forget(link.report)
            job.keeper_gone = True
            if not job.kept_done:
                kept.lost(job)

    def _hear(self, job: Job, message: dict[str, Any]) -> None:
        if kept.hear(job, message):
            job.kept_done = True

    def _look_blindly(self, job: Job) -> None:
        if job.look_for_exit():
            self._blind.discard(job)
            self.progress(job)

    # --- the end ------------------------------------------------------------------------------

    def progress(self, job: Job) -> None:
        """The main process has ended, or an output: is that all?"""
        if job.over or job.departing or not job.exited:
            return
        if job.link is not None and not job.keeper_gone:
            return  # the keeper ends what is left, and tells
        if job.streams():
            if job.settle_by is None:
                wait = SETTLE_SECONDS if job.link is None and not job.ending else DRAIN_SECONDS
                job.settle_by = monotonic() + wait
                self.at(job.settle_by, lambda: self._settled(job), job)
            return
        self._depart(job)

    def _settled(self, job: Job) -> None:
        if job.over or job.departing or not job.exited or (job.link is not None and not job.keeper_gone):
            return
        if job.full and not job.ending:  # its output waits for its callbacks, not for a process
            self.at(monotonic() + DRAIN_SECONDS, lambda: self._settled(job), job)
            return
        self._depart(job)

    def _depart(self, job: Job) -> None:
        """Collect it, end what it left behind, and conclude; the last two elsewhere when they take time."""
        with job.lock:
            if job.departing:
                return
            job.departing = True
        if job.link is not None:
            self.endings.submit(lambda: self._bury_kept(job))
            return
        job.known_start(job.start_time)  # looked up while the number is still its own
        job.collect()
        if job.ending and not job.streams():
            self._conclude(job)
            return
        if not job.streams() and not self._left_somebody(job):
            self._conclude(job)
            return
        with self._lock:
            self._departed.append(job)
            if len(self._departed) > 1:
                return  # somebody is on the way
        self.endings.submit(self._see_off)

    def _left_somebody(self, job: Job) -> bool:
        """Whether it may have left somebody behind; where that is dear to know, yes: ``_see_off`` looks for many."""
        from safesh._platform import others
        from safesh.process.ending import anybody_left, leftovers

        if anybody_left(job.pid):
            return True
        try:
            younger = others.born_since(job.pid)
            if younger is None or len(younger) > _FEW:
                return True
            return bool(younger) and bool(leftovers(job.mark()))
        except OSError:
            return True  # no descriptor left to look with

    def _see_off(self) -> None:
        """Those who departed since the last look: one look for all of them."""
        from safesh.process.endings import who_is_left

        while True:
            with self._lock:
                jobs = list(self._departed)
            try:
                found = who_is_left([job.mark() for job in jobs])
            except Exception:  # no descriptor left to look with: each for itself, which does without
                found = {}
            for job in jobs:
                if found.get(job.pid, True) or job.streams():
                    self.endings.submit(lambda job=job: self._end_leftovers(job))  # type: ignore[misc]
                else:
                    self._conclude(job)
            with self._lock:
                del self._departed[: len(jobs)]
                if not self._departed:
                    return

    def _end_leftovers(self, job: Job) -> None:
        from safesh.process.ending import end_runs

        try:
            verdict = end_runs([job.mark()], job.plan.stop)[job.pid]
            if verdict.asked or verdict.killed or verdict.survivors:
                job.result.leftovers = verdict
            self._drain(job)
        finally:
            self._conclude(job)

    def _drain(self, job: Job) -> None:
        """Wait, a bounded time, for output that is still on its way."""
        deadline = monotonic() + DRAIN_SECONDS
        for stream in job.streams():
            watch = select.poll()
            while stream.fd >= 0 and (left := deadline - monotonic()) > 0:
                with job.lock:
                    if stream.fd < 0 or not stream.pump():
                        self.close_stream(stream)
                        break
                    fd = stream.fd
                watch.register(fd, select.POLLIN)
                watch.poll(left * 1000)
                watch.unregister(fd)

    def _bury_kept(self, job: Job) -> None:
        from safesh.process.ending import end_runs

        assert job.link is not None
        try:
            kept.collect_keeper(job.link.pid)
            if not job.kept_done:
                job.result.leftovers = end_runs([job.mark()], job.plan.stop)[job.pid]
                kept.remove_group(job)
            self._drain(job)
        finally:
            self._conclude(job)

    def _deadline(self, job: Job) -> None:
        with self._lock:
            self._overdue.append(job)
            if len(self._overdue) > 1:
                return  # somebody is on the way
        self.endings.submit(self._time_out)

    def _time_out(self) -> None:
        """Those whose deadline has come, all at the price of one."""
        from safesh.process.endings import end_jobs

        with self._lock:
            overdue, self._overdue = self._overdue, []
        jobs = []
        for job in overdue:
            with job.lock:
                if job.over or job.departing:
                    continue
                job.result.timed_out = True
            jobs.append(job)
        for job in jobs[:_MOST_LOOKED_UP]:
            self._guard_only(job.time_out)
        for job in jobs[_MOST_LOOKED_UP:]:
            job.tell_time_out()
        end_jobs(jobs)
        for job in jobs:
            self._settled(job)  # where somebody outside of the tree, or a survivor, keeps its output open

    def _sample(self, job: Job) -> None:
        monitor = job.monitor
        if job.over or job.exited or monitor is None:
            return
        try:
            error = monitor.look()
        except Exception as problem:  # looking ends nothing, and the next look may do better
            job.tell("monitoring_failed", level="warning", error=f"{type(problem).__name__}: {problem}")
            self.after(1.0, lambda: self._sample(job))
            return
        if error is not None:
            job.limit_error = error
            self.endings.submit(lambda: self._end(job))
            return
        self.at(monitor.due, lambda: self._sample(job), job)

    def _end(self, job: Job, *, now: bool = False) -> None:
        from safesh.process.endings import end_jobs

        if not job.over:
            end_jobs([job], now=now)
            self._settled(job)  # where somebody outside of the tree, or a survivor, keeps its output open

    def _conclude(self, job: Job) -> None:
        job.once_ended(lambda: self._conclude_now(job))

    def _conclude_now(self, job: Job) -> None:
        with job.lock:
            if job.over:
                return
            for stream in (job.out, job.err, job.feed):
                if stream is not None and stream.fd >= 0:
                    self.forget(stream.fd)
            if job.handle is not None:
                self.forget(job.handle.fileno())
            if job.link is not None:
                self.forget(job.link.report)
            self._blind.discard(job)
            result = job.result
            job.conclude()
        self._cancel(job)
        registry.settle(job, keep=True)
        if job.taken is not None:
            job.taken.set()
        if job.outlet is None:
            job.finish()
            return
        if job.plan.on_complete is not None:
            job.outlet.post(job.call, job.plan.on_complete, result)
        job.outlet.post(job.finish)


def is_loop_thread() -> bool:
    return _loop is not None and threading.current_thread() is _loop._thread


def _report() -> None:
    import traceback

    try:
        traceback.print_exc(file=sys.stderr)
    except Exception:
        pass  # nowhere to tell it; the loop goes on


_loop: Loop | None = None
_making = threading.Lock()


def get() -> Loop:
    """The loop, started when it is first needed."""
    global _loop
    found = _loop
    if found is None:
        with _making:
            found = _loop or Loop()
            _loop = found
    return found


def forget() -> None:
    """In a copy of the program made by fork(2) there is no such thread."""
    global _loop, _making
    if _loop is not None:
        _loop.close()  # now, while the number is its own
    _loop = None
    _making = threading.Lock()


def run(job: Job) -> None:
    """Start a job and have the loop look after it; returns at once."""
    try:
        loop = get()
    except (OSError, RuntimeError) as error:  # no descriptor, or no thread, for the loop itself
        job._fail(_exhausted(job, error))
        job.conclude_unstarted()
        return
    plan = job.plan

    def store(limit: int | None) -> Store:
        return Spool(limit)

    if job.take is None and (plan.on_output or plan.on_error or plan.on_complete or plan.on_sample):
        job.outlet = Outlet(loop.callbacks)
    try:
        if not job.begin(store):
            job.conclude_unstarted()
            if job.outlet is not None and plan.on_complete is not None:
                job.outlet.post(job.call, plan.on_complete, job.result)
            return
        registry.add(job)
        if plan.mode == "monitored" or plan.limits is not None or plan.on_sample is not None:
            _watch(job)
        job.tell("process_started", command=job.shown, mode=plan.mode)
        loop.add(job)
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C
            if job.pid and not job.over:
                loop._give_up(job)
            raise
        if not job.pid:
            raise  # nothing was started
        job.result._error = _exhausted(job, error)
        loop._give_up(job)


def _watch(job: Job) -> None:
    from safesh.model import Limits
    from safesh.process.monitor import Monitor

    limits = job.plan.limits
    try:
        job.monitor = Monitor(job, limits)
    except Exception as problem:
        if limits is not None and limits != Limits(interval=limits.interval):
            raise  # a ceiling that nobody looks at is none
        job.tell("monitoring_failed", level="warning", error=f"{type(problem).__name__}: {problem}")


def _exhausted(job: Job, error: Exception) -> SafeshError:
    from safesh.core.spawn import explain_exhausted

    if not isinstance(error, OSError):
        error = OSError(errno.EAGAIN, str(error))
    return explain_exhausted(job.shown[0], error)


def wait_blocking(job: Job) -> None:
    """Wait for the end; whatever interrupts that (Ctrl-C) ends the tree first."""
    try:
        job.wait()
    except BaseException:
        from safesh.process.endings import end_jobs

        try:
            end_jobs([job])
        except BaseException:  # a second Ctrl-C: no more asking
            end_jobs([job], now=True)
            raise
        raise
