"""Whether a figure that is looked at again and again stays where it is, or grows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

Point = tuple[float, float]  # seconds, value
_HOUR = 3600.0


class Trend(NamedTuple):
    """Of the last part of a series. hourly: the slope an hour; grown: what that makes over the window."""

    hourly: float
    grown: float
    begin: float
    end: float
    flat: bool


def slope(points: Sequence[Point]) -> float:
    """Theil and Sen's: the median of the slopes of all pairs, in units a second. A burst, a dip or a few outliers do
    not move it; a step in the middle hardly does, steady growth shows in full. 0.0 of fewer than two points."""
    pairs = [
        (after[1] - before[1]) / (after[0] - before[0])
        for place, before in enumerate(points)
        for after in points[place + 1 :]
        if after[0] > before[0]
    ]
    return statistics.median(pairs) if pairs else 0.0


def judge(points: Sequence[Point], hourly: float, slack: float = 0.0, last: float = 2 / 3) -> Trend:
    """Over the ``last`` share of the time, for what a start takes once belongs to no trend.

    Flat: it grows by no more than ``hourly`` an hour, or by no more than ``slack`` over the whole window (what is
    counted in pages moves in steps, which a short window makes steep).
    """
    window = points[round(len(points) * (1 - last)) :]
    if len(window) < 2:
        return Trend(0.0, 0.0, 0.0, 0.0, True)
    found = slope(window)
    grown = found * (window[-1][0] - window[0][0])
    few = max(1, len(window) // 10)
    begin = statistics.median(value for _at, value in window[:few])
    end = statistics.median(value for _at, value in window[-few:])
    return Trend(found * _HOUR, grown, begin, end, found * _HOUR <= hourly or grown <= slack)
