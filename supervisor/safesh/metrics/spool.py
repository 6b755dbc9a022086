"""Runs that wait to be taken into the history: one JSON line each in ``history.spool``.

The lean half of the history. A supervisor at the end of a run must not pay for SQLite's import, nor wait for its lock
or its fsync; it appends one line here, and whoever opens the database next takes it in. Writers hold no lock: a line
may be taken in twice (the run id makes that harmless) and is never lost.
"""

from __future__ import annotations

import fcntl
import os

from safesh import paths, wire
from safesh.errors import SafeshError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeGuard

NAME = "history.spool"

# What is kept of a run. Times: wall seconds; user, system and CPU: seconds; sizes: bytes; exit_code: -1 after a signal.
RUN_FIELDS = (
    "run_id", "target", "instance", "project", "mission_type", "mission_id", "started_at", "ended_at", "duration",
    "exit_code", "signal", "cause", "state", "restarts", "cpu_seconds", "user_seconds", "system_seconds",
    "peak_memory_bytes", "read_bytes", "write_bytes", "max_processes",
)  # fmt: skip
_TEXTS = {"run_id", "target", "instance", "project", "mission_type", "mission_id", "signal", "cause", "state"}
_WHOLE = {"exit_code", "restarts", "peak_memory_bytes", "read_bytes", "write_bytes", "max_processes"}

_LIMIT = 2 * 1024 * 1024  # bytes; beyond it one older file of that size is kept, and what was in the one before is gone
_OLDER = ".1"
_TAKEN = ".taken"
_TAILS = (_OLDER, _TAKEN, _OLDER + _TAKEN)


def note_run(folder: str, run: Mapping[str, Any]) -> bool:
    """Append a run (see ``RUN_FIELDS``) to the spool in ``folder``; False when it cannot be kept.

    Never raises and never waits: one write(2).
    """
    path = os.path.join(folder, NAME)
    try:
        # A line that a full disk tore off must not spoil the next: each begins with a line break.
        data = ("\n" + wire.dumps({"v": 1, **run}) + "\n").encode()
        for _attempt in range(3):
            fd = paths.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                if os.fstat(fd).st_size > _LIMIT:
                    paths.set_aside(path, fd)
                if os.write(fd, data) != len(data):
                    return False
                # No name is left: a taker may have read it to its end before we wrote.
                if os.fstat(fd).st_nlink:
                    return True
            finally:
                os.close(fd)
    except (OSError, TypeError, ValueError, SafeshError):
        pass
    return False


def is_waiting(folder: str) -> bool:
    """Whether runs wait there."""
    return any(os.path.lexists(os.path.join(folder, NAME + tail)) for tail in ("", *_TAILS))


def take(folder: str, keep: Callable[[list[dict[str, Any]]], bool]) -> int:
    """Hand the waiting runs to ``keep`` and forget them once it says True; their count.

    0 while another process does the same; lines that are no runs are passed over. StateError when a file of the spool
    is not to be trusted.
    """
    path = os.path.join(folder, NAME)
    lock = paths.open_private(path + "-lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Each file gets a name that only the lock's holder uses, so a writer that rotates takes nothing away from us.
        for name in (path + _OLDER, path):
            if not os.path.lexists(name + _TAKEN) and os.path.lexists(name):  # else somebody died with it in hand
                os.rename(name, name + _TAKEN)
        return sum(_take_file(name + _TAKEN, keep) for name in (path + _OLDER, path))
    except BlockingIOError:
        return 0
    except FileNotFoundError:  # removed by hand, this moment
        return 0
    except OSError as error:
        raise StateError(f"cannot be taken in: {error.strerror}", place=path) from None
    finally:
        os.close(lock)


def _take_file(path: str, keep: Callable[[list[dict[str, Any]]], bool]) -> int:
    try:
        fd = paths.open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        runs = _read(fd)
        if runs and not keep(runs):
            return 0
        paths.remove(path)
        # Between our reading and the unlink a writer that had it open may have added a line.
        late = _read(fd)
        if late:
            keep(late)
        return len(runs) + len(late)
    finally:
        os.close(fd)


def _read(fd: int) -> list[dict[str, Any]]:
    """The runs from where ``fd`` stands to its end."""
    chunks = []
    while chunk := os.read(fd, 1 << 18):
        chunks.append(chunk)
    runs = []
    for line in b"".join(chunks).split(b"\n"):
        if not line:
            continue
        try:
            run = wire.loads(line.decode())
        except ValueError:
            continue
        if isinstance(run, dict) and run.get("v") == 1:
            runs.append(run)
    return runs


def row_of(run: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The values of ``RUN_FIELDS``, each of the right type or None; None when it is no run."""
    row = {name: run.get(name) for name in RUN_FIELDS}
    for name, value in row.items():
        if name in _TEXTS:
            row[name] = value if isinstance(value, str) else None
        elif not is_number(value):
            row[name] = None
        elif name in _WHOLE:
            row[name] = int(value)
    if not row["run_id"] or not row["target"] or row["started_at"] is None:
        return None
    if row["duration"] is None and row["ended_at"] is not None:
        row["duration"] = max(0.0, row["ended_at"] - row["started_at"])
    if row["cpu_seconds"] is None and row["user_seconds"] is not None and row["system_seconds"] is not None:
        row["cpu_seconds"] = row["user_seconds"] + row["system_seconds"]
    return tuple(row.values())


def is_number(value: Any) -> TypeGuard[int | float]:
    """A finite number that SQLite can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1 << 62
