"""The arguments of a call, checked before anything is started: what is wrong, where, and what was expected."""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safesh.clock import parse_duration, parse_size
from safesh.core import quick, signals
from safesh.errors import ConfigError
from safesh.model import Limit, Limits, StopPolicy
from safesh.process.errors import InvalidCommand

if TYPE_CHECKING:
    from typing import Never

Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_PLAIN = re.compile(r"[\w@%+=:,./ \t-]*", re.ASCII)  # nothing in it that a shell would treat apart
_SHELL = "/bin/sh"
_BYTES: tuple[type, ...] = (bytes, bytearray, memoryview)


def refuse(place: str, message: str, hint: str = "") -> Never:
    raise InvalidCommand(message, place=place, hint=hint)


def parse_command(command: Command, shell: bool) -> list[str]:
    """argv. A string is split as a shell would split it, and never run by one unless ``shell``."""
    if shell:
        if not isinstance(command, str):
            refuse("command", "shell=True takes one string, a line for /bin/sh", "leave out shell=True to pass a list")
        _check_text("command", command)
        if not command.strip():
            refuse("command", "is empty", "name a program")
        return [_SHELL, "-c", command]
    if isinstance(command, str):
        _check_text("command", command)
        argv = command.split() if _PLAIN.fullmatch(command) else _split(command)
    elif isinstance(command, os.PathLike):
        argv = [_word("command", command)]
    elif not isinstance(command, _BYTES) and isinstance(command, Sequence):
        argv = [word if type(word) is str else _word(f"command[{at}]", word) for at, word in enumerate(command)]
        for at, word in enumerate(argv):
            if "\0" in word:
                _check_text(f"command[{at}]", word)
    else:
        refuse("command", f"expected a string or a list of strings, not {type(command).__name__}")
    if not argv:
        refuse("command", "is empty", "name a program")
    if not argv[0]:
        refuse("command[0]", "is empty", "name a program")
    return argv


def _split(text: str) -> list[str]:
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        refuse("command", f"cannot be split as a shell would: {str(error).lower()}", "pass a list of arguments")


def _word(place: str, value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        refuse(place, f"expected a string, not {type(value).__name__} ({value!r})", "use str()")
    _check_text(place, value)
    return value


def _check_text(place: str, text: str) -> None:
    at = text.find("\0")
    if at >= 0:
        refuse(place, f"holds a NUL byte at position {at}; no argument can", "remove it, or pass the data on stdin")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        refuse(place, f"cannot be passed in this locale: {error.reason} at position {error.start}")


def parse_cwd(cwd: str | os.PathLike[str] | None) -> str | None:
    if cwd is None:
        return None
    text = _word("cwd", cwd)
    if not text:
        refuse("cwd", "is empty", "leave it out to stay where you are")
    return text


def build_environment(env: Mapping[str, str] | None, run_id: str, mark: str) -> quick.Environment:
    """The child's whole environment; None stands for ours. ``mark`` is set to the run's id."""
    if env is None:
        built = _own_environment(mark.encode())
        line = b"%s=%s" % (mark.encode(), run_id.encode())
        built.pairs = [*built.pairs, line] if built.pairs is not None else None
    else:
        built = quick.Environment()
        pairs: Any = env
        if not isinstance(pairs, Mapping):
            refuse("env", f"expected a mapping of names to values, not {type(env).__name__}")
        for name, value in pairs.items():
            if not isinstance(name, str) or not isinstance(value, str):
                wrong = value if isinstance(name, str) else name
                refuse(f"env[{name!r}]", f"expected strings, not {type(wrong).__name__}")
            if not name or "=" in name:
                refuse(f"env[{name!r}]", "is no name of a variable", "a name has no '=' and is not empty")
            if "\0" in name or "\0" in value:
                refuse(f"env[{name!r}]", "holds a NUL byte; no variable can")
            built[os.fsencode(name)] = os.fsencode(value)
    built[mark.encode()] = run_id.encode()
    return built


def _own_environment(mark: bytes) -> quick.Environment:
    """Ours, with the lines for exec of everything but ``mark``; made anew only when it has changed.

    By the dict behind os.environ, compared and copied at once: through the mapping's own methods it costs 25 us a call.
    """
    global _last
    held = getattr(os.environ, "_data", None)
    if not isinstance(held, dict) or not held or not isinstance(next(iter(held)), bytes):
        return quick.Environment(os.environb)
    known, pairs = _last
    if held != known:
        known = held.copy()
        pairs = [name + b"=" + value for name, value in known.items() if name != mark]
        _last = known, pairs
    built = quick.Environment(known)
    built.pairs = pairs
    return built


_last: tuple[dict[bytes, bytes], list[bytes]] = ({}, [])


def parse_timeout(timeout: float | str | None, place: str = "timeout") -> float | None:
    """Seconds, or a duration such as "90s" or "2m"; None for no deadline."""
    if timeout is None:
        return None
    if isinstance(timeout, str):
        try:
            return parse_duration(timeout, place)
        except ConfigError as error:
            refuse(place, error.message, error.hint)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        refuse(place, f"expected seconds, not {type(timeout).__name__}", "such as 30 or '2m'; None for no deadline")
    if math.isnan(timeout) or timeout < 0:
        refuse(place, f"expected seconds of 0 or more, not {timeout}", "None for no deadline")
    return None if math.isinf(timeout) else float(timeout)


def check_encoding(encoding: str | None, errors: str) -> None:
    try:
        codecs.lookup_error(errors)(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "asked whether it can decode"))
    except UnicodeDecodeError:
        pass  # "strict"
    except (LookupError, TypeError, ValueError):
        refuse("errors", f"{errors!r} is no way to decode", "such as 'replace', 'strict' or 'surrogateescape'")
    if encoding is not None:
        from safesh.process.lines import LineSplitter

        try:
            LineSplitter(encoding, errors)
        except (LookupError, TypeError, ValueError):
            refuse("encoding", f"{encoding!r} is no encoding of text", "such as 'utf-8'; None for bytes")


