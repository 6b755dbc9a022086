"""The processes of one mission, one after the other, each contained; and how all of it is called off."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

from safesh.errors import SafeshError
from safesh.process.api import ExecutionMode, Options, execute_command
from safesh.process.stopping import kill_process_tree, terminate_managed_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.process.result import ExecutionResult

_END_GRACE = 5.0  # seconds for what is called off to end by itself


class CalledOff(Exception):
    """Raised in the mission's thread once ``Control.cancel`` was called."""


class Control:
    """Runs commands for one mission; ``cancel`` may be called from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._running: ExecutionResult | None = None

    def check(self) -> None:
        """CalledOff when nobody wants it any more."""
        if self._cancelled.is_set():
            raise CalledOff

    def sleep(self, seconds: float) -> None:
        self._cancelled.wait(seconds)
        self.check()

    def run(
        self,
        command: Sequence[str],
        on_start: Callable[[ExecutionResult], None] | None = None,
        **options: Unpack[Options],
    ) -> ExecutionResult:
        """Run a command to its end, held by a keeper; whatever interrupts us (Ctrl-C) ends it whole first."""
        options.setdefault("input_data", b"")
        options["contain"] = "keeper"
        result: ExecutionResult | None = None
        try:
            with self._lock:
                self.check()
                result = execute_command(command, ExecutionMode.MONITORED, **options)
                self._running = result
            if on_start is not None:
                on_start(result)
            result.wait()
        except BaseException:
            if result is not None:
                end(result)
            raise
        finally:
            self._running = None
            if result is not None and result.done and result.pid is not None:
                with suppress(SafeshError):
                    terminate_managed_process(result.pid)  # it has ended: nobody needs to find it by its pid
        self.check()
        return result

    def cancel(self) -> None:
        """End what runs, and let nothing follow it."""
        self._cancelled.set()
        with self._lock:
            result = self._running
        if result is not None:
            end(result)


def end(result: ExecutionResult) -> None:
    """End a run whole, asking first; a second interruption ends it at once."""
    if result.pid is None or result.done:
        return
    with suppress(SafeshError):
        try:
            terminate_managed_process(result.pid, grace=_END_GRACE)
        except BaseException:
            kill_process_tree(result.pid)
            raise
    result.wait(_END_GRACE)
