"""What the process API says of a command: every field of its result, every refusal by name, every way to give input."""

from __future__ import annotations

import io
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import safesh
from helpers import commands
from helpers.commands import PYTHON, gone, python
from helpers.procs import spawn, wait_until
from safesh import (
    ArgumentsTooLong,
    CommandExecutor,
    CommandFailed,
    CommandNotExecutable,
    CommandNotFound,
    CommandTimeout,
    ConfigError,
    ExecutionMode,
    InvalidCommand,
    SafeshError,
    StopPolicy,
    UndecodableOutput,
    execute_command,
)
from safesh.process.result import ExecutionResult

MODES = tuple(ExecutionMode)
BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = MODES
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def run(command: Any, mode: ExecutionMode = BLOCKING, **options: Any) -> ExecutionResult:
    options.setdefault("timeout", 20)
    result = execute_command(command, mode, **options)
    assert result.wait(25).done
    return result


def same_at_the_end(result: ExecutionResult) -> None:
    """What holds of every result that is complete."""
    assert result.done
    assert isinstance(result.command, list)
    assert re.fullmatch(r"[\w-]{8,}", result.run_id)
    assert abs(result.started_at - time.time()) < 30
    assert result.execution_time is not None
    assert 0 <= result.execution_time < 30
    assert result.success == (result.error is None) == (result.return_code == 0 and not result.timed_out)
    assert result.callback_errors == []
    assert set(result.to_dict()) >= {
        "success", "return_code", "signal", "stdout", "stderr", "pid", "run_id", "command", "started_at",
        "execution_time", "timed_out", "truncated", "error", "usage",
    }  # fmt: skip
    assert repr(result).startswith("ExecutionResult(")


# --- every field -------------------------------------------------------------------------------


@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
def test_every_field_of_a_success(mode: ExecutionMode, contain: str) -> None:
    result = run(["sh", "-c", "echo out; echo err >&2"], mode, contain=contain)
    same_at_the_end(result)
    assert (result.success, result.return_code, result.signal, result.error) == (True, 0, "", None)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.stdout_bytes, result.stderr_bytes) == (b"out\n", b"err\n")
    assert result.command == ["sh", "-c", "echo out; echo err >&2"]
    assert (result.timed_out, result.truncated) == (False, False)
    assert (result.leftovers, result.verdict, result.pipe_holders) == (None, None, [])
    assert result.pid is not None
    assert result.pid > 1
    assert result.check() is result
    gone(result.pid)


@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
def test_a_failure_has_its_code_and_the_last_line_of_stderr(mode: ExecutionMode, contain: str) -> None:
    result = run(["sh", "-c", "echo before >&2; echo why >&2; exit 42"], mode, contain=contain)
    same_at_the_end(result)
    assert (result.success, result.return_code, result.signal) == (False, 42, "")
    assert type(result.error) is CommandFailed
    assert result.error.result is result
    assert result.error.exit_code == 42
    assert str(result.error) == "sh: exited with code 42: why"


@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
def test_an_end_by_a_signal_is_told_by_name_and_as_a_negative_code(mode: ExecutionMode, contain: str) -> None:
    result = run(["sh", "-c", "kill -KILL $$"], mode, contain=contain)
    same_at_the_end(result)
    assert (result.return_code, result.signal) == (-signal.SIGKILL, "SIGKILL")
    assert type(result.error) is CommandFailed
    assert result.error.exit_code == 128 + signal.SIGKILL


@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_is_told_with_the_partial_output(mode: ExecutionMode, contain: str) -> None:
    result = run(["sh", "-c", "echo partial; echo more >&2; exec sleep 60"], mode, contain=contain, timeout=0.6)
    same_at_the_end(result)
    assert (result.success, result.timed_out, result.return_code, result.signal) == (False, True, -15, "SIGTERM")
    assert (result.stdout, result.stderr) == ("partial\n", "more\n")
    assert type(result.error) is CommandTimeout
    assert result.error.timeout == 0.6
    assert result.error.holders == result.pipe_holders
    assert result.verdict is not None
    assert result.verdict.ok
    assert [one.reason for one in result.verdict.asked] == ["SIGTERM"]


