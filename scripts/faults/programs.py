"""The targets of a campaign's world: well-behaved ones and the worst that is known, as shell scripts.

Each begins with a claim: flock(2) on a file of its instance, on a descriptor that all its descendants inherit. A second
run that begins while anybody of the first lives cannot have it and says so, at that very moment: "at most one instance"
is proved by the kernel, not by looking now and then. Sleepers are told apart by the fraction of their seconds.
"""

from __future__ import annotations

from typing import Any

CLAIM = """exec 9>>"$FAULTS_CLAIMS/$FAULTS_INSTANCE.claim"
flock -n -E 99 9
[ $? -ne 99 ] || echo "$FAULTS_INSTANCE: $FAULTS_TARGET, pid $$, began while a run lived" >>"$FAULTS_CLAIMS/double"
"""
# {n}: the target's number. What a target leaves behind keeps its claim, unless it closes descriptors as daemons do.
_BODIES = {
    "calm": "exec sleep 1000.{n}",
    "deaf": "trap '' TERM HUP INT\nsleep 1000.{n} &\nwhile :; do sleep 1001.{n}; done",
    "daemon": "(setsid sh -c 'trap \"\" TERM HUP; sleep 1002.{n} & exec sleep 1003.{n}' &)\n"
    "setsid sleep 1004.{n} &\nexec sleep 1005.{n}",
    "naked": "(env -i setsid sleep 1006.{n} 9>&- &)\nenv -i setsid sleep 1007.{n} 9>&- &\nexec sleep 1008.{n}",
    "forker": "trap '' TERM\nwhile :; do sleep 0.4{n} & sleep 0.2{n}; done",
    "crasher": "sleep 0.1{n}\nexit 3",
    "logger": 'i=0\nwhile :; do\n  i=$((i + 1))\n  echo "line $i of the log, long enough for small files"\n'
    "  [ $((i % 40)) -ne 0 ] || sleep 0.1{n}\ndone",
    "patient": "exec sleep 1009.{n}",
    "headless": "sleep 1010.{n} &\nexec sleep 1011.{n}",
    "gui": "trap 'exit 0' TERM\nsleep 1012.{n} &\nwait",
}
# What is asked of them in safe.toml, besides the command; the driver changes some of it on the way.
_SETTINGS: dict[str, dict[str, Any]] = {
    "deaf": {"stop": {"grace": "0.2s"}},
    "daemon": {"stop": {"grace": "0.3s", "scope": "tree"}},
    "forker": {"stop": {"grace": "0.1s"}},
    "crasher": {"restart": "on-failure", "start_limit": {"count": 0}},
    "logger": {"log": {"size": 4096, "keep": 2}},
    "patient": {
        "restart": "always",
        "ready": {"command": ["test", "-e", "{alive}"], "interval": "0.05s", "within": "3s"},
        "health": {"command": ["test", "-e", "{alive}"], "interval": "0.1s", "retries": 1, "timeout": "1s"},
    },
    "headless": {"instance": "robot"},
    "gui": {"instance": "robot", "restart": "on-failure"},
}
NAMES = tuple(_BODIES)


def script(name: str, number: int) -> str:
    return CLAIM + _BODIES[name].replace("{n}", str(number)) + "\n"


def settings(name: str, alive: str) -> dict[str, Any]:
    """A fresh table for safe.toml. ``alive``: the file that the patient one's probe looks for."""
    table: dict[str, Any] = {"stop": {"grace": "0.2s"}}
    for key, value in _SETTINGS.get(name, {}).items():
        table[key] = dict(value) if isinstance(value, dict) else value
        if isinstance(value, dict) and "command" in value:
            table[key]["command"] = [word.replace("{alive}", alive) for word in value["command"]]
    table["backoff"] = {"initial": "0.05s", "max": "0.2s", "jitter": 0}
    return table


def serves(name: str, backend: str) -> bool:
    """Whether a backend promises to hold it. Cleared environment, own session and a parent that has gone: after a
    common death of supervisor and keeper only a cgroup still knows such a process (docs/reliability.md)."""
    return name != "naked" or backend == "cgroup"
