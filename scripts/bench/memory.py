"""What it costs to do nothing: memory and wakeups of an idle supervisor, keeper, supervisord and bare Python."""

from __future__ import annotations

import os
import shutil
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.figures import Row, Section
from bench.peers import FOLDER, Peers, Supervisord
from bench.stage import Stage

_SETTLE = 2.0


class Loner(NamedTuple):
    """An interpreter whose program text nobody else maps, and what the environment needs for it."""

    python: str
    changes: dict[str, str]


def loner(stage: Stage, name: str) -> Loner:
    """Copy the interpreter (and its shared library, where it has one).

    PSS divides a shared page by all who map it. This benchmark runs in Python too, and so may half the machine; with
    a copy of its own each contestant is charged in full, whoever else runs.
    """
    folder = stage.folder / f"python-{name}"
    stage.call([stage.python, "-m", "venv", "--copies", "--without-pip", str(folder)])
    # Its libraries are those of the other one: reading safe.toml needs them.
    packages = next((folder / "lib").glob("python*/site-packages"))
    packages.rmdir()
    packages.symlink_to(next((Path(stage.python).parents[1] / "lib").glob("python*/site-packages")))
    changes = {}
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
        shutil.copy(library, folder / "lib")
        changes = {"LD_LIBRARY_PATH": str(folder / "lib")}
    return Loner(str(folder / "bin" / "python"), changes)


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
        if peers.supervisor:
            theirs = loner(stage, "supervisord")
            modules = str(next((FOLDER / "lib").glob("python*/site-packages")))
            programs = {"idle": "command=sleep 600\nautostart=true"}
            daemon = stack.enter_context(
                Supervisord(stage, peers, programs, theirs.python, PYTHONPATH=modules, **theirs.changes)
            )
            pids["supervisord"] = daemon.child.pid
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
    memory.rows.append(_mebibytes("memory.both", "supervisor + keeper", total, "", ours=True, bar=12))
    for name, reading in before.items():
        ours = name in ("supervisor", "keeper")
        told = f"{reading.private} KiB private"
        memory.rows.append(_mebibytes(f"memory.{name}", labels[name], reading.pss, told, ours=ours))
    both = [after[name].slept - before[name].slept for name in ("supervisor", "keeper")]
    wakeups.rows.append(_count("wakeups.both", "supervisor + keeper", sum(both), ours=True, bar=0))
    for name in after:
        if name not in ("supervisor", "keeper"):
            wakeups.rows.append(_count(f"wakeups.{name}", labels[name], after[name].slept - before[name].slept))


def _mebibytes(key: str, what: str, kib: int, told: str, *, ours: bool, bar: float | None = None) -> Row:
    value = kib / 1024
    return Row(key, what, value, "MiB", value, value, absolute=f"{kib} KiB", ours=ours, bar=bar, note=told)


def _count(key: str, what: str, number: int, *, ours: bool = False, bar: float | None = None) -> Row:
    return Row(key, what, number, "", number, number, ours=ours, bar=bar)
