"""Where a spool keeps what is too long for memory: a file without a name, which no crash can leave behind."""

from __future__ import annotations

import errno
import os


class Disk:
    """An unlinked file holding a stretch of the stream: a ring of ``capacity`` bytes, or growing (None).

    first: the place in the stream where a growing file begins. OSError: the disk is full, no descriptor is left, ...
    """

    __slots__ = ("_capacity", "_fd", "_first", "_released")

    _PIECE = 0x7FFF_F000  # read(2): the most that one call transfers
    _HOLE = 16 << 20  # bytes given back to the disk at a time, a multiple of every page size

    def __init__(self, capacity: int | None, first: int) -> None:
        self._fd = -1
        self._capacity = capacity
        self._first = first
        self._released = 0
        self._fd = _unlinked_file()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # close(2): the descriptor is gone all the same, and so is the file

    def write(self, at: int, chunks: list[bytes]) -> None:
        if len(chunks) > 8:
            chunks = [b"".join(chunks)]  # small ones: a copy is cheaper than as many calls
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                place, room = self._place(at)
                done = os.pwrite(self._fd, view[:room], place)
                if done <= 0:
                    raise OSError(errno.EIO, "the spool's file takes no more bytes")
                at += done
                view = view[done:]

    def read(self, at: int, size: int) -> bytes:
        parts = []
        while size:
            place, room = self._place(at)
            part = os.pread(self._fd, min(size, room), place)
            if not part:
                raise OSError(errno.EIO, "the spool's file is shorter than what was written to it")
            parts.append(part)
            at += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self, until: int) -> None:
        """Give a growing file's blocks before ``until`` back to the disk, where the system can (Linux)."""
        end = (until - self._first) // self._HOLE * self._HOLE
        if self._capacity is not None or end <= self._released:
            return
        import mmap

        try:
            with mmap.mmap(self._fd, end - self._released, offset=self._released) as hole:
                hole.madvise(mmap.MADV_REMOVE)
        except (OSError, AttributeError):
            pass  # they go with the file
        self._released = end

    def _place(self, at: int) -> tuple[int, int]:
        """Where in the file this place of the stream lies, and how many bytes one call may transfer from there."""
        if self._capacity is None:
            return at - self._first, self._PIECE
        place = at % self._capacity
        return place, min(self._capacity - place, self._PIECE)


def _unlinked_file() -> int:
    """A new file without a name in TMPDIR, private, not inherited."""
    flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_TMPFILE", 0)
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(os.environ.get("TMPDIR") or "/tmp", flags, 0o600)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT):
                raise
    # No folder there, or a file system without O_TMPFILE. Imported here: it costs more than all of the above.
    import tempfile

    fd, name = tempfile.mkstemp(prefix="safesh-spool-")
    try:
        os.unlink(name)
    except OSError:
        os.close(fd)
        raise
    return fd
