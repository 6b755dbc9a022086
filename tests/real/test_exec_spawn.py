"""``core.spawn``: fork and exec, and what comes back when one of them fails."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.exec_run import ROOT, finish, python, status_sets
from helpers.procs import Spawn
from safesh.core.spawn import spawn
from safesh.errors import CommandNotExecutable, CommandNotFound, ConfigError, ResourceError


def run(*argv: str, **options: Any) -> tuple[int, str]:
    """(exit code, stdout) of a spawned command."""
    reading, writing = os.pipe()
    try:
        pid = spawn(argv, stdio=(0, writing, 2), **options)
    finally:
        os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def test_the_child_runs_and_its_status_is_there_to_be_collected() -> None:
    assert run("sh", "-c", "echo hi; exit 3") == (3, "hi\n")


@pytest.mark.parametrize("session", ["new", "pgrp", "keep"])
def test_session_and_group(session: Any) -> None:
    _, text = run("sh", "-c", "read -r _ _ _ _ g s _ </proc/$$/stat; echo $$ $g $s", session=session)
    pid, group, sid = map(int, text.split())
    assert (group == pid) == (session != "keep")
    assert (sid == pid) == (session == "new")
    if session == "keep":
        assert (group, sid) == (os.getpgrp(), os.getsid(0))


def test_environment_and_folder_are_those_given(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "ONLY": "this"}
    assert run("env", env=env)[1] == f"PATH={env['PATH']}\nONLY=this\n"
    assert run("pwd", "-P", cwd=str(tmp_path))[1] == f"{tmp_path.resolve()}\n"


def test_mask_and_dispositions_are_those_given_and_ours_stay() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    _, text = run("cat", "/proc/self/status", sigmask={10, 15}, ignored={1, 13})
    sets = status_sets(text)
    assert (sets["SigBlk"], sets["SigIgn"], sets["SigCgt"]) == ({10, 15}, {1, 13}, set())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_handler_of_the_parent_never_runs_in_the_child_and_no_signal_is_lost() -> None:
    seen: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _frame: seen.append(os.getpid()))
    try:
        for _ in range(20):
            assert run("true", before_exec=lambda: os.kill(os.getpid(), signal.SIGUSR1))[0] == -signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == [os.getpid()] * 20


def test_passed_descriptors_arrive_and_others_do_not() -> None:
    one, two = os.pipe()
    code = (
        "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    if os.path.lexists(f'/proc/self/fd/{fd}'): print(fd, os.readlink(f'/proc/self/fd/{fd}'))"
    )
    try:
        pipe = os.readlink(f"/proc/self/fd/{two}")
        assert f"{two} {pipe}" in run(*python(code), pass_fds=[two])[1].splitlines()
        assert pipe not in run(*python(code))[1]
    finally:
        os.close(one)
        os.close(two)


def test_stdio_may_be_crossed_over() -> None:
    read_out, write_out = os.pipe()
    read_err, write_err = os.pipe()
    code = (
        f"import os,sys; sys.path.insert(0, {str(ROOT / 'supervisor')!r}); from safesh.core.spawn import spawn;"
        "pid = spawn(['sh', '-c', 'echo out; echo err >&2'], stdio=(0, 2, 1)); os.waitpid(pid, 0)"
    )
    for fd in (read_out, write_out, read_err, write_err):
        os.close(fd)
    with Spawn(*python(code)) as child:
        assert finish(child) == (0, "err\n", "out\n")


@pytest.mark.parametrize(
    ("argv", "kind", "said"),
    [
        (["/no/such"], CommandNotFound, "/no/such: No such file or directory"),
        (["no-such-command"], CommandNotFound, "no-such-command: No such file or directory"),
        ([], CommandNotFound, "No such file"),
        ([""], CommandNotFound, "No such file"),
        (["/etc"], CommandNotExecutable, "/etc: Is a directory"),
        (["/etc/passwd"], CommandNotExecutable, "/etc/passwd: Permission denied"),
        (["/etc/passwd/x"], CommandNotExecutable, "/etc/passwd/x: Not a directory"),
        (["true", "x" * 3_000_000], CommandNotExecutable, "true: Argument list too long"),
        (["true", "a\0b"], ConfigError, "embedded null byte"),
    ],
)
def test_failures_have_their_type_and_words_and_leave_no_child(
    argv: list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        spawn(argv)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_missing_folder_is_a_config_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="/no/such/folder: No such file or directory"):
        spawn(["true"], cwd="/no/such/folder")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("odd one"), SystemExit(0)])
def test_what_goes_wrong_before_exec_is_told_and_never_returns_into_the_parents_code(error: BaseException) -> None:
    def fail() -> None:
        raise error

    parent = os.getpid()
    with pytest.raises(ResourceError, match="true: could not be prepared"):
        spawn(["true"], before_exec=fail)
    assert os.getpid() == parent


def test_a_child_that_dies_before_exec_is_seen_as_ended_by_that() -> None:
    pid = spawn(["true"], before_exec=lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_spawning_from_another_thread_works() -> None:
    found: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: found.append(run("sh", "-c", "echo hi")))
    thread.start()
    thread.join(10)
    assert found == [(0, "hi\n")]


def test_no_descriptor_left_is_a_resource_error() -> None:
    code = (
        f"import resource,sys; sys.path.insert(0, {str(ROOT / 'supervisor')!r}); from safesh.core.spawn import spawn\n"
        "from safesh.errors import ResourceError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))\n"
        "try: spawn(['true'])\n"
        "except ResourceError as error: print(error)"
    )
    with Spawn(*python(code)) as child:
        assert finish(child)[1] == "true: cannot be started: Too many open files\n"
