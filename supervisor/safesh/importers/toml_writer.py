"""Plans and values as TOML that people can read: dotted keys, one a line, comments above what they concern."""

from __future__ import annotations

import os
import re
from typing import Any

from safesh import clock, importers
from safesh.errors import SafeshError, UsageError

_WIDTH = 110
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def value(item: Any, *, spread: bool = True) -> str:
    """One value; a list that is too long for a line is spread (or not), a string quoted so that least is escaped."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int):
        return str(item)
    if isinstance(item, float):
        return repr(item)
    if isinstance(item, str):
        return _string(item)
    if isinstance(item, (list, tuple)):
        line = f"[{', '.join(value(one, spread=False) for one in item)}]"
        if len(line) <= _WIDTH or not spread:
            return line
        return "[\n" + "".join(f"    {value(one, spread=False)},\n" for one in item) + "]"
    if isinstance(item, dict):
        inside = ", ".join(f"{key(name)} = {value(one, spread=False)}" for name, one in item.items())
        return f"{{ {inside} }}" if inside else "{}"
    raise TypeError(f"TOML has no {type(item).__name__}")


def _string(text: str) -> str:
    if any(letter in text for letter in '"\\') and "'" not in text and text.isprintable():
        return f"'{text}'"
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    code = ord(letter)
    if letter.isprintable():
        return letter
    if 0xD800 <= code <= 0xDFFF:  # half a character: no TOML can hold it
        return "\ufffd"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def key(name: str) -> str:
    """A key as TOML writes it, in quotes where it must be."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    return '"' + "".join(_escaped(letter) for letter in name) + '"'


def comment(text: str, indent: str = "") -> str:
    """Comment lines, wrapped; whatever may not stand in a comment is made visible."""
    text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    lines = []
    while len(text) > _WIDTH and (cut := text.rfind(" ", 20, _WIDTH)) > 0:
        lines.append(text[:cut])
        text = "  " + text[cut + 1 :]
    return "\n".join(f"# {indent}{line}".rstrip() for line in (*lines, text))


def assignments(values: dict[str, Any], order: list[str]) -> list[str]:
    """``key = value`` lines of one table: dotted keys in the schema's order, a table's entries one a line."""
    lines = []
    for name in sorted(values, key=lambda one: order.index(one) if one in order else len(order)):
        item = values[name]
        dotted = ".".join(key(part) for part in name.split("."))
        if isinstance(item, dict) and item:
            lines += [f"{dotted}.{key(inner)} = {value(one)}" for inner, one in item.items()]
        elif item != {}:
            lines.append(f"{dotted} = {value(item)}")
    return lines


def render(plan: importers.Plan) -> str:
    """The whole safe.toml of a plan, its notes as comments: a target's own above it, the others at the top."""
    order = list(importers.schema_keys())
    head = [f"Made by `safe.sh init` from {plan.source}. All keys: `safe.sh init --print`, docs/config.md."]
    lines = [comment(text) for text in [*head, *plan.comments]]
    names = {target.name for target in plan.targets}
    if general := [note for note in plan.notes if note.target not in names]:
        lines += ["#", "# Not translated:", *(comment(str(note), "  ") for note in general)]
    if plan.defaults:
        lines += ["", "[defaults]", *assignments(plan.defaults, order)]
    for target in plan.targets:
        lines += ["", *(comment(text) for text in target.comments), f"[targets.{key(target.name)}]"]
        lines += assignments(target.values, order)
        if own := [note for note in plan.notes if note.target == target.name]:
            lines += ["# Not translated:", *(comment(str(note), "  ") for note in own)]
    return "\n".join(lines) + "\n"


def check(text: str, path: str) -> list[str]:
    """The names of the targets in ``text``, which has to load as the file ``path``; SafeshError when it does not."""
    from safesh import _targets

    try:
        return list(_targets.build(text, path).targets)
    except SafeshError as error:
        raise SafeshError(
            f"what was made of it does not load, which is a bug of ours: {clock.shown(str(error))}", place=path
        ) from error


def save(text: str, path: str, *, private: bool, replace: bool) -> None:
    """Write the file whole or not at all, 0644 (private: 0600) less the umask.

    Without ``replace`` nothing that is there is touched, also not what comes to be there meanwhile: UsageError.
    With it the file that a symlink leads to is replaced, not the symlink.
    """
    if replace:
        path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600 if private else 0o644)
        try:
            with open(fd, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.rename(temporary, path)
            else:
                _link(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except FileExistsError:
        raise is_there(path) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot be written: {reason}", place=path, hint=f"look at it: ls -ld {os.path.dirname(path)}"
        ) from None


def _link(temporary: str, path: str) -> None:
    """Give the file its name unless the name is taken; rename would take it from somebody."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: not as atomic, but as careful
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(fd)
        os.rename(temporary, path)


def is_there(path: str) -> UsageError:
    """The refusal to write over a file."""
    return UsageError(
        "is there already, and stays as it is",
        place=importers.shown_path(path),
        hint="safe.sh init --print shows what would be written, safe.sh init --force replaces the file",
    )
