"""``top``: every instance's tree with what it uses now; on a terminal live, elsewhere one table or JSON.

The JSON document is ``{"v": 1, "at", "system", "instances": [...]}``; :func:`plain_data` is its schema.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from safesh import wire
from safesh.cli import render, status, targets
from safesh.clock import LONGEST_WAIT, format_duration, format_size, monotonic, wall
from safesh.errors import ConfigError, UsageError
from safesh.instance import view as views
from safesh.metrics.model import MIB, ProcessUsage, SystemSnapshot, TreeUsage
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.system import Rate
from safesh.metrics.table import MARKS, IoRates, Line, Sort, arrange, grow, level
from safesh.paths import state_home

if TYPE_CHECKING:
    from safesh.cli.targets import Chosen
    from safesh.config import Config
    from safesh.instance.view import InstanceView
    from safesh.model import Member

    Rates = dict[tuple[int, int], tuple[float, float]]

SHORTEST = 0.1  # seconds
_INTERVAL = 2.0
_STRAYS_EVERY = 10.0  # seconds: to find them, every process's environment is read
SORT_NAMES: dict[str, Sort] = {"c": "cpu", "m": "memory", "t": "time", "p": "pid", "n": "name"}


def run(args: dict[str, Any]) -> int:
    """Show; 0, also when q, Ctrl-C or the end of a run ended it, 128+N when signal N did."""
    interval = args["interval"]
    if interval is not None and interval < SHORTEST:
        raise UsageError(
            f"{format_duration(interval)} is too short to measure in",
            place="--interval",
            hint=f"use {SHORTEST}s or more",
        )
    look = Look(args)
    on_terminal = render.wants_cursor(sys.stdout) and sys.stdin is not None and sys.stdin.isatty()
    if on_terminal and not args["once"] and not args["json"]:
        from safesh.cli import top_view

        return top_view.run(look, interval or _INTERVAL, args)
    picture = look.look()
    if interval is not None:
        time.sleep(min(interval, LONGEST_WAIT))
        picture = look.look()
    render.say(wire.dumps(plain_data(picture), indent=2) if args["json"] else page(picture))
    return 0


class Seen:
    """One instance at one moment. word, look: its state, and how that is styled; strays: processes that nobody holds,
    listed in ``members`` too; io: bytes a second of the whole tree, None where not known (yet)."""

    def __init__(self, chosen: Chosen, report: status.Report) -> None:
        self.chosen = chosen
        self.report = report
        self.name: str = report.target if report.code == 0 and report.target else report.subject.name
        self.word, self.look = status.state_of(report)
        self.usage = TreeUsage()
        self.members: list[ProcessUsage] = []
        self.strays: set[tuple[int, int]] = set()
        self.io: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        return self.chosen.paths.record

    @property
    def record(self) -> dict[str, Any]:
        return self.report.view.record or {}

    @property
    def main(self) -> tuple[int, int] | None:
        """(pid, start) of its main process."""
        main = self.record.get("main")
        return (main["pid"], main["start"]) if main and self.report.view.main_alive else None

    @property
    def uptime(self) -> float | None:
        main = self.main
        found = next((one for one in self.members if (one.pid, one.start) == main), None)
        return found.runtime_seconds if found is not None else None

    @property
    def command(self) -> str:
        """What it is, in a line: its state and its processes."""
        count = render.plural(len(self.members), "process")
        strays = f", {render.plural(len(self.strays), 'stray')}" if self.strays else ""
        restarts = self.record.get("restarts")
        again = f", {render.plural(restarts, 'restart')}" if restarts else ""
        return f"{self.word}, {count}{strays}{again}" if self.members or again else self.word


class Picture:
    """Everything at one moment. trouble: why safe.toml's last sense is shown, "" where it is today's."""

    def __init__(self, system: SystemSnapshot, seen: list[Seen], rates: Rates, trouble: str) -> None:
        self.at = wall()
        self.system = system
        self.seen = seen
        self.rates = rates
        self.trouble = trouble


class Look:
    """Looks at the instances again and again, at the price of their trees."""

    def __init__(self, args: dict[str, Any]) -> None:
        """ConfigError when safe.toml is wrong now, UsageError for a name that nobody knows."""
        self.args = args
        self._name: str | None = args["target"]
        self._config: Config | None = targets.open_config(args)
        self._choose()
        home = state_home()
        while not os.path.isdir(home):
            home = os.path.dirname(home)
        self._monitor = ResourceMonitor(disk_path=home, gpu=False)
        self._io = IoRates()
        self._trees: dict[str, tuple[str, Rate]] = {}
        self._strays: dict[str, list[Member]] = {}
        self._strays_due = 0.0

    def _choose(self) -> list[Chosen]:
        return targets.choose(self._config, [self._name] if self._name else [])

    def look(self) -> Picture:
        """Now; rates are those since the look before, None in the first."""
        trouble = ""
        try:
            self._config = targets.open_config(self.args)
        except (ConfigError, UsageError) as error:
            trouble = str(error)
        try:
            found = self._choose()
        except UsageError as error:  # it was there before: safe.toml has lost it meanwhile
            found, trouble = [], str(error)
        search = monotonic() >= self._strays_due
        if search:
            self._strays_due = monotonic() + _STRAYS_EVERY
        seen = [self._look_at(one, search) for one in found]
        rates = self._io.count(member for one in seen for member in one.members)
        return Picture(self._monitor.get_resource_snapshot(), seen, rates, trouble)

    def forget_strays(self) -> None:
        """Have the next look search for them."""
        self._strays_due = 0.0

    def _look_at(self, one: Chosen, search: bool) -> Seen:
        view = views.look(one.paths, one.specs, tree=False, strays=search)
        key = one.paths.record
        if search:
            self._strays[key] = view.strays
        elif not (view.supervisor_alive or view.keeper_alive):
            view.strays = self._strays.get(key, [])
        # Where only one target can run in an instance, people know it by the target's name.
        name = self._name or (one.specs[0].name if len(one.specs) == 1 else one.name)
        members = self._look_at_strays(view)
        subject = status.Subject(name, one.paths, one.specs, asked=self._name is not None)
        seen = Seen(one, status.Report(subject, view, wall()))
        seen.strays = {(usage.pid, usage.start) for usage in members}
        held = view.record is not None and (view.supervisor_alive or view.keeper_alive)
        if held and view.record is not None and not seen.report.other:
            seen.usage = self._monitor.get_tree_resources(view.record, members=True)
            seen.io = self._count(key, seen.usage)
        seen.members = [*seen.usage.members, *members]
        if members:
            _add(seen.usage, members)
        return seen

    def _look_at_strays(self, view: InstanceView) -> list[ProcessUsage]:
        """Those that are still there; what they add up to decides the state."""
        found = []
        for member in view.strays:
            usage = self._monitor.get_process_resources(member.pid)
            if usage is not None and usage.start == member.start and usage.state not in "ZX":
                found.append(usage)
        if not found:
            view.strays = []
        elif view.code in (1, 3):
            view.code = 2
        return found

    def _count(self, key: str, usage: TreeUsage) -> tuple[float, float] | None:
        if usage.read_bytes is None or usage.write_bytes is None:
            return None
        run_id, rate = self._trees.get(key, ("", None))
        if rate is None or run_id != usage.run_id:
            rate = Rate()
            self._trees[key] = (usage.run_id, rate)
        told = rate.count(monotonic(), usage.read_bytes, usage.write_bytes)
        return None if told is None else (told[0], told[1])


def _add(usage: TreeUsage, strays: list[ProcessUsage]) -> None:
    """Strays belong to no run; what they use counts where they are shown."""
    usage.processes += len(strays)
    usage.threads += sum(one.num_threads for one in strays)
    usage.memory_mb += sum(one.memory_mb for one in strays)
    known = [one.cpu_percent for one in strays if one.cpu_percent is not None]
    if known:
        usage.cpu_percent = (usage.cpu_percent or 0.0) + sum(known)


# --- one table, and JSON ---------------------------------------------------------------------------


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{format_size(value)}/s"


def branch(line: Line) -> str:
    """What is drawn before a process: its place in the tree, at most ten levels of it."""
    fork, corner, bar = (render.glyph(*pair) for pair in (("├─ ", "|- "), ("└─ ", "`- "), ("│  ", "|  ")))
    if not line.path:
        return ""
    levels = line.path[-10:]
    return "".join("   " if last else bar for last in levels[:-1]) + (corner if levels[-1] else fork)


def page(picture: Picture) -> str:
    """One line for an instance, then one for each of its processes; each names its instance, for grep."""
    if not picture.seen:
        return nothing_here()
    rows = []
    for seen in picture.seen:
        usage = seen.usage
        io = seen.io or (None, None)
        rows.append([
            seen.name, "-", percent(usage.cpu_percent), format_size(usage.memory_mb * MIB), rate(io[0]), rate(io[1]),
            "-", str(usage.threads), "-" if seen.uptime is None else format_duration(seen.uptime), seen.command,
        ])  # fmt: skip
        for line in arrange(grow(seen.members), "cpu"):
            one = line.node.usage
            told = picture.rates.get((one.pid, one.start), (None, None))
            mark = MARKS[level(one.cpu_percent)]
            stray = "(stray) " if (one.pid, one.start) in seen.strays else ""
            rows.append([
                seen.name, str(one.pid), percent(one.cpu_percent) + mark, format_size(one.memory_mb * MIB),
                rate(told[0]), rate(told[1]), one.state or "?", str(one.num_threads),
                format_duration(one.runtime_seconds), branch(line) + stray + one.command,
            ])  # fmt: skip
    headers = ["INSTANCE", "PID", "CPU%", "MEMORY", "READ", "WRITE", "S", "THR", "RUNTIME", "COMMAND"]
    text = render.table(rows, headers, right=(1, 2, 3, 4, 5, 7, 8))
    return text + (f"\n{render.style(render.clean(picture.trouble), 'warn')}" if picture.trouble else "")


def nothing_here() -> str:
    step = render.as_typed("safesh start NAME -- CMD ARGS…")
    return f"no safe.toml here or above, and no ad hoc run\n  {render.glyph('→', '->')} {step}"


def plain_data(picture: Picture) -> dict[str, Any]:
    """What ``--json`` prints: times in wall seconds, units as in ``metrics.model``."""
    return {
        "v": 1,
        "at": round(picture.at, 3),
        "system": picture.system.to_dict(),
        "instances": [_plain(seen, picture.rates) for seen in picture.seen],
        "problem": picture.trouble or None,
    }


def _plain(seen: Seen, rates: Rates) -> dict[str, Any]:
    total = seen.usage.to_dict()
    del total["members"], total["at"]
    run_id = total.pop("run_id")
    total["read_bytes_s"], total["write_bytes_s"] = seen.io or (None, None)
    members = []
    for one in seen.members:
        key = (one.pid, one.start)
        told = rates.get(key, (None, None))
        members.append(
            {**one.to_dict(), "read_bytes_s": told[0], "write_bytes_s": told[1], "stray": key in seen.strays}
        )  # fmt: skip
    main = seen.main
    return {
        "name": seen.name,
        "instance": seen.chosen.paths.instance,
        "project": os.path.basename(seen.chosen.paths.folder),
        "target": seen.report.target or None,
        "code": seen.report.code,
        "state": seen.word,
        "run_id": run_id or None,
        "pid": main[0] if main else None,
        "uptime_seconds": seen.uptime,
        "restarts": seen.record.get("restarts"),
        "total": total,
        "processes": members,
    }
