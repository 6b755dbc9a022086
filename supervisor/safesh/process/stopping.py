"""Signals and endings by pid: of this API's commands by the way they are contained, of any other process as well.

A pid is all the caller has, and it may mean somebody else by now: ours are signalled through the handle that was opened
at their birth, others through one that is checked first (``foreign``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from safesh.model import StopPolicy, Verdict
from safesh.process import foreign, registry
from safesh.process.command import parse_timeout, refuse
from safesh.process.endings import end_jobs

if TYPE_CHECKING:
    from safesh.process.job import Job

TERMINATE_GRACE = 3.0  # seconds between the question and the kill, or the answer that it is still there


def send_signal_to_process(pid: int, signal: str | int) -> None:
    """Send one signal (``"SIGINT"``, ``signal.SIGINT``, 2) to one process, whoever started it.

    Raises NoSuchProcess, Refused (ourselves, our ancestors, pid 1, the kernel's own), ProcessError where not permitted.
    """
    job = registry.find(foreign.checked_pid(pid))
    if job is None or job.handle is None:
        foreign.send(pid, signal)
        return
    number = foreign.checked_signal(signal)
    with job.lock:
        # The handle was opened at its birth, so it is this process or none, as long as it is not closed.
        if job.over or job.departing or job.reaped:
            raise foreign.missing(pid)
        foreign.send_through(job.handle, number)


def interrupt_process(pid: int) -> None:
    """Send SIGINT, as Ctrl-C would, to the process alone."""
    send_signal_to_process(pid, "SIGINT")


def terminate_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """Ask a process, and then what is left of its tree, to end (SIGTERM); who does not in ``grace`` seconds is listed.

    force: who has not ended by then is killed.
    """
    _check_force(force)
    return _end(pid, _policy(grace), now=False, force=force)


def kill_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """End a process with its whole tree: asked first, killed after ``grace`` seconds; force: killed at once."""
    _check_force(force)
    return _end(pid, _policy(grace), now=force, force=True)


def kill_process_tree(pid: int) -> Verdict:
    """Kill a process and everything below it at once: frozen first, so that nobody forks away."""
    return _end(pid, _policy(0.0), now=True, force=True)


def terminate_managed_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """``kill_process`` for a command of this API alone, forgotten afterwards; NotManaged for any other process."""
    _check_force(force)
    policy = _policy(grace)
    job = registry.need(pid, "ending it as ours")
    verdict = Verdict(run_id=job.run_id) if job.over else end_jobs([job], policy, now=force)[pid]
    if verdict.ok:
        registry.forget(job)
    return verdict


def end_all(pids: Sequence[int] | None = None, *, grace: float | None = None, now: bool = False) -> dict[int, Verdict]:
    """End all running commands of this API (or those of ``pids``) together, at the price of a few looks in all."""
    jobs = registry.running() if pids is None else [registry.need(pid, "ending it as ours") for pid in pids]
    return end_jobs([job for job in jobs if not job.over], None if grace is None else _policy(grace), now=now)


def _check_force(force: Any) -> None:
    if not isinstance(force, bool):
        refuse("force", f"expected True or False, not {force!r}")


def _policy(grace: float) -> StopPolicy:
    seconds = parse_timeout(grace, "grace")
    return StopPolicy(signal="SIGTERM", scope="main", grace=86400.0 if seconds is None else seconds)


def _end(pid: int, policy: StopPolicy, *, now: bool, force: bool) -> Verdict:
    job = registry.find(foreign.checked_pid(pid))
    if job is None:
        return foreign.end_foreign(pid, policy, now=now) if force else foreign.polite_end(pid, policy)
    if job.over:
        # Whoever has the number now is not the one that the caller was given it for.
        theirs = "; its number is another process's now, which was left alone" if foreign.is_there(pid) else ""
        return Verdict(target=f"pid {pid}", run_id=job.run_id, notes=[f"it had ended already{theirs}"])
    if force:
        return end_jobs([job], policy, now=now)[pid]
    return _ask(job, policy)


def _ask(job: Job, policy: StopPolicy) -> Verdict:
    """Asked, and never killed."""
    from safesh.process.ending import end_runs

    verdict = None
    job.expect_verdict(ending=False)
    try:
        verdict = end_runs([job.mark()], policy, force=False)[job.pid]
    finally:
        job.give_verdict(verdict if verdict is not None and verdict.ok else None)
    if verdict.ok and not job.waits_for_itself:
        job.wait(5.0)
    return verdict
