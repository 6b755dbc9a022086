"""``exec``: zombies, orphans, subreapers and pid 1."""

from __future__ import annotations

import re
import signal

import pytest

from helpers import procs
from helpers.exec_run import ECHO, EXEC, PID_1, finish, need_pid_1, python, run_exec

# Leaves N orphans that end at once, then waits for stdin to end.
ORPHANS = python(
    "import os,sys\n"
    "for _ in range(int(sys.argv[1])):\n"
    "    if (pid := os.fork()) == 0:\n"
    "        if os.fork(): os._exit(0)\n"
    "        os._exit(3)\n"
    "    os.waitpid(pid, 0)\n"
    "print('made', flush=True); sys.stdin.read(); sys.exit(int(sys.argv[2]))"
)
INHERIT = python("import ctypes,os,sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])")
WARNING = "neither pid 1 nor a subreaper"


def only_the_command_is_left(init: procs.Spawn, depth: int = 0) -> None:
    def alone() -> bool:
        tree = procs.tree_of(init.pid)
        return len(tree) == 2 + depth and not any(one.dead for one in tree)

    procs.wait_until(alone)


def test_adopted_zombies_are_reaped_while_the_command_lives() -> None:
    with run_exec("--", *ORPHANS, "20", "0") as init:
        init.wait_line("made")
        only_the_command_is_left(init)
        init.close_stdin()
        assert finish(init) == (0, "made\n", "")


def test_warn_reap_names_each_adopted_zombie_but_not_the_command() -> None:
    with run_exec("--warn-reap", "--", *ORPHANS, "3", "6") as init:
        init.wait_line("made")
        only_the_command_is_left(init)
        init.close_stdin()
        code, out, err = finish(init)
    assert (code, out) == (6, "made\n")
    assert len(re.findall(r"reaped zombie process \d+ \(exit status 3\)", err)) == 3
    assert err.count("\n") == 3


def test_a_storm_of_zombies_neither_leaves_one_nor_delays_a_signal() -> None:
    with run_exec("--", *ORPHANS, "1500", "0") as init:
        init.wait_line("made", deadline=60)
        only_the_command_is_left(init)
        init.send(signal.SIGTERM)
        assert finish(init)[0] == 143


def test_no_subreaper_adopts_nobody_and_says_so() -> None:
    with run_exec("--no-subreaper", "--warn-reap", "--", *ORPHANS, "3", "0") as init:
        init.wait_line("made")
        init.close_stdin()
        code, _, err = finish(init)
    assert code == 0
    assert WARNING in err
    assert "reaped" not in err
    assert err.count("\n") == 1


def test_an_inherited_subreaper_bit_is_noticed() -> None:
    with run_exec("--no-subreaper", "--", *ORPHANS, "3", "0", prefix=INHERIT) as init:
        init.wait_line("made")
        only_the_command_is_left(init)
        init.close_stdin()
        assert finish(init) == (0, "made\n", "")


def test_a_child_that_the_caller_left_behind_is_reaped_and_not_taken_for_the_command() -> None:
    with run_exec("--", "sh", "-c", "sleep 0.3; exit 8", prefix=("sh", "-c", 'sleep 0.05 & exec "$@"', "sh")) as init:
        assert finish(init) == (8, "", "")


def test_pid_1_reaps_without_being_a_subreaper() -> None:
    need_pid_1()
    with run_exec("--no-subreaper", "--", *ORPHANS, "20", "4", prefix=PID_1) as init:
        init.wait_line("made")
        only_the_command_is_left(init, depth=1)
        init.close_stdin()
        assert finish(init) == (4, "made\n", "")


def test_pid_1_sends_signals_on_that_a_plain_pid_1_would_not_even_get() -> None:
    need_pid_1()
    with run_exec("--", *ECHO, "--exit-on", "15", prefix=PID_1) as outer:
        outer.wait_line("^ready")
        inner = procs.wait_until(lambda: procs.tree_of(outer.pid)[1:2])[0]
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGSEGV, signal.SIGWINCH, signal.SIGTERM):
            procs.send(inner.pid, inner.start, number)
            outer.wait_line(f"^{int(number)}$")
        assert finish(outer)[0] == 15


def test_pid_1_stops_the_group_without_stopping_itself() -> None:
    need_pid_1()
    with run_exec("--", *ECHO, prefix=PID_1) as outer:
        outer.wait_line("^ready")
        inner, command = procs.wait_until(lambda: len(found := procs.tree_of(outer.pid)[1:]) == 2 and found)
        procs.send(inner.pid, inner.start, signal.SIGTSTP)
        procs.wait_until(lambda: procs.look(command.pid).state == "T")  # type: ignore[union-attr]
        procs.send(inner.pid, inner.start, signal.SIGCONT)
        outer.wait_line("^18$")


def test_pid_1_with_a_time_limit() -> None:
    need_pid_1()
    for limit, expected in (("10", 0), ("0.1", 124)):
        with run_exec("--timeout", limit, "sleep", "0.3", prefix=PID_1) as init:
            assert finish(init)[0] == expected


def test_pid_1_ends_the_tree_whole() -> None:
    need_pid_1()
    with run_exec("--on-exit", "end", "--", "sh", "-c", "setsid sleep 100 & sleep 100 & exit 5", prefix=PID_1) as init:
        code, _, err = finish(init)
    assert code == 5
    assert "2 asked, 0 killed, 0 survivors" in err


@pytest.mark.parametrize("inner", [(), ("--no-subreaper",)])
def test_nested_inits_reap_each_its_own(inner: tuple[str, ...]) -> None:
    with run_exec("--", *EXEC, *inner, "--", *ORPHANS, "5", "0") as init:
        init.wait_line("made")
        only_the_command_is_left(init, depth=1)
        init.close_stdin()
        assert finish(init)[0] == 0
