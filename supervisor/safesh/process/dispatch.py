"""Threads for what must not be done in the loop: the caller's callbacks, and endings that take their time.

There are as many as have something to do at once, up to a bound, and none when nothing is to be done.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_IDLE_SECONDS = 5.0
_STUCK_SECONDS = 1.0


class Pool:
    """Threads that work off tasks in the order they came: at most ``most``, unless all of them are stuck.

    A callback may wait for another command, whose end waits for a callback. So when tasks wait and none was begun for
    a second, there is one thread more. later(seconds, call): has something called then. The first thread stays: when
    the system has no more to spare, things take longer, and go on.
    """

    def __init__(self, name: str, most: int, later: Callable[[float, Callable[[], object]], object]) -> None:
        self.name = name
        self.most = most
        self._later = later
        self._begun = 0
        self._watching = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._tasks: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._idle = 0

    def open(self) -> None:
        """Have the thread that stays; RuntimeError when the system has none to spare."""
        with self._lock:
            if self._threads:
                return
            self._threads = 1
        try:
            self._start(stays=True)
        except BaseException:
            self._threads = 0
            raise

    def submit(self, task: Callable[[], object]) -> None:
        """After ``open``."""
        with self._lock:
            self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._work.notify()
                return
            if self._threads >= self.most:
                watch, self._watching = not self._watching, True
                begun = self._begun
            else:
                watch = False
                self._threads += 1
        if watch:
            self._later(_STUCK_SECONDS, lambda: self._look(begun))
        elif self._threads <= self.most:
            self._grow()

    def _look(self, begun: int) -> None:
        """Whether tasks that waited a moment ago still wait, and nobody took any."""
        with self._lock:
            if not self._tasks:
                self._watching = False
                return
            stuck = self._begun == begun
            begun = self._begun
            if stuck:
                self._threads += 1
        if stuck:
            self._grow()
        self._later(_STUCK_SECONDS, lambda: self._look(begun))

    def _grow(self) -> None:
        try:
            self._start()
        except RuntimeError:  # no thread to spare, or the interpreter ends: those that are there do it
            with self._lock:
                self._threads -= 1

    def _start(self, *, stays: bool = False) -> None:
        threading.Thread(target=self._serve, args=(stays,), name=self.name, daemon=True).start()

    def _serve(self, stays: bool) -> None:
        while True:
            with self._lock:
                while not self._tasks:
                    self._idle += 1
                    told = self._work.wait(None if stays else _IDLE_SECONDS)
                    self._idle -= 1
                    if not told and not self._tasks and not stays:
                        self._threads -= 1
                        return
                task = self._tasks.popleft()
                self._begun += 1
            try:
                task()
            except Exception as error:  # a task answers for its own errors; this is the last net
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, sys.exc_info()[2], threading.current_thread()))
                )
            del task  # what it holds may go while we wait


class Outlet:
    """One command's callbacks: one after the other, in order, on whatever thread is free."""

    ENOUGH = 1 << 20  # bytes that wait before no more is read

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, Callable[..., object], tuple[Any, ...]]] = deque()
        self._busy = False
        self._weight = 0
        self._thread = 0
        self.on_room: Callable[[], object] | None = None  # called once when there is room again after ``full``

    def post(self, call: Callable[..., object], *arguments: Any, weight: int = 0) -> None:
        with self._lock:
            self._queue.append((weight, call, arguments))
            self._weight += weight
            if self._busy:
                return
            self._busy = True
        self._pool.submit(self._work_off)

    @property
    def full(self) -> bool:
        return self._weight > self.ENOUGH

    @property
    def is_mine(self) -> bool:
        """Whether this is asked from within one of these callbacks."""
        return self._thread == threading.get_ident()

    def _work_off(self) -> None:
        self._thread = threading.get_ident()
        while True:
            with self._lock:
                if not self._queue:
                    self._busy = False
                    self._thread = 0
                    return
                weight, call, arguments = self._queue.popleft()
            try:
                call(*arguments)
            finally:
                with self._lock:
                    self._weight -= weight
                    room = self.on_room if self._weight <= self.ENOUGH // 2 else None
                    if room is not None:
                        self.on_room = None
            if room is not None:
                room()
