"""The live table: a plan's state, composed into lines that fit a window, whatever the plan's size."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from safesh.clock import format_duration
from safesh.plan.state import PlanState, StepState, StepStatus
from safesh.plan.text import (
    Look,
    clean,
    cost_text,
    first_line,
    seconds_text,
    status_text,
    style_of,
    tokens_text,
    width_of,
)

HEADERS = ("Step", "Type", "Provider", "Status", "Time", "Tokens", "Cost", "Description")
_STEP, _TYPE, _PROVIDER, _STATUS, _TIME, _TOKENS, _COST, _DESCRIPTION = range(8)
_RIGHT = frozenset((_TIME, _TOKENS, _COST))
_MOST = (32, 16, 14, 36, 9, 13, 11, 200)  # columns that a cell takes at most
_NARROW = {_DESCRIPTION: 24, _STATUS: 20, _STEP: 18}  # what the elastic ones shrink to while there is a wide gap
_NARROWEST = {_DESCRIPTION: 12, _STATUS: 14, _TYPE: 8, _PROVIDER: 8, _STEP: 12}
_SLIVER = {_DESCRIPTION: 0, _STATUS: 3, _STEP: 6}
_LEFT_OUT = (_PROVIDER, _TYPE, _COST, _TOKENS, _DESCRIPTION)  # in this order; those that are empty first
_LEAST_ROWS = 6  # lines that a low window keeps for the table
_BAR_FROM = 60  # columns of a window in which there is room for a bar


def compose(
    state: PlanState, *, now: float, width: int, height: int, look: Look, left: float | None = None
) -> list[str]:
    """At most ``height - 1`` lines, none wider than ``width``: the last line of the window is the cursor's.

    now: wall seconds by the run's clock; left: seconds that are expected to remain, None when nobody knows. What does
    not fit is counted in a last line; what runs, has failed and comes next is shown first. Costs O(height), not
    O(steps).
    """
    height -= 1
    head = header(state, now=now, width=width, look=look, left=left)
    head = head[: max(2, height - _LEAST_ROWS)]
    room = height - len(head) - 1
    if room < 1 or not state.steps:
        return head[: max(0, height)]
    total = len(state.steps)
    rows = choose(state, room if total <= room else max(1, room - 1))
    lines = head + table(rows, now=now, width=width, look=look)
    if len(rows) < total and room > 1:
        lines.append(look.style(look.cut(rest_text(state, rows, look), width), "dim"))
    return lines


def header(state: PlanState, *, now: float, width: int, look: Look, left: float | None) -> list[str]:
    """Plan, progress, counts, time and what was spent: as many lines as the width asks for."""
    totals = state.totals
    percent = 100 * totals.done // totals.steps if totals.steps else 0
    name = clean(state.plan_id) or "-"
    plan = f"Plan: {name}" + (f"  {first_line(state.description)}" if state.description else "")
    lines = [look.style(look.cut(plan, width), "head")]
    progress = look.cut(f"Progress: {totals.done:,}/{totals.steps:,} ({percent} %)", width)
    if width >= _BAR_FROM and totals.steps:
        progress += "  " + bar(totals.done / totals.steps, min(40, width - len(progress) - 2), look)
    lines.append(progress)
    counts = [
        (f"Completed: {totals.completed:,}", "good" if totals.completed else ""),
        (f"Failed: {totals.failed:,}", "bad" if totals.failed else ""),
        (f"Cancelled: {totals.cancelled:,}" if totals.cancelled else "", "warn"),
        (f"Skipped: {totals.skipped:,}" if totals.skipped else "", "dim"),
        (f"Running: {totals.running:,}", "busy" if totals.running else ""),
        (f"Pending: {totals.pending:,}", ""),
    ]
    spent = [
        (f"Elapsed: {format_duration(state.elapsed(now))}", ""),
        (f"Left: about {format_duration(left)}" if left is not None and state.ended_at is None else "", ""),
        (f"Total tokens: {totals.tokens:,}", ""),
        (f"Total cost: {cost_text(totals.cost) or '$0'}", ""),
        (f"Bad report lines: {totals.bad_reports:,}" if totals.bad_reports else "", "warn"),
    ]
    lines += [*_flow(counts, width, look), *_flow(spent, width, look)]
    return lines


def bar(share: float, width: int, look: Look) -> str:
    """A bar of which ``share`` (0 to 1) is filled."""
    full = int(share * width)
    return look.style(look.pick("█", "#") * full, "good") + look.style(look.pick("░", ".") * (width - full), "dim")


def _flow(fields: list[tuple[str, str]], width: int, look: Look) -> list[str]:
    """Fields side by side, three columns apart, on as many lines as they need."""
    lines: list[str] = []
    used = width + 1
    for text, style in fields:
        if not text:
            continue
        text = look.cut(text, width)
        shown = look.style(text, style) if style else text
        if used + 3 + len(text) <= width:
            lines[-1] += "   " + shown
            used += 3 + len(text)
        else:
            lines.append(shown)
            used = len(text)
    return lines


# ---- which steps


def choose(state: PlanState, room: int) -> list[StepState]:
    """At most ``room`` steps in the plan's order: all of them, or else those that run, the latest failures, the next
    to come, and the latest of the rest."""
    if len(state.steps) <= room:
        return list(state.steps.values())
    count = {status: len(state.group(status)) for status in ("running", "failed", "pending")}
    failed = min(count["failed"], max(1, room // 4))
    running = min(count["running"], max(0, room - failed))
    failed = min(count["failed"], max(failed, (room - running) // 2))
    others = room - running - failed
    pending = min(count["pending"], others - others // 4)
    rows = [
        *islice(state.group("running").values(), running),
        *_latest(state, "failed", failed),
        *islice(state.group("pending").values(), pending),
    ]
    for status in ("completed", "cancelled", "skipped"):
        rows += _latest(state, status, room - len(rows))
    if len(rows) < room:  # nothing else is left: more of those
        rows += islice(islice(state.group("pending").values(), pending, None), room - len(rows))
        rows += list(_latest(state, "failed", failed + room - len(rows)))[failed:]
    return sorted(rows, key=lambda step: state.place(step.id))


def _latest(state: PlanState, status: StepStatus, most: int) -> list[StepState]:
    return list(islice(reversed(state.group(status).values()), max(0, most)))


def rest_text(state: PlanState, rows: list[StepState], look: Look) -> str:
    """How many steps of each status are not shown: ``… and 9,973 more: 9,000 pending, 973 completed``."""
    shown: dict[str, int] = {}
    for step in rows:
        shown[step.status] = shown.get(step.status, 0) + 1
    parts = []
    for status in ("running", "failed", "cancelled", "pending", "completed", "skipped"):
        count = state.totals.__dict__[status] - shown.get(status, 0)
        if count:
            parts.append(f"{count:,} {status}")
    return f"{look.pick('…', '...')} and {len(state.steps) - len(rows):,} more: {', '.join(parts)}"


# ---- the table


def table(rows: list[StepState], *, now: float, width: int, look: Look) -> list[str]:
    """A line of headings and a line for each step; columns that a narrow window has no room for are left out."""
    cells = [_cells(step, now, look) for step in rows]
    sizes, gap = _sizes(cells, width)
    shown = [column for column in range(len(HEADERS)) if sizes[column]]
    lines = [look.style(_join(list(HEADERS), shown, sizes, gap, look), "head")]
    for step, row in zip(rows, cells, strict=True):
        lines.append(_join(row, shown, sizes, gap, look, style_of(step.status)))
    return lines


def _cells(step: StepState, now: float, look: Look) -> list[str]:
    said = {"failed": step.error, "running": step.message, "pending": step.reason, "cancelled": step.reason}.get(
        step.status
    )
    time = step.time(now)
    began = step.status == "running" or time > 0
    return [
        clean(step.id),
        clean(step.type),
        clean(step.provider),
        status_text(step, look),
        (format_duration(time) if step.status == "running" else seconds_text(time)) if began else "",
        tokens_text(step.tokens),
        cost_text(step.cost),
        first_line(said or step.description),
    ]


def _sizes(cells: list[list[str]], width: int) -> tuple[list[int], int]:
    """Columns that each cell gets, 0 for what is left out, and the gap between two."""
    natural = [
        min(_MOST[column], max(len(HEADERS[column]), *(width_of(row[column]) for row in cells)))
        for column in range(len(HEADERS))
    ]
    empty = [column for column in _LEFT_OUT if not any(row[column] for row in cells)]
    sizes = list(natural)
    gap = 2

    def over() -> int:
        return sum(sizes) + gap * (sum(1 for size in sizes if size) - 1) - width

    def shrink(least: dict[int, int]) -> None:
        for column, size in least.items():
            if sizes[column] > size:
                sizes[column] -= max(0, min(over(), sizes[column] - size))

    def leave_out(columns: Iterable[int]) -> None:
        for column in columns:
            if over() > 0:
                sizes[column] = 0

    shrink(_NARROW)
    leave_out(empty)
    if over() > 0:
        gap = 1
        shrink(_NARROWEST)
        leave_out(_LEFT_OUT)
        gap = 2
        if over() > 0:
            gap = 1
    for column in (_STATUS, _STEP, _DESCRIPTION, _TYPE, _PROVIDER):  # what was freed goes to those that were shrunk
        if sizes[column]:
            sizes[column] += max(0, min(-over(), natural[column] - sizes[column]))
    shrink(_SLIVER)
    leave_out((_TIME,))
    if over() > 0:  # the name alone
        sizes[_STATUS], sizes[_STEP] = 0, width
    return sizes, gap


def _join(row: list[str], shown: list[int], sizes: list[int], gap: int, look: Look, style: str = "") -> str:
    parts = []
    for column in shown:
        text = look.cut(row[column], sizes[column])
        pad = " " * (sizes[column] - width_of(text))
        if style and column == _STATUS:
            text = look.style(text, style)
        elif style and column == _DESCRIPTION:
            text = look.style(text, "bad" if style == "bad" else "dim")
        parts.append(pad + text if column in _RIGHT else text + pad)
    return (" " * gap).join(parts).rstrip()
