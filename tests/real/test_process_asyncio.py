"""The process API inside asyncio: awaited, cancelled whole, streamed, beside asyncio's own processes."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import commands
from helpers.callers import caller, finished
from helpers.campaign import rounds
from helpers.commands import Clock, gone, python
from helpers.procs import wait_until
from safesh import (
    CommandExecutor,
    CommandTimeout,
    ExecutionMode,
    InvalidCommand,
    StdinClosed,
    aexecute_command,
    astream_command,
)
from safesh.process import registry

BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = ExecutionMode
pytestmark = pytest.mark.timeout(60)

# A tree of four, one of them in a session of its own; each writes its pid to the file.
TREE = (
    'echo $$ >>"$0"; trap "" TERM; (echo $(sh -c "echo \\$PPID") >>"$0"; sleep 60) & '
    'setsid sh -c \'echo $$ >>"$0"; sleep 60\' "$0" & sh -c \'echo $$ >>"$0"; sleep 60; :\' "$0"'
)


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    try:
        import uvloop
    except ImportError:
        pass
    else:  # it keeps a pipe for the program's life
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.sleep(0))
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def uvloops() -> Callable[[], asyncio.AbstractEventLoop]:
    uvloop = pytest.importorskip("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


Go = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Go:
    """Run a coroutine to its end, in either event loop."""
    factory = uvloops() if request.param == "uvloop" else asyncio.new_event_loop

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, 50))

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[], list[int]]:
    """The pids of the tree, once it is whole."""
    path = tmp_path / "pids"
    path.touch()

    def pids() -> list[int]:
        return [int(word) for word in path.read_text().split()]

    return pids


async def whole(tree: Callable[[], list[int]]) -> list[int]:
    async with asyncio.timeout(10):
        while len(tree()) < 4:
            await asyncio.sleep(0.01)
    return tree()


def command_of(tree: Callable[[], list[int]], tmp_path: Path) -> list[str]:
    return ["sh", "-c", TREE, os.fspath(tmp_path / "pids")]


def test_a_hundred_gathered_commands_give_each_their_own_and_the_event_loop_goes_on(go: Go) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        threads = threading.active_count()
        results = await asyncio.gather(
            *(aexecute_command(f"sleep 0.2; echo {n}; exit {n}", shell=True, timeout=40) for n in range(100))
        )
        ticking.cancel()
        assert [(one.stdout, one.return_code) for one in results] == [(f"{n}\n", n) for n in range(100)]
        assert ticks >= 5
        assert threading.active_count() <= threads + 40  # the pools' bound, and no thread for each

    go(main())


def test_a_cancelled_command_is_gone_with_its_tree_before_the_cancellation_goes_on(
    go: Go, tree: Callable[[], list[int]], tmp_path: Path
) -> None:
    async def main() -> None:
        task = asyncio.create_task(aexecute_command(command_of(tree, tmp_path), stop=0.2))
        pids = await whole(tree)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone(*pids, deadline=0.0)
        assert not registry.running()

    go(main())


def test_a_timeout_of_asyncio_ends_the_tree_before_it_is_told(
    go: Go, tree: Callable[[], list[int]], tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await aexecute_command(command_of(tree, tmp_path), stop=0.1)
        assert len(tree()) == 4
        gone(*tree(), deadline=0.0)

    go(main())


def test_a_second_cancellation_leaves_nobody_behind_either(
    go: Go, tree: Callable[[], list[int]], tmp_path: Path
) -> None:
    async def main() -> None:
        task = asyncio.create_task(aexecute_command(command_of(tree, tmp_path), stop=0.5))
        pids = await whole(tree)
        for _ in range(4):
            task.cancel()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await task
        gone(*pids, deadline=0.0)

    go(main())


@pytest.mark.parametrize("contain", ["session", "keeper"])
def test_a_failed_sibling_in_a_task_group_takes_the_command_along(
    go: Go, contain: Any, tree: Callable[[], list[int]], tmp_path: Path
) -> None:
    async def fail() -> None:
        await whole(tree)
        raise ValueError("the sibling")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(aexecute_command(command_of(tree, tmp_path), stop=0.1, contain=contain))
                group.create_task(fail())
        assert [type(one) for one in caught.value.exceptions] == [ValueError]
        gone(*tree(), deadline=0.0)

    go(main())


def test_a_start_with_a_keeper_or_a_terminal_does_not_hold_up_the_event_loop(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safesh.process import beginning, job

    real = beginning._launch

    def slow(one: job.Job, stdio: tuple[int, int, int]) -> None:
        time.sleep(0.3)
        real(one, stdio)

    monkeypatch.setattr(beginning, "_launch", slow)

    async def main() -> None:
        running = asyncio.gather(
            aexecute_command("echo x", contain="keeper", timeout=20), aexecute_command("echo x", pty=True, timeout=20)
        )
        gap = 0.0
        while not running.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            gap = max(gap, time.monotonic() - began)
        assert [one.stdout.strip() for one in await running] == ["x", "x"]
        assert gap < 0.25

    go(main())


def test_a_start_that_is_cancelled_leaves_nothing(go: Go, tmp_path: Path) -> None:
    async def main() -> None:
        for delay in range(rounds(8, 60)):
            task = asyncio.create_task(aexecute_command("sleep 60", contain="keeper", stop=0.1))
            await asyncio.sleep(delay * 0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not registry.running()

    go(main())


def test_a_deadline_and_an_exit_code_are_told_as_everywhere(go: Go) -> None:
    async def main() -> None:
        result = await aexecute_command("echo so far; sleep 60", shell=True, timeout=0.5)
        assert (result.timed_out, result.stdout) == (True, "so far\n")
        assert isinstance(result.error, CommandTimeout)
        result = await aexecute_command("exit 7", shell=True)
        assert result.return_code == 7
        with pytest.raises(InvalidCommand):
            await aexecute_command("true", tymeout=3)  # type: ignore[call-arg]
        assert (await aexecute_command("not-there-at-all")).return_code == 127

    go(main())


def test_background_commands_return_at_once_and_the_executor_ends_them() -> None:
    async def main() -> None:
        with CommandExecutor() as run, Clock() as took:
            results = [await run.aexecute("sleep 60", BACKGROUND) for _ in range(5)]
            assert took.seconds < 5
            assert len(run.running) == 5
        assert all(one.done for one in results)

    asyncio.run(main())


def test_an_event_loop_that_is_closed_while_a_command_runs_ends_it() -> None:
    event_loop = asyncio.new_event_loop()
    task = event_loop.create_task(aexecute_command("sleep 60", stop=0.1))
    wait_until(lambda: event_loop.run_until_complete(asyncio.sleep(0.01)) or registry.running())
    pid = registry.running()[0].pid
    event_loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coroutine = task.get_coro()
        assert coroutine is not None
        coroutine.close()  # what the interpreter does when nobody knows it any more
        del task, coroutine
        gc.collect()
    gone(pid, deadline=5)
    wait_until(lambda: not registry.running())


def test_asyncio_run_that_ends_by_an_error_takes_its_commands_along() -> None:
    pids: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(aexecute_command("sleep 60", stop=0.1))
        while not registry.running():
            await asyncio.sleep(0.01)
        pids.append(registry.running()[0].pid)
        assert not task.done()
        raise ValueError("the end")

    with pytest.raises(ValueError, match="the end"):
        asyncio.run(main())
    gone(*pids, deadline=0.0)


# streams ------------------------------------------------------------------------------------------------------


def test_a_stream_gives_every_line_in_order_and_its_result(go: Go) -> None:
    async def main() -> None:
        lines = []
        stream = astream_command("seq 50000; echo e >&2; exit 3", shell=True, timeout=40)
        async for name, text in stream:
            if name == "stdout":
                lines.append(text)
            else:
                assert text == "e"
        assert lines == [str(number) for number in range(1, 50_001)]
        assert (stream.result.return_code, stream.result.done) == (3, True)

    go(main())


def test_a_slow_reader_holds_the_command_back(go: Go) -> None:
    # It counts on stderr what it could write; memory here stays bounded.
    code = (
        "import sys,os\nfor n in range(200000):\n os.write(1, b'x' * 99 + b'\\n')\n"
        " if n % 1000 == 0: open(sys.argv[1], 'w').write(str(n))\n"
    )

    async def main(path: Path) -> None:
        async with astream_command(python(code, os.fspath(path)), timeout=50) as lines:
            count = 0
            async for _ in lines:
                count += 1
                if count == 10:
                    await asyncio.sleep(1.0)
                    written = int(path.read_text() or 0)
                    assert written < 60_000  # what waits here, in a read, and in the pipe
            assert count == 200_000

    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"sft-stream-{os.getpid()}"
    try:
        go(main(path))
    finally:
        path.unlink(missing_ok=True)


def test_leaving_a_stream_early_ends_the_tree(go: Go, tree: Callable[[], list[int]], tmp_path: Path) -> None:
    async def main() -> None:
        async with astream_command(command_of(tree, tmp_path), stop=0.1) as lines:
            await whole(tree)
        gone(*tree(), deadline=0.0)
        assert lines.result.done

    go(main())


def test_an_error_in_the_body_of_a_stream_goes_on_after_the_tree_was_ended(
    go: Go, tree: Callable[[], list[int]], tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(KeyError):  # noqa: PT012
            async with astream_command(command_of(tree, tmp_path), stop=0.1):
                await whole(tree)
                raise KeyError("x")
        gone(*tree(), deadline=0.0)

    go(main())


def test_a_cancelled_reader_of_a_full_stream_ends_its_command(go: Go) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def read() -> None:
            async with astream_command("yes") as lines:
                async for _ in lines:
                    reached.set()
                    await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await reached.wait()
        await asyncio.sleep(0.2)  # until it is held back
        with Clock() as took:
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
        assert took.seconds < 5
        assert not registry.running()

    go(main())


def test_a_deadline_ends_a_stream_whose_reader_sleeps(go: Go) -> None:
    async def main() -> None:
        async with astream_command("yes", timeout=0.5) as lines:
            await anext(lines)  # type: ignore[arg-type]
            async with asyncio.timeout(20):
                while not lines.result.done:
                    await asyncio.sleep(0.05)
            assert lines.result.timed_out

    go(main())


def test_a_stream_is_written_to_and_read_from(go: Go) -> None:
    async def main() -> None:
        async with astream_command("cat") as lines:
            for number in range(20):
                await lines.write(f"{number}\n")
                assert (await anext(lines)).text == str(number)  # type: ignore[arg-type]
            await lines.write("end\n", close=True)
            assert [one.text async for one in lines] == ["end"]
            with pytest.raises(StdinClosed):
                await lines.write("more\n")
        assert lines.result.success

    go(main())


def test_a_stream_of_a_command_that_is_not_there_ends_and_tells_why(go: Go) -> None:
    async def main() -> None:
        stream = astream_command("not-there-at-all")
        assert [one async for one in stream] == []
        assert stream.result.return_code == 127
        with pytest.raises(InvalidCommand):
            _ = astream_command("true").result

    go(main())


# beside asyncio's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("watcher", ["PidfdChildWatcher", "ThreadedChildWatcher", "SafeChildWatcher"])
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio has no watchers any more")
def test_statuses_are_right_beside_asyncios_own_processes_with_any_watcher(watcher: str) -> None:
    code = """
    import asyncio, warnings
    warnings.simplefilter("ignore")
    asyncio.set_child_watcher(getattr(asyncio, sys.argv[1])())
    async def other(n):
        one = await asyncio.create_subprocess_exec("sh", "-c", f"sleep 0.0{n % 10}; exit {n}")
        return await one.wait()
    async def main():
        asyncio.get_child_watcher().attach_loop(asyncio.get_running_loop())
        theirs = asyncio.gather(*(other(n) for n in range(30)))
        ours = await asyncio.gather(*(aexecute_command(f"sleep 0.0{n % 10}; exit {n}", shell=True) for n in range(30)))
        assert [one.return_code for one in ours] == list(range(30)), [one.return_code for one in ours]
        assert await theirs == list(range(30))
    asyncio.run(main())
    say("ok")
    """
    with caller(code, watcher) as child:
        assert finished(child).endswith("ok\n")
