"""``exec``: who gets which signal, and what stopping and continuing do."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from helpers import procs
from helpers.campaign import rounds
from helpers.exec_run import ECHO, finish, python, run_exec, state, wait_state

SESSIONS = ("new", "pgrp", "keep")
STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
ALL = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)]
SYNCHRONOUS = [
    getattr(signal, name) for name in ("SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS", "SIGTRAP", "SIGSYS", "SIGABRT")
]


def ready(init: procs.Spawn) -> int:
    return int(init.wait_line(r"^ready (\d+)$")[1])


def tell(init: procs.Spawn, number: int, expected: int | None = None) -> None:
    init.send(number)
    assert init.wait_line(".").string == str(number if expected is None else expected)


@pytest.mark.parametrize("session", SESSIONS)
def test_every_signal_from_1_to_31_reaches_the_command(session: str) -> None:
    with run_exec("--session", session, "--", *ECHO) as init:
        ready(init)
        for number in ALL:
            if number not in STOPPING:
                tell(init, number)


@pytest.mark.parametrize("number", SYNCHRONOUS)
def test_a_synchronous_signal_that_somebody_sends_is_sent_on(number: int) -> None:
    with run_exec("--", *ECHO, "--exit-on", str(number)) as init:
        ready(init)
        init.send(number)
        assert finish(init)[0] == number


def test_a_real_time_signal_reaches_the_command() -> None:
    with run_exec("--", *ECHO) as init:
        ready(init)
        tell(init, signal.SIGRTMIN + 3)


def test_scope_group_is_the_default_and_reaches_the_whole_group() -> None:
    with run_exec("--", *ECHO, "--child") as init:
        ready(init)
        init.send(signal.SIGUSR1)
        lines = {init.wait_line("10$").string, init.wait_line("10$").string}
    assert lines == {"10", "child 10"}


@pytest.mark.parametrize("options", [("--scope", "child"), ("--session", "keep")])
def test_scope_child_reaches_the_command_alone(options: tuple[str, ...]) -> None:
    with run_exec(*options, "--", *ECHO, "--child") as init:
        ready(init)
        tell(init, signal.SIGUSR1)
        tell(init, signal.SIGUSR2)
        assert not re.search(r"^child \d\d$", init.out, re.M)


def test_scope_group_in_the_callers_group_reaches_it_once_and_does_not_echo() -> None:
    # exec is in that group itself: what it sends comes back to it, and must not go round for ever
    with run_exec("--session", "keep", "--scope", "group", "--", *ECHO, "--child") as init:
        ready(init)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            init.send(number)
            lines = {init.wait_line(f"{number}$").string, init.wait_line(f"{number}$").string}
            assert lines == {f"{number}", f"child {number}"}
        assert init.out.split().count("10") == 2


def test_a_whole_pipeline_ends_with_term_to_the_group() -> None:
    with run_exec("--", "sh", "-c", "sleep 100 | sleep 100 & sleep 100 | sleep 100") as init:
        tree = procs.wait_until(lambda: len(found := procs.tree_of(init.pid)) == 6 and found)
        init.send(signal.SIGTERM)
        init.wait()
        procs.wait_until(lambda: not any(procs.alive(one.pid, one.start) for one in tree))


def test_keep_ends_only_the_command_of_a_pipeline() -> None:
    with run_exec("--session", "keep", "--", "sh", "-c", "sleep 100 | sleep 100 & sleep 100 | sleep 100") as init:
        tree = procs.wait_until(lambda: len(found := procs.tree_of(init.pid)) == 6 and found)
        init.send(signal.SIGTERM)
        init.wait()
        assert sum(procs.alive(one.pid, one.start) for one in tree) == 4


def test_a_group_signal_passes_a_command_that_ignores_it() -> None:
    # the command ignores USR1 and waits for a child that does not
    code = (
        "import signal,subprocess,sys; signal.signal(signal.SIGUSR1, signal.SIG_IGN);"
        "p = subprocess.Popen(['sleep', '1000'], preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL));"
        "print('ready', flush=True); p.wait()"
    )
    with run_exec("--", *python(code)) as init:
        init.wait_line("^ready")
        init.send(signal.SIGUSR1)
        assert finish(init)[0] == 0


@pytest.mark.parametrize(
    ("rules", "sent", "expected"),
    [
        ([], [15, 3, 18, 2], [15, 3, 18, 2]),
        (["TERM:INT"], [15, 3, 18, 2], [2, 3, 18, 2]),
        (["SIGTERM:int", "2:15", "QUIT:QUIT"], [15, 3, 18, 2], [2, 3, 18, 15]),
        (["1:31", "31:1"], [1, 31], [31, 1]),
        (["TERM:INT", "TERM:HUP"], [15], [1]),
    ],
)
@pytest.mark.parametrize("session", SESSIONS)
def test_rewrite_sends_another_signal(session: str, rules: list[str], sent: list[int], expected: list[int]) -> None:
    options = [word for rule in rules for word in ("--rewrite", rule)]
    with run_exec("--session", session, *options, "--", *ECHO) as init:
        ready(init)
        for number, wanted in zip(sent, expected, strict=True):
            tell(init, number, wanted)


def test_rewrite_to_0_drops_the_signal() -> None:
    with run_exec("--rewrite", "TERM:QUIT", "--rewrite=INT:0", "--rewrite=28:0", "--", *ECHO) as init:
        ready(init)
        tell(init, signal.SIGTERM, signal.SIGQUIT)
        init.send(signal.SIGINT)
        init.send(signal.SIGWINCH)
        tell(init, signal.SIGHUP)
        assert init.out.split()[2:] == ["3", "1"]


@pytest.mark.parametrize("number", STOPPING)
def test_in_its_own_session_a_terminal_stop_stops_the_group_then_exec_and_cont_resumes_both(number: int) -> None:
    with run_exec("--", *ECHO, "--child") as init:
        pid = ready(init)
        child = int(init.out.split()[1])
        for _ in range(2):
            init.send(number)
            for one in (init.pid, pid, child):
                wait_state(one, "T")
            init.send(signal.SIGCONT)
            assert {init.wait_line("18").string, init.wait_line("18").string} == {"18", "child 18"}
            for one in (init.pid, pid, child):
                wait_state(one, "SR")


@pytest.mark.parametrize("session", ["new", "pgrp"])
def test_a_cont_that_comes_before_exec_has_stopped_itself_is_not_lost(session: str) -> None:
    """A stop signal to oneself drops a SIGCONT that waits (kernel/signal.c, prepare_signal)."""
    with run_exec("--session", session, "--", *ECHO) as init:
        pid = ready(init)
        for _ in range(rounds(30, 300)):
            init.send(signal.SIGTSTP)
            limit = time.monotonic() + 10
            while session == "new" and state(pid) != "T":  # the moment in which exec is about to stop itself
                assert time.monotonic() < limit
            init.send(signal.SIGCONT)
            wait_state(init.pid, "SR")
            wait_state(pid, "SR")
        init.send(signal.SIGUSR1)
        init.wait_line("^10$")


@pytest.mark.parametrize("session", ["pgrp", "keep"])
@pytest.mark.parametrize("number", STOPPING)
def test_without_its_own_session_a_terminal_stop_goes_on_as_it_is_and_exec_stops(session: str, number: int) -> None:
    with run_exec("--session", session, "--", *ECHO) as init:
        ready(init)
        tell(init, number)
        wait_state(init.pid, "T")
        tell(init, signal.SIGCONT)
        assert state(init.pid) in "SR"


def test_a_rewritten_terminal_stop_is_sent_so_and_exec_stops_all_the_same() -> None:
    rules = {signal.SIGTTIN: signal.SIGTERM, signal.SIGTTOU: signal.SIGINT, signal.SIGTSTP: signal.SIGHUP}
    options = [word for key, value in rules.items() for word in ("--rewrite", f"{int(key)}:{int(value)}")]
    with run_exec(*options, "--", *ECHO) as init:
        ready(init)
        for number, wanted in rules.items():
            tell(init, number, wanted)
            wait_state(init.pid, "T")
            tell(init, signal.SIGCONT)
            wait_state(init.pid, "SR")


def test_a_stopped_and_continued_command_is_not_taken_for_ended() -> None:
    with run_exec("--", *ECHO) as init:
        pid = ready(init)
        start = procs.start_of(pid)
        for _ in range(5):
            procs.send(pid, start, signal.SIGSTOP)
            wait_state(pid, "T")
            procs.send(pid, start, signal.SIGCONT)
            assert init.wait_line(".").string == "18"
        tell(init, signal.SIGUSR1)


def test_signals_en_masse_all_arrive_at_least_once_and_none_is_made_up() -> None:
    with run_exec("--", *ECHO) as init:
        ready(init)
        kinds = [n for n in ALL if n not in STOPPING]
        last = signal.SIGRTMIN + 1  # the kernel hands out the lowest number first
        for _ in range(50):
            for number in kinds:
                init.send(number)
        init.send(last)
        init.wait_line(f"^{last}$")
        got = init.out.split()[2:]
        assert {int(word) for word in got} == {*kinds, last}
        for number in kinds:
            assert got.count(str(number)) <= 50


def test_a_real_time_signal_is_queued_not_merged() -> None:
    with run_exec("--", *ECHO) as init:
        ready(init)
        for _ in range(40):
            init.send(signal.SIGRTMIN + 5)
        for _ in range(40):
            assert init.wait_line(".").string == str(signal.SIGRTMIN + 5)


def test_handlers_are_in_place_before_the_command_can_print_a_byte() -> None:
    # sent the moment the first byte is there: it must end the command, not exec
    for _ in range(30):
        with run_exec("--", "sh", "-c", "trap 'exit 33' TERM; echo x; while :; do sleep 0.01; done") as init:
            init.wait_line("x")
            init.send(signal.SIGTERM)
            assert finish(init)[0] == 33


def test_idle_means_no_wakeup() -> None:
    with run_exec("--", *ECHO) as init:
        ready(init)
        before = switches(init.pid)
        time.sleep(1)  # the promise is about time passing
        assert switches(init.pid) == before


def switches(pid: int) -> list[str]:
    with open(f"/proc/{pid}/status") as status:
        return [line for line in status if "ctxt_switches" in line]


def test_exec_is_one_process() -> None:
    with run_exec("--", *ECHO) as init:
        pid = ready(init)
        assert [one.pid for one in procs.tree_of(init.pid)] == [init.pid, pid]
        assert len(os.listdir(f"/proc/{init.pid}/task")) == 1
