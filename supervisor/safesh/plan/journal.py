"""``events.jsonl`` of a plan's output folder: one line an event, appended; what a resumed run goes by.

A line is written with one write(2), so a runner that is killed leaves whole lines and at most one broken one at the
end, which the next reader passes over.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from safesh.clock import wall
from safesh.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

VERSION = 1
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Journal:
    """The event log of one run of a plan."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Self:
        """Append to ``path``; StateError when it cannot be written."""
        try:
            fd = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
            size = os.fstat(fd).st_size
            if size and _last_byte(path, size) != b"\n":
                os.write(fd, b"\n")  # a line that a killed runner did not finish
        except OSError as error:
            raise StateError(
                f"cannot be written: {error.strerror}", place=path, hint="choose another --output"
            ) from None
        return cls(path, fd)

    def write(self, event: str, **facts: Any) -> None:
        """StateError when the disk takes no more."""
        line = {"v": VERSION, "at": round(wall(), 3), "event": event, **facts}
        data = (_encode(line) + "\n").encode("utf-8", "backslashreplace")
        try:
            done = os.write(self._fd, data)
            if done < len(data):
                raise OSError(28, os.strerror(28))
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", place=self.path, hint="free some space") from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_regular(path: str, flags: int) -> int:
    """A descriptor of a regular file. OSError for anything else: a pipe that somebody put there would be waited for."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe without a reader, a socket
            raise
        raise OSError(errno.EINVAL, "is not a regular file", path) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", path)
    os.set_blocking(fd, True)  # a step that inherits it need not know
    return fd


def _last_byte(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(size - 1)
        return file.read(1)


def read(path: str) -> Iterator[dict[str, Any]]:
    """Every event that can be read, in order; broken lines are passed over. Nothing where there is no file."""
    try:
        file = open(open_regular(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", place=path) from None
    with file:
        for line in file:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
