"""The report channel: what a running step tells of itself, as JSON lines in the file that ``SAFESH_REPORT`` names.

A line is an object with any of ``tokens``, ``cost`` (both: so far, in this attempt), ``progress`` (0 to 1) and
``message``; other keys are passed over, so shell scripts may write it by hand. Steps import this module in their own
short lives: nothing heavy is loaded until something is wrong.
"""

from __future__ import annotations

import os
import stat

from safesh import wire
from safesh.clock import shown, wall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

VARIABLE = "SAFESH_REPORT"
VERSION = 1
LONGEST = 64 * 1024  # bytes of a line with its newline; within it one write(2) with O_APPEND is one line
FIELDS = ("tokens", "cost", "progress", "message")

_MOST_TOKENS = 1 << 63
_MOST_COST = 1e15
_LONGEST_MESSAGE = 5000  # characters; JSON takes up to twelve bytes for each
_CHUNK = 1 << 16
_AT_ONCE = 1 << 20  # bytes looked at in one read, so that a flood of reports holds nobody up
_TOO_FAR_BEHIND = 16 << 20


def report(
    *, tokens: int | None = None, cost: float | None = None, progress: float | None = None, message: str | None = None
) -> bool:
    """Tell how far this step of a plan has come: one line is appended to the file named in ``SAFESH_REPORT``.

    tokens, cost: used by this attempt so far, not since the last report; progress: 0 to 1; message: one line, cut after
    5000 characters. Threads and processes of a step may report at the same time. False, and nothing done, outside a
    plan and when the file cannot be written: a report never fails the work. InvalidCommand (a ValueError) names an
    argument of the wrong type or range.
    """
    told = checked({"tokens": tokens, "cost": cost, "progress": progress, "message": message})
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    if "message" in told:
        told["message"] = told["message"][:_LONGEST_MESSAGE]
    line = wire.dumps({"v": VERSION, "at": round(wall(), 3), **told}).encode("ascii") + b"\n"
    try:
        # Opened anew each time: a descriptor kept would be inherited by forks, and point to a file that was replaced.
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except (OSError, ValueError):
        return False
    try:
        written = os.write(fd, line)
        if 0 < written < len(line):
            os.write(fd, b"\n")  # the disk took a part: the reader counts it, and the next line stands alone
        return written == len(line)
    except OSError:
        return False
    finally:
        os.close(fd)


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are given (not None), as plain numbers and text; InvalidCommand names the one that is wrong."""
    told: dict[str, Any] = {}
    for name in FIELDS:
        value = fields.get(name)
        if value is not None:
            told[name] = _CHECKS[name](name, value)
    if not told:
        _refuse("report", "nothing is told", "give at least one of tokens, cost, progress and message")
    return told


def check_one(name: str, value: Any) -> Any:
    """One field's value, as ``checked`` has it."""
    return _CHECKS[name](name, value)


def _tokens(name: str, value: Any) -> int:
    number: int | None = None
    if not isinstance(value, bool):
        if isinstance(value, float) and value.is_integer():  # 1e3, which is how some write it
            number = int(value)
        elif hasattr(value, "__index__"):
            number = value.__index__()
    if number is None or not 0 <= number < _MOST_TOKENS:
        _refuse(name, f"{shown(value)} is not a whole number of tokens, 0 or more")
    return number


def _number(name: str, value: Any, most: float, expected: str) -> float:
    number = -1.0
    if not isinstance(value, (bool, str, bytes, bytearray)) and hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if not 0 <= number <= most:  # false for NaN too
        _refuse(name, f"{shown(value)} is not {expected}")
    return abs(number)  # -0.0 becomes 0.0


def _cost(name: str, value: Any) -> float:
    return _number(name, value, _MOST_COST, "a cost, a number of at least 0")


def _progress(name: str, value: Any) -> float:
    return _number(name, value, 1.0, "a share of the work, 0 to 1")


def _message(name: str, value: Any) -> str:
    if not isinstance(value, str):
        _refuse(name, f"{shown(value)} is not text")
    return value


_CHECKS: dict[str, Any] = {"tokens": _tokens, "cost": _cost, "progress": _progress, "message": _message}


