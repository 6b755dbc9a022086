"""safe.toml's text to a Config: syntax, schema, defaults, and what only several keys together can get wrong.

Imported only where no cached result serves.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from typing import Any

from safesh import _schema, model, paths
from safesh.clock import format_duration, shown
from safesh.config import Config, display, project_of
from safesh.errors import ConfigError, UsageError

_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)$")


def build(text: str, path: str) -> Config:
    """The validated configuration of a file's text; ConfigError names the first problem in the file's order.

    path: the file's absolute name; relative paths in it start at its folder.
    """
    source = display(path)
    raw = parse_toml(text, source)
    if "targets" not in raw and not set(raw) - {"project", "defaults"}:
        raise ConfigError("no targets", place=source, hint='add one: [targets.NAME] with command = ["PROGRAM", "ARG"]')
    top = _schema.walk(raw, _schema.File, source + ": ")
    defaults = _schema.walk(top.get("defaults", {}), _schema.Target, f"{source}: defaults")
    tables = top["targets"]
    if not isinstance(tables, dict) or not tables:
        got = "none" if tables == {} else _schema.kind(tables)
        raise ConfigError(f"expected tables [targets.NAME], got {got}", place=f"{source}: targets")
    project = top.get("project") or project_of(path)
    targets: dict[str, model.TargetSpec] = {}
    for name, table in tables.items():
        place = f"{source}: targets.{_schema.bare(name)}"
        try:
            paths.check_name(name, "a target")
        except UsageError as error:
            raise ConfigError(error.message, place=place, hint=error.hint) from None
        values = _inherit(defaults, _schema.walk(table, _schema.Target, place))
        targets[name] = _target(name, values, project, path, place)
    _share_files(targets, source)
    check_dependencies(targets, source)
    return Config(path=path, project=project, targets=targets)


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """TOML's tables; ConfigError tells line and column, and ``source``."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        if found := _POSITION.search(message):
            message, line, column = message[: found.start()].rstrip(), int(found[1]), int(found[2])
        else:  # "(at end of document)"
            message = message.replace(" (at end of document)", " at the end of the file")
            line = text.count("\n") + (not text.endswith("\n"))
            column = len(text.rstrip("\n").rpartition("\n")[2]) + 1
        raise ConfigError(
            f"not TOML: {message[:1].lower()}{message[1:]}",
            place=f"{source}:{line}:{column}",
            hint="see https://toml.io for the syntax",
        ) from None
    except RecursionError:
        raise ConfigError("nested too deeply", place=source) from None
    except ValueError as error:  # a number or a date that Python cannot hold
        raise ConfigError(f"holds a value that cannot be read: {str(error)[:80]}", place=source) from None


