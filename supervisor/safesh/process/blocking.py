"""Drive one job in the caller's own thread: no other thread, no hand-over, nothing but poll(2) and the pipes."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

from safesh.clock import monotonic
from safesh.core.kill import KILL_SECONDS
from safesh.process.conclusion import DRAIN_SECONDS, SETTLE_SECONDS, collect, conclude, look_for_exit, time_out

if TYPE_CHECKING:
    from safesh._platform import Handle
    from safesh.model import StopPolicy, Verdict
    from safesh.process.job import Job
    from safesh.process.streams import Feed, Stream

_LOOK_AGAIN = 0.02  # seconds, where the end of a child wakes nobody (no pidfd)


class Drive:
    """One blocking run between its start and its result."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.watch = select.poll()
        self.open: dict[int, Stream | Feed] = {}
        for stream in job.streams():
            self.watch.register(stream.fd, select.POLLIN)
            self.open[stream.fd] = stream
        feed = job.feed
        if feed is not None and feed.fd >= 0:
            self.watch.register(feed.fd, select.POLLOUT)
            self.open[feed.fd] = feed
        handle = job.handle
        self.pidfd = handle.fileno() if handle is not None else -1
        if self.pidfd >= 0:
            self.watch.register(self.pidfd, select.POLLIN)

    def step(self, until: float | None, handles: list[Handle] | None = None) -> None:
        """Sleep until something happens or ``until`` comes, and deal with it."""
        job = self.job
        watch, blind = self.watch, self.pidfd < 0 and not job.exited
        extra = [one for one in handles or () if one.fileno() >= 0 and one.fileno() != self.pidfd]
        if handles:
            blind |= any(one.fileno() < 0 for one in handles)
            for one in extra:
                watch.register(one.fileno(), select.POLLIN)
        wait = None if until is None else max(0.0, until - monotonic())
        if blind:
            wait = _LOOK_AGAIN if wait is None else min(wait, _LOOK_AGAIN)
        try:
            # poll(2) counts whole milliseconds: rounded up, or the last one would spin.
            events = watch.poll(None if wait is None else min(wait * 1000 + 1, 2**31 - 1) if wait else 0)
        finally:
            for one in extra:
                watch.unregister(one.fileno())
        for fd, event in events:
            if fd == self.pidfd:
                job.exited = True
                watch.unregister(fd)
                continue
            end = self.open.get(fd)
            if end is None:
                continue
            if event & select.POLLNVAL or not end.pump():
                del self.open[fd]
                watch.unregister(fd)
                if end is not job.feed or job.feed.over:
                    end.close()
        if blind:
            look_for_exit(job)

    def reading(self) -> bool:
        job = self.job
        out, err = job.out, job.err
        return (out is not None and out.fd >= 0) or (err is not None and err.fd >= 0)

    def run(self) -> None:
        """Until the main process has ended and its output is here, or the deadline ended it."""
        job = self.job
        deadline = job.deadline
        while not job.exited or self.reading():
            until = deadline
            if job.exited:
                if job.settle_by is None:
                    job.settle_by = monotonic() + SETTLE_SECONDS
                until = job.settle_by if deadline is None else min(deadline, job.settle_by)
            self.step(until)
            if until is not None and monotonic() >= until and (not job.exited or self.reading()):
                if deadline is not None and monotonic() >= deadline:
                    time_out(job)
                    job.result.verdict = self.end(job.plan.stop)
                    return
                break
        collect(job)
        self.end_leftovers()

    def end_leftovers(self) -> None:
        """What the main process left behind, when it left anything."""
        from safesh.process.ending import Mark, anybody_left, leftovers

        job = self.job
        # With the run's id outside of its group, too: younger than the main process, so seldom anybody to look at.
        if self.reading() or anybody_left(job.pid) or leftovers(Mark(job.pid, job.start_time, job.run_id)):
            verdict = self.end(job.plan.stop, reap=False)
            if verdict.asked or verdict.killed or verdict.survivors:
                job.result.leftovers = verdict

    def end(self, policy: StopPolicy, *, now: bool = False, reap: bool = True) -> Verdict:
        """End the tree while its output is still taken, then drain what is left for a bounded time."""
        from safesh.process.ending import Mark, end_runs

        job = self.job

        def wait(handles: list[Handle], deadline: float) -> bool:
            self.step(deadline, handles)
            return False

        job.ending = True
        mark = Mark(job.pid, job.start_time, job.run_id)
        verdict = end_runs([mark], policy, now=now, wait=wait)[job.pid]
        drained_by = monotonic() + DRAIN_SECONDS
        while self.reading() and monotonic() < drained_by:
            self.step(drained_by)
        if reap and look_for_exit(job):
            collect(job)
        return verdict


def drive(job: Job) -> None:
    """Run a started job to its end. Whatever interrupts the caller (Ctrl-C) ends the tree first."""
    job.driver = threading.get_ident()
    one = Drive(job)
    try:
        one.run()
        if job.enders:  # another thread ends it, and has the verdict in a moment
            told = threading.Event()
            job.once_ended(told.set)
            told.wait(KILL_SECONDS)
    except BaseException:
        try:
            job.result.verdict = one.end(job.plan.stop)
        except BaseException:  # a second Ctrl-C: no more asking
            job.result.verdict = one.end(job.plan.stop, now=True)
            raise
        finally:
            conclude(job)
        raise
    conclude(job)


__all__ = ["Drive", "drive"]
