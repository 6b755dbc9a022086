"""How things look: colour, tables, trees of processes. The only room that knows an escape sequence.

Everything that came from outside (command lines above all) passes :func:`clean`, so no process can
speak to the terminal through its own name. Escapes go to terminals only, never into a file or a pipe.
"""

from __future__ import annotations

import os
import sys

from safesh.clock import format_duration, format_size, wall
from safesh.printable import clean as clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from safesh.model import Member, Verdict

# What a text means -> Select Graphic Rendition parameters (ECMA-48).
_STYLES = {
    "good": "32",
    "warn": "33",
    "bad": "31;1",
    "head": "1",
    "name": "1;36",
    "dim": "2",
    "error": "31;1",
    "hint": "36",
}
_DEEPEST = 20  # levels of a process tree that are indented
_plain = False


def set_plain(plain: bool) -> None:
    """``--no-color``: from here on nothing is coloured."""
    global _plain
    _plain = plain


def wants_colour(stream: TextIO | None) -> bool:
    """Whether escapes may go there: a terminal that understands them, and nobody said no.

    NO_COLOR counts when it is set and not empty (no-color.org).
    """
    if _plain or stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", ""):
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def wants_cursor(stream: TextIO | None) -> bool:
    """Whether the cursor may be moved there: a terminal that is not dumb. NO_COLOR is about colour alone."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")
    except ValueError:
        return False


def style(text: str, what: str, stream: TextIO | None = None) -> str:
    """``text`` in the colour of ``what`` when ``stream`` (stdout) takes colour, else as it is."""
    stream = stream or sys.stdout
    return f"\x1b[{_STYLES[what]}m{text}\x1b[0m" if text and wants_colour(stream) else text


def glyph(fancy: str, simple: str, stream: TextIO | None = None) -> str:
    """``fancy`` where the stream's encoding can say it, else ``simple``."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    return fancy if encoding.lower().replace("-", "") in ("utf8", "utf16", "utf32") else simple


