"""How fast a target may write: the log against ``prog | cat > file``."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Row, Samples, Section, Step, interleave, quartiles, ratios, show
from bench.peers import Peers
from bench.stage import SAFE, Bell, Stage

_HERE = Path(__file__).resolve().parent
_DEADLINE = 300.0
_BURST = 128 << 20
_SLOW = 16 << 20  # bytes for a line-by-line logger: speed is what is compared


def logs(stage: Stage, peers: Peers, rounds: int, size: int) -> tuple[Section, ...]:
    """The same program, the same bytes, into a pipe to cat, into our log, into supervisord's.

    A file that grows needs fresh memory, a rotated log is given back its own, at the price of freeing it. Which of the
    two costs more depends on how much is written, so there is a flood and a burst.
    """
    found = [_one(stage, peers, rounds, "flood", size, "64 KiB a write")] if size > _BURST else []
    found.append(_one(stage, peers, rounds, "burst", _BURST, "64 KiB a write"))
    found.append(_one(stage, peers, rounds, "line", size // 8, "one 100-byte line a write"))
    return tuple(found)


def _one(stage: Stage, peers: Peers, rounds: int, kind: str, size: int, words: str) -> Section:
    title = f"log throughput, {show(size / (1 << 20), 'MiB')}, {words}"
    section = Section(f"logs-{kind}", title, "`prog | cat > file` in the same folder")
    bell = Bell(stage, f"written-{kind}")
    folder = stage.folder / f"logs-{kind}"
    folder.mkdir()

    def program(stay: bool, bytes_: int = size) -> list[str]:
        words = [stage.python, "-S", str(_HERE / "writer.py"), kind, str(bytes_), bell.path]
        return [*words, "stay"] if stay else words

    def speed(bytes_: int = size) -> float:
        return bytes_ / float(bell.wait(_DEADLINE))

    def piped(name: str, reader: str, bytes_: int = size) -> Callable[[], dict[str, float]]:
        def step() -> dict[str, float]:
            child = stage.begin(["/bin/sh", "-c", f"{shlex.join(program(False, bytes_))} | {reader}"])
            found = speed(bytes_)
            child.wait(_DEADLINE)
            stage.end(child)
            for file in folder.glob("*.log*"):
                file.unlink()
            return {name: found}

        return step

    def foreground() -> dict[str, float]:
        name = f"{kind}-foreground"
        stage.target(name, program(True))
        child = stage.begin([SAFE, "start", name])
        try:
            return {"foreground": speed()}
        finally:
            stage.end(child)

    def detached() -> dict[str, float]:
        name = f"{kind}-detached"
        with stage.running(name, program(True), [SAFE]):
            return {"detached": speed()}

    lines = shlex.join([stage.python, str(_HERE / "linelogger.py"), str(folder / "lines.log")])
    steps: list[Step] = [
        piped("cat", f"cat > {shlex.quote(str(folder / 'cat.log'))}"),
        foreground,
        detached,
        piped("lines", lines, min(size, _SLOW)),
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(bell.close)
        if peers.supervisord:
            (kept := folder / "supervisord").mkdir()
            hall = stack.enter_context(peers.supervisord.running(stage, {"flood": program(True)}, log=str(kept)))

            def theirs() -> dict[str, float]:
                stage.call(hall.start("flood") or [], **hall.changes)
                found = speed()
                hall.end("flood")
                return {"supervisord": found}

            steps.append(theirs)
        else:
            section.missing.append(f"supervisord: {peers.missing['supervisord']}")
        samples = interleave(steps, rounds)
    section.most = True
    rows = [
        ("cat", "`prog | cat > file` (the limit of a pipe)", False),
        ("foreground", "`safe.sh start`, its terminal /dev/null", True),
        ("detached", "`safe.sh start --detach`", True),
        ("supervisord", "supervisord, default rotation", False),
        ("lines", "a Python loop: read a line, write, flush, rotate", False),
    ]
    section.rows = [_row(kind, name, what, samples, ours) for name, what, ours in rows if name in samples]
    return section


def _row(kind: str, name: str, what: str, samples: Samples, ours: bool) -> Row:
    low, middle, high = quartiles(ratios(samples[name], samples["cat"]))
    rate = quartiles(samples[name])[1] / (1 << 20)
    key = f"logs-{kind}.{name}"
    bar = 0.9 if ours else None
    return Row(key, what, middle, "x", low, high, f"{rate:.0f} MiB/s", ours=ours, bar=bar, at_least=True,
               limit=name == "cat", by="safesh" if ours else "" if name == "cat" else name)  # fmt: skip


def file_system(folder: str) -> str:
    """The type of the file system ``folder`` lies on, "?" where nobody tells."""
    best, kind = "", "?"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for mount in mounts:
        _device, point, found, *_rest = mount.split()
        inside = folder == point or folder.startswith(point.rstrip("/") + os.sep)
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind
