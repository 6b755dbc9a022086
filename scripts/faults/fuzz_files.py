"""Properties of what people write: safe.toml, plans, env files, foreign formats, durations, command lines."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import tomllib
from typing import Any

from faults.fuzz_box import Box, require
from faults.fuzz_seeds import CONFIG, ENV, LINES, PLAN_JSON, PLAN_TOML, PLAN_YAML, PROCFILE, SUPERVISORD, UNIT
from faults.fuzz_target import Target
from safesh import _envfile, clock, importers, wire
from safesh import config as configs
from safesh.cli import clickapp, complete, grammar
from safesh.config import Config
from safesh.errors import ConfigError, SafeshError, UsageError
from safesh.importers import toml_writer
from safesh.importers.unitfile import size as systemd_size
from safesh.importers.unitfile import timespan
from safesh.model import TargetSpec
from safesh.paths import InstancePaths
from safesh.plan.load import load_plan
from safesh.plan.model import PlanSpec
from safesh.plan.schedule import Schedule


def check_config(box: Box, data: bytes) -> bool:
    """A Config that survives its own writing down, whose targets are what a supervisor would be handed; or an error."""
    path = box.write("proj/safe.toml", data)
    try:
        found = configs.load(path)
    except ConfigError as error:
        box.refused(error, "safe.toml")
        return False
    # The cache and the supervisor get it as JSON: what loads is what runs.
    require(Config.from_dict(wire.loads(wire.dumps(found))) == found, "the cached config is another one")
    require(configs.load(path) == found, "loaded twice, it is another one")
    for name, spec in found.targets.items():
        _check_spec(spec, str(box.project))
        try:
            whole = configs.resolve(found, name)
        except ConfigError as error:
            box.refused(error)
            continue
        configs.fingerprint(whole)
        require(TargetSpec.from_dict(wire.loads(wire.dumps(whole.to_dict()))) == whole, "the handed spec is another")
    return True


def _check_spec(spec: TargetSpec, folder: str) -> None:
    words = [*spec.command, *spec.env, *spec.env.values(), spec.cwd, spec.lock_file, spec.pid_file]
    require(spec.command and spec.command[0], "a target without a program")
    require(all(isinstance(word, str) and "\0" not in word for word in words), "a word that execve cannot take")
    require(os.path.isabs(spec.cwd), "a relative working directory")
    paths = InstancePaths(folder, spec.instance, spec.lock_file, spec.pid_file)
    for path in (paths.record, paths.socket, paths.events, paths.log(spec.name)):
        require(os.path.dirname(path) == folder, f"a file outside our folder: {path}")
    for seconds in (spec.stop.grace, spec.backoff.initial, spec.backoff.max, spec.start_limit.window, spec.sample):
        require(0 <= seconds < float("inf"), "a duration that is none")


def _plan(suffix: str) -> Any:
    def check(box: Box, data: bytes) -> bool:
        path = box.write(f"proj/plan{suffix}", data)
        try:
            found = load_plan(path)
        except ConfigError as error:
            box.refused(error, f"plan{suffix}")
            return False
        require(PlanSpec.from_dict(wire.loads(wire.dumps(found.to_dict()))) == found, "the handed plan is another")
        room = {name: 1e18 for step in found.steps for name in step.resources}
        schedule = Schedule(found.steps, {**room, **found.resources}, 4, {})
        require(schedule.take() or not found.steps, "a plan in which nothing can begin")
        for step in found.steps:
            require(step.command and all("\0" not in word for word in step.command), "a command that cannot be run")
        return True

    return check


def check_env(box: Box, data: bytes) -> bool:
    """Variables that a process can have; no message shows a value."""
    path = box.write("proj/.env", b"SECRET='hunter2hunter2'\n" + data)
    try:
        found = _envfile.read(path, "place")
    except ConfigError as error:
        box.refused(error, ".env", "place")
        require("hunter2" not in str(error) + error.hint, "a value in a message")
        return False
    for name, value in found.items():
        require(name.isidentifier() and name.isascii() and "\0" not in value, f"no variable: {name!r}")
    again = "".join(f"{name}={_quoted(value)}\n" for name, value in found.items())
    require(_envfile.read(box.write("proj/.env2", again.encode()), "place") == found, "written anew, it is another")
    return True


def _quoted(value: str) -> str:
    table = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\", "$": "\\$"}
    return '"' + "".join(table.get(letter, letter) for letter in value) + '"'


def _import(name: str) -> Any:
    def check(box: Box, data: bytes) -> bool:
        folder = box.empty("imported")
        path = box.write(f"imported/{name}", data)
        try:
            plan = importers.read(path, str(folder))
        except ConfigError as error:
            box.refused(error, name)
            return False
        for note in plan.notes:
            require(note.line >= 0 and note.reason, f"a note without line or reason: {note}")
        if not plan.targets:
            return False
        text = toml_writer.render(plan)
        tomllib.loads(text)
        require(toml_writer.check(text, str(folder / "safe.toml")), "a safe.toml without targets")
        return True

    return check


def check_amounts(box: Box, data: bytes) -> bool:
    """Durations and sizes: a finite number or the error, the same number from the number itself."""
    text = data.decode("utf-8", "surrogateescape")
    taken = False
    readers: tuple[tuple[Any, Any], ...] = (
        (clock.parse_duration, clock.format_duration),
        (clock.parse_size, clock.format_size),
    )
    for read, show in readers:
        try:
            value = read(text, "place")
        except ConfigError as error:
            box.refused(error, "place")
            continue
        taken = True
        require(0 <= value < float("inf") and read(value, "place") == value, f"{text!r} is {value!r}")
        require(show(value).isprintable(), "shown unprintably")
    for kind in ("seconds", "count", "text"):
        try:
            grammar.convert(kind, text)
        except ValueError as error:
            require(str(error), "no words")
    for convert in (timespan, systemd_size):
        try:
            require(convert(text) >= 0, "an amount below zero")
        except ValueError:
            pass
    return taken


def check_argv(box: Box, data: bytes) -> bool:
    """A command line, a word a line: both parsers agree, or it is a usage error; completion never fails."""
    argv = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\n")][:40]
    quick = grammar.parse(argv)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            complete._Line([complete._unquote(word) for word in argv]).complete()
        except (
            SafeshError,
            KeyError,
            ValueError,
        ):  # answer() shows no candidates then: an unknown verb, a broken safe.toml
            pass
        try:
            slow = clickapp.parse(argv)
        except UsageError as error:
            box.refused(error, longest=2000 + 10 * len(data))  # it repeats the word
            require(error.exit_code == 2, "a usage error that is not 2")
            slow = None
    if quick is not None:
        require(slow is not None and not isinstance(slow, int), f"click refuses what the quick parser takes: {argv}")
        require((quick.verb, quick.args) == (slow.verb, slow.args), f"two readings of {argv}: {quick.args} {slow.args}")
    return slow is not None


def check_line(box: Box, data: bytes) -> bool:
    """A whole command line of verbs that only look: the statuses of the manual, never a bug."""
    try:
        words = shlex.split(data.decode("utf-8", "surrogateescape").replace("\0", ""))[:12]
    except ValueError:
        return False
    if not words or words[0] not in ("status", "help", "logs", "completion", "export", "health", "history", "init"):
        words = ["help", *words]
    if "-f" in words or any(word.startswith(("-f", "--f", "-w", "--w", "--l", "--i", "-c", "-o")) for word in words):
        return False  # what waits, and what writes where it is told
    if words[0] in ("init", "health"):
        words = [words[0], "--help", *words[1:]]
    code, _out, _err = box.run(*words)
    require(0 <= code < 128, f"status {code}")
    return code == 0


TARGETS: tuple[Target, ...] = (
    Target("safe.toml", check_config, CONFIG, LINES.CONFIG),
    Target("plan.json", _plan(".json"), PLAN_JSON, LINES.PLAN),
    Target("plan.toml", _plan(".toml"), PLAN_TOML, LINES.PLAN),
    Target("plan.yaml", _plan(".yaml"), PLAN_YAML, LINES.PLAN),
    Target("env file", check_env, ENV, LINES.ENV),
    Target("Procfile", _import("Procfile"), PROCFILE, LINES.SHELL),
    Target("supervisord.conf", _import("supervisord.conf"), SUPERVISORD, LINES.SHELL),
    Target("systemd unit", _import("a.service"), UNIT, LINES.UNIT),
    Target("durations and sizes", check_amounts, (b"1h 30m", b"1.5GiB", b"90", b"5min 20s", b"1e3"), LINES.AMOUNTS),
    Target("arguments", check_argv, LINES.ARGV, LINES.WORDS),
    Target("command lines", check_line, LINES.LOOKING, LINES.WORDS),
)
