"""``exec``: what the command inherits, and what exec itself lets go of."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers import procs
from helpers.exec_run import ECHO, EXEC, finish, python, run_exec, status_sets, wait_state

SHOW = ("cat", "/proc/self/status")


def prepared(ignored: Sequence[int] = (), blocked: Sequence[int] = (), *, told: bool = True) -> tuple[str, ...]:
    """Words before a command: it starts with these dispositions. told: as the launcher would tell them."""
    mask = sum(1 << (number - 1) for number in ignored)
    code = (
        "import os,signal,sys\n"
        "for n in (signal.SIGPIPE, signal.SIGXFSZ): signal.signal(n, signal.SIG_DFL)\n"
        f"for n in {[int(n) for n in ignored]}: signal.signal(n, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_SETMASK, {[int(n) for n in blocked]})\n"
        + (f"os.environ['SAFESH_SIGIGN'] = '{mask:016x}'\n" if told else "")
        + "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return python(code)


def inherited(prefix: Sequence[str], *options: str) -> dict[str, set[int]]:
    with run_exec(*options, "--", *SHOW, prefix=prefix) as init:
        code, out, err = finish(init)
    assert (code, err) == (0, "")
    return status_sets(out)


@pytest.mark.parametrize("session", ["new", "pgrp", "keep"])
def test_the_command_gets_the_callers_ignored_and_blocked_signals_exactly(session: str) -> None:
    ignored = (signal.SIGTTOU, signal.SIGSEGV, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE, 40)
    blocked = (signal.SIGTTIN, signal.SIGILL, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, 50)
    sets = inherited(prepared(ignored, blocked), "--session", session)
    assert sets["SigIgn"] == {int(n) for n in ignored}
    assert sets["SigBlk"] == {int(n) for n in blocked}
    assert sets["SigCgt"] == set()


def test_nothing_ignored_or_blocked_stays_so() -> None:
    sets = inherited(prepared())
    assert sets["SigIgn"] == sets["SigBlk"] == set()


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ])
def test_what_python_ignores_at_its_start_is_undone_unless_the_caller_ignored_it(number: int) -> None:
    assert inherited(prepared())["SigIgn"] == set()
    assert inherited(prepared(told=False))["SigIgn"] == set()
    assert inherited(prepared([number]))["SigIgn"] == {int(number)}


def test_sigpipe_ends_a_command_that_writes_to_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with run_exec("--", "yes", stdout=writing) as init:
            assert finish(init)[0] == 128 + signal.SIGPIPE
    finally:
        os.close(writing)


def test_an_ignored_sigint_stays_ignored_and_is_sent_on_all_the_same() -> None:
    with run_exec("--", *ECHO, prefix=prepared([signal.SIGINT])) as init:
        init.wait_line("^ready")
        init.send(signal.SIGINT)
        init.wait_line("^2$")


@pytest.mark.parametrize("command", ["exit 7", "kill -TERM $$"])
def test_an_inherited_ignored_sigchld_does_not_lose_the_status(command: str) -> None:
    with run_exec("--", "sh", "-c", command, prefix=prepared([signal.SIGCHLD])) as init:
        assert finish(init)[0] == (7 if command == "exit 7" else 143)


def test_blocked_signals_of_the_caller_do_not_keep_exec_from_sending_them_on() -> None:
    with run_exec("--", *ECHO, prefix=prepared((), (signal.SIGTERM, signal.SIGUSR1))) as init:
        init.wait_line("^ready")
        for number in (signal.SIGTERM, signal.SIGUSR1):
            init.send(number)
            init.wait_line(f"^{int(number)}$")


def test_the_launchers_variables_do_not_reach_the_command() -> None:
    given = {"SAFESH_SIGIGN": "0000000000001000", "SAFESH_PPID": str(os.getpid()), "OTHER": "x"}
    with run_exec("--", "env", extra_env=given) as init:
        names = {line.partition("=")[0] for line in finish(init)[1].splitlines()}
    assert "OTHER" in names
    assert not any(name.startswith("SAFESH_SIGIGN") or name == "SAFESH_PPID" for name in names)


@pytest.mark.parametrize("value", ["", "zz", "-1", "fffffffffffffffffffffffff"])
def test_a_broken_launcher_variable_is_passed_over(value: str) -> None:
    with run_exec("--", "sh", "-c", "exit 4", extra_env={"SAFESH_SIGIGN": value, "SAFESH_PPID": value}) as init:
        assert finish(init) == (4, "", "")


@pytest.mark.parametrize(
    "environment", [{}, {"LANG": "C"}, {"LC_ALL": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"A": "\udcff=\n"}]
)
def test_the_environment_is_the_callers_exactly(environment: dict[str, str]) -> None:
    # Python's locale coercion would add LC_CTYPE
    environment = {"PATH": os.environ["PATH"], **environment}
    with run_exec("--", "env", "-0", env=environment, whole=False) as init:
        code, _, err = finish(init)
        out = bytes(init.streams[0].data)
    assert (code, err) == (0, "")
    lines = [os.fsencode(f"{key}={value}") for key, value in environment.items()]
    assert sorted(out.split(b"\0")[:-1]) == sorted(lines)


def test_arguments_arrive_byte_for_byte() -> None:
    words = [b"", b" ", b"\xff\xfe", b"a\nb", "ünï".encode(), b"--", b"-x", b"*"]
    show = python("import os,sys; os.write(1, b'|'.join(os.fsencode(w) for w in sys.argv[1:]))")
    for extra in ({}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}):
        done = subprocess.run([*EXEC, "--", *show, *words], capture_output=True, check=False, env=os.environ | extra)
        assert done.stdout == b"|".join(words)


def test_the_command_keeps_the_working_directory_and_exec_moves_to_the_root(tmp_path: Path) -> None:
    with run_exec("--", "sh", "-c", "pwd -P; read -r line", cwd=tmp_path) as init:
        init.wait_line(f"^{tmp_path.resolve()}$")
        assert procs.wait_until(lambda: os.readlink(f"/proc/{init.pid}/cwd") == "/")
        init.close_stdin()
        init.wait()


def test_a_relative_command_is_found_in_the_working_directory(tmp_path: Path) -> None:
    script = tmp_path / "here"
    script.write_text("#!/bin/sh\nexit 6\n")
    script.chmod(0o755)
    with run_exec("--", "./here", cwd=tmp_path) as init:
        assert finish(init)[0] == 6


def test_stdio_is_the_commands() -> None:
    with run_exec("--", "sh", "-c", "cat; echo error >&2") as init:
        init.write("through\n")
        init.close_stdin()
        assert finish(init) == (0, "through\n", "error\n")


def test_exec_holds_neither_end_of_the_commands_stdin_and_stdout() -> None:
    with run_exec("--", "sh", "-c", "exec <&- >&-; kill -STOP $$; exit 3") as init:
        procs.wait_until(lambda: init.streams[0].fd < 0)  # end of file
        assert init.alive()
        assert os.readlink(f"/proc/{init.pid}/fd/0") == os.readlink(f"/proc/{init.pid}/fd/1") == "/dev/null"
        wait_state(procs.tree_of(init.pid)[1].pid, "T")
        init.send(signal.SIGCONT)
        assert init.wait() == 3


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_closed_stdio_stays_closed_for_the_command(closed: str) -> None:
    code = f"import os,sys\nfor fd in map(int, {closed!r}): os.close(fd)\nos.execvp(sys.argv[1], sys.argv[1:])"
    with run_exec("--", "sh", "-c", "for n in 0 1 2; do [ -e /proc/$$/fd/$n ] || exec 9>>$1; done; "
                  "for n in 0 1 2; do [ -e /proc/$$/fd/$n ] || s=$s$n; done; [ \"$s\" = $0 ] && exit 5; exit 1",
                  closed, os.devnull, prefix=python(code)) as init:  # fmt: skip
        assert init.wait() == 5


def test_a_message_does_not_end_up_in_the_wrong_file_when_stderr_is_closed() -> None:
    closing = python("import os,sys; os.close(2); os.execv(sys.argv[1], sys.argv[1:])")
    with run_exec("--", "/does/not/exist", prefix=closing) as init:
        assert finish(init) == (127, "", "")


def test_other_descriptors_of_the_caller_reach_the_command_and_none_of_ours() -> None:
    reading, writing = os.pipe()
    try:
        code = "import os,sys; os.write(1, ' '.join(sorted(os.listdir('/proc/self/fd'))).encode())"
        with run_exec("--", *python(code), pass_fds=[writing]) as init:
            found = set(finish(init)[1].split())
    finally:
        os.close(reading)
        os.close(writing)
    assert {"0", "1", "2", str(writing)} <= found
    assert len(found) == 5  # and the folder's own


def test_exec_may_be_wrapped_in_exec() -> None:
    with run_exec("--", *EXEC, "--", *EXEC, "--session", "pgrp", "--", *ECHO, "--exit-on", "12") as init:
        init.wait_line("^ready")
        init.send(signal.SIGUSR1)
        init.wait_line("^10$")
        init.send(signal.SIGUSR2)
        assert finish(init)[0] == 12


def test_what_it_imports_is_lean() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'supervisor')!r}); import safesh.cli.exec;"
        "print(*sys.modules)"
    )
    out = subprocess.run(python(code), capture_output=True, text=True, check=True).stdout
    heavy = "signal enum re json typing contextlib functools dataclasses subprocess logging safesh.model"
    assert not set(heavy.split()) & set(out.split())
