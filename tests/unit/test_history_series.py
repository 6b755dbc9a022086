"""Samples over time: what is asked for is the same whether it was rolled up, pruned or neither; and it stays small."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from safesh.metrics.history import History, Retention
from safesh.metrics.rollup import DAY, HOUR, MINUTE, Resolution

NOW = 1_700_006_400.0  # a whole hour


class Sample:
    """As the sampler's."""

    def __init__(self, at: float, **numbers: float | None) -> None:
        self.numbers = {"at": at, **numbers}

    def to_dict(self) -> dict[str, float | None]:
        return self.numbers


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(str(tmp_path / "history.db")) as made:
        yield made


def feed(history: History, begin: float, end: float, step: float, rng: random.Random) -> list[tuple[float, float]]:
    rows = []
    at = begin
    while at < end:
        rows.append((at, rng.uniform(100, 200)))
        at += step
    for start in range(0, len(rows), 1000):
        assert history.add_samples("r", "t", [{"at": at, "m": value} for at, value in rows[start : start + 1000]])
    return rows


def expected(rows: list[tuple[float, float]], step: int) -> list[tuple[float, float, float, int]]:
    buckets: dict[int, list[float]] = {}
    for at, value in rows:
        buckets.setdefault(int(at) // step * step, []).append(value)
    return [(at, sum(found) / len(found), max(found), len(found)) for at, found in sorted(buckets.items())]


def read(history: History, resolution: Resolution, since: float = 0) -> list[tuple[float, float, float, int]]:
    found = history.series("t", "m", since, NOW + DAY, resolution)
    return [(at, pytest.approx(average), maximum, n) for at, average, maximum, n in found]


@pytest.mark.parametrize(("resolution", "step"), [("minute", MINUTE), ("hour", HOUR)])
@pytest.mark.parametrize("rolled", [[], [NOW - 5000], [NOW - 9000, NOW - 4000, NOW - 10, NOW - 10], [NOW + HOUR]])
def test_a_series_is_the_same_however_much_of_it_is_rolled_up(
    history: History, rng: random.Random, resolution: Resolution, step: int, rolled: list[float]
) -> None:
    rows = feed(history, NOW - 3 * HOUR, NOW, 7.0, rng)
    for moment in rolled:
        assert history.rollup(moment)
    assert expected(rows, step) == read(history, resolution)


def test_a_sample_that_comes_late_is_rolled_up_after_all(history: History, rng: random.Random) -> None:
    rows = feed(history, NOW - 2 * HOUR, NOW, 30.0, rng)
    history.rollup(NOW)
    late = feed(history, NOW - 7000, NOW - 6900, 11.0, rng)
    for _time in range(2):
        assert expected(sorted(rows + late), MINUTE) == read(history, "minute")
        assert expected(sorted(rows + late), HOUR) == read(history, "hour")
        history.rollup(NOW)


def test_pruning_takes_what_is_old_and_changes_no_rollup(tmp_path: Path, rng: random.Random) -> None:
    keep = Retention(raw=2 * HOUR, minute=6 * HOUR, hour=12 * HOUR)
    with History(str(tmp_path / "h.db"), retention=keep) as history:
        rows = feed(history, NOW - 10 * HOUR, NOW, 20.0, rng)
        before = read(history, "hour")
        assert history.prune(NOW)
        assert read(history, "hour") == before == expected(rows, HOUR)
        assert min(at for at, *_rest in read(history, "raw")) == NOW - 2 * HOUR
        assert min(at for at, *_rest in read(history, "minute")) == NOW - 6 * HOUR
        assert history.prune(NOW + 5 * HOUR)
        assert min(at for at, *_rest in read(history, "hour")) == NOW - 7 * HOUR
        # What is older than all raw samples is refused: it would replace a whole interval by one sample of it.
        history.add_samples("r", "t", [{"at": NOW - 9 * HOUR, "m": 1.0}])
        assert history.lost == 1


def test_writers_maintain_the_history_by_themselves(tmp_path: Path) -> None:
    now = time.time()
    with History(str(tmp_path / "h.db"), retention=Retention(raw=2 * HOUR)) as history:
        for at in range(int(now - 6 * HOUR), int(now), 60):
            history.add_samples("r", "t", [{"at": at, "m": 1.0}])
        raw = history.series("t", "m", resolution="raw")
        assert len(raw) <= 180
        assert sum(point.n for point in history.series("t", "m", resolution="minute")) == 360


def test_a_sample_from_the_future_prunes_nothing(tmp_path: Path) -> None:
    now = time.time()
    with History(str(tmp_path / "h.db")) as history:
        history.add_samples("r", "t", [{"at": now, "m": 1.0}])
        history.add_samples("r", "t", [{"at": now + 500 * DAY, "m": 2.0}])
        assert len(history.series("t", "m", 0, now + 600 * DAY, "raw")) == 2


def test_a_samplers_sample_gives_gauges_and_rates_and_no_counters(history: History) -> None:
    history.add_samples("r", "t", [Sample(NOW, cpu_percent=None, memory_bytes=10, cpu_seconds=1.0, read_bytes=100)])
    history.add_samples("r", "t", [Sample(NOW + 2, cpu_percent=50.0, memory_bytes=20, cpu_seconds=2.0, read_bytes=500)])
    assert history.metrics("t") == ["cpu_percent", "memory_bytes", "read_bytes_s"]
    assert [point.average for point in history.series("t", "read_bytes_s", resolution="raw")] == [200.0]
    assert [point.average for point in history.series("t", "cpu_percent", resolution="raw")] == [50.0]


@pytest.mark.parametrize("at", [None, "now", 0, -5, float("nan"), float("inf"), 1e12, True])
def test_a_sample_without_a_sane_time_is_passed_over(history: History, at: object) -> None:
    assert history.add_samples("r", "t", [{"at": at, "m": 1.0}])
    assert history.metrics("t") == []


@pytest.mark.parametrize(("span", "step"), [(HOUR, 2.0), (DAY, MINUTE), (20 * DAY, HOUR)])
def test_auto_gives_the_finest_resolution_that_stays_small(history: History, span: int, step: float) -> None:
    begin = NOW - span
    history.add_samples("r", "t", [{"at": begin + index * 2.0, "m": 1.0} for index in range(4000)])
    found = history.series("t", "m", begin, NOW, "auto")
    assert found[1].at - found[0].at == step


def test_a_week_costs_little_more_to_read_than_an_hour_of_it(tmp_path: Path) -> None:
    """The promise behind "a week in under 200 ms" (scripts' figures are in docs): the work grows with what is shown."""
    with History(str(tmp_path / "h.db"), retention=Retention(raw=30 * DAY)) as history:
        for begin in range(0, 7 * DAY, 50 * 1000):
            end = min(begin + 50 * 1000, 7 * DAY)
            rows = [{"at": NOW - 7 * DAY + at, "m": at % 977} for at in range(begin, end, 50)]
            history.add_samples("r", "t", rows)
        history.rollup(NOW)
        week, raw = (
            min(_time_of(history, since, resolution) for _try in range(5))
            for since, resolution in ((NOW - 7 * DAY, "hour"), (NOW - 7 * DAY, "raw"))
        )
        assert len(history.series("t", "m", NOW - 7 * DAY, NOW)) == 7 * 24
    assert week < raw / 4


def _time_of(history: History, since: float, resolution: Resolution) -> float:
    begin = time.perf_counter()
    history.series("t", "m", since, NOW, resolution)
    return time.perf_counter() - begin
