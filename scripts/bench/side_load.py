"""The supervisors side by side under load: what a log takes and keeps, and what a crash loop costs."""

from __future__ import annotations

import gzip
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import enclosure, writer
from bench.figures import Row, Samples, Section, Step, interleave, quartiles, ratios, show
from bench.rivals.base import Hall, Rival
from bench.stage import Bell, BenchError, Stage

_LOGGERS = {
    "safesh": "`start --detach`, a part every 10 MiB",
    "supervisord": "stdout_logfile, a part every 50 MB",
    "circus": "FileStream, no rotation",
    "honcho": "its output into a file, each line with a time and a name",
    "pm2": "out_file, no rotation",
    "runit": "svlogd, a part every MB",
    "s6": "s6-log, a part every 10 MB",
}
_NO_LOG = "keeps no log"
_LOOPERS = ("safesh", "supervisord", "circus", "pm2", "runit", "s6", "monit")
_NO_LOOP = "starts nothing again"
_WRITER = str(Path(__file__).with_name("writer.py"))
_DEADLINE = 300.0
_LATE = 10.0  # seconds for the last bytes to reach the file
_ENOUGH = 5  # restarts, to be compared
_AT_ONCE = 3  # crash loops: they mostly wait for their next attempt


def load(
    stage: Stage,
    rivals: Sequence[Rival],
    rounds: int = 3,
    size: int = 32 << 20,
    seconds: float = 20.0,
    programs: int = 10,
) -> Iterator[Section]:
    """size: bytes of a burst; an eighth of it line by line. seconds: of crashing, by so many programs."""
    yield _throughput(stage, rivals, rounds, "burst", size, "64 KiB a write")
    yield _throughput(stage, rivals, rounds, "line", size // 8, "one 100-byte line a write")
    yield _kept(stage, rivals, min(8 << 20, size // 8))
    yield from _crashes(rivals, seconds, programs)


def _lacking(section: Section, rivals: Sequence[Rival], able: Sequence[str], why: str) -> list[Rival]:
    section.missing += [f"{rival.name}: {why}" for rival in rivals if rival.name not in able]
    return [rival for rival in rivals if rival.name in able]


# ---- logs


def _program(stage: Stage, kind: str, size: int, bell: Bell) -> list[str]:
    return [stage.python, "-S", _WRITER, kind, str(size), bell.path, "stay"]


def _throughput(stage: Stage, rivals: Sequence[Rival], rounds: int, kind: str, size: int, words: str) -> Section:
    """The program's own time for its writes; each rival's log facility with its usual rotation."""
    title = f"log throughput, {show(size / (1 << 20), 'MiB')}, {words}"
    section = Section(f"side-logs-{kind}", title, "`prog | cat > file` in the same folder", most=True)
    folder = stage.folder / f"side-{kind}"
    folder.mkdir()
    bell = Bell(stage, f"side-written-{kind}")

    def cat() -> dict[str, float]:
        words = shlex.join(_program(stage, kind, size, bell)[:-1])
        child = stage.begin(["/bin/sh", "-c", f"{words} | cat > {shlex.quote(str(folder / 'cat.log'))}"])
        seconds = float(bell.wait(_DEADLINE))
        child.wait(_DEADLINE)
        stage.end(child)
        (folder / "cat.log").unlink()
        return {"cat": size / seconds}

    def through(name: str, hall: Hall, log: Path) -> Step:
        def step() -> dict[str, float]:
            hall.begin("flood")
            seconds = float(bell.wait(_DEADLINE))
            hall.end("flood")
            for file in log.rglob("*.log*"):
                if file.is_file() and rival_grows(name):
                    file.write_bytes(b"")  # it would grow from round to round; a file that rotates is left alone
            return {name: size / seconds}

        return step

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(bell.close)
        steps: list[Step] = [cat]
        for rival in _lacking(section, rivals, tuple(_LOGGERS), _NO_LOG):
            log = folder / rival.name
            log.mkdir()
            program = {"flood": _program(stage, kind, size, bell)}
            hall = stack.enter_context(rival.running(stage, program, log=str(log)))
            steps.append(through(rival.name, hall, log))
        samples = interleave(steps, rounds)
    section.rows.append(_speed(section, samples, "cat", "`prog | cat > file` (the limit of a pipe)", limit=True))
    for rival in rivals:
        if rival.name in samples:
            what = f"{rival.name}: {_LOGGERS[rival.name]}"
            section.rows.append(_speed(section, samples, rival.name, what, ours=rival.ours, by=rival.name))
    return section


def rival_grows(name: str) -> bool:
    """Whether its log is one file that nobody cuts."""
    return "no rotation" in _LOGGERS[name] or name == "honcho"


def _speed(section: Section, samples: Samples, name: str, what: str, **more: Any) -> Row:
    low, middle, high = quartiles(ratios(samples[name], samples["cat"]))
    rate = quartiles(samples[name])[1] / (1 << 20)
    return Row(f"{section.key}.{name}", what, middle, "x", low, high, f"{rate:.0f} MiB/s", **more)


def _kept(stage: Stage, rivals: Sequence[Rival], size: int) -> Section:
    """Every line is looked for in the log, when the program has written its last and has been stopped."""
    lines = -(-size // len(writer.LINE))
    section = Section(
        "side-logs-lost",
        f"lost of {lines} lines of 100 bytes, as fast as they are taken, the program stopped right after the last",
        "lines that are not in the log, or not whole, counted in its files",
    )
    bell = Bell(stage, "side-kept")
    try:
        for rival in _lacking(section, rivals, tuple(_LOGGERS), _NO_LOG):
            log = stage.folder / f"kept-{rival.name}"
            log.mkdir()
            with rival.running(stage, {"flood": _program(stage, "line", size, bell)}, log=str(log)) as hall:
                hall.begin("flood")
                bell.wait(_DEADLINE)
                hall.end("flood")
                begin = time.monotonic()
                while (found := count(log)) < lines and time.monotonic() < begin + _LATE:
                    time.sleep(0.1)
                late = time.monotonic() - begin
            lost = float(lines - found)
            absolute = f"{found} found" + (f", the last {late:.1f} s after the stop" if not lost and late > 0.2 else "")
            section.rows.append(
                Row(f"side-logs-lost.{rival.name}", rival.name, lost, "lines", lost, lost, absolute, ours=rival.ours,
                    by=rival.name, bar=0.0 if rival.ours else None)
            )  # fmt: skip
            shutil.rmtree(log, ignore_errors=True)
    finally:
        bell.close()
    return section


def count(folder: Path) -> int:
    """The writer's lines, whole, in all files of a log, whatever stands before or behind them there."""
    found = 0
    whole = writer.LINE.rstrip(b"\n")
    for file in folder.rglob("*"):
        try:
            if file.is_file():
                content = file.read_bytes()
                found += (gzip.decompress(content) if file.suffix == ".gz" else content).count(whole)
        except (OSError, EOFError):
            continue  # being rotated: the next look sees it
    return found


# ---- crash loops


def _crashes(rivals: Sequence[Rival], seconds: float, programs: int) -> Iterator[Section]:
    title = f"crash loop: {programs} programs that exit 1 at once, for {seconds:g} s, at the default policy"
    about = "CPU time of the supervisor's processes, the programs' own left out"
    cost = Section("side-crash", f"{title}: for each restart", about)
    share = Section("side-crash-share", f"{title}: altogether", f"{about}; in percent of one core")
    able = _lacking(cost, rivals, _LOOPERS, _NO_LOOP)

    def ask(rival: Rival) -> dict[str, Any] | str:
        try:
            return enclosure.run(["loop", f"{seconds:g}", str(programs)], (rival, {}), seconds + 120)
        except BenchError as error:
            return str(error).replace("\n", " ")[-300:]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip((rival.name for rival in able), pool.map(ask, able), strict=True))
    for rival in able:
        found = answers[rival.name]
        if isinstance(found, str):
            cost.missing.append(f"{rival.name}: {found}")
            continue
        spent = max(0.0, found["cpu"] - found["children"])
        restarts = found["restarts"]
        more: dict[str, Any] = {"ours": rival.ours}
        if restarts:
            each = spent / restarts * 1000
            absolute = (
                f"{restarts} restarts, the programs' own {found['children'] / restarts * 1000:.1f} ms each left out"
            )
            by = rival.name if restarts >= _ENOUGH else ""
            cost.rows.append(
                Row(f"side-crash.{rival.name}", rival.name, each, "ms", each, each, absolute, by=by, **more)
            )
        else:
            cost.missing.append(f"{rival.name}: no restart within {seconds:g} s")
        percent = spent / found["seconds"] * 100
        absolute = f"{restarts} restarts, {restarts / found['seconds']:.1f} a second"
        if found["programs"] < programs:
            absolute += f"; only {found['programs']} of the {programs} were started at all by then"
        share.rows.append(
            Row(f"side-crash-share.{rival.name}", rival.name, percent, "%", percent, percent, absolute, **more)
        )
    yield cost
    yield share
