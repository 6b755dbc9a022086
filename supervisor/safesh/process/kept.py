"""Runs whose tree a keeper holds (``contain="keeper"``): nobody gets away, and our own end is theirs too."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import holder
from safesh.core.kill import KILL_SECONDS
from safesh.core.signals import number
from safesh.errors import ResourceError
from safesh.model import Limits, Verdict
from safesh.process.errors import StatusLost
from safesh.process.result import Usage

if TYPE_CHECKING:
    from safesh.core.keeper import KeeperLink
    from safesh.process.job import Job

_START_SECONDS = 30.0


def launch(job: Job, stdio: tuple[int, int, int]) -> None:
    """Execute a keeper for the job's command and wait until that runs; raises why it does not."""
    plan = job.plan
    link = holder.hold(
        plan.argv,
        run_id=plan.run_id,
        env=plan.text_env(),
        stdio=stdio,
        stop=plan.stop,
        cwd=plan.cwd,
        limits=plan.limits or Limits(),
        tty=stdio[0] if plan.pty else -1,
    )
    try:
        message, job.early = _first_message(link)
        if message["event"] != "spawned":
            raise holder.refusal(message)
    except BaseException:
        holder.let_go(link)
        collect_keeper(link.pid)
        raise
    job.link = link
    job.pid = message["pid"]
    job.known_start(message["start"])
    # Another's child, so it may be gone already: then there is nobody to signal, and the keeper tells the rest.
    job.handle = _platform.open_handle(job.pid, message["start"])


def _first_message(link: KeeperLink) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    deadline = monotonic() + _START_SECONDS
    watch = select.poll()
    watch.register(link.report, select.POLLIN)
    while (left := deadline - monotonic()) > 0:
        watch.poll(left * 1000 + 1)
        messages, more = link.read()
        if messages:
            return messages[0], messages[1:]
        if not more:
            break
    return {"event": "broken", "message": "it ended, or was silent, before it had started anything"}, []


def collect_keeper(pid: int) -> None:
    """Collect the keeper, which ends by itself within moments."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def remove_group(job: Job) -> None:
    """A killed keeper's cgroup, and with it whoever got away from everything else."""
    from safesh.core.contain import group_path, open_group

    group = open_group(group_path(job.run_id))
    if group is None:
        return
    group.kill()
    limit = monotonic() + KILL_SECONDS
    while not group.remove() and monotonic() < limit:
        time.sleep(0.01)  # the killed are on their way out; nothing tells when the last has gone but cgroup.events


def hear(job: Job, message: dict[str, Any]) -> bool:
    """Take in one message of the keeper; True for the last one."""
    result = job.result
    if message["event"] == "exited":
        end = message["exit"]
        job.exited = True
        result.signal = end["signal"]
        result.return_code = -number(end["signal"].removeprefix("signal ")) if end["signal"] else end["code"]
    elif message["event"] == "gone":
        verdict = Verdict.from_dict(message["verdict"])
        if job.ending:
            result.verdict = verdict
        elif verdict.asked or verdict.killed or verdict.survivors:
            result.leftovers = verdict
        used = message.get("usage") or {}
        peak = used.get("peak_memory_bytes")
        result.usage = Usage(
            used.get("user_seconds"),
            used.get("system_seconds"),
            max(peak, job.sampled_peak) if peak is not None else job.sampled_peak or None,
            used.get("read_bytes"),
            used.get("write_bytes"),
            peak_memory_floor_bytes=used.get("peak_memory_floor_bytes", 0),
        )
        return True
    elif message["event"] == "broken":
        result._error = ResourceError(f"its keeper failed: {message['message']}", place=job.shown[0])
    return False


def lost(job: Job) -> None:
    """The keeper ended without a last word: somebody killed it."""
    if job.result.return_code is None and job.result._error is None:
        job.result._error = StatusLost(
            "its keeper was killed, so nobody knows its exit status", place=job.shown[0], hint="run it again"
        )
    job.exited = True
