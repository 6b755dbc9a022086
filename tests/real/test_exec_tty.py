"""``exec`` at a terminal: who controls it, and what is typed there."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
import termios

import pytest

from helpers import procs
from helpers.exec_run import ECHO, EXEC, Terminal, on_terminal, python, state, wait_state

SESSIONS = ("new", "pgrp", "keep")
SHELL = ("bash", "--norc", "--noprofile", "-i")
STEADY = python(
    "import os,signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', os.getpid(), flush=True)\n"
    "while True: signal.pause()"
)


def line(*words: str) -> str:
    return shlex.join([*EXEC, *words]) + "\n"


@pytest.mark.parametrize("session", SESSIONS)
def test_a_command_reads_from_and_writes_to_the_terminal(session: str) -> None:
    with on_terminal(*EXEC, "--session", session, "--", "tac") as terminal:
        terminal.type("1\n2\n3\n\x04\x04")
        assert terminal.child.wait() == 0
        terminal.wait_text("^3\n2\n1\n")
        assert terminal.text == "3\n2\n1\n"


@pytest.mark.parametrize("session", SESSIONS)
def test_job_control_works_when_the_terminal_is_handed_over(session: str) -> None:
    with on_terminal(*EXEC, "--session", session, "--", "bash", "--norc", "--noprofile", "-m") as terminal:
        terminal.type('echo "flags are: [[$-]]"\nexit 4\n')
        assert terminal.child.wait() == 4
        flags = terminal.wait_text(r"flags are: \[\[(\w+)\]\]$")[1]
    assert "m" in flags
    assert "no job control" not in terminal.text


def test_the_new_session_controls_the_terminal_and_is_its_foreground() -> None:
    with on_terminal(*EXEC, "--", *ECHO) as terminal:
        pid = int(terminal.wait_text(r"^ready (\d+)$")[1])
        found = procs.look(pid)
        assert found is not None
        assert found.sid == found.pgid == pid == terminal.foreground()


def test_handing_the_terminal_over_sends_the_command_neither_hup_nor_cont() -> None:
    for _ in range(10):
        with on_terminal(*EXEC, "--", *ECHO) as terminal:
            terminal.wait_text("^ready")
            terminal.child.send(signal.SIGHUP)
            terminal.child.send(signal.SIGUSR2)
            terminal.wait_text("^12$")
            assert terminal.text.split()[2:] == ["1", "12"]


def test_a_hup_that_came_before_the_hand_over_is_not_taken_for_the_kernels() -> None:
    # one that is pending when exec starts, because the caller had it blocked
    code = (
        "import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK, [1]);"
        "pid = os.fork()\n"
        "if pid == 0: os.kill(os.getppid(), 1); os._exit(0)\n"
        "os.waitpid(pid, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with on_terminal(*python(code), *EXEC, "--", *ECHO) as terminal:
        terminal.wait_text("^1$")


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize(("key", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_what_is_typed_reaches_the_command_once(session: str, key: str, number: int) -> None:
    with on_terminal(*EXEC, "--session", session, "--", *ECHO) as terminal:
        terminal.wait_text("^ready")
        terminal.type(key)
        terminal.wait_text(f"^{int(number)}$")
        terminal.child.send(signal.SIGUSR1)
        terminal.wait_text("^10$")
        assert terminal.text.split()[2:] == [str(int(number)), "10"]


@pytest.mark.parametrize("session", SESSIONS)
def test_a_new_window_size_reaches_the_command_once(session: str) -> None:
    with on_terminal(*EXEC, "--session", session, "--", *ECHO) as terminal:
        terminal.wait_text("^ready")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        terminal.wait_text("^28$")
        terminal.child.send(signal.SIGUSR1)
        terminal.wait_text("^10$")
        assert terminal.text.split()[2:] == ["28", "10"]


@pytest.mark.parametrize("session", SESSIONS)
def test_a_closed_terminal_hangs_the_command_up(session: str) -> None:
    with on_terminal(*EXEC, "--session", session, "--", *STEADY) as terminal:
        pid = int(terminal.wait_text(r"^ready (\d+)")[1])
        start = procs.start_of(pid)
        terminal.child.adopt(pid, start)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, terminal.master)  # closes the last descriptor of the terminal's other side
        os.close(null)
        assert terminal.child.wait() == 128 + signal.SIGHUP
        assert not procs.alive(pid, start)


def prompt(terminal: Terminal, times: int) -> None:
    procs.wait_until(lambda: terminal.read().count("PROMPT>") >= times, what=f"prompt {times}")


@pytest.mark.parametrize("session", SESSIONS)
def test_ctrl_z_gives_the_shell_back_and_fg_resumes(session: str) -> None:
    with on_terminal(*SHELL, extra_env={"PS1": "PROMPT>"}) as terminal:
        prompt(terminal, 1)
        terminal.type(line("--session", session, "--", *STEADY))
        pid = int(terminal.wait_text(r"^ready (\d+)")[1])
        parent = procs.look(pid)
        assert parent is not None
        for turn in (2, 3):
            terminal.type("\x1a")
            prompt(terminal, turn)
            wait_state(pid, "T")
            wait_state(parent.ppid, "T")
            assert "Stopped" in terminal.text
            terminal.type("fg\n")
            wait_state(pid, "S")
            wait_state(parent.ppid, "S")
            if session == "pgrp":
                procs.wait_until(lambda: terminal.foreground() == pid)
        terminal.type("\x03")
        prompt(terminal, 4)
        terminal.type("echo status=$?\n")
        terminal.wait_text("^status=130$")


def test_its_own_group_is_the_foreground_and_the_caller_gets_it_back() -> None:
    command = line("--session", "pgrp", "--", *ECHO, "--exit-on", "10").strip()
    with on_terminal("sh", "-c", f"{command}; echo after; read x") as terminal:
        pid = int(terminal.wait_text(r"^ready (\d+)$")[1])
        found = procs.look(pid)
        assert found is not None
        assert terminal.foreground() == pid == found.pgid
        assert found.sid == terminal.child.pid
        assert procs.send(pid, found.start, signal.SIGUSR1)
        terminal.wait_text("^after$")
        assert terminal.foreground() == terminal.child.pid
        terminal.type("x\n")
        assert terminal.child.wait() == 0


def test_from_the_background_the_foreground_is_not_stolen() -> None:
    with on_terminal(*SHELL, extra_env={"PS1": "PROMPT>"}) as terminal:
        prompt(terminal, 1)
        terminal.type(line("--session", "pgrp", "--", *ECHO, "--exit-on", "10").strip() + " &\n")
        pid = int(terminal.wait_text(r"ready (\d+)$")[1])
        assert terminal.foreground() == terminal.child.pid
        assert procs.send(pid, procs.start_of(pid), signal.SIGUSR1)
        procs.wait_until(lambda: not state(pid))
        assert terminal.foreground() == terminal.child.pid


def test_ctrl_z_where_no_shell_could_resume_does_not_stop_for_ever() -> None:
    # exec is the session's leader, as in a container: its group is orphaned
    with on_terminal(*EXEC, "--session", "keep", "--", *STEADY) as terminal:
        terminal.wait_text("^ready")
        terminal.type("\x1a")
        terminal.type("\x03")
        assert terminal.child.wait() == 130


def test_wrapped_twice_the_innermost_command_has_the_foreground() -> None:
    with on_terminal(*EXEC, "--session", "pgrp", "--", *EXEC, "--session", "pgrp", "--", *ECHO) as terminal:
        pid = int(terminal.wait_text(r"^ready (\d+)$")[1])
        assert terminal.foreground() == pid
