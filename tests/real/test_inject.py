"""Single system calls of ours fail (strace's injection): a quick look by the part of ``make faults``, and its finds."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from faults import inject
from faults.inject_cases import ERRORS, SCENARIOS, Case, Point, cases, choose, points, roles
from faults.inject_world import Outcome, play, record

from helpers.campaign import in_full
from helpers.home import CLI
from safesh.cli import main
from safesh.errors import is_unloadable

LINES = [
    'openat(AT_FDCWD</work>, "/state/t.json", O_RDONLY|O_CLOEXEC) = 3</state/t.json>',
    'openat(AT_FDCWD</work>, "/usr/lib/python3.11/abc.py", O_RDONLY|O_CLOEXEC) = 4</usr/lib/python3.11/abc.py>',
    'read(3</state/t.json>, "{}", 4096) = 2',
    'read(5<pipe:[77]>, "x", 1) = 1',
    "--- SIGCHLD {si_signo=SIGCHLD} ---",
    'openat(AT_FDCWD</work>, "/proc/self/stat", O_RDONLY) = 6</proc/7/stat>',
    "exit_group(0) = ?",
]


# ---- which faults there are


def test_calls_are_counted_each_for_itself_and_those_that_load_code_are_known() -> None:
    found = list(points("life", "stop", LINES))
    assert [(one.call, one.number, one.loads) for one in found] == [
        ("openat", 1, False),
        ("openat", 2, True),
        ("read", 1, False),
        ("read", 2, False),
        ("openat", 3, False),
        ("exit_group", 1, False),
    ]


def test_only_answers_that_a_kernel_may_give_are_injected() -> None:
    file, _code, read, pipe, proc, leave = (
        [one.how for one in cases(point)] for point in points("life", "stop", LINES)
    )
    assert {"error=ENOSPC", "error=EMFILE", "error=EMFILE+", "signal=KILL"} <= set(file)
    assert "error=EIO" in read
    assert "error=EIO" not in pipe  # a pipe has no disk
    assert "error=ENOSPC" not in proc
    assert "error=EMFILE" in proc
    assert leave == []


def test_a_case_is_read_back_from_its_name_and_says_what_strace_shall_do() -> None:
    for text, strace in (
        ("life/stop/openat/3/error=EMFILE", "openat:error=EMFILE:when=3"),
        ("life/stop/write/3/error=ENOSPC+", "write:error=ENOSPC:when=3+"),
        ("life/keeper/poll/2/signal=KILL", "poll:signal=SIGKILL:when=2"),
        ("life/keeper/poll/2/delay=40000/loads", "poll:delay_enter=40000:when=2"),
    ):
        case = Case.read(text)
        assert str(case) == text
        assert case.strace == strace


def test_a_seed_draws_the_same_cases_each_kind_in_turn() -> None:
    everything = [Point("life", "stop", call, number, "", False) for call in ERRORS for number in range(1, 30)]
    first, total = choose(everything, 600, random.Random("5"))
    assert (first, total) == choose(everything, 600, random.Random("5"))
    assert first != choose(everything, 600, random.Random("6"))[0]
    assert total > 2000
    assert {case.call for case in first} == set(ERRORS)  # none is crowded out by a frequent one
    assert all(role in roles(scenario) for scenario in SCENARIOS for role in ("start", "supervisor", "keeper"))


# ---- the real thing


@pytest.fixture
def strace(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := inject.no_strace():
        pytest.skip(f"not run: {why}")
    monkeypatch.setenv("SAFESH_VENV", sys.prefix)  # this Python runs safesh in there


def played(name: str) -> Outcome:
    outcome = play(Case.read(name))
    assert outcome.happened, (name, outcome.story)
    assert outcome.problems == [], (name, outcome.story)
    return outcome


@pytest.mark.pidns
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("role", in_full(("supervisor",), "keeper", "start", "stop"))
def test_some_faults_of_each_kind_leave_every_promise_kept(role: str, rng: random.Random) -> None:
    everything = list(points("portable", role, record("portable", role)))
    chosen, total = choose(everything, 4, rng)
    assert total > 500
    for case in chosen:
        outcome = play(case)
        assert outcome.problems == [], (str(case), outcome.story)


@pytest.mark.pidns
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "name",
    [
        # The control socket could not even be created: a traceback, where the start has a reason to tell.
        "portable/supervisor/socket/1/error=ENFILE",
        # Output that cannot be written was called a bug of ours.
        "portable/stop/write/1/error=EFBIG",
    ],
)
def test_what_the_faults_have_found(name: str) -> None:
    played(name)


@pytest.mark.pidns
@pytest.mark.usefixtures("strace")
def test_a_supervisor_that_cannot_go_on_says_so_without_a_traceback_and_its_keeper_ends_the_tree() -> None:
    outcome = played("portable/supervisor/poll/1/error=ENOMEM")
    assert outcome.gave_up
    assert outcome.answers[0] == 71  # what is missing is the machine's


def test_what_the_loader_cannot_have_is_no_bug_and_what_is_missing_in_a_module_is_one() -> None:
    no_memory = ImportError("fcntl.so: failed to map segment from shared object", name="fcntl", path="/lib/fcntl.so")
    assert is_unloadable(no_memory)
    assert main._explain(no_memory).exit_code == 71
    ours = ImportError("cannot import name 'x' from 'safesh.paths'", name="safesh.paths", path="/safesh/paths.py")
    assert not is_unloadable(ours)
    assert main._explain(ours).exit_code == main.EX_SOFTWARE
    assert main._explain(OSError(5, "Input/output error", "/state/events.jsonl")).exit_code == 73


def test_an_exit_status_is_ours_also_where_neither_output_nor_error_can_be_written(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("not run: no /dev/full")
    words = [*CLI, "run", str(tmp_path / "missing.json")]  # a verb with threads, so the interpreter ends by itself
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=full, stderr=full, timeout=30, check=False)
    assert done.returncode == 78


@pytest.mark.pidns
@pytest.mark.usefixtures("strace")
def test_health_that_cannot_tell_its_answer_is_unknown_to_a_monitor() -> None:
    assert 3 in played("probed/health/write/1/error=EIO").answers
