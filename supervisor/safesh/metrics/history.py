"""``History``: what every run used, and samples of it over time, for as long as anybody may ask.

It stands in nobody's way: whatever is wrong with its file (locked, full, damaged) costs an event, some samples and at
most ``patience`` seconds, never an exception to a run or its end.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from safesh import clock
from safesh.errors import StateError
from safesh.metrics import rollup, spool
from safesh.metrics.rollup import DAY, Point, Resolution
from safesh.metrics.spool import RUN_FIELDS
from safesh.metrics.store import Store, trouble_of

__all__ = ["NAME", "RUN_FIELDS", "History", "Point", "Retention"]

NAME = "history.db"
T = TypeVar("T")
OnEvent = Callable[[str, dict[str, Any]], None]

_MAINTAIN_EVERY = 60.0  # seconds of sample time
_PRUNE_AT_MOST = 2000  # rows in one go: a few milliseconds, for the writer and for whoever waits behind it
_BACKLOG = 5000  # rows that wait in memory while the file cannot be written
_SMALLEST_DISK = 1 << 16  # bytes; with less, a failing write is a full disk's


@dataclass(frozen=True, slots=True)
class Retention:
    """How long samples are kept (seconds), raw and rolled up, and how many runs of a target."""

    raw: float = DAY
    minute: float = 14 * DAY
    hour: float = 400 * DAY
    runs: int = 10_000


class History:
    """The history at ``path``; several processes and threads may write to it at once.

    Writers (``add_run``, ``add_samples``) never raise: a run that cannot be written now goes to the spool beside it,
    samples wait in memory, and what finds no room there is counted in ``lost``. on_event is told once of each kind of
    trouble until a write succeeds: history_locked, history_full, history_failed, history_refused, and
    history_rebuilt where a damaged file was moved aside. Readers raise StateError.
    """

    def __init__(
        self,
        path: str,
        *,
        on_event: OnEvent | None = None,
        retention: Retention | None = None,
        patience: float = 0.25,
    ) -> None:
        """patience: seconds to wait for other writers. StateError when the file is not to be trusted (a symlink,
        another user's, a later version's); one that is locked or full now is tried again with every write."""
        self.path = os.path.abspath(path)
        self.lost = 0
        self._folder = os.path.dirname(self.path)
        self._on_event = on_event
        self._retention = retention or Retention()
        self._store = Store(self.path, patience, self._tell_damage)
        self._told: set[str] = set()
        self._backlog: list[tuple[str, str, list[rollup.Row]]] = []
        self._waiting = 0
        self._rates = rollup.Rates()
        self._maintained = 0.0
        self._mutex = threading.RLock()
        try:
            self._store.run(lambda _connection: None, write=False)
        except (sqlite3.Error, OSError) as error:
            self._tell(error)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------

    def add_run(self, run: Mapping[str, Any]) -> bool:
        """Keep an ended run (see ``RUN_FIELDS``; run_id, target and started_at at least). A run id that is known
        already is replaced. False when it is neither in the database nor in the spool."""
        row = spool.row_of(run)
        if row is None:
            return False
        if self._write(lambda connection: self._insert_runs(connection, [row])):
            return True
        kept = spool.note_run(self._folder, dict(zip(RUN_FIELDS, row, strict=True)))
        self.lost += not kept
        return kept

    def add_samples(self, run_id: str, target: str, samples: Iterable[Any]) -> bool:
        """Keep samples of a run: a sampler's, or mappings with ``at`` (wall seconds) and numbers; None is no number.

        True when they are in the database, False while they wait in memory (see :attr:`pending`).
        """
        rows = [row for sample in samples for row in self._rates.rows(run_id, sample)]
        with self._mutex:
            if rows:
                self._backlog.append((run_id, target, rows))
                self._waiting += len(rows)
            while self._waiting > _BACKLOG and len(self._backlog) > 1:  # the oldest go first
                dropped = len(self._backlog.pop(0)[2])
                self._waiting -= dropped
                self.lost += dropped
            return self.flush()

    @property
    def pending(self) -> int:
        """Numbers that wait in memory for the file to be writable."""
        return self._waiting

    def flush(self) -> bool:
        """Try once to write what waits; True when nothing does."""
        with self._mutex:
            waiting = self._backlog
            if not waiting:
                return True
            now = max(row.at for _run, _target, rows in waiting for row in rows)

            def work(connection: sqlite3.Connection) -> int:
                late = sum(rollup.insert(connection, run, target, rows) for run, target, rows in waiting)
                if now >= self._maintained + _MAINTAIN_EVERY:
                    self._maintain(connection, now)
                return late

            late = self._write(work)
            if late is None:
                return False
            self.lost += late
            self._backlog, self._waiting = [], 0
            if now >= self._maintained + _MAINTAIN_EVERY:
                self._maintained = now
            return True

    def take_spool(self) -> int:
        """Take in the runs that supervisors left beside the database; their count. StateError for a foreign spool."""
        if not spool.is_waiting(self._folder):
            return 0

        def keep(runs: list[dict[str, Any]]) -> bool:
            rows = [row for row in map(spool.row_of, runs) if row is not None]
            return bool(self._write(lambda connection: self._insert_runs(connection, rows)))

        return spool.take(self._folder, keep)

    def rollup(self, now: float | None = None) -> bool:
        """Roll samples up to ``now``. Writers do this by themselves about once a minute. False when it has to wait."""
        moment = clock.wall() if now is None else now
        return self._write(lambda connection: rollup.roll_up(connection, moment)) is not None

    def prune(self, now: float | None = None) -> bool:
        """Remove all that is older than the retention, in short transactions. False when it has to wait."""
        moment = clock.wall() if now is None else now
        if not self.rollup(moment) or self._write(self._prune_runs) is None:
            return False
        while (done := self._write(lambda connection: self._prune_some(connection, moment))) is False:
            pass
        return done is True

    def close(self) -> None:
        """Write what waits, if that is possible at once, and let go of the file."""
        with self._mutex:
            self.flush()
            self.lost += self._waiting
            self._backlog, self._waiting = [], 0
            self._store.close()

    # -- reading -----------------------------------------------------------------------------------

    def runs(
        self, target: str | None = None, since: float | None = None, limit: int = 100, *, mission_type: str = ""
    ) -> list[dict[str, Any]]:
        """Runs under way at ``since`` (wall seconds) or begun later, newest first; ``limit`` 0 for all."""
        wheres, values = _where(target, mission_type)
        if since is not None:
            wheres.append("coalesce(ended_at, started_at) >= ?")
            values.append(since)
        where = f"WHERE {' AND '.join(wheres)}" if wheres else ""
        query = f"SELECT {', '.join(RUN_FIELDS)} FROM runs {where} ORDER BY started_at DESC LIMIT ?"
        found = self._read(lambda connection: connection.execute(query, [*values, limit or -1]).fetchall())
        return [dict(zip(RUN_FIELDS, row, strict=True)) for row in found]

    def count_runs(self, target: str | None = None) -> int:
        """How many runs are kept."""
        wheres, values = _where(target, "")
        query = f"SELECT count(*) FROM runs {'WHERE ' + wheres[0] if wheres else ''}"
        return int(self._read(lambda connection: connection.execute(query, values).fetchone())[0])

    def targets(self) -> list[str]:
        """Every target with runs or samples, by name."""
        query = "SELECT target FROM runs UNION SELECT target FROM series ORDER BY target"
        return [name for (name,) in self._read(lambda connection: connection.execute(query).fetchall())]

    def metrics(self, target: str) -> list[str]:
        """The names of the series there are of it."""
        query = "SELECT metric FROM series WHERE target = ? ORDER BY metric"
        return [name for (name,) in self._read(lambda connection: connection.execute(query, (target,)).fetchall())]

    def series(
        self,
        target: str,
        metric: str,
        since: float | None = None,
        until: float | None = None,
        resolution: Resolution = "auto",
    ) -> list[Point]:
        """A metric over time, oldest first; what is not rolled up yet is included.

        resolution "auto": raw samples up to 2 hours, minutes up to 2 days, hours beyond, counted from the first sample
        there is. Without ``since``: all of it."""
        end = clock.wall() + DAY if until is None else until
        return self._read(
            lambda connection: rollup.read(connection, target, metric, max(0.0, since or 0.0), end, resolution)
        )

    def peaks(self, target: str = "", *, mission_type: str = "", limit: int = 200) -> list[dict[str, float | None]]:
        """What past runs took at most, newest first: memory_mb (MiB), cpu (percent of one core, averaged over the
        run), processes, write_gb. None where nobody measured it."""
        found = []
        for run in self.runs(target or None, limit=limit, mission_type=mission_type):
            memory, seconds, lasted = run["peak_memory_bytes"], run["cpu_seconds"], run["duration"]
            found.append(
                {
                    "memory_mb": memory / 1048576 if memory else None,
                    "cpu": 100.0 * seconds / lasted if seconds is not None and lasted else None,
                    "processes": run["max_processes"],
                    "write_gb": run["write_bytes"] / 1073741824 if run["write_bytes"] is not None else None,
                }
            )
        return found

    # -- within ------------------------------------------------------------------------------------

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` gave in a transaction of its own, None when it could not be done; then that is told."""
        with self._mutex:
            try:
                value = self._store.run(work, write=True)
            except (sqlite3.Error, OSError, StateError) as error:
                self._tell(error)
                return None
            self._told.clear()
            return value

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._mutex:
            try:
                return self._store.run(work, write=False)
            except (sqlite3.Error, OSError) as error:
                trouble, text = self._trouble(error)
                raise StateError(text, place=self.path, hint=_HINTS[trouble]) from None

    def _trouble(self, error: Exception) -> tuple[str, str]:
        trouble: str = trouble_of(error)
        if trouble == "failed" and _space_near(self._folder) < _SMALLEST_DISK:
            trouble = "full"
        return trouble, _TEXTS_OF.get(trouble) or f"cannot be used: {error}"

    def _tell(self, error: Exception) -> None:
        if isinstance(error, StateError):
            trouble, text = "refused", error.message
        else:
            trouble, text = self._trouble(error)
        if trouble not in self._told:
            self._told.add(trouble)
            self._event(f"history_{trouble}", {"path": self.path, "message": text, "lost": self.lost})

    def _tell_damage(self, aside: str) -> None:
        self._event("history_rebuilt", {"path": self.path, "moved_to": aside, "message": _TEXTS_OF["damaged"]})

    def _event(self, name: str, details: dict[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(name, details)

    def _insert_runs(self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> bool:
        marks = ", ".join("?" * len(RUN_FIELDS))
        connection.executemany(f"INSERT OR REPLACE INTO runs ({', '.join(RUN_FIELDS)}) VALUES ({marks})", rows)
        for target in {row[1] for row in rows}:
            self._prune_target(connection, target)
        return True

    def _prune_runs(self, connection: sqlite3.Connection) -> bool:
        for (target,) in connection.execute("SELECT DISTINCT target FROM runs").fetchall():
            self._prune_target(connection, target)
        return True

    def _prune_target(self, connection: sqlite3.Connection, target: str) -> None:
        connection.execute(
            "DELETE FROM runs WHERE run_id IN (SELECT run_id FROM runs WHERE target = ?"
            " ORDER BY started_at DESC LIMIT -1 OFFSET ?)",
            (target, self._retention.runs),
        )

    def _maintain(self, connection: sqlite3.Connection, now: float) -> None:
        # By the clock, not by the samples' times: one sample from the future must not prune the present.
        moment = min(now, clock.wall())
        rollup.roll_up(connection, moment)
        self._prune_some(connection, moment, _PRUNE_AT_MOST)

    def _prune_some(self, connection: sqlite3.Connection, now: float, most: int = 10 * _PRUNE_AT_MOST) -> bool:
        keep = self._retention
        return rollup.prune(connection, now, raw=keep.raw, minute=keep.minute, hour=keep.hour, most=most)


_TEXTS_OF = {
    "locked": "is locked by another process for longer than we wait",
    "full": "no space left on its disk",
    "damaged": "was damaged; it lies aside and a new one was begun",
    "moved": "was moved away while in use",
}
_HINTS = {
    "locked": "try again in a moment",
    "full": "free some space, or set SAFESH_HOME elsewhere",
    "damaged": "try again",
    "moved": "try again",
    "failed": "see: safe.sh doctor",
}


def _where(target: str | None, mission_type: str) -> tuple[list[str], list[Any]]:
    wheres, values = [], []
    for column, value in (("target", target), ("mission_type", mission_type)):
        if value:
            wheres.append(f"{column} = ?")
            values.append(value)
    return wheres, values


def _space_near(folder: str) -> int:
    try:
        info = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return info.f_bavail * info.f_frsize
