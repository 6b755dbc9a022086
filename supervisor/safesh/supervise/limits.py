"""Limits: how much of each thing a run uses, and what is done when that is too much.

What the kernel keeps by itself (``core.ceilings``) is not sampled. ``max_runtime`` is a timer. For the rest the tree is
looked at every ``limits.interval`` seconds, less often where a look costs more than half a percent of a core.
"""

from __future__ import annotations

import time

from safesh.clock import format_duration, format_size, monotonic
from safesh.core import ceilings
from safesh.core.contain import open_group
from safesh.core.keeper import BY_KERNEL
from safesh.core.usage import Census, tree_usage
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from safesh.model import Limit
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor

_SHARE = 0.005  # of a core, for looking
_LONGEST = 30.0  # seconds between two looks, however dear they are
_SETTLED = 0.9  # of the limit: below it a passed limit is over
_MINUTE = 60.0


def _count(number: float) -> str:
    return f"{number:.0f}"


def _percent(number: float) -> str:
    return f"{number:.0f}%"


# name in safe.toml -> (name in messages, how its numbers are shown)
_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "memory": ("memory", format_size),
    "cpu": ("cpu", _percent),
    "max_runtime": ("runtime", format_duration),
    "processes": ("processes", _count),
    "open_files": ("open files", _count),
    "log_growth": ("log growth", lambda number: format_size(number) + "/min"),
}


class Meter:
    """One limit of one run: since when it has been passed, and whether that was told."""

    def __init__(self, name: str, limit: Limit) -> None:
        self.name = name
        self.limit = limit
        self.told = False
        self._since: float | None = None

    def judge(self, used: float, now: float, began: float | None = None) -> str:
        """``crossed`` once an episode, when the limit has been passed for as long as it says; ``over`` at its end.

        now, began: monotonic seconds; what was used between the two (an average) has been used since ``began``.
        """
        if used > self.limit.most:
            if self._since is None:
                self._since = now if began is None else began
            if not self.told and now - self._since >= self.limit.lasting:
                self.told = True
                return "crossed"
        elif not self.told:
            self._since = None
        elif used < _SETTLED * self.limit.most:
            self.told = False
            self._since = None
            return "over"
        return ""

    def words(self, used: float | None = None) -> str:
        """``memory limit 512 MiB, used 530 MiB``."""
        label, show = _WORDS[self.name]
        text = f"{label} limit {show(self.limit.most)}"
        if self.limit.lasting:
            text += f" for {format_duration(self.limit.lasting)}"
        return text if used is None else f"{text}, used {show(used)}"


class LimitsWatcher(Watcher):
    """Holds one run to the limits of its target."""

    def __init__(self, supervisor: Supervisor, run: LiveRun) -> None:
        self.supervisor = supervisor
        self.run = run
        self.limits = supervisor.spec.limits
        self.interval = self.limits.interval
        self.meters: dict[str, Meter] = {}
        for name in _WORDS:
            limit = getattr(self.limits, name)
            if limit.most > 0:
                self.meters[name] = Meter(name, limit)
        self.timer = self.meters.pop("max_runtime", None)
        self._census: Census | None = None
        self._began = 0.0
        self._ends: float | None = None
        self._next: float | None = None
        self._cpu: tuple[float, float] | None = None  # (when, seconds used until then)
        self._log: list[tuple[float, int]] = []
        self._cost: float | None = None
        self._shown_interval = self.interval
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
        self._began = monotonic()
        if self.timer is not None:
            self._ends = self._began + self.timer.limit.most
        if self.meters:
            self._next = self._began + self.interval
        if "cpu" in self.meters:
            self._cpu = (self._began, self._census.cpu_seconds(self._look(self._census)))
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

    def _look(self, census: Census) -> list[object]:
        """Who is there, asked only if a limit needs it."""
        kept_by_group = census.group is not None and census.group.cpu_seconds() is not None
        if set(self.meters) - {"log_growth", *(["cpu"] if kept_by_group else [])}:
            return census.look()
        return []

    def _sample(self) -> None:
        spent = time.process_time()
        for name, used in self._measure().items():
            meter = self.meters[name]
            now = monotonic()
            began = self._began if name == "cpu" else None
            said = meter.judge(used, now, began)
            if said == "crossed":
                self._cross(meter, used)
            elif said == "over":
                self._settle(meter, used)
        self._stretch(time.process_time() - spent)

    def _measure(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.due = None
        if self._census is not None:
            self._census.close()
