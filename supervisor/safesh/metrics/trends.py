"""What a series says: average, maximum, 95th percentile, whether it grows, and when it meets its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safesh.clock import format_duration, format_size
from safesh.metrics.rollup import HOUR, Point

LEAST_POINTS = 12  # fewer say nothing about a slope
LEAST_SPAN = 300.0  # seconds
LEAST_FIT = 0.5  # r²: how much of the movement a straight line has to explain
_LEAST_CHANGE = 0.02  # of the average, over all of the time seen: less is no growth that anybody asks for


@dataclass(frozen=True, slots=True)
class Trend:
    """One series in numbers, in the metric's own unit.

    p95: the nearest rank, of averages where the points are rolled up; maximum: of the samples themselves.
    slope: a change per hour, by least squares, None where none can be claimed; fit: its r²; level: where the line
    stands at the end; limit: as given; hours_left: until the line meets the limit, 0.0 once it has, None if never.
    """

    metric: str
    points: int
    samples: int
    seconds: float
    average: float
    maximum: float
    p95: float
    slope: float | None = None
    fit: float | None = None
    level: float | None = None
    limit: float | None = None
    hours_left: float | None = None


def find_trend(
    points: Sequence[Point], metric: str = "", *, limit: float | None = None, recent: Sequence[Point] | None = None
) -> Trend | None:
    """The trend of a series; None where there are no points.

    recent: the points to look for growth in, where not in all. A restart makes a saw of a leak, so these are the last
    run's.
    """
    if not points:
        return None
    samples = sum(point.n for point in points)
    average = sum(point.average * point.n for point in points) / samples
    line = points if recent is None else recent
    slope, fit, level = fit_line(line)
    if slope is not None and not _is_growth(line, slope, fit or 0.0):
        slope = level = None
    hours_left = None
    if limit and level is not None and slope is not None:
        if level >= limit:
            hours_left = 0.0
        elif slope > 0:
            hours_left = (limit - level) / slope
    return Trend(
        metric=metric,
        points=len(points),
        samples=samples,
        seconds=points[-1].at - points[0].at,
        average=average,
        maximum=max(point.maximum for point in points),
        p95=percentile([point.average for point in points], 95.0),
        slope=slope,
        fit=fit,
        level=level,
        limit=limit or None,
        hours_left=hours_left,
    )


def fit_line(points: Sequence[Point]) -> tuple[float | None, float | None, float | None]:
    """(change per hour, r², the line's value at the last point) by least squares, each point weighing its samples.

    (None, None, None) where fewer than two times are known. A series that does not move has r² 1.0.
    """
    weight = float(sum(point.n for point in points))
    if not weight:
        return None, None, None
    # Around the means: sums of squares of wall times would lose every digit that matters.
    at = sum(point.at * point.n for point in points) / weight
    mean = sum(point.average * point.n for point in points) / weight
    sxx = sum(point.n * (point.at - at) ** 2 for point in points)
    sxy = sum(point.n * (point.at - at) * (point.average - mean) for point in points)
    syy = sum(point.n * (point.average - mean) ** 2 for point in points)
    if sxx <= 0:
        return None, None, None
    slope = sxy / sxx
    fit = min(1.0, sxy * sxy / (sxx * syy)) if syy > 0 else 1.0
    return slope * HOUR, fit, mean + slope * (points[-1].at - at)


def _is_growth(points: Sequence[Point], slope: float, fit: float) -> bool:
    if len(points) < LEAST_POINTS or fit < LEAST_FIT:
        return False
    seconds = points[-1].at - points[0].at
    size = sum(abs(point.average) for point in points) / len(points)
    return seconds >= LEAST_SPAN and abs(slope) * seconds / HOUR >= _LEAST_CHANGE * size > 0


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: the smallest value that ``percent`` of them do not exceed. ValueError for none at all."""
    if not values:
        raise ValueError("no values, so no percentile")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(1, min(len(ordered), int(rank))) - 1]


def describe(trend: Trend) -> str:
    """One line: ``memory grows 12 MiB/h, limit of 2 GiB reached in 6h``, or that no slope can be claimed."""
    name = label(trend.metric)
    if trend.slope is None:
        known = trend.points >= LEAST_POINTS and trend.seconds >= LEAST_SPAN
        return f"{name}: no trend" if known else f"{name}: too few samples for a trend"
    verb = "grows" if trend.slope > 0 else "shrinks"
    text = f"{name} {verb} {show(trend.metric, abs(trend.slope))}/h"
    if trend.hours_left == 0.0:
        text += f", limit of {show(trend.metric, trend.limit or 0)} reached"
    elif trend.hours_left is not None:
        text += (
            f", limit of {show(trend.metric, trend.limit or 0)} reached in {format_duration(trend.hours_left * HOUR)}"
        )
    return text


def label(metric: str) -> str:
    """``memory`` for ``memory_bytes``: a metric's name without its unit."""
    for unit in ("_bytes_s", "_bytes", "_percent", "_mb", "_seconds"):
        if metric.endswith(unit) and metric != unit:
            rate = " rate" if unit == "_bytes_s" else ""
            return (metric.removesuffix(unit) + rate).replace("cpu", "CPU").replace("_", " ")
    return metric.replace("_", " ")


def show(metric: str, value: float) -> str:
    """A value with its unit, as the metric's name tells it."""
    if metric.endswith("_bytes_s"):
        return format_size(value) + "/s"
    if metric.endswith("_bytes"):
        return format_size(value)
    if metric.endswith("_mb"):
        return format_size(value * 1048576)
    if metric.endswith("_percent"):
        return f"{value:.1f}%"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
