"""What the pages show, as plain rows: looked at through the package's own API, once for all who watch.

Nothing here knows Streamlit, and nothing signals a process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from safesh.cli import top
from safesh.clock import format_duration, monotonic
from safesh.dashboard import past, search
from safesh.dashboard.settings import Settings
from safesh.errors import SafeshError
from safesh.metrics.model import ProcessUsage
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.table import (
    MARKS,
    Level,
    Picture,
    PythonTable,
    Row,
    Sort,
    arrange,
    grow,
    is_python,
    is_streamlit,
    level,
    sort_key,
)  # fmt: skip

KEPT = 360  # points of the live curves: half an hour at 5 s
SPARK = 60  # of them in a table
_MOST_REPAIRED = 10
PRIME = 0.2  # seconds between a first look, which knows no rates, and the second
# A mark, for eyes and screens that do not tell the colour, stands beside each of them.
SIGNS: dict[Level, str] = {"hot": "▲▲", "warm": "▲", "calm": "●", "unknown": "·"}
assert SIGNS.keys() == MARKS.keys()


class Moment(NamedTuple):
    """One point of an instance's live curves. at: wall seconds; cpu: percent of one core, None in the first look."""

    at: float
    cpu: float | None
    memory_mb: float
    processes: int


class Instances(NamedTuple):
    """What runs, at one moment. curves: by an instance's key; frozen: the supervisors that do nothing, likewise."""

    picture: top.Picture
    curves: dict[str, list[Moment]]
    frozen: dict[str, int]


class Source:
    """Looks at instances and processes for every page and every tab; one look serves all who ask within ``max_age``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mutex = threading.Lock()  # monitors are not for several threads at once
        self._look: top.Look | None = None
        self._seen: tuple[float, Instances] | None = None
        self._curves: dict[str, deque[Moment]] = {}
        self._table: PythonTable | None = None
        self._processes: tuple[float, Picture] | None = None
        self._asked = ResourceMonitor(gpu=False)
        self._past: tuple[float, float, past.Past] | None = None
        self._repaired: list[str] = []

    def instances(self, max_age: float = 1.0) -> Instances:
        """SafeshError where safe.toml is wrong and never was right; one that breaks later keeps its last sense."""
        with self._mutex:
            if self._seen is not None and monotonic() - self._seen[0] < max_age:
                return self._seen[1]
            fresh = self._look is None
            if self._look is None:
                self._look = top.Look(dict(self.settings.args))
            if max_age <= 0:
                self._look.forget_strays()  # who asks for this very moment is about to end something
            picture = self._look.look()
            if fresh:
                time.sleep(PRIME)
                picture = self._look.look()
            for seen in picture.seen:
                curve = self._curves.setdefault(seen.key, deque(maxlen=KEPT))
                usage = seen.usage
                curve.append(Moment(picture.at, usage.cpu_percent, usage.memory_mb, usage.processes))
            for key in self._curves.keys() - {seen.key for seen in picture.seen}:
                del self._curves[key]
            curves = {key: list(curve) for key, curve in self._curves.items()}
            found = Instances(picture, curves, self._frozen(picture))
            self._seen = (monotonic(), found)
            return found

    def _frozen(self, picture: top.Picture) -> dict[str, int]:
        found = {}
        for seen in picture.seen:
            if seen.report.view.supervisor_alive:
                pid = seen.record["supervisor"]["pid"]
                usage = self._asked.get_process_resources(pid)
                if usage is not None and usage.state in ("T", "t"):
                    found[seen.key] = pid
        return found

    def past(self, seconds: float, max_age: float = 1.0) -> past.Past:
        """The last ``seconds``. ConfigError where safe.toml is wrong."""
        with self._mutex:
            if self._past is None or self._past[0] != seconds or monotonic() - self._past[1] >= max_age:
                found = past.look(self.settings, seconds)
                # Told once, by whoever came first; the next look finds all in order.
                self._repaired = (self._repaired + found.repaired)[-_MOST_REPAIRED:]
                self._past = (seconds, monotonic(), found._replace(repaired=list(self._repaired)))
            return self._past[2]

    def processes(self, max_age: float = 1.0) -> Picture:
        """The system, and all processes but the kernel's, this server and Streamlit."""
        with self._mutex:
            if self._processes is not None and monotonic() - self._processes[0] < max_age:
                return self._processes[1]
            fresh = self._table is None
            if self._table is None:
                self._table = PythonTable(ResourceMonitor(disk_path=_existing(os.getcwd())), everything=True)
            picture = self._table.look()
            if fresh:
                time.sleep(PRIME)
                picture = self._table.look()
            picture.rows = [row for row in picture.rows if not is_streamlit(_words(row))]
            self._processes = (monotonic(), picture)
            return picture


def _existing(folder: str) -> str:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _words(row: Row) -> list[str]:
    return row.usage.command.split(" ")


# --- instances -------------------------------------------------------------------------------------


def title(seen: top.Seen) -> str:
    """What a person calls it, unique over all projects."""
    return f"{os.path.basename(seen.chosen.paths.folder)} / {seen.name}"


def short(path: str) -> str:
    """A path with ``~`` for the home folder."""
    home = os.path.expanduser("~").rstrip("/")
    return "~" + path[len(home) :] if home and path.startswith(home + "/") else path


def health(record: dict[str, Any]) -> str:
    told = record.get("health")
    return str(told.get("status") or "") if isinstance(told, dict) else ""


