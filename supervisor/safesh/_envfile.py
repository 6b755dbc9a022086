"""env_file: lines of ``KEY=VALUE``, read strictly, so that a typing error is told and not run with.

``export`` in front of the key is passed over. 'Single quotes' keep everything as it is; "double quotes" know
\\n, \\r, \\t, \\", \\\\ and \\$; a bare value ends at `` #`` or the line's end. No variable is expanded.
"""

from __future__ import annotations

from safesh import _source
from safesh.errors import ConfigError

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_NAME = _LETTERS | frozenset("0123456789")


def read(path: str, place: str) -> dict[str, str]:
    """The variables of the file; of two lines with one key the later counts.

    ``place``: the configuration key that names the file. ConfigError tells it, or the file and the line.
    """
    text, _ = _source.read(path, place)
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        line = line.strip(" \t")
        if line and line[0] != "#":
            key, value = _parse(line, f"{path}:{number}")
            found[key] = value
    return found


def _parse(line: str, place: str) -> tuple[str, str]:
    key, equals, rest = line.partition("=")
    words = key.split()
    if len(words) == 2 and words[0] == "export":
        del words[0]
    # The value is never shown: these files hold secrets.
    if not equals:
        raise ConfigError("expected KEY=VALUE, got no '='", place=place, hint="put a comment behind '#'")
    if len(words) != 1 or words[0][0] not in _LETTERS or not _NAME.issuperset(words[0]):
        raise ConfigError(
            f"{key.strip()[:40]!r} cannot name a variable",
            place=place,
            hint="use letters, digits and '_', no digit first",
        )
    value = _value(rest.strip(" \t"), place)
    if "\0" in value:
        raise ConfigError("the value contains a NUL character, which no variable can hold", place=place)
    return words[0], value


def _value(text: str, place: str) -> str:
    if not text or text[0] not in "'\"":
        return _bare(text)
    value, end = _quoted(text, place)
    rest = text[end:].strip(" \t")
    if rest and rest[0] != "#":
        raise ConfigError(
            "text after the closing quote", place=place, hint="quote the whole value, or escape the quote"
        )
    return value


def _bare(text: str) -> str:
    for cut, letter in enumerate(text):
        if letter == "#" and (cut == 0 or text[cut - 1] in " \t"):
            return text[:cut].rstrip(" \t")
    return text


def _quoted(text: str, place: str) -> tuple[str, int]:
    """The value between the quotes that ``text`` begins with, and where the text behind them begins."""
    quote = text[0]
    value: list[str] = []
    position = 1
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == quote:
            return "".join(value), position
        if letter == "\\" and quote == '"':
            escape = text[position : position + 1]
            if escape not in _ESCAPES:
                raise ConfigError(
                    f"'\\{escape}' is no escape here",
                    place=place,
                    hint='use \\n \\r \\t \\" \\\\ \\$, or single quotes',
                )
            letter = _ESCAPES[escape]
            position += 1
        value.append(letter)
    raise ConfigError(f"the quote {quote} is not closed on its line", place=place, hint='write line breaks as "\\n"')
