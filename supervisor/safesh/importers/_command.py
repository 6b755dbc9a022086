"""Command lines of systemd units, as systemd.service(5) "Command lines" describes them, and what becomes of them."""

from __future__ import annotations

import re

from safesh.importers import Plan, Target, shellwords, unitfile
from safesh.importers.shellwords import Word
from safesh.importers.unitfile import Assignment, Specifiers
from safesh.model import Record

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Line(Record):
    """One command. optional: its failure does not count; privileged: the prefix that says so; problems: what of the
    line could not be kept."""

    words: list[Word]
    source: Assignment
    optional: bool = False
    privileged: str = ""
    problems: list[str] = []


def read(one: Assignment, specifiers: Specifiers) -> list[Line]:
    """The commands of one Exec…= line; ValueError when systemd would refuse it or it cannot be told."""
    lines: list[Line] = []
    current: list[str] = []
    for word in [*unitfile.words(one.value), "\0;"]:
        if word != "\0;":
            current.append(word)
        elif current:
            lines.append(_line(one, current, specifiers))
            current = []
    return lines


def _line(one: Assignment, words: list[str], specifiers: Specifiers) -> Line:
    program = words[0].lstrip("@-:+!|")
    prefixes = words[0][: len(words[0]) - len(program)]
    if not program:
        raise ValueError("names no program")
    line = Line(words=[], source=one, optional="-" in prefixes)
    line.privileged = next((prefix for prefix in ("+", "!!", "!") if prefix in prefixes), "")
    arguments = words[1:]
    if "@" in prefixes and arguments:
        called = specifiers.expand(arguments.pop(0))
        line.problems.append(f"'@': the program is called by its own name, not {called!r}")
    if "|" in prefixes:
        line.problems.append("'|': it is not run by a login shell")
    line.words.append([("text", specifiers.expand(program))])
    for argument in arguments:
        text = specifiers.expand(argument)
        word: Word = [("text", text)] if ":" in prefixes else unitfile.variables(text)
        kept: Word = []
        for kind, piece in word:
            if kind == "text" or _NAME.fullmatch(piece):
                kept.append((kind, piece))
            else:  # systemd looks for a variable of that name and finds none
                line.problems.append(f"${{{piece}}} names no variable; it is empty, as in systemd")
        line.words.append(kept)
    return line


def set_command(plan: Plan, target: Target, before: list[Line], starts: list[Line], static: dict[str, str]) -> None:
    """The target's command: the program alone, or a shell that runs what comes before it and then becomes it.

    static: variables whose values are known for certain.
    """
    for line in (*before, *starts):
        line.words = [word for raw in line.words for word in _known(raw, static)]
    *first, last = [*before, *starts]
    argv = shellwords.plain(last.words)
    origin = last.source.origin
    if argv is not None and not first:
        target.set("command", argv, origin)
        return
    commands = []
    if any(shellwords.splits(line.words) for line in (*first, last)):
        commands.append("set -f")
        for line in (*first, last):
            if shellwords.splits(line.words):
                reason = "the variable's value is cut at blanks; quotes in it are not honoured"
                plan.note(line.source.origin, reason, target.name)
    for line in first:
        text = shellwords.shell(line.words, required=False)
        commands.append(f"{{ {text} || :; }}" if line.optional else text)
    commands.append("exec " + shellwords.shell(last.words, required=False))
    target.set("command", " && ".join(commands), origin)
    target.set("shell", True, origin)


def _known(word: Word, static: dict[str, str]) -> list[Word]:
    """The word with values that are known put in: one that is to be split becomes as many words as it holds."""
    if len(word) == 1 and word[0][0] == "split" and word[0][1] in static:
        value = static[word[0][1]]
        try:
            return [[("text", piece.removeprefix("\0"))] for piece in unitfile.words(value)]
        except ValueError:
            return [[("text", piece)] for piece in value.split()]
    return [[("text", static[text]) if kind != "text" and text in static else (kind, text) for kind, text in word]]
