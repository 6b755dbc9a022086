"""What is known of use over time: graphics cards, and the history with its samples."""

from __future__ import annotations

import os

from safesh.clock import format_size
from safesh.diagnose.check import Finding, Subject, ok, warn
from safesh.diagnose.software import read_config
from safesh.errors import SafeshError
from safesh.paths import state_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.config import Config


def check_gpu(_subject: Subject) -> Finding:
    from safesh.metrics.monitor import ResourceMonitor

    monitor = ResourceMonitor()
    try:
        reason = monitor.gpu_reason()
        if reason:
            return ok(f"none is told of: {reason}")
        cards = monitor.get_resource_snapshot().gpus
        return ok(", ".join(f"{one.name} ({one.memory_total_mb or 0:.0f} MiB)" for one in cards))
    finally:
        monitor.close()


def check_history(subject: Subject) -> Finding:
    try:
        config = read_config(subject)
    except SafeshError:
        config = None
    folder = os.path.join(state_home(), config.project if config is not None else "default")
    sampled = _sampled(config)
    try:
        import sqlite3
    except ImportError:
        found = f"this Python has no SQLite; runs wait in {folder}/history.spool{sampled}"
        return warn(found, "use a Python that has sqlite3")
    path = os.path.join(folder, "history.db")
    from safesh.metrics.store import VERSION

    aside = _aside(folder)
    if not os.path.lexists(path):
        waiting = os.path.lexists(os.path.join(folder, "history.spool"))
        return ok(("runs wait to be taken in" if waiting else "none yet: a run is kept when it ends") + sampled + aside)
    try:
        # Read only, so that what is damaged stays as it is: the next writer moves it aside.
        database = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=1.0)
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                remedy = f"use that version, or move it away: mv {path} {path}.old"
                return warn(f"{path} was written by a later safesh (schema {version}, ours is {VERSION})", remedy)
            runs, series = (
                database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("runs", "series")
            )
        finally:
            database.close()
    except sqlite3.Error as error:
        return warn(f"{path} cannot be read: {error}", f"move it away, a new one is begun: mv {path} {path}.old")
    size = sum(os.path.getsize(path + tail) for tail in ("", "-wal") if os.path.exists(path + tail))
    return ok(f"{path}: {runs} runs, {series} series, {format_size(size)}{sampled}{aside}")


def _sampled(config: Config | None) -> str:
    names = [spec.name for spec in config.targets.values() if spec.sample] if config is not None else []
    return f"; sampled: {', '.join(names)}" if names else "; no target is sampled"


def _aside(folder: str) -> str:
    try:
        names = [name for name in os.listdir(folder) if name.startswith("history.db.corrupt-")]
    except OSError:
        return ""
    count = len([name for name in names if not name.endswith(("-wal", "-shm"))])
    return f"; {count} damaged before, kept beside it as history.db.corrupt-*" if count else ""


def _quoted(path: str) -> str:
    """For a file: URI (https://www.sqlite.org/uri.html)."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
