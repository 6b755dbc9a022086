"""Which steps start now: dependencies, resources, slots. No clock, no files, no processes.

Critical path first: of the steps that are ready, the one with the longest expected way to the plan's end, itself
included; on ties the plan's order. A step that does not fit is passed over by those behind it, so that nothing stands
idle, but at most ``PATIENCE`` starts a slot: after these its needs are set aside, and those behind it get only what is
left over. The steps that run end some day, so it starts; and no step waits for ever behind smaller ones.

Ready steps with the same needs stand in one queue, of which only the first is looked at, and at most ``WINDOW`` queues
that do not fit are looked at in one ``take``. So the whole costs O((steps + dependencies) log steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Literal, NamedTuple

from safesh.errors import ConfigError
from safesh.plan.model import StepSpec

PATIENCE = 2  # starts a slot by which a step that does not fit may be passed over
WINDOW = 64  # queues
_UNIT = 1_000_000  # resources are counted in whole millionths: sums of floats would drift

Phase = Literal["waiting", "ready", "running", "paused", "done", "failed", "cancelled"]


_ENDED = ("done", "failed", "cancelled")
Needs = tuple[tuple[str, int], ...]


class Bounds(NamedTuple):
    """What no order of starts can beat, in seconds. critical_path: the longest chain of steps; work: all steps one by
    one; least: the shortest time the plan can take with its slots and resources; path: the chain's ids."""

    critical_path: float
    work: float
    least: float
    path: list[str]


