"""``events.jsonl`` of a plan's output folder: one line an event, appended; what a resumed run goes by.

A line is written with one write(2), so a runner that is killed leaves whole lines and at most one broken one at the
end, which the next reader passes over.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from safesh.clock import wall
from safesh.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

VERSION = 1


class Journal:
    """The event log of one run of a plan."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Self:
        """Append to ``path``; StateError when it cannot be written."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
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
        data = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "backslashreplace")
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


def _last_byte(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(size - 1)
        return file.read(1)


def read(path: str) -> Iterator[dict[str, Any]]:
    """Every event that can be read, in order; broken lines are passed over. Nothing where there is no file."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", place=path) from None
    with file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
