"""Descriptors that a copy of this process made by fork(2) must not keep, and none of which slips through.

A program that uses the process API may fork, in any thread, at any moment (``multiprocessing`` does). A copy that kept
the writing end of somebody's stdin would keep that child from ever reading its end of file; one that kept a child's end
would keep us from reading ours. So every such descriptor is noted here, and closed in the copy. The lock is held while
one is made and noted, and during a fork: no copy is made in between.
"""

from __future__ import annotations

import os
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ours: set[int] = set()
_after: list[Callable[[], object]] = []
lock = RLock()


def make_pipe() -> tuple[int, int]:
    """os.pipe(), both ends noted."""
    with lock:
        ends = os.pipe()
        _ours.update(ends)
    return ends


def own_fd(fd: int) -> int:
    _ours.add(fd)
    return fd


def forget_fd(fd: int) -> None:
    _ours.discard(fd)


def close_fd(fd: int) -> None:
    with lock:
        _ours.discard(fd)
        os.close(fd)


def in_copies(call: Callable[[], object]) -> None:
    """Have it called in every copy, after its descriptors were closed."""
    _after.append(call)


def _before() -> None:
    lock.acquire()


def _in_parent() -> None:
    lock.release()


def _in_copy() -> None:
    global lock
    lock = RLock()
    for fd in list(_ours):
        try:
            os.close(fd)
        except OSError:
            pass
    _ours.clear()
    for call in _after:
        call()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_copy)
