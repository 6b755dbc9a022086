"""How a plan went, for people: what failed first and why, what it took, what was gained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from safesh.clock import format_duration
from safesh.plan.state import PlanState, StepState
from safesh.plan.text import Look, clean, first_line, seconds_text, spent_text

VERSION = 1
_LAST_LINES = 10
_TAIL = 64 * 1024  # bytes of a log that are read for its last lines
_OTHERS = 10  # further failures that are named
_LINE = 400  # characters of a log's line that are shown
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def compose(
    state: PlanState,
    now: float,
    *,
    look: Look,
    width: int = 0,
    least: float | None = None,
    files: Mapping[str, str] | None = None,
) -> list[str]:
    """The summary's lines. width: columns to cut the log's lines to, 0 for no limit."""
    totals, elapsed = state.totals, state.elapsed(now)
    lines = [""]
    root = state.root_failure()
    if root is not None:
        lines += [*_root(state, root, look, width), ""]
    lines.append(_head(state, elapsed, look))
    spent = spent_text(totals)
    if spent:
        lines.append(f"Total: {spent}")
    if totals.bad_reports:
        worst = max(state.steps.values(), key=lambda step: step.bad_reports)
        reason = f" (most by {clean(worst.id)}: {first_line(worst.bad_report)})"
        lines.append(look.style(f"Bad report lines: {totals.bad_reports:,}{reason}", "warn"))
    lines += _gain(state, elapsed, least)
    for name, path in (files or {}).items():
        lines.append(f"{clean(name)}: {clean(path)}")
    return lines


def _head(state: PlanState, elapsed: float, look: Look) -> str:
    totals = state.totals
    good = totals.completed + totals.skipped == totals.steps
    mark = look.mark("completed" if good else "failed" if totals.failed else "cancelled")
    counts = [f"{totals.completed:,}/{totals.steps:,} completed"]
    for status in ("failed", "cancelled", "skipped", "running", "pending"):
        count = totals.__dict__[status]
        if count:
            counts.append(f"{count:,} {status}")
    text = f"{mark} Plan {clean(state.plan_id) or '-'}: {', '.join(counts)} in {format_duration(elapsed)}"
    return look.style(text, "good" if good else "bad" if totals.failed else "warn")


def _root(state: PlanState, root: StepState, look: Look, width: int) -> list[str]:
    how = f"after {seconds_text(root.seconds)}" + (f", attempt {root.attempt}" if root.attempt > 1 else "")
    lines = [look.style(f"{look.mark('failed')} Root failure: {clean(root.id)} ({how})", "bad")]
    lines.append(f"  {first_line(root.error) or 'failed'}")
    last = [clean(line) for line in root.last_lines] or tail(root.log)
    if last:
        where = f" of {clean(root.log)}" if root.log else ""
        lines.append(f"  Last lines{where}:")
        for line in last[-_LAST_LINES:]:
            text = look.cut(line, max(20, width - 4) if width else _LINE)
            lines.append("  " + look.style(f"{look.pick('│', '|')} {text}", "dim"))
    cancelled = state.totals.cancelled
    if cancelled:
        lines.append(f"  {cancelled:,} step{'' if cancelled == 1 else 's'} cancelled: {_names(state, 'cancelled')}")
    others = [step for step in state.group("failed").values() if step is not root]
    if others:
        lines.append(f"Also failed: {len(others):,}")
        for step in others[:_OTHERS]:
            lines.append(f"  {look.mark('failed')} {clean(step.id)}: {first_line(step.error) or 'failed'}")
        if len(others) > _OTHERS:
            lines.append(f"  {look.pick('…', '...')} and {len(others) - _OTHERS:,} more")
    return lines


def _names(state: PlanState, status: Any) -> str:
    group = state.group(status)
    names = [clean(name) for name in list(group)[:8]]
    return ", ".join(names) + (f" and {len(group) - 8:,} more" if len(group) > 8 else "")


def _gain(state: PlanState, elapsed: float, least: float | None) -> list[str]:
    alone = state.totals.step_seconds
    if alone <= 0 or elapsed <= 0:
        return []
    text = f"Gain: {alone / elapsed:.2f} times as fast as one by one"
    lines = [f"{text} ({seconds_text(alone)} of steps in {seconds_text(elapsed)})"]
    if least is not None and least > 0:
        share = 100 * least / elapsed
        lines.append(f"Bound: no schedule needs less than {seconds_text(least)}; {share:.0f} % of that speed")
    return lines


def tail(path: str, count: int = _LAST_LINES) -> list[str]:
    """The last lines of a log, clean and without escapes, blank ones left out; none when it cannot be read."""
    if not path:
        return []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return []
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, _TAIL, max(0, size - _TAIL))
    except OSError:
        return []
    finally:
        os.close(fd)
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    # A progress bar rewrites its line with carriage returns: what stood there last counts.
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [clean(line[:_LINE]) for line in lines if line.strip()][-count:]


def figures(state: PlanState, now: float, least: float | None = None) -> dict[str, Any]:
    """The summary's numbers. gain: one-by-one seconds by elapsed ones; bound: the critical path by elapsed seconds."""
    elapsed, alone = state.elapsed(now), state.totals.step_seconds
    return {
        "seconds": elapsed,
        "step_seconds": alone,
        "gain": alone / elapsed if elapsed > 0 and alone > 0 else None,
        "least_seconds": least,
        "bound": least / elapsed if least and elapsed > 0 else None,
    }


def as_json(state: PlanState, now: float, *, least: float | None, files: Mapping[str, str]) -> str:
    """The summary as one JSON object on one line."""
    root = state.root_failure()
    told: dict[str, Any] = {"v": VERSION, "at": round(now, 3), "event": "plan_summary", "plan": state.plan_id}
    told["root_failure"] = None
    if root is not None:
        last = list(root.last_lines) or tail(root.log)
        told["root_failure"] = {"id": root.id, "error": root.error, "log": root.log, "last_lines": last}
    told |= {"totals": state.totals.to_dict(), **figures(state, now, least), "files": dict(files)}
    return json.dumps(told, allow_nan=False)
