"""A structured log of resources: one JSON object a line, from several processes into one file, rotated by size.

A line has ``v``, ``at`` (wall seconds), ``level``, ``message`` and, where known, ``target``, ``mission_id``,
``device_id``, ``session_id`` and ``run_id``; then the metrics. It goes through ``logging`` or structlog: through a
logger of one's own, or straight to the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from safesh import clock, paths, wire
from safesh.core.rotation import next_number, part_path, scan_parts
from safesh.errors import SafeshError, StateError

VERSION = 1
MESSAGES = ("resources_initial", "resources_final", "resources", "process_resources", "limit_warning")
IDENTITY = ("target", "mission_id", "device_id", "session_id", "run_id")
_EXTRA = "safesh"  # the attribute of a LogRecord that carries our fields
_SIZE = 10 * 1024 * 1024


class JsonFile:
    """The file behind it: private, appended to with one write(2) a line, so that lines of several processes never mix.

    Rotated parts are numbered upwards, ``<path>.000001`` and on, as those of targets' logs are. What cannot be written
    is counted in ``lost`` and told by the next line that can be.
    """

    def __init__(self, path: str, *, size: int = _SIZE, keep: int = 5) -> None:
        """size: bytes after which a new file is begun, 0 for never; keep: rotated parts that stay, at least 1.
        StateError when the file is not to be trusted or cannot be made."""
        self.path = os.path.abspath(path)
        self.lost = 0
        self._size = size
        self._keep = max(1, keep)
        self._torn = False
        self._fd = -1
        self._file = (0, 0)
        self._mutex = threading.Lock()
        self._open()

    def write(self, line: str) -> bool:
        """Append one line (its end is added); False when it is lost. Never raises."""
        with self._mutex:
            try:
                self._settle()
                data = line.encode("utf-8", "backslashreplace") + b"\n"
                if self.lost:
                    told = {"v": VERSION, "at": round(clock.wall(), 3), "level": "warning", "message": "lines_lost"}
                    data = wire.dumps({**told, "count": self.lost}).encode() + b"\n" + data
                if self._torn:
                    data = b"\n" + data
                written = os.write(self._fd, data)
            except (OSError, SafeshError):
                written, data = 0, b"?"
            if written == len(data):
                self.lost, self._torn = 0, False
                return True
            self.lost += 1
            self._torn = self._torn or written > 0  # the disk took a part of the line
            return False

    # structlog calls the method of the level with what its renderer gave.
    def msg(self, line: str) -> None:
        """What structlog's wrapped loggers call."""
        self.write(line)

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg

    def close(self) -> None:
        with self._mutex:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open(self) -> None:
        fd = paths.open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        info = os.fstat(fd)
        self._file = (info.st_dev, info.st_ino)

    def _settle(self) -> None:
        """Be in the file that has the name now, and let that one have room."""
        for _attempt in range(2):
            try:
                named = os.lstat(self.path)
            except FileNotFoundError:
                named = None
            if self._fd < 0 or named is None or (named.st_dev, named.st_ino) != self._file:
                self._open()  # another process has rotated, or somebody removed it
                named = os.fstat(self._fd)
            if not self._size or named.st_size < self._size:
                return
            self._rotate()

    def _rotate(self) -> None:
        """Give the full file its number. One process does it; what others write meanwhile is in that part, not lost."""
        lock = paths.open_private(self.path + "-lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            named = os.lstat(self.path)
            if (named.st_dev, named.st_ino) == self._file:  # else somebody was faster
                os.rename(self.path, part_path(self.path, next_number(self.path)))
                parts = list(scan_parts(self.path).values())
                for names in parts[: -self._keep]:
                    for name in names:
                        paths.remove(name)
        except (BlockingIOError, FileNotFoundError):
            pass  # it is being rotated
        finally:
            os.close(lock)


class JsonHandler(logging.Handler):
    """For ``logging``: what any logger is told goes into the file, one JSON object a line."""

    def __init__(self, file: JsonFile, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = getattr(record, _EXTRA, None)
            if not isinstance(fields, Mapping):
                fields = {"logger": record.name}
            line = _line(record.created, record.levelname.lower(), record.getMessage(), fields)
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            self.file.write(_dump(line))
        except Exception:
            self.handleError(record)


class ResourceLog:
    """What a mission, a target or the monitor says about resources.

    ``log = ResourceLog(path, target="robot", run_id=run_id)``, then ``log.write("resources_initial", **numbers)``.
    Writing never raises for a full or vanished disk: see :class:`JsonFile`.
    """

    def __init__(
        self,
        path: str = "",
        *,
        logger: Any = None,
        size: int = _SIZE,
        keep: int = 5,
        **fields: Any,
    ) -> None:
        """path: the file, where no ``logger`` is given. logger: of ``logging`` or of structlog; the fields reach it as
        ``record.safesh``, or as key words. fields: what every line has (see ``IDENTITY``). StateError: see JsonFile."""
        if logger is None and not path:
            raise StateError("a log needs a path or a logger", place="ResourceLog")
        self.file = JsonFile(path, size=size, keep=keep) if logger is None else None
        self._logger = logger
        self._fields = fields

    def bind(self, **fields: Any) -> ResourceLog:
        """The same log with more fields on every line."""
        other = object.__new__(ResourceLog)
        other.file, other._logger, other._fields = self.file, self._logger, {**self._fields, **fields}
        return other

    def write(self, message: str, *, level: str = "info", **metrics: Any) -> None:
        """One line. message: what it is about, one of ``MESSAGES`` or another; metrics: numbers, texts, or records with
        ``to_dict``."""
        fields = {**self._fields, **metrics}
        if self.file is not None:
            self.file.write(_dump(_line(clock.wall(), level, message, fields)))
        elif isinstance(self._logger, (logging.Logger, logging.LoggerAdapter)):
            self._logger.log(logging.getLevelName(level.upper()), message, extra={_EXTRA: fields})
        else:
            getattr(self._logger, level)(message, **fields)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _line(at: float, level: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"v": VERSION, "at": round(at, 3), "level": level, "message": message}
    line.update((name, fields[name]) for name in IDENTITY if fields.get(name) is not None)
    line.update((name, value) for name, value in fields.items() if name not in line and name not in IDENTITY)
    return line


def _dump(line: Mapping[str, Any]) -> str:
    try:
        return wire.dumps(line)
    except (TypeError, RecursionError):
        # Somebody's object among the metrics: its text is better than no line.
        plain = {name: value if isinstance(value, (str, int, float)) else repr(value) for name, value in line.items()}
        return wire.dumps(plain)
