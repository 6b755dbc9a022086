"""Output and input of commands: no order of writing and reading locks up, at any size; callbacks can do no harm."""

from __future__ import annotations

import hashlib
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import campaign, commands
from helpers.commands import Clock, gone, python
from helpers.procs import alive, start_of, wait_until
from safesh import (
    CommandTimeout,
    ExecutionMode,
    InvalidCommand,
    StdinClosed,
    cleanup_finished_processes,
    communicate_with_process,
    execute_command,
    get_process_output_info,
    kill_process,
    read_from_process,
    terminate_process,
    write_to_process,
)
from safesh.process.result import ExecutionResult

MODES = tuple(ExecutionMode)
BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = MODES
pytestmark = pytest.mark.timeout(180)
MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def run(command: Any, mode: ExecutionMode = BLOCKING, **options: Any) -> ExecutionResult:
    options.setdefault("timeout", 60)
    result = execute_command(command, mode, **options)
    assert result.wait(70).done
    return result


def start(command: Any, mode: ExecutionMode = BACKGROUND, **options: Any) -> tuple[int, ExecutionResult]:
    options.setdefault("timeout", 60)
    result = execute_command(command, mode, **options)
    assert result.pid is not None, result.error
    return result.pid, result


def numbers(size: int) -> bytes:
    """Bytes of which no two stretches are alike, so that a lost or moved one is noticed; lines of 17."""
    return b"".join(b"%016x\n" % at for at in range(size // 17 + 1))[:size]


# --- any size, any order -----------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_gigabyte_goes_through_cat_unchanged() -> None:
    size = campaign.rounds(64, 1024) * MIB
    data = numbers(64 * MIB) * (size // (64 * MIB))
    result = run("cat", input_data=data, encoding=None, max_output=None, timeout=300)
    assert result.success
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("mode", [BACKGROUND, MONITORED])
def test_as_input_data_it_goes_through_the_loop_unchanged(mode: ExecutionMode) -> None:
    data = numbers(32 * MIB)
    assert run("cat", mode, input_data=data, encoding=None).stdout == data


@pytest.mark.timeout(600)
def test_written_whole_and_then_read_whole_nothing_locks_up() -> None:
    data = numbers(32 * MIB) * campaign.rounds(1, 16)
    pid, result = start("cat", encoding=None, max_output=None, timeout=300)
    assert write_to_process(pid, data, 200) == len(data)
    assert write_to_process(pid, close=True) == 0
    read = hashlib.sha256()
    while part := read_from_process(pid, 60, size=MIB):
        read.update(part)
    assert read.digest() == hashlib.sha256(data).digest()
    assert result.wait(20).success


def test_read_before_anything_is_written() -> None:
    pid, _result = start("cat")
    with Clock() as took:
        assert read_from_process(pid, 0.3) == ""
    assert 0.28 < took.seconds < 1
    timer = threading.Timer(0.2, write_to_process, (pid, "later\n"))
    timer.start()
    assert read_from_process(pid, 10) == "later\n"
    timer.join()


def test_a_reader_that_waits_for_ever_wakes_at_the_end_of_the_output() -> None:
    pid, result = start(["sh", "-c", "sleep 0.3"])
    assert read_from_process(pid, None) == ""
    assert result.wait(5).success


@pytest.mark.parametrize("pty", [False, "raw"])
def test_a_child_that_never_reads_its_input_holds_nobody(pty: Any) -> None:
    big = b"x" * (4 * MIB)
    with Clock() as took:
        result = run(["sh", "-c", "echo deaf; sleep 0.3"], input_data=big, pty=pty, timeout=20)
    assert result.success
    assert result.stdout.strip() == "deaf"
    assert took.seconds < 5
    pid, other = start(["sh", "-c", "sleep 60"], pty=pty)
    with pytest.raises(CommandTimeout, match="the rest is queued"):
        write_to_process(pid, big, 0.2)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            write_to_process(pid, big, 30)
        except StdinClosed as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert kill_process(pid, force=True).ok
    writer.join(10)
    assert not writer.is_alive()
    assert len(failed) == 1  # what was never taken is never said to be
    assert other.wait(5).signal == "SIGKILL"


@pytest.mark.parametrize("mode", [BLOCKING, BACKGROUND])
def test_a_child_that_closes_its_input_early_ends_as_it_likes(mode: ExecutionMode) -> None:
    result = run(["sh", "-c", "head -c 5; exec <&-; sleep 0.2; echo; echo on"], mode, input_data=b"x" * (4 * MIB))
    assert result.success
    assert result.stdout == "xxxxx\non\n"


def test_writing_to_closed_input_is_a_typed_error() -> None:
    pid, result = start(["sh", "-c", "exec <&-; echo closed; sleep 60"])
    assert communicate_with_process(pid) == "closed\n"
    with pytest.raises(StdinClosed):
        write_to_process(pid, b"x" * MIB, 10)
    with pytest.raises(StdinClosed):
        communicate_with_process(pid, "x\n", 10)
    assert not result.done
    fed, _ = start("cat", input_data="all there is")
    with pytest.raises(StdinClosed):
        write_to_process(fed, "more")


@pytest.mark.parametrize("pty", [False, "raw"])
def test_a_child_that_writes_without_end_does_not_keep_us_from_writing(pty: Any) -> None:
    # It reads one line for each megabyte that it writes: who only wrote, or only read, would wait for ever.
    code = "import sys\nfor line in sys.stdin: sys.stdout.write(line[:1] * (1 << 20)); sys.stdout.flush()"
    lines = 24
    pid, result = start(python(code), pty=pty, encoding=None, max_output=None)
    data = (b"y" * 999 + b"\n") * lines
    assert write_to_process(pid, data, 60) == len(data)
    wait_until(lambda: get_process_output_info(pid)["size"] == lines * MIB, 60)
    assert read_from_process(pid) == b"y" * (lines * MIB)
    terminate_process(pid)
    assert result.wait(5).done


@pytest.mark.parametrize("mode", MODES)
def test_both_outputs_flooding_at_once_are_kept_apart_and_whole(mode: ExecutionMode) -> None:
    code = "import os\nfor _ in range(200): os.write(1, b'o' * 65536); os.write(2, b'e' * 65536)"
    result = run(python(code), mode, encoding=None)
    assert result.success
    assert (len(result.stdout), len(result.stderr)) == (200 << 16, 200 << 16)
    assert (set(result.stdout), set(result.stderr)) == ({ord("o")}, {ord("e")})


def test_a_raw_terminal_changes_no_byte_in_either_direction() -> None:
    size = campaign.rounds(8, 64) * MIB
    data = (bytes(range(256)) * 4096)[:MIB] * (size // MIB)
    code = f"import os, sys\nleft = {size}\nwhile left:\n    d = os.read(0, min(left, 65536)); left -= len(d)\n"
    code += "    while d: d = d[os.write(1, d):]"
    result = run(python(code), pty="raw", input_data=data, encoding=None, timeout=150)
    assert result.success
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_a_raw_terminal_is_given_nothing_that_was_not_written() -> None:
    code = "import os, select\nos.read(0, 100); select.select([0], [], [], 0.3)[0] and print(os.read(0, 100))"
    assert run(python(code), pty="raw", input_data=b"abc", encoding=None).stdout == b""


@campaign.thinned()
@pytest.mark.parametrize("mode", [BLOCKING, BACKGROUND])
@pytest.mark.parametrize(
    "text", ["", "one\n", "one\ntwo", "line\n" * 20000], ids=["none", "line", "no newline", "many"]
)
def test_a_terminals_input_ends_also_when_its_reader_is_late(mode: ExecutionMode, text: str) -> None:
    result = run(["sh", "-c", "sleep 0.3; cat | wc -c"], mode, pty=True, input_data=text, timeout=20)
    assert result.success, result
    assert result.stdout.strip() == str(len(text))


def test_a_terminal_is_one_for_the_child_and_tells_lines() -> None:
    got: list[str] = []
    result = run(["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size; read x; echo got $x; echo err >&2"],
                 pty=True, input_data="word\n", on_output=got.append)  # fmt: skip
    assert result.success
    assert got == ["24 80", "got word", "err"]
    assert result.stdout == "24 80\r\ngot word\r\nerr\r\n"
    pid, talk = start("cat", pty=True)
    for number in range(200):
        assert communicate_with_process(pid, f"{number}\n") == f"{number}\r\n"
    write_to_process(pid, close=True)
    assert talk.wait(10).return_code == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_command_that_closes_its_terminal_before_it_exits_is_not_hung_up(mode: ExecutionMode) -> None:
    result = run(["sh", "-c", "echo done; exec <&- >&- 2>&-; sleep 0.2; exit 4"], mode, pty=True)
    assert (result.return_code, result.signal) == (4, "")


def test_ctrl_c_typed_at_a_terminal_interrupts() -> None:
    pid, result = start(["sh", "-c", "echo up; exec sleep 60"], pty=True)
    assert communicate_with_process(pid) == "up\r\n"
    write_to_process(pid, "\x03")
    assert result.wait(10).signal == "SIGINT"


@campaign.thinned()
@pytest.mark.parametrize("mode", [BLOCKING, INTERACTIVE])
@pytest.mark.parametrize("callback", [False, True])
def test_a_line_of_a_hundred_megabytes(mode: ExecutionMode, callback: bool) -> None:
    size = campaign.rounds(20, 100) * 1000 * 1000
    got: list[int] = []
    code = f"import sys\nfor _ in range(100): sys.stdout.write('z' * ({size} // 100))\nprint()"
    with Clock() as took:
        result = run(python(code), mode, on_output=(lambda line: got.append(len(line))) if callback else None)
    assert result.success
    assert len(result.stdout_bytes) == size + 1
    assert got == ([size] if callback else [])
    assert took.seconds < 30


# --- the spool ---------------------------------------------------------------------------------


def test_background_output_can_be_read_at_any_time_also_after_the_end() -> None:
    pid, result = start(["sh", "-c", "echo one; read x; echo two; read x; printf three"])
    wait_until(lambda: get_process_output_info(pid)["lines"] == 1)
    assert get_process_output_info(pid) == {"size": 4, "lines": 1, "dropped": 0, "unread": 4}
    assert read_from_process(pid, 5) == "one\n"
    assert read_from_process(pid) == ""
    write_to_process(pid, "x\n")
    assert read_from_process(pid, 5) == "two\n"
    write_to_process(pid, "x\n")
    assert result.wait(5).success
    assert get_process_output_info(pid) == {"size": 13, "lines": 2, "dropped": 0, "unread": 5}
    assert read_from_process(pid) == "three"
    assert read_from_process(pid, 1) == ""
    assert result.stdout == "one\ntwo\nthree"


def test_the_spool_is_bounded_and_tells_what_was_dropped() -> None:
    pid, result = start(["sh", "-c", "seq 1 500000 >&2; seq 1 500000"], max_output="100K")
    assert result.wait(30).success
    whole = "".join(f"{number}\n" for number in range(1, 500001))
    for stream in ("stdout", "stderr"):
        info = get_process_output_info(pid, stream=stream)
        kept = 100 * 1024
        assert info == {"size": len(whole), "lines": 500000, "dropped": len(whole) - kept, "unread": kept}
        assert read_from_process(pid, stream=stream) == whole[-kept:]
    assert result.truncated


def test_memory_stays_bounded_while_a_child_floods_its_spool() -> None:
    pid, _result = start(["sh", "-c", "exec yes"], max_output="64M")
    before = resident()
    wait_until(lambda: get_process_output_info(pid)["size"] > 300 * MIB, 60)
    assert resident() - before < 48 * MIB
    assert kill_process(pid, force=True).ok


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# --- conversations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "answer"),
    [
        ("\n", "a1\n"),
        ("b", "a1\nb"),
        (b"2\nc", "a1\nb2\nc"),
        (re.compile(r"\w\d\nc\d"), "a1\nb2\nc3"),
        (re.compile(rb"b(\d)"), "a1\nb2"),
        (lambda text: "c3" in text, "a1\nb2\nc3\nd4"),
        (None, "a1\nb2\nc3\nd4"),
    ],
    ids=["newline", "text", "bytes", "pattern", "pattern of bytes", "function", "the end"],
)
def test_an_answer_goes_up_to_its_end_and_no_byte_more(until: Any, answer: str) -> None:
    pid, result = start(["sh", "-c", r"read x; printf 'a1\nb2\nc3\nd4'; read x"])
    wait_until(lambda: not result.done)
    found = communicate_with_process(pid, "go\n", 10, until, close=until is None)
    assert found == answer
    rest = "a1\nb2\nc3\nd4".removeprefix(answer)
    got = ""
    while len(got) < len(rest):
        got += read_from_process(pid, 5)
    assert got == rest
    assert result.stdout == "a1\nb2\nc3\nd4"


def test_an_answer_after_undecodable_bytes_ends_at_its_very_byte() -> None:
    pid, _result = start(["sh", "-c", r"printf '\377\376\303ok\nrest\n'; read x"])
    assert communicate_with_process(pid, until=re.compile("ok\n")) == "\ufffd\ufffd\ufffdok\n"
    assert read_from_process(pid, 5) == "rest\n"


@pytest.mark.parametrize("until", ["never", re.compile("never"), lambda _text: False])
def test_what_came_before_a_timeout_stays_unread(until: Any) -> None:
    pid, _result = start(["sh", "-c", "echo early; read x; echo late; read x"])
    with Clock() as took, pytest.raises(CommandTimeout) as late:
        communicate_with_process(pid, timeout=0.4, until=until)
    assert 0.3 < took.seconds < 1.5
    assert late.value.timeout == 0.4
    assert get_process_output_info(pid)["unread"] == 6
    assert communicate_with_process(pid, "x\n", 5, until="late\n") == "early\nlate\n"


def test_what_came_before_a_failing_condition_stays_unread() -> None:
    def broken(_text: str) -> bool:
        raise ZeroDivisionError

    pid, _result = start(["sh", "-c", "echo early; read x"])
    wait_until(lambda: get_process_output_info(pid)["unread"] == 6)
    with pytest.raises(ZeroDivisionError):
        communicate_with_process(pid, timeout=5, until=broken)
    assert read_from_process(pid, 5) == "early\n"


def test_an_output_that_ends_before_the_answer_is_returned_as_it_is() -> None:
    pid, _result = start(["sh", "-c", "printf half"])
    with Clock() as took:
        assert communicate_with_process(pid, timeout=20) == "half"
    assert took.seconds < 5


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("until", {"until": 5}), ("until", {"until": ""}), ("until", {"until": []}), ("data", {"data": 5}),
        ("timeout", {"timeout": -1}), ("timeout", {"timeout": "soon"}), ("pid", {"pid": "1"}), ("pid", {"pid": -5}),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_a_conversation_is_refused_by_name(place: str, options: dict[str, Any]) -> None:
    pid, _result = start("cat")
    with pytest.raises(InvalidCommand) as refused:
        communicate_with_process(**{"pid": pid, **options})
    assert refused.value.place == place


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("timeout", lambda pid: read_from_process(pid, -1)),
        ("timeout", lambda pid: read_from_process(pid, "x")),  # type: ignore[arg-type]
        ("stream", lambda pid: read_from_process(pid, stream="stdin")),
        ("size", lambda pid: read_from_process(pid, size="1")),  # type: ignore[arg-type]
        ("size", lambda pid: read_from_process(pid, size=True)),
        ("stream", lambda pid: get_process_output_info(pid, stream="")),
        ("data", lambda pid: write_to_process(pid, 5)),  # type: ignore[arg-type]
        ("data", lambda pid: write_to_process(pid, None)),  # type: ignore[arg-type]
        ("timeout", lambda pid: write_to_process(pid, "x", True)),
    ],
)
def test_a_wrong_argument_of_reading_and_writing_is_refused_by_name(place: str, call: Any) -> None:
    pid, _result = start("cat")
    with pytest.raises(InvalidCommand) as refused:
        call(pid)
    assert refused.value.place == place


@campaign.thinned()
@pytest.mark.parametrize(("encoding", "text"), [("utf-8", "aé€😀z" * 40), ("utf-16-le", "aé€😀z" * 40),
                                                ("shift_jis", "日a本z" * 40)])  # fmt: skip
@pytest.mark.parametrize("size", [-1, 1, 3, 7])
def test_characters_are_not_torn_between_reads(encoding: str, text: str, size: int) -> None:
    code = "import os, sys, time\nfor b in bytes.fromhex(sys.argv[1]): os.write(1, bytes([b])); sys.stdin.read(1)"
    pid, result = start([*python(code), text.encode(encoding).hex()], encoding=encoding)
    got = ""
    total = len(text.encode(encoding))
    for at in range(total):
        wait_until(lambda at=at: get_process_output_info(pid)["size"] > at)  # type: ignore[misc]
        got += read_from_process(pid, size=size)
        write_to_process(pid, b".")
    assert result.wait(10).success
    while part := read_from_process(pid, size=size):
        got += part
    assert got == text


def test_the_torn_end_of_an_output_is_given_at_the_end() -> None:
    pid, result = start(["printf", r"ok\303"])
    assert result.wait(5).done
    assert read_from_process(pid) == "ok\ufffd"


# --- callbacks ---------------------------------------------------------------------------------


def test_lines_are_called_back_while_data_is_written() -> None:
    got: list[str] = []
    errors: list[str] = []
    done: list[ExecutionResult] = []
    script = "while read x; do echo out $x; echo err $x >&2; done"
    pid, result = start(["sh", "-c", script], INTERACTIVE, on_output=got.append, on_error=errors.append,
                        on_complete=done.append)  # fmt: skip
    for number in range(50):
        write_to_process(pid, f"{number}\n")
        wait_until(lambda number=number: len(got) == number + 1)  # type: ignore[misc]
    write_to_process(pid, close=True)
    assert result.wait(10).success
    assert got == [f"out {number}" for number in range(50)]
    assert errors == [f"err {number}" for number in range(50)]
    assert done == [result]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_line_needs_no_newline_and_empty_lines_count(mode: ExecutionMode) -> None:
    got: list[str] = []
    assert run(["printf", r"one\r\n\n\ntwo"], mode, on_output=got.append).success
    assert got == ["one", "", "", "two"]


@campaign.thinned()
@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
def test_a_callback_that_raises_is_told_and_kills_nothing(mode: ExecutionMode, contain: str) -> None:
    got: list[str] = []
    events: list[str] = []

    def fragile(line: str) -> None:
        got.append(line)
        if line == "2":
            raise ValueError("two")

    def exits(_result: ExecutionResult) -> None:
        raise RuntimeError("at the end")

    result = run(["sh", "-c", "echo 1; echo 2; echo 3"], mode, on_output=fragile, on_complete=exits, contain=contain,
                 logger=lambda event, _fields: events.append(event))  # fmt: skip
    wait_until(lambda: len(result.callback_errors) == 2)
    assert got == ["1", "2", "3"]
    assert result.success
    assert [str(error) for error in result.callback_errors] == ["two", "at the end"]
    assert sorted(events) == ["callback_failed", "callback_failed", "process_ended", "process_started"]


@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
def test_a_callback_that_calls_exit_ends_nothing_either(mode: ExecutionMode) -> None:
    got: list[str] = []

    def leaves(line: str) -> None:
        got.append(line)
        sys.exit(3)

    result = run(["sh", "-c", "echo 1; echo 2"], mode, on_output=leaves, timeout=20)
    assert got == ["1", "2"]
    assert result.success
    assert [type(error) for error in result.callback_errors] == [SystemExit, SystemExit]


@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
def test_a_slow_callback_holds_its_child_back_and_nobody_else(mode: ExecutionMode) -> None:
    gate = threading.Event()
    seen: list[int] = []
    size = campaign.rounds(16, 64) * 1000 * 1000

    def slow(_line: str) -> None:
        seen.append(1)
        gate.wait(60)

    slow_pid, slow_result = start(["sh", "-c", f"yes 0123456789abcdef | head -c {size}"], mode, on_output=slow)
    try:
        wait_until(lambda: seen)
        for _ in range(5):
            got: list[str] = []
            assert run(["echo", "quick"], mode, on_output=got.append).success
            assert got == ["quick"]
        sizes = [0, -1]

        def holds_still() -> bool:
            time.sleep(0.1)
            sizes.append(get_process_output_info(slow_pid)["size"])
            return sizes[-1] == sizes[-2]

        wait_until(holds_still)
        assert sizes[-1] < 8 * MIB
        assert not slow_result.done
    finally:
        gate.set()
    assert slow_result.wait(60).success
    assert len(seen) == size // 17 + 1
    assert slow_result.stdout_bytes == (b"0123456789abcdef\n" * (size // 17 + 1))[:size]


def test_twenty_stuck_callbacks_do_not_keep_another_from_being_called() -> None:
    gate = threading.Event()
    stuck: list[str] = []

    def hang(line: str) -> None:
        stuck.append(line)
        gate.wait(60)

    try:
        held = [start(["echo", str(number)], INTERACTIVE, on_output=hang)[1] for number in range(20)]
        got: list[str] = []
        result = execute_command(["echo", "free"], INTERACTIVE, on_output=got.append)
        assert result.wait(30).success
        assert got == ["free"]
        assert len(stuck) >= 16
    finally:
        gate.set()
    assert all(one.wait(20).success for one in held)


@campaign.thinned()
@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
@pytest.mark.parametrize("contain", ["session", "keeper"])
def test_a_callback_may_talk_to_its_own_process(mode: ExecutionMode, contain: str) -> None:
    got: list[str] = []
    box: list[ExecutionResult] = []
    told = threading.Event()

    def answer(line: str) -> None:
        assert told.wait(10)
        pid = box[0].pid
        assert pid is not None
        got.append(line)
        read_from_process(pid)
        if line == "name?":
            write_to_process(pid, "x" * 300_000 + "\n")
        elif line == "ready":
            got.append(communicate_with_process(pid, "question\n", 5))
            box[0].wait()  # which would wait for itself
            assert not box[0].done
        elif line == "end?":
            write_to_process(pid, "yes\n", close=True)

    code = "print('name?', flush=True); x = input(); print('ready', flush=True); print(input().upper(), flush=True)\n"
    code += "print('end?', flush=True); print(input(), len(x))"
    with Clock() as took:
        result = execute_command(python(code), mode, on_output=answer, timeout=20, contain=contain)
        box.append(result)
        told.set()
        assert result.wait(20).success
    assert took.seconds < 10
    assert result.callback_errors == []
    assert got[:3] == ["name?", "ready", "QUESTION\n"]
    assert got[-2:] == ["end?", "yes 300000"]


@campaign.thinned()
@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_callback_may_end_its_own_process(mode: ExecutionMode, how: str, contain: str) -> None:
    verdicts: list[Any] = []
    seconds: list[float] = []

    def end(line: str) -> None:
        with Clock() as took:
            pid = int(line)
            verdicts.append(terminate_process(pid) if how == "terminate" else kill_process(pid, force=True))
        seconds.append(took.seconds)

    with Clock() as took:
        result = run(["sh", "-c", "sleep 60 & echo $$; wait"], mode, on_output=end, contain=contain, timeout=30)
    assert result.callback_errors == []
    assert result.signal == ("SIGTERM" if how == "terminate" else "SIGKILL")
    assert took.seconds < 4
    assert seconds[0] < 3
    assert verdicts[0].ok
    assert not result.timed_out


def test_a_blocking_callback_that_writes_is_told_that_the_input_is_closed() -> None:
    errors: list[BaseException] = []

    def write(line: str) -> None:
        for call in (lambda: write_to_process(int(line), "x"), lambda: communicate_with_process(int(line), "x")):
            try:
                call()
            except Exception as error:
                errors.append(error)

    assert run(["sh", "-c", "echo $$; cat"], on_output=write, timeout=10).success
    assert [type(error).__name__ for error in errors] == ["StdinClosed", "NotManaged"]


@campaign.thinned()
@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("command", [["true"], ["false"], ["no-such-program"], ["sleep", "60"]], ids=lambda c: c[0])
def test_on_complete_gets_the_complete_result_exactly_once(
    mode: ExecutionMode, contain: str, command: list[str]
) -> None:
    told: list[tuple[ExecutionResult, bool, Any, Any]] = []

    def complete(result: ExecutionResult) -> None:
        told.append((result, result.done, result.return_code, result.execution_time))

    result = run(command, mode, on_complete=complete, contain=contain, timeout=0.5 if command[0] == "sleep" else 20)
    wait_until(lambda: told)
    cleanup_finished_processes()
    assert told == [(result, True, result.return_code, result.execution_time)]
    assert result.execution_time is not None
    time.sleep(0.05)
    assert len(told) == 1


# --- nothing spins -----------------------------------------------------------------------------


@campaign.thinned()
@pytest.mark.parametrize("contain", ["session", "keeper"])
@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_waiting_costs_no_processor_time(mode: ExecutionMode, pty: bool, contain: str) -> None:
    with Clock() as took:
        result = execute_command("sleep 1", mode, pty=pty, contain=contain, timeout=30)
        began = time.process_time()
        result.wait(10)
    assert result.success
    assert took.seconds >= 1
    # MONITORED takes a sample a second, and each start has its price; a loop that spins would take all of it.
    assert time.process_time() - began < 0.05
    assert took.cpu < 0.1


def test_a_conversation_that_waits_costs_no_processor_time() -> None:
    pid, _result = start("cat")
    with Clock() as took:
        assert read_from_process(pid, 1.0) == ""
    assert took.cpu < 0.02


def test_a_child_that_closed_its_outputs_is_waited_for_without_spinning() -> None:
    for mode in MODES:
        with Clock() as took:
            assert run(["sh", "-c", "exec >&- 2>&- <&-; sleep 1"], mode).success
        assert took.cpu < 0.1


def test_fifty_idle_processes_cost_no_processor_time() -> None:
    pids = [start("cat")[0] for _ in range(50)]
    births = [start_of(pid) for pid in pids]
    with Clock() as took:
        time.sleep(1.0)
    assert took.cpu < 0.02
    assert all(alive(pid, birth) for pid, birth in zip(pids, births, strict=True))
    for pid in pids:
        write_to_process(pid, close=True)
    gone(*pids)
