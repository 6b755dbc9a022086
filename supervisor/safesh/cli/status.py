"""``status``: what runs, who holds it, its whole process tree, and what strays.

The JSON document is ``{"v": 1, "instances": [...]}``; :func:`_plain` is its schema. CPU is each process's average
over its life; between two looks of ``--watch`` it is the share since the look before.
"""

from __future__ import annotations

import os

from safesh import wire
from safesh.cli import render
from safesh.clock import format_duration, format_size, format_time, wall
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.instance.view import InstanceView
    from safesh.model import Member, TargetSpec
    from safesh.paths import InstancePaths

    Percents = dict[tuple[int, int], float]

_WORST_FIRST = (4, 2, 1, 3)
_MEANING = {0: "running", 1: "dead, pid file left", 2: "dead, lock left", 3: "not running", 4: "unknown"}
_SHORTEST_INTERVAL = 0.1


def run(args: dict[str, Any]) -> int:
    """Show the instances asked for; the LSB status code (one target), or the worst of several."""
    if args["watch"]:
        from safesh.cli import watch

        if args["interval"] < _SHORTEST_INTERVAL:
            raise UsageError(
                f"{format_duration(args['interval'])} is too short to measure in",
                place="--interval",
                hint=f"use {_SHORTEST_INTERVAL}s or more",
            )
        return watch.run(args)
    reports = look_at(args)
    if args["json"]:
        render.say(document(reports))
    else:
        render.say(page(reports))
    return exit_code(reports)


class Subject:
    """An instance to look at. name: the target asked for, or the instance; asked: named on the command line."""

    def __init__(self, name: str, paths: InstancePaths, specs: list[TargetSpec], *, asked: bool = False) -> None:
        self.name = name
        self.paths = paths
        self.specs = specs
        self.asked = asked


class Report:
    """A subject and what one look showed."""

    def __init__(self, subject: Subject, view: InstanceView, at: float) -> None:
        self.subject = subject
        self.view = view
        self.at = at
        record = view.record or {}
        holder = view.holder if view.lock == "held" else None
        self.target: str = str(record.get("target") or (holder or {}).get("target") or "")
        # Another target holds the instance that the one asked for would need.
        named = subject.asked and any(spec.name == subject.name for spec in subject.specs)
        self.other = self.target if named and view.code == 0 and self.target not in ("", subject.name) else ""
        self.code: int = 3 if self.other else view.code
        self.drift: list[str] = []

    @property
    def spec(self) -> TargetSpec | None:
        """The target's row in safe.toml: of the one asked for, else of the one that runs, else the only one."""
        specs = self.subject.specs
        for wanted in (self.subject.name, self.target):
            for spec in specs:
                if spec.name == wanted:
                    return spec
        return specs[0] if len(specs) == 1 else None


def look_at(args: dict[str, Any]) -> list[Report]:
    """A report for every instance that the line asks for.

    UsageError for a name that neither safe.toml nor the state folder knows, with the closest one there is.
    """
    from safesh.cli import targets

    config = targets.open_config(args)
    if not args["targets"]:
        # Where only one target can run in an instance, people know it by the target's name.
        subjects = [
            Subject(one.specs[0].name if len(one.specs) == 1 else one.name, one.paths, one.specs)
            for one in targets.list_instances(config)
        ]
    else:
        subjects = []
        for name in dict.fromkeys(args["targets"]):
            one = targets.choose(config, [name])[0]
            subjects.append(Subject(name, one.paths, one.specs, asked=True))
    reports = [Report(subject, _look(subject), wall()) for subject in subjects]
    for report in reports:
        if report.code == 0 and report.view.record is not None:
            from safesh.cli import drift

            report.drift = drift.find(report.view.record, config)
    return reports


def _look(subject: Subject) -> InstanceView:
    from safesh.instance import view

    return view.look(subject.paths, subject.specs)


