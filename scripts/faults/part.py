"""What every part takes and gives."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """One line of a part's table. ``ok`` False: a bar that was missed; None: there is no bar."""

    what: str
    measured: str
    bar: str = ""
    ok: bool | None = None
    note: str = ""


class Part(NamedTuple):
    """What came out of one part. ``failures``: each violated invariant with the command that replays it."""

    key: str
    title: str
    about: str
    figures: list[Figure]
    failures: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        return not self.failures and all(figure.ok is not False for figure in self.figures)


class Options(NamedTuple):
    """How much is done. ``steps`` and ``minutes``: None for a part's usual measure."""

    quick: bool
    seed: int
    steps: int | None
    workers: int
    minutes: float | None


class PartError(Exception):
    """A part that could not be run at all; the message is for people: what is missing, what to do."""
