"""The soak of ``make faults`` in small: what it sees, what its judge finds, and what bounds what is left behind."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from faults import soak, soak_judge, trend
from faults.soak_crowd import members

from safesh import paths
from safesh.supervise import events


def points(values: list[float], step: float = 10.0) -> list[trend.Point]:
    return [(step * place, value) for place, value in enumerate(values)]


# ---- the judge


def test_steady_growth_under_noise_is_found_and_measured(rng: random.Random) -> None:
    leak = points([5000 + 0.5 * place + rng.uniform(-8, 8) for place in range(180)])  # 180 KiB an hour
    found = trend.judge(leak, hourly=16)
    assert not found.flat
    assert 150 < found.hourly < 210


def test_noise_a_warm_up_a_step_and_a_burst_are_no_growth(rng: random.Random) -> None:
    flat = [5000 + rng.uniform(-8, 8) for _ in range(180)]
    warm = [value - max(0, 50 - place) * 10 for place, value in enumerate(flat)]
    stepped = [value + (4 if place > 120 else 0) for place, value in enumerate(flat)]
    burst = [value + (900 if 100 < place < 110 else 0) for place, value in enumerate(flat)]
    for values in (flat, warm, stepped, burst):
        assert trend.judge(points(values), hourly=64).flat
    assert abs(trend.slope(points([7.0] * 50))) == 0.0


def test_slack_lets_a_short_look_pass_by_pages_and_no_further() -> None:
    assert trend.judge(points([100 + 4 * place for place in range(10)], 1.0), hourly=16, slack=64).flat
    assert not trend.judge(points([100 + 40 * place for place in range(10)], 1.0), hourly=16, slack=64).flat
    assert trend.judge([], hourly=1).flat


def test_a_crowd_has_some_of_each_kind() -> None:
    them = members(50, leaky=1)
    count = Counter(one.kind for one in them)
    assert count == {"plain": 15, "sampled": 15, "mortal": 5, "compressing": 5, "stamping": 5, "bereaved": 5}
    assert [one.name for one in them if one.leaky] == ["t49"]


# ---- the soak itself, once, with one supervisor among the others that leaks on purpose


@pytest.fixture(scope="module")
def seen() -> soak_judge.Soak:
    return soak.observe(soak.QUICK._replace(seconds=9.0), seed=1, leaky=1)


@pytest.mark.pidns
@pytest.mark.timeout(90)
class TestSoak:
    def test_nothing_went_wrong_but_the_leak(self, seen: soak_judge.Soak) -> None:
        assert seen.problems == []
        assert seen.left == []
        assert sum(seen.series[-1]["restarts"].values()) > 8 * 5
        assert seen.killed["supervisor"] + seen.killed["keeper"] > 0
        assert seen.asked > 0

    def test_a_supervisor_that_leaks_is_told_from_those_that_do_not(self, seen: soak_judge.Soak) -> None:
        grown = {name: one.grown for name, one in soak_judge.growths(seen, "anon").items()}
        leaky = next(one.name for one in seen.them if one.leaky)
        assert grown.pop(leaky) > 5 * seen.size.slack
        assert max(grown.values()) <= seen.size.slack, grown
        held = {name: one.grown for name, one in soak_judge.growths(seen, "fds").items()}
        assert held.pop(leaky) > 40
        assert max(held.values()) < 15, held  # some come and go with each keeper
        figures, problems = soak_judge.judged(seen)
        wrong = {figure.what for figure in figures if figure.ok is False}
        assert "the supervisor that grows most in the last third" in wrong
        assert "descriptors of a supervisor, average: slope" in wrong
        assert problems

    def test_the_same_without_the_leak_is_good(self, seen: soak_judge.Soak) -> None:
        leaky = {one.name for one in seen.them if one.leaky}

        def without(look: dict[str, Any]) -> dict[str, Any]:
            return look | {
                kind: {name: value for name, value in look[kind].items() if name not in leaky}
                for kind in ("supervisor", "keeper")
            }

        clean = seen._replace(them=[one for one in seen.them if not one.leaky], series=[*map(without, seen.series)])
        figures, problems = soak_judge.judged(clean)
        assert problems == []
        assert {figure.what for figure in figures} >= {"restarts seen", "runs of one target in history.db"}


# ---- what bounds the rest


def test_the_event_log_and_its_older_part_stay_within_twice_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_LIMIT", 10_000)
    log = events.EventLog(str(tmp_path / "events.jsonl"), "robot")
    for number in range(1000):
        log.write("started", "robot", f"run-{number}")
        sizes = [file.stat().st_size for file in tmp_path.iterdir()]
        assert len(sizes) <= 2
        assert sum(sizes) <= 2 * (10_000 + 300)
    assert log.lost == 0
    text = "".join((tmp_path / name).read_text() for name in ("events.jsonl.1", "events.jsonl"))
    told = [line.partition('"run_id": "')[2].partition('"')[0] for line in text.splitlines()]
    assert told == [f"run-{number}" for number in range(1000 - len(told), 1000)]  # the latest ones, none missing


def test_two_that_find_the_same_log_full_set_it_aside_once(tmp_path: Path) -> None:
    path = str(tmp_path / "events.jsonl")
    Path(path).write_text("full\n")
    one, other = (os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(2))
    try:
        paths.set_aside(path, one)
        paths.set_aside(path, other)  # while the first still has it
        Path(path).write_text("new\n")
    finally:
        os.close(one)
    paths.set_aside(path, other)
    os.close(other)
    assert Path(path).read_text() == "new\n"
    assert Path(path + ".1").read_text() == "full\n"