def sign(seen: top.Seen) -> str:
    """A mark for the state: it runs, it needs a look, it is in trouble, it rests."""
    return {"good": "● ", "warn": "▲ ", "bad": "✖ "}.get(seen.look, "○ ") + seen.word


def overview_rows(found: Instances) -> list[dict[str, Any]]:
    """A row an instance; strays have a column where there are any."""
    rows = []
    strays = any(seen.strays for seen in found.picture.seen)
    for seen in found.picture.seen:
        curve = found.curves.get(seen.key, [])[-SPARK:]
        runs = bool(seen.members)
        rows.append({
            "Instance": title(seen),
            "State": sign(seen),
            "Health": health(seen.record) if runs else "",
            "Up": "" if seen.uptime is None else format_duration(seen.uptime),
            "Restarts": seen.record.get("restarts"),
            "Pid": seen.main[0] if seen.main else None,
            "": SIGNS[level(seen.usage.cpu_percent if runs else None)],
            "CPU %": seen.usage.cpu_percent if runs else None,
            "CPU": [one.cpu or 0.0 for one in curve],
            "Memory MiB": seen.usage.memory_mb if runs else None,
            "Memory": [one.memory_mb for one in curve],
            "Processes": len(seen.members),
            **({"Strays": len(seen.strays)} if strays else {}),
            "Level": level(seen.usage.cpu_percent if runs else None),
        })  # fmt: skip
    return rows


def problems(found: Instances, key: str = "") -> list[str]:
    """One line for each thing that is wrong, with the next command; of one instance alone where its key is given."""
    told = [] if key or not found.picture.trouble else [found.picture.trouble]
    for seen in found.picture.seen:
        if key in ("", seen.key):
            name = "" if key else f"{title(seen)}: "
            told += [name + problem for problem in seen.report.view.problems]
            if seen.key in found.frozen:
                pid = found.frozen[seen.key]
                told.append(
                    f"{name}its supervisor, pid {pid}, is stopped, so nothing is restarted, checked or logged. "
                    f"Next: kill -CONT {pid} lets it go on"
                )
    return told


def tree_rows(seen: top.Seen) -> list[dict[str, Any]]:
    """The members of an instance in the order of their tree, strays told."""
    rows = []
    for line in arrange(grow(seen.members), "pid"):
        one = line.node.usage
        stray = "(stray) " if (one.pid, one.start) in seen.strays else ""
        rows.append({**member_row(one), "Command": _indent(line.path) + stray + one.command})
    return rows


def _indent(path: Sequence[bool]) -> str:
    if not path:
        return ""
    # No-break spaces: a table would draw together what stands at the beginning of a cell.
    return "".join("\u00a0\u00a0\u00a0" if last else "│\u00a0\u00a0" for last in path[-10:-1]) + (
        "└─\u00a0" if path[-1] else "├─\u00a0"
    )


def member_row(one: ProcessUsage) -> dict[str, Any]:
    """What a confirmation tells of each process too."""
    stands_out = level(one.cpu_percent)
    return {
        "": SIGNS[stands_out],
        "Pid": one.pid,
        "CPU %": one.cpu_percent,
        "Memory MiB": one.memory_mb,
        "Age": format_duration(one.runtime_seconds),
        "Threads": one.num_threads,
        "Command": one.command,
        "Level": stands_out,
    }


def health_rows(record: dict[str, Any], now: float) -> list[tuple[str, str]]:
    """(what, its value) of the last checks and of what it says by itself."""
    rows = []
    told = record.get("health")
    if isinstance(told, dict) and told:
        rows.append(("Checks", str(told.get("status") or "unknown")))
        if told.get("message"):
            rows.append(("Last result", str(told["message"])))
        if told.get("failures"):
            rows.append(("Failures in a row", str(told["failures"])))
        for name, key in (("Since", "since"), ("Checked", "checked_at")):
            if isinstance(told.get(key), (int, float)):
                rows.append((name, f"{format_duration(now - told[key])} ago"))
    says = record.get("notify")
    if isinstance(says, dict) and says.get("status"):
        rows.append(("It says", str(says["status"])))
    return rows


# --- processes -------------------------------------------------------------------------------------


def select(rows: Iterable[Row], *, everything: bool, typed: str, sort: Sort) -> list[Row]:
    """Those that a page asks for, in its order; ``typed`` finds pids, names and commands, as in ``top``.

    SearchTooLong for an expression that does not come to an end.
    """
    found = [row for row in rows if everything or is_python(row.usage.name, _words(row))]
    texts = [text for row in found for text in (f"{row.usage.pid} {row.usage.command}", row.usage.name)]
    hits = {number // 2 for number in search.matches(typed, texts)}
    return sorted((found[number] for number in hits), key=lambda row: sort_key(row.usage, sort))


def process_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """A row a process."""
    return [
        {
            "": SIGNS[row.level],
            "CPU %": row.usage.cpu_percent,
            "Memory MiB": row.usage.memory_mb,
            "Pid": row.usage.pid,
            "Script": row.script,
            "Runtime": format_duration(row.usage.runtime_seconds),
            "Status": row.status,
            "Command": row.usage.command,
            "Level": row.level,
        }
        for row in rows
    ]


def tell(error: Exception) -> tuple[str, str]:
    """(what is wrong, what to do) in a line each."""
    if isinstance(error, SafeshError):
        return str(error), error.hint
    return f"{type(error).__name__}: {error}", ""
