"""Every process this API started, by pid: those that run, and a bounded number of those that have ended."""

from __future__ import annotations

import atexit
import resource
import threading
from typing import TYPE_CHECKING

from safesh.core import forking
from safesh.process.errors import NotManaged
from safesh.process.output import weigh

if TYPE_CHECKING:
    from safesh.process.job import Job

# Ended ones that nobody cleaned up; the oldest are forgotten first, and then live as long as their results.
_MOST_FINISHED = 4096
_MOST_BYTES = 1 << 28  # of their output in memory
_MOST_FILES = 128  # of output too long for memory, a descriptor each (at most an eighth of what ulimit -n allows)

_lock = threading.Lock()
_running: dict[int, Job] = {}
_finished: dict[int, Job] = {}
_held = [0, 0]  # what the finished ones have in memory, and how many files
_hooked = False


def add(job: Job) -> None:
    global _hooked
    if not _hooked:
        _hook()
    _running[job.pid] = job
    if job.pid in _finished:
        with _lock:
            _drop(job.pid)  # its number has come round


def _hook() -> None:
    global _hooked
    with _lock:
        if not _hooked:
            atexit.register(_end_all)
            forking.in_copies(_forget_all)
            _hooked = True


def settle(job: Job, *, keep: bool) -> None:
    """It has ended; keep: its output may still be asked for."""
    if _running.get(job.pid) is job:
        del _running[job.pid]
    if keep:
        with _lock:
            _drop(job.pid)
            _finished[job.pid] = job
            job.burden = weigh(job)
            _count(job, 1)
            files = _most_files()
            while len(_finished) > _MOST_FINISHED or _held[0] > _MOST_BYTES or _held[1] > files:
                _drop(next(iter(_finished)))


def _count(job: Job, way: int) -> None:
    _held[0] += way * job.burden[0]
    _held[1] += way * job.burden[1]


def _most_files() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if _held[1] else 0
    return _MOST_FILES if soft <= 0 else min(_MOST_FILES, soft // 8)


def _drop(pid: int) -> bool:
    """With the lock held; whether there was one."""
    job = _finished.pop(pid, None)
    if job is None:
        return False
    _count(job, -1)
    job.let_go()
    return True


def find(pid: int) -> Job | None:
    """The job with this pid, running before ended; None for a process that this API did not start."""
    job = _running.get(pid)
    return job if job is not None else _finished.get(pid)


def need(pid: int, what: str) -> Job:
    """The job with this pid; NotManaged when only its starter could do ``what``."""
    job = find(pid)
    if job is None:
        from safesh.process.foreign import open_process

        open_process(pid).close()  # NoSuchProcess, or a pid that is none
        raise NotManaged(
            f"was not started by this program's safesh, so {what} is not possible",
            place=f"pid {pid}",
            hint="status, signals and kill_process_tree work for any process",
        )
    return job


def forget(job: Job) -> None:
    """Nothing of it is asked for any more."""
    with _lock:
        if _finished.get(job.pid) is job:
            _drop(job.pid)


def running() -> list[Job]:
    return list(_running.values())


def leads(pid: int) -> bool:
    """Whether this is the main process of a job, a child of ours that has not been collected: so nobody else's."""
    job = _running.get(pid)
    return job is not None and not job.reaped and job.link is None


def clean_up() -> int:
    """Forget those that have ended; how many."""
    with _lock:
        return sum(_drop(pid) for pid in list(_finished))


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
    for job in [*_running.values(), *_finished.values()]:
        job.orphan()
    _running.clear()
    _finished.clear()
    _held[:] = [0, 0]
    from safesh.process import loop

    loop.forget()