@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("case", "error", "code"),
    [
        ("missing", CommandNotFound, 127),
        ("missing path", CommandNotFound, 127),
        ("not executable", CommandNotExecutable, 126),
        ("a folder", CommandNotExecutable, 126),
        ("no interpreter", CommandNotFound, 127),
        ("cwd missing", ConfigError, None),
        ("cwd a file", ConfigError, None),
        ("too long", ArgumentsTooLong, 126),
    ],
)
def test_what_cannot_be_started_is_a_typed_error_in_the_result(
    tmp_path: Path, mode: ExecutionMode, contain: str, case: str, error: type[SafeshError], code: int | None
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/nonexistent/interpreter\n")
    if case == "no interpreter":
        plain.chmod(0o755)
    command: list[str] = {
        "missing": ["no-such-program-anywhere"],
        "missing path": [str(tmp_path / "none")],
        "not executable": [str(plain)],
        "a folder": [str(tmp_path)],
        "no interpreter": [str(plain)],
        "too long": ["true", "x" * (1 << 22)],
    }.get(case, ["true"])
    options = {"cwd missing": {"cwd": tmp_path / "none"}, "cwd a file": {"cwd": str(plain)}}.get(case, {})
    told: list[ExecutionResult] = []
    result = run(command, mode, contain=contain, on_complete=told.append, **options)
    same_at_the_end(result)
    wait_until(lambda: told == [result])
    assert (result.pid, result.return_code, result.success, result.signal) == (None, code, False, "")
    assert type(result.error) is error
    assert (result.stdout, result.stderr) == ("", "")
    assert result.usage.cpu_seconds is None
    with pytest.raises(error):
        result.check()


def test_check_raises_the_typed_error_and_is_silent_about_a_success() -> None:
    assert run("true").check().success
    with pytest.raises(CommandFailed) as failed:
        run("false").check()
    assert failed.value.result.return_code == 1
    with pytest.raises(CommandTimeout):
        run("sleep 60", timeout=0.1).check()
    with pytest.raises(TimeoutError):
        run("sleep 60", timeout=0.1).check()


def test_a_background_result_fills_in_while_the_command_runs() -> None:
    result = execute_command(["sh", "-c", "echo first; read line; echo $line; exit 3"], BACKGROUND)
    wait_until(lambda: result.stdout == "first\n")
    assert (result.done, result.success, result.error, result.return_code) == (False, False, None, None)
    assert "running" in repr(result)
    assert result.wait(0.05) is result
    assert not result.done
    assert result.pid is not None
    safesh.write_to_process(result.pid, "second\n")
    assert result.wait(10).stdout == "first\nsecond\n"
    assert result.return_code == 3


def test_run_ids_differ_and_are_in_the_environment() -> None:
    first, second = run("printenv SAFESH_RUN_ID"), run("printenv SAFESH_RUN_ID")
    assert first.stdout == first.run_id + "\n"
    assert second.stdout == second.run_id + "\n"
    assert first.run_id != second.run_id


@pytest.mark.parametrize("contain", ["session", "keeper"])
def test_usage_counts_the_dead_children_too(contain: str, tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nx = bytearray(60_000_000)"
    result = run(python(f"import os, sys; os.spawnv(0, sys.executable, [sys.executable, '-ISc', {burn!r}])"),
                 contain=contain)  # fmt: skip
    used = result.usage
    assert result.success
    assert used.cpu_seconds is not None
    assert used.user_seconds is not None
    assert used.system_seconds is not None
    assert used.peak_memory_bytes is not None
    assert 0.25 < used.cpu_seconds < 3
    assert used.cpu_seconds == pytest.approx(used.user_seconds + used.system_seconds, abs=1e-5)
    assert 60_000_000 < used.peak_memory_bytes < 200_000_000
    assert used.read_bytes is not None
    assert used.write_bytes is not None


@pytest.mark.parametrize("contain", ["session", "keeper"])
def test_usage_counts_what_a_child_wrote_to_storage(contain: str, tmp_path: Path) -> None:
    target = tmp_path / "written"
    result = run(["sh", "-c", f"dd if=/dev/zero of={target} bs=1M count=4 conv=fsync 2>/dev/null; exit 0"],
                 contain=contain)  # fmt: skip
    if run(["dd", "if=/dev/zero", f"of={target}", "bs=1M", "count=1", "conv=fsync"]).usage.write_bytes == 0:
        pytest.skip("this file system's writes are not accounted")
    assert result.usage.write_bytes is not None
    assert result.usage.write_bytes >= 4 << 20


# --- the command -------------------------------------------------------------------------------


def words(command: str, **options: Any) -> list[str]:
    return [str(one) for one in run(command, encoding=None, **options).stdout.decode().split("\0")[:-1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("'a b' \"c d\" e\\ f", ["a b", "c d", "e f"]),
        ("$HOME `id` $(id) ${X}", ["$HOME", "`id`", "$(id)", "${X}"]),
        ("* ?.py [a-z] ~ {a,b}", ["*", "?.py", "[a-z]", "~", "{a,b}"]),
        ("a; b && c | d > e & f", ["a;", "b", "&&", "c", "|", "d", ">", "e", "&", "f"]),
        ("'' a", ["", "a"]),
        ("a#b # c", ["a#b", "#", "c"]),
        ("A=b", ["A=b"]),
        ("é 'ü ñ'", ["é", "ü ñ"]),
        ("a\nb\tc", ["a", "b", "c"]),
    ],
)
def test_a_string_is_split_as_a_shell_would_and_run_by_none(text: str, expected: list[str]) -> None:
    assert words("printf '%s\\0' " + text) == expected


def test_a_string_is_run_by_a_shell_only_when_told() -> None:
    assert run("echo $((1 + 1)); echo $0", shell=True).stdout == "2\n/bin/sh\n"
    assert run("echo $((1 + 1))").stdout == "$((1 + 1))\n"


def test_paths_and_path_like_arguments_are_taken(tmp_path: Path) -> None:
    assert run(["ls", tmp_path]).success
    assert run(Path("/bin/true")).success
    assert run(("printf", "%s", "tuple")).stdout == "tuple"


def test_a_script_without_an_interpreter_line_runs_as_a_shell_would_run_it(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo plain $1\n")
    script.chmod(0o755)
    assert run([script, "words"]).stdout == "plain words\n"


def test_cwd_and_env_are_the_childs(tmp_path: Path) -> None:
    assert run("pwd", cwd=tmp_path).stdout == f"{tmp_path}\n"
    result = run("env", env={"PATH": os.environ["PATH"], "ONLY": "this"})
    assert set(result.stdout.split()) >= {"ONLY=this", f"SAFESH_RUN_ID={result.run_id}"}
    assert "HOME=" not in result.stdout


BAD: list[tuple[str, Any]] = [
    ("command", ""), ("command", "   "), ("command", []), ("command", 5), ("command", None), ("command", b"true"),
    ("command", "nul\0byte"), ("command", "'unclosed"), ("command", {"a": 1}), ("command", {"true"}),
    ("command[0]", [""]), ("command[0]", [None]), ("command[1]", ["true", 5]), ("command[1]", ["true", "a\0b"]),
    ("command[1]", ["true", ["nested"]]), ("command[1]", ["true", b"a\0b"]),
    ("mode", "background"), ("mode", None), ("mode", 1),
    ("timeout", -1), ("timeout", "soon"), ("timeout", True), ("timeout", float("nan")), ("timeout", [1]),
    ("cwd", ""), ("cwd", 5), ("cwd", "a\0b"), ("cwd", ["x"]),
    ("env", 5), ("env", "A=b"), ("env", ["A=b"]), ("env[5]", {5: "x"}), ("env['A']", {"A": 5}),
    ("env['A=B']", {"A=B": "c"}), ("env['']", {"": "c"}), ("env['A']", {"A": "x\0y"}),
    ("input_data", 5), ("input_data", object()), ("input_data", ["a"]), ("input_data", True),
    ("on_output", 5), ("on_error", "x"), ("on_complete", []), ("on_sample", {}),
    ("encoding", "no-such"), ("encoding", 5), ("encoding", "rot13"), ("encoding", "hex"), ("encoding", "a\0b"),
    ("encoding", True), ("encoding", "undefined"),
    ("errors", "no-such"), ("errors", 5), ("errors", None), ("errors", "xmlcharrefreplace"),
    ("shell", "no"), ("shell", 1), ("shell", None),
    ("pty", "cooked"), ("pty", 2), ("pty", None), ("pty", []),
    ("max_output", -1), ("max_output", 0), ("max_output", "big"), ("max_output", 1.5), ("max_output", True),
    ("max_output", []),
    ("stop", "SIGNOPE"), ("stop", -1), ("stop", True), ("stop", []), ("stop.signal", StopPolicy(signal="SIGNOPE")),
    ("stop.grace", StopPolicy(grace=-1)), ("stop.grace", StopPolicy(grace="x")),  # type: ignore[arg-type]
    ("stop.scope", StopPolicy(scope="all")),  # type: ignore[arg-type]
    ("limits", 5), ("limits", "512MB"), ("limits", []), ("limits['speed']", {"speed": 1}),
    ("limits['memory']", {"memory": "much"}), ("limits['memory']", {"memory": 0}), ("limits['cpu']", {"cpu": 0}),
    ("limits['cpu']", {"cpu": "50"}), ("limits['processes']", {"processes": True}),
    ("limits['max_runtime']", {"max_runtime": -1}), ("limits['max_runtime']", {"max_runtime": 0}),
    ("limits['interval']", {"interval": 0}), ("limits['interval']", {"interval": "often"}), ("limits[5]", {5: 5}),
    ("limits.interval", safesh.Limits(interval=0)),
    ("contain", "tight"), ("contain", None), ("contain", 5), ("contain", []),
    ("logger", 5), ("logger", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), BAD, ids=lambda one: repr(one)[:40])
def test_a_wrong_argument_is_refused_by_name_before_anything_starts(place: str, value: Any) -> None:
    name = re.split(r"[.\[]", place)[0]
    arguments: dict[str, Any] = {"command": ["touch", "/nonexistent/x"], name: value}
    if name == "command":
        arguments["shell"] = False
    for mode in (BLOCKING, BACKGROUND):
        with pytest.raises(InvalidCommand) as refused:
            execute_command(**{"mode": mode, **arguments})
        assert refused.value.place == place
        assert isinstance(refused.value, ValueError)
        assert "\n" not in str(refused.value)


def test_an_unknown_argument_is_refused_with_the_closest_name() -> None:
    for call in (execute_command, CommandExecutor().execute):
        with pytest.raises(InvalidCommand) as refused:
            call("true", timeoutt=5)  # type: ignore[call-arg]
        assert refused.value.place == "timeoutt"
        assert "timeout" in refused.value.hint
    with pytest.raises(InvalidCommand):
        CommandExecutor(tiemout=5)  # type: ignore[call-arg]


def test_shell_takes_a_string_alone() -> None:
    with pytest.raises(InvalidCommand) as refused:
        execute_command(["echo", "x"], shell=True)
    assert refused.value.place == "command"


# --- text and bytes ----------------------------------------------------------------------------


def test_bytes_mode_gives_every_byte_there_is() -> None:
    every = bytes(range(256)) * 300
    result = run("cat", encoding=None, input_data=every)
    assert result.stdout == every
    assert result.stderr == b""
    got: list[bytes] = []
    run("cat", encoding=None, input_data=b"a\0b\n\xff\n", on_output=got.append)
    assert got == [b"a\0b", b"\xff"]


@pytest.mark.parametrize("mode", MODES)
def test_nul_bytes_and_invalid_utf8_are_replaced_and_the_bytes_are_there(mode: ExecutionMode) -> None:
    result = run(["printf", r"a\0b\377c\303"], mode)
    assert result.stdout == "a\0b\ufffdc\ufffd"
    assert result.stdout_bytes == b"a\0b\xffc\xc3"


@pytest.mark.parametrize("mode", MODES)
def test_strict_decoding_fails_typed_with_the_bytes_still_there(mode: ExecutionMode) -> None:
    result = run(["printf", r"good\377"], mode, errors="strict")
    assert result.success
    with pytest.raises(UndecodableOutput) as undecodable:
        _ = result.stdout
    assert "byte 4" in str(undecodable.value)
    assert isinstance(undecodable.value, ValueError)
    assert result.stdout_bytes == b"good\xff"
    assert result.stderr == ""
    assert "good" in repr(result)  # which must not raise, whatever came
    assert result.to_dict()["stdout"].startswith("good")


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_with_undecodable_stderr_still_tells_its_code(mode: ExecutionMode) -> None:
    told: list[str] = []
    done: list[ExecutionResult] = []
    result = run(
        ["sh", "-c", r"printf 'bad\377' >&2; exit 9"],
        mode,
        errors="strict",
        logger=lambda event, _fields: told.append(event),
        on_complete=done.append,
    )
    assert type(result.error) is CommandFailed
    assert result.error.exit_code == 9
    wait_until(lambda: done == [result])
    assert told == ["process_started", "process_ended"]


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "é\n"), ("utf-16-le", "añ€😀\n"), ("shift_jis", "日本\n")])
def test_other_encodings_go_both_ways(encoding: str, text: str) -> None:
    got: list[str] = []
    result = run("cat", encoding=encoding, input_data=text, on_output=got.append)
    assert result.stdout == text
    assert result.stdout_bytes == text.encode(encoding)
    assert got == [text[:-1]]


