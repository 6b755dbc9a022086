"""Missions kept alive: supervised, detached instances that outlive whoever started them.

The instance's name is the mission's id, so a mission runs at most once; its files lie with those of named runs, where
``safe.sh status``, ``logs`` and ``stop`` find them from anywhere. Its code lies in ``kept/<id>/<token>/`` as long as it
may be restarted: until the next mission of that id takes its place.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from safesh import paths, wire
from safesh.core.contain import RUN_ID
from safesh.errors import AlreadyRunning, CommandNotFound, ResourceError, SafeshError
from safesh.instance import lock as locks
from safesh.mission import store
from safesh.model import Limit, Limits, Ready, StopPolicy, TargetSpec
from safesh.paths import InstancePaths, project_dir

PROJECT = "default"  # that of named runs without a safe.toml: every listing shows it
_ENVIRONMENT = "environment"  # the file that names the environment in use
_START_SECONDS = 60.0
_STOP = StopPolicy(grace=5.0)


def make_folder(mission_id: str) -> str:
    """A folder for a mission's files, not yet anybody's."""
    path = os.path.join(store.folder("kept", mission_id), secrets.token_hex(6))
    os.mkdir(path, 0o700)
    return path


def start(
    mission_id: str,
    command: Sequence[str],
    folder: str,
    *,
    env: Mapping[str, str],
    cwd: str,
    limits: Limits | None,
    timeout: float | None,
    environment: str,
    ready: str,
    interval: float,
) -> dict[str, Any]:
    """Start the instance; what ``MissionResult.instance`` tells. Raises the SafeshError that kept it from running.

    folder: as of ``make_folder``; timeout: seconds it may run; environment: key of what must not be pruned meanwhile;
    ready: a file that is there once it serves, "" where running is enough.
    """
    limits = Limits.from_dict(limits.to_dict()) if limits is not None else Limits()
    if timeout is not None:
        limits.max_runtime = Limit(most=timeout, action="stop")
    if environment:
        store.write(os.path.join(folder, _ENVIRONMENT), environment.encode())
    spec = TargetSpec(
        name=mission_id,
        instance=mission_id,
        project=PROJECT,
        command=list(command),
        cwd=cwd,
        stop=_STOP,
        limits=limits,
        sample=interval,
        ready=Ready(heartbeat=ready, within=_START_SECONDS) if ready else Ready(),
    )
    answer = _launch(spec, env)
    _remove_others(folder)
    return {
        "name": mission_id,
        "pid": answer["pid"],
        "run_id": answer["run_id"],
        "log": answer["log"],
        "status": f"safe.sh status {mission_id}",
        "logs": f"safe.sh logs {mission_id}",
        "stop": f"safe.sh stop {mission_id}",
    }


def _launch(spec: TargetSpec, env: Mapping[str, str]) -> dict[str, Any]:
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "detach.py")
    # It must come to the same state folder, whatever its environment leaves out.
    whole = {**env, "SAFESH_HOME": paths.state_home()}
    whole.pop(RUN_ID, None)  # a run of its own, no member of ours
    order = wire.dumps({"spec": spec.to_dict(), "timeout": _START_SECONDS + 10})
    try:
        done = subprocess.run(
            [sys.executable, "-E", "-s", "-S", script],
            input=order.encode(),
            capture_output=True,
            env=whole,
            timeout=_START_SECONDS + 30,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ResourceError(
            f"its supervisor cannot be started: {error}", place=spec.name, hint="see: ulimit -a"
        ) from None
    try:
        answer: dict[str, Any] = wire.loads(done.stdout.decode())
    except ValueError:
        words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ResourceError(f"its supervisor cannot be started: {words}", place=spec.name) from None
    if "ready" in answer:
        ready: dict[str, Any] = answer["ready"]
        return ready
    failed = answer["failed"]
    kinds: dict[int, type[SafeshError]] = {75: AlreadyRunning, 127: CommandNotFound, 71: ResourceError}
    refusal = kinds.get(failed["code"], SafeshError)(failed["message"], place=failed["place"], hint=failed["hint"])
    refusal.exit_code = failed["code"]
    refusal.log = failed["log"]
    raise refusal


def _remove_others(folder: str) -> None:
    """The folders of earlier missions of this id: the instance is ours now, so they run no more."""
    root, own = os.path.split(folder)
    for entry in os.listdir(root):
        if entry != own:
            store.remove_tree(os.path.join(root, entry))


def environments_in_use() -> set[str]:
    """The keys of the environments that living instances run in."""
    root = store.folder("kept")
    found = set()
    for mission_id in os.listdir(root):
        for entry in os.listdir(os.path.join(root, mission_id)):
            key = paths.read_private(os.path.join(root, mission_id, entry, _ENVIRONMENT))
            if key and is_live(mission_id):
                found.add(key.strip())
    return found


def is_live(mission_id: str) -> bool:
    """Whether somebody holds the instance of this name."""
    path = InstancePaths(project_dir(PROJECT), mission_id).lock
    if not os.path.lexists(path):
        return False
    lock = locks.try_acquire(path)
    if lock is None:
        return True
    lock.release()
    return False
