"""SecureEnv: an environment of named parts only, and the redaction of its secret values."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from html import escape
from json import dumps
from typing import Any, AnyStr
from urllib.parse import quote, quote_plus

from safesh.errors import ConfigError
from safesh.process.errors import InvalidCommand
from safesh.vendor import add_site_packages

DEFAULT_ALLOW = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TERM", "TMPDIR", "USER", "LOGNAME", "SHELL")
LOOKS_SECRET = ("*TOKEN*", "*SECRET*", "*PASSWORD*", "*PASSWD*", "*API_KEY*", "*PRIVATE_KEY*", "*CREDENTIAL*")

MASK = "***"  # shorter than any value that is redacted, so what was redacted once stays as it is
SHORTEST = 4  # characters; a shorter value ("1", "yes") would take half of a text with it

_LARGEST = 1 << 20  # bytes of a dotenv file
_MOST_LINKS = 8
_DEEPEST = 64  # levels of nested data; beyond them nothing is shown
_LINE_END = re.compile(r"\r\n|\n|\r")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class SecureEnv:
    """An environment built from an allow-list, a dotenv file and explicit values, later ones winning.

    allow: names and globs (``LC_*``, case counts) of what passes from the caller's environment, nothing else does;
    file: a dotenv file for our eyes only; values: variables given here; secrets: names and globs counted as secret
    besides all of the file's and those that look it (``LOOKS_SECRET``, case ignored); source: what stands for the
    caller's environment, ``os.environ`` by default.

    All is read once, here. Nothing is interpolated: ``$X`` and ``${X}`` in a value stay as they are written, so that
    no password is mangled and nothing gets past the allow-list.

    ConfigError: the file is not private, not ours, or not a dotenv file, told by line and never with a value;
    InvalidCommand: an argument that could never work.
    """

    __slots__ = ("_file", "_needles", "_patterns", "_secret_values", "_secrets", "_variables")

    def __init__(
        self,
        *,
        allow: Iterable[str] = DEFAULT_ALLOW,
        file: str | os.PathLike[str] | None = None,
        values: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        source: Mapping[str, str] | None = None,
    ) -> None:
        # Not a default of the signature: help() and inspect would print the whole environment there.
        caller = os.environ if source is None else source
        allowed = _globs(allow, "allow")
        marked = _globs(secrets, "secrets")
        passed = {name: caller[name] for name in caller if _fits(name, allowed)}
        given = dict(values or {})
        _check_variables(passed, "source")
        _check_variables(given, "values")
        self._file = None if file is None else os.fspath(file)
        filed = {} if self._file is None else _read_dotenv(self._file)
        self._variables = {**passed, **filed, **given}
        self._secrets = frozenset(
            name
            for name in self._variables
            if name in filed or _fits(name, marked) or _fits(name.upper(), LOOKS_SECRET)
        )
        # A value that another one replaced is still a secret.
        self._secret_values = frozenset(
            layer[name] for layer in (passed, filed, given) for name in layer if name in self._secrets
        )
        self._patterns: tuple[re.Pattern[str], re.Pattern[bytes]] | None = None

    def build(self) -> dict[str, str]:
        """The environment, a new dict at each call."""
        return dict(self._variables)

    @property
    def secrets(self) -> AbstractSet[str]:
        """The names of the environment's variables that count as secret."""
        return self._secrets

    def redact(self, text: str) -> str:
        """``text`` with ``***`` for every secret value, in each of the forms that docs/python-api.md lists.

        Meant for whole texts: a value cut in two by reading in pieces is in neither piece.
        """
        return _mask(self._search()[0], text, MASK)

    def redact_bytes(self, data: bytes) -> bytes:
        """``redact`` for bytes that are UTF-8 or nearly."""
        return _mask(self._search()[1], data, MASK.encode())

    def redact_data(self, data: Any) -> Any:
        """A copy of nested mappings, lists, tuples and sets with every text in them redacted, keys too.

        What stands under a secret's name is replaced whole. Paths and exceptions become text. Numbers stay,
        also those whose digits are a secret's.
        """
        return self._redact_data(data, _DEEPEST)

    def _redact_data(self, data: Any, levels: int) -> Any:
        if levels == 0:
            return MASK
        if isinstance(data, str):
            return self.redact(data)
        if isinstance(data, (bytes, bytearray)):
            return self.redact_bytes(bytes(data))
        if isinstance(data, Mapping):
            return {
                self._redact_data(key, levels - 1): MASK
                if isinstance(key, str) and key in self._secrets
                else self._redact_data(value, levels - 1)
                for key, value in data.items()
            }
        if isinstance(data, (list, tuple, set, frozenset)):
            items = [self._redact_data(one, levels - 1) for one in data]
            return type(data)(*items) if hasattr(data, "_fields") else type(data)(items)
        if isinstance(data, (BaseException, os.PathLike)):
            return self.redact(str(data))
        return data

    def _search(self) -> tuple[re.Pattern[str], re.Pattern[bytes]]:
        if self._patterns is None:
            found = {needle for value in self._secret_values for needle in _needles(value)}
            # The first alternative that fits counts, so the longest stands first.
            ordered = sorted(found, key=lambda needle: (-len(needle), needle))
            coded = [needle.encode("utf-8", "surrogateescape") for needle in ordered]
            nothing = "(?!)"
            self._patterns = (
                re.compile("|".join(map(re.escape, ordered)) or nothing),
                re.compile(b"|".join(map(re.escape, coded)) or nothing.encode()),
            )
        return self._patterns

    def __repr__(self) -> str:
        """Names only."""
        file = "" if self._file is None else f"file={self._file!r}, "
        return f"SecureEnv({file}names={sorted(self._variables)}, secrets={sorted(self._secrets)})"


