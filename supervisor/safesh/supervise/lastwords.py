"""What a run said last: the reason that a failed start gives."""

from __future__ import annotations

import os

from safesh.core.output import tail
from safesh.errors import SafeshError
from safesh.paths import open_private

_LOOK_BYTES = 1 << 16


def last_words(path: str, offset: int, count: int) -> list[str]:
    """The last ``count`` lines of a log from ``offset`` bytes on; [] when there are none, or none can be read.

    A log that is shorter than ``offset`` has been rotated since: then every line in it, and before it, counts.
    """
    try:
        fd = open_private(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size < offset:
                return tail(path, count)
            start = max(offset, size - _LOOK_BYTES)
            data = os.pread(fd, size - start, start)
        finally:
            os.close(fd)
    except (OSError, SafeshError):
        return []
    return [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()][-count:]
