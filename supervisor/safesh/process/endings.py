"""Ending jobs of this API, each by the way it is contained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesh import _platform
from safesh.clock import monotonic
from safesh.core.contain import RUN_ID
from safesh.core.kill import KILL_SECONDS
from safesh.model import Verdict
from safesh.process.conclusion import DRAIN_SECONDS
from safesh.process.ending import end_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safesh.model import StopPolicy
    from safesh.process.ending import Mark
    from safesh.process.job import Job

_MARGIN = 2.0  # seconds beyond what an ending may take


def end_jobs(jobs: Sequence[Job], policy: StopPolicy | None = None, *, now: bool = False) -> dict[int, Verdict]:
    """End these runs, at most ``grace`` + some seconds; a verdict each. None: each by its own policy.

    Returns once their results are complete, or could not be in time.
    """
    jobs = [job for job in jobs if job.pid > 1]  # one that never started has no number, and 0 means others
    verdicts: dict[int, Verdict] = {}
    groups: dict[tuple[str, str, float], list[Job]] = {}
    for job in jobs:
        stop = policy or job.plan.stop
        job.ending = True
        if job.link is not None:
            with job.lock:  # its descriptors are not closed meanwhile, and their numbers nobody else's
                if not job.closed:
                    job.link.wake()
                    job.link.end(stop, now=now)
        else:
            groups.setdefault((stop.signal, stop.scope, stop.grace), []).append(job)
    for group in groups.values():
        found: dict[int, Verdict] = {}
        for job in group:
            job.expect_verdict()
        try:
            found = end_runs([job.mark() for job in group], policy or group[0].plan.stop, now=now)
        finally:
            for job in group:
                job.give_verdict(found.get(job.pid))
        verdicts |= found
    asked = monotonic()
    for job in jobs:
        grace = (policy or job.plan.stop).grace if job.link is not None and not now else 0.0
        limit = asked + grace + KILL_SECONDS + DRAIN_SECONDS + _MARGIN
        if not job.waits_for_itself:
            job.wait(max(0.0, limit - monotonic()))
        if job.link is not None or job.pid not in verdicts:
            verdicts[job.pid] = job.result.verdict or Verdict(run_id=job.run_id)
    return verdicts


def who_is_left(marks: Sequence[Mark]) -> dict[int, bool]:
    """By main pid, whether anybody of a run whose main process has been collected lives on: one look for all.

    OSError without a descriptor to look with.
    """
    oldest = min(mark.start for mark in marks) if _platform.HAS_SUBREAPER else 0
    by_session = {mark.pid: mark.pid for mark in marks if mark.pid > 1}
    by_id = {mark.run_id: mark.pid for mark in marks}
    left = dict.fromkeys(by_session, False)
    for one in _platform.scan().values():
        if one.dead or one.start < oldest or one.pid in by_session:
            continue
        pid = by_session.get(one.sid)
        if pid is None:
            pid = by_id.get((_platform.environ(one.pid, RUN_ID) or {}).get(RUN_ID, ""))
        if pid is not None:
            left[pid] = True
    return left