# --- arguments ---


def _globs(patterns: Iterable[str], argument: str) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise InvalidCommand(
            "expected several names, got one text", place=argument, hint=f"put it in a list: [{patterns!r}]"
        )
    found = tuple(patterns)
    for one in found:
        if not isinstance(one, str):
            raise InvalidCommand(f"expected names, got {type(one).__name__}", place=argument)
    return found


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_variables(variables: Mapping[Any, Any], argument: str) -> None:
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidCommand(f"{name!r} cannot name a variable", place=argument)
        place = f"{argument}[{name!r}]"
        if not isinstance(value, str):
            raise InvalidCommand(f"expected text, got {type(value).__name__}", place=place, hint="use str(...)")
        if "\0" in value:
            raise InvalidCommand("the value contains a NUL character, which no variable can hold", place=place)


# --- the file ---


def _read_dotenv(path: str) -> dict[str, str]:
    text = _decode(_read_private(path), path)
    try:
        add_site_packages()
        from dotenv.parser import parse_stream
    except ImportError:
        raise ConfigError(
            "reading it needs the library python-dotenv, which is not installed",
            place=path,
            hint="pip install 'python-dotenv>=1.0'",
        ) from None
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text, newline="")):
        raw = binding.original.string
        blank = raw[: len(raw) - len(raw.lstrip())]
        # The parser counts from the blank lines in front of a statement.
        place = f"{path}:{binding.original.line + len(_LINE_END.findall(blank))}"
        # No message shows any of the line: it may be the middle of somebody's private key.
        if binding.error:
            raise ConfigError("is no KEY=VALUE", place=place, hint="quote the whole value, and close the quote")
        if binding.key is None:
            continue
        if binding.value is None:
            raise ConfigError("expected KEY=VALUE, got no '='", place=place, hint="put a comment behind '#'")
        if not _NAME.fullmatch(binding.key):
            raise ConfigError(
                "what stands before '=' cannot name a variable",
                place=place,
                hint="use letters, digits and '_', no digit first",
            )
        if "\0" in binding.value:
            raise ConfigError("the value contains a NUL character, which no variable can hold", place=place)
        found[binding.key] = binding.value
    return found


