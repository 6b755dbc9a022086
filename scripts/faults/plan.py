"""What the campaign decides, from a seed alone: nothing here looks at a clock or a process, so a seed is replayable.

One seed is one world of at most ``STEPS`` steps. Each step has its own generator, so what a disturbance draws for
itself changes nothing of what comes after.
"""

from __future__ import annotations

import random
import tomllib
from typing import NamedTuple

STEPS = 20  # of one world
BACKENDS = ("cgroup", "subreaper", "posix")

# (weight, words); T is the step's target
_COMMANDS: tuple[tuple[int, str], ...] = (
    (22, "start --detach T"),
    (3, "start --detach --json T"),
    (6, "start --replace --force --detach T"),
    (2, "start --all --detach"),
    (10, "stop --force T"),
    (4, "stop --force --now T"),
    (3, "stop --force --json T"),
    (1, "stop --force"),
    (9, "restart --force T"),
    (2, "restart --force --now T"),
    (2, "kill-all --force"),
    (2, "kill-all --force --now --json"),
    (4, "health T"),
    (3, "health --start --timeout 5s T"),
    (2, "health --json"),
    (5, "status --json"),
    (4, "status T"),
    (2, "status"),
    (3, "logs T"),
    (2, "logs -n 1000"),
    (2, "exec --timeout 5 --on-exit end -- sh -c X"),
)
_FOREGROUND = 8  # percent of the steps begin a start in the foreground
EXEC_SCRIPT = "(setsid sleep 60 &) ; sleep 60 & exit 3"  # what --on-exit end has to end
EXEC_STATUS = (3, 125)  # the second without a subreaper, where --on-exit end is refused


class Action(NamedTuple):
    """One thing of a step: ``at`` seconds from its begin. kind: command, foreground, signal, alive, disturb.

    words: a command's; (signal, role, instance) of a signal; (on|off); (the disturbance's number). draw: [0, 1), for
    what can be chosen only when it is due (which member).
    """

    at: float
    kind: str
    words: tuple[str, ...]
    draw: float = 0.0

    def __str__(self) -> str:
        return f"+{self.at:.3f} {self.kind} {' '.join(self.words)}"


class Step(NamedTuple):
    """number: in its world; ensure: a target that is started before; config: what becomes of safe.toml first; recover:
    whether everything is put in order, ended and started at the end of it."""

    number: int
    target: str
    ensure: bool
    config: tuple[str, ...]
    actions: tuple[Action, ...]
    recover: bool

    def __str__(self) -> str:
        first = [f"start --detach {self.target}"] if self.ensure else []
        edit = [f"safe.toml: {' '.join(self.config)}"] if self.config else []
        return "; ".join([*edit, *first, *map(str, self.actions), *(["recover"] if self.recover else [])])


class WorldPlan(NamedTuple):
    backend: str
    size_kib: int  # of the state folder's tmpfs


def world(seed: int, backends: tuple[str, ...] = BACKENDS) -> WorldPlan:
    rng = random.Random(f"world {seed}")
    return WorldPlan(backends[rng.randrange(len(backends))], rng.choice((1024, 2048, 8192)))


def step(seed: int, number: int, names: list[str], instance: dict[str, str], disturbances: int) -> Step:
    """The ``number``-th step of a world. names: its targets; disturbances: how many others there are to choose from."""
    rng = random.Random(f"step {seed} {number}")
    target = rng.choice(names)
    actions: list[Action] = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
        mine = target if rng.random() < 0.8 else rng.choice(names)
        words = rng.choices(_COMMANDS, [weight for weight, _words in _COMMANDS])[0][1].split()
        words = [EXEC_SCRIPT if word == "X" else mine if word == "T" else word for word in words]
        if words[0] == "stop" and rng.random() < 0.2:
            words += ["--timeout", rng.choice(("0.05s", "0.5s"))]
        actions.append(Action(_delay(rng), "command", tuple(words), rng.random()))
    if rng.randrange(100) < _FOREGROUND:
        actions.append(Action(_delay(rng), "foreground", ("start", target), rng.random()))
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 2, 3))):
        actions.append(_signal(rng, instance[target if rng.random() < 0.85 else rng.choice(names)]))
    if rng.random() < 0.06:
        actions.append(Action(_delay(rng), "alive", (rng.choice(("off", "off", "on")),)))
    if disturbances and rng.random() < 0.3:
        actions.append(Action(_delay(rng), "disturb", (str(rng.randrange(disturbances)),), rng.random()))
    config: tuple[str, ...] = ()
    if rng.random() < 0.15:
        config = ("break", rng.choice(BREAKS)) if rng.random() < 0.3 else ("edit", target, rng.choice(EDITS))
    ensure, recover = rng.random() < 0.7, rng.random() < 0.12
    return Step(number, target, ensure, config, tuple(sorted(actions, key=lambda one: one.at)), recover)


