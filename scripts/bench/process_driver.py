"""The program that is measured: ``python -m bench.process_driver PART JSON``, its samples as JSON on stdout.

A process of its own for every part, so that no contestant inherits the memory, threads or descriptors of another part;
``bench.process`` starts it and makes rows of what it says.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import psutil

from bench import process_rivals as rivals
from bench.figures import Samples, Step, interleave
from safesh import (
    ExecutionMode,
    aexecute_command,
    cleanup_finished_processes,
    communicate_with_process,
    end_all,
    execute_command,
    get_active_processes,
    kill_process,
    read_from_process,
)
from safesh.metrics.sampler import TreeSampler

_BACKGROUND = ExecutionMode.BACKGROUND
_SLEEP = ["sleep", "600"]
_UP = ["sh", "-c", "echo up; exec sleep 600"]
_TRUE = ["true"]
_PIPE = subprocess.PIPE
_MESSAGE = b"." * 63 + b"\n"
_MESSAGES = 20  # a round
_TOGETHER = 20
_LOOKED_AT = 100
_FIELDS = ["pid", "ppid", "status", "name", "cpu_times", "memory_info", "num_threads", "create_time"]
_SAMPLED = ["cpu_times", "memory_info", "io_counters", "num_fds", "num_threads", "create_time"]
_FLOOD = """
import os, sys
line = b"2026-01-01T00:00:00 worker-3 step=00001234 pose=(0.123,-4.567,8.910) load=0.42 ok, nothing to see\\n"
chunk, left, write = (line * 700)[:65536], int(sys.argv[1]), os.write
while left > 0:
    left -= write(1, chunk[:left])
