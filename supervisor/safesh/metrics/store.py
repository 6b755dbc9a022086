"""The file behind the history: opened with care, healed when damaged, and never waited for longer than was said.

Everything that can go wrong with it is sorted into a few troubles: ``locked``, ``full``, ``damaged``, ``moved``,
``failed``. See https://www.sqlite.org/wal.html and https://www.sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from safesh import paths
from safesh.errors import StateError

Trouble = Literal["locked", "full", "damaged", "moved", "failed"]
T = TypeVar("T")

VERSION = 1
SCHEMA = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, target TEXT NOT NULL, instance TEXT, project TEXT, mission_type TEXT, mission_id TEXT,
    started_at REAL NOT NULL, ended_at REAL, duration REAL, exit_code INTEGER, signal TEXT, cause TEXT, state TEXT,
    restarts INTEGER, cpu_seconds REAL, user_seconds REAL, system_seconds REAL, peak_memory_bytes INTEGER,
    read_bytes INTEGER, write_bytes INTEGER, max_processes INTEGER
) WITHOUT ROWID;
CREATE INDEX runs_by_target ON runs (target, started_at);
CREATE INDEX runs_by_time ON runs (started_at);
CREATE INDEX runs_by_mission ON runs (mission_type, started_at);
-- A series is one metric of one target. Raw times are milliseconds, those of rollups the seconds they begin at.
CREATE TABLE series (id INTEGER PRIMARY KEY, target TEXT NOT NULL, metric TEXT NOT NULL, UNIQUE (target, metric));
CREATE TABLE run_keys (id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, last_at INTEGER NOT NULL);
CREATE TABLE raw (series INTEGER, at INTEGER, run INTEGER, value REAL, PRIMARY KEY (series, at, run)) WITHOUT ROWID;
CREATE TABLE minute (
    series INTEGER, at INTEGER, mean REAL, peak REAL, n INTEGER, PRIMARY KEY (series, at)
) WITHOUT ROWID;
CREATE TABLE hour (
    series INTEGER, at INTEGER, mean REAL, peak REAL, n INTEGER, PRIMARY KEY (series, at)
) WITHOUT ROWID;
-- minute, hour: up to where samples were rolled up, pruned: up to where raw ones were removed. Seconds.
CREATE TABLE marks (name TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO marks VALUES ('minute', 0), ('hour', 0), ('pruned', 0);
"""

# Primary result codes (https://www.sqlite.org/rescode.html); extended ones carry them in their low byte.
_TROUBLES: dict[int, Trouble] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
_COMPANIONS = ("-wal", "-shm")
_OPENING = (
    threading.Lock()
)  # closing any descriptor of a file drops this process's fcntl locks on it (howtocorrupt 2.2)
_FORKED: list[sqlite3.Connection] = []  # a parent's connections: to close them here would disturb its files


