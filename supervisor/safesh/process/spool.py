"""What a process said: bounded, readable at any time, first in memory, then in an unlinked file.

Every place in the stream is its distance from the first byte ever appended, so that nothing has to be shifted when
bytes are read, dropped or moved to disk:

    lost          on disk                     read, in memory      unread, in memory
    |-------------|---------------------------|--------------------|------------------|
    0             _start                      _floor               _split             size

``_taken``, up to where somebody has read, lies on disk (then nothing read is in memory) or in the first unread chunk.
"""

from __future__ import annotations

import sys
from collections import deque

from safesh.process.disk import Disk

MEMORY = 1 << 20  # bytes in memory before a file is opened
_BATCH = 1 << 16  # bytes in memory once there is a file: written while they are still in the processor's cache
_SMALL = 512  # chunks below this are merged with a small neighbour: a chunk object costs 41 bytes
_ENDLESS = sys.maxsize


class Spool:
    """The last ``limit`` bytes of a stream (None: all of it). Not thread-safe: the owner's lock guards it.

    memory: bytes kept without a file; one of at most this limit never opens one. keep_read: False lets go of what
    ``read()`` took, so that a long conversation needs neither memory nor disk.

    size: bytes ever appended; dropped: bytes that went before anybody took them by ``read()``; lost: bytes that
    ``all()`` cannot give any more, taken or not; error: why there is no file (disk full, no descriptor, ...): from
    then on only the last ``memory`` bytes are kept.
    """

    __slots__ = (
        "_counted",
        "_disk",
        "_floor",
        "_keep_read",
        "_limit",
        "_lines",
        "_memory",
        "_most",
        "_new",
        "_old",
        "_room",
        "_split",
        "_start",
        "_taken",
        "closed",
        "dropped",
        "error",
        "lost",
        "size",
    )

    def __init__(self, limit: int | None = None, memory: int = MEMORY, *, keep_read: bool = True) -> None:
        if memory < 0 or (limit is not None and limit < 0):
            raise ValueError(f"a spool's limit and memory are 0 bytes or more, not {limit} and {memory}")
        self.size = 0
        self.dropped = 0
        self.lost = 0
        self.error: OSError | None = None
        self.closed = False
        self._limit = limit
        self._memory = memory
        self._keep_read = keep_read
        self._most = _ENDLESS if limit is None else limit
        self._room = memory if memory < self._most else _ENDLESS
        self._disk: Disk | None = None
        self._old: deque[bytes] = deque()
        self._new: deque[bytes] = deque()
        self._start = self._floor = self._split = self._taken = 0
        self._lines = self._counted = 0

    def append(self, data: bytes | memoryview) -> None:
        """Add to the end. Never raises; after ``close()`` it only counts."""
        if type(data) is not bytes:
            data = bytes(data)
        length = len(data)
        if not length:
            return
        self.size += length
        _push(self._new, data, length)
        if self.size - self._start > self._most:
            self._forget(self.size - self._most)
        if self.size - self._floor > self._room and self.size - max(self._start, self._floor) > self._room:
            self._write_out()

    def pass_on(self, data: bytes) -> None:
        """``append`` what somebody has taken already, where nothing is unread; ``read`` will not give it."""
        if self._taken != self.size or self._new or self.closed or not self._keep_read:
            self.append(data)
            self.read()
            return
        length = len(data)
        self.size += length
        self._taken += length
        self._split += length
        _push(self._old, data, length)
        if self.size - self._start > self._most:
            self._forget(self.size - self._most)
        if self.size - self._floor > self._room and self.size - max(self._start, self._floor) > self._room:
            self._write_out()

    def read(self, size: int = -1) -> bytes:
        """Take what has not been read yet, at most ``size`` bytes (-1: all of it). Empty: nothing is waiting."""
        waiting = self.size - self._taken
        if size < 0 or size > waiting:
            size = waiting
        if not size:
            return b""
        parts = []
        if self._taken < self._floor and self._disk is not None:
            try:
                part = self._disk.read(self._taken, min(size, self._floor - self._taken))
            except OSError as error:
                self._abandon(error)
                return self.read(size)
            parts.append(part)
            self._taken += len(part)
            size -= len(part)
        while size:
            chunk = self._new[0]
            at = self._taken - self._split
            part = chunk[at : at + size]
            if at + len(part) == len(chunk):
                self._split += len(chunk)
                _push(self._old, self._new.popleft(), len(chunk))
            parts.append(part)
            self._taken += len(part)
            size -= len(part)
        if not self._keep_read:
            self._forget(self._taken)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def all(self) -> bytes:
        """Everything still kept, from the oldest byte, taken or not; takes nothing."""
        if self._start < self._floor:
            self._write_out()  # so that one read gives it all: joining would copy it once more
        if self._start < self._floor and self._disk is not None:
            try:
                return self._disk.read(self._start, self.size - self._start)
            except OSError as error:
                self._abandon(error)
        return b"".join(self._in_memory())

    def tail(self, size: int) -> bytes:
        """The last ``size`` bytes of ``all()``, at their own price."""
        begin = max(self._start, self.size - size)
        part = b""
        if begin < self._floor and self._disk is not None:
            try:
                part = self._disk.read(begin, self._floor - begin)
            except OSError as error:
                self._abandon(error)
                return self.tail(size)
        data = part + b"".join(self._in_memory())
        return data[max(0, len(data) - size) :]

    @property
    def unread(self) -> int:
        """Bytes that ``read()`` would give."""
        return self.size - self._taken

    @property
    def in_memory(self) -> int:
        return self.size - self._floor if self._floor > self._start else self.size - self._start

    @property
    def has_file(self) -> bool:
        return self._disk is not None

    @property
    def lines(self) -> int:
        """Newlines ever appended. Counted when asked or when bytes go: the first question may read the file once."""
        self._count(self.size)
        return self._lines

    def close(self, *, count: bool = True) -> None:
        """Give back memory and file. The numbers stay as they were; nothing is unread any more.

        count: False when nobody will ask for ``lines``: what has not been counted by now then never is, and a spool
        of a gigabyte closes without being read once more.
        """
        if self.closed:
            return
        if count:
            self._count(self.size)
        self.closed = True
        if self._disk is not None:
            self._disk.close()
            self._disk = None
        self._old.clear()
        self._new.clear()
        self._start = self._floor = self._split = self._taken = self._counted = self.size
        self._most, self._room = 0, _ENDLESS

    def _in_memory(self) -> list[bytes]:
        chunks = [*self._old, *self._new]
        if chunks and self._start > self._floor:
            chunks[0] = chunks[0][self._start - self._floor :]
        return chunks

    def _forget(self, until: int) -> None:
        """Everything before ``until`` goes."""
        if until > self._counted:
            self._count(until)
        if until > self._taken:
            self.dropped += until - self._taken
            self._taken = until
        self.lost += until - self._start
        self._start = until
        if self._disk is not None and not self._keep_read:
            if until >= self._floor:
                self._disk.close()
                self._disk = None
                self._room = self._memory
            else:
                self._disk.release(until)
        old, new = self._old, self._new
        while old and self._floor + len(old[0]) <= until:
            self._floor += len(old.popleft())
        if not old:
            while new and self._split + len(new[0]) <= until:
                self._split += len(new.popleft())
            self._floor = self._split
        # One big chunk of which little is left would hold all its memory; halving keeps this linear.
        first = old or new
        gone = until - self._floor
        if gone >= _BATCH and gone * 2 > len(first[0]):
            first[0] = first[0][gone:]
            self._floor = until
            if first is new:
                self._split = until

    def _count(self, until: int) -> None:
        """Count newlines up to ``until``, and on while it is cheap, before those bytes go."""
        while self._counted < min(until, self._floor) and self._disk is not None:
            try:
                part = self._disk.read(self._counted, min(_BATCH, self._floor - self._counted))
            except OSError as error:
                self._abandon(error)
                return
            self._lines += part.count(b"\n")
            self._counted += len(part)
        if until <= self._counted:
            return
        end = self.size
        for chunks in (self._new, self._old):
            for chunk in reversed(chunks):
                begin = end - len(chunk)
                if end <= self._counted:
                    break
                self._lines += chunk.count(b"\n", max(0, self._counted - begin))
                end = begin
        self._counted = self.size

    def _write_out(self) -> None:
        """Move what is in memory to the file; where that fails, do without one."""
        begin = max(self._start, self._floor)
        try:
            if self._disk is None:
                self._disk = Disk(self._limit, begin)
            self._disk.write(begin, self._in_memory())
        except OSError as error:
            self._abandon(error)
            return
        self._old.clear()
        self._new.clear()
        self._floor = self._split = self.size
        self._room = min(self._memory, _BATCH)

    def _abandon(self, error: OSError) -> None:
        """Without a file from now on: the last ``memory`` bytes stay, as far as the file still gives them."""
        self.error = error
        self._most, self._room = min(self._most, self._memory), _ENDLESS
        disk, self._disk = self._disk, None
        tail = b""
        begin = max(self._start, self.size - self._most)
        if disk is not None:
            try:
                while self._counted < self._floor:
                    part = disk.read(self._counted, min(_BATCH, self._floor - self._counted))
                    self._lines += part.count(b"\n")
                    self._counted += len(part)
                if begin < self._floor:
                    tail = disk.read(begin, self._floor - begin)
            except OSError:
                pass  # the first error is the one to tell
            self._counted = max(self._counted, self._floor)
            disk.close()
        if tail:
            taken = min(max(self._taken - begin, 0), len(tail))
            if taken < len(tail):  # then nothing read was in memory
                self._new.appendleft(tail[taken:])
                self._split -= len(tail) - taken
            if taken:
                self._old.appendleft(tail[:taken])
            self._floor = begin
        self._forget(max(begin, self._floor))


def _push(chunks: deque[bytes], data: bytes, length: int) -> None:
    if length < _SMALL and chunks and len(chunks[-1]) < _SMALL:
        chunks[-1] += data
    else:
        chunks.append(data)
