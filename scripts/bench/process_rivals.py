"""The libraries that start programs too, each as its own manual has it; none is imported unless it takes part."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from bench.figures import Step

Async = Callable[[], Awaitable[object]]

_PIPE = subprocess.PIPE
_clock = time.perf_counter


def runs(chosen: Sequence[str]) -> dict[str, Callable[[], object]]:
    """``true``, its output collected."""
    found: dict[str, Callable[[], object]] = {}
    if "sh" in chosen:
        import sh

        true = sh.Command("true")
        found["sh"] = true
    if "plumbum" in chosen:
        from plumbum import local

        found["plumbum"] = local["true"].run
    if "invoke" in chosen:
        from invoke import Context

        context = Context()
        found["invoke"] = lambda: context.run("true", hide=True, in_stream=False)
    return found


def async_runs(chosen: Sequence[str]) -> dict[str, Async]:
    if "anyio" not in chosen:
        return {}
    import anyio

    return {"anyio": lambda: anyio.run_process(["true"])}


def starts(chosen: Sequence[str]) -> list[Step]:
    """``sleep`` in the background; each step ends and collects its own, untimed."""
    found: list[Step] = []
    if "sh" in chosen:
        import sh

        sleep = sh.Command("sleep")

        def by_sh() -> dict[str, float]:
            begin = _clock()
            running = sleep("600", _bg=True, _bg_exc=False)
            seconds = _clock() - begin
            running.kill()
            with suppress(sh.ErrorReturnCode, sh.SignalException):
                running.wait()
            return {"sh": seconds}

        found.append(by_sh)
    if "plumbum" in chosen:
        from plumbum import local

        command = local["sleep"]["600"]

        def by_plumbum() -> dict[str, float]:
            begin = _clock()
            child = command.popen(stdin=_PIPE)
            seconds = _clock() - begin
            child.kill()
            child.communicate()
            return {"plumbum": seconds}

        found.append(by_plumbum)
    if "invoke" in chosen:
        from invoke import Context

        context = Context()

        def by_invoke() -> dict[str, float]:
            begin = _clock()
            promise = context.run("exec sleep 600", hide=True, in_stream=False, asynchronous=True, warn=True)
            seconds = _clock() - begin
            os.kill(promise.runner.process.pid, signal.SIGKILL)
            promise.join()
            return {"invoke": seconds}

        found.append(by_invoke)
    return found


def async_starts(chosen: Sequence[str]) -> dict[str, Callable[[], Awaitable[float]]]:
    async def by_asyncio() -> float:
        begin = _clock()
        child = await asyncio.create_subprocess_exec("sleep", "600", stdin=_PIPE, stdout=_PIPE, stderr=_PIPE)
        seconds = _clock() - begin
        child.kill()
        await child.communicate()
        return seconds

    found: dict[str, Callable[[], Awaitable[float]]] = {"asyncio": by_asyncio} if "asyncio" in chosen else {}
    if "anyio" not in chosen:
        return found
    import anyio

    async def by_anyio() -> float:
        begin = _clock()
        child = await anyio.open_process(["sleep", "600"], stdin=_PIPE, stdout=_PIPE, stderr=_PIPE)
        seconds = _clock() - begin
        async with child:
            child.kill()
            await child.wait()
        return seconds

    return {**found, "anyio": by_anyio}


class Talkers:
    """Those who can hold a conversation with ``cat``, for a ``with`` block; each step takes how many messages."""

    def __init__(self, chosen: Sequence[str], runner: asyncio.Runner, message: bytes) -> None:
        self.chosen = chosen
        self.runner = runner
        self.message = message
        self.steps: list[Callable[[int], dict[str, float]]] = []
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        if "anyio" in self.chosen:
            self.steps.append(self._by_anyio())
        if "pexpect" in self.chosen:
            self.steps.append(self._by_pexpect())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self._stack.aclose())

    def _by_anyio(self) -> Callable[[int], dict[str, float]]:
        import anyio

        child: Any = self.runner.run(anyio.open_process(["cat"], stdin=_PIPE, stdout=_PIPE))
        self._stack.push_async_callback(child.aclose)

        async def talk(many: int) -> float:
            begin = _clock()
            for _ in range(many):
                await child.stdin.send(self.message)
                assert await child.stdout.receive() == self.message
            return (_clock() - begin) / many

        return lambda many: {"anyio": self.runner.run(talk(many))}

    def _by_pexpect(self) -> Callable[[int], dict[str, float]]:
        import pexpect
        from pexpect.fdpexpect import fdspawn

        child = subprocess.Popen(["cat"], stdin=_PIPE, stdout=_PIPE)

        def end() -> None:
            with child:
                child.kill()

        self._stack.callback(end)
        assert child.stdin
        assert child.stdout
        into, spawn = child.stdin.fileno(), fdspawn(child.stdout.fileno())
        assert pexpect.__version__

        def talk(many: int) -> dict[str, float]:
            begin = _clock()
            for _ in range(many):
                os.write(into, self.message)
                spawn.expect_exact(b"\n")
            return {"pexpect": (_clock() - begin) / many}

        return talk


def captures(program: list[str], text: bool) -> dict[str, Callable[[], int]]:
    """The length of the whole output."""

    def by_sh() -> int:
        import sh

        done = sh.Command(program[0])(*program[1:], _out_bufsize=65536, _return_cmd=True)
        return len(str(done) if text else done.stdout)

    def by_plumbum() -> int:
        """Text, whether one wants it or not."""
        from plumbum import local

        return len(local[program[0]][program[1:]].run()[1])

    def by_anyio() -> int:
        import anyio

        async def go() -> int:
            out: bytes = (await anyio.run_process(program)).stdout
            return len(out.decode() if text else out)

        length: int = anyio.run(go)
        return length

    return {"sh": by_sh, "plumbum": by_plumbum, "anyio": by_anyio}
