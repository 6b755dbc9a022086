"""The process API from many threads at once: every result its own, nothing concluded twice, nobody waits in vain."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import commands
from helpers.campaign import rounds
from helpers.commands import Clock, python
from helpers.procs import wait_until
from safesh import (
    CommandTimeout,
    ExecutionMode,
    NoSuchProcess,
    ResourceError,
    StdinClosed,
    cleanup_finished_processes,
    communicate_with_process,
    execute_command,
    kill_process,
    read_from_process,
    terminate_process,
    write_to_process,
)
from safesh.process import dispatch, loop, registry, streams, trouble

BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = ExecutionMode
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def in_threads(count: int, work: Callable[[int], None], seconds: float = 60.0) -> None:
    """Run ``work(number)`` in so many threads; the first error is raised here."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            barrier.wait(20)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, limit - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


# The first one: where others have just left threads behind, it would have to wait for their end.
def test_a_system_without_a_thread_to_spare_makes_it_slower_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: loop.get().endings._threads == loop.get().callbacks._threads == 1, 40)

    def start(_pool: dispatch.Pool, **_options: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dispatch.Pool, "_start", start)
    got: list[str] = []
    results = [
        execute_command("echo x; sleep 9 & sleep 0.1", BACKGROUND, shell=True, on_output=got.append) for _ in range(5)
    ]
    late = [execute_command("sleep 60", BACKGROUND, timeout=0.3) for _ in range(5)]
    assert all(one.wait(30).done for one in [*results, *late])
    assert got == ["x"] * 5
    assert all(one.timed_out for one in late)
    assert loop.get().endings._threads == loop.get().callbacks._threads == 1


def test_thirty_two_threads_in_all_modes_get_each_their_own_output() -> None:
    def work(number: int) -> None:
        for turn in range(rounds(4, 40)):
            word = f"{number}-{turn}"
            code = f"echo {word}; echo e{word} >&2; exit {number % 7}"
            kind = (number + turn) % 4
            if kind == 0:
                result = execute_command(code, shell=True, timeout=30)
            elif kind == 1:
                result = execute_command(code, BACKGROUND, shell=True, timeout=30).wait(30)
            elif kind == 2:
                lines: list[str] = []
                result = execute_command(
                    "read x; echo $x; echo e$x >&2; exit " + str(number % 7),
                    INTERACTIVE, shell=True, timeout=30, on_output=lines.append,
                )  # fmt: skip
                assert result.pid is not None
                write_to_process(result.pid, word + "\n")
                result.wait(30)
                assert lines == [word]
            else:
                result = execute_command("cat", BACKGROUND, timeout=30)
                assert result.pid is not None
                assert communicate_with_process(result.pid, word + "\n", timeout=20) == word + "\n"
                assert kill_process(result.pid, force=True).ok
                assert (result.wait(10).signal, result.stdout) == ("SIGKILL", word + "\n")
                continue
            assert result.done
            assert (result.stdout, result.stderr, result.return_code) == (f"{word}\n", f"e{word}\n", number % 7)

    in_threads(32, work)


def test_an_answer_is_never_taken_by_the_loop_from_the_conversation_that_waits_for_it() -> None:
    # Each answer is followed by a line nobody asked for: the loop is on its way to that when the next one begins.
    chatter = "import sys\nfor line in sys.stdin:\n print('a' + line, end='', flush=True)\n print('b', flush=True)\n"
    talks = [execute_command(python(chatter), BACKGROUND, timeout=60) for _ in range(6)]

    def work(number: int) -> None:
        pid = talks[number].pid
        assert pid is not None
        for turn in range(rounds(60, 1000)):
            answer = communicate_with_process(pid, f"{turn}\n", timeout=8, until=f"a{turn}\n")
            assert answer.removeprefix("b\n") == f"a{turn}\n"

    in_threads(len(talks), work)


def test_a_conversation_ends_when_another_thread_ends_its_process() -> None:
    result = execute_command("echo up; cat >/dev/null", BACKGROUND, shell=True, timeout=60)
    pid = result.pid
    assert pid is not None
    assert read_from_process(pid, 10) == "up\n"
    answers: list[Any] = []
    talk = threading.Thread(target=lambda: answers.append(communicate_with_process(pid, "x\n", timeout=40)))
    talk.start()
    with Clock() as took:
        kill_process(pid, force=True)
        talk.join(10)
    assert answers == [""]
    assert took.seconds < 5


