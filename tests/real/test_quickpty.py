"""``core.quickpty``: a program on a terminal of its own, started by a process that may have threads."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.exec_run import status_sets
from helpers.procs import look, start_of, wait_until
from safesh.core.quickpty import start_on_pty
from safesh.errors import ArgumentsTooLong, CommandNotExecutable, CommandNotFound, ConfigError, ResourceError

pytestmark = pytest.mark.timeout(60)


class Terminal:
    """Both ends of a terminal and the program on it, ended and collected when the test is over."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.name = os.ttyname(self.slave)
        self.pid = 0
        self.data = b""

    def start(self, *argv: str, cwd: str | None = None, env: Any = None, **options: Any) -> None:
        self.pid = start_on_pty(argv, cwd=cwd, env=env, slave=self.slave, **options)
        self.close_slave()

    def close_slave(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    def write(self, data: bytes) -> None:
        os.write(self.master, data)

    def read(self, until: bytes = b"", deadline: float = 10.0) -> str:
        """What comes up to ``until``, or up to the end (EIO: nobody has the slave open)."""
        limit = time.monotonic() + deadline
        while not (until and until in self.data):
            ready, _, _ = select.select([self.master], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"not within {deadline:g} s: {until!r} in {self.data!r}"
            try:
                self.data += os.read(self.master, 65536)
            except OSError:
                assert not until, f"the end before {until!r}: {self.data!r}"
                break
        text, self.data = self.data.decode().replace("\r\n", "\n"), b""
        return text

    def wait(self, deadline: float = 10.0) -> int:
        wait_until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), deadline)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # not collected yet, so it is ours
            self.wait()
        self.close_slave()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    one = Terminal()
    try:
        yield one
    finally:
        one.close()


def test_stdin_stdout_and_stderr_are_the_terminal(terminal: Terminal) -> None:
    terminal.start("sh", "-c", "for i in 0 1 2; do test -t $i && echo $i; done; tty")
    assert terminal.read() == f"0\n1\n2\n{terminal.name}\n"
    assert terminal.wait() == 0


def test_the_terminal_is_the_controlling_one_and_the_program_its_foreground(terminal: Terminal) -> None:
    script = (
        "import os; t = os.open('/dev/tty', os.O_RDWR);"
        "print(os.getpid(), os.getsid(0), os.getpgrp(), os.tcgetpgrp(t), os.ttyname(0))"
    )
    terminal.start(sys.executable, "-I", "-S", "-c", script)
    pid = terminal.pid
    assert terminal.read().split() == [str(pid)] * 4 + [terminal.name]


def test_a_typed_ctrl_c_interrupts_the_program(terminal: Terminal) -> None:
    terminal.start("sh", "-c", "echo up; exec sleep 60")
    terminal.read(b"up\r\n")
    terminal.write(b"\x03")
    assert terminal.wait() == -signal.SIGINT


def test_a_ctrl_c_typed_while_it_starts_interrupts_the_program_and_never_the_launcher(terminal: Terminal) -> None:
    started = threading.Event()

    def type_on() -> None:
        limit = time.monotonic() + 10
        while not started.is_set() and time.monotonic() < limit:
            terminal.write(b"\x03")
            select.select([terminal.master], [], [], 0.0005)

    thread = threading.Thread(target=type_on)
    thread.start()
    try:
        terminal.start("sleep", "60")  # raises nothing: no launcher ended early
    finally:
        started.set()
        thread.join()
    terminal.write(b"\x03")
    assert terminal.wait() == -signal.SIGINT


def test_a_program_may_catch_a_typed_ctrl_c(terminal: Terminal) -> None:
    terminal.start("sh", "-c", "trap 'echo caught; exit 9' INT; echo up; while :; do read -r line; done")
    terminal.read(b"up\r\n")
    terminal.write(b"\x03")
    terminal.read(b"caught")
    assert terminal.wait() == 9


def test_the_program_sees_the_windows_size_and_its_changes(terminal: Terminal) -> None:
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    terminal.start("sh", "-c", "stty size; trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done")
    assert terminal.read(b"up\r\n").startswith("33 101\n")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 102, 0, 0))
    assert "44 102" in terminal.read()
    assert terminal.wait() == 0


def test_what_is_typed_arrives(terminal: Terminal) -> None:
    terminal.start("sh", "-c", 'read -r line; echo "got $line"')
    terminal.write(b"hello\n")
    assert "got hello\n" in terminal.read()


def test_the_end_of_the_terminal_hangs_the_program_up() -> None:
    terminal = Terminal()
    try:
        terminal.start("sh", "-c", "echo up; exec sleep 60")
        terminal.read(b"up\r\n")
        os.close(terminal.master)
        assert terminal.wait() == -signal.SIGHUP
    finally:
        terminal.master = os.open(os.devnull, os.O_RDONLY)
        terminal.close()


@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_status_is_the_programs(terminal: Terminal, code: int) -> None:
    terminal.start("sh", "-c", f"exit {code}")
    assert terminal.wait() == code


def test_the_pid_is_the_programs_own_and_python_is_gone(terminal: Terminal) -> None:
    terminal.start("sh", "-c", "echo $$; exec sleep 60")
    start = start_of(terminal.pid)
    assert int(terminal.read(b"\n")) == terminal.pid
    wait_until(lambda: os.path.basename(os.readlink(f"/proc/{terminal.pid}/exe")) != "sh", 5)
    assert "python" not in os.readlink(f"/proc/{terminal.pid}/exe")
    assert start_of(terminal.pid) == start


