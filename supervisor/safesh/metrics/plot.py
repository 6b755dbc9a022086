"""Pictures of a series: a sparkline, a chart of braille dots for terminals, a PNG by matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

from safesh.errors import SafeshError
from safesh.metrics.rollup import Point

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-=+*#@"
# The dots of a braille cell, two columns of four, from the top (the Unicode Standard, U+2800).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


class PlotMissing(SafeshError):
    """matplotlib is not installed (EX_UNAVAILABLE)."""

    exit_code = 69


class Curve(NamedTuple):
    """One series to draw. show: a value with its unit; limit: drawn as a line where there is one."""

    title: str
    points: Sequence[Point]
    show: Callable[[float], str]
    limit: float | None = None


def sparkline(values: Sequence[float], width: int = 40, *, plain: bool = False) -> str:
    """The values in one line of at most ``width`` bars from the least to the most; ``plain`` uses ASCII alone."""
    bars = _PLAIN_BARS if plain else _BARS
    columns = _squeeze(list(values), width)
    if not columns:
        return ""
    least, most = min(columns), max(columns)
    if most <= least:
        return bars[0] * len(columns)
    return "".join(bars[int((value - least) / (most - least) * (len(bars) - 1) + 0.5)] for value in columns)


def chart(curve: Curve, width: int = 72, height: int = 8, *, plain: bool = False) -> list[str]:
    """Lines of a chart by time, gaps left empty: a title, ``height`` rows with their scale, the times below.

    width: of the whole. plain: ASCII alone, for terminals that cannot say braille.
    """
    points = curve.points
    if not points:
        return [f"{curve.title}: no samples"]
    most = max(point.maximum for point in points)
    least = min(0.0, min(point.average for point in points))
    span = (most - least) or 1.0
    marks = [curve.show(most), curve.show(least + span / 2), curve.show(least)]
    margin = max(map(len, marks))
    columns = max(10, width - margin - 2)
    across, down = (1, 1) if plain else (2, 4)
    grid = [[0] * columns for _ in range(height)]
    begin, end = points[0].at, points[-1].at
    for point in points:
        x = _place(point.at - begin, end - begin, columns * across)
        # A point stands for an interval: from its average up to its maximum.
        top, bottom = (
            height * down - 1 - _place(value - least, span, height * down) for value in (point.maximum, point.average)
        )
        for y in range(top, bottom + 1):
            grid[y // down][x // across] |= 1 if plain else _DOTS[x % 2][y % 4]
    scale = {0: marks[0], (height - 1) // 2: marks[1], height - 1: marks[2]}
    lines = [curve.title]
    for number, row in enumerate(grid):
        drawn = "".join(" " if not cell else "*" if plain else chr(_BRAILLE + cell) for cell in row)
        lines.append(f"{scale.get(number, ''):>{margin}} {'|' if plain else '┤'}{drawn}".rstrip())
    left, right = _moment(begin, end - begin), _moment(end, end - begin)
    lines.append(" " * (margin + 2) + left + right.rjust(max(len(right) + 1, columns - len(left))))
    return lines


def write_png(path: str, curves: Sequence[Curve], *, title: str = "") -> None:
    """Draw the curves below each other into a PNG file. PlotMissing without matplotlib; OSError as open(2) gives."""
    try:
        dates: Any = import_module("matplotlib.dates")
        figures: Any = import_module("matplotlib.figure")
        ticker: Any = import_module("matplotlib.ticker")
    except ImportError:
        raise PlotMissing(
            "needs matplotlib, which is not installed",
            place="--plot",
            hint="python3 -m pip install 'safesh[plot]'; without it: safe.sh history --csv",
        ) from None
    figure = figures.Figure(figsize=(10, 2.6 * max(1, len(curves))), layout="constrained")
    if title:
        figure.suptitle(title)
    for number, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(max(1, len(curves)), 1, number)
        times = [dates.date2num(_local(point.at)) for point in curve.points]
        axes.fill_between(
            times, [point.average for point in curve.points], [point.maximum for point in curve.points], alpha=0.25
        )
        axes.plot(times, [point.average for point in curve.points], linewidth=1.2)
        if curve.limit:
            axes.axhline(curve.limit, color="tab:red", linewidth=1, linestyle="--")
        axes.set_title(curve.title, loc="left", fontsize="medium")
        axes.set_ylim(bottom=min(0.0, *(point.average for point in curve.points)) if curve.points else 0.0)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _place, show=curve.show: show(value)))
        locator = dates.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.AutoDateFormatter(locator))
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, format="png", dpi=110)


def _local(seconds: float) -> object:
    from datetime import datetime

    return datetime.fromtimestamp(seconds)


def _place(value: float, span: float, cells: int) -> int:
    """Which of ``cells`` cells a value from 0 to ``span`` falls into."""
    return min(cells - 1, max(0, int(value / span * cells))) if span > 0 else 0


def _squeeze(values: list[float], width: int) -> list[float]:
    """At most ``width`` values, each the largest of its share: a peak must not vanish."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) <= width:
        return values
    edges = [number * len(values) // width for number in range(width + 1)]
    return [max(values[a:b]) for a, b in pairwise(edges)]


def _moment(at: float, span: float) -> str:
    return time.strftime("%H:%M:%S" if span < 3600 else "%m-%d %H:%M", time.localtime(at))
