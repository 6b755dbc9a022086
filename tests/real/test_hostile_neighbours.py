"""Another user of this machine does what it can against us: nothing of theirs is signalled, read or overwritten, and
nothing of ours starts twice. Played by a user of ours and by root (scripts/faults/neighbours_*.py)."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import full, in_full, rounds
from helpers.procs import wait_until

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))

from faults import neighbours_paths as paths  # noqa: E402
from faults import neighbours_processes as processes  # noqa: E402
from faults import neighbours_races as races  # noqa: E402
from faults.neighbours_stage import OURS, ROOT_USER, THEIRS, Decoy, Stage, Unfit, forget_code, stage  # noqa: E402

pytestmark = [pytest.mark.pidns, pytest.mark.timeout(180)]

as_user = pytest.mark.parametrize("uid", in_full([OURS], ROOT_USER))
as_root = pytest.mark.parametrize("uid", in_full([ROOT_USER], OURS))


@pytest.fixture(scope="module", autouse=True)
def copies() -> Iterator[None]:
    yield
    forget_code()


def play(scenario: Callable[..., Any], uid: int, *more: Any) -> None:
    try:
        with stage(uid) as made:
            scenario(made, *more)
    except Unfit as error:
        pytest.skip(str(error))


# ---- the decoys themselves


def test_a_decoy_hears_every_signal_that_can_be_heard() -> None:
    decoy = Decoy(THEIRS)
    try:
        decoy.check()
        os.kill(decoy.pid, signal.SIGUSR1)
        heard: list[str] = []
        wait_until(lambda: heard.extend(decoy.heard()) or heard)
        assert heard == [str(int(signal.SIGUSR1))]
    finally:
        decoy.close()


def test_a_decoy_tells_that_it_was_killed_or_stopped() -> None:
    for number in (signal.SIGKILL, signal.SIGSTOP):
        decoy = Decoy(THEIRS)
        try:
            os.kill(decoy.pid, number)

            def is_told(decoy: Decoy = decoy) -> bool:
                try:
                    decoy.check()
                except AssertionError:
                    return True
                return False

            wait_until(is_told)
        finally:
            decoy.close()


# ---- paths


@as_root
def test_a_state_folder_that_a_neighbour_made_is_refused_and_left_as_it_is(uid: int) -> None:
    play(paths.home_that_is_theirs, uid)


@as_user
def test_a_state_folder_that_is_a_neighbours_symlink_is_not_followed(uid: int) -> None:
    play(paths.home_that_is_their_symlink, uid)


@as_user
def test_a_state_folder_below_a_neighbours_symlink_is_not_made(uid: int) -> None:
    play(paths.home_below_their_symlink, uid)


@as_root
def test_a_projects_folder_that_a_neighbour_made_is_refused_whatever_it_is(uid: int) -> None:
    play(paths.project_folder_that_is_theirs, uid)


@as_user
def test_a_neighbours_temporary_names_are_neither_written_nor_removed(uid: int) -> None:
    play(paths.temporary_names_that_are_theirs, uid)


@as_root
def test_a_lock_file_that_a_neighbour_made_is_refused_whatever_it_is(uid: int) -> None:
    play(paths.lock_file_that_is_theirs, uid)


@as_user
def test_a_lock_file_that_is_a_second_name_of_a_file_of_ours_is_not_written(uid: int) -> None:
    play(paths.lock_file_that_is_a_second_name, uid)


@as_user
def test_a_lock_file_in_a_folder_open_to_neighbours_is_refused(uid: int) -> None:
    play(paths.lock_file_in_a_folder_open_to_all, uid)


@as_root
def test_a_pid_file_that_a_neighbour_made_is_not_taken_from_them_and_its_pid_not_signalled(uid: int) -> None:
    play(paths.pid_file_that_is_theirs, uid)


@as_user
def test_a_lock_that_a_neighbour_holds_is_told_in_time(uid: int) -> None:
    play(paths.lock_that_they_hold, uid)


@as_user
def test_a_neighbour_reaches_neither_socket_nor_record_nor_log_and_can_signal_nobody(uid: int) -> None:
    play(paths.socket_that_they_knock_at, uid)


@as_root
def test_a_neighbour_who_says_READY_is_not_believed(uid: int) -> None:
    play(paths.notify_socket_that_they_talk_to, uid)


@as_user
def test_names_of_processes_never_speak_to_the_terminal(uid: int) -> None:
    play(paths.names_that_speak, uid)


def test_a_safe_toml_that_a_neighbour_could_have_written_is_not_run() -> None:
    play(paths.checkout_that_they_may_write, OURS)


@full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("uid", [OURS, ROOT_USER])
def test_any_file_of_a_neighbours_in_a_folder_that_was_open_is_replaced_or_refused(uid: int) -> None:
    play(paths.files_in_a_folder_that_was_open, uid)


# ---- processes


@as_root
def test_a_neighbours_process_with_our_run_id_is_no_stray_of_ours(uid: int) -> None:
    play(processes.run_ids_that_are_ours, uid, ("", "subreaper")[: rounds(1, 2)])


@as_root
def test_a_neighbours_process_that_matches_is_neither_shown_nor_ended(uid: int) -> None:
    play(processes.patterns_that_match, uid)


@as_root
def test_a_plans_journal_makes_nobody_ours(uid: int) -> None:
    play(processes.plans_that_were_ours, uid)


def test_a_neighbours_control_groups_are_neither_killed_nor_frozen() -> None:
    play(processes.groups_that_are_called_ours, ROOT_USER)


@full
@pytest.mark.parametrize("uid", [OURS, ROOT_USER])
def test_whoever_gets_the_pids_of_a_run_hears_nothing_from_us(uid: int) -> None:
    play(processes.pids_that_were_ours, uid)


@as_root
def test_whoever_has_the_pids_in_our_old_files_hears_nothing_from_us(uid: int) -> None:
    play(processes.pids_in_old_pid_files, uid)


@as_root
def test_whoever_gets_the_pid_of_an_ended_command_hears_nothing_from_its_api(uid: int) -> None:
    play(processes.pids_of_the_python_api, uid)


# ---- races


def race(scenario: Callable[[Stage, random.Random, int], str], uid: int, rng: random.Random, most: int) -> None:
    play(scenario, uid, rng, rounds(1, most))


@as_user
def test_lock_and_pid_files_that_change_at_every_open_let_nobody_in_twice(uid: int, rng: random.Random) -> None:
    race(races.lock_and_pid_files_that_change, uid, rng, 15)


@as_root
def test_a_state_folder_that_changes_while_it_is_made_leads_nowhere_else(uid: int, rng: random.Random) -> None:
    race(races.home_that_changes, uid, rng, 15)


@as_root
def test_pids_that_pass_on_while_we_end_a_run_are_let_alone(uid: int, rng: random.Random) -> None:
    race(races.pids_that_pass_on, uid, rng, 15)


@as_user
def test_pids_that_go_round_in_moments_are_let_alone(uid: int, rng: random.Random) -> None:
    race(races.pids_that_go_round, uid, rng, 15)


@as_user
def test_starts_at_once_beside_a_neighbour_are_one(uid: int, rng: random.Random) -> None:
    race(races.starts_at_once, uid, rng, 15)