def test_text_that_the_encoding_cannot_write_is_refused_by_name() -> None:
    with pytest.raises(InvalidCommand) as refused:
        execute_command("cat", encoding="ascii", input_data="é")
    assert refused.value.place == "input_data"


@pytest.mark.parametrize("mode", MODES)
def test_max_output_keeps_the_last_bytes_and_says_so(mode: ExecutionMode) -> None:
    result = run(["sh", "-c", "seq 1 100000; echo end"], mode, max_output=1000)
    assert result.truncated
    assert len(result.stdout_bytes) == 1000
    assert result.stdout.endswith("100000\nend\n")
    whole = run(["sh", "-c", "seq 1 100000; echo end"], mode, max_output=None)
    assert not whole.truncated
    assert whole.stdout_bytes.endswith(result.stdout_bytes)
    exact = run(["printf", "12345"], mode, max_output=5)
    assert (exact.stdout, exact.truncated) == ("12345", False)


# --- input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BLOCKING, BACKGROUND, MONITORED])
@pytest.mark.parametrize(
    "data",
    ["text é", b"bytes \xff\0", bytearray(b"array"), memoryview(b"view"), memoryview(b"a-b-c-")[::2],
     memoryview(bytearray(8)).cast("I"), "", b""],
    ids=["str", "bytes", "bytearray", "memoryview", "strided", "of ints", "no text", "no bytes"],
)  # fmt: skip
def test_input_is_given_as_it_is_and_then_ends(mode: ExecutionMode, data: Any) -> None:
    expected = data.encode() if isinstance(data, str) else bytes(data)
    assert run("cat", mode, input_data=data).stdout_bytes == expected


