"""Every process this API started, by pid: those that run, and a bounded number of those that have ended."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

from safesh.process import streams
from safesh.process.errors import NotManaged

if TYPE_CHECKING:
    from safesh.process.job import Job

_MOST_FINISHED = 4096  # ended ones that nobody cleaned up; the oldest are forgotten first

_lock = threading.Lock()
_running: dict[int, Job] = {}
_finished: dict[int, Job] = {}
_hooked = False


def add(job: Job) -> None:
    global _hooked
    if not _hooked:
        _hook()
    _running[job.pid] = job
    if _finished:
        _finished.pop(job.pid, None)  # its number has come round


def _hook() -> None:
    global _hooked
    with _lock:
        if not _hooked:
            atexit.register(_end_all)
            os.register_at_fork(
                before=lambda: streams.forking.acquire(),
                after_in_parent=lambda: streams.forking.release(),
                after_in_child=_forget_all,
            )
            _hooked = True


def settle(job: Job, *, keep: bool) -> None:
    """It has ended; keep: its output may still be asked for."""
    if _running.get(job.pid) is job:
        del _running[job.pid]
    if keep:
        _finished[job.pid] = job
        if len(_finished) > _MOST_FINISHED:
            with _lock:
                while len(_finished) > _MOST_FINISHED:
                    _drop(next(iter(_finished)))


def _drop(pid: int) -> None:
    _finished.pop(pid, None)


def find(pid: int) -> Job | None:
    """The job with this pid, running before ended; None for a process that this API did not start."""
    job = _running.get(pid)
    return job if job is not None else _finished.get(pid)


def need(pid: int, what: str) -> Job:
    """The job with this pid; NotManaged when only its starter could do ``what``."""
    from safesh.process.foreign import open_process

    job = find(pid)
    if job is None:
        open_process(pid).close()  # NoSuchProcess, or a pid that is none
        raise NotManaged(
            f"was not started by this program's safesh, so {what} is not possible",
            place=f"pid {pid}",
            hint="status, signals and kill_process_tree work for any process",
        )
    return job


def forget(job: Job) -> None:
    """Nothing of it is asked for any more."""
    if _finished.get(job.pid) is job:
        del _finished[job.pid]


def running() -> list[Job]:
    return list(_running.values())


def clean_up() -> int:
    """Forget those that have ended; how many."""
    with _lock:
        count = 0
        for pid in list(_finished):
            if _finished.pop(pid, None) is not None:
                count += 1
        return count


def _end_all() -> None:
    """At the caller's exit nothing of it stays behind."""
    jobs = [job for job in running() if not job.over]
    if jobs:
        from safesh.process.endings import end_jobs

        end_jobs(jobs)


def _forget_all() -> None:
    """In a copy made by fork(2): the children are the parent's, and its pipes must not be held open by us."""
    global _lock
    _lock = threading.Lock()
    streams.close_after_fork()
    for job in [*_running.values(), *_finished.values()]:
        job.orphan()
    _running.clear()
    _finished.clear()
    from safesh.process import loop

    loop.forget()
