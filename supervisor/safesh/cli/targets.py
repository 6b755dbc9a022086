"""Which targets and instances a command line means."""

from __future__ import annotations

import os

from safesh import config as configs
from safesh.errors import UsageError
from safesh.paths import InstancePaths, project_dir, state_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config
    from safesh.model import TargetSpec

AD_HOC = "default"  # the project of named runs outside any safe.toml


def open_config(args: dict[str, Any]) -> Config | None:
    """The safe.toml in force, None when there is none (and none was named)."""
    path = configs.find(explicit=args.get("config"))
    return configs.load(path) if path else None


class Chosen:
    """One instance that a command line means: its files, and the targets that may run in it."""

    def __init__(self, name: str, paths: InstancePaths, specs: list[TargetSpec]) -> None:
        self.name = name
        self.paths = paths
        self.specs = specs


def choose(config: Config | None, names: list[str]) -> list[Chosen]:
    """The instances of the named targets or instances, of all where none is named, each once.

    UsageError for a name that neither the config nor the state folder knows.
    """
    known = list_instances(config)
    if not names:
        return known
    chosen: list[Chosen] = []
    for name in names:
        found = next((one for one in known if name in (one.name, *(spec.name for spec in one.specs))), None)
        if found is None:
            if config is not None:
                configs.resolve(config, name)  # raises, with the closest name
            raise UsageError(
                f"nothing named {name!r} has been started here",
                hint="see what there is: safe.sh status; or go where its safe.toml is",
            )
        if found not in chosen:
            chosen.append(found)
    return chosen


def list_instances(config: Config | None) -> list[Chosen]:
    """Every instance of the config's project and of ad-hoc runs; without a config, of all projects."""
    found: list[Chosen] = []
    if config is not None:
        folder = project_dir(config.project)
        by_instance: dict[str, list[TargetSpec]] = {}
        for spec in config.targets.values():
            by_instance.setdefault(spec.instance, []).append(spec)
        for instance, specs in by_instance.items():
            paths = InstancePaths(folder, instance, specs[0].lock_file, specs[0].pid_file)
            found.append(Chosen(instance, paths, specs))
        projects = [config.project, AD_HOC]
    else:
        try:
            projects = sorted(name for name in os.listdir(state_home()) if not name.startswith("."))
        except OSError:
            projects = []
    have = {one.paths.record for one in found}
    for project in projects:
        folder = os.path.join(state_home(), project)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            base, dot, kind = name.rpartition(".")
            if dot and kind == "json" and os.path.join(folder, name) not in have:
                found.append(Chosen(base, InstancePaths(project_dir(project), base), []))
    return found