def test_a_conversation_ends_with_the_run_although_an_outsider_keeps_the_output_open() -> None:
    with Clock() as took:
        result = execute_command("exec sleep 60", BACKGROUND, shell=True)
        assert result.pid is not None
        ours = os.open(f"/proc/{result.pid}/fd/1", os.O_WRONLY)  # we are the outsider
        try:
            waiting = threading.Thread(target=lambda: read_from_process(result.pid or 0, None))
            waiting.start()
            kill_process(result.pid, force=True)
            waiting.join(10)
            assert not waiting.is_alive()
        finally:
            os.close(ours)
    assert result.wait(5).done
    assert took.seconds < 8


def test_twenty_threads_may_wait_for_one_end_and_eight_may_end_it_and_it_is_told_once() -> None:
    told: list[int | None] = []
    result = execute_command("sleep 60", BACKGROUND, on_complete=lambda one: told.append(one.pid))
    pid = result.pid
    assert pid is not None

    def work(number: int) -> None:
        if number < 20:
            assert result.wait(30).done
            return
        try:
            assert (kill_process if number % 2 else terminate_process)(pid, True).ok
        except NoSuchProcess:
            pass  # another one was quicker, and its number is free

    in_threads(28, work)
    assert result.done
    assert told == [pid]


def test_writers_of_one_stdin_lose_and_mix_nothing() -> None:
    result = execute_command("cat", BACKGROUND, timeout=60)
    pid = result.pid
    assert pid is not None

    def work(number: int) -> None:
        for _ in range(20):
            write_to_process(pid, f"{number:02}" * 500 + "\n")

    in_threads(16, work)
    write_to_process(pid, close=True)
    lines = result.wait(20).stdout.splitlines()
    assert sorted(lines) == sorted(f"{number:02}" * 500 for number in range(16) for _ in range(20))


def test_ended_commands_are_not_held_by_their_deadline_an_hour_away() -> None:
    count = rounds(200, 10_000)
    jobs: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        while len(jobs) < count:
            batch = [execute_command("true", BACKGROUND, timeout=3600) for _ in range(20)]
            jobs += [weakref.ref(one._job) for one in batch]
            assert all(one.wait(20).success for one in batch)
            del batch
            cleanup_finished_processes()
        wait_until(lambda: sum(job() is not None for job in jobs) < 10, what="no job to be held")
        assert len(loop.get().timers._entries) < 200
    finally:
        gc.enable()


def test_a_blocking_result_goes_with_its_output_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        kept = [weakref.ref(execute_command("echo x", shell=True)._job) for _ in range(3)]
        kept.append(weakref.ref(execute_command("echo x", shell=True, on_output=lambda _line: None)._job))
        kept.append(weakref.ref(execute_command("echo x", shell=True, contain="keeper")._job))
        wait_until(lambda: [one() for one in kept] == [None] * 5)
    finally:
        gc.enable()


