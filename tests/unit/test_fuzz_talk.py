"""Whatever others say to us: reports, requests, answers, datagrams, HTTP, /proc. The properties are those of
scripts/faults/fuzz_talk.py; here Hypothesis makes the inputs."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from faults import fuzz, fuzz_files, fuzz_state
from faults import fuzz_talk as talk
from faults.fuzz_box import Box
from faults.fuzz_mutate import mutate, shrink
from faults.fuzz_target import Target
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.campaign import rounds
from safesh.errors import StateError
from safesh.model import Probe, TargetSpec
from safesh.plan import past_times
from safesh.plan.model import PlanSpec, StepSpec
from safesh.plan.state import PlanState
from safesh.supervise import control, requests
from safesh.supervise.probe_http import Answer

TARGETS = {one.name: one for one in talk.TARGETS}
few = settings(max_examples=rounds(40, 1500), deadline=None)
SPEC = TargetSpec(name="t", instance="t", project="p", command=["true"], cwd="/").to_dict()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@pytest.fixture(params=TARGETS.values(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def test_every_valid_input_is_taken(place: Box, target: Target) -> None:
    assert [target.check(place, data) for data in target.seeds].count(True) >= 1


def test_any_mutation_of_what_is_said_is_heard_or_passed_over(place: Box, target: Target) -> None:
    @few
    @given(st.randoms(use_true_random=False))
    def holds(rng: Any) -> None:
        target.check(place, mutate(rng, target.seeds, target.words))

    holds()


def test_any_bytes_are_heard_or_passed_over(place: Box, target: Target) -> None:
    @few
    @given(st.binary(max_size=300))
    def holds(data: bytes) -> None:
        target.check(place, data)

    holds()


def test_a_report_of_anything_is_in_range(place: Box) -> None:
    names = st.sampled_from(["tokens", "cost", "progress", "message", "v", "other"])

    @settings(max_examples=rounds(100, 3000), deadline=None)
    @given(st.lists(st.dictionaries(names, anything, max_size=4), max_size=4))
    def holds(lines: list[dict[str, Any]]) -> None:
        talk.check_reports(place, "".join(json.dumps(line) + "\n" for line in lines).encode())

    holds()


def test_a_spec_with_anything_in_a_place_is_a_target_or_none() -> None:
    @settings(max_examples=rounds(200, 5000), deadline=None)
    @given(st.sampled_from([*SPEC]), anything)
    def holds(name: str, value: Any) -> None:
        spec = requests.spec_of(json.loads(json.dumps({**SPEC, name: value})))
        if spec is not None:
            assert TargetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
            assert all(isinstance(word, str) for word in spec.command)

    holds()


# ---- what was found


@pytest.mark.parametrize(
    "grace", [float("nan"), float("inf"), -1, pytest.param(10**400, id="huge"), True, "1s", None, [1]]
)
def test_a_request_with_a_grace_that_is_none_gets_the_targets_own(grace: Any) -> None:
    assert requests.grace_of({"grace": grace}, 7.0) == 7.0


def test_a_request_with_a_grace_gets_it() -> None:
    assert requests.grace_of({"grace": 2}, 7.0) == 2.0
    assert requests.grace_of({"grace": 0.25}, 7.0) == 0.25


@pytest.mark.parametrize(
    "change",
    [{"command": []}, {"command": 5}, {"env": {"A": 1}}, {"stop": {"signal": "SIGNOTHING"}}, {"stop": 5},
     {"name": None},
     {"signals": {"TERM": "NOTHING"}}, {"backoff": {"initial": 10**400}}, {"notify": [{"on": 5}]}, {"tty": 1}],
)  # fmt: skip
def test_a_spec_that_is_no_target_is_none(change: dict[str, Any]) -> None:
    assert requests.spec_of({**SPEC, **change}) is None
    assert requests.spec_of(SPEC) == TargetSpec.from_dict(SPEC)


@pytest.mark.parametrize("line", [b"5\n", b"[]\n", b"null\n", b"1e999\n", b'"x"\n'])
def test_an_answer_that_is_no_object_is_a_value_error(line: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(line)
        with pytest.raises(ValueError, match="not an answer"):
            control.Conversation(there).answer(5)


def test_an_answer_may_be_waited_for_longer_than_the_system_counts() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b'{"over": true}\n')
        assert control.Conversation(there).answer(1e300) == {"over": True}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_follows_an_interim_answer_has_to_be_http_too(size: int) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHT- 200\n\nok"
    answer = Answer(Probe(http="http://127.0.0.1/", status="200"))
    for at in range(0, len(data), size):
        answer.feed(data[at : at + size])
    answer.feed(b"")
    assert answer.verdict()[0] is False


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": [1e999]}', '{"a": 5}', "[]", "x"])
def test_damaged_times_of_earlier_runs_are_none(place: Box, text: str) -> None:
    plan = PlanSpec(id="p", steps=[StepSpec(id="a", command=["true"], cwd="/")], path="/x")
    folder = place.state / ".plans"
    folder.mkdir(exist_ok=True)
    Path(past_times._path(plan)).write_text(text)
    assert past_times.load(plan) == {}


@pytest.mark.parametrize(
    "change",
    [{"message": 5}, {"last_lines": "x"}, {"last_lines": [5]}, {"earlier": [5]}, {"earlier": [{"seconds": "x"}]},
     {"seconds": 1e999}, {"seconds": None}, {"started_at": "now"}, {"attempt": True}, {"usage": []}],
)  # fmt: skip
def test_a_result_with_a_step_of_another_shape_is_a_clear_error(change: dict[str, Any]) -> None:
    data = {**PlanState("p").to_dict(), "steps": {"a": {"id": "a", **change}}}
    with pytest.raises(StateError, match="is not what a monitor wrote"):
        PlanState.from_dict(data)


# ---- the fuzzer itself


def test_every_parser_has_its_share_of_the_time() -> None:
    fuzz.check_parsers({one.name for one in (*fuzz_files.TARGETS, *fuzz_state.TARGETS, *talk.TARGETS)})


def test_a_failing_input_is_made_smaller() -> None:
    assert shrink(b"a" * 50 + b"X" + b"b" * 50, lambda data: b"X" in data) == b"X"
