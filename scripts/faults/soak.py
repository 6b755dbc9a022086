"""Half an hour of fifty instances that log and crash: nothing of ours grows, and what they leave behind is bounded.

The judge is a robust slope (``trend``) over the last two thirds of the time. All of it happens in a pid and mount
namespace of its own, for supervisors and keepers are killed in it as well.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faults import namespace
from faults.part import Options, Part, PartError
from faults.soak_crowd import Crowd, Member, members
from faults.soak_judge import Size, Soak, judged
from faults.soak_watch import cpu_seconds, groups_left, reading, rows

KEY, TITLE = "soak", "Soak"
FULL = Size(50, 1800.0, 2.6, 1.4, 10.0, 15.0, 20.0, 64.0, 0.0)
# The slack is above what a supervisor takes when it is first asked something, and loads the code for it.
QUICK = Size(8, 12.0, 0.25, 0.15, 0.5, 2.0, 3.0, 64.0, 400.0)


def run(options: Options) -> Part:
    """The part: everything inside, judged and told here."""
    size = QUICK if options.quick else FULL
    if options.minutes is not None:
        size = size._replace(seconds=options.minutes * 60)
        if size.seconds < FULL.seconds:  # a process warms up over some hundreds of restarts
            size = size._replace(slack=QUICK.slack)
    begun = time.monotonic()
    soak = observe(size, options.seed)
    again = f"make faults ARGS='--only {KEY} --seed {options.seed}{' --quick' if options.quick else ''}'"
    figures, problems = judged(soak)
    about = (
        f"{size.many} instances for {size.seconds / 60:.4g} minutes, each logging and crashing every "
        f"{size.life + 1.5 * size.wait:.2g} s; {sum(soak.killed.values())} SIGKILLs, {soak.asked} queries. Slopes are "
        "Theil and Sen's, of the last two thirds where nothing else is said."
    )
    failures = [f"{text} [{again}]" for text in problems]
    return Part(KEY, TITLE, about, figures, failures, time.monotonic() - begun)


def observe(size: Size, seed: int, leaky: int = 0) -> Soak:
    """Run it, in a namespace of its own. leaky: so many of the instances are held by a supervisor that leaks.

    PartError where there is no namespace.
    """
    if namespace.inside():
        return _soak(size, seed, leaky)
    with tempfile.TemporaryDirectory(prefix="safesh-soak-") as folder:
        told = os.path.join(folder, "told.json")
        command = [sys.executable, "-m", "faults.soak", json.dumps([size, seed, leaky]), told]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        try:
            inner = namespace.enter(command, size.seconds + 300, environ=environ)
        except RuntimeError as error:
            raise PartError(f"soak: {error}") from None
        code = 1
        try:
            code = inner.process.wait()
        finally:
            inner.close()
        if code or not os.path.exists(told):
            raise PartError(f"soak: what ran in the pid namespace ended with status {code}")
        return _revive(json.loads(Path(told).read_text()))


def _revive(plain: list[Any]) -> Soak:
    size, them, series, counts, *rest = plain
    return Soak(Size(*size), [Member(*one) for one in them], series, (counts[0], counts[1]), *rest)


def _soak(size: Size, seed: int, leaky: int) -> Soak:
    folder = Path(tempfile.mkdtemp(prefix="safesh-soak-"))
    try:
        crowd = Crowd(folder, members(size.many, leaky), size.life, size.wait, seed)
        crowd.fill_history()
        crowd.start()
        try:
            return _watch(crowd, size)
        finally:
            crowd.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(crowd: Crowd, size: Size) -> Soak:
    begun = time.monotonic()
    dues = {"look": 0.0, "ask": size.asking, "kill": size.killing}
    every = {"look": size.every, "ask": size.asking, "kill": size.killing}
    series: list[dict[str, Any]] = []
    cpu, first = cpu_seconds(crowd), rows(crowd)
    keep = os.environ.get("SOAK_SERIES")  # a file that gets every reading at once, to look at a long one under way
    while (now := time.monotonic() - begun) < size.seconds:
        what = min(dues, key=lambda name: dues[name])
        if now < dues[what]:
            time.sleep(min(dues[what], size.seconds) - now)
            continue
        dues[what] = max(dues[what] + every[what], now)
        if what == "look":
            series.append(reading(crowd, begun))
            if keep:
                with open(keep, "a", encoding="utf-8") as file:
                    file.write(json.dumps(series[-1]) + "\n")
        elif what == "ask":
            crowd.ask()
        else:
            crowd.kill()
    cpu, last = cpu_seconds(crowd) - cpu, rows(crowd)
    crowd.stop()
    left = _left(crowd)
    return Soak(size, crowd.them, series, (first, last), crowd.killed, crowd.asked, cpu, left, crowd.problems)


def _left(crowd: Crowd) -> list[str]:
    """Whose environment says that they are of this soak, and control groups of its runs."""
    mark = f"SAFESH_INSTANCE={crowd.state}/".encode()
    limit = time.monotonic() + 10  # a scribe, or a courier, has a deadline of its own
    while True:
        left = [f"control group of run {run}" for run in groups_left(crowd)]
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    if mark in Path(f"/proc/{name}/environ").read_bytes():
                        left.append(f"pid {name}: {Path(f'/proc/{name}/cmdline').read_bytes()!r}")
                except OSError:
                    continue
        if not left or time.monotonic() > limit:
            return left
        time.sleep(0.1)


if __name__ == "__main__":
    _size_text, _seed, _leaky = json.loads(sys.argv[1])
    Path(sys.argv[2]).write_text(json.dumps(_soak(Size(*_size_text), _seed, _leaky)))
