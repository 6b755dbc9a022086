"""Samples and limits of one run, taken in the loop; see ``metrics.sampler`` for what a sample costs and tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesh import _platform
from safesh.clock import monotonic
from safesh.core.meter import Meter
from safesh.metrics.sampler import Sample, TreeSampler
from safesh.process.errors import LimitExceeded

if TYPE_CHECKING:
    from safesh.model import Limits
    from safesh.process.job import Job

_MOST_SAMPLES = 3600  # kept in the result: an hour of one a second; then every other one goes
_SAMPLED = ("memory", "cpu", "processes", "open_files")

__all__ = ["Monitor", "Sample"]


class Monitor:
    """What one run uses, looked at every ``limits.interval`` seconds, and judged."""

    def __init__(self, job: Job, limits: Limits | None) -> None:
        self.job = job
        self.limits = limits
        interval = limits.interval if limits is not None else 1.0
        self.meters = [
            Meter(name, getattr(limits, name)) for name in _SAMPLED if limits is not None and getattr(limits, name).most
        ]
        link = job.link
        self.sampler = TreeSampler(
            link.pid if link is not None else job.pid,
            keeper=link is not None,
            main=(job.pid, job.start_time),
            interval=interval,
        )
        if limits is not None:
            self.sampler.decisive = limits.memory.most
        self.ends_at: float | None = None
        if limits is not None and limits.max_runtime.most:
            self.ends_at = job.began + limits.max_runtime.most
        self._stride = 1
        self._count = 0

    @property
    def due(self) -> float:
        """When to look next, monotonic seconds."""
        return self.sampler.due if self.ends_at is None else min(self.sampler.due, self.ends_at)

    def look(self) -> LimitExceeded | None:
        """Sample now; the error of a limit that ends the run, or None."""
        job = self.job
        if self.ends_at is not None and self.limits is not None and monotonic() >= self.ends_at:
            self.ends_at = None
            error = self._judged(Meter("max_runtime", self.limits.max_runtime), monotonic() - job.began)
            if error is not None:
                return error
        sample = self.sampler.sample()
        if sample is None:
            return None
        self._keep(sample)
        if sample.failed:
            return None  # its figures are those of the sample before
        job.sampled_peak = self.sampler.peak_memory_bytes
        if job.plan.on_sample is not None and job.outlet is not None:
            job.outlet.post(job.call, job.plan.on_sample, sample)
        used = {
            "memory": float(sample.memory_bytes),
            "cpu": sample.cpu_percent or 0.0,
            "processes": float(sample.processes),
            "open_files": self._most_open_files(),
        }
        now = monotonic()
        for meter in self.meters:
            if meter.judge(used[meter.name], now) == "crossed":
                error = self._judged(meter, used[meter.name])
                if error is not None:
                    return error
        return None

    def _most_open_files(self) -> float:
        """Of the member that has most; 0.0 where nobody asks or tells."""
        if not any(meter.name == "open_files" for meter in self.meters):
            return 0.0
        members = [self.job.pid, *(_platform.descendants(self.job.pid) or ())]
        return float(max(_platform.open_files(pid) or 0 for pid in members))

    def _judged(self, meter: Meter, used: float) -> LimitExceeded | None:
        name, most, words = meter.name, meter.limit.most, meter.words(used)
        if meter.limit.action == "warn":
            self.job.tell("process_limit_warning", level="warning", limit=name, used=used, most=most, message=words)
            return None
        self.job.tell("process_limit_exceeded", level="error", limit=name, used=used, most=most, message=words)
        return LimitExceeded(f"ended: {words}", place=self.job.shown[0], name=name, used=used, most=most)

    def _keep(self, sample: Sample) -> None:
        samples = self.job.samples
        if self._count % self._stride == 0:
            samples.append(sample)
            if len(samples) > _MOST_SAMPLES:
                del samples[1::2]
                self._stride *= 2
        self._count += 1

    def close(self) -> None:
        self.sampler.close()
