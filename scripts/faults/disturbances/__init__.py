"""Everything that goes wrong around safesh, each undoable: ``ALL`` of them, always in the same order, so that a seed
means the same on every machine. One that cannot be done on this machine does nothing; ``missing`` names it.
"""

from __future__ import annotations

import shutil

from faults.disturbances import clock, damage, disk, limits, stopping
from faults.disturbances.calls import Calls
from faults.world import Disturbance

ALL: list[Disturbance] = [
    *(stopping.Stopped(role) for role in ("supervisor", "keeper", "target", "member")),
    disk.Full(),
    disk.Inodes(),
    disk.ReadOnly(),
    *(limits.Descriptors(role) for role in ("supervisor", "keeper")),
    limits.CommandDescriptors(),
    limits.Pids(),
    *(damage.Damaged(what, spoil) for what, spoil in damage.KINDS.items()),
    *(damage.FolderDamaged(what) for what in damage.FOLDER_KINDS),
    clock.Stepped("ahead"),
    clock.Stepped("back"),
    clock.Monotonic(),
    *(Calls(role) for role in ("supervisor", "keeper")),
]


def prepare() -> None:
    """Before the namespaces are entered: get what can be had (libfaketime, from Debian's package)."""
    clock.install()


def missing() -> dict[str, str]:
    """Disturbance -> why it cannot be done on this machine."""
    found = {}
    if not clock.library():
        found |= dict.fromkeys((f"clock {where}" for where in ("ahead", "back")), "no libfaketime")
    if not clock.time_namespaces():
        found[clock.Monotonic.name] = "no time namespaces"
    if limits.controller("pids") is None:
        found[limits.Pids.name] = "no cgroup pids controller to make a group in"
    if not shutil.which("strace"):
        found |= {Calls(role).name: "no strace" for role in ("supervisor", "keeper")}
    return found
