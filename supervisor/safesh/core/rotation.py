"""The log's file: where it ends, when it is followed by a new one, and the parts that lie behind it.

``<path>`` is being written; ``<path>.000001``, ``<path>.000002`` … came before it, in that order (``.gz`` when
compressed). The numbers only grow. rename(2) is the whole of a rotation: whoever dies right after it leaves a
complete part and no ``<path>``, and the next writer goes on from there.
"""

from __future__ import annotations

import os

from safesh import paths
from safesh.clock import monotonic
from safesh.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safesh.core.compression import Packer
    from safesh.model import LogPolicy

PACKED = ".gz"
UNFINISHED = ".gz.tmp"

_UNLIMITED = 1 << 62
_LOOK_BYTES = 1 << 20  # a file renamed or replaced by somebody is noticed after this much, or
_LOOK_SECONDS = 1.0  # after this long, whichever comes first
LONGEST_LINE = 1 << 16  # a line that long past the limit is cut: "at a line boundary where possible"


def part_path(path: str, number: int) -> str:
    """Where the rotated part ``number`` of the log at ``path`` lies, uncompressed."""
    return f"{path}.{number:06d}"


def scan_parts(path: str) -> dict[int, list[str]]:
    """The rotated parts by number, ascending: the plain file first, where a part has both forms.

    OSError when the folder cannot be read.
    """
    return _parts_among(os.listdir(os.path.dirname(path) or "."), path)


def _parts_among(entries: list[str], path: str) -> dict[int, list[str]]:
    folder, name = os.path.split(path)
    found: dict[int, list[str]] = {}
    for entry in entries:
        if not entry.startswith(name + "."):
            continue
        digits = entry[len(name) + 1 :].removesuffix(PACKED)
        if len(digits) >= 6 and digits.isdecimal() and digits.isascii():
            found.setdefault(int(digits), []).append(os.path.join(folder, entry))
    return {number: sorted(found[number]) for number in sorted(found)}


def next_number(path: str) -> int:
    """The number that the file at ``path`` gets when it is rotated."""
    return max(scan_parts(path), default=0) + 1


