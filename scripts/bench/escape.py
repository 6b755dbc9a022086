"""The escape test: who is still there after the stop command, and after SIGKILL of the supervisor."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, NamedTuple

from bench import enclosure
from bench.escapees import KINDS
from bench.figures import Row, Section
from bench.rivals.base import Hall, How, Programs, Rival, Wrapping
from bench.rivals.small import Small
from bench.stage import SAFE, BenchError, Stage

_DEADLINE = 180.0  # seconds for one contestant and one question
_AT_ONCE = 6  # they mostly wait
_GRACE = 3.0  # from asking to killing, where a contestant has such a thing
_STOP = ["stop", f"{_GRACE:g}"]
_BACKENDS = ("cgroup", "subreaper", "posix")
_LAYERS = {
    "runit": {"top": "runsvdir", "each": "runsv"},
    "s6": {"top": "s6-svscan", "each": "s6-supervise"},
}
_ABSENT = {"systemd": "it has to be pid 1 of a machine of its own"}
_PROCESSES = len(KINDS) + 2  # main, and the plain parent of nested


class Contestant(NamedTuple):
    """rival: how it is started and told to stop; what: its row; changes: to the environment;
    parts: what of it is killed, part -> row."""

    key: str
    what: str
    rival: Rival
    changes: dict[str, str]
    parts: dict[str, str]

    @property
    def whole(self) -> bool:
        """Whether we promise that nobody is left: with a supervisor, on what a Linux machine has."""
        return self.rival.ours and self.rival.kind == "daemon" and self.key != "safesh-posix"


class _BareHall(Hall):
    def open(self) -> None:
        pass

    def start(self, name: str) -> list[str]:
        return self.programs[name]

    def status(self, name: str) -> None:
        return None

    def stop(self, name: str) -> list[str]:
        assert isinstance(self.rival, Bare)
        pid = self.program_pid(name)
        return ["/bin/sh", "-c", f"kill -- {-pid if self.rival.whole_group and pid else pid}"]

    def pids(self) -> list[int]:
        return []

    def program_pid(self, name: str) -> int | None:
        child = self.children.get(name)
        return child.pid if child is not None and child.poll() is None else None


class Bare(Rival):
    """No supervisor: the program in a session of its own, and SIGTERM to its main process or to its group."""

    name: ClassVar[str] = "bare"
    kind: ClassVar[Literal["daemon", "wrapper"]] = "wrapper"
    room = _BareHall

    def __init__(self, name: str, whole_group: bool) -> None:
        super().__init__("")
        self.whole_group = whole_group


class _WrapHall(Wrapping):
    def __init__(self, rival: Wrap, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        self.wrap = rival
        self.between = 1 if rival.first else 0

    def start(self, name: str) -> list[str]:
        return [*self.wrap.words, *self.programs[name]]

    def stop(self, name: str) -> list[str] | None:  # type: ignore[override]
        """unshare(1) stands around a first process, and passes no signal on."""
        return ["kill", *(str(pid) for pid in self.pids()[-1:])] if self.wrap.first else None


class Wrap(Rival):
    """A command around the program. first: it is started as pid 1 of a namespace of its own, as in a container."""

    kind: ClassVar[Literal["daemon", "wrapper"]] = "wrapper"
    room = _WrapHall

    def __init__(self, name: str, words: Sequence[str], *, first: bool = False, ours: bool = False) -> None:
        super().__init__("")
        self.words = [*(enclosure.COMMAND if first else ()), *words]
        self.first = first
        self.name, self.ours = name, ours  # type: ignore[misc]


def contestants(rivals: Sequence[Rival], grace: float = _GRACE) -> list[Contestant]:
    """Everybody, ours first, on each backend."""
    found: list[Contestant] = []
    for rival in rivals:
        if rival.ours:
            for backend in _BACKENDS:
                parts = {part: f"safesh ({backend}): {part} killed" for part in ("supervisor", "keeper", "both")}
                found.append(Contestant(f"safesh-{backend}", f"`safe.sh stop` ({backend})", rival,
                                        {"SAFESH_BACKEND": backend}, parts))  # fmt: skip
            for key, options in (
                ("exec", []),
                ("exec-end", ["--on-exit", "end", "--kill-after", f"{grace:g}", "--pdeathsig", "KILL"]),
            ):
                what = f"`{' '.join(['safe.sh', 'exec', *options])}`"
                wrap = Wrap(key, [SAFE, "exec", *options, "--"], ours=True)
                found.append(Contestant(f"safesh-{key}", what, wrap, {}, {"all": f"{what} killed"}))
        elif isinstance(rival, Small):
            words = [*rival.words, *(("-g",) if rival.name == "tini" else ()), "--"]
            shown = " ".join([rival.name, *words[:-1]])
            path = rival.program(rival.name)
            wrap = Wrap(rival.name, [path, *words])
            found.append(Contestant(rival.name, f"`{shown}`", wrap, {}, {"all": f"`{shown}` killed"}))
            if rival.name == "tini":
                wrap = Wrap(rival.name, [path, "-g", "--"], first=True)
                what = "`tini -g` as pid 1 of a container"
                found.append(Contestant("tini-first", what, wrap, {}, {"all": f"{what} killed"}))
        else:
            layers = _LAYERS.get(rival.name, {})
            parts = {part: f"{rival.name}: {what} killed" for part, what in layers.items()}
            parts["all"] = f"{rival.name}: both killed" if layers else f"{rival.name} killed"
            found.append(Contestant(rival.name, rival.name, rival, {}, parts))
    if timeout := shutil.which("timeout"):
        wrap = Wrap("timeout", [timeout, f"--kill-after={grace:g}", "3600"])
        found.append(Contestant("timeout", f"`timeout --kill-after={grace:g}`", wrap, {}, {"all": "`timeout` killed"}))
    nobody = (("bare", "`kill PID`, no supervisor", False), ("group", "`kill -- -PGID`, no supervisor", True))
    return [*found, *(Contestant(key, what, Bare(key, group), {}, {}) for key, what, group in nobody)]


def escape(_stage: Stage, rivals: Sequence[Rival], rounds: int, patience: float = 10.0) -> Iterable[Section]:
    """Each contestant in a pid namespace of its own, ``rounds`` times for the stop; shown is the worst round.

    patience: seconds between SIGKILL of the supervisor and the look at who is left.
    """
    everybody = contestants(rivals)
    yield _stops(everybody, rounds)
    yield _stops(everybody, 1, deaf=True)
    yield from _kills(everybody, patience)


def _stops(everybody: list[Contestant], rounds: int, deaf: bool = False) -> Section:
    """deaf: the main process ignores the asking, too, so that all of those who kill after a grace come to it."""
    section = Section(
        "escape-deaf" if deaf else "escape-stop",
        f"left one second after its own stop, of a program of {_PROCESSES} processes"
        + (" whose main process has to be killed" if deaf else ""),
        "processes of the program that are alive, counted from /proc in a pid namespace of its own; the worst round",
    )
    words = [*_STOP, "deaf"] if deaf else _STOP
    answers = _ask([(one, words) for _ in range(rounds) for one in everybody], section)
    for one in everybody:
        found = answers.get((one.key, " ".join(words)), [])
        if not found:
            continue
        counts = [len(answer["left"]) for answer in found]
        worst = found[counts.index(max(counts))]
        absolute = f"{named(worst['left'])}; said: {worst['claim']}"
        if worst["late"] > 0.5 and "main" not in worst["left"]:
            absolute += f", and its main process ended {worst['late']:.0f} s later"
        bar = 0.0 if one.whole else None
        section.rows.append(_row(section.key, one, "", one.what, counts, "left", absolute, bar=bar))
    return section


def _kills(everybody: list[Contestant], patience: float) -> Iterable[Section]:
    left = Section(
        "escape-kill",
        f"left {patience:g} seconds after SIGKILL of the supervisor, of {_PROCESSES} processes",
        "processes of the program that are alive; the grace is three seconds where there is one",
    )
    again = Section(
        "escape-again",
        "copies of the program after its user has started it again, the killed supervisor's included",
        "main processes that are alive; 2: it runs twice. Then it is stopped",
    )
    answers = _ask([(one, _kill(part, patience)) for one in everybody for part in one.parts], left)
    for one in everybody:
        for part, what in one.parts.items():
            for answer in answers.get((one.key, " ".join(_kill(part, patience))), []):
                within = f" after {answer['seconds']:.1f} s" if answer["seconds"] is not None else ""
                absolute = f"{named(answer['left'])}{within}"
                bar = 0.0 if one.whole and part != "both" else None
                counts = [len(answer["left"])]
                left.rows.append(_row("escape-kill", one, part, what, counts, "left", absolute, bar=bar))
                started = _started(answer)
                absolute = f"{started}; left after its stop: {named(answer['after_stop'])}"
                bar = 1.0 if one.whole else None
                again.rows.append(_row("escape-again", one, part, what, [answer["mains"]], "", absolute, bar=bar))
    yield left
    yield again


def _started(answer: dict[str, Any]) -> str:
    if answer["again"] == "started":
        return "started"
    if "exit status 75" in answer["again"]:
        return "refused: it says that it runs"
    return "not started: it runs" if answer["mains"] else f"not started: {answer['again'][:100]}"


def _kill(part: str, patience: float) -> list[str]:
    return ["kill", f"{_GRACE:g}", part, f"{patience:g}"]


def named(kinds: Sequence[str]) -> str:
    """``nobody``, or the kinds that are alive, in the order of the program's description."""
    counted = Counter(kinds)
    order = {kind: place for place, kind in enumerate(("main", *KINDS))}
    words = [
        kind if number == 1 else f"{number} {kind}"
        for kind, number in sorted(counted.items(), key=lambda item: order.get(item[0], 99))
    ]
    return ", ".join(words) or "nobody"


