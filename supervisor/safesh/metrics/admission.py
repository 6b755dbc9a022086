"""Admission: may this start now, by what the system has left and by what its like took before?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from safesh.metrics.trends import percentile

GIB_IN_MB = 1024.0
_LEAST_RUNS = 3  # with fewer past runs their largest peak is told, but nothing is foretold from it


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percent of the system that may be in use, what is asked for included. cpu: of all usable cores."""

    cpu: float = 90.0
    memory: float = 90.0
    disk: float = 95.0


class Peaks(Protocol):
    """The part of ``History`` that is asked."""

    def peaks(self, target: str = "", *, mission_type: str = "", limit: int = 200) -> list[dict[str, float | None]]: ...


@dataclass(slots=True)
class _Need:
    """How much of one resource, and who says so."""

    amount: float
    source: str


def should_execute(
    requirements: Mapping[str, Any],
    *,
    snapshot: Any,
    history: Peaks | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[bool, str]:
    """(may it start, why) in one line for people.

    requirements, each optional: memory_mb (MiB), cpu (percent of one core), disk_gb (GiB), target, mission_type.
    snapshot: a ``SystemSnapshot`` or a mapping with its fields; a number that is None never refuses, which is told.
    history: foretells what the target (else the mission type) will need: the 95th percentile of its past peaks, told
    with their count. Of what is asked for and what is foretold the larger counts. ValueError for an amount that is no
    number from 0 on.
    """
    most = thresholds or Thresholds()
    needs, notes = _needs(requirements, history)
    refusals: list[str] = []
    unknown: list[str] = []
    judged: list[str] = []
    for name, check in (("memory", _memory), ("cpu", _cpu), ("disk", _disk)):
        used, share, lacking = check(snapshot, needs.get(name))
        if used is None:
            unknown.append(name)
            if lacking:
                refusals.append(lacking)
            continue
        ceiling = getattr(most, name)
        need = needs.get(name)
        expected = used + share
        if used >= ceiling:
            refusals.append(f"{name} is at {used:.0f}%, the threshold is {ceiling:.0f}%")
        elif lacking:
            refusals.append(lacking)
        elif need is not None and expected > ceiling:
            refusals.append(
                f"{name} is at {used:.0f}% and {_amount(name, need.amount)} ({need.source}) would make it"
                f" {expected:.0f}%, the threshold is {ceiling:.0f}%"
            )
        else:
            told = f", {expected:.0f}% with {_amount(name, need.amount)} ({need.source})" if need and share else ""
            judged.append(f"{name} {used:.0f}%{told}")
    if unknown:
        notes.append(f"not known, so not judged: {', '.join(unknown)}")
    said = refusals or judged or ["nothing is known of the system"]
    return not refusals, "; ".join([*said, *notes])


def _needs(requirements: Mapping[str, Any], history: Peaks | None) -> tuple[dict[str, _Need], list[str]]:
    needs: dict[str, _Need] = {}
    for name, key in (("memory", "memory_mb"), ("cpu", "cpu"), ("disk", "disk_gb")):
        amount = requirements.get(key)
        if amount is None:
            continue
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < float("inf"):
            raise ValueError(f"requirements[{key!r}] is {amount!r}, expected a number from 0 on")
        needs[name] = _Need(float(amount), "asked for")
    if history is None:
        return needs, []
    peaks, whose = _past(history, requirements)
    if not peaks:
        return needs, [f"no past run of {whose} to foretell from"] if whose else []
    if len(peaks) < _LEAST_RUNS:
        return needs, [f"only {len(peaks)} past run{'s' if len(peaks) > 1 else ''} of {whose}, so nothing is foretold"]
    notes = []
    for name, key in (("memory", "memory_mb"), ("cpu", "cpu")):
        values = [value for one in peaks if (value := one.get(key)) is not None]
        if len(values) < _LEAST_RUNS:
            continue
        foretold = percentile(values, 95.0)
        source = f"p95 of {len(values)} past runs of {whose}"
        if name not in needs or foretold > needs[name].amount:
            needs[name] = _Need(foretold, source)
        else:
            notes.append(f"{source}: {_amount(name, foretold)}")
    return needs, notes


def _past(history: Peaks, requirements: Mapping[str, Any]) -> tuple[list[dict[str, float | None]], str]:
    """Past peaks of the target, else of the mission type, and whose they are."""
    whose = ""
    found: list[dict[str, float | None]] = []
    for key, words in (("target", "{}"), ("mission_type", "missions of type {}")):
        name = requirements.get(key)
        if not name:
            continue
        more = history.peaks(name) if key == "target" else history.peaks(mission_type=name)
        # A target that is new may be of a type that is well known.
        if not whose or len(found) < _LEAST_RUNS <= len(more):
            found, whose = more, words.format(name)
    return found, whose


def _memory(snapshot: Any, need: _Need | None) -> tuple[float | None, float, str]:
    """(percent in use, percent that the need adds, why it cannot be at all)."""
    used, left, total = (_number(snapshot, f"memory_{name}") for name in ("percent", "available_mb", "total_mb"))
    if used is None and left is not None and total:
        used = 100.0 * (1 - left / total)
    if total is None and used is not None and left is not None and used < 100:
        total = left / (1 - used / 100)
    lacking = ""
    if need is not None and left is not None and need.amount > left:
        lacking = f"memory: {_amount('memory', need.amount)} ({need.source}), {_amount('memory', left)} available"
    return used, 100.0 * need.amount / total if need is not None and total else 0.0, lacking


def _cpu(snapshot: Any, need: _Need | None) -> tuple[float | None, float, str]:
    cores = _number(snapshot, "cpus") or 1.0
    # Somebody who asks for more cores than there are gets all there are, more slowly; that is no reason to refuse.
    share = min(need.amount, 100.0 * cores) / cores if need is not None else 0.0
    return _number(snapshot, "cpu_percent"), share, ""


def _disk(snapshot: Any, need: _Need | None) -> tuple[float | None, float, str]:
    used, free = _number(snapshot, "disk_percent"), _number(snapshot, "disk_free_gb")
    lacking, share = "", 0.0
    if need is not None and free is not None:
        if need.amount > free:
            lacking = f"disk: {_amount('disk', need.amount)} ({need.source}), {_amount('disk', free)} free"
        elif used is not None and used < 100 and free > 0:
            share = need.amount / free * (100.0 - used)
    return used, share, lacking


def _number(snapshot: Any, name: str) -> float | None:
    value = snapshot.get(name) if isinstance(snapshot, Mapping) else getattr(snapshot, name, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return float(value)


def _amount(name: str, amount: float) -> str:
    if name == "cpu":
        return f"{amount:.0f}% of a core"
    if name == "disk":
        return f"{amount:.1f} GiB"
    return f"{amount:.0f} MiB" if amount < 10 * GIB_IN_MB else f"{amount / GIB_IN_MB:.1f} GiB"