def _delay(rng: random.Random) -> float:
    """Seconds: at once, within the moments in which a front end works, or later."""
    return round(rng.choice((0.0, rng.uniform(0, 0.03), rng.uniform(0, 0.12), rng.uniform(0, 0.4))), 4)


def _signal(rng: random.Random, instance: str) -> Action:
    role = rng.choices(("supervisor", "keeper", "main", "member", "members", "both", "command"), (6, 6, 3, 3, 1, 2, 2))[
        0
    ]
    name = rng.choices(("KILL", "STOP", "CONT", "TERM", "HUP", "INT"), (60, 18, 6, 8, 4, 4))[0]
    if role in ("both", "command") or (role == "keeper" and name in ("TERM", "HUP", "INT")):
        name = "KILL"
    return Action(_delay(rng), "signal", (name, role, instance), rng.random())


# Edits of safe.toml that are valid, and what breaks it.
EDITS = ("grace", "restart", "log", "env", "scope", "sample", "limit", "notify")
BREAKS = ("cut", "unknown-key", "wrong-type", "empty", "not-toml", "gone", "open-to-all", "binary")


def edit(table: dict[str, object], what: str, rng: random.Random) -> None:
    """Change a target's table; it stays valid."""
    if what == "grace":
        table["stop"] = {**_table(table, "stop"), "grace": rng.choice(("0.05s", "0.2s", "0.4s"))}
    elif what == "restart":
        table["restart"] = rng.choice(("no", "on-failure", "always"))
        table["start_limit"] = {"count": rng.choice((0, 2, 5)), "window": "10s"}
    elif what == "log":
        table["log"] = {"size": rng.choice((512, 4096, 65536)), "keep": rng.choice((1, 2, 3)),
                        "compress": rng.random() < 0.5, "timestamps": rng.random() < 0.3}  # fmt: skip
    elif what == "env":
        table["env"] = {"FAULTS_EDIT": str(rng.randrange(1000))}
    elif what == "scope":
        table["stop"] = {**_table(table, "stop"), "scope": rng.choice(("main", "tree"))}
    elif what == "sample":
        table["sample"] = rng.choice(("0.1s", "0s"))
    elif what == "limit":
        table["limits"] = rng.choice(({}, {"max_runtime": "1s"}, {"processes": 200, "interval": "0.2s"}))
    elif what == "notify":
        table["notify"] = rng.choice(([], [{"command": ["true"], "every": 0}]))


def _table(table: dict[str, object], key: str) -> dict[str, object]:
    value = table.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _is_toml(data: bytes) -> bool:
    try:
        tomllib.loads(data.decode())
    except ValueError:
        return False
    return True


def broken(text: str, how: str, rng: random.Random) -> bytes | None:
    """safe.toml's text spoilt; None: the file is taken away; ``open-to-all`` leaves the text and changes the mode."""
    data = text.encode()
    if how == "cut":
        end = rng.randrange(len(data) // 2, len(data) - 3)
        while _is_toml(data[:end]):  # between two lines: another file, and a valid one, with half a target
            end -= 1
        return data[:end]
    if how == "unknown-key":
        return data + b'grce = "5s"\n'
    if how == "wrong-type":
        return data + b"restart = 7\n" if b"restart" not in data.rpartition(b"[targets.")[2] else data + b"stop = 7\n"
    if how == "empty":
        return b""
    if how == "not-toml":
        return b"project := {{{\n"
    if how == "binary":
        return rng.randbytes(200)
    return None if how == "gone" else data
