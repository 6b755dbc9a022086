"""Seeing what is in a pipe without taking it out."""

from __future__ import annotations

import os
import select

from safesh import _platform


class Peek:
    """A small pipe of our own that tee(2) can put a copy into."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def look(self, pipe: int, limit: int) -> bytes | None:
        """Up to ``limit`` bytes, still in ``pipe``; b"" at its end, None where there is no tee(2).

        BlockingIOError when it is empty.
        """
        length = _platform.tee(pipe, self._write, limit)
        if length < 0:
            if not has_bytes(pipe):
                raise BlockingIOError
            # There is something now, and nobody else takes it: another failure means that tee does not work.
            length = _platform.tee(pipe, self._write, limit)
            if length < 0:
                return None
        return os.read(self._read, length) if length else b""

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def has_bytes(pipe: int) -> bool:
    """Whether there is something to read; its end is nothing."""
    watch = select.poll()
    watch.register(pipe, select.POLLIN)
    return any(event & select.POLLIN for _fd, event in watch.poll(0))
