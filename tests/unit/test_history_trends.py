"""What is claimed of a series, what is not, and what is admitted because of it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from safesh.metrics import plot, trends
from safesh.metrics.admission import Thresholds, should_execute
from safesh.metrics.model import SystemSnapshot
from safesh.metrics.rollup import HOUR, Point

NOW = 1_700_000_000.0
MIB = 1 << 20


def line(count: int, per_hour: float, *, start: float = 100.0, step: float = 60.0, noise: float = 0.0) -> list[Point]:
    rng = random.Random(7)
    found = []
    for index in range(count):
        value = start + per_hour * index * step / HOUR + rng.uniform(-noise, noise)
        found.append(Point(NOW + index * step, value, value))
    return found


# -- trends ----------------------------------------------------------------------------------------


def test_a_leak_is_told_with_its_rate_and_the_time_to_its_limit() -> None:
    points = line(240, 12 * MIB, start=100 * MIB, noise=2 * MIB)
    trend = trends.find_trend(points, "memory_bytes", limit=220 * MIB)
    assert trend is not None and trend.slope is not None and trend.hours_left is not None
    assert trend.slope == pytest.approx(12 * MIB, rel=0.05)
    assert trend.hours_left == pytest.approx((220 - 148) / 12, rel=0.05)
    assert trends.describe(trend).startswith("memory grows 1")
    assert "MiB/h, limit of 220 MiB reached in 6h" in trends.describe(trend) or "5h" in trends.describe(trend)


def test_a_limit_that_is_passed_is_told_as_reached() -> None:
    trend = trends.find_trend(line(60, 60.0), "processes", limit=120)
    assert trend is not None and trend.hours_left == 0.0
    assert trends.describe(trend).endswith("reached")


def test_a_shrinking_series_never_meets_its_limit() -> None:
    trend = trends.find_trend(line(60, -30.0), "processes", limit=500)
    assert trend is not None and trend.slope == pytest.approx(-30.0) and trend.hours_left is None
    assert "shrinks" in trends.describe(trend)


@pytest.mark.parametrize(
    "points",
    [
        line(trends.LEAST_POINTS - 1, 1000.0, step=600),
        line(200, 1000.0, step=1.0),
        line(200, 1.0, noise=50.0),
        line(200, 0.2, start=1000.0),
        line(200, 0.0),
        line(1, 0.0),
    ],
    ids=["too few", "too short a time", "noise", "too little to matter", "flat", "one"],
)
def test_no_slope_is_claimed(points: list[Point]) -> None:
    trend = trends.find_trend(points, "memory_bytes", limit=5000)
    assert trend is not None and trend.slope is None and trend.hours_left is None
    assert "trend" in trends.describe(trend)


def test_nothing_has_no_trend() -> None:
    assert trends.find_trend([]) is None


def test_a_restart_does_not_hide_a_leak() -> None:
    first = line(120, 60.0, start=100)
    second = [Point(point.at + 120 * 60, point.average, point.maximum) for point in first]
    whole = trends.find_trend(first + second, "memory_bytes")
    last = trends.find_trend(first + second, "memory_bytes", recent=second)
    assert whole is not None and whole.slope is None, "a saw"
    assert last is not None and last.slope == pytest.approx(60.0)
    assert last.samples == 240


def test_rolled_up_points_weigh_what_they_stand_for() -> None:
    trend = trends.find_trend([Point(NOW, 10.0, 90.0, 3), Point(NOW + 60, 30.0, 40.0, 1)])
    assert trend is not None
    assert (trend.average, trend.maximum, trend.samples) == (15.0, 90.0, 4)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 1000])
def test_the_percentile_is_the_nearest_rank(count: int) -> None:
    values = list(range(1, count + 1))
    assert trends.percentile(random.Random(1).sample(values, count), 95) == math.ceil(0.95 * count)


@pytest.mark.parametrize(
    ("metric", "label", "shown"),
    [
        ("memory_bytes", "memory", "1.0 MiB"),
        ("memory_mb", "memory", "1048576 MiB".replace("1048576 MiB", "1.0 TiB")),
        ("cpu_percent", "CPU", "1048576.0%"),
        ("read_bytes_s", "read rate", "1.0 MiB/s"),
        ("fds", "fds", "1048576"),
    ],
)
def test_a_metric_is_shown_in_its_unit(metric: str, label: str, shown: str) -> None:
    assert trends.label(metric) == label
    assert trends.show(metric, float(MIB)) == shown


# -- pictures --------------------------------------------------------------------------------------


def test_a_sparkline_goes_from_the_least_to_the_most_and_keeps_a_peak() -> None:
    assert plot.sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert plot.sparkline([5, 5]) == "▁▁"
    assert plot.sparkline([]) == ""
    assert plot.sparkline([0.0] * 500 + [9.0] + [0.0] * 500, 40).count("█") == 1
    assert plot.sparkline([0, 9], plain=True).isascii()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("count", [1, 2, 50, 5000])
def test_a_chart_fits_its_width_and_names_its_scale(count: int, plain: bool) -> None:
    curve = plot.Curve("memory", line(count, 12.0), lambda value: f"{value:.0f} B")
    lines = plot.chart(curve, 60, 6, plain=plain)
    assert len(lines) == 8
    assert all(len(one) <= 60 for one in lines), lines
    assert lines[0] == "memory"
    assert "0 B" in lines[6]
    assert not plain or "".join(lines).isascii()
    assert any(ord(letter) > 0x2800 or letter == "*" for one in lines for letter in one)


def test_a_chart_of_nothing_says_so() -> None:
    assert plot.chart(plot.Curve("memory", [], str)) == ["memory: no samples"]


# -- admission -------------------------------------------------------------------------------------


class Past:
    """Past peaks by target and by mission type."""

    def __init__(self, **by_name: list[dict[str, float | None]]) -> None:
        self.by_name = by_name

    def peaks(self, target: str = "", *, mission_type: str = "", limit: int = 200) -> list[dict[str, float | None]]:
        return self.by_name.get(target or mission_type, [])[:limit]


def memory_peaks(*values: float) -> list[dict[str, float | None]]:
    return [{"memory_mb": value, "cpu": None} for value in values]


CALM: dict[str, Any] = {
    "cpu_percent": 10.0, "cpus": 4.0, "memory_percent": 50.0, "memory_available_mb": 4000.0, "memory_total_mb": 8000.0,
    "disk_percent": 50.0, "disk_free_gb": 100.0,
}  # fmt: skip


def test_a_calm_system_admits_and_says_what_it_saw() -> None:
    assert should_execute({}, snapshot=CALM) == (True, "memory 50%; cpu 10%; disk 50%")


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"cpu_percent": 90.0}, "cpu is at 90%"), ({"memory_percent": 93.0}, "memory is at 93%"),
     ({"disk_percent": 95.5}, "disk is at 96%")],
)  # fmt: skip
def test_a_threshold_that_is_met_refuses_by_name(changed: dict[str, float], word: str) -> None:
    may, why = should_execute({}, snapshot={**CALM, **changed})
    assert not may
    assert word in why
    assert "threshold" in why


@pytest.mark.parametrize(
    ("needs", "may"),
    [({"memory_mb": 3000}, True), ({"memory_mb": 3300}, False), ({"memory_mb": 4100}, False), ({"cpu": 300}, True),
     ({"cpu": 330}, False), ({"disk_gb": 89}, True), ({"disk_gb": 92}, False), ({"disk_gb": 101}, False)],
)  # fmt: skip
def test_what_is_asked_for_must_fit_below_the_threshold(needs: dict[str, float], may: bool) -> None:
    got, why = should_execute(needs, snapshot=CALM)
    assert got is may, why
    assert "asked for" in why


def test_thresholds_can_be_others() -> None:
    assert not should_execute({}, snapshot=CALM, thresholds=Thresholds(memory=40))[0]
    assert should_execute({}, snapshot={**CALM, "cpu_percent": 97.0}, thresholds=Thresholds(cpu=100))[0]


def test_past_peaks_foretell_with_their_count_and_refuse() -> None:
    past = Past(robot=memory_peaks(*[1000.0] * 90, *[3500.0] * 10))
    may, why = should_execute({"target": "robot", "memory_mb": 500}, snapshot=CALM, history=past)
    assert not may
    assert "3500 MiB (p95 of 100 past runs of robot)" in why
    assert should_execute({"target": "robot", "memory_mb": 500}, snapshot=CALM)[0], "without a history it may"


def test_the_larger_of_asked_for_and_foretold_counts_and_both_are_told() -> None:
    past = Past(robot=memory_peaks(100, 200, 300))
    may, why = should_execute({"target": "robot", "memory_mb": 3300}, snapshot=CALM, history=past)
    assert not may
    assert "3300 MiB (asked for)" in why
    assert "p95 of 3 past runs of robot: 300 MiB" in why


def test_a_new_target_is_judged_by_its_mission_type() -> None:
    past = Past(scan=memory_peaks(*[3900.0] * 5), robot=memory_peaks(10.0))
    may, why = should_execute({"target": "robot", "mission_type": "scan"}, snapshot=CALM, history=past)
    assert not may
    assert "p95 of 5 past runs of missions of type scan" in why


@pytest.mark.parametrize(("known", "words"), [(0, "no past run of robot"), (2, "only 2 past runs of robot")])
def test_too_few_past_runs_foretell_nothing_and_that_is_told(known: int, words: str) -> None:
    past = Past(robot=memory_peaks(*[99999.0] * known))
    may, why = should_execute({"target": "robot"}, snapshot=CALM, history=past)
    assert may
    assert words in why


def test_numbers_that_nobody_knows_never_refuse_and_are_told() -> None:
    may, why = should_execute({"memory_mb": 100, "cpu": 50, "disk_gb": 1}, snapshot=SystemSnapshot(at=NOW))
    assert may
    assert why == "nothing is known of the system; not known, so not judged: memory, cpu, disk"


def test_a_snapshot_and_a_mapping_are_judged_alike() -> None:
    needs = {"memory_mb": 3300}
    assert should_execute(needs, snapshot=SystemSnapshot(at=NOW, **CALM)) == should_execute(needs, snapshot=CALM)


@pytest.mark.parametrize("amount", [-1, "1G", True, float("nan"), float("inf")])
def test_an_amount_that_is_none_is_an_error_that_names_it(amount: object) -> None:
    with pytest.raises(ValueError, match="memory_mb"):
        should_execute({"memory_mb": amount}, snapshot=CALM)
