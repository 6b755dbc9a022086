"""A plan file's schema, and what only several of its keys together can get wrong.

Keys, values and their errors are safe.toml's: the same structs and the same walk. Imported only to read a plan.
"""

from __future__ import annotations

import difflib
import glob
import os
from functools import partial
from typing import Annotated, Any

import msgspec

from safesh import _schema, _targets, model, paths
from safesh._schema import Bool, Count, Duration, Names, Path, Text, bare, kind, walk
from safesh._schema import _field as field
from safesh.clock import format_size, parse_size, shown
from safesh.config import display
from safesh.errors import ConfigError, UsageError
from safesh.plan.model import EVENTS, PlanSpec, StepSpec

MACHINE = ("cpu", "memory", "gpu")  # what a plan need not count, for an engine knows how much it has


def parse_id(value: str, place: str) -> str:
    try:
        return paths.check_name(value, "a step" if place.endswith("].id") else "a plan")
    except UsageError as error:
        raise ConfigError(error.message, place=place, hint=error.hint) from None


def parse_paths(value: list[Any], place: str) -> list[str]:
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise ConfigError(f"expected a path, got {kind(item)}", place=f"{place}[{index}]", hint="put it in quotes")
        _schema.parse_path(item, f"{place}[{index}]")
    return [*dict.fromkeys(value)]


