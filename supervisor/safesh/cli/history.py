"""``history``: past runs, what they used, and where it leads.

The JSON document is ``{"v": 1, "at", "since", "target", "runs": [...], "trends": [...]}``: times in wall seconds,
runs as ``RUN_FIELDS``, trends as ``trends.Trend`` with their target.
"""

from __future__ import annotations

import os
import sys

from safesh import paths, wire
from safesh.cli import render
from safesh.cli.targets import AD_HOC, open_config
from safesh.clock import format_duration, format_size, format_time, wall
from safesh.errors import SafeshError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config
    from safesh.metrics.history import History
    from safesh.metrics.plot import Curve
    from safesh.metrics.rollup import Point
    from safesh.metrics.trends import Trend

_FIRST = ("memory_bytes", "memory_mb", "cpu_percent", "processes")  # in this order, then the others by name
_PEAKS = "peak_memory_bytes"  # the series of a target's runs: one point a run
_WIDEST = 100
_SPARK = 32


class NoSqlite(SafeshError):
    """This Python was built without SQLite (EX_UNAVAILABLE)."""

    exit_code = 69


class Series:
    """One metric of one target, and what it says."""

    def __init__(self, target: str, metric: str, points: list[Point], trend: Trend) -> None:
        self.target = target
        self.metric = metric
        self.points = points
        self.trend = trend


def run(args: dict[str, Any]) -> int:
    """Show what is kept. args: target, since (seconds back), lines (0: all), json, csv, plot (a path or None); 0."""
    if args["json"] and args["csv"]:
        raise UsageError("one of them, please", place="--json --csv", hint="safe.sh history --json")
    config = open_config(args)
    now = wall()
    since = max(0.0, now - args["since"])
    runs: list[dict[str, Any]] = []
    series: list[Series] = []
    names: set[str] = set()
    for folder in _folders(config):
        with _open(folder) as history:
            names.update(history.targets())
            runs += history.runs(args["target"], since, args["lines"])
            if not args["csv"]:
                for target in [args["target"]] if args["target"] else history.targets():
                    series += _look(history, target, since, now, config)
    _check_name(args["target"], names, config)
    runs.sort(key=lambda one: -one["started_at"])
    runs = runs[: args["lines"] or None]
    if args["plot"]:
        _draw(args["plot"], series)
    if args["json"]:
        render.say(_document(args["target"], runs, series, since, now))
    elif args["csv"]:
        render.say(_csv(runs))
    elif not runs and not series:
        render.say(_nothing(args["target"], bool(names), args["since"]))
    elif args["plot"]:
        render.say(f"wrote {render.clean(args['plot'])}")
    else:
        render.say(_page(runs, series, one=bool(args["target"])))
    return 0


def _folders(config: Config | None) -> list[str]:
    """The state folders with a history: of the project and of ad hoc runs; without a safe.toml, of all projects."""
    home = paths.state_home()
    if config is not None:
        projects = [config.project, AD_HOC]
    else:
        try:
            projects = sorted(name for name in os.listdir(home) if os.path.isdir(os.path.join(home, name)))
        except OSError:
            projects = []
    from safesh.metrics import spool

    found = []
    for project in dict.fromkeys(projects):
        folder = os.path.join(home, project)
        if os.path.lexists(os.path.join(folder, "history.db")) or spool.is_waiting(folder):
            found.append(paths.project_dir(project))  # which checks that it is ours
    return found


def _open(folder: str) -> History:
    try:
        from safesh.metrics.history import NAME, History
    except ImportError as error:
        if (error.name or "").startswith(("sqlite3", "_sqlite3")):
            raise NoSqlite("this Python has no SQLite", place=sys.executable, hint="use one that has") from None
        raise

    def tell(event: str, details: dict[str, Any]) -> None:
        if event == "history_rebuilt":
            from safesh.supervise.events import EventLog

            EventLog(os.path.join(folder, "events.jsonl"), "").write(event, "", "", **details)
        moved = f" ({details['moved_to']})" if "moved_to" in details else ""
        _say_aside(f"{details['path']}: {details['message']}{moved}")

    history = History(os.path.join(folder, NAME), on_event=tell)
    try:
        history.take_spool()
    except StateError as error:  # what is in the database can be shown all the same
        _say_aside(f"{error}")
    return history


def _check_name(name: str | None, known: set[str], config: Config | None) -> None:
    if name is None or name in known or (config is not None and name in config.targets):
        return
    if config is not None:
        from safesh import config as configs

        configs.resolve(config, name)  # raises, with the closest name
    raise UsageError(f"nothing named {name!r} has a history here", hint="see what there is: safe.sh history")


def _look(history: History, target: str, since: float, now: float, config: Config | None) -> list[Series]:
    """Every series of a target in that time, with its trend."""
    from safesh.metrics.rollup import Point
    from safesh.metrics.trends import find_trend

    limits = _limits(config, target)
    runs = history.runs(target, since, limit=1000)
    found = []
    metrics = history.metrics(target)
    metrics.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    for metric in metrics:
        points = history.series(target, metric, since, now)
        life = _last_life(runs, points)
        recent = history.series(target, metric, life, now) if life > since else None
        trend = find_trend(points, metric, limit=limits.get(metric), recent=recent)
        if trend is not None:
            found.append(Series(target, metric, points, trend))
    peaks = [
        Point(one["ended_at"] or one["started_at"], one[_PEAKS], one[_PEAKS]) for one in reversed(runs) if one[_PEAKS]
    ]
    trend = find_trend(peaks, _PEAKS, limit=limits.get("memory_bytes"))
    if trend is not None:
        found.append(Series(target, _PEAKS, peaks, trend))
    return found


