"""How long a plan's steps took in earlier runs, kept in the state folder: for the order of starts and the time left."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from safesh import paths
from safesh.errors import SafeshError

if TYPE_CHECKING:
    from safesh.plan.model import PlanSpec
    from safesh.plan.state import PlanState

_LONGEST = 1e9  # seconds; a damaged file may say that a step took for ever
_KEPT = 5  # runs; their median counts


def _path(plan: PlanSpec) -> str:
    name = hashlib.sha256(f"{plan.path}\0{plan.id}".encode("utf-8", "surrogateescape")).hexdigest()[:20]
    return os.path.join(paths.state_home(), ".plans", f"{name}-times")


def _read(path: str) -> dict[str, list[float]]:
    try:
        found = json.loads(paths.read_private(path) or "{}")
    except (SafeshError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: [float(one) for one in times if isinstance(one, (int, float)) and 0 <= one < _LONGEST]
        for name, times in found.items()
        if isinstance(times, list)
    }


def load(plan: PlanSpec) -> dict[str, float]:
    """Seconds by step id, the median of the last runs; empty where nothing is known."""
    return {name: sorted(times)[len(times) // 2] for name, times in _read(_path(plan)).items() if times}


def save(plan: PlanSpec, state: PlanState) -> None:
    """Add this run's times. Nothing depends on it, so a disk that takes nothing is no error."""
    path = _path(plan)
    known = _read(path)
    times = {}
    for step in plan.steps:
        one = state.steps.get(step.id)
        before = known.get(step.id, [])
        if one is not None and one.status == "completed" and one.seconds is not None:
            before = [*before, round(one.seconds, 3)]
        if before:
            times[step.id] = before[-_KEPT:]
    try:
        paths.make_home()
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        paths.write_private(path, json.dumps(times))
    except (OSError, SafeshError):
        pass