def exit_code(reports: list[Report]) -> int:
    """One: its own code. Several: 0 if all run, else the worst. Nothing at all: 3.

    Ad hoc runs that ended in order promise nothing, so beside others they do not count.
    """
    codes = [one.code for one in reports if one.subject.specs or one.subject.asked or one.code != 3]
    codes = codes or [one.code for one in reports] or [3]
    return next((code for code in _WORST_FIRST if code in codes), 0)


def page(reports: list[Report], cpu: Percents | None = None, width: int = -1) -> str:
    """All blocks for people. width: of the terminal, 0 for no limit, -1 to ask it."""
    if not reports:
        return f"no safe.toml here or above, and no ad hoc run\n  {_arrow('safesh start NAME -- CMD ARGS…')}"
    width = render.window()[0] if width < 0 else width
    return "\n\n".join(block(report, cpu or {}, width) for report in reports)


def block(report: Report, cpu: Percents, width: int) -> str:
    """One instance for people: a headline, facts, tree, strays, problems. width: of the terminal, 0 if none."""
    view, record = report.view, report.view.record or {}
    lines = [_headline(report, width)]

    def fact(label: str, text: str, look: str = "") -> None:
        text = render.clean(text)
        if width:
            text = render.cut(text, max(width - 13, 10))
        lines.append(f"  {render.style(label.ljust(9), 'dim')}  {render.style(text, look) if look else text}")

    spec = report.spec
    if view.lock != "free" or report.code:
        fact("lock", _lock(report))
    message = record.get("message")
    if message and not report.other:
        fact("note", message)
    if view.code == 0 and not report.other and (record.get("health") or record.get("notify")):
        fact("health", *_health(record, report.at))
    if view.code == 0 and not report.other and record.get("sample"):
        fact("sampled", _sampled(record["sample"], report.at))
    shown = record.get("command") if view.code == 0 and not report.other else spec.command if spec else None
    if shown:
        fact("command", " ".join(shown))
    fact("config", _config(report) or "none (ad hoc)")
    if report.drift:
        told = report.drift[0] if " " in report.drift[0] else f"changed since it started: {', '.join(report.drift)}"
        step = f" (safe.sh restart {report.target} applies it)" if " " not in report.drift[0] else ""
        fact("drift", render.as_typed(told + step), "warn")
    log = report.subject.paths.log(spec.name) if spec else record.get("log")
    if log:
        fact("log", log + _lost(record))
    if record.get("last_exit") and not report.other:
        fact("last exit", _last_exit(record["last_exit"], report.at, record.get("ended_by") or ""))
    if view.tree and not report.other:
        lines.append(render.members(view.tree, tree=True, cpu=cpu, indent=2, width=width, now=report.at))
        lines.append(_total(view.tree, cpu, report.at, width))
    if view.strays:
        title = f"{render.plural(len(view.strays), 'stray')} that no supervisor holds"
        lines.append("  " + render.style(title, "warn"))
        lines.append(render.members(view.strays, tree=True, cpu=cpu, indent=2, width=width, now=report.at))
    for problem in view.problems:
        lines.append("  " + render.style(f"problem: {render.clean(render.as_typed(problem))}", "bad"))
    step = _next_step(report)
    if step:
        lines.append("  " + _arrow(step))
    return "\n".join(lines)


def _config(report: Report) -> str:
    """The file its targets come from; "" for ad hoc runs."""
    if report.subject.specs:
        return report.subject.specs[0].config
    return (report.view.record or {}).get("config") or ""


def _headline(report: Report, width: int) -> str:
    word, look = state_of(report)
    view, record = report.view, report.view.record or {}
    facts = []
    if view.code == 0 and not report.other:
        main = record.get("main")
        if view.main_alive and main:
            facts.append(f"pid {main['pid']}")
            facts.append(f"up {format_duration(_uptime(report))}")
        restarts = record.get("restarts", 0)
        if restarts:
            facts.append(render.plural(restarts, "restart"))
        next_start = record.get("next_start_at")
        if record.get("state") == "backoff" and next_start is not None:
            facts.append(f"starts in {format_duration(next_start - report.at)}")
    name = report.subject.name
    if report.target and not report.subject.asked and report.code == 0:
        name = report.target
    name = render.clean(name)
    if report.subject.paths.instance not in (name, report.subject.name) or (
        name != report.subject.name and len(report.subject.specs) > 1
    ):
        facts.append(f"instance {report.subject.paths.instance}")
    if len(report.subject.specs) > 1 and report.spec is None:
        facts.append("targets " + ", ".join(spec.name for spec in report.subject.specs))
    plain = "  ".join([name, word, *facts])
    if width and render.width_of(plain) > width:
        return render.cut(plain, width)
    return "  ".join([render.style(name, "name"), render.style(word, look), *facts])


