"""``tty = true``: the target has the terminal, as if the shell had started it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pexpect
import pytest

from helpers import procs
from helpers.home import CLI, Home, Safe

PROGRAM = """
import os, signal, sys, termios, struct, fcntl
def size(*_):
    rows, columns = struct.unpack("hh", fcntl.ioctl(0, termios.TIOCGWINSZ, b"1234"))
    print("size", rows, columns, flush=True)
signal.signal(signal.SIGWINCH, size)
print("tty", [os.isatty(fd) for fd in (0, 1, 2)], "fg", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
while True:
    line = sys.stdin.readline()
    print("got", line.strip(), flush=True)
    if line.strip() == "quit":
        sys.exit(7)
"""


@pytest.fixture
def shell(home: Home, safe: Safe) -> Iterator[pexpect.spawn]:
    """An interactive bash with job control, and a target ``t`` that wants the terminal."""
    (home.project / "program.py").write_text(PROGRAM)
    home.write_config(
        f'[targets.t]\ncommand = [{sys.executable!r}, "program.py"]\ntty = true\nrestart = "on-failure"\n'
        'start_limit = { count = 1 }\nstop = { grace = "1s" }\n'
    )
    env = {**os.environ, "PS1": "PROMPT ", "TERM": "dumb"}
    child = pexpect.spawn("bash", ["--norc", "-i"], env=env, encoding="utf-8", timeout=15, dimensions=(24, 80))
    try:
        child.expect("PROMPT ")
        child.sendline(f"alias s='{' '.join(CLI)}'; echo al\"\"iased")
        child.expect("aliased")
        yield child
    finally:
        safe("stop", "t", "--force", "--now")
        child.close(force=True)


def begin(shell: pexpect.spawn) -> None:
    shell.sendline("s start t")
    shell.expect(r"tty \[True, True, True\] fg True")


def test_the_target_has_the_terminal_and_its_foreground_group(shell: pexpect.spawn) -> None:
    begin(shell)
    shell.sendline("hello")
    shell.expect("got hello")
    shell.sendline("quit")
    shell.expect("start limit reached")
    shell.sendline("echo code $?")
    shell.expect("code 7")


def test_ctrl_z_gives_the_shell_back_and_fg_resumes(shell: pexpect.spawn, home: Home) -> None:
    begin(shell)
    pid = json.loads(home.state_file("t.json").read_text())["main"]["pid"]
    shell.sendcontrol("z")
    shell.expect("Stopped")
    procs.wait_until(lambda: (found := procs.look(pid)) is not None and found.state == "T")
    shell.sendline('echo in the sh""ell')
    shell.expect("in the shell")
    shell.sendline("fg")
    procs.wait_until(lambda: (found := procs.look(pid)) is not None and found.state == "S")
    shell.sendline("again")
    shell.expect("got again")
    shell.sendcontrol("z")
    shell.expect("Stopped")
    shell.sendline("fg")
    shell.sendline("once more")
    shell.expect("got once more")


def test_ctrl_c_reaches_the_target_and_counts_as_its_users_stop(shell: pexpect.spawn, home: Home, safe: Safe) -> None:
    begin(shell)
    shell.sendcontrol("c")
    shell.expect("KeyboardInterrupt")
    shell.expect("PROMPT ")
    shell.sendline("echo code $?")
    shell.expect(r"code \d+")
    assert safe("status", "t").rc == 3


def test_the_window_size_reaches_the_target(shell: pexpect.spawn) -> None:
    begin(shell)
    shell.setwinsize(40, 132)
    shell.expect("size 40 132")


def test_a_stop_from_elsewhere_gives_the_terminal_back(shell: pexpect.spawn, safe: Safe) -> None:
    begin(shell)
    safe("stop", "t", "--force").check()
    shell.sendline('echo ba""ck')
    shell.expect("back")


def test_without_a_terminal_it_runs_as_any_other_target(home: Home, safe: Safe) -> None:
    home.write_config('[targets.t]\ncommand = "echo plain"\ntty = true\n')
    assert "plain" in safe("start", "t").check().out
    safe("start", "t", "--detach").check()
