"""Reading a log back: its last lines, and what is added, over all its parts, compressed or not.

Readers take no lock. A file is told by its inode and its number: the one being written bears the number that it
will get when it is rotated, so a reader that was left behind knows which parts it has not read yet.
"""

from __future__ import annotations

import os

from safesh import paths
from safesh.clock import sleep
from safesh.core.rotation import PACKED, next_number, part_path, scan_parts

_BLOCK = 1 << 16
_LARGEST_TAIL = 4 << 20  # bytes that last_lines() looks at; a "line" may be a gigabyte
ALL = 1 << 62


class Source:
    """One file of a log, read from ``offset`` on (of its uncompressed bytes)."""

    def __init__(self, fd: int, number: int, *, packed: bool = False) -> None:
        self.number = number
        self.offset = 0
        self.packed = packed
        self.final = False  # nobody writes to it any more
        self.limit = ALL  # read no further
        info = os.fstat(fd)
        self.file = (info.st_dev, info.st_ino)
        self.size = info.st_size
        self._fd = fd
        self._stream: _Unpacked | None = None

    def read(self) -> bytes:
        """The next bytes, b"" when there are none now."""
        if not self.packed:
            chunk = os.pread(self._fd, max(0, min(_BLOCK, self.limit - self.offset)), self.offset)
        else:
            if self._stream is None:
                self._stream = _Unpacked(self._fd)
                self._stream.skip(self.offset)
            chunk = self._stream.read()
        self.offset += len(chunk)
        return chunk

    def truncated(self) -> bool:
        """Whether the file is shorter now than what was read of it; then it is read from its beginning."""
        if self.packed or os.fstat(self._fd).st_size >= self.offset:
            return False
        self.offset = 0
        return True

    def seek_lines(self, lines: int) -> int:
        """Go to where the last ``lines`` lines begin, the beginning if there are fewer; how many there are."""
        if lines >= ALL:
            self.offset = 0
            return 0
        return self._seek_packed(lines) if self.packed else self._seek_plain(lines)

    def _seek_plain(self, lines: int) -> int:
        self.offset = position = self.size
        if not lines or not position:
            return 0
        found = 0
        while position > 0:
            length = min(_BLOCK, position)
            block = os.pread(self._fd, length, position - length)
            # The line end at the very end ends the last line; each one before it is followed by a line.
            index = len(block) - (position == self.size and block.endswith(b"\n"))
            while (index := block.rfind(b"\n", 0, index)) >= 0:
                found += 1
                if found == lines:
                    self.offset = position - length + index + 1
                    return found
            position -= length
        self.offset = 0
        return found + 1

    def _seek_packed(self, lines: int) -> int:
        """Two passes rather than memory: a part is as large as its policy says."""
        total, ended = 0, True
        stream = _Unpacked(self._fd)
        while chunk := stream.read():
            total += chunk.count(b"\n")
            ended = chunk.endswith(b"\n")
        total += not ended
        self.offset = 0
        extra = total - lines
        stream = _Unpacked(self._fd)
        while extra > 0 and (chunk := stream.read()):
            index = -1
            while extra > 0 and (index := chunk.find(b"\n", index + 1)) >= 0:
                extra -= 1
            self.offset += len(chunk) if extra > 0 else index + 1
        return min(total, lines)

    def ends_line(self) -> bool:
        """Whether its last byte ends a line; a part that was cut within an endless one does not."""
        if not self.packed:
            return self.size == 0 or os.pread(self._fd, 1, self.size - 1) == b"\n"
        stream, last = _Unpacked(self._fd), b"\n"
        while chunk := stream.read():
            last = chunk[-1:]
        return last == b"\n"

    def close(self) -> None:
        os.close(self._fd)


class _Unpacked:
    """The bytes of a .gz, from the beginning; a damaged one ends where the damage begins."""

    def __init__(self, fd: int) -> None:
        import zlib

        self._fd = fd
        self._at = 0
        self._error = zlib.error
        self._unpacker = zlib.decompressobj(31)
        self._rest = b""

    def read(self) -> bytes:
        rest, self._rest = self._rest, b""
        while not rest and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail
            if not packed:
                packed = os.pread(self._fd, _BLOCK, self._at)
                if not packed:
                    break
                self._at += len(packed)
            try:
                rest = self._unpacker.decompress(packed, _BLOCK)
            except self._error:
                break
        return rest

    def skip(self, count: int) -> None:
        while count > 0 and (chunk := self.read()):
            self._rest = chunk[count:]
            count -= len(chunk)


def open_current(path: str) -> Source | None:
    """The file being written; None when there is none. StateError when it is not to be trusted."""
    while True:
        try:
            fd = paths.open_private(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        number = 0
        try:
            number = next_number(path)
            named = os.lstat(path)
            info = os.fstat(fd)
            # Still the same file after the folder was read: so it has not been rotated in between.
            if (named.st_dev, named.st_ino) == (info.st_dev, info.st_ino):
                source, fd = Source(fd, number), -1
                return source
        except FileNotFoundError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)


