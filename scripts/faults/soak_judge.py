"""What a soak's readings mean: which of them grow, and what bounds the rest."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any, NamedTuple

from faults.part import Figure
from faults.soak_crowd import LOG_KEEP, LOG_SIZE, RUNS_KEPT, Member
from faults.trend import Point, Trend, judge

_MIB = 1 << 20
_EVENTS_BOUND = 2 * 5 * _MIB  # supervise/events.py: one older part
_SPOOL_BOUND = 4 * 2 * _MIB  # metrics/spool.py: one older part, and both again while they are taken in
_LONGEST_LINE = 1 << 16  # core/rotation.py: what a part may be longer
_LOG_BOUND = (LOG_KEEP + 2) * LOG_SIZE + _LONGEST_LINE  # the one being written, and one being removed


class Size(NamedTuple):
    """How much is done. life, wait: seconds of a run and of the pause after it; every: between two readings; asking,
    killing: between two queries, two SIGKILLs; hourly: KiB an hour that memory of a process may grow by, averaged over
    all (64 are some 80 bytes a restart: an object and what refers to it); slack: KiB that it may grow by in all, for
    times too short to tell a slope in."""

    many: int
    seconds: float
    life: float
    wait: float
    every: float
    asking: float
    killing: float
    hourly: float
    slack: float


class Soak(NamedTuple):
    """What was seen."""

    size: Size
    them: list[Member]
    series: list[dict[str, Any]]
    rows: tuple[dict[str, int], dict[str, int]]
    killed: dict[str, int]
    asked: int
    cpu: float  # seconds of the supervisors and all below them, over the time
    left: list[str]  # who was still there after the stop
    problems: list[str]


def kept(soak: Soak) -> list[Member]:
    """Those whose supervisor lives through the whole soak."""
    return [one for one in soak.them if one.kind != "mortal"]


def growths(soak: Soak, field: str, last: float = 2 / 3) -> dict[str, Trend]:
    """How ``field`` of each supervisor goes over the ``last`` share of the time."""
    memory = field not in ("fds", "threads")
    bounds = (soak.size.hourly, soak.size.slack) if memory else (0.5, 0.5)
    return {
        one.name: judge(
            [
                (look["at"], look["supervisor"][one.name][field])
                for look in soak.series
                if one.name in look["supervisor"]
            ],
            *bounds,
            last=last,
        )
        for one in kept(soak)
    }


def average(soak: Soak, kind: str, field: str) -> list[Point]:
    """Of all supervisors, or keepers, that live at the moment. A keeper lives as long as a run, so its series is made
    of many; what it has beyond its first moments is what its supervisor had at the fork."""
    steady = {one.name for one in kept(soak)}
    points = []
    for look in soak.series:
        values = [value[field] for name, value in look[kind].items() if name in steady]
        if values:
            points.append((look["at"], statistics.fmean(values)))
    return points


class Table:
    """Figures as they come, and those that miss their bar as problems."""

    def __init__(self, problems: list[str]) -> None:
        self.figures: list[Figure] = []
        self.problems = list(problems)

    def add(self, what: str, measured: str, bar: str = "", ok: bool | None = None, note: str = "") -> None:
        self.figures.append(Figure(what, measured, bar, ok, note))
        if ok is False:
            self.problems.append(f"{what}: {measured}, promised {bar}{': ' + note if note else ''}")


def judged(soak: Soak) -> tuple[list[Figure], list[str]]:
    """(the table, what is wrong)."""
    table = Table(soak.problems)
    restarts = sum(soak.series[-1]["restarts"].values())
    table.add("restarts seen", f"{restarts}", note=f"{soak.cpu / soak.size.seconds:.0%} of a core, targets included")
    _add_memory(table, soak)
    _add_numbers(table, soak)
    _add_files(table, soak)
    return table.figures, table.problems


def _shown(hourly: float, grown: float, size: Size, unit: str = "KiB") -> str:
    """A slope as people read it; one of a minute says nothing by the hour."""
    return f"{grown:+.1f} {unit} in all" if size.slack else f"{hourly:+.1f} {unit}/h"


def _add_memory(table: Table, soak: Soak) -> None:
    size = soak.size

    def most(hourly: float) -> str:
        return f"≤ {size.slack:g} KiB in all" if size.slack else f"≤ {hourly:.0f} KiB/h"

    for kind in ("supervisor", "keeper"):
        for field, name in (("anon", "own memory (anonymous)"), ("uss", "USS"), ("pss", "PSS")):
            one = judge(average(soak, kind, field), size.hourly, size.slack)
            # The last two are shares: they move with how many happen to live, and to share with, at the moment.
            exact = field == "anon"
            bound = size.hourly if exact else 0.05 * one.begin
            ok = one.flat if exact else one.hourly <= bound if not size.slack else None
            table.add(
                f"{name} of a {kind}, average of all: slope",
                _shown(one.hourly, one.grown, size),
                most(bound) if ok is not None else "",
                ok,
                f"{one.begin:.0f} to {one.end:.0f} KiB",
            )
    every = growths(soak, "anon").values()
    middle = _shown(statistics.median(one.hourly for one in every), statistics.median(one.grown for one in every), size)
    table.add("own memory of a supervisor, the median of all: slope", middle)
    last = growths(soak, "anon", last=1 / 3)
    of_kind: dict[str, list[Trend]] = {}
    for member in kept(soak):
        of_kind.setdefault(member.kind, []).append(last[member.name])
    medians = {kind: statistics.median(one.hourly for one in found) for kind, found in of_kind.items()}
    grown = {kind: statistics.median(one.grown for one in found) for kind, found in of_kind.items()}
    worst = max(medians, key=lambda kind: medians[kind])
    table.add(
        "the same by kind, in the last third: the worst median",
        _shown(medians[worst], grown[worst], size),
        most(size.hourly),
        all(medians[kind] <= size.hourly or grown[kind] <= size.slack for kind in medians),
        ", ".join(f"{kind} {_shown(medians[kind], grown[kind], size)}" for kind in medians),
    )
    worst = max(last, key=lambda name: last[name].hourly)
    table.add(
        "the supervisor that grows most in the last third",
        _shown(last[worst].hourly, last[worst].grown, size),
        most(8 * size.hourly),
        all(one.hourly <= 8 * size.hourly or one.grown <= size.slack for one in last.values()),
        f"{worst}: {last[worst].begin:.0f} to {last[worst].end:.0f} KiB",
    )


def _add_numbers(table: Table, soak: Soak) -> None:
    series, size = soak.series, soak.size
    for kind in ("supervisor", "keeper"):
        fds = judge(average(soak, kind, "fds"), 0.5, 4.0 if size.slack else 0.5)
        most = max(value["fds"] for look in series for value in look[kind].values())
        bar, measured = "≤ 4" if size.slack else "≤ 0.5", _shown(fds.hourly, fds.grown, size, "descriptors")
        table.add(f"descriptors of a {kind}, average: slope", measured, bar, fds.flat, f"at most {most}")
    threads = max(value["threads"] for look in series for k in ("supervisor", "keeper") for value in look[k].values())
    table.add("threads of a supervisor or keeper, at most", f"{threads}", "1", threads == 1)
    # An instance has one to four at a time.
    some = size.many * (2.0 if size.slack else 0.5)
    processes = judge([(look["at"], look["processes"]) for look in series], size.many / 5, some)
    measured = _shown(processes.hourly, processes.grown, size, "processes")
    bar, note = f"≤ {some if size.slack else size.many / 5:g}", f"{processes.begin:.0f} to {processes.end:.0f}"
    table.add("processes in all: slope", measured, bar, processes.flat, note)
    stale = max((len({*one["zombies"]} & {*other["zombies"]}) for one, other in pairwise(series)), default=0)
    table.add(f"zombies older than {size.every:g} s", f"{stale}", "0", stale == 0)
    left = "; ".join(soak.left[:3])
    table.add("processes and control groups left after the stop", f"{len(soak.left)}", "0", not soak.left, left)


def _add_files(table: Table, soak: Soak) -> None:
    series, (first, last) = soak.series, soak.rows
    size = soak.size
    # The parts of a log come one by one until there are as many as are kept.
    some = size.many * (LOG_KEEP + 1.0) if size.slack else 0.0
    files = judge([(look["at"], look["files"]) for look in series], size.many / 5, some)
    measured = _shown(files.hourly, files.grown, size, "files")
    bar, note = f"≤ {some or size.many / 5:g}", f"{files.begin:.0f} to {files.end:.0f}"
    table.add("files in the state folder: slope", measured, bar, files.flat, note)
    longest = max(look["log"] for look in series)
    bar = f"≤ {_size(_LOG_BOUND)}"
    table.add("log of one instance with its parts, at most", _size(longest), bar, longest <= _LOG_BOUND)
    for kind, bound in (("events", _EVENTS_BOUND), ("spool", _SPOOL_BOUND)):
        most = max(look["bytes"][kind] for look in series)
        name = {"events": "events.jsonl", "spool": "history.spool"}[kind]
        good = most <= bound + _LONGEST_LINE
        table.add(f"{name} with its older part, at most", _size(most), f"≤ {_size(bound)}", good)
    runs = last["runs of one target"]
    note = f"it began full; {first['runs']} to {last['runs']} in all"
    table.add("runs of one target in history.db", f"{runs}", f"≤ {RUNS_KEPT}", runs <= RUNS_KEPT, note)
    sizes = [look["bytes"]["database"] for look in series]
    grown, fresh = max(0, sizes[-1] - sizes[0]), last["raw"] - first["raw"]
    day = 25 * 3600 * grown / soak.size.seconds
    table.add(
        "history.db with its log",
        f"{_size(sizes[0])} to {_size(sizes[-1])}",
        note=f"{fresh} new rows of samples, {grown / max(1, fresh):.0f} bytes each; at this rate the"
        f" 24 to 25 hours that they are kept for are {_size(day)}",
    )
    names = ("raw", "minute", "hour", "run_keys")
    table.add("rows of samples", ", ".join(f"{name} {first[name]} to {last[name]}" for name in names))


def _size(count: float) -> str:
    return f"{count / _MIB:.1f} MiB" if count >= _MIB else f"{count / 1024:.0f} KiB"
