"""Samples in the database: put in, rolled up (raw → 1 minute → 1 hour), pruned, and read back as one series.

Everything here runs inside somebody's transaction. Times are wall seconds; raw ones are kept in milliseconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from safesh.metrics.spool import is_number

Resolution = Literal["auto", "raw", "minute", "hour"]

MINUTE, HOUR, DAY = 60, 3600, 86400
_RAW_SPAN = 2 * HOUR  # "auto": the longest stretch shown by its raw samples
_MINUTE_SPAN = 2 * DAY

# Of a sampler's counters the rates are kept, as read_bytes_s and write_bytes_s; cpu_seconds is in cpu_percent already.
_COUNTERS = ("read_bytes", "write_bytes")
_NO_METRICS = {"at", "cpu_seconds", "pid", "start", *_COUNTERS}
_RUNS_AT_ONCE = 64


class Point(NamedTuple):
    """One point of a series. at: wall time (of an interval: its begin); n: how many samples it stands for."""

    at: float
    average: float
    maximum: float
    n: int = 1


class Row(NamedTuple):
    """One number of a sample."""

    at: float
    metric: str
    value: float


class Rates:
    """Turns samples into rows, counters into rates."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, dict[str, float]]] = {}  # by run id: when, and the counters then

    def rows(self, run_id: str, sample: Any) -> list[Row]:
        """The numbers of one sample (a mapping, or with ``to_dict``) that are worth keeping; none without a time."""
        plain = sample if isinstance(sample, Mapping) else sample.to_dict()
        at = plain.get("at")
        if not is_number(at) or not 0 < at < 1e11:
            return []
        found = {name: float(value) for name, value in plain.items() if name not in _NO_METRICS and is_number(value)}
        counters = {name: float(plain[name]) for name in _COUNTERS if is_number(plain.get(name))}
        before = self._last.pop(run_id, None)
        if before is not None and at > before[0]:
            for name in counters.keys() & before[1].keys():
                # A counter falls when a member goes that nobody waited for.
                found[name + "_s"] = max(0.0, counters[name] - before[1][name]) / (at - before[0])
        if counters:
            while len(self._last) >= _RUNS_AT_ONCE:
                del self._last[next(iter(self._last))]
            self._last[run_id] = (at, counters)
        return [Row(at, name, value) for name, value in found.items()]


