"""What is known of processes by pid: what the system tells of any, and of this API's commands what they are besides."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from safesh.process import foreign, glance, registry

if TYPE_CHECKING:
    from safesh.process.job import Job


def get_process_status(pid: int) -> dict[str, Any]:
    """What is known of a process: of any ``pid, running, state, command, cpu_seconds, memory_bytes, threads,
    started_at, ppid, managed``; of one of ours also ``run_id, mode, return_code, signal, execution_time, timed_out``.

    NoSuchProcess when there is none, and never was one of ours that is not forgotten yet.
    """
    job = registry.find(foreign.checked_pid(pid))
    if job is not None and job.over and foreign.is_there(pid):
        job = None
    found = glance.glance([pid]).get(pid)
    if job is None and found is None:
        raise foreign.missing(pid)
    status: dict[str, Any] = dict(found) if found is not None else {"pid": pid, "state": "gone", "running": False}
    status["managed"] = job is not None
    if job is not None:
        status |= _ours(job)
        status["running"] = not job.exited and not job.over
    return status


def _ours(job: Job) -> dict[str, Any]:
    result = job.result
    took = result.execution_time
    return {
        "run_id": job.run_id,
        "command": [job.redact(word) for word in job.shown],
        "mode": job.plan.mode,
        "started_at": job.started_at,
        "execution_time": took if took is not None else round(time.time() - job.started_at, 3),
        "return_code": result.return_code,
        "signal": result.signal,
        "timed_out": result.timed_out,
        "contain": job.plan.contain,
    }


def get_active_processes() -> dict[int, dict[str, Any]]:
    """The commands of this API that run now, by pid: ``get_process_status`` of each, in one look."""
    jobs = {job.pid: job for job in registry.running()}
    found = glance.glance(jobs)
    active = {}
    for pid, job in jobs.items():
        if job.over or job.exited:
            continue
        status: dict[str, Any] = dict(found.get(pid, {"pid": pid, "state": "gone"}))
        status |= _ours(job)
        status["running"] = status["managed"] = True
        active[pid] = status
    return active


def cleanup_finished_processes() -> int:
    """Forget the commands that have ended; how many. Their results keep what they have."""
    return registry.clean_up()
