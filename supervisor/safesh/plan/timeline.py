"""When each step ran, as a picture: a Chrome trace (chrome://tracing, Perfetto) and a page with a Gantt chart.

The page needs neither network nor script. Up to ``ROWS`` steps have a row each; more are packed into lanes, as many as
ran at once, where what is too narrow to be seen is drawn together.
"""

from __future__ import annotations

import heapq
import json
import os
from html import escape
from typing import Any, NamedTuple

from safesh import paths
from safesh.clock import format_duration, format_time
from safesh.plan.state import PlanState
from safesh.plan.text import clean, cost_text, first_line, seconds_text, spent_text

ROWS = 300  # steps that get a row each
LANES = 120  # rows at most for more steps than that
_SLIVER = 0.0008  # of the whole width: what is narrower is drawn together with its neighbours
_TRACE, _PAGE = "timeline.json", "timeline.html"
_WORST = ("failed", "cancelled", "running", "completed")


class Bar(NamedTuple):
    """One attempt. start: seconds since the plan began."""

    step: str
    attempt: int
    status: str
    start: float
    seconds: float
    note: str


def write(state: PlanState, folder: str, now: float | None = None) -> dict[str, str]:
    """Write ``timeline.json`` and ``timeline.html`` into ``folder``, each replaced atomically; name -> path.

    now: wall seconds by the run's clock, for steps that still run. StateError when they cannot be written.
    """
    trace, page = os.path.join(folder, _TRACE), os.path.join(folder, _PAGE)
    paths.write_private(trace, json.dumps(chrome_trace(state, now), allow_nan=False))
    paths.write_private(page, html_page(state, now))
    return {"trace": trace, "timeline": page}


def bars(state: PlanState, now: float | None = None) -> list[Bar]:
    """Every attempt that ran, by its start."""
    ends = [step.ended_at for step in state.steps.values() if step.ended_at is not None]
    begun = [step.started_at for step in state.steps.values() if step.started_at is not None]
    if not begun:
        return []
    until = now or state.ended_at or max([*ends, *begun])
    zero = min(begun) if state.started_at is None else min([state.started_at, *begun])
    found = []
    for step in state.steps.values():
        for past in step.earlier:
            if past.get("started_at") is not None:
                at = max(0.0, past["started_at"] - zero)
                seconds, error = past.get("seconds", 0.0), str(past.get("error", ""))
                found.append(Bar(step.id, past.get("attempt", 0), past.get("status", "failed"), at, seconds, error))
        if step.started_at is not None and step.status != "skipped":
            status = "failed" if step.status == "pending" else step.status  # it waits because its attempt has failed
            note = step.error or step.message or step.description
            at = max(0.0, step.started_at - zero)
            found.append(Bar(step.id, step.attempt, status, at, step.time(until), note))
    return sorted(found, key=lambda bar: (bar.start, bar.start + bar.seconds))


def lanes(found: list[Bar]) -> list[int]:
    """For each bar (by start) the lowest lane in which nothing else runs at that time."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    placed, count = [], 0
    for bar in found:
        while busy and busy[0][0] <= bar.start + 1e-9:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        heapq.heappush(busy, (bar.start + bar.seconds, lane))
        placed.append(lane)
    return placed


def chrome_trace(state: PlanState, now: float | None = None) -> dict[str, Any]:
    """The trace event format's JSON object: a complete event ("X") an attempt, a thread a lane, microseconds."""
    found = bars(state, now)
    placed = lanes(found)
    name = state.plan_id or "plan"
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": name}}]
    for lane in range(max(placed, default=-1) + 1):
        events.append(
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": lane + 1, "args": {"name": f"lane {lane + 1}"}}
        )
    for bar, lane in zip(found, placed, strict=True):
        step = state.steps[bar.step]
        told = {"status": bar.status, "attempt": bar.attempt, "type": step.type, "provider": step.provider}
        told |= {"tokens": step.tokens, "cost": step.cost, "note": bar.note, "log": step.log}
        events.append(
            {
                "ph": "X",
                "name": bar.step,
                "cat": step.type or "step",
                "pid": 1,
                "tid": lane + 1,
                "ts": round(bar.start * 1e6, 3),
                "dur": round(bar.seconds * 1e6, 3),
                "args": {key: value for key, value in told.items() if value},
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"plan": name, "version": "1"}}


# ---- the page