def test_long_outputs_that_nobody_cleaned_up_hold_a_bounded_number_of_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    count = rounds(150, 400)
    for _ in range(count // 10):
        batch = [execute_command("head -c 1300000 /dev/zero", BACKGROUND, max_output=None) for _ in range(10)]
        assert all(one.wait(20).success for one in batch)
    del batch
    wait_until(lambda: len(os.listdir("/proc/self/fd")) - before <= 2 * registry._MOST_FILES)
    assert cleanup_finished_processes() > 50
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_callbacks_that_wait_for_other_commands_do_not_starve_them() -> None:
    """More of them than the pool has threads, and each waits for one whose end is told in the pool."""
    count = loop._CALLBACK_THREADS + 8
    others = [
        execute_command("read x; echo $x", INTERACTIVE, shell=True, timeout=60, on_output=lambda _line: None)
        for _ in range(count)
    ]
    waited: list[bool] = []

    def wait_for(number: int) -> Callable[[str], None]:
        def on_output(_line: str) -> None:
            write_to_process(others[number].pid or 0, "go\n")
            waited.append(others[number].wait(40).done)

        return on_output

    first = [
        execute_command("echo x", BACKGROUND, shell=True, timeout=60, on_output=wait_for(number))
        for number in range(count)
    ]
    assert all(one.wait(40).success for one in first)
    assert waited == [True] * count


def test_a_slow_callback_gets_every_line_although_the_command_has_ended_long_before() -> None:
    got: list[str] = []

    def slow(line: str) -> None:
        if len(got) % 20_000 == 0:
            time.sleep(0.2)
        got.append(line)

    result = execute_command("seq 200000", BACKGROUND, on_output=slow, timeout=60)
    assert result.wait(50).success
    assert got == [str(number) for number in range(1, 200_001)]


def test_a_deadline_holds_although_a_callback_never_comes_back() -> None:
    release = threading.Event()
    result = execute_command(
        "yes", BACKGROUND, on_output=lambda _line: release.wait(30) and None, timeout=0.5, max_output=1 << 16
    )
    try:
        wait_until(lambda: result.done, 5)
        assert result.timed_out
    finally:
        release.set()
    assert isinstance(result.wait(20).error, CommandTimeout)


def test_a_deadline_that_comes_with_the_end_is_told_one_way_or_the_other() -> None:
    results = [execute_command("sleep 0.3", BACKGROUND, timeout=0.29 + 0.002 * number) for number in range(20)]
    for result in results:
        result.wait(20)
        assert result.done
        if result.timed_out:
            assert isinstance(result.error, CommandTimeout)
        else:
            assert result.success


def test_many_deadlines_in_one_moment_are_kept() -> None:
    count = rounds(60, 300)
    results = [
        execute_command("trap '' TERM; sleep 60 & wait; sleep 60", BACKGROUND, shell=True, timeout=3.0, stop=0.2)
        for _ in range(count)
    ]
    for result in results:
        assert result.wait(30).done
        assert (result.timed_out, result.signal) == (True, "SIGKILL")
        assert result.execution_time is not None
        assert result.execution_time < 3 + 0.2 + count * 0.1


def test_trouble_in_the_loop_ends_the_one_command_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    other = execute_command("cat", BACKGROUND, timeout=60)
    real = streams.Stream.take

    def take(self: streams.Stream, data: bytes) -> None:
        if b"trouble" in data:
            raise ValueError("a bug")
        real(self, data)

    monkeypatch.setattr(trouble, "report", lambda: None)
    monkeypatch.setattr(streams.Stream, "take", take)
    result = execute_command("echo trouble; sleep 60", BACKGROUND, shell=True)
    assert isinstance(result.wait(10).error, ResourceError)
    assert result.done
    assert communicate_with_process(other.pid or 0, "x\n") == "x\n"


def test_a_write_to_a_process_that_ends_meanwhile_is_told_and_never_hits_another() -> None:
    def work(_number: int) -> None:
        for _ in range(rounds(5, 40)):
            result = execute_command("true", BACKGROUND, timeout=30)
            try:
                write_to_process(result.pid or 0, b"x" * 100_000, timeout=10)
            except (StdinClosed, NoSuchProcess):
                pass
            assert result.wait(20).success

    cat = execute_command("cat", BACKGROUND, timeout=60)
    in_threads(8, work)
    write_to_process(cat.pid or 0, "all\n", close=True)
    assert cat.wait(10).stdout == "all\n"


@pytest.mark.pidns
def test_a_start_that_breaks_unforeseen_signals_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without a pid must never be "ended": 0 is the session of everybody who came from outside."""
    from safesh.model import StopPolicy
    from safesh.process import beginning, ending, endings, job

    def launch(_job: job.Job, _stdio: Any) -> None:
        raise RuntimeError("a bug")

    def end_runs(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("somebody was to be ended")

    with monkeypatch.context() as patch:
        patch.setattr(beginning, "_launch", launch)
        for module in (ending, endings):
            if hasattr(module, "end_runs"):
                patch.setattr(module, "end_runs", end_runs)
        for mode in ExecutionMode:
            with pytest.raises(RuntimeError, match="a bug"):
                execute_command("true", mode)
    for pid in (0, 1):
        with pytest.raises(ValueError, match="no run is led"):
            ending.end_runs([ending.Mark(pid, 0, "x")], StopPolicy())
    assert registry.running() == []
