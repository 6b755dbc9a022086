"""The process API against ``subprocess``, asyncio and the libraries that do the same: what is run, and its rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from bench.figures import Row, Samples, Section, Step, interleave, quartiles, ratios, show
from bench.peers import Peers
from bench.stage import ROOT, SOURCE, BenchError, Stage

_DEADLINE = 300.0
_MIB = 1 << 20
_SLOW = 64 << 20  # bytes for whoever would take minutes: speed is what is compared
_NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_STEPS = {"start": "started", "read": "heard from", "end": "ended and collected"}


class Bench:
    """Starts the measured program, each part in a process of its own."""

    def __init__(self, stage: Stage, peers: Peers) -> None:
        self.stage = stage
        self.peers = peers
        path = os.pathsep.join((str(ROOT / "scripts"), str(SOURCE)))
        # As many variables as somebody's shell has: passing them on costs.
        padding = {f"BENCH_{number:02}": "x" * 40 for number in range(45)}
        self.environment = stage.environment(PYTHONPATH=path, **padding)

    def take(self, part: str, *, alone: bool = False, **arguments: Any) -> Samples:
        """The samples of one part. alone: in a pid namespace of its own, where one can be had."""
        command = [self.peers.python or self.stage.python, "-m", "bench.process_driver", part, json.dumps(arguments)]
        if alone and not no_namespace():
            command = [*_NAMESPACE, *command]
        child = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            told, errors = child.communicate(timeout=_DEADLINE)
        except subprocess.TimeoutExpired:
            raise BenchError(f"process API, {part}: did not end within {_DEADLINE:g} s") from None
        finally:
            _end(child)
        if child.returncode:
            said = errors.decode(errors="replace").strip()
            raise BenchError(f"process API, {part}: exit status {child.returncode}: {said[-2000:] or 'said nothing'}")
        samples: Samples = json.loads(told)
        return samples

    def section(self, key: str, title: str, base: str, rivals: tuple[str, ...] = ()) -> Section:
        missing = [f"{name}: {self.peers.missing[name]}" for name in rivals if name in self.peers.missing]
        return Section(f"process-{key}", title, base, missing=missing)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asked, it ends what it has started; unshare does not listen, but what it runs does, or goes with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:  # so the group is still its own
            os.killpg(child.pid, number)
            try:
                child.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                continue


@cache
def no_namespace() -> str:
    """Why no pid namespace can be had here; "" when one can."""
    try:
        done = subprocess.run([*_NAMESPACE, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def _row(
    section: Section, samples: Samples, name: str, base: str, what: str, *, key: str = "", scale: float = 1e3,
    unit: str = "ms", **more: Any
) -> None:  # fmt: skip
    """A quotient of two times; scale, unit: of the last column."""
    if name not in samples:
        return
    more.setdefault("by", "safesh" if more.get("ours") else name)
    low, middle, high = quartiles(ratios(samples[name], samples[base]))
    plain = show(quartiles(samples[name])[1] * scale, unit)
    section.rows.append(Row(f"{section.key}.{key or name}", what, middle, "x", low, high, plain, **more))


def process(stage: Stage, peers: Peers, rounds: int, size: int, count: int) -> Iterator[Section]:
    """All of it, as it comes. rounds: of the shortest; size: bytes captured; count: processes at once."""
    bench = Bench(stage, peers)
    yield from _runs(bench, rounds)
    yield _starts(bench, rounds)
    yield _talks(bench, rounds)
    yield _looks(bench, max(3, rounds // 4))
    yield from (_samples(bench, max(3, rounds // 2), count) for count in (1, 10))
    yield from _captures(bench, max(2, rounds // 60), size)
    yield from _crowd(bench, max(1, rounds // 80), count)


def _runs(bench: Bench, rounds: int) -> tuple[Section, ...]:
    chosen = bench.peers.libraries
    samples = bench.take("run", rounds=rounds, chosen=[])
    one = bench.section(
        "run", "BLOCKING: run `true`, its output captured",
        "`subprocess.run(capture_output=True)`", ("sh", "plumbum", "invoke"),
    )  # fmt: skip
    _row(one, samples, "subprocess", "subprocess", "`subprocess.run`")
    _row(one, samples, "ours", "subprocess", "`execute_command`", key="safe", ours=True, bar=1.15)
    extra = [(mine - theirs) * 1e3 for mine, theirs in zip(samples["ours"], samples["subprocess"], strict=True)]
    low, middle, high = quartiles(extra)
    what = "`execute_command` on top of `subprocess.run`"
    one.rows.append(Row(f"{one.key}.extra", what, middle, "ms", low, high, ours=True, bar=0.2))
    samples = bench.take("run", rounds=max(2, rounds // 3), chosen=chosen)
    _row(one, samples, "plumbum", "subprocess", "plumbum: `local['true'].run()`")
    _row(one, samples, "invoke", "subprocess", "invoke: `Context().run(hide=True)` (by way of bash)")
    _row(one, samples, "sh", "subprocess", "sh: `Command('true')()`")

    samples = bench.take("async", rounds=rounds, chosen=chosen)
    base = "`asyncio.create_subprocess_exec` and `communicate`"
    alone = bench.section("async", "awaited: run `true`, its output captured", base, ("anyio",))
    many = bench.section("together", "awaited: 20 of them at once", base, ("anyio",))
    for section, suffix in ((alone, ""), (many, "-together")):
        for name, key, what in (
            ("asyncio", "", "asyncio"), ("ours", "safe", "`aexecute_command`"), ("anyio", "", "`anyio.run_process`"),
        ):  # fmt: skip
            mine = name == "ours"
            _row(section, samples, name + suffix, "asyncio" + suffix, what, key=key or name, ours=mine)
    return one, alone, many


def _starts(bench: Bench, rounds: int) -> Section:
    samples = bench.take("start", rounds=rounds, chosen=[])
    section = bench.section(
        "start", "BACKGROUND: start `sleep` with three pipes, until the call returns",
        "`subprocess.Popen` with three pipes", ("plumbum", "anyio", "invoke", "sh"),
    )  # fmt: skip
    _row(section, samples, "popen", "popen", "`Popen` (nobody reads its pipes)")
    _row(section, samples, "ours", "popen", "`execute_command`", key="safe", ours=True, bar=1.15)
    samples = bench.take("start", rounds=max(2, rounds // 3), chosen=[*bench.peers.libraries, "asyncio"])
    _row(section, samples, "plumbum", "popen", "plumbum: `popen` (nobody reads its pipes)")
    _row(section, samples, "anyio", "popen", "`anyio.open_process`")
    _row(section, samples, "asyncio", "popen", "`asyncio.create_subprocess_exec`")
    _row(section, samples, "invoke", "popen", "invoke: `run(asynchronous=True)` (by way of bash)")
    _row(section, samples, "sh", "popen", "sh: `_bg=True`")
    return section


def _talks(bench: Bench, rounds: int) -> Section:
    samples = bench.take("talk", rounds=rounds, chosen=bench.peers.libraries)
    section = bench.section(
        "talk", "a line of 64 bytes to `cat` and back", "os.write and os.read", ("anyio", "pexpect")
    )
    micro: dict[str, Any] = {"scale": 1e6, "unit": "µs"}
    _row(section, samples, "pipe", "pipe", "`os.write`, `os.read` (the limit of a pipe)", limit=True, **micro)
    with_poll = "the same with poll(2) between (the limit of one with a deadline)"
    _row(section, samples, "poll", "pipe", with_poll, limit=True, **micro)
    text = "`communicate_with_process`"
    _row(section, samples, "ours", "pipe", text, key="safe", ours=True, bar=2, **micro)
    low, middle, high = quartiles([one * 1e6 for one in samples["ours"]])
    told = "the same in time"
    section.rows.append(Row(f"{section.key}.time", told, middle, "µs", low, high, ours=True, bar=1000, aim=50))
    _row(section, samples, "bytes", "pipe", "the same with `encoding=None`", ours=True, **micro)
    _row(section, samples, "popen", "pipe", "`Popen`, text: `write`, `flush`, `readline` (no deadline)", **micro)
    _row(section, samples, "anyio", "pipe", "anyio: `send`, `receive`", **micro)
    _row(section, samples, "pexpect", "pipe", "pexpect: `fdspawn` and `expect_exact`", **micro)
    return section


def _looks(bench: Bench, rounds: int) -> Section:
    samples = bench.take("look", alone=True, rounds=rounds, _chosen=[])
    section = bench.section("look", "status of 100 processes", "`psutil.process_iter` with the same fields")
    milli = [one * 1e3 for one in samples["ours"]]
    low, middle, high = quartiles(milli)
    told = "the same in time"
    _row(section, samples, "psutil", "psutil", "`psutil.process_iter`")
    _row(section, samples, "known", "psutil", "psutil, of known pids: `Process(pid).as_dict`")
    _row(section, samples, "ours", "psutil", "`get_active_processes`", key="safe", ours=True, bar=round(1 / 3, 3))
    section.rows.append(Row(f"{section.key}.time", told, middle, "ms", low, high, ours=True, bar=5))
    if no_namespace():
        note = "of all processes of this machine: no pid namespace here"
        section.rows[0] = replace(section.rows[0], note=note)
    return section


def _samples(bench: Bench, rounds: int, size: int) -> Section:
    samples = bench.take("sample", rounds=rounds, size=size)
    whose = "one process" if size == 1 else f"a tree of {size}"
    section = bench.section(
        f"sample-{size}", f"one sample of {whose}: CPU time, memory, I/O, descriptors, threads",
        "the same files of the members in /proc, opened, read and closed in Python, and not looked into",
    )  # fmt: skip
    micro: dict[str, Any] = {"scale": 1e6, "unit": "µs"}
    _row(section, samples, "raw", "raw", "the bare reading of members that are known (the limit)", limit=True, **micro)
    _row(section, samples, "ours", "raw", "the sampler", key="safe", ours=True, **micro)
    _row(section, samples, "psutil", "raw", "psutil: `children(recursive=True)` and `as_dict`", **micro)
    return section


def _captures(bench: Bench, rounds: int, size: int) -> Iterator[Section]:
    words = show(size / _MIB, "MiB") if size < 1 << 30 else show(size / (1 << 30), "GiB")
    for text in (False, True):
        kind = "text" if text else "bytes"
        rivals = ("anyio", "plumbum", "sh") if text else ("anyio", "sh")
        base = "`subprocess.run(capture_output=True, text=True)`" if text else "`subprocess.run(capture_output=True)`"
        section = bench.section(f"capture-{kind}", f"{words} of output captured as {kind}", base, rivals)

        def step(who: str, bytes_: int = size, text: bool = text) -> Step:
            # Each in a fresh process: fresh memory is half of the price.
            return lambda: {
                name: values[0] for name, values in bench.take("capture", size=bytes_, who=who, text=text).items()
            }

        steps = [step("subprocess"), step("ours"), step("background")]
        for name in rivals:
            if name in bench.peers.libraries:
                steps.append(step(name, min(size, _SLOW) if name == "sh" else size))
        samples = interleave(steps, rounds)
        section.most = True
        for name, what, bar in (
            ("subprocess", "`subprocess.run`", None),
            ("ours", "`execute_command(max_output=None)`", 0.9),
            ("background", "the same in the BACKGROUND (its spool is a file)", None),
            ("anyio", "`anyio.run_process`", None),
            ("plumbum", "plumbum: `run`, which gives text alone", None),
            ("sh", f"sh, of {show(min(size, _SLOW) / _MIB, 'MiB')}", None),
        ):
            if name in samples:
                low, middle, high = quartiles(ratios(samples[name], samples["subprocess"]))
                rate = f"{quartiles(samples[name])[1] / _MIB:.0f} MiB/s"
                key = f"{section.key}.{'safe' if name == 'ours' else name}"
                mine = name in ("ours", "background")
                more: dict[str, Any] = {"ours": mine, "bar": bar, "by": "safesh" if mine else name}
                section.rows.append(Row(key, what, middle, "x", low, high, rate, at_least=True, **more))
        yield section


def _crowd(bench: Bench, rounds: int, count: int) -> tuple[Section, ...]:
    whose = {"popen": "`Popen`", "ours": "BACKGROUND", "asyncio": "asyncio"}
    steps = [_crowd_step(bench, name, count) for name in whose]
    samples = interleave(steps, rounds, warm_up=0)
    base = "`Popen` with three pipes, each read from, terminated and waited for in turn"
    times = bench.section("crowd", f"{count} at once: time, and how many are left", base)
    for lap, words in _STEPS.items():
        for name, who in whose.items():
            micro: dict[str, Any] = {"scale": 1e6 / count, "unit": "µs each", "contest": lap}
            key = f"{'safe' if name == 'ours' else name}-{lap}"
            theirs = f"popen-{lap}"
            _row(times, samples, f"{name}-{lap}", theirs, f"{who}: {words}", key=key, ours=name == "ours", **micro)
    for name, who in whose.items():
        left = max(samples[f"{name}-left"])
        mine = name == "ours"
        key = f"{times.key}.{'safe' if mine else name}-left"
        what = f"{who}: left over, not collected ones included"
        by = "safesh" if mine else name
        times.rows.append(
            Row(key, what, left, "", left, left, ours=mine, bar=0 if mine else None, by=by, contest="left")
        )
    memory = bench.section("crowd-memory", f"{count} at once: memory", "resident memory of the parent, a process")
    for name, who in whose.items():
        low, middle, high = quartiles(samples[f"{name}-memory"])
        key = f"{memory.key}.{'safe' if name == 'ours' else name}"
        by = "safesh" if name == "ours" else name
        memory.rows.append(Row(key, who, middle, "KiB", low, high, ours=name == "ours", by=by))
    return times, memory


def _crowd_step(bench: Bench, who: str, count: int) -> Callable[[], dict[str, float]]:
    return lambda: {name: found[0] for name, found in bench.take("crowd", alone=True, count=count, who=who).items()}
