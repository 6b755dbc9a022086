"""Text for people: made printable, measured in columns, cut, and marked; colour only where it is wanted.

Everything that a step or a plan's author wrote passes :func:`clean` before it reaches a terminal.
"""

from __future__ import annotations

import os
from typing import IO, Any
from unicodedata import category, east_asian_width

from safesh.clock import format_duration
from safesh.plan.state import StepState, StepStatus
from safesh.printable import clean as clean

# Meaning -> Select Graphic Rendition parameters (ECMA-48). The eight old colours and the terminal's own foreground,
# never black, white or a background: readable on light and on dark.
_MOST_TEXT = 4096  # characters looked at for one line of a table
_STYLES = {"good": "32", "busy": "36", "warn": "33", "bad": "31;1", "head": "1", "dim": "2"}
_MARKS: dict[StepStatus, tuple[str, str, str]] = {  # status -> mark, mark in ASCII, style
    "completed": ("✓", "+", "good"),
    "running": ("⟳", ">", "busy"),
    "failed": ("✗", "x", "bad"),
    "pending": ("○", "o", "dim"),
    "cancelled": ("⊘", "-", "warn"),
    "skipped": ("↷", "=", "dim"),
}


class Look:
    """How a stream may be written to. colour: escapes for colour; fancy: its encoding has marks and rules."""

    def __init__(self, *, colour: bool = False, fancy: bool = True) -> None:
        self.colour = colour
        self.fancy = fancy

    @classmethod
    def of(cls, stream: IO[str], *, cursor: bool, colour: bool = True) -> Look:
        """cursor: it is a terminal, or is to be treated as one; colour: it is wanted, unless NO_COLOR is set and not
        empty (no-color.org)."""
        encoding = str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        return cls(colour=cursor and colour and not os.environ.get("NO_COLOR"), fancy=encoding.startswith("utf"))

    def style(self, text: str, what: str) -> str:
        return f"\x1b[{_STYLES[what]}m{text}\x1b[0m" if self.colour and text else text

    def pick(self, fancy: str, simple: str) -> str:
        return fancy if self.fancy else simple

    def mark(self, status: StepStatus) -> str:
        fancy, simple, _style = _MARKS[status]
        return self.pick(fancy, simple)

    def cut(self, text: str, width: int) -> str:
        """A clean text in at most ``width`` columns, its end replaced by an ellipsis where it is longer."""
        if len(text) <= width and text.isascii():
            return text
        if width_of(text) <= width:
            return text
        if width <= 1:
            return self.pick("…", "~")[:width]
        room = kept = 0
        for letter in text:
            room += width_of(letter)
            if room > width - 1:
                break
            kept += 1
        return text[:kept] + self.pick("…", "~")


def style_of(status: StepStatus) -> str:
    return _MARKS[status][2]


def status_text(step: StepState, look: Look) -> str:
    """``✓ Completed``, ``⟳ Running 40 %``, ``cancelled because X``: a step's status, as it is shown."""
    mark = look.mark(step.status)
    if step.status == "cancelled":
        return f"{mark} cancelled because {clean(step.reason)}" if step.reason else f"{mark} cancelled"
    words = step.status.capitalize()
    if step.status == "running":
        if step.attempt > 1:
            words += f" #{step.attempt}"
        if step.progress is not None:
            words += f" {int(step.progress * 100)} %"
    elif step.status == "skipped" and step.reason:
        words += f": {clean(step.reason)}"
    return f"{mark} {words}"


def first_line(text: str) -> str:
    """The first line that is not blank, clean."""
    return next((clean(line.strip()) for line in text[:_MOST_TEXT].splitlines() if line.strip()), "")


def width_of(text: str) -> int:
    """Columns that a clean text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if category(letter) in ("Mn", "Me", "Cf") else 2 if east_asian_width(letter) in "WF" else 1 for letter in text
    )


def tokens_text(tokens: int) -> str:
    return f"{tokens:,}" if tokens else ""


def cost_text(cost: float) -> str:
    """``$0.0123``; cents from ten dollars on."""
    return f"${cost:,.4f}" if 0 < cost < 10 else f"${cost:,.2f}" if cost else ""


def spent_text(item: Any) -> str:
    """Tokens and cost of a step or of totals, ``1,200 tokens, $0.0100``; "" where there are none."""
    parts = [f"{item.tokens:,} token{'' if item.tokens == 1 else 's'}"] if item.tokens else []
    return ", ".join([*parts, *([cost_text(item.cost)] if item.cost else [])])


def seconds_text(seconds: float) -> str:
    """Short durations in milliseconds, the rest as everywhere."""
    return f"{seconds * 1000:.0f}ms" if 0 < seconds < 0.0995 else format_duration(seconds)