def html_page(state: PlanState, now: float | None = None) -> str:
    """One page, with all it needs in it; light or dark as the reader has it."""
    found = bars(state, now)
    width = max([bar.start + bar.seconds for bar in found], default=0.0) or 1.0
    each = len({bar.step for bar in found}) <= ROWS
    rows = _step_rows(found, width) if each else _lane_rows(found, width)
    totals = state.totals
    facts = [f"{totals.done:,}/{totals.steps:,} steps"]
    facts += [f"{totals.__dict__[status]:,} {status}" for status in _WORST if totals.__dict__[status]]
    facts += [format_duration(state.elapsed(now or state.ended_at or 0.0)), spent_text(totals)]
    if state.started_at is not None:
        facts.append(f"began {format_time(state.started_at)}")
    title = _text(state.plan_id or "plan")
    body = "\n".join(f'<div class="n">{name}</div><div class="r">{inside}</div>' for name, inside in rows)
    return _PAGE_TEXT.format(
        title=title,
        description=_text(first_line(state.description)),
        facts=_text(" · ".join(fact for fact in facts if fact)),
        grouping="" if each else _GROUPED,
        axis=_axis(width),
        rows=body or '<div class="n"></div><div class="r">nothing has run</div>',
        table=_slowest(state, found),
    )


def _step_rows(found: list[Bar], width: float) -> list[tuple[str, str]]:
    """A row a step, in the order in which they began; further attempts in the same row."""
    rows: dict[str, list[str]] = {}
    for bar in found:
        rows.setdefault(bar.step, []).append(_block(bar.start, bar.seconds, width, bar.status, _tell(bar), bar.step))
    return [(_text(name), "".join(blocks)) for name, blocks in rows.items()]


