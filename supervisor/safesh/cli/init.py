"""``init``: write a commented safe.toml, or translate a Procfile, supervisord.conf or systemd unit into one."""

from __future__ import annotations

import os
import sys

from safesh import config as configs
from safesh import importers, wire
from safesh.cli import render
from safesh.errors import ConfigError, UsageError
from safesh.importers import template, toml_writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: dict[str, Any]) -> int:
    """0 written (or printed); UsageError where a file is in the way, ConfigError for a source that describes nothing.

    Every line that could not be translated is told on stderr, in the file and in the JSON.
    """
    here = configs.working_directory()
    path = os.path.abspath(os.path.join(here, os.path.expanduser(args["config"] or configs.FILE_NAME)))
    if not args["print"] and not args["force"] and os.path.lexists(path):
        raise toml_writer.is_there(path)
    source, others = _source(args, os.path.dirname(path))
    plan = importers.read(source, os.path.dirname(path)) if source else None
    if plan is not None and not plan.targets:
        _tell(plan, args)
        raise ConfigError("describes nothing that safesh could start", place=plan.source, hint="safe.sh init --help")
    text = toml_writer.render(plan) if plan else template.text()
    targets = toml_writer.check(text, path)
    if not args["print"]:
        toml_writer.save(text, path, private=bool(plan and plan.private), replace=bool(args["force"]))
    _report(args, path, plan, targets, text)
    if others and not args["json"]:
        names = " ".join(others)
        _say_aside(f"here too: {names}; to translate another one: {render.program()} init --from {others[0]}")
    return 0


def _source(args: dict[str, Any], folder: str) -> tuple[str | None, list[str]]:
    """(the file to translate, if any; others that could be meant)."""
    if args["from"] is None:
        return importers.find(folder)
    if not args["from"]:
        raise UsageError("--from is empty, expected a path", hint="leave it out to look for one here")
    return os.path.abspath(os.path.join(configs.working_directory(), os.path.expanduser(args["from"]))), []


def _report(args: dict[str, Any], path: str, plan: importers.Plan | None, targets: list[str], text: str) -> None:
    if args["json"]:
        notes = [{"file": one.file, "line": one.line, "text": one.text, "reason": one.reason, "target": one.target}
                 for one in (plan.notes if plan else [])]  # fmt: skip
        answer: dict[str, Any] = {"v": 1, "file": path, "targets": targets, "untranslated": notes}
        answer["source"] = plan.source if plan else None
        if args["print"]:
            answer["text"] = text
        render.say(wire.dumps(answer))
        return
    if args["print"]:
        sys.stdout.write(text)
    if plan is not None:
        _tell(plan, args)
    if not args["print"]:
        made = f" from {render.clean(plan.source)}" if plan else ""
        names = ", ".join(render.style(name, "name") for name in targets)
        render.say(f"{render.clean(importers.shown_path(path))} written{made}: {names}")
        render.say(f"next: {render.program()} start {targets[0]}")
        other = os.environ.get("SAFESH_CONFIG")
        if other and not args["config"]:
            _say_aside(f"SAFESH_CONFIG is set, so {render.clean(other)} is read and not this file")


def _tell(plan: importers.Plan, args: dict[str, Any]) -> None:
    """What was not translated, line by line, on stderr."""
    if sys.stderr is not None and not args["json"]:
        sys.stderr.write("".join(f"{render.clean(str(note))}\n" for note in plan.notes))


def _say_aside(text: str) -> None:
    """A remark on stderr."""
    if sys.stderr is not None:
        sys.stderr.write(f"{render.program()}: {text}\n")
