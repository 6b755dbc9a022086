"""The process API's events, told to standard logging, to structlog or to a function."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

from safesh.model import Record
from safesh.process.errors import InvalidCommand

Redactor = Callable[[str], str]
Sink = Callable[[str, str, dict[str, Any]], None]

DEFAULT_NAME = "safesh.process"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_WORDS = {
    "process_started": "started",
    "process_ended": "ended",
    "process_timed_out": "timed out",
    "process_limit_warning": "near its limit",
    "process_limit_exceeded": "over its limit",
    "callback_failed": "callback failed",
    "process_leftovers": "left processes behind",
}
_LONGEST_COMMAND = 200  # characters of a message; the fields have all of it
_DEEPEST = 16  # levels of nested fields
# What standard logging makes of a record itself, and what structlog's methods take for their own.
_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TAKEN = _RECORD | {"event", "level", "logger", "timestamp", "exception", "stack", "stacklevel", "extra"}


class StructuredLogger(Protocol):
    """What is asked of a structlog logger, or one made like it."""

    def bind(self, **fields: Any) -> Any: ...


AnyLogger = (
    logging.Logger | logging.LoggerAdapter[Any] | StructuredLogger | Callable[[str, dict[str, Any]], object] | None
)


class EventLogger:
    """Tells events to one logger. What the logger raises ends here: a run does not depend on who listens.

    The first failure is told in one line on standard error, unless ``logging.raiseExceptions`` is off, which is
    how standard logging treats its own handlers.
    """

    __slots__ = ("_failed", "_is_enabled", "_redact", "_sink")

    def __init__(self, sink: Sink, is_enabled: Callable[[int], bool], redact: Redactor | None = None) -> None:
        self._sink = sink
        self._is_enabled = is_enabled
        self._redact = redact
        self._failed: list[str] = []  # shared with what with_redactor gives: one logger, one complaint

    def with_redactor(self, redact: Redactor | None) -> EventLogger:
        """The same logger with every text redacted before it is told, by what was set earlier too."""
        if redact is None:
            return self
        earlier, later = self._redact, redact
        both = later if earlier is None else lambda text: later(earlier(text))
        other = EventLogger(self._sink, self._is_enabled, both)
        other._failed = self._failed
        return other

    def emit(self, event: str, level: str = "info", **fields: Any) -> None:
        """Tell one event; nothing is formatted when the logger does not listen at this level. Raises nothing.

        level: debug, info, warning, error or critical.
        """
        try:
            if self._is_enabled(_LEVELS[level]):
                self._sink(event, level, {name: _plain(value, self._redact) for name, value in fields.items()})
        except Exception as error:
            self._complain(event, error)

    def _complain(self, event: str, error: Exception) -> None:
        if self._failed or not logging.raiseExceptions or sys.stderr is None:
            return
        self._failed.append(event)
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
        # Its message is not shown: it may quote what could not be logged, secrets too.
        try:
            sys.stderr.write(f"safesh: the logger raised {type(error).__name__} at {event}{where} (told once)\n")
        except (OSError, ValueError):
            pass


def adapt(logger: AnyLogger | EventLogger = None) -> EventLogger:
    """An EventLogger for ``logger``, which may be

    None: ``logging.getLogger("safesh.process")``; a standard logger or LoggerAdapter; a structlog logger (whatever
    has ``bind``); or a function of the event's name and its fields. InvalidCommand for anything else.
    """
    if isinstance(logger, EventLogger):
        return logger
    if logger is None:
        logger = logging.getLogger(DEFAULT_NAME)
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
        return EventLogger(_standard(logger), logger.isEnabledFor)
    if hasattr(logger, "bind"):
        return EventLogger(_structured(logger), _structured_level(logger))
    if callable(logger):
        return EventLogger(_function(logger), lambda _: True)
    raise InvalidCommand(
        f"expected a logger or a function of (event, fields), got {type(logger).__name__}", place="logger"
    )


# --- the three kinds ---


def _standard(logger: logging.Logger | logging.LoggerAdapter[Any]) -> Sink:
    def tell(event: str, level: str, fields: dict[str, Any]) -> None:
        _log(logger, _LEVELS[level], _message(event, fields), {"extra": {"safesh": {"event": event, **fields}}})

    return tell


def _log(logger: Any, level: int, message: str, options: dict[str, Any]) -> None:
    fields = options["extra"]["safesh"]
    while isinstance(logger, logging.LoggerAdapter):
        # Before Python 3.13 an adapter's own extra replaces the one it is given, so ours joins it afterwards.
        text, added = logger.process(message, options)
        message = str(text)
        options = {**added, "extra": {**(added.get("extra") or {}), "safesh": fields}}
        logger = logger.logger
    logger.log(level, message, **options)


def _structured(logger: Any) -> Sink:
    def tell(event: str, level: str, fields: dict[str, Any]) -> None:
        named = {f"{name}_" if name in _TAKEN else name: value for name, value in fields.items()}
        getattr(_bound(logger), level)(event, **named)

    return tell


def _structured_level(logger: Any) -> Callable[[int], bool]:
    def is_enabled(level: int) -> bool:
        bound = _bound(logger)
        for name in ("is_enabled_for", "isEnabledFor"):
            # Asked of the class: instances of structlog's generic logger take any attribute for a way to log.
            if hasattr(type(bound), name):
                return bool(getattr(bound, name)(level))
        return True

    return is_enabled


def _bound(logger: Any) -> Any:
    """The logger behind the lazy proxy, as configured by now; the synchronous half of an asynchronous one."""
    bound = logger.bind()
    return bound.sync_bl if hasattr(type(bound), "sync_bl") else bound


def _function(function: Callable[[str, dict[str, Any]], object]) -> Sink:
    def tell(event: str, _: str, fields: dict[str, Any]) -> None:
        function(event, fields)

    return tell


# --- what is told ---


def _message(event: str, fields: dict[str, Any]) -> str:
    """One line for people: what happened to which command, then whatever else is short."""
    rest = dict(fields)
    for name in ("run_id", "mode", "timed_out", "usage"):  # in the fields, for who looks there
        rest.pop(name, None)
    words = [_WORDS.get(event, event.replace("_", " "))]
    command = rest.pop("command", None)
    if command:
        text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
        words[0] += ":"
        words.append(text if len(text) <= _LONGEST_COMMAND else text[: _LONGEST_COMMAND - 3] + "...")
    if (pid := rest.pop("pid", None)) is not None:
        words.append(f"(pid {pid})")
    signal, code = rest.pop("signal", None), rest.pop("return_code", None)
    if signal is not None:
        words.append(f"by {signal}" if isinstance(signal, str) else f"by signal {signal}")
    elif code is not None:
        words.append(f"with code {code}")
    if isinstance(seconds := rest.pop("execution_time", None), (int, float)):
        words.append(f"after {seconds:.2f} s")
    error = rest.pop("error", None)
    words += [f"{name}={value}" for name, value in rest.items() if isinstance(value, (str, int, float))]
    if error:
        words.append(f"- {error}")
    # Whoever names a process does not get to write lines of this log, or to steer the terminal that shows it.
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in " ".join(words)
    )


def _plain(value: Any, redact: Redactor | None, levels: int = _DEEPEST) -> Any:
    """``value`` as JSON knows it, its texts redacted; what is no data becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.name if isinstance(value, int) else value.value, redact, levels)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if levels == 0:
        return "..."
    inner = _inner(value)
    if isinstance(inner, Mapping):
        return {_text(key, redact): _plain(one, redact, levels - 1) for key, one in inner.items()}
    if isinstance(inner, (list, tuple, set, frozenset)):
        return [_plain(one, redact, levels - 1) for one in inner]
    return _text(value, redact)


