"""``exec --pdeathsig``: the command is told when the parent dies, at whatever moment."""

from __future__ import annotations

import re
import signal

import pytest

from helpers import procs
from helpers.exec_run import ECHO, EXEC, finish, python, run_exec

# Starts the rest of the words as a child in a session of its own, then waits to be killed.
PARENT = python("import subprocess,sys; subprocess.Popen(sys.argv[1:], start_new_session=True); sys.stdin.read()")


def heard(child: procs.Spawn, number: int) -> None:
    """The echo below ``child``, which may have gone itself, has received it."""
    procs.wait_until(lambda: re.search(f"^{number}$", child.out, re.M))


@pytest.mark.parametrize("session", ["new", "pgrp", "keep"])
def test_the_command_gets_the_signal_when_our_parent_dies(session: str) -> None:
    words = (*EXEC, "--session", session, "--pdeathsig", "USR1", "--", *ECHO, "--exit-on", "10")
    with procs.Spawn(*PARENT, *words) as parent:
        parent.wait_line("^ready")
        parent.send(signal.SIGKILL)
        heard(parent, 10)


def test_the_signal_is_rewritten_like_any_other() -> None:
    words = (*EXEC, "--pdeathsig", "HUP", "--rewrite", "HUP:USR2", "--", *ECHO, "--exit-on", "12")
    with procs.Spawn(*PARENT, *words) as parent:
        parent.wait_line("^ready")
        parent.send(signal.SIGKILL)
        heard(parent, 12)


def test_kill_as_the_signal_ends_exec_and_the_command() -> None:
    with procs.Spawn(*PARENT, *EXEC, "--pdeathsig", "KILL", "--", *ECHO) as parent:
        pid = int(parent.wait_line(r"^ready (\d+)$")[1])
        start = procs.start_of(pid)
        parent.send(signal.SIGKILL)
        procs.wait_until(lambda: not procs.alive(pid, start))


def test_the_command_gets_the_signal_when_exec_is_killed() -> None:
    with run_exec("--pdeathsig", "USR1", "--", *ECHO, "--exit-on", "10") as init:
        init.wait_line("^ready")
        init.send(signal.SIGKILL)
        heard(init, 10)


def test_without_it_the_command_outlives_exec() -> None:
    with run_exec("--", *ECHO) as init:
        pid = int(init.wait_line(r"^ready (\d+)$")[1])
        start = procs.start_of(pid)
        init.adopt(pid, start)
        init.send(signal.SIGKILL)
        init.wait()
        assert procs.alive(pid, start)


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("KILL", 137)])
def test_a_parent_that_died_before_we_could_ask_counts(name: str, status: int) -> None:
    # the launcher saw a parent; by the time Python runs, another has taken its place
    with run_exec("--pdeathsig", name, "--", "sleep", "100", extra_env={"SAFESH_PPID": "1"}) as init:
        assert finish(init) == (status, "", "")


def test_killing_the_parent_at_any_moment_leaves_nothing() -> None:
    # bin/safe.sh's part is played by the shell, which knows its parent from its own start on
    launch = ("sh", "-c", 'export SAFESH_PPID=$PPID; exec "$@"', "sh", *EXEC, "--pdeathsig", "TERM", "sleep", "100")
    code = (
        "import os,subprocess,sys,time\n"
        "p = subprocess.Popen(sys.argv[2:])\n"
        "time.sleep(float(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    for step in range(20):
        with procs.Spawn(*python(code), f"{0.008 + step * 0.004:.3f}", *launch) as parent:
            parent.wait()
            procs.wait_until(lambda: not parent.members(), 5, "the end of what the parent left")
