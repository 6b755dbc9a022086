"""How the loop sees a job off: what it left behind is ended, its last output drained, its result concluded.

A main process that has ended is not yet the end: others may hold its output open, or live on beyond it. Whatever takes
time happens in the pool of endings, and for many jobs at once where they end together: a look at all processes costs
the same for one of them as for a thousand.
"""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

from safesh.clock import monotonic
from safesh.process import kept, registry, trouble
from safesh.process.conclusion import DRAIN_SECONDS, SETTLE_SECONDS, collect, conclude, tell_time_out, time_out

if TYPE_CHECKING:
    from safesh.process.dispatch import Pool
    from safesh.process.job import Job
    from safesh.process.poller import Poller
    from safesh.process.timers import Timers

_FEW = 16  # younger processes that are looked at in the loop itself
_LOOK_UP_SECONDS = 0.2  # for all whose deadline comes at once: who has their output open (a look at all descriptors)


class Departures:
    """Jobs on their way out. endings: the threads for what takes time."""

    def __init__(self, poller: Poller, timers: Timers, endings: Pool) -> None:
        self._poller = poller
        self._timers = timers
        self._endings = endings
        self._lock = threading.Lock()
        self._overdue: list[Job] = []
        self._looking_up = False
        self._departed: list[Job] = []

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
                self._timers.at(job.settle_by, lambda: self._settled(job), job)
            return
        self._depart(job)

    def _settled(self, job: Job) -> None:
        if job.over or job.departing or not job.exited or (job.link is not None and not job.keeper_gone):
            return
        if job.full and not job.ending:  # its output waits for its callbacks, not for a process
            self._timers.at(monotonic() + DRAIN_SECONDS, lambda: self._settled(job), job)
            return
        self._depart(job)

    def _depart(self, job: Job) -> None:
        """Collect it, end what it left behind, and conclude; the last two elsewhere when they take time."""
        with job.lock:
            if job.departing:
                return
            job.departing = True
        if job.link is not None:
            self._endings.submit(lambda: self._bury_kept(job))
            return
        job.known_start(job.start_time)  # looked up while the number is still its own
        collect(job)
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
        self._endings.submit(self._see_off)

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
            # Where many short ones run beside each other, most of the younger ones are those others themselves.
            return not all(map(registry.leads, younger)) and bool(leftovers(job.mark()))
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
                    self._endings.submit(lambda job=job: self._end_leftovers(job))  # type: ignore[misc]
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
                        self._poller.close_stream(stream)
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

    def time_out(self, job: Job) -> None:
        """Its deadline has come."""
        with self._lock:
            self._overdue.append(job)
            if self._looking_up:
                return  # those before it are being looked up; then comes everybody who is due by that time
            self._looking_up = True
        self._endings.submit(self._end_overdue)

    def _end_overdue(self) -> None:
        """Those whose deadline has come, all at the price of one."""
        from safesh.process.endings import end_jobs

        began = monotonic()
        with self._lock:
            overdue, self._overdue = self._overdue, []
        jobs = []
        for job in overdue:
            with job.lock:
                if job.over or job.departing:
                    continue
                job.result.timed_out = True
            jobs.append(job)
        try:
            for job in jobs:
                if monotonic() - began < _LOOK_UP_SECONDS:
                    trouble.attempt(lambda job=job: time_out(job))  # type: ignore[misc]
                else:
                    tell_time_out(job)
        finally:
            with self._lock:
                self._looking_up = bool(self._overdue)
            if self._looking_up:
                self._endings.submit(self._end_overdue)
        end_jobs(jobs)
        for job in jobs:
            self._settled(job)  # where somebody outside of the tree, or a survivor, keeps its output open

    def end(self, job: Job, *, now: bool = False) -> None:
        """End its tree, here and now; that takes time."""
        from safesh.process.endings import end_jobs

        if not job.over:
            end_jobs([job], now=now)
            self._settled(job)  # where somebody outside of the tree, or a survivor, keeps its output open

    def give_up(self, job: Job) -> None:
        """It cannot be looked after any more: its tree ends, and so does the job."""
        try:
            self.end(job, now=True)
        finally:
            if job.exited:
                collect(job)
            self._conclude(job)

    def _conclude(self, job: Job) -> None:
        job.once_ended(lambda: self._conclude_now(job))

    def _conclude_now(self, job: Job) -> None:
        with job.lock:
            if job.over:
                return
            self._poller.forget_job(job)
            result = job.result
            conclude(job)
        self._timers.cancel(job)
        registry.settle(job, keep=True)
        if job.taken is not None:
            job.taken.set()
        if job.outlet is None:
            job.finish()
            return
        if job.plan.on_complete is not None:
            job.outlet.post(job.call, job.plan.on_complete, result)
        job.outlet.post(job.finish)