def _inherit(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The target's values over the defaults'; tables are merged key by key."""
    merged = {**defaults, **own}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            merged[key] = {**value, **own[key]}
    return merged


def _target(name: str, values: dict[str, Any], project: str, path: str, place: str) -> model.TargetSpec:
    folder = os.path.dirname(path)
    if "command" not in values:
        raise ConfigError("has no command", place=place, hint='add command = ["PROGRAM", "ARG"]')
    fields: dict[str, Any] = {
        key: values[key]
        for key in ("env", "match", "restart", "signals", "depends_on", "tty", "sample")
        if key in values
    }
    for key in ("env_file", "lock_file", "pid_file"):
        if key in values:
            fields[key] = os.path.abspath(os.path.join(folder, os.path.expanduser(values[key])))
    # Not normalised: a symlink in front of ".." leads where the kernel says, not where the text does.
    cwd = os.path.expanduser(values.get("cwd", "."))
    if values.get("tty") and values.get("ready", {}).get("log"):
        raise ConfigError(
            "cannot be seen with tty = true: its output goes to the terminal, not to a log",
            place=f"{place}.ready.log",
            hint="use another kind of probe",
        )
    return model.TargetSpec(
        name=name,
        instance=values.get("instance") or name,
        project=project,
        command=_schema.split(values["command"], values.get("shell", False), f"{place}.command"),
        cwd=folder if cwd == "." else os.path.join(folder, cwd),
        config=path,
        backoff=backoff_of(values.get("backoff", {}), place),
        start_limit=model.StartLimit(**values.get("start_limit", {})),
        stop=model.StopPolicy(**values.get("stop", {})),
        log=model.LogPolicy(**values.get("log", {})),
        ready=_probe(model.Ready, values.get("ready", {}), folder, f"{place}.ready"),
        health=_probe(model.Health, values.get("health", {}), folder, f"{place}.health"),
        limits=limits_of(values.get("limits", {})),
        notify=[model.Hook(**hook) for hook in values.get("notify", [])],
        admission=model.Admission(**values.get("admission", {}), asked="admission" in values),
        **fields,
    )


def _probe(kind: type[Any], values: dict[str, Any], folder: str, place: str) -> Any:
    """A probe of one kind, with a place to look at."""
    kinds = [key for key in values if key in model.PROBE_KINDS and values[key]]
    if len(kinds) > 1:
        raise ConfigError(
            f"names two kinds of probe, {kinds[0]} and {kinds[1]}", place=f"{place}.{kinds[1]}", hint="keep one"
        )
    if values and not kinds:
        known = [name for name in model.PROBE_KINDS if name != "log" or kind is model.Ready]
        raise ConfigError("names no probe", place=place, hint=f"add one of {', '.join(known)}")
    for key, needs in (("status", "http"), ("body", "http"), ("max_age", "heartbeat")):
        if key in values and needs not in kinds and not (key == "max_age" and "notify" in kinds):
            raise ConfigError(f"means nothing without {needs}", place=f"{place}.{key}", hint="leave it out")
    for key in ("interval", "timeout"):
        if values.get(key) == 0:
            raise ConfigError("is 0, expected more", place=f"{place}.{key}")
    if heartbeat := values.get("heartbeat"):
        values = {**values, "heartbeat": os.path.abspath(os.path.join(folder, os.path.expanduser(heartbeat)))}
    return kind(**values)


def limits_of(values: dict[str, Any]) -> model.Limits:
    """The record that a checked table of limits stands for."""
    common = values.get("action", model.Limit.action)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = model.Limit(**{"action": common, **value})
        elif key == "interval":
            found[key] = max(0.1, value)
    return model.Limits(**found)


def check_dependencies(targets: dict[str, model.TargetSpec], source: str) -> None:
    """Every name in depends_on is a target, and nobody waits for himself; a cycle is told as its path."""
    for spec in targets.values():
        for index, name in enumerate(spec.depends_on):
            if name not in targets:
                close = difflib.get_close_matches(name, targets, 1)
                raise ConfigError(
                    f"{shown(name)} is no target",
                    place=f"{source}: targets.{_schema.bare(spec.name)}.depends_on[{index}]",
                    hint=f'did you mean "{close[0]}"?' if close else f"targets: {', '.join(targets)}",
                )
            if targets[name].instance == spec.instance:
                raise ConfigError(
                    f"{shown(name)} shares the instance {shown(spec.instance)}, so both never run at once",
                    place=f"{source}: targets.{_schema.bare(spec.name)}.depends_on[{index}]",
                )
    if cycle := find_circle({spec.name: spec.depends_on for spec in targets.values()}):
        raise ConfigError(
            f"a circle: {' → '.join(cycle)}",
            place=f"{source}: targets.{_schema.bare(cycle[-2])}.depends_on",
            hint="take one of them out",
        )


def find_circle(links: dict[str, list[str]]) -> list[str]:
    """The first path that leads back to where it began, its first name told again at its end; [] when there is none.

    links: all names, each with those it waits for. Linear in names and links, and no recursion.
    """
    done: set[str] = set()
    for first in links:
        if first in done:
            continue
        path = [first]
        left = {first: iter(links[first])}  # of each name on the path, those not looked at
        while path:
            name = next(left[path[-1]], "")
            if not name:
                done.add(path[-1])
                del left[path.pop()]
            elif name in left:
                return [*path[path.index(name) :], name]
            elif name not in done:
                path.append(name)
                left[name] = iter(links[name])
    return []


def backoff_of(values: dict[str, Any], place: str) -> model.Backoff:
    """The record that a checked table of backoff stands for; place: its owner's."""
    backoff = model.Backoff(**values)
    if backoff.max < backoff.initial:
        if "max" in values:
            raise ConfigError(
                f"{format_duration(backoff.max)} is less than initial, {format_duration(backoff.initial)}",
                place=f"{place}.backoff.max",
                hint="raise max, or lower initial",
            )
        backoff.max = backoff.initial
    return backoff


def _share_files(targets: dict[str, model.TargetSpec], source: str) -> None:
    """One lock and one pid file an instance, none of two: the lock is what makes an instance exclusive.

    A target that names none takes those of its instance, so naming them once is enough.
    """
    named: dict[tuple[str, str], model.TargetSpec] = {}
    owner: dict[str, tuple[str, str, model.TargetSpec]] = {}
    for spec in targets.values():
        for key in ("lock_file", "pid_file"):
            if not (file := getattr(spec, key)):
                continue
            place = f"{source}: targets.{_schema.bare(spec.name)}.{key}"
            first = named.setdefault((spec.instance, key), spec)
            if getattr(first, key) != file:
                raise ConfigError(
                    f"differs from that of targets.{_schema.bare(first.name)}, with which it shares "
                    f"the instance {shown(spec.instance)}",
                    place=place,
                    hint="name one file for both, or give them different instances",
                )
            other = owner.setdefault(os.path.realpath(file), (spec.instance, key, spec))
            if other[:2] != (spec.instance, key):
                raise ConfigError(
                    f"is also the {other[1]} of targets.{_schema.bare(other[2].name)}",
                    place=place,
                    hint="name another file, or give both targets one instance",
                )
    for (instance, key), first in named.items():
        for spec in targets.values():
            if spec.instance == instance:
                setattr(spec, key, getattr(first, key))
