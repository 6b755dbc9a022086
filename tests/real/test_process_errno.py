"""The kernel says no: at every step of a start a typed error, and no descriptor or child is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import commands
from helpers.callers import caller, finished
from helpers.campaign import in_full, thinned
from helpers.commands import Clock
from helpers.procs import wait_until
from safesh import (
    ArgumentsTooLong,
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    ExecutionMode,
    ResourceError,
    StdinClosed,
    execute_command,
    write_to_process,
)

BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = ExecutionMode
pytestmark = pytest.mark.timeout(90)
every_mode = pytest.mark.parametrize("mode", list(ExecutionMode), ids=lambda mode: mode.value)
every_way = pytest.mark.parametrize("options", [{}, {"contain": "keeper"}, {"pty": True}], ids=["", "keeper", "pty"])


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def made(path: Path, content: bytes, mode: int = 0o755) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return os.fspath(path)


@thinned()
@every_mode
@every_way
def test_a_program_that_is_not_there_is_127_and_one_that_may_not_be_executed_126(
    mode: ExecutionMode, options: Any, tmp_path: Path
) -> None:
    there = made(tmp_path / "plain", b"text", 0o644)
    no_interpreter = made(tmp_path / "script", b"#!/not/there\n")
    for command, kind, code in (
        (["not-there-at-all"], CommandNotFound, 127),
        ([os.fspath(tmp_path / "missing")], CommandNotFound, 127),
        ([no_interpreter], CommandNotFound, 127),
        ([there], CommandNotExecutable, 126),
        ([os.fspath(tmp_path)], CommandNotExecutable, 126),
    ):
        result = execute_command(command, mode, timeout=30, **options).wait(30)
        assert result.done
        assert type(result.error) is kind
        assert (result.return_code, result.pid, result.stdout) == (code, None, "")


@thinned()
@every_mode
@every_way
def test_a_folder_that_is_not_there_is_named(mode: ExecutionMode, options: Any, tmp_path: Path) -> None:
    missing = os.fspath(tmp_path / "missing")
    result = execute_command("true", mode, cwd=missing, timeout=30, **options).wait(30)
    assert isinstance(result.error, ConfigError)
    assert missing in str(result.error)


@thinned()
@every_mode
@every_way
def test_a_script_without_an_interpreters_name_is_run_as_a_shell_runs_it(
    mode: ExecutionMode, options: Any, tmp_path: Path
) -> None:
    script = made(tmp_path / "script", b"echo $1; exit 7\n")
    result = execute_command([script, "word"], mode, timeout=30, **options).wait(30)
    assert (result.stdout.strip(), result.return_code) == ("word", 7)


@thinned()
@every_mode
@every_way
def test_too_many_arguments_are_told_with_what_to_do_instead(mode: ExecutionMode, options: Any) -> None:
    result = execute_command(["true", "x" * 200_000], mode, timeout=30, **options).wait(30)
    assert isinstance(result.error, ArgumentsTooLong)
    assert "standard input" in str(result.error.hint)
    result = execute_command(["true", *["y" * 1000] * 8000], mode, timeout=30, **options).wait(30)
    assert isinstance(result.error, ArgumentsTooLong)


STARVED = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
{warm}
def fds():
    return set(os.listdir("/proc/self/fd"))
before = fds()
top = max(map(int, before)) + 1
refused = worked = 0
kinds = set()
for limit in range({first}, top + 40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        one = run(*{arguments}, mode={mode}, timeout=20, **{options})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.wait(20)
    assert one.done, (limit, one)
    if one.error is None:
        worked += 1
        assert one.stdout.strip() == "x", (limit, one)
    else:
        refused += 1
        kinds.add(type(one.error).__name__)
        assert isinstance(one.error, ResourceError), (limit, one)
    cleanup_finished_processes()
    until(lambda: children() == [], 5)
    {lasting}
    until(lambda: fds() == before, 5)
say("refused", refused, "worked", worked, kinds)
assert refused >= {least} and worked >= 10
say("ok")
"""


@pytest.mark.parametrize(
    ("mode", "options", "least"),
    in_full(
        [
            ("BLOCKING", {}, 4),
            ("INTERACTIVE", {"input_data": "x"}, 5),
            ("BLOCKING", {"pty": True}, 3),
            ("BACKGROUND", {"contain": "keeper"}, 8),
            ("MONITORED", {}, 5),
        ],
        ("BLOCKING", {"input_data": "x"}, 5),
        ("BACKGROUND", {}, 5),
        ("BLOCKING", {"contain": "keeper"}, 8),
    ),
)
def test_a_start_without_a_descriptor_to_spare_fails_at_every_step_and_leaves_nothing(
    mode: str, options: dict[str, Any], least: int
) -> None:
    """The limit is raised by one from "none free" until all is well, so each step fails once."""
    warm = "run('true', timeout=20); run('true', BACKGROUND).wait(20); run('true', contain='keeper', timeout=20)"
    warm += "; run('true', MONITORED).wait(20); run('true', pty=True, timeout=20)"
    code = STARVED.format(
        warm=warm, first="top", arguments=["echo x; sleep 0.05"], mode=mode, options={"shell": True, **options},
        least=least, lasting="",
    )  # fmt: skip
    with caller(code) as child:
        assert finished(child).endswith("ok\n")