class Schedule:
    """The state of one plan's steps.

    steps: in the plan's order; capacities: of each resource that a step takes; slots: steps at once, from 1;
    expected: seconds of a step, 1 where unknown. ConfigError for a dependency that is no step, an id that stands
    twice, a circle, or a step that needs more than there is.
    """

    def __init__(
        self, steps: Sequence[StepSpec], capacities: Mapping[str, float], slots: int, expected: Mapping[str, float]
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots: {slots}, expected 1 or more")
        self._ids = [step.id for step in steps]
        self._index = {name: index for index, name in enumerate(self._ids)}
        self._before, self._after = _links(steps, self._index)
        self._order = _order(self._ids, self._before, self._after)
        self._seconds = [_seconds(expected.get(name)) for name in self._ids]
        self._slots = slots
        self._capacities = {name: _units(amount) for name, amount in capacities.items()}
        self._needs = [self._needs_of(step) for step in steps]
        self._free = dict(self._capacities)
        way = _ways(self._order, self._after, self._seconds)
        place = sorted(range(len(steps)), key=lambda index: (-way[index], index))
        self._rank = [0] * len(steps)  # the lower, the sooner
        for rank, index in enumerate(place):
            self._rank[index] = rank
        self._of_rank = place
        self._left = [len(before) for before in self._before]  # dependencies that are not done
        self._phase: list[Phase] = ["waiting"] * len(steps)
        self._open = len(steps)
        self._running: dict[int, bool] = {}  # index: whether started() was told
        self._queues: dict[Needs, list[int]] = {}  # heaps of ranks
        self._heads: list[int] = []  # heap of the queues' first ranks, and of some that were first
        self._patience = PATIENCE * slots
        self._passed: dict[int, int] = {}  # rank: starts by which a step that did not fit was passed over
        for index, left in enumerate(self._left):
            if left == 0:
                self._enqueue(index)

    def take(self) -> list[str]:
        """The steps to start now, the most urgent first; what they need is taken, and they count as running."""
        taken: list[str] = []
        if len(self._running) >= self._slots:
            return taken
        left = dict(self._free)  # for those that come next: less what is set aside
        waiting: list[int] = []  # ranks passed over in this round
        last = -1
        while self._heads and len(self._running) < self._slots and len(waiting) < WINDOW:
            rank = heappop(self._heads)
            index = self._of_rank[rank]
            needs = self._needs[index]
            queue = self._queues.get(needs)
            if not queue or queue[0] != rank or rank == last:
                continue  # no head any more, or seen just now
            last = rank
            if any(amount > left[name] for name, amount in needs):
                waiting.append(rank)
                if self._passed.setdefault(rank, 0) >= self._patience:
                    _subtract(left, needs)
                continue
            heappop(queue)
            if queue:
                heappush(self._heads, queue[0])
            _subtract(self._free, needs)
            _subtract(left, needs)
            self._pass_over(waiting, needs, left)
            self._passed.pop(rank, None)
            self._phase[index] = "running"
            self._running[index] = False
            taken.append(self._ids[index])
        for rank in waiting:
            heappush(self._heads, rank)
        return taken

    def started(self, step_id: str) -> None:
        """A step that was taken runs; until then it is ``running`` too, for its resources are taken."""
        self._running[self._find(step_id, "running")] = True

    def ended(self, step_id: str, ok: bool) -> list[tuple[str, str]]:
        """A running or paused step has ended for good; the steps that are cancelled because of it, each with the
        reason, in the plan's order. One that depends on two failed steps tells the first to fail."""
        index = self._find(step_id, "running", "paused")
        self._release(index)
        self._open -= 1
        self._phase[index] = "done" if ok else "failed"
        if not ok:
            return self._cancel(self._below(index), f"cancelled because {step_id} failed")
        for after in self._after[index]:
            self._left[after] -= 1
            if self._left[after] == 0 and self._phase[after] == "waiting":
                self._enqueue(after)
        return []

    def pause(self, step_id: str) -> None:
        """A running step waits for its next attempt and lets go of what it took; ``retry`` makes it ready."""
        index = self._find(step_id, "running")
        self._release(index)
        self._phase[index] = "paused"

    def retry(self, step_id: str) -> None:
        """A running or paused step is ready again, for another attempt."""
        index = self._find(step_id, "running", "paused")
        self._release(index)
        self._enqueue(index)

    def cancel_all(self, reason: str = "cancelled") -> list[tuple[str, str]]:
        """Cancel whatever has not ended and does not run, and tell it in the plan's order; ``ended`` tells the rest."""
        self._queues.clear()
        self._heads.clear()
        self._passed.clear()
        return self._cancel(range(len(self._ids)), reason)

    @property
    def done(self) -> bool:
        """Every step has ended or is cancelled."""
        return self._open == 0

    @property
    def running(self) -> list[str]:
        """Taken and not ended, the longest running first."""
        return [self._ids[index] for index in self._running]

    @property
    def spawned(self) -> list[str]:
        """Those of ``running`` that ``started`` was told of."""
        return [self._ids[index] for index, told in self._running.items() if told]

    @property
    def free(self) -> dict[str, float]:
        """What is left of each resource; under ``slots`` the slots."""
        free = {name: amount / _UNIT for name, amount in self._free.items()}
        return {**free, "slots": self._slots - len(self._running)}

    def phase(self, step_id: str) -> Phase:
        """Where the step stands. ``ready``: only slots and resources are missing; ``paused``: until ``retry``."""
        return self._phase[self._find(step_id)]

    def expected_left(self, elapsed: Mapping[str, float] | None = None) -> float:
        """The least seconds to the plan's end, by the expected durations. elapsed: seconds for which steps run already.
        Linear in the steps."""
        left = [0.0 if phase in _ENDED else own for phase, own in zip(self._phase, self._seconds, strict=True)]
        for name, seconds in (elapsed or {}).items():
            index = self._index[name]
            left[index] = max(0.0, left[index] - seconds)
        return self._bounds(left).least

    def bounds(self, seconds: Mapping[str, float] | None = None) -> Bounds:
        """Lower bounds, from the steps' measured seconds (a step that is not named took none), else the expected."""
        if seconds is None:
            return self._bounds(self._seconds)
        return self._bounds([max(0.0, seconds.get(name, 0.0)) for name in self._ids])

    def _bounds(self, seconds: list[float]) -> Bounds:
        way = _ways(self._order, self._after, seconds)
        work = math.fsum(seconds)
        critical = max(way, default=0.0)
        least = max(critical, work / self._slots)
        used: dict[str, float] = {}
        for needs, own in zip(self._needs, seconds, strict=True):
            for name, amount in needs:
                used[name] = used.get(name, 0.0) + amount * own
        for name, amount_seconds in used.items():
            least = max(least, amount_seconds / self._capacities[name])
        path: list[str] = []
        choices: Sequence[int] = range(len(way))
        while choices:
            index = min(choices, key=lambda one: (-way[one], one))
            path.append(self._ids[index])
            choices = self._after[index]
        return Bounds(critical, work, least, path)

    def _needs_of(self, step: StepSpec) -> Needs:
        needs = {name: _units(amount) for name, amount in step.resources.items()}
        for name, amount in needs.items():
            if amount > self._capacities.get(name, 0):
                has = self._capacities.get(name, 0) / _UNIT
                raise ConfigError(
                    f"needs {amount / _UNIT:g} of {name}, and there is {has:g}, so it could never start",
                    place=f"step {step.id}",
                    hint="lower the step's resources, or raise the plan's",
                )
        return tuple(sorted((name, amount) for name, amount in needs.items() if amount > 0))

    def _find(self, step_id: str, *phases: Phase) -> int:
        index = self._index[step_id]
        if phases and self._phase[index] not in phases:
            raise ValueError(f"step {step_id} is {self._phase[index]}, expected {' or '.join(phases)}")
        return index

    def _enqueue(self, index: int) -> None:
        self._phase[index] = "ready"
        queue = self._queues.setdefault(self._needs[index], [])
        heappush(queue, self._rank[index])
        if queue[0] == self._rank[index]:
            heappush(self._heads, queue[0])

    def _pass_over(self, waiting: list[int], needs: Needs, left: dict[str, int]) -> None:
        """Count a start against those waiting that want some of the same; set aside for those whose patience ends."""
        for rank in waiting:
            wanted = self._needs[self._of_rank[rank]]
            if any(name == other for name, _ in needs for other, _ in wanted):
                self._passed[rank] += 1
                if self._passed[rank] == self._patience:
                    _subtract(left, wanted)

    def _release(self, index: int) -> None:
        if self._running.pop(index, None) is not None:
            for name, amount in self._needs[index]:
                self._free[name] += amount

    def _below(self, index: int) -> list[int]:
        """All that depend on the step, however far, and are not cancelled yet, in the plan's order."""
        found: set[int] = set()
        todo = [index]
        while todo:
            new = [one for one in self._after[todo.pop()] if one not in found and self._phase[one] != "cancelled"]
            found.update(new)
            todo += new
        return sorted(found)

    def _cancel(self, indices: Iterable[int], reason: str) -> list[tuple[str, str]]:
        cancelled = []
        for index in indices:
            if self._phase[index] in ("waiting", "ready", "paused"):
                self._phase[index] = "cancelled"
                self._open -= 1
                cancelled.append((self._ids[index], reason))
        return cancelled


def _seconds(expected: float | None) -> float:
    return expected if expected is not None and 0 <= expected < math.inf else 1.0


def _units(amount: float) -> int:
    return round(min(amount, 1e30) * _UNIT)  # an engine may say infinite


def _subtract(amounts: dict[str, int], needs: Needs) -> None:
    for name, amount in needs:
        amounts[name] -= amount


def _links(steps: Sequence[StepSpec], index: dict[str, int]) -> tuple[list[list[int]], list[list[int]]]:
    """For each step those it waits for, and those that wait for it."""
    before: list[list[int]] = []
    after: list[list[int]] = [[] for _ in steps]
    for own, step in enumerate(steps):
        if index[step.id] != own:
            raise ConfigError("two steps have this id", place=f"step {step.id}", hint="give each an id of its own")
        before.append([])
        for name in dict.fromkeys(step.depends_on):
            if name not in index:
                raise ConfigError(f"depends on {name!r}, which is no step", place=f"step {step.id}")
            before[own].append(index[name])
            after[index[name]].append(own)
    return before, after


def _order(ids: list[str], before: list[list[int]], after: list[list[int]]) -> list[int]:
    """The steps so that each stands behind those it waits for."""
    left = [len(one) for one in before]
    order = [index for index, count in enumerate(left) if count == 0]
    for index in order:  # grows as it goes
        for one in after[index]:
            left[one] -= 1
            if left[one] == 0:
                order.append(one)
    if len(order) < len(ids):
        stuck = next(index for index, count in enumerate(left) if count)
        raise ConfigError("waits for itself, through a circle of dependencies", place=f"step {ids[stuck]}")
    return order


def _ways(order: list[int], after: list[list[int]], seconds: list[float]) -> list[float]:
    """For each step the seconds of the longest chain that begins with it."""
    way = list(seconds)
    for index in reversed(order):
        way[index] += max((way[one] for one in after[index]), default=0.0)
    return way
