"""What the loop does at a certain time: deadlines, samples, second looks.

Apart from the poller, because any thread adds to them while the loop sleeps, and because they must hold no job longer
than it lives: a deadline may be hours away.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.process import trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.process.job import Job

_LOOK_AGAIN = 0.05  # seconds, where the end of a child wakes nobody (no pidfd)
_LONGEST = 86400.0  # epoll_wait(2) counts milliseconds in an int


class Timers:
    """Calls and when they are due, in monotonic seconds. wake: ends the loop's sleep."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._entries: list[list[Any]] = []  # [when, number, call]; no call: fired or cancelled
        self._cancelled = 0
        self._number = itertools.count()
        self._sleeps_until = 0.0

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        self.at(monotonic() + seconds, call)

    def at(self, when: float, call: Callable[[], object], job: Job | None = None) -> None:
        """Call it in the loop at ``when`` (monotonic seconds); not any more once ``job`` is over."""
        entry = [when, next(self._number), call]
        with self._lock:
            if job is not None:
                if job.over:
                    return
                if len(job.timers) > 8:
                    job.timers = [one for one in job.timers if one[2] is not None]
                job.timers.append(entry)
            heapq.heappush(self._entries, entry)
            wake = when < self._sleeps_until
        if wake:
            self._wake()

    def cancel(self, job: Job) -> None:
        """Its timers hold it no longer: a deadline may be hours away."""
        with self._lock:
            for entry in job.timers:
                if entry[2] is not None:
                    entry[2] = None
                    self._cancelled += 1
            job.timers.clear()
            if self._cancelled > 64 and self._cancelled * 2 > len(self._entries):
                self._entries = [entry for entry in self._entries if entry[2] is not None]
                heapq.heapify(self._entries)
                self._cancelled = 0

    # --- the loop's own -----------------------------------------------------------------------

    def prepare_sleep(self, blind: bool) -> float:
        """Seconds the loop may sleep now, -1 for ever; a timer that is added from now on and comes earlier wakes it.

        blind: there are those to look at, whose end wakes nobody.
        """
        now = monotonic()
        with self._lock:
            until = self._entries[0][0] if self._entries else float("inf")
            if blind:
                until = min(until, now + _LOOK_AGAIN)
            self._sleeps_until = until
        if until == float("inf"):
            return -1
        return min(max(0.0, until - now), _LONGEST)

    def call_due(self) -> None:
        """After a sleep."""
        self._sleeps_until = 0.0
        now = monotonic()
        while True:
            with self._lock:
                if not self._entries or self._entries[0][0] > now:
                    return
                entry = heapq.heappop(self._entries)
                call, entry[2] = entry[2], None
                if call is None:
                    self._cancelled -= 1
                    continue
            trouble.attempt(call)