def test_the_first_use_without_a_descriptor_for_the_loop_itself_is_told_too() -> None:
    """Epoll, wake pipe and /dev/null come with the first command; those that came to be stay."""
    code = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    run("true"); import safesh.process.loop
    seen = []
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 + len(seen) + 2, hard))
        try:
            one = run("echo x", BACKGROUND, shell=True, timeout=20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        one.wait(10)
        assert one.done, one
        seen.append(type(one.error).__name__)
        if one.error is None:
            break
        assert isinstance(one.error, ResourceError), one
        assert len(seen) < 40
    assert one.stdout == "x\\n"
    threads = [thread.name for thread in threading.enumerate()]
    assert threads.count("safesh-loop") == 1, threads
    assert threads.count("safesh-endings") <= 2 and threads.count("safesh-callbacks") <= 2, threads
    assert children() == []
    say("ok", seen)
    """
    with caller(code) as child:
        assert "ok" in finished(child)


@pytest.mark.parametrize("mode", ["BLOCKING", "BACKGROUND", "INTERACTIVE"])
def test_a_command_that_runs_ends_rightly_although_no_descriptor_is_left_meanwhile(mode: str) -> None:
    code = f"""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    run("true"); run("true", BACKGROUND).wait(10)
    def starve():
        time.sleep(0.2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) , hard))
    for command, code, kept in (
        ("echo x; sleep 0.5; exit 3", 3, False),
        ("sleep 60 & sleep 60 & echo x; sleep 0.5; exit 3", 3, True),
        ("echo x; sleep 60", -15, False),
    ):
        starving = threading.Thread(target=starve)
        starving.start()
        try:
            one = run(command, {mode}, shell=True, timeout=1.5)
            starving.join()
            one.wait(15)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert one.done and one.stdout == "x\\n", one
        assert one.return_code == code, one
        until(lambda: children() == [], 5)
    say("ok")
    """
    with caller(code) as child:
        assert finished(child).endswith("ok\n")
        assert [one for one in child.members() if "sleep" in one.command] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root has to become another user")
@pytest.mark.pidns
@pytest.mark.parametrize("options", [{}, {"contain": "keeper"}, {"pty": True}], ids=["", "keeper", "pty"])
def test_a_user_who_may_have_no_more_processes_is_told(options: dict[str, Any]) -> None:
    code = f"""
    import resource
    run("true"); run("true", BACKGROUND).wait(10)
    before = set(os.listdir("/proc/self/fd"))
    run("true", pty=True, timeout=20)
    os.setresuid(54321, 54321, 54321)
    tasks = len(os.listdir("/proc/self/task"))
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    for mode in (BLOCKING, BACKGROUND):
        one = run("true", mode, timeout=20, **{options!r}).wait(10)
        assert one.done and isinstance(one.error, ResourceError), one
        assert one.pid is None
    until(lambda: set(os.listdir("/proc/self/fd")) == before, 5)
    say("ok")
    """
    with caller(code) as child:
        assert finished(child).endswith("ok\n")


@thinned()
@every_mode
@pytest.mark.parametrize("number", ["ENOMEM", "EAGAIN"])
def test_a_kernel_without_memory_or_a_number_is_told(
    mode: ExecutionMode, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from safesh.core import quick

    def fork_exec(*_arguments: Any) -> int:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(quick, "_known", fork_exec)
    for options in ({}, {"contain": "keeper"}, {"pty": True}, {"input_data": "x"}):
        result = execute_command("true", mode, **options).wait(10)  # type: ignore[arg-type]
        assert result.done
        assert isinstance(result.error, ResourceError)
        assert (result.pid, result.success) == (None, False)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a mount needs root and unshare")
def test_a_full_disk_costs_the_oldest_output_and_says_so(tmp_path: Path) -> None:
    code = """
    folder = os.environ["TMPDIR"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    one = run("seq 2000000; echo end", BACKGROUND, shell=True, timeout=40)
    other = run("echo x", BACKGROUND, shell=True)
    assert one.wait(40).done and other.wait(10).stdout == "x\\n"
    assert one.success, one
    assert one.truncated
    assert one.stdout.endswith("2000000\\nend\\n")
    info = safesh.get_process_output_info(one.pid)
    assert info["lines"] == 2000001 and info["dropped"] > 0, info
    say("ok")
    """
    environment = {"TMPDIR": str(tmp_path)}
    with caller(code, prefix=("unshare", "--mount", "--propagation", "private"), extra_env=environment) as child:
        assert finished(child).endswith("ok\n")


@every_mode
def test_input_that_nobody_reads_is_no_error_of_the_command(mode: ExecutionMode) -> None:
    data = b"x" * 3_000_000
    with Clock() as took:
        result = execute_command("exec 0<&-; sleep 0.2; echo x", mode, shell=True, input_data=data, timeout=20).wait(20)
    assert (result.success, result.stdout) == (True, "x\n")
    assert took.seconds < 10


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_broken_pipe_is_a_typed_error_and_never_a_signal(handler: Any) -> None:
    code = """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL if sys.argv[1] == "dfl" else signal.SIG_IGN)
    from safesh import StdinClosed
    one = run("exec 0<&-; echo up; sleep 30", BACKGROUND, shell=True)
    assert read_from_process(one.pid, 10) == "up\\n"
    for _ in range(3):
        try:
            write_to_process(one.pid, b"x" * 100_000)
            raise SystemExit("it was taken")
        except StdinClosed:
            pass
    kill_process(one.pid, force=True)
    assert run("true", input_data=b"x" * 1_000_000).success
    say("ok")
    """
    with caller(code, "dfl" if handler == signal.SIG_DFL else "ign") as child:
        assert finished(child).endswith("ok\n")


def test_a_write_after_the_end_is_told() -> None:
    result = execute_command("true", BACKGROUND)
    assert result.wait(10).success
    with pytest.raises(StdinClosed, match="ended"):
        write_to_process(result.pid or 0, "x")
    assert re.search("pid", repr(result))
    wait_until(lambda: result.done)