@pytest.mark.parametrize("mode", MODES)
def test_an_open_file_is_the_childs_input_itself(mode: ExecutionMode, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"from a file\n" * 1000)
    with path.open("rb") as file:
        assert run("cat", mode, input_data=file).stdout_bytes == path.read_bytes()
    with path.open() as text:
        assert run("wc -l", mode, input_data=text).stdout.strip() == "1000"


@pytest.mark.parametrize("mode", [BLOCKING, BACKGROUND, MONITORED])
def test_a_file_without_a_descriptor_is_read_and_given(mode: ExecutionMode) -> None:
    assert run("cat", mode, input_data=io.BytesIO(b"\xff\0in memory")).stdout_bytes == b"\xff\0in memory"
    assert run("cat", mode, input_data=io.StringIO("in memory é")).stdout == "in memory é"
    half = io.BytesIO(b"skipped-taken")
    half.seek(8)
    assert run("cat", mode, input_data=half).stdout == "taken"


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    closed = (tmp_path / "x").open("w")
    closed.close()
    memory = io.BytesIO(b"x")
    memory.close()
    with (tmp_path / "y").open("w") as writing:
        for file in (closed, memory, writing):
            with pytest.raises(InvalidCommand) as refused:
                execute_command("cat", input_data=file)
            assert refused.value.place == "input_data"