def _read_private(path: str) -> bytes:
    """The file's bytes, once the open descriptor (not the name) was found to be ours and private."""
    try:
        fd = _open(path)
        try:
            _check_private(path, os.fstat(fd))
            data = bytearray()
            while len(data) <= _LARGEST and (chunk := os.read(fd, 1 << 16)):
                data += chunk
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ConfigError("there is no such file", place=path, hint=f"look at it: ls -l {path}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot be read: {reason}", place=path, hint=f"look at it: ls -l {path}") from None
    except ValueError:
        raise InvalidCommand("a NUL character is in no file's name", place="file") from None
    if len(data) > _LARGEST:
        raise ConfigError("is larger than 1 MiB", place=path, hint=f"is it the right file? ls -l {path}")
    return bytes(data)


def _open(path: str) -> int:
    """A descriptor of the file, symlinks followed one by one: only ours and root's lead anywhere."""
    # O_NONBLOCK: a named pipe must be refused, not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    here = path
    for _ in range(_MOST_LINKS):
        try:
            return os.open(here, flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        link = os.lstat(here)
        if not stat.S_ISLNK(link.st_mode):
            continue  # replaced since
        if link.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"is a symlink of user {link.st_uid}, neither yours ({os.geteuid()}) nor root's, so it is not trusted",
                place=path,
                hint="name the file itself",
            )
        aim = os.readlink(here)
        again = os.lstat(here)
        if (again.st_dev, again.st_ino, again.st_ctime_ns) == (link.st_dev, link.st_ino, link.st_ctime_ns):
            here = os.path.join(os.path.dirname(here), aim)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _check_private(path: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ConfigError("is a folder, not a file", place=path, hint=f"look at it: ls -ld {path}")
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError("is not a regular file", place=path, hint=f"look at it: ls -l {path}")
    if info.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"belongs to user {info.st_uid}, neither to you ({os.geteuid()}) nor to root, so it is not trusted",
            place=path,
            hint="take a copy of your own",
        )
    if info.st_mode & _OTHERS:
        raise ConfigError(
            f"group or others can read or write it (mode {stat.S_IMODE(info.st_mode):04o}), and it holds secrets",
            place=path,
            hint=f"chmod 600 {path}",
        )


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    # Raised out here: that error holds the whole file, and error reporters show what an error came from.
    raise ConfigError("is not UTF-8", place=f"{path}:{line}", hint="save the file as UTF-8")


# --- redaction ---


def _mask(pattern: re.Pattern[AnyStr], text: AnyStr, mask: AnyStr) -> AnyStr:
    """Occurrences are looked for at every position and then merged: of two that overlap no part is left."""
    match = pattern.search(text)
    if match is None:
        return text
    parts = []
    shown = 0  # up to where the text is written or masked
    start, end = match.span()
    while match is not None:
        if match.start() > end:
            parts += [text[shown:start], mask]
            shown, start = end, match.start()
        end = max(end, match.end())
        match = pattern.search(text, match.start() + 1)
    parts += [text[shown:start], mask, text[end:]]
    return type(text)().join(parts)


def _needles(value: str) -> Iterator[str]:
    """What a value looks like in a text: itself, its lines, and what quoting and encoding make of them."""
    if len(value.strip()) < SHORTEST:
        return
    yield from _quoted(value)
    yield from _encoded(value.encode("utf-8", "surrogateescape"))
    # A terminal, a logger's prefix or an indent comes between a private key's lines.
    for line in value.splitlines():
        if len(line.strip()) >= SHORTEST:
            yield from _quoted(line.strip())


def _quoted(value: str) -> Iterator[str]:
    data = value.encode("utf-8", "surrogateescape")
    yield value
    yield data.decode("utf-8", "replace")
    for one in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield one
        yield re.sub("%..", lambda match: match[0].lower(), one)
    yield dumps(value)[1:-1]
    yield dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield repr(data)[2:-1]
    yield value.replace("'", "'\"'\"'")
    yield value.replace("'", "'\\''")
    yield escape(value)
    yield escape(value, quote=False)


def _encoded(data: bytes) -> Iterator[str]:
    yield data.hex()
    yield data.hex().upper()
    # base64 codes three bytes at a time, so what stands before the value ("user:") shifts it by none, one or two.
    for shift, skip in ((0, 0), (1, 2), (2, 3)):
        whole = b64encode(bytes(shift) + data).decode()
        piece = whole[skip : (shift + len(data)) * 8 // 6]
        yield piece
        yield piece.replace("+", "-").replace("/", "_")
