"""Charts, as Vega-Lite specifications that the browser draws by itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import altair
import streamlit as st

from safesh.dashboard.data import Moment
from safesh.metrics.model import MIB
from safesh.metrics.rollup import Point
from safesh.metrics.trends import label

pandas: Any = import_module("pandas")  # without types: they are another package, for a handful of calls

# Okabe and Ito's colours, told apart by colour-blind eyes; in the middle of the scale, so for light and dark pages.
_STATUS = {
    "completed": "#009e73", "running": "#3b8fd1", "failed": "#d55e00", "retried": "#e69f00", "cancelled": "#999999",
    "skipped": "#bbbbbb", "pending": "#dddddd",
}  # fmt: skip
_ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
_ON_DARK = ["#56b4e9", "#e69f00", "#2fc79a", "#e4a3c6", "#f0e442", "#ff8a3d"]
_UNITS = {"_bytes": " (MiB)", "_bytes_s": " (MiB/s)", "_percent": " (% of one core)", "_mb": " (MiB)"}
_TALLEST = 900
_FEW = 30  # points that are drawn as such: a line through one would not be seen
_ALL_NAMED = 24  # steps; of more, some rows have no label


def _is_dark() -> bool:
    return st.context.theme.type == "dark"


def _show(chart: Any) -> None:
    """Draw it, with letters that stand out from a light page and from a dark one."""
    letters = "#d6d7db" if _is_dark() else "#4f535c"
    chart = chart.configure_axis(labelColor=letters, titleColor=letters).configure_legend(labelColor=letters)
    st.altair_chart(chart, width="stretch")


def live(curve: Sequence[Moment], name: str, what: str) -> None:
    """A curve of the last minutes. name: its title; what: ``cpu`` or ``memory_mb``."""
    rows = pandas.DataFrame(
        {
            "at": [pandas.Timestamp(one.at, unit="s", tz="UTC") for one in curve],
            "value": [_value(one, what) for one in curve],
        }
    )
    chart = (
        altair.Chart(rows, title=name, description=f"{name}, over the last minutes")
        .mark_area(line=True, opacity=0.25)
        .encode(x=_times(curve), y=altair.Y("value:Q", title=None, scale=altair.Scale(zero=True)))
        .properties(height=180)
    )
    _show(chart)


def _times(points: Sequence[Moment] | Sequence[Point]) -> altair.X:
    """The axis: as fine as the time that is shown is short."""
    seconds = points[-1].at - points[0].at if points else 0.0
    shape = "%H:%M:%S" if seconds < 600 else "%H:%M" if seconds < 2 * 86400 else "%m-%d"
    return altair.X("at:T", title=None, axis=altair.Axis(format=shape, tickCount=6, labelOverlap=True))


def _value(one: Moment, what: str) -> float | None:
    found = getattr(one, what)
    return None if found is None else float(found)


def gantt(bars: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
    """A bar an attempt, a row a step in the plan's order."""
    rows = pandas.DataFrame(list(bars))
    present = [name for name in _STATUS if name in set(rows["status"])]
    height = min(_TALLEST, 32 * len(order) + 130)  # the axis and the legend stand in it too
    axis = altair.Axis(labelLimit=200, labelOverlap=len(order) > _ALL_NAMED)
    chart = (
        altair.Chart(rows)
        .mark_bar(cornerRadius=2)
        .encode(
            x=altair.X("start:Q", title="seconds since the plan began"),
            x2="end:Q",
            y=altair.Y("step:N", sort=list(order), title=None, axis=axis),
            color=altair.Color(
                "status:N",
                title=None,
                scale=altair.Scale(domain=present, range=[_STATUS[name] for name in present]),
                legend=altair.Legend(orient="top"),
            ),
            tooltip=["step", "status", "took", "provider"],
        )
        .properties(height=height)
    )
    _show(chart)


def by_provider(rows: Sequence[dict[str, Any]], what: str) -> None:
    """A bar a provider. what: ``Tokens`` or ``Cost``."""
    chart = (
        altair.Chart(pandas.DataFrame(list(rows)), title=what)
        .mark_bar()
        .encode(x=altair.X(f"{what}:Q", title=None), y=altair.Y("Provider:N", sort="-x", title=None))
        .properties(height=34 * len(rows) + 90)
    )
    _show(chart)


def series(points: Sequence[Point], target: str, metric: str, limit: float | None) -> None:
    """A metric over time, with its limit where it has one."""
    unit = float(MIB) if metric.endswith(("_bytes", "_bytes_s")) else 1.0
    shown = next((name for ending, name in _UNITS.items() if metric.endswith(ending)), "")
    rows = pandas.DataFrame(
        {
            "at": [pandas.Timestamp(one.at, unit="s", tz="UTC") for one in points],
            "average": [one.average / unit for one in points],
            "peak": [one.maximum / unit for one in points],
        }
    )
    base = altair.Chart(rows, title=f"{target}: {label(metric)}{shown}").encode(x=_times(points))
    chart: Any = base.mark_line(point=len(points) < _FEW).encode(y=altair.Y("average:Q", title=None)) + base.mark_line(
        opacity=0.35, strokeDash=[3, 3]
    ).encode(y="peak:Q")
    if limit:
        rule = pandas.DataFrame({"limit": [limit / unit]})
        chart += altair.Chart(rule).mark_rule(color="#d55e00", strokeDash=[6, 4]).encode(y="limit:Q")
    _show(chart.properties(height=220))


def peaks(rows: Sequence[dict[str, Any]]) -> None:
    """A point a run: the most memory it held."""
    frame = pandas.DataFrame(list(rows))
    frame["at"] = pandas.to_datetime(frame["at"], unit="s", utc=True)
    chart = (
        altair.Chart(frame, title="Peak memory of each run (MiB)")
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=altair.X("at:T", title=None, axis=altair.Axis(format="%m-%d %H:%M", tickCount=6, labelOverlap=True)),
            y=altair.Y("mb:Q", title=None),
            color=altair.Color("target:N", title=None, scale=altair.Scale(range=_ON_DARK if _is_dark() else _ON_LIGHT)),
            shape=altair.Shape("target:N", title=None),
        )
        .properties(height=220)
    )
    _show(chart)
