"""``start``: run a target, here or detached."""

from __future__ import annotations

import os
import sys

from safesh import config as configs
from safesh import wire
from safesh.cli import render, targets
from safesh.errors import SafeshError, UsageError
from safesh.supervise import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config
    from safesh.model import TargetSpec


def run(args: dict[str, Any]) -> int:
    """Start the targets; one in the foreground means that this process becomes its supervisor and does not return."""
    config = targets.open_config(args)
    names = args["targets"]
    if args["command"]:
        if len(names) != 1 or args["all"]:
            raise UsageError("a command runs under one name", hint="safe.sh start NAME -- CMD ARGS…")
        return _start_one(configs.ad_hoc(names[0], args["command"], config=config), [], args)
    if config is None:
        raise UsageError(
            "no safe.toml here or in any folder above",
            hint="make one: safe.sh init; or run something by name: safe.sh start NAME -- CMD",
        )
    if args["all"]:
        names = _one_of_each_instance(config)
    elif not names:
        names = [_only_target(config)]
    names = list(dict.fromkeys(names))
    specs = list(config.targets.values())
    first = configs.resolve(config, names[0])
    if len(names) == 1 and not first.depends_on:
        return _start_one(first, specs, args)
    return _start_several(config, names, args)


def _start_one(spec: TargetSpec, specs: list[TargetSpec], args: dict[str, Any]) -> int:
    _admit(spec, args)  # before anything is ended to make room for it
    if args["replace"]:
        _replace(spec, specs, args)
    if not args["detach"]:
        # A terminal stays with the shell; a pipe or file is the target's input, as it would be without us.
        stdin = 0 if not os.isatty(0) else -1
        launch.run_foreground(spec, specs, echo=1, stdin=stdin)
    ready = launch.run_detached(spec, specs, args["timeout"])
    if args["json"]:
        print(wire.dumps({"v": 1, "target": spec.name, "instance": spec.instance, **ready}))
    else:
        _tell(spec.name, ready)
    sys.stdout.flush()
    return 0


def _admit(spec: TargetSpec, args: dict[str, Any]) -> None:
    if (args["if_fits"] or spec.admission.asked) and not args["anyway"]:
        from safesh.cli import admission

        admission.check(spec, replacing=bool(args["replace"]))


def _tell(name: str, ready: dict[str, Any] | None) -> None:
    shown = render.style(name, "name")
    if ready is None:
        print(f"{shown} runs already")
    else:
        word = "is ready" if "ready_after" in ready else "runs"
        print(f"{shown} {word} (pid {ready['pid']}), log {ready['log']}")


def _start_several(config: Config, names: list[str], args: dict[str, Any]) -> int:
    """Dependencies first. With one target in the foreground, only what it depends on is detached."""
    from safesh.cli import order

    alone = names[0] if len(names) == 1 and not args["detach"] else ""
    if not args["detach"] and not alone:
        raise UsageError("several targets cannot share this terminal", hint="safe.sh start --detach …")
    every = order.with_needs(config, names)
    for name in every if args["replace"] else []:
        if name in names:
            _admit(configs.resolve(config, name), args)
            _replace(configs.resolve(config, name), list(config.targets.values()), args)
    first = [name for name in every if name != alone]
    results = order.start_all(config, first, args["timeout"], lambda one: _admit(one, args))
    code = 0
    for one in results:
        if one.error is not None:
            # Named and running already is as much of a refusal here as for one alone; a need that is up is not.
            code = code or one.error.exit_code
            sys.stdout.flush()
            sys.stderr.write(render.problem(one.error) + "\n")
        elif not args["json"]:
            _tell(one.name, one.ready)
    if args["json"]:
        rows = [{"target": one.name, **(one.ready or {}), "error": str(one.error or "")} for one in results]
        print(wire.dumps({"v": 1, "targets": rows}))
    sys.stdout.flush()
    if alone and code == 0:
        return _start_one(configs.resolve(config, alone), list(config.targets.values()), {**args, "replace": False})
    return code


def _one_of_each_instance(config: Config) -> list[str]:
    chosen: dict[str, str] = {}
    for spec in config.targets.values():
        chosen.setdefault(spec.instance, spec.name)
    return list(chosen.values())


def _only_target(config: Config) -> str:
    names = list(config.targets)
    if len(names) == 1:
        return names[0]
    raise UsageError("which target?", place=config.path, hint=f"safe.sh start {'|'.join(names)}, or --all")


def _replace(spec: TargetSpec, specs: list[TargetSpec], args: dict[str, Any]) -> None:
    """End what holds the instance, and its strays, before the start."""
    from safesh.cli import ending
    from safesh.paths import InstancePaths

    mine = [one for one in specs if one.instance == spec.instance] or [spec]
    found = ending.Ending(targets.Chosen(spec.instance, InstancePaths.of(spec), mine))
    if found.inside:
        raise UsageError("this command runs inside it and would end itself", place=spec.instance)
    if not (found.held or found.members):
        return
    if not ending.confirm_ending([found], args, "Replace"):
        raise UsageError("nothing was ended or started")
    results = ending.end_all([found], {**args, "timeout": None, "now": False})
    if not results[0][1].ok:
        ending.report(results, args, [])
        raise SafeshError("not started: not everybody could be ended", place=spec.instance)
