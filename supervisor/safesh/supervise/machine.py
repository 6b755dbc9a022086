"""The state machine: state x event → (action, next state). Every pair is answered.

Actions are names of ``Supervisor`` methods; the machine itself does nothing, so it can be read and tested whole.
Readiness, health and limits are watchers that raise events; see ``watcher.py``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from safesh.model import State

    Event = Literal[
        "start",  # begin
        "spawned",  # the target's program has been executed
        "refused",  # it could not be: not found, not executable, no such folder
        "ready",  # the target serves (without a probe: at once)
        "not_ready",  # the readiness probe has given up
        "healthy",
        "unhealthy",
        "condemned",  # a limit, or its health, wants this run ended
        "exited",  # the main process has ended; the keeper is ending the rest
        "over_restart",  # the tree is empty, and the policy wants it again
        "over_now",  # the tree is empty, and somebody asked for a restart
        "over_finish",  # the tree is empty, and that was wanted
        "over_fail",  # the tree is empty or has survivors, and it shall not be started again
        "keeper_lost",  # the keeper died under us: its orphans are ours now
        "stop",
        "kill",  # stop without waiting
        "restart",
        "due",  # the backoff is over
    ]
    Action = Literal[
        "spawn",
        "watch",
        "announce",
        "give_up",
        "note",
        "end_tree",
        "end_tree_now",
        "hurry",
        "clean_up",
        "schedule",
        "finish",
        "ignore",
    ]

EVENTS: tuple[Event, ...] = (
    "start",
    "spawned",
    "refused",
    "ready",
    "not_ready",
    "healthy",
    "unhealthy",
    "condemned",
    "exited",
    "over_restart",
    "over_now",
    "over_finish",
    "over_fail",
    "keeper_lost",
    "stop",
    "kill",
    "restart",
    "due",
)

# What every state with a living tree answers alike.
_ALIVE: dict[Event, tuple[Action, State]] = {
    "exited": ("note", "stopping"),
    "keeper_lost": ("clean_up", "stopping"),
    "condemned": ("end_tree", "stopping"),
    "stop": ("end_tree", "stopping"),
    "kill": ("end_tree_now", "stopping"),
    "restart": ("end_tree", "stopping"),
    "over_restart": ("schedule", "backoff"),
    "over_now": ("spawn", "starting"),
    "over_finish": ("finish", "finished"),
    "over_fail": ("finish", "failed"),
}

_MOVES: dict[State, dict[Event, tuple[Action, State]]] = {
    "idle": {
        "start": ("spawn", "starting"),
        "stop": ("finish", "finished"),
        "kill": ("finish", "finished"),
    },
    "starting": {
        **_ALIVE,
        "spawned": ("watch", "starting"),
        "ready": ("announce", "running"),
        "refused": ("give_up", "failed"),
        "not_ready": ("end_tree", "stopping"),
    },
    "running": {
        **_ALIVE,
        "unhealthy": ("note", "unhealthy"),
    },
    "unhealthy": {
        **_ALIVE,
        "healthy": ("note", "running"),
    },
    "stopping": {
        **_ALIVE,
        # The keeper is at work already: a second stop changes nothing, an impatient one ends the grace.
        "condemned": ("ignore", "stopping"),
        "stop": ("note", "stopping"),
        "restart": ("note", "stopping"),
        "kill": ("hurry", "stopping"),
        # A stop overtook the keeper's report: nothing was started, or it is being ended.
        "spawned": ("note", "stopping"),
        "refused": ("give_up", "failed"),
    },
    "backoff": {
        "due": ("spawn", "starting"),
        "restart": ("spawn", "starting"),
        "stop": ("finish", "finished"),
        "kill": ("finish", "finished"),
    },
    "finished": {},
    "failed": {},
}


def _ignored(state: State) -> dict[Event, tuple[Action, State]]:
    return {event: ("ignore", state) for event in IGNORED[state]}


# Listed one by one, so that a new event must be thought about in every state.
IGNORED: dict[State, tuple[Event, ...]] = {
    "idle": (
        "spawned", "refused", "ready", "not_ready", "healthy", "unhealthy", "condemned", "exited", "over_restart",
        "over_now", "over_finish", "over_fail", "keeper_lost", "restart", "due",
    ),
    "starting": ("start", "healthy", "unhealthy", "due"),
    "running": ("start", "spawned", "refused", "ready", "not_ready", "healthy", "due"),
    "unhealthy": ("start", "spawned", "refused", "ready", "not_ready", "unhealthy", "due"),
    "stopping": ("start", "ready", "not_ready", "healthy", "unhealthy", "due"),
    "backoff": (
        "start", "spawned", "refused", "ready", "not_ready", "healthy", "unhealthy", "condemned", "exited",
        "over_restart", "over_now", "over_finish", "over_fail", "keeper_lost",
    ),
    "finished": EVENTS,
    "failed": EVENTS,
}  # fmt: skip

TABLE: dict[State, dict[Event, tuple[Action, State]]] = {
    state: {**_ignored(state), **moves} for state, moves in _MOVES.items()
}