"""
_clock = time.perf_counter


def _timed(name: str, call: Callable[[], object]) -> Step:
    def step() -> dict[str, float]:
        begin = _clock()
        call()
        return {name: _clock() - begin}

    return step


# --- BLOCKING, and its like in asyncio --------------------------------------------------------


def run(rounds: int, chosen: Sequence[str]) -> Samples:
    """``true`` from the call until its status and output are there."""

    def theirs() -> None:
        subprocess.run(_TRUE, capture_output=True, check=True)

    def ours() -> None:
        assert execute_command(_TRUE).success

    steps = [_timed("subprocess", theirs), _timed("ours", ours)]
    steps += [_timed(name, call) for name, call in rivals.runs(chosen).items()]
    return interleave(steps, rounds)


def run_async(rounds: int, chosen: Sequence[str]) -> Samples:
    """The same, awaited: one, and some at once."""

    async def theirs() -> None:
        child = await asyncio.create_subprocess_exec(*_TRUE, stdout=_PIPE, stderr=_PIPE, stdin=subprocess.DEVNULL)
        await child.communicate()
        assert child.returncode == 0

    async def ours() -> None:
        assert (await aexecute_command(_TRUE)).success

    contestants = {"asyncio": theirs, "ours": ours, **rivals.async_runs(chosen)}
    with asyncio.Runner() as runner:

        def step(name: str, call: rivals.Async, many: int) -> Step:
            async def measured() -> float:
                begin = _clock()
                await (asyncio.gather(*(call() for _ in range(many))) if many > 1 else call())
                return _clock() - begin

            return lambda: {name: runner.run(measured())}

        one = interleave([step(name, call, 1) for name, call in contestants.items()], rounds)
        some = interleave(
            [step(f"{name}-together", call, _TOGETHER) for name, call in contestants.items()], max(2, rounds // 8)
        )
    return {**one, **some}


# --- BACKGROUND -------------------------------------------------------------------------------


def start(rounds: int, chosen: Sequence[str]) -> Samples:
    """From the call until it returns; the end of each, and its collection, between the rounds."""

    def theirs() -> dict[str, float]:
        begin = _clock()
        child = subprocess.Popen(_SLEEP, stdin=_PIPE, stdout=_PIPE, stderr=_PIPE)
        seconds = _clock() - begin
        with child:
            child.kill()
        return {"popen": seconds}

    def ours() -> dict[str, float]:
        begin = _clock()
        result = execute_command(_SLEEP, _BACKGROUND)
        seconds = _clock() - begin
        assert result.pid
        kill_process(result.pid, force=True)
        assert cleanup_finished_processes() == 1
        return {"ours": seconds}

    with asyncio.Runner() as runner:

        def step(name: str, measured: Callable[[], Any]) -> Step:
            return lambda: {name: runner.run(measured())}

        steps: list[Step] = [theirs, ours]
        steps += [step(name, call) for name, call in rivals.async_starts(chosen).items()]
        steps += rivals.starts(chosen)
        return interleave(steps, rounds)


def talk(rounds: int, chosen: Sequence[str]) -> Samples:
    """One line to ``cat`` and back."""
    if hasattr(os, "sched_setaffinity"):
        # One processor for both ends: where the scheduler spreads them, a trip is the time an idle one takes to wake.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    raw = subprocess.Popen(["cat"], stdin=_PIPE, stdout=_PIPE, bufsize=0)
    buffered = subprocess.Popen(["cat"], stdin=_PIPE, stdout=_PIPE, stderr=_PIPE, text=True)
    result = execute_command(["cat"], _BACKGROUND)
    as_bytes = execute_command(["cat"], _BACKGROUND, encoding=None)
    assert raw.stdin
    assert raw.stdout
    assert buffered.stdin
    assert buffered.stdout
    assert result.pid
    assert as_bytes.pid
    into, out, text = raw.stdin.fileno(), raw.stdout.fileno(), _MESSAGE.decode()
    pid, bytes_pid, stdin, stdout = result.pid, as_bytes.pid, buffered.stdin, buffered.stdout

    def by_pipe() -> bool:
        os.write(into, _MESSAGE)
        return os.read(out, 65536) == _MESSAGE

    watch = select.poll()
    watch.register(out, select.POLLIN)

    def by_poll() -> bool:
        os.write(into, _MESSAGE)
        watch.poll(10_000)
        return os.read(out, 65536) == _MESSAGE

    def by_popen() -> bool:
        stdin.write(text)
        stdin.flush()
        return stdout.readline() == text

    def ours() -> bool:
        return bool(communicate_with_process(pid, text) == text)

    def ours_bytes() -> bool:
        return bool(communicate_with_process(bytes_pid, _MESSAGE) == _MESSAGE)

    def step(name: str, call: Callable[[], bool]) -> Step:
        def measured() -> dict[str, float]:
            begin = _clock()
            good = all(call() for _ in range(_MESSAGES))
            seconds = _clock() - begin
            assert good, name
            return {name: seconds / _MESSAGES}

        return measured

    contestants = {"pipe": by_pipe, "poll": by_poll, "popen": by_popen, "ours": ours, "bytes": ours_bytes}
    with asyncio.Runner() as runner, rivals.Talkers(chosen, runner, _MESSAGE) as others:
        try:
            steps = [step(name, call) for name, call in contestants.items()]
            steps += [lambda one=one: one(_MESSAGES) for one in others.steps]  # type: ignore[misc]
            return interleave(steps, rounds)
        finally:
            for child in (raw, buffered):
                with child:
                    child.kill()


# --- many ---------------------------------------------------------------------------------------


def look(rounds: int, _chosen: Sequence[str]) -> Samples:
    """The status of processes that sleep, by whom they are ours and by the list of all."""
    pids = [execute_command(_SLEEP, _BACKGROUND).pid for _ in range(_LOOKED_AT)]

    def ours() -> None:
        assert len(get_active_processes()) == _LOOKED_AT

    def listed() -> None:
        found = {one.pid: one.info for one in psutil.process_iter(_FIELDS)}
        assert found.keys() >= set(pids)

    def known() -> None:
        assert all(psutil.Process(pid).as_dict(_FIELDS) for pid in pids)

    return interleave([_timed("psutil", listed), _timed("known", known), _timed("ours", ours)], rounds)


def sample(rounds: int, size: int) -> Samples:
    """One sample of a tree of ``size``: CPU time, memory, I/O, descriptors and threads of everybody in it."""
    fork = f"import os, time\nfor _ in range({size - 1}):\n    if not os.fork():\n        time.sleep(600)\n"
    root = execute_command([sys.executable, "-S", "-E", "-c", f"{fork}print('up', flush=True)\ntime.sleep(600)"],
                           _BACKGROUND)  # fmt: skip
    assert read_from_process(root.pid, 10) == "up\n"
    members = [root.pid, *(one.pid for one in psutil.Process(root.pid).children(recursive=True))]
    assert len(members) == size
    sampler = TreeSampler(root.pid, exact_every=0)

    def raw() -> None:
        for pid in members:
            for name in ("stat", "io", f"task/{pid}/children"):
                fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
                os.read(fd, 4096)
                os.close(fd)
            os.stat(f"/proc/{pid}/fd")

    def theirs() -> None:
        above = psutil.Process(root.pid)
        assert len([one.as_dict(_SAMPLED) for one in (above, *above.children(recursive=True))]) == size

    def ours() -> None:
        found = sampler.sample()
        assert found is not None
        assert found.processes == size

    return interleave([_timed("raw", raw), _timed("psutil", theirs), _timed("ours", ours)], rounds)


def crowd(count: int, who: str) -> Samples:
    """Start ``count`` programs, hear from each, end and collect all: seconds of each step, KiB each, and who is left.

    Meant for a pid namespace of its own, where whoever is left can be counted.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 64 * count) if hard > 0 else 64 * count, hard))
    execute_command(_TRUE)
    before = _children()
    steps = {"ours": _our_crowd, "popen": _popen_crowd, "asyncio": _asyncio_crowd}[who](count)
    samples = {f"{who}-{name}": [value] for name, value in steps.items()}
    samples[f"{who}-left"] = [float(len(_children() - before))]
    return samples


