"""Plans, running and ended, read from the output folders of ``safe.sh run``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from safesh.clock import format_duration
from safesh.dashboard.settings import Settings
from safesh.errors import SafeshError, StateError
from safesh.instance import lock
from safesh.plan.state import PlanState, StepState, StepStatus

RESULT = "result.json"
_LARGEST = 64 << 20
_DEPTH = 2  # folders below the working directory in which output folders are looked for
_MOST_SEEN = 2000  # entries looked at while looking for them
SIGNS: dict[StepStatus, str] = {
    "completed": "✔ completed", "running": "▶ running", "failed": "✖ failed", "pending": "○ waiting",
    "cancelled": "⊘ cancelled", "skipped": "↷ skipped",
}  # fmt: skip


def find(settings: Settings, root: str) -> list[str]:
    """The output folders that were named, and those below ``root``; the newest result first."""
    found = {folder for folder in settings.plans}
    seen = 0
    level = [os.path.abspath(root)]
    for _depth in range(_DEPTH + 1):
        below: list[str] = []
        for folder in level:
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            seen += len(entries)
            names = {entry.name for entry in entries}
            if RESULT in names and ("events.jsonl" in names or ".lock" in names):
                found.add(folder)
                continue
            below += [
                entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."
            ]  # fmt: skip
            if seen > _MOST_SEEN:
                break
        level = sorted(below)
    return sorted(found, key=lambda folder: (-changed(folder), folder))


def changed(folder: str) -> float:
    """When its result was last written, wall seconds; 0.0 where there is none."""
    try:
        return os.stat(os.path.join(folder, RESULT)).st_mtime
    except OSError:
        return 0.0


def load(folder: str) -> PlanState:
    """The plan's state. StateError names what is wrong with the folder, and what to do."""
    path = os.path.join(folder, RESULT)
    hint = "choose another folder, or run the plan again: safe.sh run PLAN --output DIR"
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise StateError(f"is larger than {_LARGEST >> 20} MiB", place=path, hint=hint)
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no object")
        return PlanState.from_dict(found)
    except FileNotFoundError:
        raise StateError("is not there, so this is no output folder of a plan", place=path, hint=hint) from None
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", place=path, hint=hint) from None
    except (ValueError, RecursionError):
        raise StateError("is damaged: no JSON object", place=path, hint=hint) from None
    except StateError as error:
        if error.place == path:
            raise
        raise StateError(error.message, place=path, hint=hint) from None


def is_held(folder: str) -> bool:
    """Whether somebody runs a plan there now."""
    path = os.path.join(folder, ".lock")
    try:
        return os.path.exists(path) and lock.is_held(path)
    except (SafeshError, OSError):
        return False


def headline(state: PlanState, held: bool) -> str:
    totals = state.totals
    if state.ended_at is None:
        return "running" if held else "interrupted: nobody runs it any more"
    return "failed" if totals.failed or totals.cancelled else "completed"


def step_rows(state: PlanState, now: float) -> list[dict[str, Any]]:
    """A row a step, in the plan's order."""
    return [
        {
            "Step": step.id,
            "Status": SIGNS[step.status],
            "Progress": _progress(step),
            "Time": format_duration(step.time(now)) if step.attempt else "",
            "Attempt": step.attempt or None,
            "Type": step.type,
            "Provider": step.provider,
            "Tokens": step.tokens or None,
            "Cost": step.cost or None,
            "Message": step.error or step.reason or step.message or step.description,
        }
        for step in state.steps.values()
    ]


def _progress(step: StepState) -> float | None:
    return 1.0 if step.status in ("completed", "skipped") else step.progress


def bars(state: PlanState, now: float) -> list[dict[str, Any]]:
    """The Gantt chart: a bar an attempt, in seconds since the plan began."""
    begin = state.started_at
    if begin is None:
        return []
    found = []
    for step in state.steps.values():
        tries: list[tuple[Any, Any, str]] = []
        for one in step.earlier:
            started, took = one.get("started_at"), one.get("seconds")
            if isinstance(started, (int, float)) and isinstance(took, (int, float)):
                tries.append((started, started + took, "retried"))
        tries.append((step.started_at, now if step.status == "running" else step.ended_at, step.status))
        for started, ended, status in tries:
            if isinstance(started, (int, float)) and isinstance(ended, (int, float)) and step.attempt:
                found.append({
                    "step": step.id, "start": started - begin, "end": max(ended, started) - begin,
                    "status": status, "provider": step.provider, "took": format_duration(max(0.0, ended - started)),
                })  # fmt: skip
    return found


def provider_rows(state: PlanState) -> list[dict[str, Any]]:
    """Tokens and cost by provider, the dearest first; steps that used neither are not counted."""
    sums: dict[str, list[float]] = {}
    for step in state.steps.values():
        if step.provider or step.tokens or step.cost:
            row = sums.setdefault(step.provider or "(none)", [0, 0, 0.0])
            row[0] += 1
            row[1] += step.tokens
            row[2] += step.cost
    rows: Sequence[dict[str, Any]] = [
        {"Provider": name, "Steps": int(count), "Tokens": int(tokens), "Cost": cost}
        for name, (count, tokens, cost) in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row["Cost"], -row["Tokens"], row["Provider"]))
