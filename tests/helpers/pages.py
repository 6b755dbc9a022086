"""README.md and docs/*.md as data: fenced blocks, what transcripts say, links, the commands that are named.

A block's language says how it is checked (``KINDS``). What is special about one stands in HTML comments right before
it, which no reader sees: ``not run: WHY``, ``file: NAME`` (it is that file of the page's project from there on),
``status: N`` (the script ends so), ``as root``, ``until Ctrl-C``, ``two terminals`` (the first line runs while the
others are run).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from helpers.home import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
RUN = ("sh", "console", "cron")  # run in a story
FILES = ("toml", "json", "yaml", "python", "makefile", "procfile", "ini", "systemd")  # checked, and run where named
SPECIAL = ("dockerfile", "nrpe")  # their own tests in test_docs.py
TEXT = "text"  # no command is in it
KINDS = (*RUN, *FILES, *SPECIAL, TEXT)
NOTES = ("not run: ", "file: ", "status: ", "as root", "until Ctrl-C", "two terminals")

LONG = re.compile(
    r"\bmake (?:bench|clean|faults|fix|install|lint|pictures|test|uninstall)\b|\bscripts/\w+\.py (?!--once)"
)
_FENCE = re.compile(r"^((?:<!-- [^>]* -->\n)*)( *)```([^\n`]*)\n(.*?)^\2```$", re.M | re.S)
_COMMAND = re.compile(
    r"(?:(?:^|(?<=[\s;|&({\"'`$=]))(?:[\w./~-]*/)?(safe\.sh|safe-health\.sh)|^(safesh))(?=[\s`]|$)([^|;&)>\n`#]*)", re.M
)


class Block(NamedTuple):
    """A fenced block. place: its section's title; line: its first; notes: what the comments before it say."""

    page: Path
    place: str
    line: int
    language: str
    notes: tuple[str, ...]
    text: str

    def note(self, name: str) -> str | None:
        """What stands behind ``name`` among the notes; "" for one that is only a name."""
        return next((one.removeprefix(name) for one in self.notes if one.startswith(name)), None)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: ```{self.language}\n{self.text}```"


def pages() -> list[Path]:
    return [README, *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        titles = re.findall(r"^#+ (.*)$", _without_blocks(text[: match.start()]), re.M)
        notes = tuple(re.findall(r"<!-- (.*?) -->", match[1]))
        line = text[: match.start(4)].count("\n") + 1
        found.append(Block(page, titles[-1] if titles else "", line, match[3].strip(), notes, match[4]))
    return [one for one in found if not languages or one.language in languages]


def name_of(block: Block) -> str:
    """For a test's id: page and section, and which of the section's blocks."""
    same = [one for one in blocks(block.page) if one.place == block.place]
    title = re.sub(r"\W+", "-", block.place).strip("-").lower()
    return f"{block.page.stem.lower()}-{title}-{[one.line for one in same].index(block.line) + 1}"


def _without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _without_blocks(page.read_text(encoding="utf-8"))


# --- links -----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the page's headings."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.*)$", prose(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """(as written, the file it leads to, the anchor or "") of every link and picture that stays in the repository."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text):
        written = target[0] or target[1]
        if re.match(r"[a-z]+:", written):
            continue
        path, _, anchor = written.partition("#")
        yield written, (page.parent / path).resolve() if path else page, anchor


# --- commands --------------------------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The words behind each safe.sh (and of safe-health.sh, as those of ``health``) in a text of any kind."""
    found = []
    for program, _, rest in _COMMAND.findall(text):
        rest = re.sub(r"[\[\]]|\.\.\.|…", " ", rest.replace("\\\n", " "))
        try:
            words = shlex.split(rest)
        except ValueError:
            words = re.split(r"['\"]", rest)[0].split()  # the end of a quotation that began before it
        found.append((["health"] if program == "safe-health.sh" else []) + words)
    return [words for words in found if words and re.match(r"[a-z-]", words[0])]


def inline(page: Path) -> list[str]:
    """What stands between backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def goals(text: str) -> list[str]:
    """The goals of each ``make`` in a text, without options and variables."""
    found = []
    for rest in re.findall(r"(?:^|(?<=[\s;&(`]))make((?: [\w=./~\"'-]+)+)", text, re.M):
        found += [word for word in rest.split() if re.fullmatch(r"[a-z][a-z-]*", word)][:1]
    return found


# --- transcripts -----------------------------------------------------------------------------------


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """(command, the lines it answers with) for each ``$ `` of a console block. ``> `` goes on with a command."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            assert found, f"a transcript begins with a command: {text}"
            found[-1][1].append(line)
    return found


def loosely(text: str) -> str:
    """A line without what differs from run to run: numbers, times, sizes, widths of columns, states of processes."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r"\b\d+(\.\d+)?\s?(ms|[smhd])\b( \d+[smh]\b)?", "TIME", text)
    text = re.sub(r"\b\d+(\.\d+)?\s?([KMGT]i)?B\b", "SIZE", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    text = re.sub(r"(N%\s+SIZE\s+)[RSDTI]\b", r"\1S", text)
    return re.sub(r"\s+", " ", text).strip()


def answers(expected: list[str], said: str) -> bool:
    """Whether ``said`` is what is expected: ``...`` in a line stands for anything, alone in a line for any lines."""
    lines = [loosely(line) for line in said.splitlines() if line.strip()]
    return _match([loosely(line) for line in expected if line.strip()], lines)


def _match(expected: list[str], lines: list[str]) -> bool:
    if not expected:
        return not lines
    if expected[0] in ("...", "…"):
        return any(_match(expected[1:], lines[skip:]) for skip in range(len(lines) + 1))
    pattern = re.sub(r"([\[*?])", r"[\1]", expected[0]).replace("...", "*").replace("…", "*")
    return bool(lines) and fnmatchcase(lines[0], pattern) and _match(expected[1:], lines[1:])