class Store:
    """The connection of one process to ``path``.

    patience: seconds that anything waits for somebody else's lock. on_damage(path it was moved to) is called once the
    damaged file lies aside.
    """

    def __init__(self, path: str, patience: float, on_damage: Callable[[str], None]) -> None:
        self.path = path
        self._patience = patience
        self._on_damage = on_damage
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._pid = 0

    def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T:
        """``work`` in one transaction. A damaged file is moved aside, and the work is done on a new one.

        StateError when the file is not to be trusted, or written by a later version; sqlite3.Error and OSError when
        it cannot be used now (:func:`trouble_of` tells why).
        """
        for attempt in (1, 2, 3):
            try:
                connection = self._open()
                try:
                    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                    value = work(connection)
                    connection.execute("COMMIT")
                    return value
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                trouble = trouble_of(error)
                if attempt == 3 or trouble not in ("damaged", "moved"):
                    raise
                if trouble == "damaged":
                    self._move_aside()
                self.close()
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of it. The next :meth:`run` opens it again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid != os.getpid():
            _FORKED.append(connection)
            return
        try:
            connection.close()
        except sqlite3.Error:
            pass

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._pid == os.getpid() and _identity(self.path) == self._file:
                return self._connection
            # We were forked, or somebody moved the file. SQLite itself leaves a moved file's companions alone.
            self.close()
        with _OPENING, _Gate(self.path, self._patience):
            check_files(self.path)
            connection = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            self._file = _identity(self.path)
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
        self._connection, self._pid = connection, os.getpid()
        return connection

    def _move_aside(self) -> None:
        with _OPENING, _Gate(self.path, self._patience, alone=True):
            if _identity(self.path) != self._file:
                return  # somebody else was faster; ours is not the one to move
            aside = _free_name(f"{self.path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
            # Its companions go with it: a new database must never meet the log of an old one.
            for tail in ("", *_COMPANIONS):
                try:
                    os.rename(self.path + tail, aside + tail)
                except FileNotFoundError:
                    pass
            self._file = (0, 0)
        self._on_damage(aside)


def trouble_of(error: Exception) -> Trouble:
    """Which of the few troubles this is."""
    if isinstance(error, _Waited):
        return "locked"
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "damaged" if isinstance(error, sqlite3.DatabaseError) else "failed"
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return "moved"
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such "):
        return "damaged"  # our version number over somebody else's tables
    return _TROUBLES.get(code & 0xFF, "failed")


def check_files(path: str) -> None:
    """Make the database where there is none, 0600; StateError when it or a companion is not a plain file of ours.

    SQLite itself would follow a symlink. The folder is ours and closed to others, so what was checked stays.
    """
    for one in (path, *(path + tail for tail in _COMPANIONS)):
        try:
            info = os.lstat(one)
        except FileNotFoundError:
            if one == path:
                os.close(paths.open_private(path, os.O_RDWR | os.O_CREAT))
            continue
        problem = ""
        if stat.S_ISLNK(info.st_mode):
            problem = "is a symlink, which is not trusted"
        elif not stat.S_ISREG(info.st_mode):
            problem = "is not a regular file"
        elif info.st_uid != os.geteuid():
            problem = f"belongs to user {info.st_uid}, not to you ({os.geteuid()}), so it is not trusted"
        if problem:
            raise StateError(problem, place=one, hint=f"look at it, then move it away: mv {one} {one}.old")
        if info.st_mode & 0o077:
            os.chmod(one, 0o600)


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """The settings of a connection, and the tables where there are none yet."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        connection.execute("PRAGMA synchronous = NORMAL")  # in WAL mode a power cut costs the last rows, never the file
        connection.execute("PRAGMA journal_size_limit = 4194304")
        return
    if version > VERSION:
        raise StateError(
            f"was written by a later safesh (schema {version}, this one knows {VERSION})",
            place=path,
            hint=f"use that safesh, or move it away: mv {path} {path}.old",
        )
    connection.execute("PRAGMA journal_mode = WAL")  # where the file system cannot, SQLite goes on without
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 4194304")
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:  # else another process has made them meanwhile
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _identity(path: str) -> tuple[int, int]:
    try:
        info = os.lstat(path)
    except OSError:
        return (0, 0)
    return (info.st_dev, info.st_ino)


def _free_name(wanted: str) -> str:
    name, number = wanted, 1
    while os.path.lexists(name):
        number += 1
        name = f"{wanted}-{number}"
    return name


class _Waited(sqlite3.OperationalError):
    """Somebody else opens the database, or moves it aside, for longer than we may wait."""


class _Gate:
    """Opening, which others may do too, is kept apart from moving the file aside: between the renames of a database
    and of its log, nobody may open either (flock(2))."""

    def __init__(self, path: str, patience: float, *, alone: bool = False) -> None:
        self._path = path + "-lock"  # "X.lock" would be read as the lock of an instance X
        self._patience = patience
        self._mode = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = paths.open_private(self._path, os.O_RDWR | os.O_CREAT)
        until = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(self._fd, self._mode)
                return
            except OSError as error:
                if time.monotonic() >= until:
                    os.close(self._fd)
                    raise _Waited("the file is being opened or moved aside by another process") from error
            time.sleep(0.005)

    def __exit__(self, *_problem: object) -> None:
        os.close(self._fd)