def parse_resources(value: dict[str, Any], place: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, amount in value.items():
        here = f"{place}.{bare(name)}"
        if not name or not name.isprintable():
            raise ConfigError(f"{shown(name)} cannot name a resource", place=here)
        if name == "memory":
            if isinstance(amount, bool) or not isinstance(amount, (int, str)):
                raise ConfigError(f'expected a size in bytes, or text such as "10M", got {kind(amount)}', place=here)
            found[name] = parse_size(amount, here)
        elif isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise ConfigError(f"expected a number, got {kind(amount)}", place=here)
        elif not 0 <= amount <= 1e12:
            raise ConfigError(f"{shown(amount)} is out of range, expected a number, 0 to 1e12", place=here)
        else:
            found[name] = float(amount)
    return found


class Hook(_schema.Hook, frozen=True):
    on: Annotated[list[Any], field("a list of events", partial(_schema.parse_events, known=EVENTS))] = msgspec.field(
        default_factory=list
    )


Id = Annotated[str, field("a name, in quotes", parse_id)]
Env = Annotated[dict[str, Any], field("a table of variables", _schema.parse_env)]
Paths = Annotated[list[Any], field("a list of paths", parse_paths)]
Resources = Annotated[dict[str, Any], field("a table of resources", parse_resources)]


class Step(msgspec.Struct, kw_only=True):
    id: Id
    type: Text = ""
    description: Text = ""
    provider: Text = ""
    command: Annotated[str | list[Any], field("a list of strings, or one string", _schema.parse_command)]
    shell: Bool = False
    depends_on: Names = []
    timeout: Duration = 0
    retries: Count = 0
    backoff: _schema.Backoff = _schema.Backoff()
    env: Env = {}
    cwd: Path = "."
    inputs: Paths = []
    outputs: Paths = []
    limits: _schema.Limits = _schema.Limits()
    resources: Resources = {}


class File(msgspec.Struct, kw_only=True):
    """The whole file."""

    id: Id = ""
    description: Text = ""
    steps: list[Step]
    resources: Resources = {}
    env: Env = {}
    notify: Annotated[
        list[Any] | dict[str, Any], field("a list of tables", partial(_schema.parse_hooks, struct=Hook))
    ] = []


def build(raw: Any, path: str) -> PlanSpec:
    """The validated plan of a file's tables; ConfigError tells the first problem in the file's order.

    path: the file's absolute name; relative paths in it start at its folder.
    """
    source = display(path)
    if raw is None or raw == {}:
        raise ConfigError("has no steps", place=source, hint='add steps, each with an id and a command = ["PROGRAM"]')
    top = walk(raw, File, source + ": ")
    if "steps" not in top:
        raise ConfigError("has no steps", place=source, hint='add steps, each with an id and a command = ["PROGRAM"]')
    tables = top["steps"]
    if not isinstance(tables, list) or not tables:
        got = "none" if tables == [] else kind(tables)
        raise ConfigError(f"expected a list of steps, got {got}", place=f"{source}: steps")
    capacities: dict[str, float] = top.get("resources", {})
    env = top.get("env", {})
    _check_env(env, f"{source}: env")
    steps: dict[str, StepSpec] = {}
    places: dict[str, int] = {}
    for index, table in enumerate(tables):
        place = f"{source}: steps[{index}]"
        step = _step(walk(table, Step, place), capacities, os.path.dirname(path), place)
        if step.id in steps:
            raise ConfigError(
                f"{shown(step.id)} is the id of steps[{places[step.id]}] too",
                place=f"{place}.id",
                hint="give each step an id of its own",
            )
        steps[step.id] = step
        places[step.id] = index
    _check_dependencies(steps, tables, source)
    return PlanSpec(
        id=top.get("id") or _id_of(path, source),
        description=top.get("description", ""),
        steps=list(steps.values()),
        resources=capacities,
        env=env,
        notify=[model.Hook(**hook) for hook in top.get("notify", [])],
        path=path,
    )


def _id_of(path: str, source: str) -> str:
    stem = os.path.splitext(os.path.basename(path))[0]
    try:
        return paths.check_name(stem, "a plan")
    except UsageError as error:
        raise ConfigError(f"has no id, and {error.message}", place=source, hint='add id = "NAME"') from None


def _step(values: dict[str, Any], capacities: dict[str, float], folder: str, place: str) -> StepSpec:
    for key, example in (("id", '"NAME"'), ("command", '["PROGRAM", "ARG"]')):
        if key not in values:
            raise ConfigError(f"has no {key}", place=place, hint=f"add {key} = {example}")
    if values.get("timeout") == 0:
        raise ConfigError("is 0, expected more", place=f"{place}.timeout", hint="leave it out for no limit")
    _check_env(values.get("env", {}), f"{place}.env")
    cwd = os.path.expanduser(values.get("cwd", "."))
    fields: dict[str, Any] = {
        key: values[key]
        for key in ("id", "type", "description", "provider", "depends_on", "timeout", "retries", "env")
        if key in values
    }
    if "backoff" in values:
        fields["backoff"] = _targets.backoff_of(values["backoff"], place)
    if "limits" in values:
        fields["limits"] = _limits(values["limits"], f"{place}.limits")
    return StepSpec(
        command=_schema.split(values["command"], values.get("shell", False), f"{place}.command"),
        # Not normalised: a symlink in front of ".." leads where the kernel says, not where the text does.
        cwd=folder if cwd == "." else os.path.join(folder, cwd),
        inputs=[_absolute(name, folder) for name in values.get("inputs", [])],
        outputs=[_absolute(name, folder) for name in values.get("outputs", [])],
        resources=_needs(values, capacities, place),
        **fields,
    )


def _absolute(name: str, folder: str) -> str:
    name = os.path.expanduser(name)
    if glob.has_magic(name):
        folder = glob.escape(folder)  # its own brackets are no pattern
    return os.path.join(folder, name)


def _limits(values: dict[str, Any], place: str) -> model.Limits:
    # A supervised target is restarted when it passes a limit; a step ends, and its retries decide.
    limits = _targets.limits_of({"action": "stop", **values})
    for key, value in limits.__dict__.items():
        if isinstance(value, model.Limit) and value.action == "restart":
            here = f"{place}.{key}.action" if "action" in (values.get(key) or {}) else f"{place}.action"
            if key in values or "action" in values:
                raise ConfigError('a step is not restarted, expected "warn" or "stop"', place=here, hint="add retries")
    return limits


def _needs(values: dict[str, Any], capacities: dict[str, float], place: str) -> dict[str, float]:
    """What the step takes, its provider's token included, each no more than there is."""
    needs: dict[str, float] = dict(values.get("resources", {}))
    for name, amount in needs.items():
        here = f"{place}.resources.{bare(name)}"
        if name in capacities:
            if amount > capacities[name]:
                told = _amounts(name, amount, capacities[name])
                raise ConfigError(f"{told}, so it could never start", place=here, hint="raise the plan's resources")
        elif name not in MACHINE:
            close = difflib.get_close_matches(name, {*capacities, *MACHINE}, 1)
            question = f'did you mean "{close[0]}"? ' if close else ""
            raise ConfigError(
                "the plan does not say how much of it there is",
                place=here,
                hint=f"{question}add it to the plan's resources, such as {bare(name)} = 2",
            )
    provider = values.get("provider", "")
    if provider in capacities and provider not in needs:
        if capacities[provider] < 1:
            told = _amounts(provider, 1, capacities[provider])
            raise ConfigError(f"{told}, so it could never start", place=f"{place}.provider", hint="raise the resource")
        needs[provider] = 1.0
    return needs


def _amounts(name: str, need: float, capacity: float) -> str:
    if name == "memory":
        return f"needs {format_size(need)}, the plan has {format_size(capacity)}"
    return f"needs {need:g}, the plan has {capacity:g}"


def _check_env(env: dict[str, str], place: str) -> None:
    if "SAFESH_REPORT" in env:
        raise ConfigError("names the file of a step's reports; only the runner sets it", place=f"{place}.SAFESH_REPORT")


def _check_dependencies(steps: dict[str, StepSpec], tables: list[dict[str, Any]], source: str) -> None:
    """Every name in depends_on is a step, and nobody waits for himself."""

    def place(step: str, name: str) -> str:
        index = ids.index(step)
        return f"{source}: steps[{index}].depends_on[{tables[index]['depends_on'].index(name)}]"

    ids = list(steps)
    for step in steps.values():
        for name in step.depends_on:
            if name not in steps:
                close = difflib.get_close_matches(name, steps, 1)
                some = ", ".join(ids[:10]) + (", ..." if len(ids) > 10 else "")
                raise ConfigError(
                    f"{shown(name)} is no step",
                    place=place(step.id, name),
                    hint=f'did you mean "{close[0]}"?' if close else f"steps: {some}",
                )
    if cycle := _targets.find_circle({step.id: step.depends_on for step in steps.values()}):
        told = cycle if len(cycle) <= 20 else [*cycle[:10], f"({len(cycle) - 19} more)", *cycle[-9:]]
        raise ConfigError(
            f"a circle: {' → '.join(told)}", place=place(cycle[-2], cycle[-1]), hint="take one of them out"
        )
