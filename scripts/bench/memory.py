"""What it costs to do nothing: memory and wakeups of an idle supervisor, keeper, supervisord and bare Python."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench.figures import Row, Section
from bench.loner import loner
from bench.peers import Peers
from bench.stage import Stage

_SETTLE = 2.0


class Reading(NamedTuple):
    """KiB of smaps_rollup, and context switches."""

    pss: int
    private: int
    rss: int
    slept: int
    preempted: int


def read(pid: int) -> Reading:
    """proc_pid_smaps_rollup and proc_pid_status (proc(5)); a voluntary switch is a sleep, so counts wakeups."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0])
    slept = preempted = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "voluntary_ctxt_switches":
                slept += int(value)
            elif name == "nonvoluntary_ctxt_switches":
                preempted += int(value)
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return Reading(fields["Pss"], private, fields["Rss"], slept, preempted)


def idle(stage: Stage, peers: Peers, seconds: float) -> tuple[Section, Section]:
    """PSS after 2 s of idling, and wakeups in the ``seconds`` that follow, all contestants side by side."""
    memory = Section("memory", "idle memory", "PSS, each contestant with its own copy of the interpreter")
    wakeups = Section("wakeups", f"wakeups while idle, in {seconds:g} s", "voluntary context switches, all threads")
    if not os.path.exists("/proc/self/smaps_rollup"):
        memory.missing.append("this system has no /proc/PID/smaps_rollup")
        return memory, wakeups
    with ExitStack() as stack:
        mine, bare = loner(stage, "safesh"), loner(stage, "bare")
        via = [mine.python, *stage.direct[1:]]
        info = stack.enter_context(stage.running("idle", ("sleep", "600"), via, **mine.changes))
        pids = {
            "supervisor": info["record"]["supervisor"]["pid"],
            "keeper": info["record"]["keeper"]["pid"],
        }
        child = stage.begin([bare.python, "-c", "import time; time.sleep(600)"], **bare.changes)
        stack.callback(stage.end, child)
        pids["bare"] = child.pid
        if peers.supervisord:
            hall = stack.enter_context(peers.supervisord.running(stage, {"idle": ["sleep", "600"]}, alone=True))
            hall.begin("idle")
            pids["supervisord"] = hall.children[""].pid
        else:
            for section in (memory, wakeups):
                section.missing.append(f"supervisord: {peers.missing['supervisord']}")
        time.sleep(_SETTLE)
        before = {name: read(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        after = {name: read(pid) for name, pid in pids.items()}
    _fill(memory, wakeups, before, after)
    return memory, wakeups


def _fill(memory: Section, wakeups: Section, before: dict[str, Reading], after: dict[str, Reading]) -> None:
    labels = {"supervisor": "supervisor", "keeper": "keeper", "supervisord": "supervisord",
              "bare": "bare Python, asleep (the limit of one process)"}  # fmt: skip
    total = before["supervisor"].pss + before["keeper"].pss
    memory.rows.append(_mebibytes("memory.both", "supervisor + keeper", total, "", ours=True, bar=12, by="safesh"))
    for name, reading in before.items():
        ours = name in ("supervisor", "keeper")
        told = f"{reading.private} KiB private"
        memory.rows.append(_mebibytes(f"memory.{name}", labels[name], reading.pss, told, ours=ours, **_role(name)))
    both = [after[name].slept - before[name].slept for name in ("supervisor", "keeper")]
    wakeups.rows.append(_count("wakeups.both", "supervisor + keeper", sum(both), ours=True, bar=0, by="safesh"))
    for name in after:
        if name not in ("supervisor", "keeper"):
            slept = after[name].slept - before[name].slept
            wakeups.rows.append(_count(f"wakeups.{name}", labels[name], slept, **_role(name)))


def _role(name: str) -> dict[str, Any]:
    roles: dict[str, dict[str, Any]] = {"bare": {"limit": True}, "supervisord": {"by": "supervisord"}}
    return roles.get(name, {})


def _mebibytes(key: str, what: str, kib: int, told: str, **more: Any) -> Row:
    value = kib / 1024
    return Row(key, what, value, "MiB", value, value, absolute=f"{kib} KiB", note=told, **more)


def _count(key: str, what: str, number: int, **more: Any) -> Row:
    return Row(key, what, number, "", number, number, **more)
