"""What the sections side by side have in common: their base, their limits, and how a command line is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.figures import Samples, Section, Step, ratio_row
from bench.rivals.base import Rival
from bench.stage import Stage

BASE = "bare Python: `python3 -c pass` of the same virtual environment"


def bare_steps(stage: Stage, rivals: Sequence[Rival]) -> list[Step]:
    """The physical limits of every section: whatever is written in a language starts no faster than it does."""
    steps: list[Step] = [
        lambda: {"true": stage.time(["true"])},
        lambda: {"bare": stage.time([stage.python, "-c", "pass"])},
    ]
    if any(rival.runtime == "node" for rival in rivals):
        steps.append(lambda: {"node": stage.time(["node", "-e", "0"])})
    return steps


def limit_rows(section: Section, samples: Samples) -> None:
    for name, what in (
        ("true", "`true`: fork, exec, exit (the limit)"),
        ("bare", "bare Python, doing nothing (the limit of anything in Python)"),
        ("node", "bare node, doing nothing (the limit of anything in it)"),
    ):
        if name in samples:  # node is no limit of ours
            limit = name != "node"
            section.rows.append(ratio_row(f"{section.key}.{name}", what, samples, name, "bare", limit=limit))


def program_words(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in command)


def shown_command(command: Sequence[str]) -> str:
    """A command line without our folders."""
    shown = []
    skip = False
    for word in program_words(command).split():
        if skip or word in ("ini", "conf", "ecosystem.config.json"):
            skip = False
            continue
        if word in ("-c", "-f", "--endpoint"):
            skip = True
            continue
        shown.append(word)
    return f"`{' '.join(shown)}`"
