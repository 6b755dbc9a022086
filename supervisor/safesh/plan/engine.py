"""Where steps run: what a runner asks of an engine, and what it is told.

An engine starts steps and ends their whole trees; it knows nothing of dependencies, retries or resources in use.
At most one live copy of a step: ``start`` for an id whose ``on_end`` has not been called yet is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from safesh.model import Record
from safesh.plan.model import StepSpec


class StepOrder(Record):
    """One attempt at a step.

    attempt: from 1; env: the whole environment, ``SAFESH_REPORT`` included; log, report: absolute paths of the files
    that get its output and its reports; run_id: the run id its tree carries.
    """

    plan_id: str
    step: StepSpec
    attempt: int
    env: dict[str, str]
    log: str
    report: str
    run_id: str

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        return StepSpec.from_dict(value) if name == "step" else super()._revive(name, value)


class StepEnd(Record):
    """How one attempt ended; its tree has no member left.

    return_code: None when it never ran or nobody can tell; signal: the name of the one it died of, or ""; error: one
    line for people, "" after success; seconds: from start to end; usage: what it used; verdict: ``Verdict.to_dict()``
    where it was ended by us; lost: the place it ran vanished, so it may be tried elsewhere.
    """

    step_id: str
    attempt: int
    return_code: int | None = None
    signal: str = ""
    error: str = ""
    seconds: float = 0.0
    usage: dict[str, Any] = {}
    verdict: dict[str, Any] | None = None
    lost: bool = False

    @property
    def ok(self) -> bool:
        return self.return_code == 0 and not self.error and not self.lost


OnStart = Callable[[str, int, str], None]  # step id, pid, run id
OnEnd = Callable[[StepEnd], None]


class Engine(Protocol):
    """Callbacks may come from any thread, and from within ``start``; ``on_end`` comes exactly once for each start."""

    name: str

    def start(self, order: StepOrder, on_start: OnStart, on_end: OnEnd) -> None:
        """Begin an attempt. What goes wrong is told through ``on_end``, never raised."""

    def cancel(self, step_id: str, now: bool) -> None:
        """End the step's tree: ask and wait the grace, or kill at once (``now``). Its ``on_end`` tells when that is
        done. An id that does not run is passed over."""

    def close(self, now: bool) -> None:
        """End every tree as ``cancel`` does, and return when none is left."""

    def capacity(self) -> dict[str, float]:
        """What there is of ``cpu``, ``memory`` (bytes), ``gpu`` and tokens, over all places together."""
