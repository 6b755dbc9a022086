"""``exec``: what happens to the others when the command has ended."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from helpers import procs
from helpers.exec_run import ECHO, PID_1, finish, need_pid_1, python, run_exec

# The command starts the echo in its own group and ends once that is ready.
LEAVE_ECHO = ("sh", "-c", '"$@" >"$0" & while ! grep -q ready "$0" 2>/dev/null; do sleep 0.01; done; exit 2')


def echo_of(log: Path) -> tuple[int, int]:
    pid = int(log.read_text().split()[1])
    return pid, procs.start_of(pid)


@pytest.mark.parametrize("session", ["new", "pgrp"])
def test_term_goes_once_to_what_is_left_of_the_group_and_never_kill(tmp_path: Path, session: str) -> None:
    log = tmp_path / "log"
    with run_exec("--session", session, *LEAVE_ECHO, str(log), *ECHO) as init:
        assert init.wait() == 2
        init.adopt(*echo_of(log))
        procs.wait_until(lambda: log.read_text().split()[2:] == ["15"])
        pid, start = echo_of(log)
        assert procs.send(pid, start, signal.SIGUSR1)
        procs.wait_until(lambda: log.read_text().split()[2:] == ["15", "10"])


@pytest.mark.parametrize(
    "options", [("--on-exit", "leave"), ("--session", "keep"), ("--session=keep", "--on-exit=term")]
)
def test_leave_touches_nothing_and_keep_has_no_group_to_touch(tmp_path: Path, options: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    with run_exec(*options, *LEAVE_ECHO, str(log), *ECHO) as init:
        assert init.wait() == 2
        pid, start = echo_of(log)
        init.adopt(pid, start)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            assert procs.send(pid, start, number)
        procs.wait_until(lambda: sorted(log.read_text().split()[2:]) == ["1", "2", "3"])


def test_term_leaves_those_who_left_the_group() -> None:
    with run_exec("--", "sh", "-c", 'setsid sh -c "echo \\$\\$; exec sleep 100" <&- & read -r x; exit 0') as init:
        pid = int(init.wait_line(r"^\d+$")[0])
        start = procs.start_of(pid)
        init.adopt(pid, start)
        init.write("\n")
        assert init.wait() == 0
        assert procs.alive(pid, start)


ESCAPERS = python(
    "import os,signal,sys,time\n"
    "def member(what):\n"
    "    if os.fork(): return\n"
    "    what(); os.write(1, b'member\\n'); time.sleep(100); os._exit(0)\n"
    "def stubborn(): signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "def group(): os.setpgid(0, 0)\n"
    "def daemon():\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    # one process at a time, each handing on to its child: nobody's pid stays the same, and it ends by itself
    "def hopper():\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "    for _ in range(1000):\n"
    "        if os.fork(): os._exit(0)\n"
    "        time.sleep(0.005)\n"
    "for what in (stubborn, group, daemon)[:int(sys.argv[1])]: member(what)\n"
    "if sys.argv[1] == '4': os.fork() or (os.write(1, b'member\\n'), hopper(), os._exit(0))\n"
    "sys.stdin.read(); sys.exit(int(sys.argv[2]))"
)


def test_end_leaves_zero_survivors_of_members_that_escape_ignore_and_daemonise() -> None:
    with run_exec("--on-exit", "end", "--kill-after", "0.3", "--", *ESCAPERS, "3", "5") as init:
        for _ in range(3):
            init.wait_line("member")
        tree = procs.tree_of(init.pid)
        init.close_stdin()
        code, _, err = finish(init, 20)
        assert not any(procs.alive(one.pid, one.start) for one in tree)
    assert code == 5
    assert re.search(r"3 asked, 2 killed, 0 survivors, 0\.\ds\n", err), err


def test_end_catches_a_member_that_forks_while_being_killed() -> None:
    need_pid_1()
    words = ("--on-exit", "end", "--kill-after", "0.2", "--", *ESCAPERS, "4", "0")
    with run_exec(*words, prefix=PID_1) as init:
        for _ in range(4):
            init.wait_line("member")
        init.close_stdin()
        code, _, err = finish(init, 20)
        assert init.members() == []
    assert code == 0
    assert " 0 survivors" in err


def test_end_hurries_when_it_is_told_to_end_meanwhile() -> None:
    with run_exec("--on-exit", "end", "--kill-after", "60", "--", *ESCAPERS, "1", "0") as init:
        init.wait_line("member")
        init.close_stdin()
        procs.wait_until(lambda: len(procs.tree_of(init.pid)) == 2)  # the command has gone
        init.send(signal.SIGTERM)
        code, _, err = finish(init)
    assert code == 0
    assert "1 killed" in err


def test_end_is_silent_when_nobody_is_left() -> None:
    with run_exec("--on-exit", "end", "--", "sh", "-c", "exit 3") as init:
        assert finish(init) == (3, "", "")


def test_end_follows_a_time_limit_too() -> None:
    script = 'setsid sh -c "echo ready; exec sleep 100" & exec sleep 100'
    with run_exec("--on-exit", "end", "--timeout", "60", "--", "sh", "-c", script) as init:
        init.wait_line("^ready")
        init.send(signal.SIGALRM)  # the time is over
        code, _, err = finish(init)
    assert code == 124
    assert "1 asked, 0 killed, 0 survivors" in err
