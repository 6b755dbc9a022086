"""What tests of the process API share: its loop warmed up, and nothing of theirs left running."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.procs import look, wait_until
from safesh.process import dispatch, loop, registry
from safesh.process.api import ExecutionMode, execute_command
from safesh.process.status import cleanup_finished_processes
from safesh.process.stopping import end_all

PYTHON = os.path.realpath(sys.executable)  # without a venv's start, and never a shim


def python(code: str, *arguments: str) -> list[str]:
    """argv of a bare interpreter, which starts in some 15 ms."""
    return [PYTHON, "-ISc", code, *arguments]


def warm() -> Iterator[None]:
    """The API's own descriptors and thread stay for the program's life: made before anything is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_IDLE_SECONDS", 0.02)  # threads that wait for more work go soon
        loop.get()
        for mode in (ExecutionMode.BLOCKING, ExecutionMode.BACKGROUND):
            assert execute_command(["true"], mode).wait(10).success
        yield


def tidy() -> Iterator[None]:
    """After each test: what still runs is ended, what has ended forgotten."""
    yield
    verdicts = end_all(now=True)
    cleanup_finished_processes()
    assert not registry.running()
    assert all(verdict.ok for verdict in verdicts.values())


def gone(*pids: int, deadline: float = 3.0) -> None:
    """Wait until none of these pids (seen alive moments ago) is a living process."""

    def check() -> bool:
        return not any((one := look(pid)) is not None and not one.dead for pid in pids)

    wait_until(check, deadline, f"the end of {pids}")


class Clock:
    """``with Clock() as took: ...``; ``took.seconds`` afterwards, ``took.cpu`` of this process."""

    seconds = cpu = 0.0

    def __enter__(self) -> Clock:
        self._began, self._cpu = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds, self.cpu = time.monotonic() - self._began, time.process_time() - self._cpu
