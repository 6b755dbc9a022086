"""``start``: run a target, here or detached."""

from __future__ import annotations

import os
import sys

from safesh import config as configs
from safesh.cli import render, targets
from safesh.errors import SafeshError, UsageError
from safesh.supervise import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config
    from safesh.model import TargetSpec


def run(args: dict[str, Any]) -> int:
    """Start ``target``; in the foreground this process becomes its supervisor and does not return."""
    spec, specs = pick(args)
    if args["replace"]:
        _replace(spec, specs, args)
    if not args["detach"]:
        # A terminal stays with the shell; a pipe or file is the target's input, as it would be without us.
        stdin = 0 if not os.isatty(0) else -1
        launch.run_foreground(spec, specs, echo=1, stdin=stdin)
    ready = launch.run_detached(spec, specs, args["timeout"])
    if args["json"]:
        from safesh import wire

        print(wire.dumps({"v": 1, "target": spec.name, "instance": spec.instance, **ready}))
    else:
        print(f"{render.style(spec.name, 'name')} runs (pid {ready['pid']}), log {ready['log']}")
    sys.stdout.flush()
    return 0


def pick(args: dict[str, Any]) -> tuple[TargetSpec, list[TargetSpec]]:
    """(what to start, all targets of the config)."""
    name = args["target"]
    config = targets.open_config(args)
    if args["command"]:
        return configs.ad_hoc(name, args["command"], config=config), []
    if config is None:
        raise UsageError(
            "no safe.toml here or in any folder above",
            hint="go to your project, name one with --config FILE, or run something by name: safe.sh start NAME -- CMD",
        )
    if not name:
        name = _only_target(config)
    return configs.resolve(config, name), list(config.targets.values())


def _only_target(config: Config) -> str:
    names = list(config.targets)
    if len(names) == 1:
        return names[0]
    raise UsageError("which target?", place=config.path, hint=f"safe.sh start {'|'.join(names)}")


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
