"""The scheduler of plans: what starts when, and that nothing is lost, doubled, starved or started too soon."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesh.errors import ConfigError
from safesh.plan.model import StepSpec
from safesh.plan.schedule import PATIENCE, Schedule


def step(name: str, *after: str, **resources: float) -> StepSpec:
    return StepSpec(id=name, command=["true"], cwd="/", depends_on=list(after), resources=resources)


def plan(
    *steps: StepSpec,
    slots: int = 100,
    expected: dict[str, float] | None = None,
    **capacities: float,
) -> Schedule:
    return Schedule(steps, capacities, slots, expected or {})


# --- what starts ---------------------------------------------------------------------------------


def test_a_step_starts_once_all_it_depends_on_is_done() -> None:
    schedule = plan(step("a"), step("b"), step("c", "a", "b"))
    assert schedule.take() == ["a", "b"]
    schedule.ended("a", True)
    assert schedule.take() == []
    schedule.ended("b", True)
    assert schedule.take() == ["c"]
    assert not schedule.done
    schedule.ended("c", True)
    assert schedule.done


def test_the_longest_remaining_path_goes_first() -> None:
    steps = [step("short"), step("head"), step("tail", "head"), step("long")]
    schedule = plan(*steps, slots=1, expected={"short": 1, "head": 2, "tail": 9, "long": 10})
    order = []
    while taken := schedule.take():
        order += taken
        schedule.ended(taken[0], True)
    assert order == ["head", "long", "tail", "short"]


def test_ties_keep_the_order_of_the_plan() -> None:
    names = [f"s{number}" for number in range(20)]
    assert plan(*(step(name) for name in names)).take() == names


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_an_expected_duration_that_is_none_counts_as_unknown(seconds: float) -> None:
    assert plan(step("a"), step("b"), expected={"a": seconds, "b": 2}).take() == ["b", "a"]


def test_no_more_steps_run_than_there_are_slots() -> None:
    schedule = plan(*(step(f"s{number}") for number in range(5)), slots=2)
    assert schedule.take() == ["s0", "s1"]
    assert schedule.take() == []
    assert schedule.free["slots"] == 0


def test_at_most_two_steps_take_a_providers_two_tokens_and_others_pass() -> None:
    steps = [step("a", groq=1), step("b", groq=1), step("c", groq=1), step("other")]
    schedule = plan(*steps, groq=2)
    assert schedule.take() == ["a", "b", "other"]
    schedule.ended("b", True)
    assert schedule.take() == ["c"]


def test_thirds_of_a_core_fill_it_exactly_however_often() -> None:
    schedule = plan(*(step(f"s{number}", cpu=0.1) for number in range(100)), cpu=1)
    for _ in range(10):
        taken = schedule.take()
        assert len(taken) == 10
        for name in taken:
            schedule.ended(name, True)
    assert schedule.done
    assert schedule.free["cpu"] == 1


def test_what_an_engine_has_without_end_is_never_short() -> None:
    assert plan(step("a", cpu=1e12), step("b", cpu=1e12), cpu=float("inf")).take() == ["a", "b"]


def test_taken_steps_run_and_started_tells_which_have_a_process() -> None:
    schedule = plan(step("a"), step("b"))
    schedule.take()
    schedule.started("b")
    assert schedule.running == ["a", "b"]
    assert schedule.spawned == ["b"]
    schedule.ended("a", True)
    assert schedule.running == ["b"]


# --- the reservation ------------------------------------------------------------------------------


def overtakers(schedule: Schedule, big: str) -> int:
    """Starts before ``big``, each small step running until two newer ones run."""
    count = 0
    running: list[str] = []
    while True:
        taken = schedule.take()
        running += taken
        if big in running:
            return count
        count += len(taken)
        schedule.ended(running.pop(0), True)


@pytest.mark.parametrize("slots", [2, 5])
def test_a_big_step_is_passed_over_by_a_few_small_ones_only(slots: int) -> None:
    small = [step(f"s{number}", memory=1) for number in range(1000)]
    # The big one is second in the plan: when it is looked at first, one unit is taken, and forever would be.
    schedule = plan(small[0], step("big", memory=slots), *small[1:], slots=slots, memory=slots)
    assert overtakers(schedule, "big") <= 1 + PATIENCE * slots


def test_only_those_who_want_the_same_count_and_wait() -> None:
    steps = [step("m0", memory=1), step("big", memory=2), *(step(f"c{number}", cpu=1) for number in range(50))]
    schedule = plan(*steps, slots=2, memory=2, cpu=1)
    assert schedule.take() == ["m0", "c0"]
    for number in range(49):
        schedule.ended(f"c{number}", True)
        assert schedule.take() == [f"c{number + 1}"]


def test_what_is_set_aside_leaves_the_rest_to_others() -> None:
    # big lacks memory; once its patience is over, 2 of 4 cores are kept for it and the other two go on working.
    small = [step(f"c{number}", cpu=1) for number in range(40)]
    schedule = plan(step("m", memory=1), step("big", memory=2, cpu=2), *small, slots=4, memory=2, cpu=4)
    running = schedule.take()
    assert running == ["m", "c0", "c1", "c2"]
    for number in range(20):
        schedule.ended(f"c{number}", True)
        schedule.take()
    assert schedule.running == ["m", "c20", "c21"]
    schedule.ended("m", True)
    assert schedule.take() == ["big"]


def test_a_more_urgent_step_goes_before_one_that_waits() -> None:
    steps = [step("run", cpu=1), step("big", cpu=2), step("urgent", "gate", cpu=1), step("gate")]
    schedule = plan(*steps, cpu=2, expected={"urgent": 50, "gate": 1, "run": 9, "big": 5})
    assert schedule.take() == ["gate", "run"]
    schedule.ended("gate", True)
    assert schedule.take() == ["urgent"]


# --- failure, retry, cancel --------------------------------------------------------------------------


def test_a_failed_step_cancels_all_below_it_and_is_named_as_the_reason() -> None:
    schedule = plan(step("a"), step("b", "a"), step("c", "b"), step("free"), step("d", "free", "c"))
    schedule.take()
    reason = "cancelled because a failed"
    assert schedule.ended("a", False) == [("b", reason), ("c", reason), ("d", reason)]
    assert schedule.ended("free", True) == []
    assert schedule.take() == []
    assert schedule.done
    assert [schedule.phase(name) for name in ("a", "b", "free")] == ["failed", "cancelled", "done"]


def test_of_two_failures_above_a_step_the_first_is_its_reason() -> None:
    schedule = plan(step("a"), step("b"), step("c", "a", "b"))
    schedule.take()
    assert schedule.ended("b", False) == [("c", "cancelled because b failed")]
    assert schedule.ended("a", False) == []
    assert schedule.done


def test_a_paused_step_lets_go_of_what_it_took_until_its_retry() -> None:
    schedule = plan(step("a", cpu=1), step("b", cpu=1), cpu=1)
    assert schedule.take() == ["a"]
    schedule.pause("a")
    assert schedule.take() == ["b"]
    assert not schedule.done
    schedule.retry("a")
    assert schedule.take() == []
    schedule.ended("b", True)
    assert schedule.take() == ["a"]
    schedule.retry("a")  # at once, without a pause
    assert schedule.take() == ["a"]
    schedule.ended("a", True)
    assert schedule.done


def test_cancel_all_leaves_only_what_runs() -> None:
    schedule = plan(step("a"), step("b"), step("c"), step("d", "a"), slots=2)
    schedule.take()
    schedule.pause("b")
    assert schedule.cancel_all("cancelled by Ctrl-C") == [(name, "cancelled by Ctrl-C") for name in ("b", "c", "d")]
    assert schedule.take() == []
    assert not schedule.done
    schedule.ended("a", True)
    assert schedule.take() == []
    assert schedule.done


@pytest.mark.parametrize("method", ["started", "pause", "retry"])
def test_a_step_that_does_not_run_is_no_ones_to_change(method: str) -> None:
    schedule = plan(step("a"))
    with pytest.raises(ValueError, match="step a is ready, expected running"):
        getattr(schedule, method)("a")


def test_a_step_ends_once() -> None:
    schedule = plan(step("a"))
    schedule.take()
    schedule.ended("a", True)
    with pytest.raises(ValueError, match="step a is done"):
        schedule.ended("a", True)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([step("a", "x")], "step a: depends on 'x', which is no step"),
        ([step("a"), step("a")], "step a: two steps have this id"),
        ([step("a", "b"), step("b", "a")], "step a: waits for itself"),
        ([step("a", gpu=1)], "step a: needs 1 of gpu, and there is 0"),
        ([step("a", cpu=3)], "step a: needs 3 of cpu, and there is 2"),
    ],
)
def test_a_plan_that_cannot_end_is_refused(steps: list[StepSpec], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(*steps, cpu=2)


def test_no_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="slots: 0"):
        plan(step("a"), slots=0)


def test_an_empty_plan_is_done() -> None:
    schedule = plan()
    assert schedule.done
    assert schedule.take() == []
    assert schedule.bounds() == (0, 0, 0, [])


# --- bounds -----------------------------------------------------------------------------------------


def test_the_bounds_are_the_longest_chain_the_slots_and_the_resources() -> None:
    steps = [step("a"), step("b", "a"), step("c"), step("d"), step("e")]
    seconds = {"a": 2.0, "b": 3.0, "c": 4.0, "d": 4.0, "e": 4.0}
    assert plan(*steps, expected=seconds).bounds() == (5, 17, 5, ["a", "b"])
    assert plan(*steps, slots=2).bounds(seconds).least == 8.5
    assert plan(*(step(f"t{n}", gpu=1) for n in range(3)), gpu=2).bounds({"t0": 4, "t1": 4, "t2": 4}).least == 6


def test_steps_without_a_measure_took_no_time() -> None:
    assert plan(step("a"), step("b", "a")).bounds({"a": 2.0}).work == 2


def test_the_time_left_shrinks_with_what_ended_and_what_ran() -> None:
    schedule = plan(step("a"), step("b", "a"), slots=1, expected={"a": 10, "b": 5})
    assert schedule.expected_left() == 15
    schedule.take()
    assert schedule.expected_left({"a": 4}) == 11
    assert schedule.expected_left({"a": 40}) == 5
    schedule.ended("a", True)
    assert schedule.expected_left() == 5


# --- any plan -----------------------------------------------------------------------------------------

CAPACITIES = {"cpu": 4.0, "memory": 1000.0, "groq": 2.0}


@st.composite
def plans(draw: st.DrawFn) -> list[StepSpec]:
    count = draw(st.integers(1, 40))
    amounts = {
        "cpu": st.sampled_from([0.0, 0.1, 0.5, 1.0, 4.0]),
        "memory": st.integers(0, 1000).map(float),
        "groq": st.sampled_from([0.0, 1.0, 2.0]),
    }
    steps = []
    for number in range(count):
        after = draw(st.lists(st.integers(0, number - 1), max_size=4, unique=True)) if number else []
        needs = draw(st.fixed_dictionaries({}, optional=amounts))
        steps.append(step(f"s{number}", *(f"s{other}" for other in after), **needs))
    # The file's order is anybody's: a step may stand before what it depends on.
    return draw(st.permutations(steps))


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_plan_ends_each_step_once_within_capacity_and_in_order(
    steps: list[StepSpec], slots: int, rng: random.Random
) -> None:
    by_id = {one.id: one for one in steps}
    expected = {one.id: rng.uniform(0, 10) for one in steps if rng.random() < 0.7}
    schedule = Schedule(steps, CAPACITIES, slots, expected)
    running: list[str] = []
    paused: list[str] = []
    attempts: dict[str, int] = {}
    done: set[str] = set()
    failed: list[str] = []
    cancelled: dict[str, str] = {}
    rounds = 0
    while not schedule.done:
        rounds += 1
        assert rounds < 1000, "it does not end"
        for name in schedule.take():
            assert name not in running
            assert name not in done
            assert name not in failed
            assert name not in cancelled
            assert done.issuperset(by_id[name].depends_on)
            attempts[name] = attempts.get(name, 0) + 1
            running.append(name)
            if rng.random() < 0.9:
                schedule.started(name)
        assert schedule.running == running
        assert len(running) <= slots
        for resource, capacity in CAPACITIES.items():
            assert sum(by_id[name].resources.get(resource, 0) for name in running) <= capacity + 1e-9
        if paused and (rng.random() < 0.5 or not running):
            schedule.retry(paused.pop(rng.randrange(len(paused))))
            continue
        assert running, "nothing runs, nothing starts, and it is not done"
        name = running.pop(rng.randrange(len(running)))
        chance = rng.random()
        if chance < 0.1 and attempts[name] < 3:
            schedule.pause(name)
            paused.append(name)
        elif chance < 0.25:
            failed.append(name)
            for one, reason in schedule.ended(name, False):
                assert one not in cancelled
                cancelled[one] = reason
        else:
            done.add(name)
            assert schedule.ended(name, True) == []
    below = {name: descendants(name, steps) for name in failed}
    assert set(cancelled) == set().union(*below.values())
    for one, reason in cancelled.items():
        first = next(name for name in failed if one in below[name])
        assert reason == f"cancelled because {first} failed"
    assert done | set(failed) | set(cancelled) == set(by_id)
    assert schedule.free == {**CAPACITIES, "slots": slots}


def descendants(name: str, steps: list[StepSpec]) -> set[str]:
    found = {name}
    while more := {one.id for one in steps if found.intersection(one.depends_on)} - found:
        found |= more
    return found - {name}


@settings(max_examples=100, deadline=None)
@given(plans(), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_bounds_hold_for_any_order_of_starts(steps: list[StepSpec], slots: int, rng: random.Random) -> None:
    seconds = {one.id: rng.choice([0.0, 1.0, 2.5, 7.0]) for one in steps}
    schedule = Schedule(steps, CAPACITIES, slots, {})
    now = 0.0
    running: list[tuple[float, str]] = []
    while not schedule.done:
        running += [(now + seconds[name], name) for name in schedule.take()]
        running.sort()
        now, name = running.pop(0)
        schedule.ended(name, True)
    bounds = schedule.bounds(seconds)
    assert bounds.least <= now + 1e-9
    assert bounds.critical_path == pytest.approx(sum(seconds[name] for name in bounds.path))
    by_id = {one.id: one for one in steps}
    assert all(first in by_id[second].depends_on for first, second in zip(bounds.path, bounds.path[1:], strict=False))


# --- the cost -------------------------------------------------------------------------------------------


def random_plan(count: int) -> list[StepSpec]:
    """Every step with needs of its own: the most queues there can be."""
    rng = random.Random(count)
    return [
        step(
            f"s{number}",
            *(f"s{rng.randrange(number)}" for _ in range(min(number, 3))),
            memory=rng.randrange(1, 600),
            cpu=rng.choice([0.5, 1.0, 2.0]),
        )
        for number in range(count)
    ]


def wide_plan(count: int) -> list[StepSpec]:
    """All ready at once, each with needs of its own."""
    return [step(f"s{number}", memory=1 + number % 997 / 1000) for number in range(count)]


def chain(count: int) -> list[StepSpec]:
    return [step(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(count)]


def one_failure(count: int) -> list[StepSpec]:
    return [step("s0"), *(step(f"s{number}", "s0") for number in range(1, count))]


def cost(steps: list[StepSpec], ok: bool = True) -> float:
    """Processor seconds of a whole plan."""
    began = time.process_time()
    schedule = Schedule(steps, {"memory": 1000, "cpu": 4}, 4, {})
    running: list[str] = []
    while not schedule.done:
        running += schedule.take()
        schedule.ended(running.pop(0), ok)
    return time.process_time() - began


@pytest.mark.parametrize(
    ("shape", "ok"), [(random_plan, True), (wide_plan, True), (chain, True), (one_failure, False), (one_failure, True)]
)
def test_ten_times_the_steps_cost_about_ten_times_as_much(shape: Callable[[int], list[StepSpec]], ok: bool) -> None:
    small, large = shape(1000), shape(10_000)
    first = min(cost(small, ok) for _ in range(3))
    second = min(cost(large, ok) for _ in range(2))
    assert second / first < 25, f"1,000 steps: {first * 1000:.1f} ms, 10,000: {second * 1000:.1f} ms"
