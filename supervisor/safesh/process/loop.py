"""One thread that looks after every command which nobody waits for: their output, input, deadlines and ends.

It sleeps in epoll(7) (poll(2) elsewhere) until something happens, reads and writes without ever waiting, and gives the
caller's callbacks and whatever takes time to other threads (``dispatch``). What it does in between has rooms of its
own: ``poller`` (what it sleeps on), ``timers``, ``serving`` (the streams) and ``departures`` (the ends).
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from safesh.core import forking
from safesh.process import trouble
from safesh.process.conclusion import look_for_exit
from safesh.process.departures import Departures
from safesh.process.dispatch import Pool
from safesh.process.poller import READ, Poller
from safesh.process.serving import Serving
from safesh.process.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.process.job import Job

_CALLBACK_THREADS = 16
_ENDING_THREADS = 32
_NEEDED = ("safesh._platform.others", "safesh.process.ending", "safesh.process.endings")  # at every command's end


class Loop:
    """The thread and what it watches. Any thread may add jobs and ask for things."""

    def __init__(self) -> None:
        with forking.lock:
            # A copy made by fork(2) in the midst of an import could never import that: another thread has its lock.
            for name in _NEEDED:
                import_module(name)
        self.poller = Poller()
        try:
            self.timers = Timers(self.poller.wake)
            self.callbacks = Pool("safesh-callbacks", _CALLBACK_THREADS, self.timers.after)
            self.endings = Pool("safesh-endings", _ENDING_THREADS, self.timers.after)
            self.departures = Departures(self.poller, self.timers, self.endings)
            self.serving = Serving(self.poller, self.timers, self.departures)
            self.thread = threading.Thread(target=self._run, name="safesh-loop", daemon=True)
            self.endings.open()
            self.callbacks.open()
            self.thread.start()
        except BaseException:
            # Threads of the pools that came to be stay, and wait for nothing.
            self.poller.discard()
            raise

    def add(self, job: Job) -> None:
        """Look after a started job from now on; from any thread."""
        # Timers first: as soon as its end is watched it may be over, and nobody would cancel what comes later.
        if job.deadline is not None:
            self.timers.at(job.deadline, lambda: self.departures.time_out(job), job)
        if job.monitor is not None:
            self.timers.at(job.monitor.due, lambda: self._sample(job), job)
        poller = self.poller
        for stream in job.streams():
            os.set_blocking(stream.fd, False)
            poller.watch(job, stream, READ)
        feed = job.feed
        if feed is not None and feed.fd >= 0:
            with job.lock:
                self.serving.pump_feed(job, feed)
        if job.link is not None:
            for message in job.early:
                self.serving.hear(job, message)
            poller.watch(job, job.link, READ)
        elif job.handle is not None and job.handle.fileno() >= 0:
            poller.watch(job, job.handle, READ)
        else:
            poller.watch_blindly(job)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        poller, timers = self.poller, self.timers
        while True:
            poller.awake = False
            for fd, _event in poller.poll(timers.prepare_sleep(bool(poller.blind))):
                if fd == poller.wake_read:
                    poller.drain_wake()
                    continue
                self._attend(fd)
            timers.call_due()
            if poller.blind:
                self._look_around()

    # In functions of their own, so that nothing here holds a job while it sleeps.

    def _attend(self, fd: int) -> None:
        found = self.poller.watched.get(fd)
        if found is not None:
            self._guard(found[0], self.serving.serve, fd, *found)

    def _look_around(self) -> None:
        for job in list(self.poller.blind):
            self._guard(job, self._look_blindly, job)

    def _look_blindly(self, job: Job) -> None:
        if look_for_exit(job):
            self.poller.blind.discard(job)
            self.departures.progress(job)

    def _guard(self, job: Job, call: Callable[..., object], *arguments: Any) -> None:
        """One job's trouble is never another's."""
        try:
            call(*arguments)
        except Exception as error:
            trouble.report()
            if job.result._error is None:
                from safesh.errors import ResourceError

                job.result._error = ResourceError(f"could not be looked after: {error}", place=job.shown[0])
            self.endings.submit(lambda: self.departures.give_up(job))

    def _sample(self, job: Job) -> None:
        monitor = job.monitor
        if job.over or job.exited or monitor is None:
            return
        try:
            error = monitor.look()
        except Exception as problem:  # looking ends nothing, and the next look may do better
            job.tell("monitoring_failed", level="warning", error=f"{type(problem).__name__}: {problem}")
            self.timers.after(1.0, lambda: self._sample(job))
            return
        if error is not None:
            job.limit_error = error
            self.endings.submit(lambda: self.departures.end(job))
            return
        self.timers.at(monitor.due, lambda: self._sample(job), job)


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


def is_loop_thread() -> bool:
    return _loop is not None and threading.current_thread() is _loop.thread


def forget() -> None:
    """In a copy of the program made by fork(2) there is no such thread."""
    global _loop, _making
    if _loop is not None:
        _loop.poller.close()  # now, while the number is its own
    _loop = None
    _making = threading.Lock()