def _inner(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields_of(value)}
    return value


def _text(value: Any, redact: Redactor | None) -> str:
    if isinstance(value, (bytes, bytearray)):
        text = value.decode("utf-8", "replace")
    elif isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    elif isinstance(value, os.PathLike):
        text = os.fsdecode(value)
    else:
        text = str(value)
    return text if redact is None else redact(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, then the event's fields.

    Other extras of a record follow, ``exception`` and ``stack`` where it has them. A name that is taken already
    gets a ``_`` behind it. Objects within a field (``usage``) stay objects. redact: for the texts of every record
    that comes by, also those that are not ours; the others are what ``logging.config`` gives any formatter, and
    change nothing.
    """

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: str = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
        redact: Redactor | None = None,
    ) -> None:
        if callable(fmt):  # secrets would be shown without a word
            raise InvalidCommand("redact is given by name", place="JsonFormatter", hint="JsonFormatter(redact=...)")
        del fmt, datefmt, style, validate, defaults
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        others = {name: value for name, value in vars(record).items() if name not in _RECORD}
        event = others.pop("safesh", None)
        extras = [event, others] if isinstance(event, Mapping) else [others]
        for name, value in ((name, value) for one in extras for name, value in one.items()):
            while name in line:
                name += "_"
            line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(_plain(line, self._redact))