def insert(connection: sqlite3.Connection, run_id: str, target: str, rows: list[Row]) -> int:
    """Keep them; how many were too old to be kept (their raw neighbours have been pruned already)."""
    marks = read_marks(connection)
    fresh = [row for row in rows if row.at >= marks["pruned"]]
    if fresh:
        latest = int(max(row.at for row in fresh) * 1000)
        connection.execute(
            "INSERT INTO run_keys (run_id, last_at) VALUES (?, ?)"
            " ON CONFLICT (run_id) DO UPDATE SET last_at = max(last_at, excluded.last_at)",
            (run_id, latest),
        )
        (run,) = connection.execute("SELECT id FROM run_keys WHERE run_id = ?", (run_id,)).fetchone()
        keys = {metric: _series_key(connection, target, metric) for metric in {row.metric for row in fresh}}
        connection.executemany(
            "INSERT OR REPLACE INTO raw (series, at, run, value) VALUES (?, ?, ?, ?)",
            [(keys[row.metric], int(row.at * 1000), run, row.value) for row in fresh],
        )
        # A sample that comes late, into an interval rolled up already: roll that up again.
        earliest = int(min(row.at for row in fresh))
        connection.execute("UPDATE marks SET at = min(at, ?) WHERE name = 'minute'", (earliest // MINUTE * MINUTE,))
        connection.execute("UPDATE marks SET at = min(at, ?) WHERE name = 'hour'", (earliest // HOUR * HOUR,))
    return len(rows) - len(fresh)


def _series_key(connection: sqlite3.Connection, target: str, metric: str) -> int:
    found = connection.execute("SELECT id FROM series WHERE target = ? AND metric = ?", (target, metric)).fetchone()
    if found is not None:
        return int(found[0])
    return int(connection.execute("INSERT INTO series (target, metric) VALUES (?, ?)", (target, metric)).lastrowid or 0)


def read_marks(connection: sqlite3.Connection) -> dict[str, int]:
    """See the table's comment in store.py."""
    return {"minute": 0, "hour": 0, "pruned": 0, **dict(connection.execute("SELECT name, at FROM marks"))}


def roll_up(connection: sqlite3.Connection, now: float) -> bool:
    """Bring both rollups up to the last interval that is over. To do it twice changes nothing."""
    marks = read_marks(connection)
    ids = [one for (one,) in connection.execute("SELECT id FROM series")]
    begin, end = max(marks["minute"], marks["pruned"]), int(now) // MINUTE * MINUTE
    if end > marks["minute"]:
        for one in ids:
            connection.execute(
                "INSERT OR REPLACE INTO minute"
                " SELECT series, at / 60000 * 60 AS begin, avg(value), max(value), count(*)"
                " FROM raw WHERE series = ? AND at >= ? AND at < ? GROUP BY begin",
                (one, begin * 1000, end * 1000),
            )
        connection.execute("UPDATE marks SET at = ? WHERE name = 'minute'", (end,))
    begin, end = marks["hour"], int(now) // HOUR * HOUR
    if end > marks["hour"]:
        for one in ids:
            connection.execute(
                "INSERT OR REPLACE INTO hour"
                " SELECT series, at / 3600 * 3600 AS begin, sum(mean * n) / sum(n), max(peak), sum(n)"
                " FROM minute WHERE series = ? AND at >= ? AND at < ? GROUP BY begin",
                (one, begin, end),
            )
        connection.execute("UPDATE marks SET at = ? WHERE name = 'hour'", (end,))
    return True


def prune(connection: sqlite3.Connection, now: float, *, raw: float, minute: float, hour: float, most: int = 0) -> bool:
    """Remove samples older than ``raw``, ``minute`` and ``hour`` seconds, each kind only once it is rolled up.

    most: rows removed at most (0: all), because a long delete holds everybody else's writes. True when nothing is left
    to remove. Whole hours go, so what is left of an interval can always be rolled up again.
    """
    marks = read_marks(connection)
    edges = {
        "raw": min(int(now - raw) // HOUR * HOUR, marks["hour"]),
        "minute": min(int(now - minute) // HOUR * HOUR, marks["hour"]),
        "hour": int(now - hour) // HOUR * HOUR,
    }
    # Said before the first row goes: from now on, samples older than this are not taken in any more.
    connection.execute("UPDATE marks SET at = max(at, ?) WHERE name = 'pruned'", (max(0, edges["raw"]),))
    left = most or -1
    for table, edge in edges.items():
        limit = edge * 1000 if table == "raw" else edge
        key = "series, at, run" if table == "raw" else "series, at"
        for (one,) in connection.execute("SELECT id FROM series").fetchall():
            done = connection.execute(
                f"DELETE FROM {table} WHERE ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE series = ? AND at < ? ORDER BY at LIMIT ?)",
                (one, limit, left),
            ).rowcount
            left -= done if most else 0
            if most and left <= 0:
                return False
    connection.execute("DELETE FROM run_keys WHERE last_at < ?", (edges["raw"] * 1000,))
    return True


def choose(since: float, until: float) -> Resolution:
    """The finest resolution that gives some thousands of points at most."""
    span = until - since
    return "raw" if span <= _RAW_SPAN else "minute" if span <= _MINUTE_SPAN else "hour"


def read(
    connection: sqlite3.Connection, target: str, metric: str, since: float, until: float, resolution: Resolution
) -> list[Point]:
    """The series in order of time. What is not rolled up yet is rolled up on the way, so that nothing is missing."""
    found = connection.execute("SELECT id FROM series WHERE target = ? AND metric = ?", (target, metric)).fetchone()
    if found is None:
        return []
    (one,) = found
    if resolution == "auto":
        resolution = choose(max(since, _first(connection, one)), until)
    if resolution == "raw":
        rows = connection.execute(
            "SELECT at / 1000.0, value, value, 1 FROM raw WHERE series = ? AND at >= ? AND at <= ? ORDER BY at",
            (one, int(since * 1000), int(until * 1000)),
        )
        return _points(rows)
    marks = read_marks(connection)
    minutes = max(marks["minute"], marks["pruned"])
    hours = marks["hour"] if resolution == "hour" else 0
    step = HOUR if resolution == "hour" else MINUTE
    begin = int(since) // step * step
    parts = [
        "SELECT at / :step * :step AS at, mean, peak, n FROM minute"
        " WHERE series = :one AND at >= max(:begin, :hours) AND at < :minutes AND at <= :until",
        "SELECT at / 1000 / :step * :step AS at, value, value, 1 FROM raw"
        " WHERE series = :one AND at >= max(:begin, :minutes) * 1000 AND at <= :until * 1000",
    ]
    if resolution == "hour":
        parts.append(
            "SELECT at, mean, peak, n FROM hour WHERE series = :one AND at >= :begin AND at < :hours AND at <= :until"
        )
    rows = connection.execute(
        f"SELECT at, sum(mean * n) / sum(n), max(peak), sum(n) FROM ({' UNION ALL '.join(parts)})"
        " GROUP BY at ORDER BY at",
        {"one": one, "step": step, "begin": begin, "hours": hours, "minutes": minutes, "until": int(until)},
    )
    return _points(rows)


def _first(connection: sqlite3.Connection, one: int) -> float:
    """When the series begins."""
    times = [
        at / (1000 if table == "raw" else 1)
        for table in ("raw", "minute", "hour")
        for (at,) in connection.execute(f"SELECT min(at) FROM {table} WHERE series = ?", (one,))
        if at is not None
    ]
    return min(times, default=0.0)


def _points(rows: Iterable[tuple[float, float, float, int]]) -> list[Point]:
    return [Point(float(at), average, maximum, n) for at, average, maximum, n in rows]