def test_once_it_returns_the_program_has_been_executed(terminal: Terminal) -> None:
    terminal.start("sleep", "60")
    found = look(terminal.pid)
    assert found is not None
    assert found.name == "sleep"


@pytest.mark.parametrize(
    ("argv", "cwd", "kind", "place"),
    [
        (["/no/such/program"], None, CommandNotFound, "/no/such/program"),
        (["no-such-program"], None, CommandNotFound, "no-such-program"),
        (["/etc/passwd"], None, CommandNotExecutable, "/etc/passwd"),
        (["/usr"], None, CommandNotExecutable, "/usr"),
        (["true"], "/no/such/folder", ConfigError, "/no/such/folder"),
        (["true", "a\0b"], None, ConfigError, "true"),
        (["true", "\ud800"], None, ConfigError, "true"),
        (["true", "x" * 300_000], None, ArgumentsTooLong, "true"),
        ([], None, CommandNotFound, "(no command)"),
    ],
    ids=["127-path", "127-name", "126-file", "126-folder", "cwd", "nul", "no-bytes", "too-long", "none"],
)
def test_what_cannot_be_started_is_a_typed_error_and_leaves_no_child(
    terminal: Terminal, argv: list[str], cwd: str | None, kind: type[Exception], place: str
) -> None:
    with pytest.raises(kind) as caught:
        terminal.start(*argv, cwd=cwd)
    assert getattr(caught.value, "place", None) == place
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_is_no_terminal_is_an_error(tmp_path: Any) -> None:
    with open(tmp_path / "file", "w+b") as file, pytest.raises(ResourceError, match="launcher failed"):
        start_on_pty(["true"], cwd=None, env=None, slave=file.fileno())


def test_a_terminal_of_another_session_is_an_error_and_stays_there(terminal: Terminal) -> None:
    second = os.open(terminal.name, os.O_RDWR | os.O_NOCTTY)
    try:
        terminal.start("sh", "-c", "echo up; exec sleep 60")
        terminal.read(b"up\r\n")
        with pytest.raises(ResourceError, match="launcher failed"):
            start_on_pty(["true"], cwd=None, env=None, slave=second)
        terminal.write(b"\x03")
        assert terminal.wait() == -signal.SIGINT
    finally:
        os.close(second)


@pytest.mark.parametrize(("python", "words"), [("", "does not know its Python"), ("/bin/false", "ended early")])
def test_without_a_python_to_launch_with_the_error_is_typed(
    terminal: Terminal, python: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ResourceError, match=words):
        terminal.start("true")


def test_signals_are_default_and_none_is_blocked_whatever_ours_are(terminal: Terminal) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        terminal.start("cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, before)
    sets = status_sets(terminal.read())
    assert (sets["SigBlk"], sets["SigIgn"] - {32, 33}, sets["SigCgt"]) == (set(), set(), set())


def test_the_environment_is_exactly_the_one_given(terminal: Terminal) -> None:
    """What Python reads included; nothing that a launcher's locale would add (PEP 538)."""
    odd = os.fsdecode(b"\xff")
    env = {"PATH": os.environ["PATH"], "PYTHONHOME": "/x", "PYTHONPATH": "/y", "LANG": "C", "ODD": odd}
    terminal.start(sys.executable, "-I", "-S", "-c", _TELL_ENVIRONMENT, env=env)
    told = dict(line.split("=", 1) for line in terminal.read().splitlines())
    assert told == {**env, "ODD": "\\xff"}


# Not os.environ: the told Python may itself coerce its locale.
_TELL_ENVIRONMENT = """
with open("/proc/self/environ", "rb") as file:
    for pair in file.read().split(b"\\0")[:-1]:
        print(pair.decode("ascii", "backslashreplace"))
"""


def test_without_an_environment_ours_is_passed_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESH_TEST_WORD", "here")
    terminal.start("sh", "-c", "echo $SAFESH_TEST_WORD")
    assert terminal.read() == "here\n"


def test_the_folder_is_the_one_given_and_may_be_relative(
    terminal: Terminal, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    terminal.start("pwd", "-P", cwd="below")
    assert terminal.read() == f"{os.path.realpath(tmp_path)}/below\n"


def test_no_descriptor_reaches_the_program_but_those_passed(terminal: Terminal) -> None:
    reading, writing = os.pipe()
    other = os.dup(reading)
    os.set_inheritable(other, True)
    try:
        script = f"import os; os.write({writing}, b'hi'); print(*os.listdir('/proc/self/fd'))"
        terminal.start(sys.executable, "-I", "-S", "-c", script, pass_fds=(writing,))
        os.close(writing)
        with open(reading, closefd=False) as pipe:
            assert pipe.read() == "hi"
        # One more was for the folder itself, the lowest that is free.
        assert {int(word) for word in terminal.read().split()} - {3} <= {0, 1, 2, writing}
    finally:
        os.close(reading)
        os.close(other)


def test_eight_threads_start_at_once_and_leak_nothing() -> None:
    told: dict[int, tuple[str, int]] = {}

    def work(number: int) -> None:
        for _ in range(2):
            terminal = Terminal()
            try:
                terminal.start("sh", "-c", f"tty && exit {number}")
                text = terminal.read()
                assert text == f"{terminal.name}\n"
                told[number] = (text, terminal.wait())
            finally:
                terminal.close()

    before = sorted(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {number: code for number, (_text, code) in told.items()} == {number: number for number in range(8)}
    assert sorted(os.listdir("/proc/self/fd")) == before
