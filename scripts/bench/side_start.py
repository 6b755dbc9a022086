"""Side by side: from a start's command to the program's first action, and from a stop's to its end."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bench.contest import BASE, bare_steps, limit_rows, shown_command
from bench.figures import Samples, Section, ratio_row
from bench.rivals.base import Hall, Rival, Wrapping, below
from bench.stage import DEADLINE, Bell, BenchError, Stage

_WITH = "its supervisor comes with it"
_SETTLE = 1.2  # seconds a program runs before it is stopped: runit and s6 pause after one that ran for less than 1


def start_and_stop(stage: Stage, rivals: Sequence[Rival], rounds: int) -> tuple[Section, Section, Section]:
    """A round starts everybody's program, lets each run for a while, and stops everybody's."""
    starting = Section("side-start", "start: the command until the program's first action", BASE)
    returned = Section("side-stop", "stop: the command until it returns", BASE)
    ended = Section("side-gone", "stop: the command until the program is gone", BASE)
    with ExitStack() as stack:
        bell = Bell(stage, "first")
        stack.callback(bell.close)
        program = ["/bin/sh", "-c", f"echo runs > {bell.path}; exec sleep 600"]
        halls = {rival.name: stack.enter_context(rival.running(stage, {"one": program})) for rival in rivals}
        games: dict[str, Game] = {
            name: Wrapped(stage, bell, hall) if isinstance(hall, Wrapping) else Supervised(stage, bell, hall)
            for name, hall in halls.items()
        }
        games["limit"] = Alone(stage, bell, program)
        for game in games.values():
            stack.callback(game.close)
        samples = _rounds(stage, rivals, games, rounds)
    for section, series, limit in (
        (starting, "start", "the program started by fork and exec (the limit)"),
        (returned, "stop", "kill(2) and waitpid(2) of the program alone (the limit)"),
        (ended, "gone", "kill(2) until the program is gone (the limit)"),
    ):
        key = f"{series} limit"
        section.rows.append(ratio_row(f"{section.key}.limit", limit, samples, key, "bare", limit=True))
        limit_rows(section, samples)
        for rival in rivals:
            hall = halls[rival.name]
            what, note = _label(hall, series)
            by = "" if series == "stop" and not rival.waits else rival.name
            row = ratio_row(
                f"{section.key}.{rival.name}", what, samples, f"{series} {rival.name}", "bare",
                ours=rival.ours, by=by, note=note,
            )  # fmt: skip
            section.rows.append(row)
    return starting, returned, ended


def _label(hall: Hall, series: str) -> tuple[str, str]:
    """(what, note) of a row."""
    rival = hall.rival
    if rival.kind == "wrapper":
        words = f"`{rival.name} start one`" if rival.name == "honcho" else f"`{rival.name} -- PROGRAM`"
        if series == "start":
            return words, _WITH if rival.name == "honcho" else ""
        return f"SIGTERM to {rival.name}, which ends with the program", ""
    command = (hall.start if series == "start" else hall.stop)("one")
    assert command is not None
    if series == "start":
        return shown_command(command), _WITH if rival.ours else "its daemon runs already"
    waits = rival.waits or series == "gone"
    return shown_command(command), "" if waits else "does not wait, so it is no contestant"


class Game:
    """One contestant's start and stop. closed: nothing runs."""

    def start(self) -> float:
        raise NotImplementedError

    def stop(self) -> tuple[float, float]:
        """(until the command returned, until the program was gone)."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class Alone(Game):
    """No supervisor: fork and exec, kill and wait."""

    def __init__(self, stage: Stage, bell: Bell, program: list[str]) -> None:
        self.stage, self.bell, self.program = stage, bell, program
        self.pid = 0

    def start(self) -> float:
        self.pid = self.stage.spawn(self.program)
        self.bell.wait()
        return time.perf_counter() - self.stage.spawned

    def stop(self) -> tuple[float, float]:
        pid, self.pid = self.pid, 0
        return _kill(pid, pid)

    def close(self) -> None:
        if self.pid:
            self.stop()


class Supervised(Game):
    """By a daemon's commands."""

    def __init__(self, stage: Stage, bell: Bell, hall: Hall) -> None:
        self.stage, self.bell, self.hall = stage, bell, hall

    def start(self) -> float:
        command = self.hall.start("one")
        assert command is not None
        pid = self.stage.spawn(command, **self.hall.changes)
        self.bell.wait()
        seconds = time.perf_counter() - self.stage.spawned
        self.stage.ended(pid, command)
        return seconds

    def stop(self) -> tuple[float, float]:
        program, command = self.hall.program_pid("one"), self.hall.stop("one")
        if program is None or command is None:
            raise BenchError(f"{self.hall.rival.name}: its program does not run any more")
        return _both(lambda: self.stage.spawn(command, **self.hall.changes), program)


class Wrapped(Alone):
    """By a command around it, and SIGTERM to that."""

    def __init__(self, stage: Stage, bell: Bell, hall: Wrapping) -> None:
        super().__init__(stage, bell, hall.start("one") or [])
        self.hall = hall

    def start(self) -> float:
        self.pid = self.stage.spawn(self.program, **self.hall.changes)
        self.bell.wait()
        return time.perf_counter() - self.stage.spawned

    def stop(self) -> tuple[float, float]:
        pid, self.pid = self.pid, 0
        return _kill(pid, below(pid, self.hall.between + 1)[0])


def _kill(pid: int, program: int) -> tuple[float, float]:
    def ask() -> int:
        os.kill(pid, signal.SIGTERM)
        return pid

    return _both(ask, program)


def _both(ask: Callable[[], int], program: int) -> tuple[float, float]:
    """Seconds from before ``ask`` until the child that it gives has ended, and until ``program`` has."""
    theirs = os.pidfd_open(program)
    child = -1
    begin = time.perf_counter()
    try:
        pid = ask()
        child = os.pidfd_open(pid)
        watch = select.poll()
        waiting = {theirs: 0.0, child: 0.0}
        for descriptor in waiting:
            watch.register(descriptor, select.POLLIN)
        while open_ones := [one for one, seconds in waiting.items() if not seconds]:
            if not (ready := watch.poll(DEADLINE * 1000)):
                raise BenchError(f"a program or the command that stops it did not end within {DEADLINE:g} s")
            now = time.perf_counter() - begin
            for descriptor, _event in ready:
                if descriptor in open_ones:
                    waiting[descriptor] = now
                    watch.unregister(descriptor)
        os.waitpid(pid, 0)
        return waiting[child], waiting[theirs]
    finally:
        os.close(theirs)
        if child >= 0:
            os.close(child)


def _rounds(stage: Stage, rivals: Sequence[Rival], games: dict[str, Game], rounds: int) -> Samples:
    """The first round is left out."""
    samples: Samples = {}
    bare = bare_steps(stage, rivals)
    for number in range(rounds + 1):
        names = list(games)
        names = [*names[number % len(names) :], *names[: number % len(names)]]
        found: dict[str, float] = {}
        for step in bare:
            found |= step()
        began = {}
        for name in names:
            found[f"start {name}"] = games[name].start()
            began[name] = time.monotonic()
        for name in names:
            time.sleep(max(0.0, began[name] + _SETTLE - time.monotonic()))
            found[f"stop {name}"], found[f"gone {name}"] = games[name].stop()
        if number:
            for name, value in found.items():
                samples.setdefault(name, []).append(value)
    return samples
