"""Pages like those of man(1), made from the grammar's table: one for each command, one for all of them.

Wrapped to the terminal, at most 100 columns, 80 through a pipe; coloured on a terminal only.
"""

from __future__ import annotations

import difflib
import os
import textwrap

from safesh.cli import pages, render
from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, Option, Verb
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Rows = Iterable[tuple[str, str]]

_INDENT = 4
_WIDEST, _NARROWEST, _PIPE = 100, 40, 80
_TERM = 26  # columns for what a list's rows begin with; a longer one stands on a line of its own
_EXAMPLE = 44  # the same for examples, which look best alike: all beside their meanings, or all above
_ABOUT = (
    "Runs a command exactly once, shows all of its processes, and ends all of them: a lock, a supervisor and a "
    "keeper hold the whole tree, however it forks. Targets are named in safe.toml."
)
_OTHERS = (("--version", "print the version"), ("-h, --help", "this page"))


def page(verb: Verb, width: int = 0) -> str:
    """The page of one command, its last line ended. width: columns; 0 takes the terminal's."""
    sheet = _Sheet(width)
    short = os.path.basename(render.program())
    sheet.text("NAME", f"{short} {verb.name} - {verb.summary}")
    sheet.synopsis(f"{short} {verb.name}", _synopsis(verb))
    sheet.text("DESCRIPTION", *pages.ABOUT.get(verb.name, (verb.text,)))
    sheet.rows("CHOICES", verb.choices)
    if verb.raw:
        for title, rows in pages.exec_options():
            sheet.rows(title, rows)
    else:
        sheet.rows("OPTIONS", [*map(_describe, (*verb.options, *GLOBAL_OPTIONS)), _OTHERS[1]])
    sheet.rows("EXIT STATUS", verb.codes or pages.exec_codes())
    sheet.examples(verb.examples)
    sheet.rows("ENVIRONMENT", pages.environment(verb.name))
    sheet.rows("FILES", pages.files(verb.name))
    sheet.text("SEE ALSO", pages.see_also(verb.name).replace("safesh ", f"{short} "))
    return sheet.finish()


def overview(width: int = 0) -> str:
    """What ``--help`` shows: all commands and what they share."""
    sheet = _Sheet(width)
    called = os.path.basename(render.program())
    sheet.text("NAME", f"{called} - run it once, see all of it, stop all of it")
    sheet.synopsis(called, ["COMMAND", "[TARGET…]", "[OPTIONS]"])
    sheet.text("DESCRIPTION", _ABOUT)
    sheet.rows("COMMANDS", [(verb.name, verb.summary) for verb in VERBS.values()])
    sheet.rows("OPTIONS, BEFORE OR AFTER THE COMMAND", [*map(_describe, GLOBAL_OPTIONS), *_OTHERS])
    sheet.examples(pages.FIRST_STEPS)
    sheet.rows("ENVIRONMENT", pages.environment(""))
    sheet.rows("FILES", pages.files(""))
    sheet.text("SEE ALSO", f"{called} help COMMAND")
    return sheet.finish()


def unknown_verb(word: str) -> UsageError:
    """There is no such command; the closest one, or all of them."""
    near = [name for name in VERBS if name.startswith(word)]
    near = near or difflib.get_close_matches(word, VERBS, n=1, cutoff=0.5)
    return UsageError(
        f"there is no command {render.clean(word)!r}",
        hint=f"did you mean: safesh {near[0]}" if near else f"there are: {', '.join(VERBS)}",
    )


class _Sheet:
    """A page as it grows."""

    def __init__(self, width: int) -> None:
        self._width = max(_NARROWEST, min(width or render.window()[0] or _PIPE, _WIDEST))
        self._parts: list[str] = []

    def text(self, title: str, *paragraphs: str) -> None:
        margin = " " * _INDENT
        body = "\n\n".join(self._wrap(paragraph, margin, margin) for paragraph in paragraphs)
        self._parts.append(f"{_head(title)}\n{body}\n")

    def synopsis(self, called: str, words: list[str]) -> None:
        """``words`` are kept whole, continued below the first of them."""
        first = " " * _INDENT + called + " "
        rest = " " * (len(first) if len(first) < self._width // 2 else 2 * _INDENT)
        # A blank inside of [--timeout T] must not end a line; \xa0 is no blank to textwrap.
        lines = self._wrap(" ".join(word.replace(" ", "\xa0") for word in words), first, rest)
        self._parts.append(f"{_head('SYNOPSIS')}\n" + lines.replace("\xa0", " ") + "\n")

    def examples(self, rows: Rows) -> None:
        """(command line, meaning), each line as it can be typed here."""
        called = render.program()
        lines = [(f"{called} {line}", text) for line, text in rows]
        fits = all(len(line) <= _EXAMPLE for line, _text in lines)
        self.rows("EXAMPLES", lines, _EXAMPLE if fits else 0)

    def rows(self, title: str, rows: Rows, most: int = _TERM) -> None:
        """(term, meaning), the meanings in a column; nothing where there are no rows. most: columns for a term."""
        rows = list(rows)
        if not rows:
            return
        terms = [len(term) for term, _text in rows if len(term) <= most]
        column = _INDENT + max(terms, default=2) + 2
        lines = []
        for term, text in rows:
            start = " " * _INDENT + term
            if len(term) > most:
                lines.append(start)
                start = ""
            lines.append(self._wrap(text, start.ljust(column), " " * column))
        self._parts.append(f"{_head(title)}\n" + "\n".join(lines) + "\n")

    def finish(self) -> str:
        return "\n".join(self._parts)

    def _wrap(self, text: str, first: str, rest: str) -> str:
        lines = textwrap.wrap(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(lines) or first.rstrip()


def _head(title: str) -> str:
    return render.style(title, "head")


def _describe(option: Option) -> tuple[str, str]:
    short_first = ", ".join(sorted(option.flags, key=len))
    return f"{short_first} {option.metavar}".rstrip(), option.text


def _synopsis(verb: Verb) -> list[str]:
    if verb.raw:
        return ["[OPTIONS]", "[--]", "CMD", "[ARGS…]"]
    words = ["|".join(word for word, _text in verb.choices)] if verb.choices else []
    if verb.target:
        words.append(f"[{verb.noun}…]" if verb.target == "many" else f"[{verb.noun}]")
    for option in verb.options:
        flags = "|".join(sorted(option.flags, key=len))
        words.append(f"[{flags} {option.metavar}]" if option.metavar else f"[{flags}]")
    if verb.command:
        words.append("[-- CMD ARGS…]" if verb.target == "many" else "[-- ARGS…]")
    return words
