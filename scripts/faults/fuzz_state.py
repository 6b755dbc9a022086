"""Properties of what lies in the state folder: records, pid and lock files, logs, histories, events, the cache."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import tempfile
from typing import Any

from faults.fuzz_box import Box, require
from faults.fuzz_target import Target
from safesh import config as configs
from safesh import wire
from safesh.core import logtail
from safesh.dashboard import data as dashboard
from safesh.dashboard import logs as dashboard_logs
from safesh.errors import SafeshError, StateError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.instance import view
from safesh.metrics import spool
from safesh.metrics.history import History
from safesh.paths import InstancePaths, remove
from safesh.supervise import stray_news

_WORDS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e308", b"1e999", b"0",
    b"9" * 19, b"9" * 400, b"4194304", b"1152921504606846975", b"\\ud800", b"\\u001b[31m", b"\\n", b"\0", b"\xff",
    b"[" * 100, b'"pid"', b'"main"', b'"state"', b'"running"', b'"boot"', b"\x1b]0;x\x07", b"safesh-", b"../",
)  # fmt: skip


def make_record() -> dict[str, Any]:
    """A record with all that one can have, of processes that are not there."""
    gone = {"pid": 4194303, "start": 1, "boot": "x/1"}
    member = {"pid": 4194302, "start": 1, "command": "sleep 1", "state": "S", "uid": 0}
    return {
        "v": 1, "project": "proj", "instance": "t", "target": "t", "state": "finished", "config": "",
        "mode": "detached", "backend": "subreaper", "cgroup": "", "run_id": "20261121T140309-9f86d081",
        "supervisor": gone, "keeper": gone,
        "main": gone, "command": ["sleep", "1"], "cwd": "/", "log": "/nowhere/t.log", "log_lost_bytes": 3, "grace": 1.5,
        "supervised_since": 1e9, "since": 1e9, "started_at": 1e9, "restarts": 2, "next_start_at": 1e9,
        "last_exit": {"code": 1, "signal": "", "core": False, "cause": "exit status 1", "at": 1e9},
        "last_verdict": {"target": "t", "asked": [member], "killed": [], "survivors": [member], "notes": ["x"]},
        "message": "gave up", "health": {"status": "unhealthy", "since": 1e9, "checked_at": 1e9, "message": "no",
        "failures": 3}, "notify": {"status": "busy", "at": 1e9}, "log_offset": 0, "ended_by": "limit",
        "fingerprint": {"command": "ab"}, "usage": {"run_id": "x", "user_seconds": 1.0, "peak_memory_bytes": 5},
        "sample": {"at": 1e9, "cpu_percent": 1.0, "memory_bytes": 5, "processes": 2},
    }  # fmt: skip


def _live_record() -> bytes:
    """The same of a run that goes on: we stand for its supervisor and its main process."""
    own = locks.own_identity()
    return json.dumps({**make_record(), "state": "running", "supervisor": own, "main": own}).encode()


def check_record(box: Box, data: bytes) -> bool:
    """Used whole, or told as damaged by name; whatever it says, status and JSON are shown, and nobody is signalled."""
    paths = InstancePaths(str(box.folder), "t")
    box.state_file("t.json", data)
    found, problem = records.read_record(paths)
    require((found is None) == bool(problem), "neither a record nor a problem")
    require(found is not None or paths.record in problem, f"a problem without a place: {problem}")
    _look(box)
    return found is not None


def _look(box: Box) -> None:
    """All that shows an instance shows this one."""
    box.write("proj/safe.toml", b'[targets.t]\ncommand = ["sleep", "600"]\n')
    code, out, _err = box.run("status", "t")
    require(code in (0, 1, 2, 3, 4) and out, f"status {code}")
    code, out, _err = box.run("status", "--json")
    json.loads(out, parse_constant=lambda name: require(False, f"{name} is no JSON"))
    found = view.look(InstancePaths(str(box.folder), "t"), tree=False, strays=False)
    if found.record is not None:
        dashboard.health_rows(found.record, 1e9)


def check_pid(box: Box, data: bytes) -> bool:
    """A pid or a problem that names the file; the number alone is never believed."""
    paths = InstancePaths(str(box.folder), "t")
    for other in (paths.record, paths.lock):
        remove(other)
    box.state_file("t.pid", data)
    pid, problem = records.read_pid(paths)
    require(pid is None or 0 < pid < 1 << 31, f"no pid: {pid}")
    require(pid is not None or not problem or paths.pid in problem, f"a problem without a place: {problem}")
    require(problem.isprintable(), "a problem that speaks to the terminal")
    found = view.look(paths, tree=False, strays=False)
    require(found.code in (1, 3), f"a pid file alone makes it {found.code}")
    records.remove_pid(paths, os.getpid())
    return pid is not None


def check_lock(box: Box, data: bytes) -> bool:
    """What the file says is for people: the kernel alone says whether the lock is held."""
    paths = InstancePaths(str(box.folder), "t")
    box.state_file("t.lock", data)
    holder = locks.read_holder(paths.lock)
    locks.is_alive(holder)
    locks.is_elsewhere(holder)
    require(not locks.is_held(paths.lock), "held by a text")
    held, _other = locks.acquire(paths.lock, 0)
    require(held is not None, "refused by a text")
    try:
        require(locks.is_held(paths.lock), "free, though we have it")
        _look(box)
    finally:
        if held is not None:
            held.release()
    return holder is not None


def check_log(box: Box, data: bytes) -> bool:
    """The last lines are those of the bytes, however they are stored; shown by us they hold no escape."""
    for old in box.folder.glob("t.log*"):
        old.unlink()
    cut = len(data) // 3
    whole = data[cut:]
    if data[:1] >= b"\x80":  # parts in front: damaged packing among them
        box.state_file("t.log.000001", data[:cut])
        box.state_file("t.log.000002.gz", data[:cut] if data[:1] >= b"\xc0" else gzip.compress(data[:cut])[: cut + 9])
    path = box.state_file("t.log", whole)
    lines = logtail.last_lines(path, 5)
    require(len(lines) <= 5, f"{len(lines)} lines instead of 5")
    ends = whole.decode("utf-8", "replace").split("\n")
    ends = ends[:-1] if not ends[-1] else ends
    if len(ends) > 5 or (len(ends) == 5 and data[:1] < b"\x80"):
        require(lines == ends[-5:], f"{lines} instead of {ends[-5:]}")
    error = SafeshError("it failed")
    error.log = lines
    box.refused(error, longest=1 << 30)
    for line in dashboard_logs.log_tail(path, 5):
        bad = [one for one in line if (one < " " and one != "\t") or "\x7f" <= one < "\xa0"]
        require(not bad, f"control characters in a page: {bad}")
    follower = logtail.Follower(path, 5, live=False)
    try:
        while follower.read():
            pass
    finally:
        follower.close()
    return True


def check_events(box: Box, data: bytes) -> bool:
    """Broken lines are passed over; the others come with a time that can be shown."""
    path = box.state_file("events.jsonl", data)
    found = dashboard_logs.events(path, "t")
    for event in found:
        require(event["instance"] == "t", "another instance's event")
    dashboard_logs.event_rows(path, "t")
    stray_news._told_before(path, "t", "x")
    return bool(found)


def check_spool(box: Box, data: bytes) -> bool:
    """What is a run is taken in once and whole; the rest is passed over; none of it stops the next."""
    folder = box.empty("state/history")
    (folder).chmod(0o700)
    box.write("state/history/history.spool", data + b'\n{"v": 1, "run_id": "last", "target": "t", "started_at": 1}\n')
    with History(str(folder / "history.db"), patience=0.1) as history:
        history.take_spool()
        rows = history.runs()
        require([row["run_id"] for row in rows].count("last") == 1, "the run behind the damage is lost")
        history.peaks("t")
        require(not spool.is_waiting(str(folder)), "the spool stays")
    box.write("proj/safe.toml", b'[targets.t]\ncommand = ["sleep", "600"]\n')
    os.replace(folder / "history.db", box.folder / "history.db")
    for tail in ("-wal", "-shm"):
        if os.path.exists(f"{folder}/history.db{tail}"):
            os.replace(f"{folder}/history.db{tail}", f"{box.folder}/history.db{tail}")
    try:
        code, _out, _err = box.run("history", "t")
        require(code in (0, 1, 73), f"history: {code}")
    finally:
        for name in ("history.db", "history.db-wal", "history.db-shm"):
            if (box.folder / name).exists():
                (box.folder / name).unlink()
    return len(rows) > 1


def check_database(box: Box, data: bytes) -> bool:
    """Read, or moved aside and begun anew, or a StateError; and it takes a run afterwards."""
    folder = box.empty("state/history")
    folder.chmod(0o700)
    path = box.write("state/history/history.db", data)
    told: list[str] = []
    try:
        with History(path, on_event=lambda name, _details: told.append(name), patience=0.1) as history:
            try:
                history.runs()
                history.targets()
                history.series("t", "cpu_percent")
                for target in history.targets()[:3]:
                    history.metrics(target)
            except StateError as error:
                box.refused(error)
            kept = history.add_run({"run_id": "new", "target": "t", "started_at": 1.0, "ended_at": 2.0})
            require(kept, f"a run is lost: {told}")
    except StateError as error:
        box.refused(error, "history.db")
        return False
    return not told


def check_cache(box: Box, data: bytes) -> bool:
    """A damaged cache never changes what safe.toml says."""
    path = box.write("proj/safe.toml", b'[targets.t]\ncommand = ["sleep", "600"]\n')
    plain = configs._read(path)
    file = os.path.relpath(configs._cache_file(path), box.path)
    os.makedirs(os.path.dirname(box.path / file), mode=0o700, exist_ok=True)
    stamp = configs._stamp(path, os.stat(path))
    head = wire.dumps([0, stamp]).encode()
    box.write(file, data.replace(b"STAMP", head))
    require(configs.load(path) == plain, "the cache says something else")
    return True


def _database() -> bytes:
    """A small database of ours, as it lies on the disk."""
    with tempfile.TemporaryDirectory(prefix="safesh-fuzz-") as folder:
        path = os.path.join(folder, "history.db")
        with History(path) as history:
            for number in range(3):
                history.add_run({"run_id": f"r{number}", "target": "t", "started_at": 1e9 + number, "ended_at": 2e9})
            history.add_samples("r1", "t", [{"at": 1e9 + second, "cpu_percent": 5.0} for second in range(50)])
        done = sqlite3.connect(path)
        done.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        done.execute("PRAGMA journal_mode=DELETE")
        done.close()
        with open(path, "rb") as file:
            return file.read()


def _targets() -> tuple[Target, ...]:
    record = json.dumps(make_record(), indent=1).encode()
    own = locks.own_identity()
    holder = json.dumps({**own, "target": "t", "command": ["sleep", "1"], "since": 1e9}).encode()
    event = b'{"v":1,"at":1.5,"instance":"t","target":"t","run_id":"x","event":"strays","message":"x","told":[0,1]}\n'
    run = (
        b'\n{"v": 1, "run_id": "a", "target": "t", "started_at": 5, "ended_at": 9, "exit_code": -1,'
        b' "signal": "SIGKILL", "cause": "x", "state": "failed", "user_seconds": 1, "system_seconds": 2,'
        b' "peak_memory_bytes": 99}\n'
    )
    return (
        Target("record", check_record, (record, _live_record()), _WORDS),
        Target("pid file", check_pid, (b"1234\n", b"1\n", b"4194304"), _WORDS),
        Target("lock file", check_lock, (holder, holder + b"\n"), _WORDS),
        Target("log tail", check_log, (b"a\nb\nc\n\x1b[31md\x1b[0m\n\xff\n\r\0", b"\xc0" + b"x\n" * 50), _WORDS),
        Target("events", check_events, (event * 2, event), _WORDS),
        Target("history spool", check_spool, (run, run * 2), _WORDS),
        Target("history database", check_database, (_database(),), ()),
        Target("config cache", check_cache, (b"STAMP\n" + json.dumps({"path": "/x"}).encode(), b"STAMP\n{}"), _WORDS),
    )


TARGETS: tuple[Target, ...] = _targets()
