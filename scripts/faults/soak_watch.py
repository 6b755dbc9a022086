"""What is looked at in a soak: memory, descriptors and threads of supervisors and keepers, and the files they leave."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults.soak_crowd import Crowd, started_at

_RUN = re.compile(r'"run_id": ?"([^"]+)"')
_EVENTS = re.compile(r"events\.jsonl(\.\d+)?$")
_LOG = re.compile(r"(?P<name>.+)\.log(\.\d{6,}(\.gz)?|\.\d{6,}\.gz\.tmp)?$")


def memory(pid: int) -> dict[str, int] | None:
    """In KiB (proc_pid_smaps_rollup); None when it is gone. anon: memory that is no file's, shared with a fork or not;
    uss: what nobody else maps, so a supervisor's falls by what its keeper shares while that lives."""
    fields: Counter[str] = Counter()
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0])
    except (OSError, ValueError, IndexError):
        return None
    if not fields["Pss"]:  # it is ending
        return None
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"pss": fields["Pss"], "uss": private, "anon": fields["Anonymous"]}


def process(identity: dict[str, Any] | None) -> dict[str, Any] | None:
    """One look at a supervisor or a keeper; None where there is none at this moment."""
    if not identity:
        return None
    pid = identity["pid"]
    if started_at(pid) != identity["start"]:
        return None
    found = memory(pid)
    try:
        fds, threads = len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None
    if found is None:
        return None
    return {"pid": pid, **found, "fds": fds, "threads": threads}


def reading(crowd: Crowd, begun: float) -> dict[str, Any]:
    """All of it at one moment. at: seconds since ``begun`` (monotonic)."""
    seen: dict[str, Any] = {"at": round(time.monotonic() - begun, 2), "supervisor": {}, "keeper": {}, "restarts": 0}
    restarts = {}
    for one in crowd.them:
        record = crowd.record(one.name)
        restarts[one.name] = record.get("restarts", 0)
        for kind in ("supervisor", "keeper"):
            if (found := process(record.get(kind))) is not None:
                seen[kind][one.name] = found
    seen["restarts"] = restarts
    seen |= _processes()
    seen |= _files(crowd)
    return seen


def _processes() -> dict[str, Any]:
    """Everybody in the namespace; the zombies among them by pid."""
    count, zombies = 0, []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            continue
        count += 1
        if state == b"Z":
            zombies.append(int(name))
    return {"processes": count, "zombies": zombies}


def groups_left(crowd: Crowd) -> list[str]:
    """Control groups of this soak's runs, as far as events.jsonl still knows them; others have theirs beside them."""
    parents = {os.path.dirname(crowd.record(one.name).get("cgroup") or "") for one in crowd.them} - {""}
    there = {name.removeprefix("safesh-") for parent in parents for name in os.listdir(parent)}
    if not there:
        return []
    ours = set()
    for name in ("events.jsonl.1", "events.jsonl"):
        try:
            ours |= {*_RUN.findall((crowd.state / name).read_text("utf-8", "replace"))}
        except FileNotFoundError:
            continue
    return sorted(there & ours)


def _files(crowd: Crowd) -> dict[str, Any]:
    """The state folder: how many files, and bytes by what they are; the longest log of all with its parts."""
    sizes: Counter[str] = Counter()
    logs: Counter[str] = Counter()
    names = 0
    with os.scandir(crowd.state) as entries:
        for entry in entries:
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
            names += 1
            if found := _LOG.match(entry.name):
                logs[found["name"]] += size
            elif _EVENTS.match(entry.name):
                sizes["events"] += size
            elif entry.name.startswith("history.spool"):
                sizes["spool"] += size
            elif entry.name.startswith("history.db"):
                sizes["database"] += size
            else:
                sizes["rest"] += size
    kinds = {kind: sizes[kind] for kind in ("events", "spool", "database", "rest")}
    return {"files": names, "bytes": {**kinds, "logs": sum(logs.values())}, "log": max(logs.values(), default=0)}


def rows(crowd: Crowd) -> dict[str, int]:
    """What the history holds: rows of each table, and the most runs of one target."""
    found: dict[str, int] = {}
    connection = sqlite3.connect(f"file:{crowd.state / 'history.db'}?mode=ro", uri=True, timeout=10)
    try:
        for table in ("runs", "raw", "minute", "hour", "run_keys", "series"):
            (found[table],) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        query = "SELECT max(n) FROM (SELECT count(*) AS n FROM runs GROUP BY target)"
        (most,) = connection.execute(query).fetchone()
        found["runs of one target"] = most or 0
    finally:
        connection.close()
    return found


def cpu_seconds(crowd: Crowd) -> float:
    """Of the supervisors that live now, and of all that they have collected: keepers, and through them targets."""
    ticks = 0
    for one in crowd.them:
        identity = crowd.record(one.name).get("supervisor") or {}
        try:
            fields = Path(f"/proc/{identity.get('pid', 0)}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(int(word) for word in fields[11:15])
        except (OSError, ValueError, IndexError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK")
