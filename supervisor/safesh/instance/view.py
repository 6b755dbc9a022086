"""One look at an instance from outside: lock, record, pid file, tree and strays, and what they add up to."""

from __future__ import annotations

import os

from safesh import _platform
from safesh.core.contain import Tree, describe, open_group
from safesh.errors import StateError
from safesh.instance import lock, record, strays
from safesh.model import LIVE_STATES, Member, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal

    from safesh._platform import Info
    from safesh.model import TargetSpec
    from safesh.paths import InstancePaths


class InstanceView(Record):
    """What is known about an instance now.

    holder: the lock file's line; code: LSB's status code (0 running, 1 dead but pid file, 2 dead but lock,
    3 not running, 4 unknown); problems: one line each, with the next command; held: pids of the supervisor, the keeper
    and whom they account for.
    """

    instance: str
    lock: Literal["free", "held", "unknown"] = "unknown"
    holder: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    problems: list[str] = []
    supervisor_alive: bool = False
    keeper_alive: bool = False
    main_alive: bool = False
    held: list[int] = []
    tree: list[Member] = []
    strays: list[Member] = []
    code: int = 4


def look(
    paths: InstancePaths,
    specs: Iterable[TargetSpec] = (),
    *,
    tree: bool = True,
    strays: bool = True,
) -> InstanceView:
    """Look at the instance of ``paths``; specs: its targets, for their ``match``. Changes nothing."""
    view = InstanceView(instance=paths.instance)
    try:
        view.lock = "held" if lock.is_held(paths.lock) else "free"
        view.holder = lock.read_holder(paths.lock)
    except StateError as error:
        view.problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    view.record, problem = record.read_record(paths)
    if problem:
        view.problems.append(problem)
    pid, problem = record.read_pid(paths)
    if problem:
        view.problems.append(problem)
    _judge(view, paths, pid)
    if tree or strays:
        _look_at_processes(view, paths, list(specs), tree, strays)
    view.code = _code(view, paths)
    return view


def _judge(view: InstanceView, paths: InstancePaths, pid: int | None) -> None:
    last = view.record
    holder_alive = view.lock == "held" and lock.is_alive(view.holder)
    if last is not None:
        # An identity is exact, so this holds also when somebody has removed or replaced the lock's file.
        view.supervisor_alive = lock.is_alive(last["supervisor"]) and (
            view.lock == "held" or last["state"] in LIVE_STATES
        )
        view.keeper_alive = lock.is_alive(last["keeper"])
        view.main_alive = lock.is_alive(last["main"])
    if holder_alive and not view.supervisor_alive:
        # Just started: its record is not written yet, or is the last run's.
        view.supervisor_alive = True
        if last is not None and last["supervisor"] != _identity(view.holder):
            view.record = None
    if view.supervisor_alive and view.lock == "free":
        view.lock = "held" if lock.is_held(paths.lock) else "free"  # it may have been taken since we asked
        if view.lock == "free":
            view.problems.append(
                f"{paths.lock} was removed or replaced while the instance runs, so the lock guards it no longer"
                f" (safe.sh stop {paths.instance}, then start it again)"
            )
    if view.supervisor_alive and is_full(paths.folder):
        view.problems.append(
            f"{paths.folder}: no space left on the disk, so output may be lost and what is shown here old"
            " (free some space)"
        )
    if view.lock == "held" and lock.is_elsewhere(view.holder):
        view.problems.append(
            f"{paths.lock} is held from another pid namespace (a container); look and stop it from there"
        )
    if pid is not None and not view.supervisor_alive:
        info = _platform.info(pid)
        ours = last is not None and last["supervisor"]["pid"] == pid and lock.is_alive(last["supervisor"])
        if info is not None and not info.dead and not ours:
            view.problems.append(
                f"{paths.pid} names pid {pid}, which is now another program ({info.command}); it is left alone"
            )


def is_full(folder: str) -> bool:
    """Whether nothing more can be written there (statvfs(3))."""
    try:
        info = os.statvfs(folder)
    except OSError:
        return False
    return info.f_blocks > 0 and info.f_bavail == 0


def _identity(holder: dict[str, Any] | None) -> dict[str, Any]:
    return {key: (holder or {}).get(key) for key in ("pid", "start", "boot")}


def _look_at_processes(
    view: InstanceView, paths: InstancePaths, specs: list[TargetSpec], tree: bool, strays_too: bool
) -> None:
    everything = _platform.scan()
    held: set[int] = set()
    last = view.record
    for role, alive in (("supervisor", view.supervisor_alive), ("keeper", view.keeper_alive)):
        if last is not None and alive:
            held.add(last[role]["pid"])
    if view.supervisor_alive and view.holder is not None:
        held.add(view.holder["pid"])
    if last is not None and (view.keeper_alive or view.supervisor_alive):
        members = held_members(everything, last, [last["keeper" if view.keeper_alive else "supervisor"]["pid"]])
        held |= set(members)
        if tree:
            view.tree = [describe(one) for _pid, one in sorted(members.items())]
    if strays_too:
        finder = strays.Finder(paths.folder, paths.instance, last, [(spec.name, spec.match) for spec in specs])
        view.strays = finder.members(everything, held)
        if finder.lost and (fresh := _fresh_holder(paths)):  # it has started since we looked at the lock
            view.strays = finder.members(everything, held | {fresh})
    view.held = sorted(held)


def _fresh_holder(paths: InstancePaths) -> int:
    """The pid of the living supervisor that the lock names now; 0 for none."""
    try:
        holder = lock.read_holder(paths.lock) if lock.is_held(paths.lock) else None
    except StateError:
        holder = None
    return int(holder["pid"]) if holder is not None and lock.is_alive(holder) else 0


def held_members(everything: dict[int, Info], last: dict[str, Any], holders: Iterable[int]) -> dict[int, Info]:
    """Members of a run that its supervisor or keeper still holds."""
    members: dict[int, Info] = {}
    for holder in holders:
        tree = Tree(last["run_id"], holder, open_group(last["cgroup"]), spare=[holder])
        members.update(tree.find(everything))
    return {pid: one for pid, one in members.items() if pid not in set(holders)}


def _code(view: InstanceView, paths: InstancePaths) -> int:
    if view.lock == "unknown":
        return 4
    last = view.record
    if view.supervisor_alive:
        return 0 if last is None or last["state"] in LIVE_STATES else 3
    if view.lock == "held" or view.strays:
        return 2
    if record.pid_file_exists(paths):
        return 1
    return 3
