"""The supervisors side by side, idle: what the memory of each costs, with one program and with ten, and how often it
wakes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.figures import Row, Section
from bench.loner import loner
from bench.memory import Reading, read
from bench.rivals.base import Rival
from bench.stage import BenchError, Stage

_SETTLE = 3.0


class Idling(NamedTuple):
    before: list[Reading]
    after: list[Reading]

    @property
    def pss(self) -> int:
        return sum(one.pss for one in self.before)

    @property
    def slept(self) -> int:
        return sum(one.slept for one in self.after) - sum(one.slept for one in self.before)


def idle(stage: Stage, rivals: Sequence[Rival], seconds: float, counts: Sequence[int]) -> Iterator[Section]:
    """With so many programs each; all contestants at once, each Python with its own copy of the interpreter."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        yield Section("side-memory", "idle memory", "PSS", missing=["this system has no /proc/PID/smaps_rollup"])
        return
    for count in counts:
        found = _measure(stage, rivals, count, seconds)
        programs = "one idle program" if count == 1 else f"{count} idle programs"
        memory = Section(
            f"side-memory-{count}", f"memory of the supervisor with {programs}", "PSS of its own processes"
        )
        wakeups = Section(
            f"side-wakeups-{count}",
            f"wakeups of the supervisor with {programs}, in {seconds:g} s",
            "Voluntary context switches of its own processes, all threads",
        )
        for name, one in found.items():
            what = name if name != "bare" else "bare Python, asleep (the limit of one process in Python)"
            ours, limit = name == "safesh", name == "bare"
            by = "" if limit else name
            processes = f"{len(one.before)} process{'es' if len(one.before) > 1 else ''}"
            note = f"a pair a program: {processes}" if ours else processes
            mebibytes = one.pss / 1024
            memory.rows.append(
                Row(f"{memory.key}.{name}", what, mebibytes, "MiB", mebibytes, mebibytes, absolute=f"{one.pss} KiB",
                    note=note, ours=ours, by=by, limit=limit)
            )  # fmt: skip
            wakeups.rows.append(
                Row(f"{wakeups.key}.{name}", what, one.slept, "", one.slept, one.slept, ours=ours, by=by, limit=limit)
            )
        yield memory
        yield wakeups


def _measure(stage: Stage, rivals: Sequence[Rival], count: int, seconds: float) -> dict[str, Idling]:
    programs = {f"p{number}": ["sleep", "600"] for number in range(count)}
    pids: dict[str, list[int]] = {}
    with ExitStack() as stack:
        bare = loner(stage, f"bare-{count}")
        child = stage.begin([bare.python, "-c", "import time; time.sleep(600)"], **bare.changes)
        stack.callback(stage.end, child)
        pids["bare"] = [child.pid]
        for rival in rivals:
            hall = stack.enter_context(rival.running(stage, programs, alone=True))
            running = hall.begin_all()
            pids[rival.name] = hall.pids()
            if not pids[rival.name] or set(running) & set(pids[rival.name]) or len(set(running)) != count:
                raise BenchError(
                    f"{rival.name}: its processes {pids[rival.name]} and its programs' {running} are mixed up"
                )
        time.sleep(min(_SETTLE, 2 * seconds))
        before = {name: [read(pid) for pid in group] for name, group in pids.items()}
        time.sleep(seconds)
        after = {name: [read(pid) for pid in group] for name, group in pids.items()}
    return {name: Idling(before[name], after[name]) for name in pids}
