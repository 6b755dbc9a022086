"""Descriptors across a fork that is not followed by an exec."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def close_all_except(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 but these, which no program executed from here inherits.

    A forked helper that kept the lifeline's writing end would hide the supervisor's death from the keeper.
    """
    kept = sorted({fd for fd in keep if fd > 2})
    lowest = 3
    end = _end()
    for fd in kept:
        os.set_inheritable(fd, False)
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, max(lowest, end))


def _end() -> int:
    """One more than the highest open descriptor.

    Not RLIMIT_NOFILE: it may have been lowered below what is open, or be no limit at all.
    """
    try:
        return max(int(name) for name in os.listdir("/dev/fd")) + 1
    except (OSError, ValueError):
        return max(256, os.sysconf("SC_OPEN_MAX"))


def point_stdio_at_null() -> None:
    """Let go of the terminal, or of whatever 0, 1 and 2 were."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
