"""A plan as it was read: everything resolved, nothing left to look up in its file."""

from __future__ import annotations

from typing import Any

from safesh.model import Backoff, Hook, Limits, Record

# What a plan's hooks may be told: a step failed for good (no retry is left), and the plan has ended, well or not.
EVENTS = ("step_failed", "plan_ended")


class StepSpec(Record):
    """One step.

    id: unique in its plan, and a file's name (of its log); type: ``analysis``, ``code_generation``, ``refactoring`` or
    any other word; provider: whose service it uses; command: argv (a shell's text is ``/bin/sh -c TEXT`` by now);
    depends_on: ids, each once; timeout: seconds for one attempt, None for no limit; retries: attempts after a failed
    one; backoff: the pause before each; env: what is added to the plan's, values win; cwd: absolute;
    inputs, outputs: absolute paths or globs; resources: what it takes of the plan's while it runs:
    ``cpu`` and ``gpu`` in devices, ``memory`` in bytes, any other name in tokens. A provider for which the plan has
    tokens is among them already.
    """

    id: str
    command: list[str]
    cwd: str
    type: str = ""
    description: str = ""
    provider: str = ""
    depends_on: list[str] = []
    timeout: float | None = None
    retries: int = 0
    backoff: Backoff = Backoff()
    env: dict[str, str] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    limits: Limits | None = None
    resources: dict[str, float] = {}

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        if name == "limits":
            return None if value is None else Limits.from_dict(value)
        return super()._revive(name, value)


class PlanSpec(Record):
    """A whole plan. path: the file's absolute name ("" for one made in Python); steps: in the file's order;
    resources: how much there is at once, in the units of a step's; what the plan does not name of ``cpu``, ``memory``
    and ``gpu`` is as much as the engine has; env: of every step."""

    id: str
    steps: list[StepSpec]
    description: str = ""
    resources: dict[str, float] = {}
    env: dict[str, str] = {}
    notify: list[Hook] = []
    path: str = ""

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        if name == "steps":
            return [StepSpec.from_dict(item) for item in value]
        if name == "notify":
            return [Hook.from_dict(item) for item in value]
        return super()._revive(name, value)