def _row(
    section: str, one: Contestant, part: str, what: str, counts: list[int], unit: str, absolute: str, bar: float | None
) -> Row:
    key = f"{section}.{one.key}" + (f"-{part}" if part not in ("", "all") else "")
    contest = "wrapper" if one.rival.kind == "wrapper" else "supervisor"
    by = "" if isinstance(one.rival, Bare) else "safesh" if one.rival.ours else one.rival.name
    return Row(
        key, what, float(max(counts)), unit, float(min(counts)), float(max(counts)),
        absolute=absolute, ours=one.rival.ours, bar=bar, by=by, contest=contest,
    )  # fmt: skip


def _ask(tasks: list[tuple[Contestant, list[str]]], section: Section) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The answers by contestant and question; who could not be asked is named in the section."""
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    section.missing += [f"{name}: {why}" for name, why in _ABSENT.items()]

    def ask(task: tuple[Contestant, list[str]]) -> dict[str, Any] | str:
        one, words = task
        try:
            return enclosure.run(words, (one.rival, one.changes), _DEADLINE)
        except BenchError as error:
            return str(error).replace("\n", " ")[-300:]

    with ThreadPoolExecutor(min(_AT_ONCE, 3 * (os.cpu_count() or 1))) as pool:
        for (one, words), answer in zip(tasks, pool.map(ask, tasks), strict=True):
            if isinstance(answer, str):
                section.missing.append(f"{one.parts.get(words[2], one.what) if words[2:] else one.what}: {answer}")
            else:
                answers.setdefault((one.key, " ".join(words)), []).append(answer)
    return answers
