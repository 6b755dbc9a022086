"""Whatever lies in the state folder: used whole, or told by name, and shown without a word to the terminal. The
properties are those of scripts/faults/fuzz_state.py; here Hypothesis makes the inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from faults import fuzz_state as state
from faults.fuzz_box import Box
from faults.fuzz_mutate import mutate
from faults.fuzz_target import Target
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.campaign import rounds
from safesh.clock import format_duration, format_time
from safesh.instance import record as records
from safesh.mission import store
from safesh.paths import InstancePaths
from safesh.plan import resume
from safesh.plan.journal import read
from safesh.supervise.stray_news import _told_before

TARGETS = {one.name: one for one in state.TARGETS}
SLOW = ("record", "lock file", "history spool", "history database")  # each input is a look at /proc, or a database

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, -1, 1 << 59, 1 << 60, 1e300, 10**400, -0.0]))
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@pytest.fixture(params=TARGETS.values(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def test_every_valid_input_is_taken(place: Box, target: Target) -> None:
    assert [target.check(place, data) for data in target.seeds].count(True) >= 1


def test_any_mutation_of_a_valid_input_is_used_or_told(place: Box, target: Target) -> None:
    @settings(max_examples=rounds(4 if target.name in SLOW else 20, 300), deadline=None)
    @given(st.randoms(use_true_random=False))
    def holds(rng: Any) -> None:
        target.check(place, mutate(rng, target.seeds, target.words))

    holds()


def test_a_record_with_anything_in_a_place_is_shown_or_told(place: Box) -> None:
    whole = state.make_record()
    names = st.sampled_from([*whole, "health", "notify", "sample", "usage", "last_exit", "last_verdict"])

    @settings(max_examples=rounds(15, 600), deadline=None)
    @given(
        names, anything, st.sampled_from(["", "at", "since", "checked_at", "failures", "message", "status", "asked"])
    )
    def holds(name: str, value: Any, inside: str) -> None:
        found: dict[str, Any] = json.loads(json.dumps(whole))
        if inside and isinstance(found.get(name), dict):
            found[name][inside] = value
        else:
            found[name] = value
        state.check_record(place, json.dumps(found).encode())

    holds()


# ---- what was found


@pytest.mark.parametrize("seconds", [1e18, -1e18, 1 << 59, float("inf"), float("nan")])
def test_a_time_that_no_clock_reads_is_still_shown(seconds: float) -> None:
    assert format_time(seconds)
    assert format_duration(seconds)


def test_a_record_with_a_time_of_the_far_future_is_shown(place: Box) -> None:
    found = state.make_record()
    found["last_exit"]["at"] = 1 << 59
    assert state.check_record(place, json.dumps(found).encode())


@pytest.mark.parametrize("value", [pytest.param(10**400, id="huge"), float("nan"), True, "soon", -1])
@pytest.mark.parametrize("key", ["failures", "since", "checked_at"])
def test_a_health_with_a_figure_that_is_none_is_told(place: Box, key: str, value: Any) -> None:
    found = state.make_record()
    found["health"][key] = value
    place.state_file("t.json", json.dumps(found).encode())
    record, problem = records.read_record(InstancePaths(str(place.folder), "t"))
    assert record is None
    assert f"'health' has no {key}" in problem


def test_an_event_that_told_a_hook_number_infinity_is_passed_over(place: Box) -> None:
    event = '{"at":1,"instance":"t","event":"strays","message":"x","told":[0,1e999]}\n'
    assert _told_before(place.state_file("events.jsonl", event.encode()), "t", "x") == {}


def test_a_plans_journal_with_deep_nesting_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("[" * 100_000 + '\n{"event": "plan_started", "plan": "p"}\n')
    assert [event["event"] for event in read(str(path))] == ["plan_started"]
    assert resume.Past(str(path)).plan_id == "p"


@pytest.mark.parametrize("pid", [0, 1, -1, 1 << 31, 10**30, True])
def test_a_plans_journal_with_a_pid_that_is_none_ends_nobody(tmp_path: Path, pid: int) -> None:
    from safesh import _platform

    event = {"event": "step_started", "step": "a", "run_id": "x", "pid": pid, "start": 1, "boot": _platform.boot_id()}
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(event) + "\n")
    assert resume.Past(str(path)).end_strays() is None


@pytest.mark.parametrize("cut", range(1, 5))
def test_half_the_name_of_a_temporary_folder_is_nobodys_to_remove(place: Box, tmp_path: Path, cut: int) -> None:
    """A crash or a full disk may leave a part of it, which is the name of a folder above."""
    precious = tmp_path / "precious"
    precious.mkdir()
    runs = Path(store.folder("runs"))
    run = runs / f"m-{cut}"
    run.mkdir()
    told = {1: precious, 2: tmp_path, 3: precious / "..", 4: precious / "safesh-0123456789abX"}[cut]
    store.write(str(run / "temporary"), os.fsencode(told))
    (runs / f"m-{cut}.lock").touch(0o600)
    store.sweep()
    assert precious.is_dir()
    assert not run.exists()
