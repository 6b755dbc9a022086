"""Programs that use the process API, each in an interpreter of its own: what they do to themselves stays theirs."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from helpers.procs import Spawn, spawn

SUPERVISOR = str(Path(__file__).resolve().parents[2] / "supervisor")
_PRELUDE = """\
__FIRST__
import faulthandler, os, select, signal, subprocess, sys, threading, time
faulthandler.dump_traceback_later(50, exit=True)
import safesh
from safesh import (
    CommandExecutor, ExecutionMode, ResourceError, StatusLost, aexecute_command, astream_command,
    cleanup_finished_processes, communicate_with_process, end_all, execute_command, get_active_processes,
    kill_process, read_from_process, terminate_process, write_to_process)
BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = ExecutionMode
run = execute_command
def say(*words): print(*words, flush=True)
def children():
    found = []
    for thread in os.listdir("/proc/self/task"):
        found += open(f"/proc/self/task/{thread}/children").read().split()
    return [int(pid) for pid in found]
def until(check, seconds=10.0):
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "it did not come to pass in time"
        time.sleep(0.01)
"""


def source(code: str, first: str = "") -> str:
    return _PRELUDE.replace("__FIRST__", first) + textwrap.dedent(code)


def caller(code: str, *arguments: str, prefix: tuple[str, ...] = (), first: str = "", **options: Any) -> Spawn:
    """A program with the names above; ``with caller("...") as child: finished(child)``. first: done before imports."""
    extra = {"PYTHONPATH": SUPERVISOR, **options.pop("extra_env", {})}
    return spawn(*prefix, sys.executable, "-c", source(code, first), *arguments, extra_env=extra, **options)


def finished(child: Spawn, code: int = 0, seconds: float = 60.0) -> str:
    """Wait for its end with this status; what it said."""
    assert child.wait(seconds) == code, f"{child}\n{child.out}\n{child.err}"
    return child.out


def program(folder: Path, code: str) -> str:
    """The same as a file, for multiprocessing."""
    path = folder / "program.py"
    path.write_text(source("") + "if __name__ == '__main__':\n    pass\n" + textwrap.dedent(code))
    return os.fspath(path)
