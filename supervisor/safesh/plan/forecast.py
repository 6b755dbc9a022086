"""How long a plan will still take, from what its steps took before."""

from __future__ import annotations

import math
from collections.abc import Callable

from safesh.plan.state import PlanState, StepState

History = Callable[[str], float | None]


class Forecast:
    """Kept up with each change, so that a look costs O(running steps).

    A step whose history nobody has is taken for an average one of this run. What is left is divided by how many steps
    ran at once so far; dependencies are not known here, so it is an estimate.
    """

    def __init__(self, history: History | None) -> None:
        """history: step id -> seconds it is expected to take, None when unknown. What it raises means unknown."""
        self._history = history
        self._expected: dict[str, float] = {}
        self._sum = 0.0  # of the steps that wait and are known
        self._unknown = 0  # steps that wait and are not
        self._ended = 0
        self._ended_seconds = 0.0

    def expected(self, step_id: str) -> float | None:
        return self._expected.get(step_id)

    def added(self, step_id: str) -> None:
        """A step that is waiting from now on."""
        if self._history is not None and step_id not in self._expected:
            try:
                found = self._history(step_id)
                if found is not None and 0 <= float(found) < math.inf:
                    self._expected[step_id] = float(found)
            except Exception:  # the user's function: a forecast is no reason to fail
                pass
        self._wait(step_id, 1)

    def left_waiting(self, step_id: str) -> None:
        """It runs, or never will."""
        self._wait(step_id, -1)

    def ended(self, seconds: float) -> None:
        """A step has completed or failed."""
        self._ended += 1
        self._ended_seconds += seconds

    def _wait(self, step_id: str, sign: int) -> None:
        known = self._expected.get(step_id)
        if known is None:
            self._unknown += sign
        else:
            self._sum += sign * known

    def left(self, state: PlanState, now: float) -> float | None:
        """Seconds, None when there is nothing to judge by."""
        running: list[StepState] = list(state.group("running").values())
        mean = self._ended_seconds / self._ended if self._ended else None
        unknown = self._unknown + sum(1 for step in running if step.id not in self._expected)
        if unknown and mean is None:
            if not self._expected:
                return None
            mean = math.fsum(self._expected.values()) / len(self._expected)
        mean = mean or 0.0
        rests = [max(0.0, self._expected.get(step.id, mean) - step.time(now)) for step in running]
        work = max(0.0, self._sum) + self._unknown * mean + math.fsum(rests)
        elapsed = state.elapsed(now)
        done = state.totals.step_seconds + math.fsum(step.time(now) for step in running)
        at_once = max(1.0, len(running) if elapsed < 1 else done / elapsed)
        return max(work / at_once, max(rests, default=0.0))