def parse_stop(stop: StopPolicy | str | float | None, fallback: StopPolicy) -> StopPolicy:
    """How a tree is ended: a policy, a grace in seconds, or a signal by name."""
    if stop is None:
        return fallback
    if isinstance(stop, StopPolicy):
        policy = stop
        if policy.scope not in ("main", "tree"):
            refuse("stop.scope", f"expected 'main' or 'tree', not {policy.scope!r}")
        if parse_timeout(policy.grace, "stop.grace") is None:
            policy = StopPolicy(signal=stop.signal, scope=stop.scope, grace=1e9)
    elif isinstance(stop, str):
        parse_signal(stop, "stop")
        policy = StopPolicy(signal=stop, scope=fallback.scope, grace=fallback.grace)
    else:
        grace = parse_timeout(stop, "stop")
        policy = StopPolicy(signal=fallback.signal, scope=fallback.scope, grace=grace if grace is not None else 1e9)
    parse_signal(policy.signal, "stop.signal")
    return policy


def parse_signal(signal: str | int, place: str = "signal") -> int:
    if isinstance(signal, bool) or not isinstance(signal, (str, int)):
        refuse(place, f"expected a name or a number, not {type(signal).__name__}", "such as 'SIGINT' or signal.SIGINT")
    try:
        return signals.number(signal if isinstance(signal, str) else int(signal))
    except ConfigError as error:
        refuse(place, error.message, error.hint)


_SIZES = ("memory", "log_growth")


def parse_limits(limits: Limits | Mapping[str, Any] | None) -> Limits | None:
    """Ceilings for the whole tree; a number or size stands for a limit whose crossing ends the run."""
    if limits is None:
        return None
    if isinstance(limits, Limits):
        if not limits.interval > 0:
            refuse("limits.interval", f"expected seconds above 0, not {limits.interval!r}")
        return limits
    if not isinstance(limits, Mapping):
        refuse("limits", f"expected a mapping or safesh.Limits, not {type(limits).__name__}")
    names = Limits.fields()
    found: dict[str, Any] = {}
    for name, value in limits.items():
        place = f"limits[{name!r}]"
        if name not in names or name == "log_growth":
            refuse(place, "is no limit", "known: memory, cpu, max_runtime, processes, open_files, interval")
        if isinstance(value, Limit) and name != "interval":
            found[name] = value
            continue
        try:
            if name in _SIZES:
                number: float = parse_size(value, place)
            elif name in ("max_runtime", "interval"):
                number = parse_duration(value, place)
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                refuse(place, f"expected a number above 0, not {value!r}")
            else:
                number = float(value)
        except ConfigError as error:
            refuse(place, error.message, error.hint)
        if not number:
            refuse(place, f"expected more than 0, not {value!r}", "leave it out for no limit")
        found[name] = number if name == "interval" else Limit(most=number, action="stop")
    return Limits(**found)


def parse_max_output(value: int | str | None) -> int | None:
    if value is None:
        return None
    try:
        size = parse_size(value, "max_output")
    except ConfigError as error:
        refuse("max_output", error.message, error.hint)
    if size <= 0:
        refuse("max_output", f"expected bytes above 0, not {value!r}", "None for no bound")
    return size


def as_bytes(data: object, encoding: str | None, place: str) -> bytes | memoryview:
    """What is to be written, as bytes; text by ``encoding`` (UTF-8 for a stream of bytes)."""
    if isinstance(data, str):
        try:
            return data.encode(encoding or "utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            refuse(place, f"cannot be written as {encoding or 'utf-8'}: {error.reason} at position {error.start}")
    if isinstance(data, bytes):
        return data
    if isinstance(data, memoryview) and data.c_contiguous:
        return data.cast("B") if data.ndim else bytes(data)
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    refuse(place, f"expected text or bytes, not {type(data).__name__}")
