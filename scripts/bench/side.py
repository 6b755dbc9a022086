"""The supervisors side by side: wrapper overhead and status; side_start.py, killing.py and side_idle.py have the rest.

Everybody takes part in every round.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from bench import killing, side_start
from bench.check import says_running
from bench.contest import BASE, bare_steps, limit_rows, program_words, shown_command
from bench.figures import Samples, Section, Step, interleave, ratio_row
from bench.rivals.base import Rival
from bench.stage import SAFE, BenchError, Stage


def _add(section: Section, samples: Samples, name: str, what: str, rival: str, **more: Any) -> None:
    ours = rival == "safesh"
    section.rows.append(ratio_row(f"{section.key}.{name}", what, samples, name, "bare", ours=ours, by=rival, **more))


def side(
    stage: Stage, rivals: Sequence[Rival], *, wrapper: int, status: int, start: int, kill: int
) -> Iterator[Section]:
    """The sections as they come; the numbers are rounds."""
    yield wrap(stage, rivals, wrapper)
    yield ask(stage, rivals, status)
    yield from side_start.start_and_stop(stage, rivals, start)
    yield killing.tree(stage, kill)


# ---- a command to its end


def wrap(stage: Stage, rivals: Sequence[Rival], rounds: int) -> Section:
    """`true`, run to its end by way of everybody who has a way."""
    section = Section("side-wrap", "wrapper overhead: `true` to its end", BASE)
    lines: dict[str, tuple[str, str, list[str], dict[str, str], str]] = {}  # rival, what, command, changes, note
    for rival in rivals:
        made = rival.wrap(stage, ("true",))
        if made is None:
            section.missing.append(f"{rival.name}: {rival.no_wrap}")
        else:
            command, changes = made
            lines[rival.name] = (rival.name, f"`{program_words(command)}`", command, changes, "")
    for rival in rivals:
        if rival.name == "honcho":
            folder = stage.folder / "honcho-true"
            folder.mkdir()
            (folder / "Procfile").write_text("one: exec true\n")
            command = [rival.program("honcho"), "-f", f"{folder}/Procfile", "start", "one"]
            lines["honcho-start"] = ("honcho", "`honcho start one`", command, {}, "")
        elif rival.name == "s6":
            lines["s6-setsid"] = ("", "`s6-setsid true`", ["/usr/bin/s6-setsid", "true"], rival.changes, _CHAIN)
        elif rival.name == "runit":
            lines["chpst"] = ("", "`chpst -P true`", [rival.program("chpst"), "-P", "true"], {}, _CHAIN)
    if timeout := shutil.which("timeout"):
        lines["timeout"] = ("timeout", "`timeout 60 true`", [timeout, "60", "true"], {}, "")
    else:
        section.missing.append("timeout: not installed")
    lines["safesh-start"] = ("safesh", "`safe.sh start NAME -- true`", [SAFE, "start", "wrapped", "--", "true"], {},
                             "lock, supervisor, keeper and log as well")  # fmt: skip
    _truly(stage, lines)
    steps = [*bare_steps(stage, rivals), *(_timer(stage, name, line[2], line[3]) for name, line in lines.items())]
    samples = interleave(steps, rounds)
    limit_rows(section, samples)
    for name, (by, what, _command, _changes, note) in lines.items():
        _add(section, samples, name, what, by, note=note)
    return section


_CHAIN = "becomes the program: it holds nothing"


def _timer(stage: Stage, name: str, command: list[str], changes: dict[str, str]) -> Step:
    return lambda: {name: stage.time(command, **changes)}


def _truly(stage: Stage, lines: dict[str, tuple[str, str, list[str], dict[str, str], str]]) -> None:
    """Each really runs what it is given: once with a program that leaves a trace. BenchError otherwise."""
    for name, (_by, what, command, changes, _note) in lines.items():
        if "true" not in command:
            continue  # honcho start: its Procfile
        trace = stage.folder / f"ran-{name}"
        stage.call([*command[: command.index("true")], "touch", str(trace)], **changes)
        if not trace.exists():
            raise BenchError(f"{what} did not run its program")


# ---- a question


def ask(stage: Stage, rivals: Sequence[Rival], rounds: int) -> Section:
    """The status of one program that runs."""
    section = Section("side-status", "status of one running program", BASE)
    with ExitStack() as stack:
        steps = bare_steps(stage, rivals)
        names = []
        for rival in rivals:
            hall = stack.enter_context(rival.running(stage, {"one": ["sleep", "600"]}))
            command = hall.status("one")
            if command is None:
                section.missing.append(f"{rival.name}: has none")
                continue
            hall.begin("one")
            kept, told = says_running(hall, command)
            if not kept:
                raise BenchError(f"{rival.name}: its status does not say that the program runs: {told[:300]}")
            names.append((rival.name, shown_command(command)))
            steps.append(_timer(stage, rival.name, command, hall.changes))
        samples = interleave(steps, rounds)
    limit_rows(section, samples)
    for name, what in names:
        _add(section, samples, name, what, name)
    return section