def state_of(report: Report) -> tuple[str, str]:
    """(the state in words, its style)."""
    view, code = report.view, report.code
    state = (view.record or {}).get("state", "")
    if report.other:
        return f"not running ({render.clean(report.other)} has the instance)", "warn"
    if code == 0:
        state = state or "starting"
        if view.supervisor_alive and not view.keeper_alive and state == "running" and not view.main_alive:
            return "running, its process is gone", "warn"
        return state, "good" if state == "running" else "warn"
    if code == 2 and view.keeper_alive:
        return "ending: the supervisor is gone, the keeper ends the tree", "warn"
    if code == 2 and view.lock != "held" and view.strays:
        return "dead, strays left", "bad"
    if code == 2 and view.lock == "held":
        return "lock held by nobody we know", "bad"
    if code == 3 and state in ("finished", "failed"):
        return f"not running, {state}", "bad" if state == "failed" else "dim"
    return _MEANING.get(code, "unknown"), "dim" if code == 3 else "bad"


def _lock(report: Report) -> str:
    view = report.view
    if view.lock != "held":
        return view.lock
    holder = view.holder or {}
    text = f"held by pid {holder['pid']}" if isinstance(holder.get("pid"), int) else "held"
    since = holder.get("since")
    if isinstance(since, (int, float)):
        text += f" for {format_duration(report.at - since)}"
    return f"{text} ({holder['target']})" if report.other and isinstance(holder.get("target"), str) else text


def _uptime(report: Report) -> float:
    """Seconds the main process has lived, by the kernel's word where we have it: wall clocks may be set back."""
    record = report.view.record or {}
    main = record.get("main") or {}
    for member in report.view.tree:
        if member.pid == main.get("pid") and member.start == main.get("start"):
            return render.age_of(member, report.at)
    started = record.get("started_at")
    return max(0.0, report.at - started) if isinstance(started, (int, float)) else 0.0


def _last_exit(info: dict[str, Any], at: float, ended_by: str = "") -> str:
    """ended_by: why the supervisor ended that run by itself; how its process took it comes second then."""
    code, signal = info.get("code", -1), info.get("signal") or ""
    text = str(info.get("cause") or (f"ended by {signal}" if signal else f"exit status {code}"))
    if info.get("core"):
        text += ", core dumped" if "core" not in text else ""
    if ended_by and text != f"ended: {ended_by}":
        text = f"ended: {ended_by} ({text})"
    when = info.get("at")
    if isinstance(when, (int, float)) and when > 0:
        text += f", {format_duration(at - when)} ago ({format_time(when)})"
    return text


def _health(record: dict[str, Any], at: float) -> tuple[str, str]:
    """(what its checks and it itself say, the style)."""
    health, said = record.get("health") or {}, (record.get("notify") or {}).get("status", "")
    parts = []
    status = health.get("status", "")
    if status:
        parts.append(status)
        if health.get("failures"):
            parts.append(render.plural(health["failures"], "failure") + " in a row")
        if health.get("message"):
            parts.append(str(health["message"]))
        if health.get("checked_at"):
            parts.append(f"{format_duration(at - health['checked_at'])} ago")
    if said:
        parts.append(f'it says "{said}"')
    return ", ".join(parts), {"healthy": "good", "unhealthy": "bad"}.get(status, "")


