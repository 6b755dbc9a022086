"""INI files as supervisord reads them, with the line of every option.

The rules are those of Python's RawConfigParser with the settings supervisord gives it: ``;`` and ``#`` begin a
comment at a line's start or behind a blank, a deeper indented line goes on with the value, names of options are
lower case, and what is said twice counts as said last. Written anew because that parser keeps no line numbers; a
test holds both against each other.
"""

from __future__ import annotations

import re

from safesh.importers import Origin
from safesh.model import Record

_SECTION = re.compile(r"\[(.+)\]")
_OPTION = re.compile(r"(.*?)\s*(?:[=:]\s*(.*))$")


class Option(Record):
    """One option's value. folder: of the file it stands in, which ``%(here)s`` means."""

    text: str
    origin: Origin
    folder: str


class Section(Record):
    """One section, its options by name."""

    name: str
    origin: Origin
    options: dict[str, Option] = {}


class File(Record):
    """sections: by name, those of included files merged in; overridden: options that were said again later, with the
    line of that; broken: lines that are neither a section, an option nor a comment."""

    sections: dict[str, Section] = {}
    overridden: list[tuple[Option, Origin]] = []
    broken: list[Origin] = []


def parse(text: str, name: str, folder: str, into: File) -> None:
    """Add the file's sections to ``into``. name: the file's, for messages."""
    section: Section | None = None
    option: Option | None = None
    indent = 0
    for number, line in enumerate(text.split("\n"), start=1):
        value, commented = _without_comment(line)
        if not value:
            if option is not None and not commented:
                option.text += "\n"
            continue
        depth = len(line) - len(line.lstrip())
        if section is not None and option is not None and depth > indent:
            option.text += "\n" + value
            continue
        indent = depth
        origin = Origin(file=name, line=number, text=value)
        if header := _SECTION.match(value):
            option = None
            section = into.sections.setdefault(header[1], Section(name=header[1], origin=origin))
        elif section is None or not (found := _OPTION.match(value)) or not found[1]:
            into.broken.append(origin)
        else:
            option = Option(text=found[2].strip(), origin=origin, folder=folder)
            key = found[1].lower()
            if key in section.options:
                into.overridden.append((section.options[key], origin))
            section.options[key] = option
    for one in into.sections.values():
        for option in one.options.values():
            option.text = option.text.rstrip()


def _without_comment(line: str) -> tuple[str, bool]:
    """The line's text, stripped, and whether a comment was taken away."""
    if line.lstrip().startswith((";", "#")):
        return "", True
    for position, letter in enumerate(line):
        if letter in ";#" and (position == 0 or line[position - 1].isspace()):
            return line[:position].strip(), True
    return line.strip(), False