def _refuse(name: str, message: str, hint: str = "") -> Never:
    from safesh.process.errors import InvalidCommand

    raise InvalidCommand(message, place=name, hint=hint)


class ReportReader:
    """Follows one report file. A line that makes no sense is counted in ``bad``, the last one's reason in ``reason``.

    The file may be missing yet, be replaced, be cut, and end in half a line; its writers are never waited for.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines = 0
        self.bad = 0
        self.reason = ""
        self._fd = -1
        self._offset = 0
        self._rest = b""
        self._skipping = False  # the rest of a line that was too long

    def read(self, *, final: bool = False) -> dict[str, Any]:
        """What came since the last call: the latest value of each field that was told, empty when none was.

        final: the step has ended, so all of it is read, and a last line without its newline is one too.
        """
        told: dict[str, Any] = {}
        more = True
        while more:
            more = self._read_some(told) and final
        if final and self._rest:
            self._line(self._rest, told)
            self._rest = b""
        return told

    def close(self) -> None:
        """Give the descriptor back; may be called twice, and read again afterwards begins anew."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset, self._rest, self._skipping = -1, 0, b"", False

    def __del__(self) -> None:
        self.close()

    def _read_some(self, told: dict[str, Any]) -> bool:
        """Take at most ``_AT_ONCE`` bytes; whether there may be more."""
        if self._fd < 0 and not self._open():
            return False
        info = os.fstat(self._fd)
        if info.st_size < self._offset:  # cut: what is there now was written since
            self._offset, self._rest, self._skipping = 0, b"", False
        behind = info.st_size - self._offset
        if behind > _TOO_FAR_BEHIND:  # only the latest values matter
            self._count_bad(f"{behind - _AT_ONCE} bytes of reports were passed over: more than can be followed")
            self._offset, self._rest, self._skipping = info.st_size - _AT_ONCE, b"", True
        taken = 0
        while taken < _AT_ONCE:
            try:
                data = os.pread(self._fd, _CHUNK, self._offset)
            except OSError as error:
                self._count_bad(f"the report file cannot be read: {error.strerror}")
                return False
            if not data:
                return self._moved_on(told)
            self._offset += len(data)
            taken += len(data)
            self._take(data, told)
        return True

    def _open(self) -> bool:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            self._tell_once(f"the report file cannot be opened: {getattr(error, 'strerror', None) or error}")
            return False
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            self._tell_once("the report file is not a regular file")
            return False
        self._fd, self._offset, self._rest, self._skipping = fd, 0, b"", False
        return True

    def _moved_on(self, told: dict[str, Any]) -> bool:
        """The end of this file: whether another one has its name by now."""
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # removed: what it had is read, and a new one is found by a later call
        here = os.fstat(self._fd)
        if (named.st_dev, named.st_ino) == (here.st_dev, here.st_ino):
            return False
        if self._rest:
            self._line(self._rest, told)
        self.close()
        return self._open()

    def _take(self, data: bytes, told: dict[str, Any]) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line, told)
        if len(rest) >= LONGEST:
            if not self._skipping:
                self._too_long()
            self._skipping, rest = True, b""
        self._rest = b"" if self._skipping else rest

    def _line(self, line: bytes, told: dict[str, Any]) -> None:
        if not line.strip():
            return
        if len(line) >= LONGEST:
            self._too_long()
            return
        try:
            found = wire.loads(line.decode())
            if not isinstance(found, dict):
                raise ValueError(f"{shown(found)} is not an object")
            told.update(checked(found))
            self.lines += 1
        except UnicodeDecodeError as error:
            self._count_bad(f"not UTF-8 at byte {error.start}")
        except ValueError as error:  # InvalidCommand is one
            self._count_bad(str(error))

    def _too_long(self) -> None:
        self._count_bad(f"a line longer than {LONGEST // 1024} KiB")

    def _tell_once(self, reason: str) -> None:
        if self.reason != reason:
            self._count_bad(reason)

    def _count_bad(self, reason: str) -> None:
        self.bad += 1
        self.reason = reason
