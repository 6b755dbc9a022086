"""Who is told of a plan: the hooks under ``notify``, brought by the supervisor's couriers.

A letter has the fields that docs/notifications.md describes; ``target`` is the plan's id, and ``plan``, ``step`` and
``lines`` (the last of a failed step's log) stand beside them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.errors import SafeshError
from safesh.model import TargetSpec
from safesh.supervise.letters import life, write_letter
from safesh.supervise.recipients import Recipient, recipients_of, send_courier

if TYPE_CHECKING:
    from safesh.model import Hook
    from safesh.plan.model import PlanSpec

_LOOK_AGAIN = 0.05
_MARGIN = 2.0  # seconds in which a courier that gives up ends its hook and writes down that it did


class _Said:
    """What a courier needs of an event log: where to tell of its failures, and for whom."""

    def __init__(self, path: str, instance: str) -> None:
        self.path = path
        self.instance = instance


class Notifier:
    """Sends events of one run of a plan; ``close`` waits for what is on its way."""

    def __init__(self, plan: PlanSpec, output: str) -> None:
        self._plan = plan
        self._said = _Said(os.path.join(output, "events.jsonl"), plan.id)
        spec = TargetSpec(
            name=plan.id,
            instance="plan",
            project=plan.id,
            command=[],
            cwd=os.path.dirname(plan.path) or "/",
            env=plan.env,
            notify=plan.notify,
        )
        self._hooks: list[tuple[Hook, list[Recipient]]] = [
            (hook, recipients_of(spec, place)) for place, hook in enumerate(plan.notify)
        ]
        self._couriers: dict[int, float] = {}  # pid -> until when it may live
        self.problems: list[str] = []

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        letter = self._write(event, facts)
        for hook, recipients in self._hooks:
            if hook.on and event not in hook.on:
                continue
            for recipient in recipients:
                try:
                    order = recipient.order(self._said, [{**letter, "dropped": 0}])  # type: ignore[arg-type]
                    pid = send_courier(order)
                except (OSError, SafeshError, ValueError) as error:
                    self.problems.append(f"{recipient.label}: {error}")
                    continue
                self._couriers[pid] = monotonic() + life(hook, 1) + _MARGIN
        self._collect()

    def _write(self, event: str, facts: dict[str, Any]) -> dict[str, Any]:
        message = f"step {facts['step']} failed: {facts['error']}" if event == "step_failed" else str(facts["message"])
        record = {
            "main": None,
            "project": self._plan.id,
            "instance": "plan",
            "target": self._plan.id,
            "run_id": "",
            "state": "failed" if event == "step_failed" else facts.get("state", "finished"),
            "restarts": 0,
            "last_exit": None,
        }
        return {**write_letter(event, message, record), **facts}

    def _collect(self) -> None:
        for pid in list(self._couriers):
            try:
                done, _status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                del self._couriers[pid]

    def close(self) -> None:
        """Wait for the couriers, each for as long as its hook may take: with our end they would be ended too."""
        import select

        watch = select.poll()  # of nothing: a pause
        while self._couriers:
            self._collect()
            now = monotonic()
            if not any(until > now for until in self._couriers.values()):
                return
            if self._couriers:
                watch.poll(_LOOK_AGAIN * 1000)
