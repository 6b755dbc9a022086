"""A plan's changes as lines, where there is no terminal: plain text, JSON, or nothing but what went wrong."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Any, Literal

from safesh.clock import format_duration
from safesh.plan.screen import put
from safesh.plan.state import PlanState, StepState
from safesh.plan.text import Look, clean, first_line, seconds_text, spent_text

VERSION = 1
Mode = Literal["plain", "json", "quiet"]
_EVERY = 2.0  # seconds between two plain lines about a step's numbers; a new message or status is told at once
_MOST_BEHIND = 10_000  # lines that wait for a slow reader before updates are left out
_FIELDS = (
    "id", "type", "provider", "status", "reason", "attempt", "started_at", "ended_at", "seconds", "tokens", "cost",
    "progress", "message", "error", "return_code", "signal", "log", "pid", "run_id", "bad_reports", "bad_report",
)  # fmt: skip


class Lines:
    """Told of changes in their order, quickly and under the monitor's lock; ``show`` writes them, in its own thread."""

    def __init__(self, mode: Mode, stream: IO[str], state: PlanState, now: Callable[[], float]) -> None:
        """now: wall seconds by the run's clock."""
        self._mode = mode
        self._stream = stream
        self._state = state
        self._now = now
        self._look = Look.of(stream, cursor=False)
        self._lines: deque[str] = deque()
        self._told_at: dict[str, float] = {}
        self._later: set[str] = set()
        self._left_out = 0
        self.written = 0
        self.dead = False

    @property
    def tick(self) -> float | None:
        """Seconds until ``show`` has something to do though nothing changes; None: never."""
        return _EVERY if self._later else None

    def plan_changed(self, event: str) -> None:
        """The plan began or ended: ``plan_started``, ``plan_ended``."""
        state, totals = self._state, self._state.totals
        if self._mode == "json":
            self._add_json(event, {"description": state.description, "totals": totals.to_dict()})
        elif self._mode == "plain":
            name = clean(state.plan_id) or "-"
            if event == "plan_started":
                text = f"Plan {name}: {totals.steps:,} step{'' if totals.steps == 1 else 's'}"
                about = first_line(state.description)
                self._lines.append(f"{text}: {about}" if about else text)
            else:
                elapsed = format_duration(state.elapsed(self._now()))
                ends = f"{totals.completed:,} completed, {totals.failed:,} failed"
                self._lines.append(f"Plan {name}: {totals.done:,}/{totals.steps:,} done, {ends} in {elapsed}")

    def step_changed(self, event: str, step: StepState, *, news: bool = True) -> None:
        """event: ``step_added``, ``step_started``, ``step_updated``, ``step_waits`` or ``step_ended``; news: more than
        numbers have changed."""
        if self._mode == "quiet":
            if event == "step_ended" and step.status == "failed":
                self._lines.append(self._text(step))
            return
        update = event == "step_updated"
        if update and len(self._lines) >= _MOST_BEHIND:
            self._left_out += 1
        elif self._mode == "json":
            self._add_json(event, {"step": {name: getattr(step, name) for name in _FIELDS}})
        elif event != "step_added":
            moment = time.monotonic()
            if update and not news and moment - self._told_at.get(step.id, -_EVERY) < _EVERY:
                self._later.add(step.id)
                return
            self._later.discard(step.id)
            if update:
                self._told_at[step.id] = moment
            else:
                self._told_at.pop(step.id, None)
            self._lines.append(self._text(step))

    def prepare(self) -> None:
        """Under the monitor's lock: what was put off and is due now."""
        moment = time.monotonic()
        for name in [name for name in self._later if moment - self._told_at.get(name, -_EVERY) >= _EVERY]:
            self.step_changed("step_updated", self._state.steps[name], news=True)
        if self._left_out and len(self._lines) < _MOST_BEHIND:
            count, self._left_out = self._left_out, 0
            if self._mode == "json":
                self._add_json("lines_left_out", {"count": count})
            else:
                self._lines.append(f"({count:,} updates were left out: they came faster than they were read)")

    def show(self) -> None:
        """Write what is there. May block for as long as the reader does."""
        while self._lines and not self.dead:
            batch = [self._lines.popleft() for _ in range(min(256, len(self._lines)))]
            self.dead = not put(self._stream, "\n".join(batch) + "\n")
            self.written += len(batch)
        if self.dead:
            self._lines.clear()

    def _add_json(self, event: str, fields: dict[str, Any]) -> None:
        told = {"v": VERSION, "at": round(self._now(), 3), "event": event, "plan": self._state.plan_id, **fields}
        self._lines.append(json.dumps(told, allow_nan=False))

    def _text(self, step: StepState) -> str:
        """``[ 3/30] ✓ build completed in 1.2s, 1,200 tokens, $0.0100``."""
        totals = self._state.totals
        whole = f"{totals.steps:,}"
        look, name = self._look, clean(step.id)
        text = f"[{totals.done:>{len(whole)},}/{whole}] {look.mark(step.status)} {name}"
        again = f" (attempt {step.attempt})" if step.attempt > 1 else ""
        if step.status == "running":
            shares = [f"{int(step.progress * 100)} %"] if step.progress is not None else []
            told = ", ".join([*shares, *filter(None, [spent_text(step), first_line(step.message)])])
            return f"{text} running{again}{': ' + told if told else ''}"
        if step.status == "cancelled":
            return f"{text} cancelled{' because ' + clean(step.reason) if step.reason else ''}"
        if step.status in ("pending", "skipped"):
            return f"{text} {step.status}{': ' + clean(step.reason) if step.reason else ''}"
        spent = spent_text(step)
        text += f" {step.status}{again} in {seconds_text(step.seconds)}{', ' + spent if spent else ''}"
        if step.bad_reports:
            text += f" ({step.bad_reports:,} bad report lines, last: {first_line(step.bad_report)})"
        return f"{text}: {first_line(step.error)}" if step.status == "failed" and step.error else text
