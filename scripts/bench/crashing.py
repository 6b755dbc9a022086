"""A supervisor whose programs fail as soon as they start: what each restart costs it. Run inside an enclosure."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import enclosure, tuning
from bench.enclosure import look, wait_for
from bench.rivals.base import Hall, Rival
from bench.stage import BenchError, Stage

_FIRST = 15.0  # seconds for the first failure of all
_ONE_BY_ONE = ("circus", "monit")  # refuse a command while they carry out another
_SAMPLE = 200  # how often the program is run bare, to know its own CPU time


def crasher(counter: Path) -> list[str]:
    """A program that leaves a mark and fails; dash does both by itself."""
    return ["/bin/sh", "-c", 'printf . >>"$0"; exit 1', str(counter)]


def own_cpu(command: list[str]) -> float:
    """Seconds of one run of it, from its exec(2) on, by the kernel's account."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(_SAMPLE):
        os.waitpid(os.posix_spawn(command[0], command, {}), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / _SAMPLE


def spent(but: set[int]) -> float:
    """Seconds that everybody here has used up to now, the dead through whoever waited for them.

    The living are asked for nanoseconds, thread by thread; what they have collected comes in ticks.
    """
    total = 0.0
    for one in look().values():
        if one.pid in but:
            continue
        exact = 0.0
        try:
            for task in Path(f"/proc/{one.pid}/task").iterdir():
                exact += int((task / "schedstat").read_text().split()[0]) / 1e9
        except (OSError, ValueError, IndexError):
            exact = one.cpu
        total += exact + one.collected
    return total


def prepare(
    stage: Stage, rival: Rival, changes: dict[str, str], seconds: float, programs: int
) -> tuple[Hall, Callable[[], dict[str, Any]]]:
    """The supervisor of so many failing programs, to be opened, and what measures it then.

    programs: they fail at once, so that few restarts of each give a figure, too.
    """
    counters = {f"p{number}": stage.folder / f"count-{number}" for number in range(programs)}
    hall = rival.running(stage, {name: crasher(counter) for name, counter in counters.items()}, restart=True)
    hall.changes.update(changes)
    tuning.looping(hall)
    return hall, lambda: loop(stage, hall, counters, seconds)


def loop(stage: Stage, hall: Hall, counters: dict[str, Path], seconds: float) -> dict[str, Any]:
    """Restarts made within ``seconds`` after the first failure of the last program, and the CPU seconds for them."""
    enclosure.require()

    def starts() -> int:
        return sum(counter.stat().st_size for counter in counters.values() if counter.exists())

    own = own_cpu(crasher(stage.folder / "sample"))
    asking = []
    for name in counters:
        command = hall.start(name)
        if command is None:
            raise BenchError("has no start command")
        asking.append(stage.begin(command, **hall.changes))
        if hall.rival.name in _ONE_BY_ONE:
            asking.pop().wait(_FIRST)
    if not wait_for(lambda: all(counter.exists() for counter in counters.values()), _FIRST) and not starts():
        raise BenchError("the programs were not started")
    # Whoever asks is not the supervisor; and neither are we.
    but = {os.getpid(), *(child.pid for child in asking)}
    before, began, first = spent(but), time.monotonic(), starts()
    time.sleep(seconds)
    after, ended, last = spent(but), time.monotonic(), starts()
    restarts = last - first
    return {
        "restarts": restarts,
        "cpu": after - before,
        "children": own * restarts,
        "seconds": ended - began,
        "programs": sum(counter.exists() for counter in counters.values()),
    }