def _sampled(sample: dict[str, Any], at: float) -> str:
    """The last sample of ``sample = …``: of the whole tree, what it shares counted once."""
    parts = []
    if sample.get("cpu_percent") is not None:
        parts.append(f"{sample['cpu_percent']:.1f}% CPU")
    if sample.get("memory_bytes") is not None:
        parts.append(format_size(sample["memory_bytes"]))
    if sample.get("processes") is not None:
        parts.append(render.plural(int(sample["processes"]), "process"))
    if sample.get("at") is not None:
        parts.append(f"{format_duration(max(0.0, at - sample['at']))} ago")
    return ", ".join(parts)


def _lost(record: dict[str, Any]) -> str:
    lost = record.get("log_lost_bytes", 0)
    return f"  ({format_size(lost)} could not be written)" if lost else ""


def _percent(member: Member, cpu: Percents, now: float) -> float:
    return cpu.get((member.pid, member.start), render.lifetime_cpu(member, now))


def _total(tree: list[Member], cpu: Percents, now: float, width: int) -> str:
    percent = sum(_percent(member, cpu, now) for member in tree)
    memory = sum(member.memory_bytes for member in tree)
    text = f"  total: {render.plural(len(tree), 'process')}, {percent:.1f}% CPU, {format_size(memory)}"
    return render.style(render.cut(text, width) if width else text, "head")


def _next_step(report: Report) -> str:
    name, view = report.subject.name, report.view
    if report.other:
        return f"safesh start {name} --replace   or   safesh stop {report.other}"
    if report.code == 2 and view.strays:
        return f"safesh stop {name}"
    if report.code in (1, 3) and report.subject.specs:
        return f"safesh start {(report.spec or report.subject.specs[0]).name}"
    if report.code == 0 and view.strays:
        return f"safesh stop {name}"
    return ""


def _arrow(text: str) -> str:
    return render.style(f"{render.glyph('→', '->')} {render.clean(render.as_typed(text))}", "hint")


def document(reports: list[Report], cpu: Percents | None = None, indent: int = 1) -> str:
    """The JSON document, version 1."""
    return wire.dumps({"v": 1, "instances": [_plain(report, cpu or {}) for report in reports]}, indent)


def _plain(report: Report, cpu: Percents) -> dict[str, Any]:
    """One instance as plain data: seconds, bytes, percent of one processor; null where nobody knows."""
    view, record, spec = report.view, report.view.record or {}, report.spec
    running = view.code == 0 and not report.other
    return {
        "name": report.subject.name,
        "instance": report.subject.paths.instance,
        "project": os.path.basename(report.subject.paths.folder),
        "targets": [one.name for one in report.subject.specs],
        "target": report.target or None,
        "code": report.code,
        "status": _MEANING.get(report.code, "unknown"),
        "state": record.get("state"),
        "lock": view.lock,
        "holder": view.holder,
        "supervisor_alive": view.supervisor_alive,
        "keeper_alive": view.keeper_alive,
        "main_alive": view.main_alive,
        "pid": record["main"]["pid"] if running and view.main_alive and record.get("main") else None,
        "uptime_seconds": _uptime(report) if running and view.main_alive else None,
        "restarts": record.get("restarts"),
        "last_exit": record.get("last_exit"),
        "ended_by": record.get("ended_by") or None,
        "message": record.get("message"),
        "health": record.get("health"),
        "sample": record.get("sample") if running else None,
        "usage": record.get("usage"),
        "drift": report.drift,
        "config": _config(report) or None,
        "log": report.subject.paths.log(spec.name) if spec else record.get("log"),
        "tree": [_member(member, cpu, report.at) for member in view.tree],
        "total": {
            "processes": len(view.tree),
            "cpu_percent": round(sum(_percent(member, cpu, report.at) for member in view.tree), 2),
            "memory_bytes": sum(member.memory_bytes for member in view.tree),
        },
        "strays": [_member(member, cpu, report.at) for member in view.strays],
        "problems": [render.as_typed(problem) for problem in view.problems],
        "record": view.record,
    }


def _member(member: Member, cpu: Percents, now: float) -> dict[str, Any]:
    age = render.age_of(member, now)
    percent = _percent(member, cpu, now)
    return {**member.to_dict(), "age_seconds": round(age, 3), "cpu_percent": round(percent, 2)}
