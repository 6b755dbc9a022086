"""``start --if-fits``, and targets with ``admission`` in safe.toml: may it start now, by what the system has left?"""

from __future__ import annotations

import os
import time

from safesh import paths
from safesh.errors import SafeshError
from safesh.paths import InstancePaths
from safesh.supervise import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.metrics.history import History
    from safesh.metrics.model import SystemSnapshot
    from safesh.model import TargetSpec
    from safesh.plan.model import PlanSpec

_LOOK_SECONDS = 0.3  # between two looks: how busy processors are shows over time only
_MIB, _GIB = 1 << 20, 1 << 30


class DoesNotFit(SafeshError):
    """The system has too little left (EX_TEMPFAIL): later it may have more."""

    exit_code = 75


def check(spec: TargetSpec, *, replacing: bool = False) -> None:
    """DoesNotFit, with the numbers and where they come from, where it may not start now.

    What holds its instance already is told by the start itself, which is a better reason to refuse; ``replacing``
    judges with it still there.
    """
    if not replacing and client.find_holder(InstancePaths.of(spec)) is not None:
        return
    from safesh.metrics.admission import Thresholds, should_execute

    asked = spec.admission
    needs: dict[str, Any] = {"target": spec.name}
    for key, name, unit in (("cpu", "cpu", 1), ("memory", "memory_mb", _MIB), ("disk", "disk_gb", _GIB)):
        if amount := getattr(asked, f"needs_{key}"):
            needs[name] = amount / unit
    snapshot = _look(spec.cwd)
    history, trouble = _open(spec)
    try:
        thresholds = Thresholds(cpu=asked.cpu, memory=asked.memory, disk=asked.disk)
        try:
            may, why = should_execute(needs, snapshot=snapshot, history=history, thresholds=thresholds)
        except SafeshError as error:  # the history cannot be read: judge without it
            trouble = str(error)
            may, why = should_execute(needs, snapshot=snapshot, thresholds=thresholds)
    finally:
        if history is not None:
            history.close()
    if not may:
        raise DoesNotFit(
            f"does not fit now: {why}" + (f"; without its history: {trouble}" if trouble else ""),
            place=spec.name,
            hint=f"see what runs: safe.sh status; or start it all the same: safe.sh start {spec.name} --anyway",
        )


def check_plan(plan: PlanSpec, output: str) -> None:
    """DoesNotFit where the system has no room for the greediest of the plan's steps, by what they declare."""
    from safesh.metrics.admission import should_execute

    needs: dict[str, Any] = {}
    for key, name, unit in (("cpu", "cpu", 0.01), ("memory", "memory_mb", _MIB)):
        most = max((step.resources.get(key, 0.0) for step in plan.steps), default=0.0)
        if most:
            needs[name] = most / unit
    folder = os.path.abspath(output)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    may, why = should_execute(needs, snapshot=_look(folder))
    if not may:
        raise DoesNotFit(
            f"does not fit now: {why}", place=plan.id, hint="wait for room, or run it all the same: leave out --if-fits"
        )


def _look(folder: str) -> SystemSnapshot:
    """How busy the system is; disk: that of ``folder``."""
    from safesh.metrics.monitor import ResourceMonitor

    monitor = ResourceMonitor(disk_path=folder, gpu=False)
    try:
        monitor.get_resource_snapshot()
        time.sleep(_LOOK_SECONDS)
        return monitor.get_resource_snapshot()
    finally:
        monitor.close()


def _open(spec: TargetSpec) -> tuple[History | None, str]:
    """(the history of its project, why it cannot be asked); neither where there is none yet."""
    folder = paths.project_dir(spec.project)
    try:
        from safesh.metrics import spool
        from safesh.metrics.history import NAME, History

        path = os.path.join(folder, NAME)
        if not os.path.lexists(path) and not spool.is_waiting(folder):
            return None, ""
        history = History(path)
        history.take_spool()
        return history, ""
    except SafeshError as error:
        return None, str(error)
    except ImportError:
        return None, "this Python has no SQLite"
