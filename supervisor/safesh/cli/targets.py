"""Which targets and instances a command line means."""

from __future__ import annotations

import os
import sys

from safesh import config as configs
from safesh.errors import ConfigError, UsageError
from safesh.instance import record as records
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
    """One instance that a command line means: its files, and the targets that may run in it.

    target, config: what its record says ran last, and from which file; only where no config in force names it.
    """

    def __init__(
        self, name: str, paths: InstancePaths, specs: list[TargetSpec], target: str = "", config: str = ""
    ) -> None:
        self.name = name
        self.paths = paths
        self.specs = specs
        self.target = target
        self.config = config

    def names(self) -> list[str]:
        """What people may call it."""
        return [self.name, *(spec.name for spec in self.specs), *([self.target] if self.target else [])]


def choose(config: Config | None, names: list[str]) -> list[Chosen]:
    """The instances of the named targets or instances, of all where none is named, each once.

    UsageError for a name that neither the config nor the state folder knows, or that means several.
    """
    known = list_instances(config)
    if not names:
        return known
    chosen: list[Chosen] = []
    for name in names:
        found = _pick([one for one in known if name in one.names()], name, config)
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


def _pick(found: list[Chosen], name: str, config: Config | None) -> Chosen | None:
    """The one that is meant: an instance's own name comes first, and this folder's project before others."""
    found.sort(key=lambda one: name not in (one.name, *(spec.name for spec in one.specs)))
    if config is not None or len(found) < 2:
        return found[0] if found else None
    # Without a safe.toml every project is looked at: never end another project's target of the same name.
    here = configs.working_directory() + "/"
    near = [one for one in found if one.config and here.startswith(os.path.dirname(one.config).rstrip("/") + "/")]
    near = near or [one for one in found if os.path.basename(one.paths.folder) == AD_HOC]
    if len(near) == 1:
        return near[0]
    raise UsageError(
        f"{name!r} is in several projects: {', '.join(os.path.basename(one.paths.folder) for one in found)}",
        hint="go to its folder, or name its safe.toml with --config FILE",
    )


def choose_for_ending(args: dict[str, Any], names: list[str]) -> list[Chosen]:
    """As ``choose``; a safe.toml that has been broken meanwhile keeps nobody from ending what it started.

    Then the instances are those whose records name that file, and those beside them whose records cannot be read; the
    problem is told on stderr.
    """
    try:
        return choose(open_config(args), names)
    except ConfigError as error:
        path = os.path.abspath(configs.find(explicit=args.get("config")) or "")
        every = list_instances(None)
        known = [one for one in every if one.config == path]
        # A record that is damaged, or was never written, names no file: then its folder tells whose it is.
        folders = {one.paths.folder for one in known} | {os.path.join(state_home(), configs.project_of(path))}
        known += [one for one in every if not one.config and one.paths.folder in folders]
        chosen = [one for one in known if not names or set(names) & set(one.names())]
        if not chosen or not set(names) <= {name for one in chosen for name in one.names()}:
            raise
        from safesh.cli import render

        if sys.stderr is not None:
            sys.stderr.write(render.problem(error) + "\n")
        return chosen


def users_of(args: dict[str, Any], chosen: list[Chosen]) -> list[Chosen]:
    """Instances whose targets depend, directly or not, on those of ``chosen``."""
    try:
        config = open_config(args)
    except ConfigError:
        return []
    if config is None:
        return []
    every = list_instances(config)
    found = list(chosen)
    grew = True
    while grew:
        needed = {spec.name for one in found for spec in one.specs}
        more = [
            one for one in every if not _known(one, found) and any(needed & set(spec.depends_on) for spec in one.specs)
        ]
        found += more
        grew = bool(more)
    return found[len(chosen) :]


def _known(one: Chosen, among: list[Chosen]) -> bool:
    return any(one.paths.record == other.paths.record for other in among)


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
        # A lock without a record is a start that was killed before it could write one.
        stems = {
            name.removesuffix(".json").removesuffix(".lock") for name in names if name.endswith((".json", ".lock"))
        }
        for base in sorted(stems):
            if os.path.join(folder, base + ".json") not in have:
                one = _recorded(project, base)
                if one is not None:
                    found.append(one)
    return found


def _recorded(project: str, instance: str) -> Chosen | None:
    """An instance that only the state folder knows, its files where its record says they are."""
    folder = project_dir(project)
    try:
        paths = InstancePaths(folder, instance)
    except UsageError:
        return None  # no name of ours, so no file of ours
    last, _problem = records.read_record(paths)
    if last is None:
        return Chosen(instance, paths, [])
    paths = InstancePaths(folder, instance, last.get("lock_file", ""), last.get("pid_file", ""))
    return Chosen(instance, paths, [], last["target"], last["config"])