def test_without_input_a_blocking_command_reads_its_end_at_once() -> None:
    assert run("cat", timeout=5).success


# --- where the caller itself is odd ------------------------------------------------------------

_ODD = """
import os, sys, signal
sys.path.insert(0, {supervisor!r})
{before}
from safesh import execute_command, ExecutionMode, communicate_with_process, write_to_process
told = []
def check(name, found, wanted):
    if found != wanted:
        told.append(f"{{name}}: {{found!r}} instead of {{wanted!r}}")
SH = ["sh", "-c", "cat; echo err >&2; ls -l /proc/self/fd | wc -l"]
for contain in ("session", "keeper"):
    for pty in (False, True):
        for mode in ExecutionMode:
            interactive = mode is ExecutionMode.INTERACTIVE
            r = execute_command(SH, mode, input_data="in\\n", pty=pty, contain=contain, timeout=20)
            if interactive:
                write_to_process(r.pid, "", close=True)
            r.wait(30)
            name = f"{{mode.name}} {{contain}} pty={{pty}}"
            check(name + " code", r.return_code, 0)
            lines = r.stdout.replace("\\r", "").splitlines()
            check(name + " out", lines[0], "in")
            check(name + " fds", int(lines[-1]) <= 5, True)
            check(name + " err", (lines[1] if pty else r.stderr.strip()), "err")
r = execute_command("cat", ExecutionMode.BACKGROUND)
check("round trip", communicate_with_process(r.pid, "x\\n", 10), "x\\n")
write_to_process(r.pid, "", close=True)
check("cat", r.wait(10).return_code, 0)
{after}
with open({answer!r}, "w") as file:
    file.write("\\n".join(told) or "fine")
"""


