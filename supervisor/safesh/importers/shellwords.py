"""Command lines as words whose variables are expanded when the target starts: text for ``/bin/sh -c``.

A word is a list of parts: ("text", …) as it is, ("var", NAME) the variable's value as part of one word, ("split",
NAME) its value cut at blanks into words of their own.
"""

from __future__ import annotations

import re
import shlex

Part = tuple[str, str]
Word = list[Part]

OPEN, CLOSE = "\ue000", "\ue001"  # private use: stand around a variable's name in a text that is still to be split
_MARKED = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


def mark(name: str) -> str:
    """The variable ``name`` in a text on its way to :func:`split` or :func:`parts`."""
    return OPEN + name + CLOSE


def parts(text: str) -> Word:
    """One word from a text with marked variables."""
    word: Word = []
    for index, piece in enumerate(_MARKED.split(text)):
        if piece or index % 2:
            word.append(("var" if index % 2 else "text", piece))
    return word


def split(text: str) -> list[Word]:
    """Words as ``shlex.split`` makes them, marked variables kept: within quotes as ``var``, else as ``split``.

    ValueError for a quote that is not closed, or nothing behind the last backslash.
    """
    words: list[Word] = []
    word: Word | None = None
    quote = ""
    position = 0
    while position < len(text):
        letter = text[position]
        position += 1
        marked = _MARKED.match(text, position - 1)
        if not quote and letter.isspace() and letter in " \t\r\n":
            if word is not None:
                words.append(word)
            word = None
            continue
        word = [] if word is None else word
        if marked:
            word.append(("var" if quote else "split", marked[1]))
            position = marked.end()
        elif letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "\\" and quote != "'":
            if position == len(text):
                raise ValueError("No escaped character")
            following = text[position]
            position += 1
            # Within double quotes shlex takes a backslash away in front of these two only.
            _add(word, following if not quote or following in '"\\' else letter + following)
        else:
            _add(word, letter)
    if quote:
        raise ValueError("No closing quotation")
    return words if word is None else [*words, word]


def _add(word: Word, text: str) -> None:
    if word and word[-1][0] == "text":
        word[-1] = ("text", word[-1][1] + text)
    else:
        word.append(("text", text))


def plain(words: list[Word]) -> list[str] | None:
    """The words as an argv when no variable is in them."""
    if any(kind != "text" for word in words for kind, _text in word):
        return None
    return ["".join(text for _kind, text in word) for word in words]


def shell(words: list[Word], *, required: bool) -> str:
    """The words as a shell would have to be told them. required: an unset variable is an error, not empty."""
    ending = ":?}" if required else "}"
    written = []
    for word in words:
        text = ""
        for kind, piece in word:
            value = "${" + piece + ending
            text += shlex.quote(piece) if kind == "text" else f'"{value}"' if kind == "var" else value
        written.append(text or "''")
    return " ".join(written)


def splits(words: list[Word]) -> bool:
    """Whether a value will be cut into words: then the shell must be kept from expanding ``*`` in it."""
    return any(kind == "split" for word in words for kind, _text in word)