class LogFile:
    """The file being written, by one process alone.

    fd and size are for the writer: write at ``size`` and add to it. Every write is preceded by
    :meth:`settle`, and by :meth:`rotate` where :meth:`room` says that it is time.
    """

    def __init__(self, path: str, policy: LogPolicy, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        """StateError when the file cannot be opened or trusted."""
        self.path = path
        self.fd = -1
        self.size = 0
        self._policy = policy
        self._file = (0, 0)
        self.packer: Packer | None = None
        self._named = True  # the file under self.path is the one that is open
        self._look_size = 0
        self._look_at = 0.0
        self._rest_until = 0.0
        self._unswept = False
        self._number = 0
        self._adopt(open_log(path))
        self._tidy()
        if policy.compress:
            from safesh.core.compression import Packer

            self.packer = Packer(path, on_event)
            self.packer.start()

    def _adopt(self, fd: int) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd
        info = os.fstat(fd)
        self.size = info.st_size
        self._file = (info.st_dev, info.st_ino)
        self._named = True
        self._plan_look()
        if self.packer is not None:
            self.packer.held = False

    def _plan_look(self) -> None:
        self._look_size = self.size + _LOOK_BYTES
        self._look_at = monotonic() + _LOOK_SECONDS

    def settle(self) -> None:
        """See what others did to the file since the last write.

        Truncated: go on at its end. Removed, renamed or replaced: go on in the one that has the name now,
        made when missing. StateError when that one cannot be used and the old one is gone too.
        """
        info = os.fstat(self.fd)
        self.size = info.st_size
        if info.st_nlink and self.size < self._look_size and monotonic() < self._look_at:
            return
        self._plan_look()
        try:
            named = os.lstat(self.path)
            self._named = (named.st_dev, named.st_ino) == self._file
        except OSError:
            self._named = False
        if not self._named:
            try:
                self._adopt(open_log(self.path))
            except StateError:
                # Under some other name the old file still keeps every byte.
                if not info.st_nlink:
                    raise

    def reopen(self) -> None:
        """Open the name again, whatever it leads to now; StateError when that fails."""
        self._adopt(open_log(self.path))

    def room(self) -> int:
        """Bytes until the file is due for rotation; none, or fewer than none, once it is."""
        if not self._policy.size or not self._named:
            return _UNLIMITED
        left = self._policy.size - self.size
        if left <= 0 and self._rest_until and monotonic() < self._rest_until:
            return _UNLIMITED
        return left

    def at_boundary(self) -> bool:
        """Whether a file that is due may be rotated here: after a whole line, or within an endless one."""
        return self.size - self._policy.size >= LONGEST_LINE or self.ends_line()

    def ends_line(self) -> bool:
        return self.size == 0 or os.pread(self.fd, 1, self.size - 1) == b"\n"

    def rotate(self) -> None:
        """Give the file its number and go on in a new one.

        Where that fails the old file simply grows on, and it is tried again a second later.
        """
        self._look_at = 0.0
        self.settle()
        if not self._named or self.room() > 0:
            return
        if self.packer is not None:
            self.packer.held = True
        try:
            os.rename(self.path, self._next_part())
        except OSError:
            self._rest_until = monotonic() + 1.0
            if self.packer is not None:
                self.packer.held = False
            return
        self._named = False
        try:
            self._adopt(open_log(self.path))
        except StateError:
            return  # settle() tries again; until then the part takes what comes
        self._unswept = True

    def _next_part(self) -> str:
        """The name for the file that is full. OSError when the folder cannot be read."""
        self._number += 1
        part = part_path(self.path, self._number)
        # The first time, or somebody took the name: renaming onto it would destroy what is there.
        if self._number == 1 or os.path.lexists(part):
            self._number = next_number(self.path)
            part = part_path(self.path, self._number)
        return part

    def sweep(self) -> None:
        """After a rotation: remove what is too old, compress what is new. Removing takes a millisecond a part."""
        if not self._unswept:
            return
        self._unswept = False
        self._prune()
        if self.packer is not None:
            self.packer.start()

    def append_whole(self, text: bytes) -> None:
        """All of ``text`` at the end, or nothing of it and OSError."""
        written = 0
        try:
            while written < len(text):
                written += os.pwrite(self.fd, text[written:], self.size + written)
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise
        self.size += written

    def close(self) -> None:
        if self.packer is not None:
            self.packer.close()
        self._prune()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reaped(self, pid: int, status: int) -> bool:
        """A child has been collected; True when it was the one that compresses for this log."""
        if self.packer is None or not self.packer.reaped(pid, status):
            return False
        self._prune()  # a part removed while it was being compressed comes back as its .gz
        return True

    def _prune(self) -> None:
        try:
            parts = scan_parts(self.path) if self._policy.keep else {}
        except OSError:
            return
        self._remove_oldest(parts)

    def _remove_oldest(self, parts: dict[int, list[str]]) -> None:
        for names in list(parts.values())[: -self._policy.keep] if self._policy.keep else ():
            for name in names:
                _unlink(name)

    def _tidy(self) -> None:
        """Clear what a writer that was killed left half done."""
        folder, name = os.path.split(self.path)
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            return
        for entry in entries:
            if entry.startswith(name + ".") and entry.endswith(UNFINISHED):
                _unlink(os.path.join(folder, entry))
        parts = _parts_among(entries, self.path)
        for names in parts.values():
            if len(names) == 2:  # the .gz got its name only once it was whole and on the disk
                _unlink(names[0])
        self._remove_oldest(parts)


def open_log(path: str) -> int:
    """A descriptor of the log, made when missing; StateError when that is impossible.

    Not O_APPEND: splice(2) refuses it.
    """
    try:
        return paths.open_private(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        raise StateError(
            "its folder is gone", place=path, hint="start again, which makes it, or set SAFESH_HOME"
        ) from None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # gone already, or it will be tried at the next rotation
