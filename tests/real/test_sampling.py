"""What a run used: its exact totals at its end, and samples over time where ``sample`` asks for them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import SUPERVISOR, Home, Safe
from safesh import _platform
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.spool import RUN_FIELDS

BUSY = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"  # some tenths of a second


def write(home: Home, text: str, **keys: str) -> None:
    more = "\n".join(f"{key} = {value}" for key, value in keys.items())
    home.write_config(f"[targets.t]\ncommand = {json.dumps(text)}\nshell = true\nstop = {{ grace = '2s' }}\n{more}\n")


def record(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.state_file("t.json").read_text())
    return found


def runs(safe: Safe) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = safe("history", "--json").check().json()["runs"]
    return found


def events(home: Home, name: str) -> list[dict[str, Any]]:
    lines = home.state_file("events.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == name]


def sample(home: Home) -> dict[str, Any]:
    """The last sample in the record, once there is one with a rate."""
    procs.wait_until(lambda: record(home).get("sample", {}).get("cpu_percent") is not None, 15, "a sample")
    found: dict[str, Any] = record(home)["sample"]
    return found


def count(home: Home, table: str = "raw") -> int:
    """Rows in the history, 0 while there is none or somebody is making it."""
    try:
        with sqlite3.connect(f"file:{home.state_file('history.db')}?mode=ro", uri=True) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.Error:
        return 0


# --- totals at the end ----------------------------------------------------------------------------


def test_a_runs_totals_hold_its_dead_children_and_those_that_left_it(home: Home, safe: Safe) -> None:
    # A grandchild that leaves the session, is orphaned, and is the one that works.
    write(home, f"mkfifo f; (setsid sh -c '{BUSY}; echo done >f' &) ; read line <f; ({BUSY}); exit 3")
    safe("start", "t").check(3)
    (run,) = runs(safe)
    assert set(run) == set(RUN_FIELDS)
    last = record(home)["last_exit"]
    alone = last["user_seconds"] + last["system_seconds"]
    assert run["cpu_seconds"] == pytest.approx(run["user_seconds"] + run["system_seconds"])
    if _platform.HAS_SUBREAPER:
        assert run["cpu_seconds"] > 1.4 * alone > 0, (run, last)  # half of the work was not the main process's
    assert run["peak_memory_bytes"] > 0
    assert (run["target"], run["exit_code"], run["state"], run["cause"]) == ("t", 3, "failed", "exited with code 3")
    assert 0 < run["duration"] < 60
    assert run["started_at"] <= run["ended_at"]


def test_every_run_of_a_restarted_target_is_kept_and_a_stop_is_no_failure(home: Home, safe: Safe) -> None:
    write(home, "test -e again && exec sleep 60; : >again; exit 1", restart="'always'", backoff="{ initial = '50ms' }")
    safe("start", "t", "--detach").check()
    procs.wait_until(lambda: record(home)["restarts"] == 1 and record(home)["main"], 10, "the second run")
    safe("stop", "t", "--force").check()
    second, first = runs(safe)
    assert (first["restarts"], first["state"], first["exit_code"]) == (0, "failed", 1)
    assert (second["restarts"], second["state"], second["signal"]) == (1, "finished", "SIGTERM")
    assert second["cause"] == "stopped by request (killed by SIGTERM)"
    assert first["run_id"] != second["run_id"]


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_a_run_whose_holder_was_killed_is_kept_too(home: Home, safe: Safe, victim: str) -> None:
    write(home, f"({BUSY}); sleep 60")
    with safe.spawn("start", "t", "--detach") as start:
        start.wait(20)
    procs.wait_until(lambda: any(one.name == "sleep" for one in procs.tree_of(record(home)["main"]["pid"])), 20)
    held = record(home)[victim]
    procs.send(held["pid"], held["start"], signal.SIGKILL)
    procs.wait_until(lambda: record(home)["state"] == "failed", 20, "the other has ended the tree")
    procs.wait_until(lambda: not procs.alive(held["pid"], held["start"]), 10)
    (run,) = runs(safe)
    assert run["state"] == "failed"
    assert ("supervisor vanished" if victim == "supervisor" else "keeper was killed") in run["cause"]
    assert run["cpu_seconds"] > 0


def test_a_command_that_cannot_be_executed_is_no_run(home: Home, safe: Safe) -> None:
    safe("start", "t", "--", "./nothing-here").check(127)
    assert runs(safe) == []


def test_totals_that_cannot_be_kept_cost_one_event_and_no_stop(home: Home, safe: Safe) -> None:
    write(home, "sleep 60")
    safe("start", "t", "--detach").check()
    home.state_file("history.spool").mkdir()
    safe("stop", "t", "--force").check()
    assert record(home)["usage"]["user_seconds"] >= 0
    assert len(events(home, "history_failed")) == 1


def test_the_end_of_a_run_is_told_by_the_monitor_as_the_record_has_it(home: Home, safe: Safe) -> None:
    write(home, f"({BUSY}); exit 0")
    safe("start", "t").check()
    found = record(home)
    monitor = ResourceMonitor(gpu=False)
    usage = monitor.get_tree_resources(found)
    assert usage.cpu_seconds == pytest.approx(found["usage"]["user_seconds"] + found["usage"]["system_seconds"])
    assert usage.peak_memory_mb == pytest.approx(found["usage"]["peak_memory_bytes"] / (1 << 20))
    (run,) = runs(safe)
    assert run["cpu_seconds"] == pytest.approx(usage.cpu_seconds)


# --- samples --------------------------------------------------------------------------------------


def test_status_shows_the_last_sample_and_the_monitor_agrees_with_status(home: Home, safe: Safe) -> None:
    write(home, "sleep 60 & sleep 60 & echo up; wait", sample="'0.2s'")
    with safe.started("t"):
        last = sample(home)
        shown = safe("status", "t").check().out
        assert "  sampled    " in shown
        assert "3 processes" in shown
        told = safe("status", "t", "--json").check().json()["instances"][0]
        assert told["sample"]["processes"] == told["total"]["processes"] == last["processes"] == 3
        monitor = ResourceMonitor(gpu=False)
        usage = monitor.get_tree_resources(record(home))
        monitor.close()
        assert usage.processes == 3
        if usage.sources["memory_mb"].startswith("resident"):  # as status says it: what is shared counts in each
            assert usage.memory_mb * (1 << 20) == pytest.approx(told["total"]["memory_bytes"], rel=0.05)
            assert last["memory_bytes"] <= told["total"]["memory_bytes"]
        assert usage.cpu_seconds == pytest.approx(last["cpu_seconds"], abs=0.05)
    assert "sampled" not in safe("status", "t").out


def test_samples_reach_the_history_while_it_runs_and_the_rest_at_its_end(home: Home, safe: Safe) -> None:
    write(home, "exec sleep 60", sample="'0.1s'")
    with safe.started("t"):
        procs.wait_until(lambda: count(home) > 0, 20, "a first batch")
        before = count(home)
    procs.wait_until(lambda: count(home) > before, 10, "the rest")
    trends = safe("history", "t", "--json").check().json()["trends"]
    metrics = {one["metric"] for one in trends}
    assert {"memory_bytes", "cpu_percent", "processes", "threads", "fds"} <= metrics
    (run,) = runs(safe)
    assert run["max_processes"] == 1
    assert run["peak_memory_bytes"] < 8 << 20, "the tree's own: less than what a keeper's fork begins with"


def test_without_the_key_nothing_of_it_is_loaded() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from safesh.model import TargetSpec
from safesh.cli import hold
from safesh.supervise import supervisor, watchers
spec = TargetSpec(name="t", instance="t", project="p", command=["x"], cwd="/")
watchers.for_instance(SimpleNamespace(spec=spec, record={}, watchers=[]))
watchers.for_run(SimpleNamespace(spec=spec, record={}, watchers=[]), None)
print([name for name in sys.modules if "metrics" in name or "sampling" in name or name in ("resource", "sqlite3")])
"""
    command = [sys.executable, "-E", "-s", "-S", "-c", code, str(SUPERVISOR)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def switches(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("voluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="context switches are told by Linux's /proc")
def test_without_the_key_nothing_wakes(home: Home, safe: Safe) -> None:
    write(home, "sleep 60")
    with safe.started("t"):
        pids = [record(home)[name]["pid"] for name in ("supervisor", "keeper")]
        procs.wait_until(lambda: all(procs.scan()[pid].state == "S" for pid in pids), 10)
        before = [switches(pid) for pid in pids]
        with procs.spawn("sleep", "1.5") as pause:
            pause.wait(10)
        assert [switches(pid) for pid in pids] == before


# --- trouble with the database --------------------------------------------------------------------


def stop_quickly(safe: Safe) -> None:
    """A stop whose grace is 2 s of a target that ends when asked: the history adds nothing to it."""
    said = safe("stop", "t", "--force", "--json", deadline=10).check().json()
    assert said["verdicts"][0]["seconds"] < 1.5


def test_a_damaged_database_is_told_once_and_rebuilt(home: Home, safe: Safe) -> None:
    write(home, "sleep 60", sample="'0.1s'")
    home.state_file("t").parent.mkdir(mode=0o700, parents=True)
    home.state_file("history.db").write_bytes(b"no database at all" * 1000)
    home.state_file("history.db").chmod(0o600)
    safe("start", "t", "--detach").check()
    procs.wait_until(lambda: count(home) > 0, 20, "samples in a new one")
    stop_quickly(safe)
    procs.wait_until(lambda: events(home, "history_rebuilt"), 10)
    assert len(events(home, "history_rebuilt")) == 1
    assert [*home.state_file("t").parent.glob("history.db.corrupt-*")]


def test_a_locked_database_is_told_once_delays_no_stop_and_loses_nothing(home: Home, safe: Safe) -> None:
    write(home, "sleep 60", sample="'0.1s'")
    safe("start", "t", "--detach").check()
    procs.wait_until(lambda: count(home) > 0, 20, "a first batch")
    with sqlite3.connect(home.state_file("history.db"), isolation_level=None) as locker:
        before = count(home)
        locker.execute("BEGIN IMMEDIATE")
        procs.wait_until(lambda: events(home, "history_locked"), 40, "it is told")
        stop_quickly(safe)
        assert len(events(home, "history_locked")) == 1
        locker.execute("ROLLBACK")
    procs.wait_until(lambda: count(home) > before, 20, "what waited")
    assert len(runs(safe)) == 1


def test_a_database_that_is_a_symlink_is_refused_once_and_left_alone(home: Home, safe: Safe, tmp_path: Path) -> None:
    write(home, "sleep 60", sample="'0.1s'")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("somebody else's")
    home.state_file("t").parent.mkdir(mode=0o700, parents=True)
    home.state_file("history.db").symlink_to(elsewhere)
    safe("start", "t", "--detach").check()
    procs.wait_until(lambda: events(home, "history_refused"), 20, "it is told")
    stop_quickly(safe)
    assert len(events(home, "history_refused")) == 1
    assert elsewhere.read_text() == "somebody else's"


def test_doctor_tells_of_the_history_and_of_graphics_cards(home: Home, safe: Safe) -> None:
    def look() -> dict[str, dict[str, str]]:
        return {one["name"]: one for one in safe("doctor", "--json").json()["checks"]}

    write(home, "exit 0")
    assert "none yet" in look()["history"]["found"]
    safe("start", "t").check()
    assert "wait to be taken in" in look()["history"]["found"]
    safe("history").check()
    write(home, "exit 0", sample="'1s'")
    found = look()
    assert "1 runs" in found["history"]["found"]
    assert "sampled: t" in found["history"]["found"]
    assert found["gpu"]["state"] == "ok"
    home.state_file("history.db").write_bytes(b"no database at all" * 1000)
    assert look()["history"]["state"] == "warn"
