"""What is known of a plan, running or ended: the monitor writes it; tables, lines and files read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from safesh.clock import shown
from safesh.errors import StateError
from safesh.model import Record

VERSION = 1

StepStatus = Literal["pending", "running", "completed", "failed", "cancelled", "skipped"]
STATUSES: tuple[StepStatus, ...] = ("pending", "running", "completed", "failed", "cancelled", "skipped")
ENDED: tuple[StepStatus, ...] = ("completed", "failed", "cancelled", "skipped")
RAN: tuple[StepStatus, ...] = ("pending", "completed", "failed", "cancelled")  # seconds are an ended attempt of now
MOST_EARLIER = 20  # attempts kept of a step that is tried again and again; their sums count all of them


_TOO_LARGE = 1 << 63  # more than any count, amount or clock's reading
_LISTS: dict[str, type] = {"last_lines": str, "earlier": dict}
_EARLIER: dict[str, Any] = {"attempt": 0, "status": "", "started_at": None, "seconds": 0.0, "error": ""}


class StepState(Record):
    """One step. Times are wall seconds of the run's own clock, which no clock step moves between two of them.

    reason: why it was cancelled, skipped or put back to wait; attempt: from 1, 0 before the first; seconds: of the last
    attempt; tokens, cost: of all attempts; progress: 0 to 1, None when it told none; error: one line, "" unless it
    failed; return_code: None when it never ran or nobody knows; signal: the name of the one that killed it; usage: what
    it used, as the engine measured it; bad_reports: lines of its report file that made no sense, with the last one's
    reason; last_lines: of its log; earlier: attempts before this one; spent_seconds, spent_tokens, spent_cost: theirs.
    """

    id: str
    type: str = ""
    provider: str = ""
    description: str = ""
    status: StepStatus = "pending"
    reason: str = ""
    attempt: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    progress: float | None = None
    message: str = ""
    error: str = ""
    return_code: int | None = None
    signal: str = ""
    log: str = ""
    pid: int | None = None
    run_id: str = ""
    usage: dict[str, Any] = {}
    bad_reports: int = 0
    bad_report: str = ""
    last_lines: list[str] = []
    earlier: list[dict[str, Any]] = []
    spent_seconds: float = 0.0
    spent_tokens: int = 0
    spent_cost: float = 0.0

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def time(self, now: float) -> float:
        """Seconds of the attempt that runs, or of the last one."""
        if self.status == "running" and self.started_at is not None:
            return max(0.0, now - self.started_at)
        return self.seconds


class Totals(Record):
    """Over all steps. The statuses' names: how many steps have it; step_seconds: of every ended attempt, as if one had
    followed the other."""

    steps: int = 0
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    tokens: int = 0
    cost: float = 0.0
    step_seconds: float = 0.0
    bad_reports: int = 0

    @property
    def done(self) -> int:
        """Steps that will not run any more, however they ended."""
        return self.completed + self.failed + self.cancelled + self.skipped


class PlanState:
    """A plan with its steps in order and its totals, which are kept up with each change: no look costs O(steps).

    Not thread-safe by itself; the monitor holds its lock around every change and every look.
    """

    def __init__(self, plan_id: str = "", description: str = "") -> None:
        self.plan_id = plan_id
        self.description = description
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.steps: dict[str, StepState] = {}
        self.totals = Totals()
        self._groups: dict[StepStatus, dict[str, StepState]] = {status: {} for status in STATUSES}
        self._places: dict[str, int] = {}

    def add(self, step: StepState) -> None:
        """Put a step behind the others. ValueError for an id that is there already."""
        if step.id in self.steps:
            raise ValueError(f"step {step.id} is there already")
        self._places[step.id] = len(self.steps)
        self.steps[step.id] = step
        self._groups[step.status][step.id] = step
        totals = self.totals
        totals.steps += 1
        totals.__dict__[step.status] += 1
        totals.tokens += step.tokens
        totals.cost += step.cost
        totals.bad_reports += step.bad_reports
        totals.step_seconds += step.spent_seconds + (step.seconds if step.status in RAN else 0.0)

    def move(self, step: StepState, status: StepStatus) -> None:
        """Give a step its new status."""
        del self._groups[step.status][step.id]
        self.totals.__dict__[step.status] -= 1
        step.status = status
        self._groups[status][step.id] = step
        self.totals.__dict__[status] += 1

    def spend(self, step: StepState, tokens: int | None, cost: float | None) -> None:
        """tokens, cost: what this attempt has used so far; None: as before."""
        if tokens is not None:
            self.totals.tokens += step.spent_tokens + tokens - step.tokens
            step.tokens = step.spent_tokens + tokens
        if cost is not None:
            self.totals.cost += step.spent_cost + cost - step.cost
            step.cost = step.spent_cost + cost

    def group(self, status: StepStatus) -> dict[str, StepState]:
        """The steps that have this status, in the order in which they came to it."""
        return self._groups[status]

    def place(self, step_id: str) -> int:
        """Where a step stands in the plan, from 0."""
        return self._places[step_id]

    def elapsed(self, now: float) -> float:
        """Seconds since the plan began, up to its end."""
        if self.started_at is None:
            return 0.0
        return max(0.0, (now if self.ended_at is None else self.ended_at) - self.started_at)

    def root_failure(self) -> StepState | None:
        """The step that failed first, to which the others' cancellations go back; None when none has failed."""
        failed = self._groups["failed"].values()
        return min(failed, key=lambda step: step.ended_at or math.inf, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, versioned; ``steps`` maps ids to steps, in the plan's order."""
        totals = self.totals.to_dict()
        totals["cost"] = math.fsum(step.cost for step in self.steps.values())  # the running sum has rounding in it
        return {
            "v": VERSION,
            "plan_id": self.plan_id,
            "description": self.description,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "totals": totals,
            "steps": {name: step.to_dict() for name, step in self.steps.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave, totals counted anew. StateError for another version or another shape."""
        version = data.get("v")
        if version != VERSION:
            raise StateError(f"has version {shown(version)}; this safesh reads version {VERSION}", place="plan state")
        try:
            state = cls(_checked("plan_id", data["plan_id"], ""), _checked("description", data["description"], ""))
            state.started_at = _checked("started_at", data["started_at"], None)
            state.ended_at = _checked("ended_at", data["ended_at"], None)
            for name, found in data["steps"].items():
                if found.get("status", "pending") not in STATUSES:
                    raise ValueError(f"step {name} has the status {shown(found['status'])}")
                step = StepState.from_dict({**found, "id": name})
                for key in step.fields():
                    _checked(key, step.__dict__[key], getattr(StepState, key, ""))
                state.add(step)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"is not what a monitor wrote: {error}", place="plan state") from None
        return state


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value itself; ValueError unless it is of its default's kind (None: a number, or none) and can be shown."""
    if name in _LISTS:
        good = isinstance(value, list) and all(isinstance(one, _LISTS[name]) for one in value)
        if good and name == "earlier":
            for one in value:
                for key, usual in _EARLIER.items():
                    _checked(key, one.get(key, usual), usual)
    elif isinstance(default, (str, dict)):
        good = isinstance(value, type(default))
    else:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
        good = good or (value is None and default is None)
    if not good:
        raise ValueError(f"{name} is {shown(value)}")
    return value