def _children() -> set[int]:
    """Zombies included: one of them is a process that nobody collected."""
    return {one.pid for one in psutil.Process().children(recursive=True)}


def _memory() -> float:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


class _Laps:
    def __init__(self, count: int) -> None:
        self.count = count
        self.found: dict[str, float] = {}
        self._held = _memory()
        self._since = _clock()

    def lap(self, name: str) -> None:
        self.found[name] = _clock() - self._since
        self._since = _clock()

    def weigh(self) -> None:
        self.found["memory"] = (_memory() - self._held) / self.count
        self._since = _clock()


def _our_crowd(count: int) -> dict[str, float]:
    end_all()
    warm = execute_command(["cat"], _BACKGROUND)  # the loop's thread is nobody's in particular
    assert warm.pid
    kill_process(warm.pid, force=True)
    cleanup_finished_processes()
    laps = _Laps(count)
    pids = [execute_command(_UP, _BACKGROUND).pid for _ in range(count)]
    laps.lap("start")
    for pid in pids:
        assert pid
        assert read_from_process(pid, timeout=30) == "up\n"
    laps.lap("read")
    laps.weigh()
    verdicts = end_all()
    laps.lap("end")
    assert len(verdicts) == count
    assert all(one.ok for one in verdicts.values())
    assert cleanup_finished_processes() == count
    return laps.found


def _popen_crowd(count: int) -> dict[str, float]:
    laps = _Laps(count)
    children = [subprocess.Popen(_UP, stdin=_PIPE, stdout=_PIPE, stderr=_PIPE) for _ in range(count)]
    laps.lap("start")
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
    laps.lap("read")
    laps.weigh()
    for child in children:
        child.terminate()
    for child in children:
        child.communicate()
    laps.lap("end")
    return laps.found


def _asyncio_crowd(count: int) -> dict[str, float]:
    async def go() -> dict[str, float]:
        laps = _Laps(count)
        children = [
            await asyncio.create_subprocess_exec(*_UP, stdin=_PIPE, stdout=_PIPE, stderr=_PIPE) for _ in range(count)
        ]
        laps.lap("start")
        for child in children:
            assert child.stdout
            assert await child.stdout.readline() == b"up\n"
        laps.lap("read")
        laps.weigh()
        for child in children:
            child.terminate()
        await asyncio.gather(*(child.wait() for child in children))
        laps.lap("end")
        return laps.found

    return asyncio.run(go())


# --- much ---------------------------------------------------------------------------------------


def capture(size: int, who: str, text: bool) -> Samples:
    """Bytes a second, from the call until the whole output is one object."""
    program = [sys.executable, "-I", "-S", "-c", _FLOOD, str(size)]

    def theirs() -> int:
        return len(subprocess.run(program, capture_output=True, text=text).stdout)

    def ours() -> int:
        encoding = "utf-8" if text else None
        return len(execute_command(program, encoding=encoding, max_output=None).stdout)

    def background() -> int:
        """Not in memory but in the spool, until somebody asks."""
        encoding = "utf-8" if text else None
        result = execute_command(program, _BACKGROUND, encoding=encoding, max_output=None)
        result.wait()
        return len(result.stdout)

    contestants: dict[str, Callable[[], int]] = {"subprocess": theirs, "ours": ours, "background": background}
    call = contestants.get(who) or rivals.captures(program, text)[who]
    begin = _clock()
    length = call()
    seconds = _clock() - begin
    assert length == size, f"{who} gave {length} of {size} bytes"
    return {who: [size / seconds]}


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def main(part: str, arguments: str) -> None:
    signal.signal(signal.SIGTERM, _leave)
    parts: dict[str, Callable[..., Samples]] = {
        "run": run, "async": run_async, "start": start, "talk": talk, "look": look, "sample": sample, "crowd": crowd,
        "capture": capture,
    }  # fmt: skip
    try:
        samples = parts[part](**json.loads(arguments))
    finally:
        end_all(now=True)
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
