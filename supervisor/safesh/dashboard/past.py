"""Past runs and where they lead, of every state folder that the command line's ``history`` would read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from safesh import paths
from safesh.cli import targets
from safesh.clock import format_duration, format_size, format_time, wall
from safesh.config import Config
from safesh.dashboard.settings import Settings
from safesh.errors import SafeshError
from safesh.metrics import spool
from safesh.metrics.history import NAME, RUN_FIELDS, History
from safesh.metrics.rollup import Point
from safesh.metrics.trends import Trend, describe, find_trend, label, show

_RUNS = 1000
_FIRST = ("memory_bytes", "memory_mb", "cpu_percent", "processes")


class Series(NamedTuple):
    """One metric of one target, and what it says."""

    target: str
    metric: str
    points: list[Point]
    trend: Trend


class Past(NamedTuple):
    """runs: newest first, as ``RUN_FIELDS``; troubles: one line for each folder whose history cannot be read;
    repaired: one for each that was damaged and has been begun anew by this look; at: wall seconds."""

    runs: list[dict[str, Any]]
    series: list[Series]
    names: list[str]
    troubles: list[str]
    repaired: list[str]
    at: float


def look(settings: Settings, seconds: float, target: str = "") -> Past:
    """The last ``seconds``. target: "" for all. ConfigError where safe.toml is wrong."""
    config = targets.open_config(dict(settings.args))
    since = max(0.0, wall() - seconds)
    past = Past([], [], [], [], [], wall())
    names: set[str] = set()
    for folder in folders(config):
        try:
            with History(os.path.join(folder, NAME), on_event=_teller(past)) as history:
                history.take_spool()
                here = history.targets()
                names.update(here)
                past.runs.extend(history.runs(target or None, since, _RUNS))
                for name in [target] if target in here else [] if target else here:
                    past.series.extend(_series(history, name, since, config))
        except (SafeshError, OSError) as error:
            hint = getattr(error, "hint", "")
            past.troubles.append(f"{error}{f'; next: {hint}' if hint else ''}")
    past.runs.sort(key=lambda one: -one["started_at"])
    past.names.extend(sorted(names))
    return past


def folders(config: Config | None) -> list[str]:
    """The state folders with a history: of the project and of ad hoc runs; without a safe.toml, of all projects."""
    home = paths.state_home()
    if config is not None:
        projects = [config.project, targets.AD_HOC]
    else:
        try:
            projects = sorted(name for name in os.listdir(home) if not name.startswith("."))
        except OSError:
            projects = []
    every = [os.path.join(home, project) for project in dict.fromkeys(projects)]
    return [one for one in every if os.path.lexists(os.path.join(one, NAME)) or spool.is_waiting(one)]


def _teller(past: Past) -> Any:
    def tell(event: str, details: dict[str, Any]) -> None:
        moved = f"; what there was is kept as {details['moved_to']}" if details.get("moved_to") else ""
        told = past.repaired if event == "history_rebuilt" else past.troubles
        told.append(f"{details.get('path')}: {details.get('message')}{moved}")

    return tell


def _series(history: History, target: str, since: float, config: Config | None) -> list[Series]:
    limits = _limits(config, target)
    now = wall()  # without an end it would be tomorrow, and what is seen so coarse that a young run is one point
    found = []
    metrics = history.metrics(target)
    metrics.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    last = history.runs(target, since, 1)
    for metric in metrics:
        points = history.series(target, metric, since, now)
        # A restart makes a saw of a leak, so growth is looked for in the last run alone.
        begin = 0.0
        if last and points:
            ended = last[0]["ended_at"] or 0.0
            begin = ended if points[-1].at > ended else last[0]["started_at"]
        trend = find_trend(
            points, metric, limit=limits.get(metric), recent=[point for point in points if point.at >= begin]
        )
        if trend is not None:
            found.append(Series(target, metric, points, trend))
    return found


def _limits(config: Config | None, target: str) -> dict[str, float]:
    spec = config.targets.get(target) if config is not None else None
    if spec is None:
        return {}
    limits = spec.limits
    return {
        "memory_bytes": limits.memory.most,
        "memory_mb": limits.memory.most / 1048576,
        "cpu_percent": limits.cpu.most,
        "processes": limits.processes.most,
    }


def run_rows(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a run."""
    return [
        {
            "Started": format_time(run["started_at"]),
            "Target": run["target"],
            "Took": "" if run["duration"] is None else format_duration(run["duration"]),
            "Ended": ending(run),
            "Restarts": run["restarts"],
            "Peak memory": "" if run["peak_memory_bytes"] is None else format_size(run["peak_memory_bytes"]),
            "CPU time": "" if run["cpu_seconds"] is None else format_duration(run["cpu_seconds"]),
            "Written": "" if run["write_bytes"] is None else format_size(run["write_bytes"]),
            "Project": run["project"],
        }
        for run in runs
    ]


def ending(run: dict[str, Any]) -> str:
    if run["cause"]:
        return str(run["cause"])
    if run["signal"]:
        return f"ended by {run['signal']}"
    return "" if run["exit_code"] is None else f"exit status {run['exit_code']}"


def trend_rows(series: Iterable[Series]) -> list[dict[str, Any]]:
    """A row a metric: its peaks, and the prediction where one can be made."""
    return [
        {
            "Target": one.target,
            "Metric": label(one.metric),
            "Average": show(one.metric, one.trend.average),
            "95 %": show(one.metric, one.trend.p95),
            "Peak": show(one.metric, one.trend.maximum),
            "Samples": one.trend.samples,
            "Curve": [point.average for point in one.points[-200:]],
            "Prediction": describe(one.trend),
        }
        for one in series
    ]


def peaks(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point a run: when it ended, and the most memory that it held (MiB)."""
    return [
        {"at": run["ended_at"] or run["started_at"], "target": run["target"], "mb": run["peak_memory_bytes"] / 1048576}
        for run in runs
        if run["peak_memory_bytes"]
    ]


def as_csv(runs: Iterable[dict[str, Any]]) -> str:
    """All fields of the runs, a header first. What a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, RUN_FIELDS, lineterminator="\n")  # as `history --csv`
    writer.writeheader()
    for run in runs:
        writer.writerow({key: _cell(value) for key, value in run.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