def odd_caller(tmp_path: Path, before: str, after: str = "", **options: Any) -> str:
    """What a caller of the API found that has first done something unusual to itself."""
    answer = tmp_path / "answer"
    supervisor = str(Path(safesh.__file__).parent.parent)
    code = _ODD.format(supervisor=supervisor, before=before, after=after, answer=str(answer))
    with spawn(PYTHON, "-Ic", code, **options) as child:
        child.close_stdin()
        code_ = child.wait(50)
        return answer.read_text() if answer.exists() else f"code {code_}: {child.err}"


def test_a_caller_with_its_own_standard_streams_closed(tmp_path: Path) -> None:
    assert odd_caller(tmp_path, "os.closerange(0, 3)") == "fine"


def test_a_caller_with_only_its_stdout_closed(tmp_path: Path) -> None:
    assert odd_caller(tmp_path, "os.close(1)") == "fine"


def test_a_caller_whose_sigpipe_ends_it_is_not_ended_by_a_deaf_child(tmp_path: Path) -> None:
    after = """
from safesh import StdinClosed
r = execute_command(["sh", "-c", "exec <&-; sleep 0.2"], input_data="x" * (1 << 22), timeout=20)
check("deaf", r.return_code, 0)
r = execute_command(["sh", "-c", "exec <&-; echo closed; sleep 60"], ExecutionMode.BACKGROUND)
communicate_with_process(r.pid, "", 10)
try:
    write_to_process(r.pid, "x" * (1 << 20), 10)
    told.append("no StdinClosed")
except StdinClosed:
    pass
from safesh import kill_process
kill_process(r.pid, force=True)
check("disposition", signal.getsignal(signal.SIGPIPE), signal.SIG_DFL)
check("mask", signal.pthread_sigmask(signal.SIG_BLOCK, []), set())
"""
    assert odd_caller(tmp_path, "signal.signal(signal.SIGPIPE, signal.SIG_DFL)", after) == "fine"


def test_the_childs_sigpipe_ends_it_as_from_a_shell() -> None:
    assert run(["sh", "-c", "yes | head -1"], timeout=10).stdout == "y\n"
    assert "pipe" not in run(["bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"]).stderr.lower()


def test_no_descriptor_but_the_standard_three_reaches_a_child() -> None:
    extra = os.open("/dev/null", os.O_RDONLY)
    try:
        for mode in MODES:
            assert run(["sh", "-c", "ls /proc/$$/fd"], mode).stdout.split() == ["0", "1", "2"]
    finally:
        os.close(extra)


def _fill(held: list[int]) -> None:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))


def test_no_descriptors_left_is_a_typed_error_and_nothing_leaks() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with pytest.raises(OSError, match="Too many open files"):
            _fill(held)
        for spare in range(12):
            for mode in (BLOCKING, BACKGROUND):
                result = execute_command(["true"], mode, timeout=10)
                assert result.wait(10).done
                if not result.success:
                    assert type(result.error) is safesh.ResourceError, spare
            os.close(held.pop())
        assert run("true").success
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def test_the_loggers_are_told_of_start_and_end_and_failed_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_line: str) -> None:
        raise ValueError("from the callback")

    with caplog.at_level(logging.INFO, logger="tests.safesh"):
        result = run(["printf", r"1\n2\n"], on_output=broken, logger=logging.getLogger("tests.safesh"))
    assert [str(error) for error in result.callback_errors] == ["from the callback"] * 2
    assert result.success
    events = [record.safesh["event"] for record in caplog.records if hasattr(record, "safesh")]
    assert events == ["process_started", "callback_failed", "callback_failed", "process_ended"]


def test_ctrl_c_in_a_blocking_call_ends_the_tree_first() -> None:
    supervisor = str(Path(safesh.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {supervisor!r}); from safesh import execute_command as e\n"
    code += "e(['sh', '-c', 'sleep 60 & echo $!; wait'], on_output=lambda pid: print(pid, flush=True), **{})\n"
    for options in ("{}", "{'contain': 'keeper'}", "{'limits': {'memory': '1G'}}"):
        with spawn(PYTHON, "-Ic", code.format(options)) as child:
            pid = int(child.wait_line(r"^\d+$").group())
            child.send(signal.SIGINT)
            child.wait(10)
            gone(pid)
            assert "KeyboardInterrupt" in child.err
