"""The syntax of systemd's unit files: lines, quoting, specifiers, time spans, sizes.

From systemd.syntax(7), systemd.unit(5), systemd.service(5) "Command lines" and systemd.time(7) of systemd 252.
"""

from __future__ import annotations

import math
import os
import platform
import pwd
import re
import socket
from collections.abc import Callable

from safesh.clock import shown
from safesh.importers import Origin
from safesh.importers.shellwords import Word, mark
from safesh.importers.shellwords import parts as marked_parts
from safesh.model import Record

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_ESCAPES |= {letter: letter for letter in "\\\"'"}
_CODED = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})")
_UNITS = {
    "us": 1e-6, "usec": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "msec": 1e-3,
    "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "week": 604800, "weeks": 604800, "M": 2629800, "month": 2629800, "months": 2629800,
    "y": 31557600, "year": 31557600, "years": 31557600,
}  # fmt: skip
TRUE = ("1", "yes", "y", "true", "t", "on")


class Assignment(Record):
    """``key = value`` of a section, its continuation lines joined."""

    section: str
    key: str
    value: str
    origin: Origin

    @property
    def true(self) -> bool:
        return self.value.lower() in TRUE


def parse(text: str, name: str) -> tuple[list[Assignment], list[Origin]]:
    """The file's assignments in order, and the lines that are none. name: the file's, for messages."""
    found: list[Assignment] = []
    broken: list[Origin] = []
    section, held, first = "", "", 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.lstrip().startswith(("#", ";")):  # within a continued line too
            continue
        if not held:
            first = number
        line = held + line
        held = ""
        if _continues(line):
            held = line[:-1] + " "
            continue
        line = line.strip()
        origin = Origin(file=name, line=first, text=line)
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" not in line or not section:
            broken.append(origin)
        else:
            key, _, value = line.partition("=")
            found.append(Assignment(section=section, key=key.strip(), value=value.strip(), origin=origin))
    return found, broken


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def words(text: str, *, strict: bool = False) -> list[str]:
    """Words by the quoting rules of systemd.syntax(7); an unknown escape keeps its backslash.

    ``;`` as a word of its own comes as "\\0;", escaped as ``\\;`` it is itself. ValueError for an open quote and,
    when strict, for an unknown escape.
    """
    found: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            return found
        if re.match(r";(?=\s|$)", text[position:]):
            found.append("\0;")
            position += 1
            continue
        if re.match(r"\\;(?=\s|$)", text[position:]):
            found.append(";")
            position += 2
            continue
        word, quote = "", ""
        while position < len(text) and (quote or not text[position].isspace()):
            letter = text[position]
            position += 1
            if letter == quote:
                quote = ""
            elif not quote and letter in "'\"":
                quote = letter
            elif letter == "\\" and position < len(text):
                piece, length = _escape(text[position:])
                if strict and not length:
                    raise ValueError(f"\\{text[position]} is no escape")
                word += piece if length else "\\"
                position += length
            else:
                word += letter
        if quote:
            raise ValueError(f"the quote {quote} is not closed")
        found.append(word)


def _escape(text: str) -> tuple[str, int]:
    """What the text behind a backslash stands for and how long it is; 0 when it is no escape."""
    if text[0] in _ESCAPES:
        return _ESCAPES[text[0]], 1
    if coded := _CODED.match(text):
        digits = coded[1] or coded[2] or coded[3]
        code = int(digits, 16) if digits else int(coded[4], 8)
        if 0 < code < 0x110000:
            return chr(code), coded.end()
    return "", 0


def variables(word: str) -> Word:
    """A word of a command line with the variables in it: ``$NAME`` as the whole word is split, ``${NAME}`` is not."""
    if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", word):
        return [("split", word[1:])]
    marked = re.sub(r"\$\$|\$\{([^}]*)\}", lambda found: "$" if found[1] is None else mark(found[1]), word)
    return marked_parts(marked)


