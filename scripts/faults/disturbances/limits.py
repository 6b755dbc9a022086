"""Descriptors and processes run out, for a supervisor or keeper that lives or for commands about to begin."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults import processes
from faults.disturbances.stopping import pick
from faults.world import World

_LEAST = 6  # descriptors without which no Python starts: there is nothing of ours to test below that


class Descriptors:
    """A living supervisor or keeper may open no more than it has open, or a few more (prlimit(2))."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.name = f"{role} without descriptors"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        one = pick(world, rng, self.role)
        more = rng.choice((0, 0, 1, 2, 3, 5))
        if one is None:
            return None
        try:
            highest = max(int(name) for name in os.listdir(f"/proc/{one.pid}/fd"))
            # The hard limit stays as it is: to raise it again takes CAP_SYS_RESOURCE.
            before = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (highest + 1 + more, before[1]))
        except (OSError, ValueError):
            return None  # it has just ended

        def undo() -> None:
            if processes.alive(one.key):
                with suppress(ProcessLookupError):
                    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, before)

        return undo


class CommandDescriptors:
    """Commands, and the supervisors that they become, have so few descriptors from the beginning."""

    name = "commands without descriptors"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        most = rng.randrange(_LEAST, 24)
        return prefixed(world, "prlimit", f"--nofile={most}:{most}", "--")


class Pids:
    """No process can be made any more, by commands or by holders: pids.max of a cgroup of the world's own.

    The kernel's limit of the whole machine (kernel.pid_max) is never touched.
    """

    name = "no process left"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        room = rng.choice((0, 1, 1, 2, 3, 5))
        top = controller("pids")
        if top is None:
            return None
        group = top / f"{world.marker}-pids"
        try:
            group.mkdir()
        except OSError:
            return None
        for one in world.members():
            with suppress(OSError):
                (group / "cgroup.procs").write_text(str(one.pid))
        # Read anew: some have come and gone meanwhile.
        current = int((group / "pids.current").read_text())
        (group / "pids.max").write_text(str(current + room))
        inside = f'echo $$ >"{group}/cgroup.procs" && exec "$@"'
        unprefix = prefixed(world, "sh", "-c", inside, "sh")

        def undo() -> None:
            unprefix()
            (group / "pids.max").write_text("max")
            leave(group, top)

        return undo


def leave(group: Path, top: Path, passes: int = 50) -> None:
    """Move everybody back and remove the group; who forks meanwhile needs another pass."""
    for _ in range(passes):
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (top / "cgroup.procs").write_text(pid)
        try:
            group.rmdir()
            return
        except OSError:
            continue


def controller(name: str) -> Path | None:
    """Our own group under a cgroup controller, v1 or v2, in which groups can be made; None where there is none."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, names, path = line.split(":", 2)
        own |= {one: path for one in names.split(",")}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _source, options = right.split(" ", 2)
        if kind == "cgroup" and name in options.split(","):
            path = own.get(name)
        elif kind == "cgroup2":
            path = own.get("")
        else:
            continue
        root, mount = left.split()[3:5]
        if path is None:
            continue
        top = Path(mount) / (path if root == "/" else path.removeprefix(root)).lstrip("/")
        if os.access(top, os.W_OK) and (kind == "cgroup" or _delegates(top, name)):
            return top
    return None


def _delegates(top: Path, name: str) -> bool:
    """cgroup v2: whether groups below ``top`` have the controller."""
    try:
        return name in (top / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def prefixed(world: World, *words: str) -> Callable[[], None]:
    """Commands begin with these words; what undoes that."""
    world.prefix = [*words, *world.prefix]

    def undo() -> None:
        # The recovery of a world may have emptied it, or another prefix stands before ours.
        for at in range(len(world.prefix)):
            if world.prefix[at : at + len(words)] == list(words):
                del world.prefix[at : at + len(words)]
                return

    return undo
