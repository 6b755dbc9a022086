"""Limits: how much of each thing a run uses, and what is done when that is too much.

What the kernel keeps by itself (``core.ceilings``) is not sampled. ``max_runtime`` is a timer. For the rest the tree is
looked at every ``limits.interval`` seconds, less often where a look costs more than half a percent of a core.
"""

from __future__ import annotations

import time

from safesh.clock import monotonic
from safesh.core import ceilings
from safesh.core.contain import open_group
from safesh.core.keeper import BY_KERNEL
from safesh.core.meter import SETTLED, WORDS, Meter
from safesh.core.usage import Census, tree_usage
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor

_SHARE = 0.005  # of a core, for looking
_LONGEST = 30.0  # seconds between two looks, however dear they are
_MINUTE = 60.0


class LimitsWatcher(Watcher):
    """Holds one run to the limits of its target."""

    def __init__(self, supervisor: Supervisor, run: LiveRun) -> None:
        self.supervisor = supervisor
        self.run = run
        self.limits = supervisor.spec.limits
        self.interval = self.limits.interval
        self.meters: dict[str, Meter] = {}
        for name in WORDS:
            limit = getattr(self.limits, name)
            if limit.most > 0:
                self.meters[name] = Meter(name, limit)
        self.timer = self.meters.pop("max_runtime", None)
        self._census: Census | None = None
        self._needs_members = True
        self._began = 0.0
        self._ends: float | None = None
        self._next: float | None = None
        self._looked_at = 0.0
        self._cpu = 0.0  # seconds used until then
        self._log: list[tuple[float, int]] = []
        self._cost: float | None = None
        self._told_interval = self.interval
        self._message = ""

    def on_event(self, event: str) -> None:
        if event == "exited":
            self._find_kernel_kill()
        if not self._wanted():
            self.due = None
        elif self._census is None and self.run.main is not None and self.run.keeper is not None:
            self._begin(self.run.keeper.pid, (self.run.main.pid, self.run.main.start))

    def _wanted(self) -> bool:
        """A run that is being ended is held to nothing any more."""
        return self.supervisor.intent == "" and self.supervisor.state in ("starting", "running", "unhealthy")

    def _begin(self, keeper: int, main: tuple[int, int]) -> None:
        group = open_group(self.supervisor.record["cgroup"])
        if ceilings.memory_is_kept(group, self.limits):
            self.meters.pop("memory", None)
        self._census = Census(keeper, main, group)
        self._began = self._looked_at = monotonic()
        if self.timer is not None:
            self._ends = self._began + self.timer.limit.most
        if self.meters:
            self._next = self._began + self.interval
        counted = group is not None and group.cpu_seconds() is not None
        self._needs_members = bool(self.meters.keys() - {"log_growth", "cpu" if counted else "log_growth"})
        if "cpu" in self.meters:
            self._cpu = self._census.cpu_seconds(self._census.look() if self._needs_members else [])
        self._log = [(self._began, self._written())]
        self._set_due()

    def _set_due(self) -> None:
        wanted = [due for due in (self._ends, self._next) if due is not None]
        self.due = min(wanted) if wanted and self._wanted() else None

    def tick(self) -> None:
        now = monotonic()
        if self._wanted() and self._ends is not None and now >= self._ends and self.timer is not None:
            self._ends = None
            self._cross(self.timer, now - self._began)
        if self._wanted() and self._next is not None and now >= self._next:
            self._sample()
            self._next = monotonic() + self.interval
        self._set_due()

    # ---- looking

    def _sample(self) -> None:
        spent = time.process_time()
        before, now = self._looked_at, monotonic()
        self._looked_at = now
        for name, used in self._measure(before, now).items():
            meter = self.meters[name]
            said = meter.judge(used, now, before if name == "cpu" else None)
            if said == "crossed":
                self._cross(meter, used)
            elif said == "over":
                self._settle(meter, used)
        self._stretch(time.process_time() - spent)

    def _measure(self, before: float, now: float) -> dict[str, float]:
        """What is used of each thing that has a limit."""
        census = self._census
        if census is None:
            return {}
        found: dict[str, float] = {}
        members = census.look() if self._needs_members else []
        memory = self.meters.get("memory")
        held = census.group.memory_bytes() if memory is not None and census.group is not None else None
        usage = tree_usage(
            members,
            exact_above=float("inf") if memory is None else memory.limit.most * (SETTLED if memory.told else 1),
            memory=memory is not None and held is None,
            files="open_files" in self.meters,
        )
        if memory is not None:
            found["memory"] = usage.memory_bytes if held is None else held
        if "cpu" in self.meters:
            cpu = census.cpu_seconds(members)
            found["cpu"] = max(0.0, 100 * (cpu - self._cpu) / max(now - before, 0.001))
            self._cpu = cpu
        if "processes" in self.meters:
            found["processes"] = usage.processes
        if "open_files" in self.meters:
            found["open_files"] = usage.most_open_files
        if "log_growth" in self.meters:
            found["log_growth"] = self._grown(now)
        return found

    def _written(self) -> int:
        return self.run.capture.moved_bytes if self.run.capture is not None else 0

    def _grown(self, now: float) -> int:
        """Bytes of output in the last minute."""
        # A closed log has nothing more to come, and nobody counts for it any more.
        total = self._written() if self.run.capture is not None else self._log[-1][1]
        self._log.append((now, total))
        while len(self._log) > 1 and self._log[1][0] <= now - _MINUTE:
            del self._log[0]
        return total - self._log[0][1]

    def _stretch(self, cost: float) -> None:
        """Look less often where a look is dear: thousands of processes, or gigabytes whose pages must be counted."""
        # One look may be dear by chance, so the figure follows slowly; the first one pays for what is only loaded once.
        self._cost = 0.0 if self._cost is None else 0.7 * self._cost + 0.3 * cost
        self.interval = max(self.limits.interval, min(self._cost / _SHARE, _LONGEST))
        if self.interval > 1.5 * self._told_interval:
            self._told_interval = self.interval
            self.supervisor.journal.event(
                "sampling_stretched", interval=round(self.interval, 1), cost_seconds=round(self._cost, 4)
            )

    # ---- acting

    def _cross(self, meter: Meter, used: float) -> None:
        supervisor, action = self.supervisor, meter.limit.action
        why = meter.words(used)
        self._tell("limit", meter, used, why)
        if action == "warn":
            self._message = supervisor.record["message"] = why
            supervisor.say(f"{supervisor.spec.name}: {why}")
            supervisor.journal.save()
        else:
            supervisor.condemn(action, why)

    def _settle(self, meter: Meter, used: float) -> None:
        """A limit that was only warned of is kept again."""
        supervisor = self.supervisor
        self._tell("limit_over", meter, used, f"limit over: {meter.words(used)}")
        if supervisor.record["message"] == self._message:  # else something newer stands there
            supervisor.record["message"] = ""
            supervisor.journal.save()

    def _tell(self, event: str, meter: Meter, used: float | None, message: str) -> None:
        self.supervisor.journal.event(
            event,
            name=meter.name,
            most=meter.limit.most,
            used=None if used is None else round(used, 3),
            action=meter.limit.action,
            message=message,
        )

    def _find_kernel_kill(self) -> None:
        """The kernel has ended the tree for its memory limit; what the limit says happens then follows."""
        supervisor, end = self.supervisor, self.run.exit
        if end is None or not end.cause.endswith(BY_KERNEL) or supervisor.intent or supervisor.sentence is not None:
            return
        why = end.cause.removeprefix("ended: ")
        self._tell("limit", Meter("memory", self.limits.memory), None, why)
        supervisor.sentence = (self.limits.memory.action, why)

    def close(self) -> None:
        self.due = None
        if self._census is not None:
            self._census.close()
            self._census = None
