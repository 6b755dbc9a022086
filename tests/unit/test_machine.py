"""The state machine's table and the restart policy, as tables."""

from __future__ import annotations

import pytest

from safesh.model import LIVE_STATES, STATES, Backoff, ExitInfo, StartLimit, TargetSpec
from safesh.supervise.machine import EVENTS, IGNORED, TABLE
from safesh.supervise.policy import Restarts, random_share, wants_restart
from safesh.supervise.supervisor import Supervisor


def spec(restart: str) -> TargetSpec:
    return TargetSpec(name="t", instance="t", project="p", command=["true"], cwd="/", restart=restart)  # type: ignore[arg-type]


def test_every_state_answers_every_event_with_an_action_that_exists() -> None:
    assert set(TABLE) == set(STATES)
    for state in STATES:
        assert set(TABLE[state]) == set(EVENTS), state
        for event, (action, after) in TABLE[state].items():
            assert callable(getattr(Supervisor, "_do_" + action)), (state, event, action)
            assert after in STATES


def test_ignored_events_are_listed_and_stay_in_their_state() -> None:
    for state in STATES:
        ignored = {event for event, (action, _) in TABLE[state].items() if action == "ignore"}
        assert set(IGNORED[state]) <= set(EVENTS)
        for event in ignored:
            assert TABLE[state][event][1] == state, (state, event)


def test_a_state_with_a_tree_answers_a_stop_by_stopping_and_a_dead_keeper_by_cleaning_up() -> None:
    for state in ("starting", "running", "unhealthy", "stopping"):
        assert TABLE[state]["stop"][1] == "stopping"
        assert TABLE[state]["keeper_lost"] == ("clean_up", "stopping")


def test_nothing_leaves_the_final_states() -> None:
    for state in ("finished", "failed"):
        assert state not in LIVE_STATES
        assert {after for _, after in TABLE[state].values()} == {state}


@pytest.mark.parametrize(
    ("policy", "end", "wanted"),
    [
        ("no", ExitInfo(code=1), False),
        ("no", ExitInfo(code=0), False),
        ("on-failure", ExitInfo(code=0), False),
        ("on-failure", ExitInfo(code=3), True),
        ("on-failure", ExitInfo(signal="SIGKILL"), True),
        ("on-failure", None, True),
        ("always", ExitInfo(code=0), True),
        ("always", None, True),
    ],
)
def test_the_restart_policy_decides_by_how_the_target_ended(policy: str, end: ExitInfo | None, wanted: bool) -> None:
    assert wants_restart(spec(policy), end) is wanted


def test_the_delay_grows_by_its_factor_up_to_its_ceiling() -> None:
    restarts = Restarts(Backoff(initial=1, factor=2, max=10, jitter=0), StartLimit())
    assert [restarts.delay() for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_jitter_spreads_the_delay_to_both_sides_and_never_past_the_ceiling() -> None:
    low = Restarts(Backoff(initial=4, factor=1, max=4, jitter=0.5), StartLimit(), lambda: 0.0)
    high = Restarts(Backoff(initial=4, factor=1, max=5, jitter=0.5), StartLimit(), lambda: 0.999)
    assert low.delay() == 2
    assert high.delay() == 5
    assert all(0 <= random_share() < 1 for _ in range(100))


def test_a_run_that_outlived_the_longest_delay_starts_the_count_anew() -> None:
    restarts = Restarts(Backoff(initial=1, factor=2, max=8, jitter=0), StartLimit())
    restarts.started(0)
    assert [restarts.delay(), restarts.delay()] == [1, 2]
    restarts.ended(5)
    assert restarts.delay() == 4
    restarts.started(10)
    restarts.ended(19)
    assert restarts.delay() == 1


def test_the_start_limit_counts_starts_in_its_window_and_zero_means_none() -> None:
    restarts = Restarts(Backoff(), StartLimit(count=3, window=10))
    for now in (0, 1, 2):
        assert not restarts.exhausted(now)
        restarts.started(now)
    assert restarts.exhausted(3)
    assert not restarts.exhausted(10.5)
    unlimited = Restarts(Backoff(), StartLimit(count=0, window=10))
    for now in range(9):
        unlimited.started(now)
    assert not unlimited.exhausted(9)