def _limits(config: Config | None, target: str) -> dict[str, float]:
    spec = config.targets.get(target) if config is not None else None
    if spec is None:
        return {}
    limits = spec.limits
    memory = limits.memory.most
    return {
        "memory_bytes": memory,
        "memory_mb": memory / 1048576,
        "cpu_percent": limits.cpu.most,
        "processes": limits.processes.most,
    }


def _last_life(runs: list[dict[str, Any]], points: list[Point]) -> float:
    """When the run began that the newest samples are of: the one under way is not among ``runs`` yet."""
    if not runs or not points:
        return 0.0
    ended = runs[0]["ended_at"] or 0.0
    return float(ended if points[-1].at > ended else runs[0]["started_at"])


# -- for people ------------------------------------------------------------------------------------


def _page(runs: list[dict[str, Any]], series: list[Series], *, one: bool) -> str:
    blocks = []
    if runs:
        several = len({run["target"] for run in runs}) > 1
        rows = []
        for run in runs:
            row = [format_time(run["started_at"]), *([run["target"]] if several else [])]
            row += [_told(run["duration"], format_duration), _told(run["peak_memory_bytes"], format_size)]
            row += [_told(run["cpu_seconds"], format_duration), _ending(run)]
            rows.append(row)
        headers = ["STARTED", *(["TARGET"] if several else []), "TOOK", "PEAK", "CPU", "ENDED"]
        first = 1 + several
        blocks.append(render.table(rows, headers, right=(first, first + 1, first + 2)))
    if series:
        blocks.append(_trends(series))
        if one:
            blocks += _charts(series)
    return "\n\n".join(blocks)


def _trends(series: list[Series]) -> str:
    from safesh.metrics import plot, trends

    several = len({one.target for one in series}) > 1
    plain = not render.glyph("▁", "")
    rows, said = [], []
    for one in series:
        trend, name = one.trend, trends.label(one.metric) + (" of a run" if one.metric == _PEAKS else "")
        if several and trend.slope is None and one.metric not in (*_FIRST[:3], _PEAKS):
            continue  # one target's page tells them all
        values = [point.maximum for point in one.points]
        rows.append(
            [
                *([one.target] if several else []),
                name,
                trends.show(one.metric, trend.average),
                trends.show(one.metric, trend.p95),
                trends.show(one.metric, trend.maximum),
                str(trend.samples),
                plot.sparkline(values, _SPARK, plain=plain),
            ]
        )
        if trend.slope is not None:
            text = (f"{one.target}: " if several else "") + trends.describe(trend)
            said.append("  " + render.style(render.clean(text), "bad" if trend.hours_left is not None else "warn"))
    headers = [*(["TARGET"] if several else []), "METRIC", "AVERAGE", "P95", "MAXIMUM", "SAMPLES", ""]
    first = 1 + several
    table = render.table(rows, headers, right=(first, first + 1, first + 2, first + 3))
    return "\n".join([table, *said])


def _charts(series: list[Series]) -> list[str]:
    from safesh.metrics import plot

    plain = not render.glyph("⣿", "")
    width = min(render.window()[0] or 80, _WIDEST)
    return ["\n".join(plot.chart(_curve(one), width, plain=plain)) for one in series if one.metric in _FIRST[:3]]


def _curve(one: Series, target: str = "") -> Curve:
    from safesh.metrics import plot, trends

    metric = one.metric
    title = f"{target}  {trends.label(metric)}" if target else trends.label(metric)
    return plot.Curve(title, one.points, lambda value: trends.show(metric, value), one.trend.limit)


def _told(value: Any, show: Any) -> str:
    return "-" if value is None else str(show(value))


def _ending(run: dict[str, Any]) -> str:
    if run["cause"]:
        return str(run["cause"])
    if run["signal"]:
        return f"ended by {run['signal']}"
    return "-" if run["exit_code"] is None else f"exit status {run['exit_code']}"


def _nothing(target: str | None, known: bool, back: float) -> str:
    whose = f" of {render.clean(target)}" if target else ""
    if known:
        return (
            f"no run{whose} in the last {format_duration(back)}; further back: {render.program()} history --since 90d"
        )
    return f"no history{whose} yet: a run is kept when it ends"


# -- for programs ----------------------------------------------------------------------------------


def _document(target: str | None, runs: list[dict[str, Any]], series: list[Series], since: float, now: float) -> str:
    """The JSON document, version 1."""
    from dataclasses import asdict

    trends = [{"target": one.target, **asdict(one.trend)} for one in series]
    return wire.dumps({"v": 1, "at": now, "since": since, "target": target, "runs": runs, "trends": trends}, 1)


def _csv(runs: list[dict[str, Any]]) -> str:
    """The runs, a header first; empty where nobody knows."""
    import csv
    import io

    from safesh.metrics.spool import RUN_FIELDS

    text = io.StringIO()
    writer = csv.DictWriter(text, RUN_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(runs)
    return text.getvalue().rstrip("\n")


def _draw(path: str, series: list[Series]) -> None:
    from safesh import vendor
    from safesh.metrics import plot

    vendor.add_site_packages()
    curves = [_curve(one, one.target) for one in series if one.metric in _FIRST]
    curves = curves or [_curve(one, one.target) for one in series]
    if not curves:
        return
    try:
        plot.write_png(path, curves)
    except OSError as error:
        raise StateError(f"cannot be written: {error.strerror}", place=path, hint="name another file") from None


def _say_aside(text: str) -> None:
    try:
        print(f"{render.program()}: {render.clean(text)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass
