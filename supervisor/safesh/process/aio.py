"""Commands from asyncio: awaited instead of waited for, cancelled whole, their output streamed line by line."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from safesh.process import api, loop
from safesh.process.api import ExecutionMode
from safesh.process.command import refuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from typing import Self, Unpack

    from safesh.process.api import Options
    from safesh.process.command import Command
    from safesh.process.job import Job
    from safesh.process.result import ExecutionResult

_MOST_LINES = 4096  # that wait for a slow reader before the command is held back


async def aexecute_command(
    command: Command, mode: ExecutionMode = ExecutionMode.BLOCKING, **options: Unpack[Options]
) -> ExecutionResult:
    """``execute_command`` for asyncio: BLOCKING waits without blocking the event loop, the others return at once.

    A cancelled wait (``asyncio.timeout``, ``Task.cancel``) ends the whole tree before the cancellation goes on.
    Callbacks run in threads of their own, as always, not in the event loop.
    """
    api._refuse_unknown(options)
    return await arun(command, mode, options)


async def arun(
    command: Command, mode: ExecutionMode, options: Mapping[str, Any], keep: Callable[[Job], None] | None = None
) -> ExecutionResult:
    job = await _begun(command, mode, options)
    if mode is ExecutionMode.BLOCKING:
        await _wait(job)
    elif keep is not None:
        keep(job)
    return api._given(job, mode)


async def _begun(command: Command, mode: ExecutionMode, options: Mapping[str, Any]) -> Job:
    """Started here and now, but for a keeper and a pty, which take a start of Python: the event loop goes on."""
    if options.get("contain", "session") == "session" and not options.get("pty"):
        return api.begin(command, mode, options, here=False)
    starting = asyncio.ensure_future(asyncio.to_thread(api.begin, command, mode, options, here=False))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _outlast(starting)
        if not starting.cancelled() and starting.exception() is None:
            _end(starting.result())
            await _outlast(_done(starting.result()))
        raise


async def _wait(job: Job) -> None:
    """Until it is over; when that is cancelled, its tree is ended first."""
    done = _done(job)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        _end(job)
        await _outlast(done)  # bounded by the ending itself
        raise
    except BaseException:  # the event loop was closed under us (GeneratorExit): there is no more waiting
        _end(job)
        raise


async def _outlast(done: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for it whatever comes: a (second) cancellation must not leave the tree behind. The cancellation, if any."""
    cancelled = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _done(job: Job) -> asyncio.Future[None]:
    running = asyncio.get_running_loop()
    future: asyncio.Future[None] = running.create_future()

    def tell() -> None:
        if not future.done():
            future.set_result(None)

    def from_thread() -> None:
        try:
            running.call_soon_threadsafe(tell)
        except RuntimeError:
            pass  # the event loop was closed meanwhile

    job.when_done(from_thread)
    return future


def _end(job: Job) -> None:
    from safesh.process.endings import end_jobs

    loop.get().endings.submit(lambda: end_jobs([job]))


class OutputLine(NamedTuple):
    """stream: ``stdout`` or ``stderr``; text: one line without its newline (bytes with ``encoding=None``)."""

    stream: str
    text: Any


class CommandStream:
    """A running command as an asynchronous iterator over its lines; see ``astream_command``."""

    def __init__(self, command: Command, options: Mapping[str, Any]) -> None:
        for name in ("on_output", "on_error"):
            if options.get(name) is not None:
                refuse(name, "is not for a stream", "take the lines from the iterator")
        self._command = command
        self._options = options
        self._lines: deque[OutputLine] = deque()
        self._job: Job | None = None
        self._news = asyncio.Event()
        self._done: asyncio.Future[None] | None = None

    @property
    def result(self) -> ExecutionResult:
        """Its result, complete once the iterator has ended."""
        if self._job is None:
            refuse("result", "the command has not been started", "use it in 'async with' or 'async for'")
        return self._result

    @property
    def pid(self) -> int | None:
        return self.result.pid

    def _start(self) -> None:
        self._running = asyncio.get_running_loop()
        mode = ExecutionMode.INTERACTIVE if self._options.get("input_data") is None else ExecutionMode.BACKGROUND
        plan_options = {**self._options, "on_output": _nothing, "on_error": _nothing}
        self._job = api.begin(self._command, mode, plan_options, here=False, take=self._take, is_full=self._is_full)
        self._result = self._job.give()
        self._done = _done(self._job)
        self._done.add_done_callback(lambda _future: self._news.set())

    def _is_full(self) -> bool:
        return len(self._lines) > _MOST_LINES

    def _take(self, name: str, lines: Sequence[Any]) -> None:
        """In the loop's thread: lines are put down, and the event loop is told."""
        self._lines.extend(OutputLine(name, line) for line in lines)
        try:
            self._running.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            pass

    def __aiter__(self) -> AsyncIterator[OutputLine]:
        return self

    async def __anext__(self) -> OutputLine:
        if self._job is None:
            self._start()
        assert self._done is not None
        assert self._job is not None
        while True:
            if self._lines:
                line = self._lines.popleft()
                if self._job.held_back and len(self._lines) <= _MOST_LINES // 2:
                    loop.get().serving.resume(self._job)
                return line
            if self._done.done():
                raise StopAsyncIteration
            self._news.clear()
            if self._lines or self._done.done():
                continue
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                await self.aclose()
                raise

    async def write(self, data: str | bytes, *, close: bool = False) -> None:
        """Write to its standard input without blocking the event loop."""
        from safesh.process.writing import write_to_process

        pid = self.pid
        if pid is not None:
            await asyncio.to_thread(write_to_process, pid, data, close=close)

    async def aclose(self) -> None:
        """End the tree if it still runs."""
        job, done = self._job, self._done
        if job is None or done is None or done.done():
            return
        self._lines.clear()
        loop.get().serving.resume(job)
        _end(job)
        cancelled = await _outlast(done)
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> Self:
        if self._job is None:
            self._start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()


def _nothing(_line: object) -> None:
    """Stands for a callback where lines go elsewhere."""


def astream_command(command: Command, **options: Unpack[Options]) -> CommandStream:
    """Run a command and iterate over its lines as they come; a slow reader holds the command back, as a pipe does.

    ::

        async with astream_command(["make", "-j4"]) as lines:
            async for stream, text in lines:
                print(stream, text)
        lines.result.check()

    Leaving the block early, or a cancellation, ends the whole tree.
    """
    api._refuse_unknown(options)
    return CommandStream(command, options)
