"""The engine that runs steps on this machine, as commands of the process API."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from safesh.core.contain import RUN_ID
from safesh.model import StopPolicy
from safesh.plan.engine import StepEnd
from safesh.plan.journal import open_regular
from safesh.process import background, loop
from safesh.process.arguments import Plan
from safesh.process.endings import end_jobs
from safesh.process.job import Job

if TYPE_CHECKING:
    from safesh.plan.engine import OnEnd, OnStart, StepOrder

STOP = StopPolicy(signal="SIGTERM", scope="main", grace=5.0)


class LocalEngine:
    """Steps as contained runs of this process; see ``engine.Engine`` for the contract.

    contain: "session" where somebody above ends what is left when this process is killed (``safe.sh run``), else
    "keeper". into_pipes: the logs are pipes that the caller made and reads.
    """

    name = "local"

    def __init__(self, *, contain: str = "session", stop: StopPolicy = STOP, into_pipes: bool = False) -> None:
        self._contain = contain
        self._into_pipes = into_pipes
        self._stop = stop
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        # What nearly all steps share of the environment, encoded once: it is most of what a start would cost.
        self._known = {name: (value, os.fsencode(name), os.fsencode(value)) for name, value in os.environ.items()}

    def start(self, order: StepOrder, on_start: OnStart, on_end: OnEnd) -> None:
        try:
            job = self._prepare(order)
        except OSError as error:
            on_end(_refused(order, f"its log cannot be written: {error.strerror} ({order.log})"))
            return
        with self._lock:
            self._jobs[order.step.id] = job
        try:
            background.run(job)
        finally:
            os.close(job.plan.output_fd)
        if job.pid:
            on_start(order.step.id, job.pid, order.run_id)

        def ended() -> None:
            with self._lock:
                self._jobs.pop(order.step.id, None)
            on_end(_told(order, job))

        job.when_done(ended)

    def _prepare(self, order: StepOrder) -> Job:
        step = order.step
        env: dict[bytes, bytes] = {}
        for name, value in order.env.items():
            known = self._known.get(name)
            if known is not None and known[0] == value:
                env[known[1]] = known[2]
            else:
                env[os.fsencode(name)] = os.fsencode(value)
        env[RUN_ID.encode()] = order.run_id.encode()
        plan = Plan(step.command, env, order.run_id)
        plan.mode = "background"
        plan.cwd = step.cwd
        plan.timeout = step.timeout
        plan.limits = step.limits
        plan.stop = self._stop
        plan.contain = self._contain
        first = os.O_TRUNC if order.attempt == 1 else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | first
        plan.output_fd = os.open(order.log, flags, 0o600) if self._into_pipes else open_regular(order.log, flags)
        if order.attempt > 1:
            os.write(plan.output_fd, f"\n--- attempt {order.attempt} ---\n".encode())
        return Job(plan)

    def cancel(self, step_id: str, now: bool) -> None:
        with self._lock:
            job = self._jobs.get(step_id)
        if job is not None:
            loop.get().endings.submit(lambda: end_jobs([job], now=now))

    def close(self, now: bool) -> None:
        with self._lock:
            jobs = list(self._jobs.values())
        end_jobs(jobs, now=now)

    def capacity(self) -> dict[str, float]:
        from safesh.metrics.monitor import ResourceMonitor

        monitor = ResourceMonitor()
        try:
            seen = monitor.get_resource_snapshot()
        finally:
            monitor.close()
        found = {"cpu": float(seen.cpus or os.cpu_count() or 1), "gpu": float(len(seen.gpus))}
        if seen.memory_available_mb is not None:
            found["memory"] = seen.memory_available_mb * (1 << 20)
        return found


def _refused(order: StepOrder, error: str) -> StepEnd:
    return StepEnd(step_id=order.step.id, attempt=order.attempt, error=error)


def _told(order: StepOrder, job: Job) -> StepEnd:
    result = job.result
    error = result.error
    words = ""
    if error is not None:
        words = error.message if job.pid else str(error)
    return StepEnd(
        step_id=order.step.id,
        attempt=order.attempt,
        return_code=result.return_code,
        signal=result.signal,
        error=words,
        seconds=result.execution_time or 0.0,
        usage=result.usage.to_dict(),
        verdict=result.verdict.to_dict() if result.verdict is not None else None,
    )
