"""The thread that shows a plan's changes, and the live table as one of the two ways to show them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from safesh.clock import monotonic
from safesh.plan import table
from safesh.plan.lines import Lines
from safesh.plan.screen import Screen
from safesh.plan.state import PlanState, StepState
from safesh.plan.text import Look

_EVERY = 2.0  # seconds between two looks at a table in which nothing changes
_AT_MOST = 0.1  # seconds between two drawings of a table, however much changes
_BATCH = 0.02  # the same for lines
_STALLED = 30.0  # seconds without any progress after which a reader of our lines is given up at the end


class Table:
    """Composed under the monitor's lock, drawn outside of it."""

    def __init__(
        self,
        screen: Screen,
        state: PlanState,
        now: Callable[[], float],
        left: Callable[[PlanState, float], float | None],
        *,
        colour: bool,
    ) -> None:
        """now: wall seconds by the run's clock; left: seconds that are expected to remain."""
        self.screen = screen
        self._state = state
        self._now = now
        self._left = left
        self._look = Look.of(screen.stream, cursor=True, colour=colour)
        self._lines: list[str] = []

    @property
    def tick(self) -> float:
        return _AT_MOST if self.screen.is_late else _EVERY

    def plan_changed(self, event: str) -> None:
        """Nothing to note: the next drawing looks at the state."""

    def step_changed(self, event: str, step: StepState, *, news: bool = True) -> None:
        """Nothing to note: the next drawing looks at the state."""

    def prepare(self) -> None:
        now = self._now()
        width, height = self.screen.size()
        left = self._left(self._state, now)
        self._lines = table.compose(self._state, now=now, width=width, height=height, look=self._look, left=left)

    def show(self, *, anew: bool = False) -> None:
        self.screen.draw(self._lines, anew=anew)


class Shower:
    """Runs a display in a thread of its own, so that nobody who tells of a change waits for the output."""

    def __init__(self, display: Lines | Table, lock: threading.RLock) -> None:
        """lock: the monitor's, held while the display looks at the state."""
        self.display = display
        self._lock = lock
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # its put may interrupt itself, as a signal handler does
        self._woken = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="safesh-monitor", daemon=True)

    def start(self) -> None:
        self.wake()
        if isinstance(self.display, Table):
            self.display.screen.catch_prints()
        self._thread.start()

    def wake(self) -> None:
        """Something has changed."""
        if not self._woken:
            self._woken = True
            self._wakes.put(False)

    def is_here(self) -> bool:
        """Whether this is the thread itself."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Show the last state, and give back what was taken. Waits for a reader as long as it reads."""
        self._stopping.set()
        self._wakes.put(True)
        display = self.display
        try:
            seen = -1
            self._thread.join(_EVERY)
            while self._thread.is_alive() and isinstance(display, Lines) and seen != display.written:
                seen = display.written
                self._thread.join(_STALLED)
        finally:  # a second Ctrl-C may come here
            if isinstance(display, Table):
                display.screen.release_prints()

    def _run(self) -> None:
        display = self.display
        last = False
        while not last:
            asked, worked = monotonic(), time.process_time()
            tick = display.tick
            try:
                last = self._wakes.get(timeout=tick)
            except Empty:
                pass
            # Far too late, and not because we were busy: the shell had stopped us, and the cursor is wherever that
            # left it.
            late = monotonic() - asked - (tick or 0.0)
            slept = tick is not None and late > 0.5 and time.process_time() - worked < late / 2
            self._woken = False
            with self._lock:
                display.prepare()
            display.show(anew=slept) if isinstance(display, Table) else display.show()
            if not last:
                self._stopping.wait(_AT_MOST if isinstance(display, Table) else _BATCH)