def _lane_rows(found: list[Bar], width: float) -> list[tuple[str, str]]:
    """A row a lane, neighbours that are too narrow drawn together; lanes beyond ``LANES`` share rows."""
    placed = lanes(found)
    count = max(placed) + 1
    share = -(-count // LANES)
    rows: dict[int, list[Bar]] = {}
    for bar, lane in zip(found, placed, strict=True):
        rows.setdefault(lane // share, []).append(bar)
    drawn = []
    for row, mine in sorted(rows.items()):
        first, last = row * share + 1, min(count, (row + 1) * share)
        name = f"lane {first}" if first == last else f"lanes {first}-{last}"
        drawn.append((name, "".join(_merged(mine, width))))
    return drawn


def _merged(mine: list[Bar], width: float) -> list[str]:
    least = width * _SLIVER
    blocks: list[str] = []
    group: list[Bar] = []

    def close() -> None:
        if not group:
            return
        start = group[0].start
        end = max(bar.start + bar.seconds for bar in group)
        if len(group) == 1:
            blocks.append(_block(start, end - start, width, group[0].status, _tell(group[0]), group[0].step))
        else:
            status = min((bar.status for bar in group), key=_rank)
            names = ", ".join(clean(bar.step) for bar in group[:5]) + (", …" if len(group) > 5 else "")
            told = f"{len(group)} steps, {seconds_text(end - start)}: {names}"
            blocks.append(_block(start, end - start, width, status, told, f"{len(group)} steps"))
        group.clear()

    for bar in mine:
        if group:
            end = max(one.start + one.seconds for one in group[-3:])
            small = bar.seconds < least or group[-1].seconds < least
            if not (bar.start < end or (small and bar.start - end < least)):
                close()
        group.append(bar)
    close()
    return blocks


def _rank(status: str) -> int:
    return _WORST.index(status) if status in _WORST else len(_WORST)


def _block(start: float, seconds: float, width: float, status: str, told: str, label: str) -> str:
    left, wide = 100 * start / width, 100 * seconds / width
    # Roughly what a letter takes: a name is written where it fits.
    name = _text(label) if wide > 0.8 * len(label) + 1 else ""
    style = status if status in _WORST else "completed"
    return f'<i class="{style}" style="left:{left:.3f}%;width:{wide:.3f}%" title="{_text(told)}">{name}</i>'


def _tell(bar: Bar) -> str:
    again = f", attempt {bar.attempt}" if bar.attempt > 1 else ""
    note = f": {first_line(bar.note)}" if bar.note else ""
    return f"{bar.step}: {bar.status}{again}, {seconds_text(bar.seconds)} from {seconds_text(bar.start)}{note}"


def _axis(width: float) -> str:
    """Five to ten ticks at round times."""
    step = next(
        (size * 10.0**power for power in range(-4, 9) for size in (1, 2, 5) if width / (size * 10.0**power) <= 8),
        width,
    )
    ticks = []
    for number in range(int(width / step) + 1):
        left = 100 * number * step / width
        if left < 97:
            ticks.append(f'<b style="left:{left:.3f}%">{seconds_text(number * step) if number else "0"}</b>')
    return "".join(ticks)


def _slowest(state: PlanState, found: list[Bar]) -> str:
    """What failed and what took longest, as a table: also for those who cannot see the picture."""
    failed = list(state.group("failed").values())[:20]
    ran = {bar.step for bar in found}
    slow = heapq.nlargest(20, (step for step in state.steps.values() if step.id in ran), key=lambda step: step.seconds)
    lines = []
    for step in [*failed, *(step for step in slow if step.status != "failed")]:
        cells = (step.id, step.type, step.provider, step.status, seconds_text(step.time(state.ended_at or 0.0)))
        spent = (f"{step.tokens:,}" if step.tokens else "", cost_text(step.cost))
        told = first_line(step.error or step.message or step.description)
        row = "".join(f"<td>{_text(cell)}</td>" for cell in (*cells, *spent, told))
        lines.append(f"<tr>{row}</tr>")
    return "\n".join(lines)


def _text(text: str) -> str:
    return escape(clean(text))


_GROUPED = (
    "<p>So many steps that they are packed into lanes, as many as ran at once; what is too narrow to be seen is drawn "
    "together.</p>"
)
_PAGE_TEXT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --back: #fff; --text: #1d2129; --soft: #5b6270; --line: #d9dde3; --completed: #2f7d4f; --failed: #c0392b;
  --running: #1f6fb2; --cancelled: #96700f; --on: #fff; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ --back: #14171c; --text: #e4e7ec; --soft: #9aa3b2; --line: #2b313b;
  --completed: #58b07c; --failed: #ef7d70; --running: #6bb2ec; --cancelled: #d5ab45; --on: #10131a; }} }}
body {{ margin: 1.5rem; background: var(--back); color: var(--text); font: 14px/1.4 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.3rem; }}
h2 {{ margin: 1.5rem 0 .5rem; font-size: 1rem; }}
p {{ margin: .2rem 0; color: var(--soft); }}
.key span {{ margin-right: 1rem; }}
.key i {{ display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px; }}
.chart {{ display: grid; grid-template-columns: minmax(4rem, max-content) minmax(20rem, 1fr); column-gap: .6rem;
  margin-top: 1rem; }}
.n {{ max-width: 18rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right;
  font-size: 12px; line-height: 18px; }}
.r {{ position: relative; height: 18px; border-bottom: 1px solid var(--line); }}
.r i {{ position: absolute; top: 2px; height: 14px; min-width: 2px; border-radius: 2px; overflow: hidden;
  font: 11px/14px system-ui, sans-serif; color: var(--on); white-space: nowrap; text-indent: 3px; }}
.r b {{ position: absolute; font-weight: normal; font-size: 11px; color: var(--soft); padding-left: 3px;
  border-left: 1px solid var(--line); }}
.completed {{ background: var(--completed); }}
.running {{ background: var(--running); }}
.failed {{ background: var(--failed); }}
.cancelled {{ background: repeating-linear-gradient(45deg, var(--cancelled) 0 4px, transparent 4px 6px); }}
table {{ border-collapse: collapse; font-size: 13px; }}
td, th {{ padding: .15rem .6rem .15rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }}
.wide {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{description}</p>
<p>{facts}</p>
<p class="key"><span><i class="completed"></i>completed</span><span><i class="failed"></i>failed</span><span><i
class="running"></i>running</span><span><i class="cancelled"></i>cancelled</span></p>
{grouping}
<div class="chart">
<div class="n"></div><div class="r">{axis}</div>
{rows}
</div>
<h2>Failed and slowest</h2>
<div class="wide"><table>
<thead><tr><th>Step</th><th>Type</th><th>Provider</th><th>Status</th><th>Time</th><th>Tokens</th><th>Cost</th><th>Note</th>
</tr></thead>
<tbody>
{table}
</tbody>
</table></div>
</body>
</html>
"""
