"""Signals on their way through a supervisor, in the foreground, detached and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import procs
from helpers.home import CLI, Home, Safe
from helpers.procs import Spawn

ECHO = Path(__file__).resolve().parents[1] / "helpers" / "echo_signals.py"
GRACE = 0.5

# What ``start`` sends on without acting on it itself. TSTP, TTIN and TTOU pause a foreground start.
PASSED_ON = [
    number
    for number in sorted(signal.valid_signals())
    if number <= 31
    and number
    not in (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
        signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    )
]  # fmt: skip


@pytest.fixture
def target(home: Home) -> Home:
    home.write_config(
        f"""[targets.t]
command = [{sys.executable!r}, {str(ECHO)!r}, "--stdin", "ignore"]
stop = {{ grace = "{GRACE}s" }}
[targets.rewrite]
command = [{sys.executable!r}, {str(ECHO)!r}, "--stdin", "ignore"]
stop = {{ grace = "{GRACE}s" }}
signals = {{ SIGUSR1 = "SIGUSR2", SIGHUP = "" }}
"""
    )
    return home


@pytest.fixture
def foreground(target: Home, safe: Safe) -> Iterator[Spawn]:
    with safe.spawn("start", "t") as child:
        child.wait_line(r"ready \(\d+\)")
        yield child
        _end(child)


def _end(child: Spawn) -> None:
    """As a user would, with Ctrl-C pressed twice: killing everybody at once would leave a cgroup for the next start."""
    if child.returncode is None:
        child.send(signal.SIGINT)
        child.wait_line("SIGINT")
        child.send(signal.SIGINT)
        child.wait(10)


def test_every_signal_that_is_not_a_stop_reaches_the_target_and_ends_nothing(foreground: Spawn) -> None:
    for number in PASSED_ON:
        foreground.send(number)
        foreground.wait_line(rf"{signal.Signals(number).name}\b")
    assert foreground.alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_reaches_the_target_itself_and_then_the_tree_is_ended(
    foreground: Spawn, home: Home, number: signal.Signals
) -> None:
    foreground.send(number)
    foreground.wait_line(rf"{number.name}\b")
    # The helper only echoes it, so after the grace it is killed.
    assert foreground.wait(GRACE + 5) == 128 + signal.SIGKILL
    mark = str(home.state / home.project.name / "t")
    assert procs.marked("SAFESH_INSTANCE", mark) == []


def test_a_second_stop_signal_does_not_wait_for_the_grace(target: Home, safe: Safe) -> None:
    target.write_config(
        f'[targets.t]\ncommand = [{sys.executable!r}, {str(ECHO)!r}, "--stdin", "ignore"]\nstop = {{ grace = "1h" }}\n'
    )
    with safe.spawn("start", "t") as child:
        child.wait_line(r"ready \(\d+\)")
        child.send(signal.SIGINT)
        child.wait_line("SIGINT")
        child.send(signal.SIGINT)
        assert child.wait(10) == 128 + signal.SIGKILL


def test_a_detached_start_sends_sighup_on_and_lives(target: Home, safe: Safe) -> None:
    with safe.started("t"):
        pid = int(target.state_file("t.pid").read_text())
        log = target.state_file("t.log")
        procs.wait_until(lambda: "ready" in log.read_text())
        for _ in range(2):  # as with kill -HUP $(cat t.pid)
            procs.send(pid, procs.start_of(pid), signal.SIGHUP)
        procs.wait_until(lambda: "SIGHUP" in log.read_text())
        assert safe("status", "t").rc == 0


def test_the_rewrite_map_changes_and_drops_signals(target: Home, safe: Safe) -> None:
    with safe.started("rewrite"):
        pid = int(target.state_file("rewrite.pid").read_text())
        log = target.state_file("rewrite.log")
        procs.wait_until(lambda: "ready" in log.read_text())
        for number in (signal.SIGHUP, signal.SIGUSR1):
            procs.send(pid, procs.start_of(pid), number)
        procs.wait_until(lambda: "SIGUSR2" in log.read_text())
        assert "SIGUSR1" not in log.read_text()
        assert "SIGHUP" not in log.read_text()


def test_nohup_lets_a_foreground_start_outlive_its_terminal_signal(target: Home, safe: Safe) -> None:
    words = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *CLI, "start", "t"]
    with Spawn(*words) as child:
        child.wait_line(r"ready \(\d+\)")
        child.send(signal.SIGHUP)
        child.send(signal.SIGUSR1)
        child.wait_line("SIGUSR1")
        assert child.alive()
        _end(child)


def test_ctrl_z_pauses_the_whole_job_and_sigcont_goes_on(foreground: Spawn) -> None:
    members = [one for one in foreground.members() if "echo_signals" in one.command]
    assert len(members) == 1
    foreground.send(signal.SIGTSTP)
    procs.wait_until(lambda: _state(foreground.pid) == "T")
    procs.wait_until(lambda: _state(members[0].pid) == "T")
    foreground.send(signal.SIGCONT)
    procs.wait_until(lambda: _state(members[0].pid) in "SR")
    foreground.send(signal.SIGUSR1)
    foreground.wait_line("SIGUSR1")


def _state(pid: int) -> str:
    found = procs.look(pid)
    return found.state if found is not None else "gone"


def test_ctrl_c_on_a_terminal_reaches_the_target_once(target: Home) -> None:
    pid, master = os.forkpty()
    if pid == 0:
        os.execv(CLI[0], [*CLI, "start", "t"])
    start = procs.start_of(pid)
    try:
        seen = _read_until(master, b"", rb"ready \(\d+\)")
        os.write(master, b"\x03")
        seen = _read_until(master, seen, b"SIGINT")
        try:
            while chunk := os.read(master, 4096):
                seen += chunk
        except OSError:
            pass  # EIO: the last one has let go of the terminal
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGKILL
        assert len(re.findall(rb"(?<!by )SIGINT", seen)) == 1, seen
        assert b"killed pid" in seen
    finally:
        procs.send(pid, start, signal.SIGKILL)
        os.close(master)


def _read_until(fd: int, seen: bytes, pattern: bytes) -> bytes:
    while not re.search(pattern, seen):
        seen += os.read(fd, 4096)
    return seen


def test_a_signal_during_the_start_is_not_lost(target: Home, safe: Safe) -> None:
    for _ in range(5):
        with safe.spawn("start", "t") as child:
            holder = procs.wait_until(lambda: _holder(target))
            assert holder["pid"] == child.pid
            child.send(signal.SIGTERM)
            assert child.wait(GRACE + 5) in (128 + signal.SIGTERM, 128 + signal.SIGKILL, 0)
    assert safe("status", "t").rc == 3


def _holder(home: Home) -> dict[str, int] | None:
    try:
        found: dict[str, int] = json.loads(home.state_file("t.lock").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found
