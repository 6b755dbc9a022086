"""Run one job without waiting for it: started here and now, in the caller's thread, and looked after by the loop.

The counterpart of ``blocking``. From the start on nothing may get lost between the two threads: what goes wrong before
the loop has the job ends its tree, and a job that never had a pid ends nobody.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from safesh.process import beginning, loop, registry
from safesh.process.conclusion import conclude_unstarted
from safesh.process.dispatch import Outlet
from safesh.process.spool import Spool

if TYPE_CHECKING:
    from safesh.errors import SafeshError
    from safesh.process.job import Job
    from safesh.process.streams import Store


def run(job: Job) -> None:
    """Start a job and have the loop look after it; returns at once."""
    try:
        the_loop = loop.get()
    except (OSError, RuntimeError) as error:  # no descriptor, or no thread, for the loop itself
        beginning.fail(job, _exhausted(job, error))
        conclude_unstarted(job)
        return
    plan = job.plan

    def store(limit: int | None) -> Store:
        return Spool(limit)

    if job.take is None and (plan.on_output or plan.on_error or plan.on_complete or plan.on_sample):
        job.outlet = Outlet(the_loop.callbacks)
    try:
        if not beginning.begin(job, store):
            conclude_unstarted(job)
            if job.outlet is not None and plan.on_complete is not None:
                job.outlet.post(job.call, plan.on_complete, job.result)
            return
        registry.add(job)
        if plan.mode == "monitored" or plan.limits is not None or plan.on_sample is not None:
            _watch(job)
        job.tell("process_started", command=job.shown, mode=plan.mode)
        the_loop.add(job)
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C
            if job.pid and not job.over:
                the_loop.departures.give_up(job)
            raise
        if not job.pid:
            raise  # nothing was started
        job.result._error = _exhausted(job, error)
        the_loop.departures.give_up(job)


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


def wait(job: Job) -> None:
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