def width_of(text: str) -> int:
    """Columns that a clean text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text: str, width: int) -> str:
    """A clean text in at most ``width`` columns, its end replaced by an ellipsis where it is longer."""
    if width_of(text) <= width:
        return text
    mark = glyph("…", "~")  # one column in either alphabet
    if width <= 1:
        return mark[:width]
    if text.isascii():
        return text[: width - 1] + mark
    kept = room = 0
    for letter in text:
        room += width_of(letter)
        if room > width - 1:
            break
        kept += 1
    return text[:kept] + mark


def window(stream: TextIO | None = None) -> tuple[int, int]:
    """(columns, lines) of the terminal behind ``stream`` (stdout); (0, 0), no limit, where there is none."""
    try:
        size = os.get_terminal_size((stream or sys.stdout).fileno())
    except (OSError, ValueError, AttributeError):
        return 0, 0
    return size.columns, size.lines


def table(
    rows: list[list[str]], headers: list[str], *, right: tuple[int, ...] = (), indent: int = 0, width: int = -1
) -> str:
    """Lines with aligned columns, the last one cut so that a line fits ``width`` (the terminal's; 0: never cut).

    Cells are cleaned here. ``right``: the columns that are aligned to the right.
    """
    if width < 0:
        width = window()[0]
    cells = [headers, *([clean(cell) for cell in row] for row in rows)]
    last = len(headers) - 1
    sizes = [max(width_of(row[column]) for row in cells) for column in range(last)]
    lines = []
    for number, row in enumerate(cells):
        parts = []
        for column, cell in enumerate(row[:last]):
            pad = " " * (sizes[column] - width_of(cell))
            parts.append(pad + cell if column in right else cell + pad)
        line = " " * indent + "  ".join([*parts, row[last]]).rstrip()
        if width:
            line = cut(line, width)
        lines.append(style(line, "dim") if number == 0 else line)
    return "\n".join(lines)


def age_of(member: Member, now: float) -> float:
    """Seconds a process has lived; 0 when nobody knows or the clock was set back."""
    return max(0.0, now - member.started_at) if member.started_at else 0.0


def lifetime_cpu(member: Member, now: float) -> float:
    """Percent of one processor, averaged over the process's life."""
    age = age_of(member, now)
    return 100.0 * member.cpu_seconds / age if age > 0 else 0.0


def members(
    found: list[Member],
    *,
    tree: bool = False,
    cpu: dict[tuple[int, int], float] | None = None,
    indent: int = 0,
    width: int = -1,
    now: float | None = None,
) -> str:
    """A table of processes: pid, age, CPU, memory, state, command, and the reason where one is given.

    tree: indented by parentage; cpu: percent by (pid, start) instead of the lifetime average.
    """
    moment = wall() if now is None else now
    reasons = any(member.reason for member in found)
    rows = []
    for prefix, member in _forest(found) if tree else [("", member) for member in found]:
        percent = lifetime_cpu(member, moment)
        if cpu is not None:
            percent = cpu.get((member.pid, member.start), percent)
        row = [
            str(member.pid),
            format_duration(age_of(member, moment)) if member.started_at else "?",
            f"{percent:.1f}%",
            format_size(member.memory_bytes),
            member.state or "?",
        ]
        if reasons:
            row.append(member.reason or "-")
        rows.append([*row, prefix + (member.command or "?")])
    headers = ["PID", "AGE", "CPU", "MEMORY", "S", *(["WHY"] if reasons else []), "COMMAND"]
    return table(rows, headers, right=(0, 1, 2, 3), indent=indent, width=width)


def _forest(found: list[Member]) -> list[tuple[str, Member]]:
    """Every process once, below its parent where that one is listed too, with the branch drawn before it."""
    pids = {member.pid for member in found}
    children: dict[int, list[Member]] = {}
    roots = []
    for member in found:
        if member.ppid in pids and member.ppid != member.pid:
            children.setdefault(member.ppid, []).append(member)
        else:
            roots.append(member)
    fork, corner, bar = (glyph(*pair) for pair in (("├─ ", "|- "), ("└─ ", "`- "), ("│  ", "|  ")))
    drawn: list[tuple[str, Member]] = []
    seen: set[int] = set()
    # A stack, not recursion: a chain of processes may be longer than Python's stack.
    stack = [("", "", member) for member in reversed(roots)]
    while stack or len(seen) < len(pids):
        if not stack:  # a circle, possible only when pids were reused between two reads
            stack = [("", "", next(member for member in found if member.pid not in seen))]
        first, rest, member = stack.pop()
        if member.pid in seen:
            continue
        seen.add(member.pid)
        drawn.append((first, member))
        below = children.get(member.pid, [])
        if len(rest) >= 3 * _DEEPEST:  # drawn further in, nobody could read it
            rest = rest[: 3 * (_DEEPEST - 1)]
        for number, child in enumerate(reversed(below)):
            stack.append((rest + (corner if number == 0 else fork), rest + ("   " if number == 0 else bar), child))
    return drawn


def verdict(result: Verdict) -> str:
    """What a stop did, in a line, and then whoever survived and why."""
    name = f"{clean(result.target)}: " if result.target else ""
    asked, killed, left = (_count(one) for one in (result.asked, result.killed, result.survivors))
    told = ", ".join(f"{count} {how}" for count, how in ((asked, "asked"), (killed, "killed")) if count)
    time = format_duration(result.seconds)
    if left:
        survived = style(f"{name}{plural(left, 'process')} survived", "bad")
        lines = [f"{survived} after {time} ({told or 'nobody asked'})"]
        lines.append(members(result.survivors, indent=2))
    elif told:
        lines = [style(f"{name}stopped", "good") + f" in {time}, nobody is left ({told})"]
    else:
        lines = [f"{name}nothing to end"]
    lines += [f"  {clean(note)}" for note in result.notes]
    return "\n".join(lines)


def _count(found: list[Member]) -> int:
    """A process that was asked twice is still one."""
    return len({(one.pid, one.start) for one in found})


def plural(count: int, noun: str) -> str:
    """``1 process``, ``2 processes``, ``0 strays``."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def say(text: str) -> None:
    """One line, or several, to stdout; quiet when it is closed."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


def problem(error: Any, stream: TextIO | None = None) -> str:
    """A SafeshError as one line, then what its process said last, then the next step."""
    stream = stream or sys.stderr
    name = style("safesh:", "error", stream)
    place = f"{clean(error.place)}: " if error.place else ""
    text = f"{name} {place}{clean(error.message)}"
    for line in getattr(error, "log", ()):
        text += "\n  " + style(f"| {clean(line)}", "dim", stream)
    if error.hint:
        text += "\n  " + style(f"{glyph('→', '->', stream)} {clean(as_typed(error.hint))}", "hint", stream)
    return text


def as_typed(text: str) -> str:
    """``safesh VERB`` (or ``safe.sh VERB``) in a hint, the way this user calls us."""
    for written in ("safesh ", "safe.sh "):
        before, found, after = text.partition(written)
        while found:
            if _names_us(before, after):
                before += program() + " "
            else:  # the end of a path, or plain words
                before += written
            more, found, after = after.partition(written)
            before += more
        text = before
    return text


def _names_us(before: str, after: str) -> bool:
    from safesh.cli.grammar import VERBS

    alone = not before or not (before[-1].isalnum() or before[-1] in "/._-")
    return alone and (after.startswith("--help") or after[:8].partition(" ")[0].strip("`'\".,;:)") in VERBS)


def program() -> str:
    """How to call us from here: ``safesh`` when installed, bin/safe.sh as it can be typed in a checkout."""
    if os.path.basename(sys.argv[0]) != "__main__.py":
        return "safesh"
    if "-m" in sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]:
        return "python3 -m safesh"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    script = os.path.join(root, "bin", "safe.sh")
    if not os.path.exists(script):
        return "safesh"
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return script
    if here == os.path.realpath(root):
        return "./bin/safe.sh"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = os.path.join(folder, "safe.sh")
        if folder and os.path.exists(found) and os.path.samefile(found, script):
            return "safe.sh"
    return min(script, os.path.relpath(script, here), key=len)
