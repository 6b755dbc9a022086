"""How a command's end becomes its result: status and usage collected, a deadline told, descriptors given back.

Whoever drives the job decides when; these steps are the same for all. A child is collected once, and by what cannot
mean another: its pidfd, or its number while it is not collected yet.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import signals
from safesh.process.errors import CommandTimeout, StatusLost
from safesh.process.result import Usage

if TYPE_CHECKING:
    from safesh.model import Member
    from safesh.process.job import Job

DRAIN_SECONDS = 0.5  # for output that is still on its way when everybody has been ended
SETTLE_SECONDS = 1.0  # for what the main process left behind to finish writing, before it is ended


def look_for_exit(job: Job) -> bool:
    """Whether the main process has ended; for those that nothing wakes us for."""
    if not job.exited:
        handle = job.handle
        # A child of ours is asked for by wait: exact, and no descriptor is needed.
        by_wait = job.link is None and (handle is None or handle.fileno() < 0)
        job.exited = not (_still_there(job.pid) if by_wait or handle is None else handle.alive())
    return job.exited


def _still_there(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def collect(job: Job) -> None:
    """Collect the ended main process: its status, and what it and those it waited for have used."""
    with job.lock:
        if job.reaped:
            return
        job.reaped = True
    try:
        # By pidfd where there is one: were our child collected by somebody else, its number could be another's.
        fd = job.handle.fileno() if job.handle is not None else -1
        which = (os.P_PIDFD, fd) if fd >= 0 else (os.P_PID, job.pid)
        if os.waitid(*which, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            raise ChildProcessError
        _pid, status, used = os.wait4(job.pid, 0)
    except ChildProcessError:
        _status_lost(job)
        return
    _set_status(job, status)
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _platform.MAXRSS_UNIT
    job.result.usage = Usage(
        round(used.ru_utime, 6),
        round(used.ru_stime, 6),
        max(used.ru_maxrss * _platform.MAXRSS_UNIT, job.sampled_peak),
        used.ru_inblock * _platform.INBLOCK_UNIT if _platform.INBLOCK_UNIT else None,
        used.ru_oublock * _platform.INBLOCK_UNIT if _platform.INBLOCK_UNIT else None,
        floor,
    )


def _status_lost(job: Job) -> None:
    status = _platform.exit_status(job.handle) if job.handle is not None else None
    if status is not None:
        _set_status(job, status)
    else:
        job.result._error = StatusLost(
            "its exit status was collected by somebody else in this process",
            place=job.shown[0],
            hint="leave SIGCHLD alone and wait for known pids only, or use contain='keeper'",
        )


def _set_status(job: Job, status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    job.result.return_code = code
    job.result.signal = signals.name(-code) if code < 0 else ""


def time_out(job: Job) -> None:
    """The deadline has come: told, and who has the output open is looked up while they still do."""
    job.result.timed_out = True
    job.result.pipe_holders = _holders(job)
    tell_time_out(job)


def _holders(job: Job) -> list[Member]:
    """Who has the output open. The loop may close our ends meanwhile, so copies of them are looked at."""
    from safesh.process.ending import holders_of

    copies: list[int] = []
    found = {}
    try:
        with job.lock:
            for stream in job.streams():
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


def tell_time_out(job: Job) -> None:
    job.tell("process_timed_out", level="warning", timeout=job.plan.timeout)


def conclude(job: Job) -> None:
    """Everything is known: close what is left open, and tell."""
    result = job.result
    if job.streams() and not result.pipe_holders:
        result.pipe_holders = _holders(job)
    with job.lock:
        job.departing = True  # from here on nobody signals through the handle
        job.close()
    if result.execution_time is None:
        result.execution_time = round(monotonic() - job.began, 6)
    if job.limit_error is not None and result._error is None:
        result._error = job.limit_error
    if result.timed_out and result._error is None:
        result._error = CommandTimeout(
            f"did not end within {job.plan.timeout:g} s and was ended",
            place=job.shown[0],
            timeout=job.plan.timeout or 0.0,
            holders=result.pipe_holders,
        )
    job.over = True
    if job.plan.logger is not None:
        _tell_end(job)


def _tell_end(job: Job) -> None:
    result = job.result
    if result.leftovers is not None:
        job.tell("process_leftovers", level="warning", members=[one.to_dict() for one in result.leftovers.asked[:20]])
    error = result.error
    job.tell(
        "process_ended",
        level="info" if result.return_code == 0 and error is None else "warning",
        command=job.shown,
        mode=job.plan.mode,
        return_code=result.return_code,
        signal=result.signal,
        execution_time=result.execution_time,
        timed_out=result.timed_out,
        error=str(error) if error is not None else None,
        usage=result.usage.to_dict(),
    )


def conclude_unstarted(job: Job) -> None:
    """It could not be started, and the result says why."""
    job.over = True
    if job.plan.logger is not None:
        _tell_end(job)
    job.finish()
