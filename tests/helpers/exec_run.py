"""What the tests of ``safe.sh exec`` share: starting it, its terminal, its state."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers import procs

ROOT = Path(__file__).resolve().parents[2]
# The venv's python is a link to the real one: a shim in between would be a process of its own.
PYTHON = os.path.realpath(sys.executable)
EXEC = (PYTHON, "-E", "-s", "-S", str(Path(__file__).with_name("exec_main.py")))
ECHO = (PYTHON, "-E", "-s", "-S", str(Path(__file__).with_name("exec_echo.py")))


def run_exec(*words: str, prefix: Sequence[str] = (), **options: Any) -> procs.Spawn:
    """``with run_exec("--timeout", "1", "--", "true") as init: ...``; prefix: words before it (``unshare …``)."""
    return procs.Spawn(*prefix, *EXEC, *words, **options)


def python(code: str) -> tuple[str, ...]:
    """A command that runs ``code``."""
    return (PYTHON, "-E", "-s", "-S", "-c", code)


def finish(init: procs.Spawn, deadline: float = procs.DEADLINE) -> tuple[int, str, str]:
    """(return code, all of stdout, all of stderr)."""
    code = init.wait(deadline)
    init.wait_output(deadline)
    return code, init.out, init.err


def status_sets(pid: int | str) -> dict[str, set[int]]:
    """SigBlk, SigIgn, SigCgt, SigPnd and ShdPnd of a process as sets of numbers (proc_pid_status(5))."""
    text = Path(f"/proc/{pid}/status").read_text() if isinstance(pid, int) else pid
    found = re.findall(r"^(Sig\w+|ShdPnd):\s*([0-9a-f]+)$", text, re.M)
    # 32 and 33 are glibc's own: posix_spawn(3), which make uses, ignores them, and no program can change that.
    numbers = [n for n in range(1, 65) if n not in (32, 33)]
    return {name: {n for n in numbers if int(bits, 16) >> (n - 1) & 1} for name, bits in found}


def state(pid: int) -> str:
    found = procs.look(pid)
    return found.state if found else ""


def wait_state(pid: int, wanted: str) -> None:
    procs.wait_until(lambda: state(pid) in wanted, what=f"state {wanted} of {pid}, which is {state(pid)!r}")


PID_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@cache
def _can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*PID_1, "true"], capture_output=True, check=False, timeout=20).returncode == 0


def need_pid_1() -> None:
    """Skip, by name, where no pid namespace can be made."""
    if not _can_unshare():
        pytest.skip("pid 1: no pid namespace can be made here (unshare --pid needs root)")


class Terminal:
    """A pseudo terminal and ``child``, whose controlling terminal and stdio it is."""

    def __init__(self, master: int, child: procs.Spawn) -> None:
        self.master = master
        self.child = child
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self) -> str:
        """What has been printed so far; at its end (EIO, pty(7)) nothing more comes."""
        try:
            self.text += os.read(self.master, 65536).decode("utf-8", "replace")
        except OSError:
            pass
        return self.text

    def wait_text(self, pattern: str) -> re.Match[str]:
        """The match of ``pattern`` (re.search, multi-line) in all that was printed."""
        found = procs.wait_until(lambda: re.search(pattern, self.read(), re.M), what=f"{pattern!r} on the terminal")
        assert found is not None
        return found

    def foreground(self) -> int:
        return os.tcgetpgrp(self.master)


# Makes stdin the controlling terminal of the new session that Popen made, then becomes the command.
_TAKE = "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


@contextmanager
def on_terminal(*command: str, **options: Any) -> Iterator[Terminal]:
    """``command`` as leader of a session with a terminal of its own, as in ``docker run -t``; no echo."""
    master, slave = pty.openpty()
    try:
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        fcntl.fcntl(master, fcntl.F_SETFL, os.O_NONBLOCK)
        taking = (PYTHON, "-E", "-s", "-S", "-c", _TAKE)
        child = procs.Spawn(*taking, *command, stdin=slave, stdout=slave, stderr=slave, **options)
        os.close(slave)
        slave = -1
        with child:
            yield Terminal(master, child)
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
