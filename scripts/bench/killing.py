"""A tree of many processes and its end at once: `stop --now` beside cgroup.kill, the fastest that there is."""

from __future__ import annotations

import os
import select
import time
from contextlib import ExitStack
from pathlib import Path

from bench.contest import BASE
from bench.figures import Samples, Section, Step, interleave, ratio_row
from bench.rivals.base import MARK, marked
from bench.rivals.safesh import Safesh
from bench.stage import DEADLINE, Bell, BenchError, Stage


def tree(stage: Stage, rounds: int, members: int = 100) -> Section:
    """``members`` processes that sleep, from before the command or system call until the last one is gone."""
    section = Section("side-kill", f"stop at once of a tree of {members} processes, until the last one is gone", BASE)
    script = f'i=1; while [ $i -lt {members} ]; do sleep 600 & i=$((i + 1)); done; echo > "$0"; wait'
    with ExitStack() as stack:
        bell = Bell(stage, "tree")
        stack.callback(bell.close)
        program = ["/bin/sh", "-c", script, bell.path]
        hall = stack.enter_context(Safesh.find(stage, False).running(stage, {"many": program}))

        def ours() -> dict[str, float]:
            stage.call(hall.start("many") or [], **hall.changes)
            bell.wait()
            _all_there(hall.mark, members)
            seconds = stage.time([*(hall.stop("many") or []), "--now"], **hall.changes)
            if left := marked(hall.mark):
                raise BenchError(f"stop --now has left {len(left)} processes")
            return {"safesh": seconds}

        def one_by_one() -> dict[str, float]:
            mark = f"{stage.folder.name}-loop"
            child = stage.begin(program, **{MARK: mark})
            bell.wait()
            watch = select.poll()
            found = _all_there(mark, members)
            descriptors = [os.pidfd_open(pid) for pid in found]
            try:
                for descriptor in descriptors:
                    watch.register(descriptor, select.POLLIN)
                begin = time.perf_counter()
                for pid in found:  # of a namespace that nobody else gives pids in, or our own children's children
                    os.kill(pid, 9)
                open_ones = set(descriptors)
                while open_ones:
                    for descriptor, _event in watch.poll(DEADLINE * 1000):
                        watch.unregister(descriptor)
                        open_ones.discard(descriptor)
                seconds = time.perf_counter() - begin
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            stage.end(child)
            return {"loop": seconds}

        steps: list[Step] = [lambda: {"bare": stage.time([stage.python, "-c", "pass"])}, ours, one_by_one]
        folder = _cgroup(stage, section)
        if folder is not None:
            stack.callback(folder.rmdir)
            steps.append(lambda: _by_cgroup(stage, bell, folder, program, members))
        samples: Samples = interleave(steps, rounds)
    if "cgroup" in samples:
        limit = "`cgroup.kill`, until its cgroup is empty (the limit)"
        section.rows.append(ratio_row("side-kill.cgroup", limit, samples, "cgroup", "bare", limit=True))
    section.rows += [
        ratio_row("side-kill.loop", "kill(2) of one after the other, their pids known (no way to hold a tree)", samples,
                  "loop", "bare"),
        ratio_row("side-kill.bare", "bare Python, doing nothing (the limit of anything in Python)", samples, "bare",
                  "bare", limit=True),
        ratio_row("side-kill.safesh", "`safe.sh stop many --force --now`", samples, "safesh", "bare", ours=True),
    ]  # fmt: skip
    return section


def _all_there(mark: str, members: int) -> list[int]:
    found = marked(mark)
    limit = time.monotonic() + DEADLINE
    while sum(_sleeps(pid) for pid in found) < members - 1:
        if time.monotonic() > limit:
            raise BenchError(f"only {len(found)} of {members} processes came up")
        time.sleep(0.01)
        found = marked(mark)
    return found


def _sleeps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")
    except OSError:
        return False


def _cgroup(stage: Stage, section: Section) -> Path | None:
    """A cgroup of our own, below the one that this process is in."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = [line.split()[4] for line in lines if line.partition(" - ")[2].startswith("cgroup2 ")]
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = Path(mounts[0] + own.removeprefix("0::")) / f"bench-{stage.folder.name}"
        folder.mkdir()
    except (OSError, IndexError, StopIteration) as error:
        section.missing.append(f"cgroup.kill: no cgroup v2 folder to be made here ({str(error) or 'not mounted'})")
        return None
    if not (folder / "cgroup.kill").exists():
        folder.rmdir()
        section.missing.append("cgroup.kill: this kernel has none (5.14)")
        return None
    return folder


def _by_cgroup(stage: Stage, bell: Bell, folder: Path, program: list[str], members: int) -> dict[str, float]:
    mark = f"{stage.folder.name}-cgroup"
    join = ["/bin/sh", "-c", 'echo $$ >"$0"; exec "$@"', str(folder / "cgroup.procs")]
    child = stage.begin([*join, *program], **{MARK: mark})
    bell.wait()
    _all_there(mark, members)
    events = os.open(folder / "cgroup.events", os.O_RDONLY)
    try:
        watch = select.poll()
        watch.register(events, select.POLLPRI)
        os.read(events, 4096)
        begin = time.perf_counter()
        (folder / "cgroup.kill").write_text("1")
        while b"populated 0" not in os.pread(events, 4096, 0):
            if not watch.poll(DEADLINE * 1000):
                raise BenchError("cgroup.kill did not empty its cgroup")
        seconds = time.perf_counter() - begin
    finally:
        os.close(events)
    child.wait(DEADLINE)
    stage.end(child)
    if left := marked(mark):
        raise BenchError(f"cgroup.kill has left {len(left)} processes")
    return {"cgroup": seconds}
