"""Starting several targets: dependencies first, each as soon as those it needs are ready, the others at once."""

from __future__ import annotations

import select

from safesh import config as configs
from safesh.clock import milliseconds
from safesh.errors import SafeshError
from safesh.instance.view import look
from safesh.paths import InstancePaths
from safesh.supervise import client, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safesh.config import Config
    from safesh.model import TargetSpec


def with_needs(config: Config, names: list[str]) -> list[str]:
    """The named targets and all they depend on, dependencies first (safe.toml has no circles)."""
    found: list[str] = []

    def add(name: str) -> None:
        for need in configs.resolve(config, name).depends_on:
            add(need)
        if name not in found:
            found.append(name)

    for name in names:
        add(name)
    return found


def dependents(specs: list[TargetSpec], names: list[str]) -> list[str]:
    """The named targets and all that depend on them, dependents first: the order of a stop."""
    found: list[str] = []

    def add(name: str) -> None:
        for spec in specs:
            if name in spec.depends_on:
                add(spec.name)
        if name not in found:
            found.append(name)

    for name in names:
        add(name)
    return found


class Started:
    """How one target of several came up. ready: as of ``run_detached``, None when it was up already."""

    def __init__(self, name: str, ready: dict[str, Any] | None = None, error: SafeshError | None = None) -> None:
        self.name = name
        self.ready = ready
        self.error = error


def is_up(spec: TargetSpec, timeout: float | None) -> bool:
    """Whether the target runs and is ready, waiting for one that is just starting."""
    paths = InstancePaths.of(spec)
    view = look(paths, tree=False, strays=False)
    if not view.supervisor_alive or (view.holder or {}).get("target") != spec.name:
        return False
    return client.wait_ready(paths, timeout)


def start_all(
    config: Config, names: list[str], timeout: float | None, admit: Callable[[TargetSpec], None] | None = None
) -> list[Started]:
    """Start the named targets detached, in the order of :func:`with_needs`; what is up stays as it is.

    A target whose dependency could not be started is not started. Independent ones do not wait for each other.
    admit: raises the SafeshError for which one is not started.
    """
    specs = list(config.targets.values())
    waiting = {name: configs.resolve(config, name) for name in names}
    pending: dict[str, launch.Pending] = {}
    done: dict[str, Started] = {}
    while waiting or pending:
        for name, spec in list(waiting.items()):
            needs = [done.get(need) for need in spec.depends_on]
            failed = next((one.name for one in needs if one is not None and one.error is not None), "")
            if failed:
                done[name] = Started(name, error=SafeshError(f"not started: it depends on {failed}", place=name))
            elif all(needs):
                if is_up(spec, timeout):
                    done[name] = Started(name)
                else:
                    try:
                        if admit is not None:
                            admit(spec)
                        pending[name] = launch.begin_detached(spec, specs)
                    except SafeshError as error:
                        done[name] = Started(name, error=error)
            else:
                continue
            del waiting[name]
        if pending:
            _collect(pending, done, timeout)
    return [done[name] for name in names]


def _collect(pending: dict[str, launch.Pending], done: dict[str, Started], timeout: float | None) -> None:
    """Wait until one of the starts has an answer, and take it."""
    watch = select.poll()
    for one in pending.values():
        watch.register(one.reading, select.POLLIN)
    ready = {fd for fd, _what in watch.poll(None if timeout is None else milliseconds(timeout))}
    for name, one in list(pending.items()):
        if one.reading in ready or not ready:
            del pending[name]
            try:
                done[name] = Started(name, one.answer(0.0 if not ready else timeout))
            except SafeshError as error:
                done[name] = Started(name, error=error)