def timespan(text: str) -> float:
    """Seconds; ``infinity`` is math.inf. ValueError for anything else than systemd.time(7)'s time spans."""
    text = text.strip()
    if text == "infinity":
        return math.inf
    total, position = 0.0, 0
    for found in re.finditer(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-zµμ]*)", text):
        if found.start() != position or found[2] not in _UNITS:
            break
        total += float(found[1]) * _UNITS[found[2]]
        position = found.end()
    if not text or text[position:].strip():
        raise ValueError(f"{text!r} is no time span")
    return total


def size(text: str) -> int:
    """Bytes; K, M, G, T, P, E are powers of 1024. ValueError for shares (``50%``) and anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)B?", text.strip())
    if not found:
        raise ValueError(f"{text!r} is no size in bytes")
    count = float(found[1]) * 1024 ** (" KMGTPE".index(found[2] or " "))
    if count >= 1 << 63:
        raise ValueError(f"{shown(text)} is more than any system has")
    return int(count)


def unescape(name: str) -> str:
    """A unit name's part as the path or text it was made of: ``-`` is ``/``, ``\\x2d`` is ``-``."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name.replace("-", "/"))


class Specifiers:
    """``%n`` and the others, for a unit that the present user runs. used: those that hold for this machine only."""

    def __init__(self, unit: str, path: str, user: bool) -> None:
        stem = unit.removesuffix(".service")
        prefix, at, instance = stem.partition("@")
        self.used: set[str] = set()
        self.missing: set[str] = set()
        self._instance = bool(instance) or not at
        self._fixed: dict[str, str] = {
            "%": "%", "n": unit, "N": stem, "p": prefix, "P": unescape(prefix), "i": instance, "I": unescape(instance),
            "j": prefix.rpartition("-")[2], "J": unescape(prefix.rpartition("-")[2]),
            "f": "/" + unescape(instance or prefix).lstrip("/"), "y": path, "Y": os.path.dirname(path),
        }  # fmt: skip
        home = os.path.expanduser("~")
        get = os.environ.get
        temporary = get("TMPDIR") or get("TEMP") or get("TMP")
        state = get("XDG_CONFIG_HOME") or home + "/.config"
        self._here: dict[str, Callable[[], str]] = {
            "h": lambda: home,
            "u": lambda: pwd.getpwuid(os.geteuid()).pw_name,
            "U": lambda: str(os.geteuid()),
            "G": lambda: str(os.getegid()),
            "s": lambda: pwd.getpwuid(os.geteuid()).pw_shell,
            "H": socket.gethostname,
            "l": lambda: socket.gethostname().partition(".")[0],
            "a": lambda: platform.machine().replace("_", "-"),
            "v": platform.release,
            "t": lambda: get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}" if user else "/run",
            "S": lambda: state if user else "/var/lib",
            "C": lambda: get("XDG_CACHE_HOME") or home + "/.cache" if user else "/var/cache",
            "L": lambda: state + "/log" if user else "/var/log",
            "E": lambda: state if user else "/etc",
            "T": lambda: temporary or "/tmp",
            "V": lambda: temporary or "/var/tmp",
        }

    def expand(self, text: str) -> str:
        """The text with its specifiers replaced; ValueError for one that cannot be told here, as ``%d``."""

        def one(found: re.Match[str]) -> str:
            letter = found[1]
            if letter in "iI" and not self._instance:
                raise ValueError(f"%{letter} needs an instance: name the unit as NAME@INSTANCE.service with --from")
            if letter in self._fixed:
                return self._fixed[letter]
            if letter in self._here:
                try:
                    value = self._here[letter]()
                except (KeyError, OSError):
                    raise ValueError(f"%{letter} cannot be told here") from None
                self.used.add(f"%{letter} is {value}")
                return value
            raise ValueError(f"%{letter} cannot be told before the start")

        return re.sub(r"%([A-Za-z%])", one, text)