def open_part(path: str, number: int) -> Source | None:
    """A rotated part; None when there is none (any more)."""
    plain = part_path(path, number)
    # Twice: it may get its .gz and lose the plain form between the two looks.
    for name in (plain, plain + PACKED, plain, plain + PACKED):
        try:
            source = Source(paths.open_private(name, os.O_RDONLY), number, packed=name.endswith(PACKED))
        except FileNotFoundError:
            continue
        source.final = True
        return source
    return None


def select(path: str, lines: int) -> list[Source]:
    """The files that hold the last ``lines`` lines (``ALL``: everything), oldest first, each at its offset.

    The last one is being written; [] when there is no log. The caller closes them.
    """
    # A rotation leaves no file under the name for a moment. A longer one means that the writer died there.
    for _ in range(5):
        if (newest := open_current(path)) is not None or not scan_parts(path):
            break
        sleep(0.002)
    parts = sorted(scan_parts(path), reverse=True)
    if newest is None:
        newest = next((part for number in parts if (part := open_part(path, number)) is not None), None)
    if newest is None:
        return []
    sources = [newest]
    left = lines - newest.seek_lines(lines)
    for number in parts:
        if number >= newest.number:
            continue
        if left <= 0 and sources[0].offset:
            break
        part = open_part(path, number)
        if part is None:
            break
        ended = part.ends_line()
        if left <= 0 and ended:
            part.close()
            break
        # A first line that began in this part was counted in the newer file already.
        wanted = left if ended or not sources[0].size else left + 1
        left = wanted - part.seek_lines(wanted)
        sources.insert(0, part)
    return sources


def last_lines(path: str, lines: int) -> list[str]:
    """The last ``lines`` lines as text, undecodable bytes replaced; [] when there is no log.

    Of endless lines no more than 4 MiB. StateError when a file is not to be trusted.
    """
    sources = select(path, lines)
    for source in sources[-1:]:
        source.limit = source.size  # of a target that writes on without end
    data = bytearray()
    try:
        for source in sources:
            while chunk := source.read():
                data += chunk
                del data[:-_LARGEST_TAIL]
    finally:
        for source in sources:
            source.close()
    text = data.decode("utf-8", "replace").split("\n")
    if not text[-1]:
        text.pop()
    return text[-lines:] if lines > 0 else []


class Follower:
    """A log from its last lines on, over rotations and restarts, each byte once.

    missed: parts (first, last) that were removed before they could be read; the client tells and clears it.
    """

    def __init__(self, path: str, lines: int, *, live: bool = True) -> None:
        """live: also what is added from now on."""
        self.path = path
        self.missed: list[tuple[int, int]] = []
        self._live = live
        self._queue = select(path, lines)
        if self._queue and not live:
            self._queue[-1].limit = self._queue[-1].size

    @property
    def found(self) -> bool:
        """Whether there has been a log at all."""
        return bool(self._queue)

    def read(self) -> bytes:
        """The next bytes, b"" when there are none now."""
        while self._queue or (self._live and self._begin()):
            source = self._queue[0]
            if chunk := source.read():
                return chunk
            if len(self._queue) > 1:
                self._queue.pop(0).close()
            elif not self._live or not self._advance(source):
                break
        return b""

    def _begin(self) -> bool:
        self._queue = select(self.path, ALL)
        return bool(self._queue)

    def _advance(self, source: Source) -> bool:
        """Whether there is something to read after all: in the same file, or in those that came after it."""
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return False  # being rotated, or removed: a new one comes with the next byte
        if (named.st_dev, named.st_ino) == source.file:
            return source.truncated()
        if not source.final:
            if not named.st_size and source.number not in scan_parts(self.path):
                return False  # renamed by somebody else: the writer stays with the old file until it notices
            source.final = True
            return True  # once more: the last bytes may have come between the read and the rename
        successors = self._successors(source)
        if successors:
            self._queue.pop(0).close()
            self._queue = successors
        return bool(successors)

    def _successors(self, source: Source) -> list[Source]:
        newest = open_current(self.path)
        if newest is None:
            return []
        found, first = [], source.number + 1
        own = open_part(self.path, source.number)
        if own is not None and not own.packed and own.file != source.file:
            first = source.number  # somebody renamed our file; its number went to the next one
        if own is not None:
            own.close()
        for number in range(first, newest.number):
            part = open_part(self.path, number)
            if part is not None:
                found.append(part)
            elif self.missed and self.missed[-1][1] == number - 1:
                self.missed[-1] = (self.missed[-1][0], number)
            else:
                self.missed.append((number, number))
        return [*found, newest]

    def close(self) -> None:
        while self._queue:
            self._queue.pop().close()
