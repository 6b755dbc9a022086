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


class Pool:
    """At most ``most`` threads that work off tasks in the order they came."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._tasks: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, task: Callable[[], object]) -> None:
        """RuntimeError when the system has no thread to spare and none is there yet."""
        with self._lock:
            self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._work.notify()
                return
            if self._threads >= self.most:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._serve, name=self.name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._tasks.pop()
                    raise

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._tasks:
                    self._idle += 1
                    told = self._work.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not told and not self._tasks:
                        self._threads -= 1
                        return
                task = self._tasks.popleft()
            try:
                task()
            except Exception as error:  # a task answers for its own errors; this is the last net
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, sys.exc_info()[2], threading.current_thread()))
                )


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
