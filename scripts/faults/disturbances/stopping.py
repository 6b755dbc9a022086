"""Somebody is stopped (SIGSTOP) and, at the end, goes on."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress

from faults import processes
from faults.processes import Process
from faults.world import World


class Stopped:
    """One process of a role stands still. role: supervisor, keeper, target (the main process) or member."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.name = f"{role} stopped"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        chosen = pick(world, rng, self.role)
        if chosen is None or not send(chosen, signal.SIGSTOP):
            return None
        return lambda: void(send(chosen, signal.SIGCONT))


def pick(world: World, rng: random.Random, role: str) -> Process | None:
    """One living process of the role, chosen by the draw; None when there is none."""
    members = world.members()
    draw = rng.random()
    if role in ("supervisor", "keeper"):
        found = [one for one in members if one.role == role]
    else:
        keepers = {one.pid for one in members if one.role == "keeper"}
        found = [one for one in members if one.role == "member" and (role == "member" or one.ppid in keepers)]
    return sorted(found)[int(draw * len(found))] if found else None


def send(one: Process, number: signal.Signals) -> bool:
    """Signal the very process that was chosen; False when it has gone."""
    if not processes.alive(one.key):
        return False
    with suppress(ProcessLookupError):
        os.kill(one.pid, number)
        return True
    return False


def void(_: object) -> None:
    """For undoing functions, which answer nothing."""
