"""Limits on real trees: the run is ended or warned of, and its cause stands in the record and in status."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.campaign import rounds
from helpers.home import ROBOT, Home, Safe

MIB = 1 << 20


def write(home: Home, program: str, limits: str, more: str = "") -> None:
    """A target ``t`` that runs this Python program under these limits."""
    (home.project / "program.py").write_text(program)
    home.write_config(
        f"""[targets.t]
command = [{sys.executable!r}, "-S", "program.py"]
stop = {{ grace = "5s" }}
limits = {{ {limits} }}
{more}
"""
    )


def events(home: Home, *names: str) -> list[dict[str, Any]]:
    file = home.state_file("events.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] in names]


def record(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.state_file("t.json").read_text())
    return found


def last_exit(safe: Safe) -> str:
    """The line of ``status`` that tells how the run ended."""
    lines = [line for line in safe("status", "t").out.splitlines() if line.strip().startswith("last exit")]
    return lines[0].split("last exit", 1)[1].strip() if lines else ""


def run_to_its_end(home: Home, safe: Safe) -> str:
    """A foreground start that a limit ends: its last exit as status tells it."""
    result = safe("start", "t", deadline=60)
    assert result.rc != 0, result
    assert record(home)["state"] == "failed"
    assert "Traceback" not in result.err
    said = last_exit(safe)
    assert record(home)["ended_by"] in said
    assert record(home)["ended_by"] in record(home)["message"]
    return said


CEILING = 40 * MIB
INTERVAL = 2.0
ROUNDS = rounds(4, 20)  # asked here: in a test, the home fixture has cleared SAFESH_* already


@pytest.mark.timeout(600)
def test_a_leaking_target_is_restarted_within_two_sampling_intervals(home: Home, safe: Safe) -> None:
    home.write_config(
        f"""[targets.t]
command = [{sys.executable!r}, {str(ROBOT)!r}, "--leak", "10M"]
limits = {{ memory = "{CEILING}", interval = "{INTERVAL}s" }}
backoff = {{ initial = "50ms", factor = 1, jitter = 0 }}
start_limit = {{ count = 0 }}
"""
    )
    with safe.started("t"):
        for done in range(ROUNDS):
            run = procs.wait_until(lambda done=done: _run(home, done), 30)  # type: ignore[misc]
            main = record(home)["main"]
            crossed = procs.wait_until(lambda main=main: _crossed(main["pid"]), 60)  # type: ignore[misc]
            again = procs.wait_until(lambda done=done: _run(home, done + 1), 30)  # type: ignore[misc]
            took = again["at"] - crossed
            print(f"round {done}: started again {took:.2f} s after the crossing")
            assert took <= 2 * INTERVAL, f"round {done}"
            why = [one for one in events(home, "limit") if one["run_id"] == run["run_id"]]
            assert [one["name"] for one in why] == ["memory"]
            assert why[0]["used"] > CEILING
        assert last_exit(safe).startswith("ended: memory limit 40.0 MiB, used ")


def _run(home: Home, number: int) -> dict[str, Any] | None:
    """The start of the run with this number, once the record names its main process."""
    starts = events(home, "started")
    if len(starts) <= number:
        return None
    main = record(home)["main"]
    return starts[number] if len(starts) > number + 1 or (main and main["pid"] == starts[number]["pid"]) else None


def _crossed(pid: int) -> float:
    """The wall time, once the tree of ``pid`` holds more than the ceiling (or is gone: it was quicker than we)."""
    held = 0
    members = procs.tree_of(pid)
    for one in members:
        try:
            text = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        held += next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
    return time.time() if held > CEILING or not members else 0.0


def test_memory_that_is_shared_counts_once(home: Home, safe: Safe) -> None:
    program = """
import mmap, os, time
shared = mmap.mmap(-1, 60 << 20)
shared.write(b"x" * (60 << 20))
for _ in range(3):
    if os.fork() == 0:
        break
shared[::4096]  # every page is mapped in each of the four
print("mapped", flush=True)
time.sleep(60)
"""
    write(home, program, 'memory = "150M", interval = "0.1s"')
    with safe.started("t"):
        log = home.state_file("t.log")
        procs.wait_until(lambda: log.read_text().count("mapped") == 4)
        begun = time.monotonic()
        procs.wait_until(lambda: time.monotonic() > begun + 1)  # some samples
        assert record(home)["state"] == "running"
        assert events(home, "limit") == []


def test_cpu_over_its_duration_ends_the_run(home: Home, safe: Safe) -> None:
    write(home, "while True: pass", 'interval = "0.2s", cpu = { most = 10, for = "0.6s", action = "stop" }')
    said = run_to_its_end(home, safe)
    assert said.startswith("ended: cpu limit 10% for 0.6s, used ")
    assert "SIGTERM" in said
    run = record(home)["last_exit"]
    assert run["user_seconds"] + run["system_seconds"] > 0.05


def test_cpu_of_children_that_come_and_go_counts(home: Home, safe: Safe) -> None:
    program = """
import os
while True:
    if os.fork() == 0:
        for _ in range(200_000): pass
        os._exit(0)
    os.wait()
"""
    write(home, program, 'interval = "0.5s", cpu = { most = 20, for = "1s", action = "stop" }')
    assert run_to_its_end(home, safe).startswith("ended: cpu limit 20% for 1.0s, used ")


def test_a_run_may_last_no_longer_than_its_limit_and_nothing_wakes_before(home: Home, safe: Safe) -> None:
    write(home, "import time; time.sleep(60)", 'max_runtime = "3s", action = "stop"')
    with safe.started("t"):
        now = time.monotonic()
        supervisor = record(home)["supervisor"]["pid"]
        procs.wait_until(lambda: time.monotonic() > now + 0.5)
        before = wakeups(supervisor)
        procs.wait_until(lambda: time.monotonic() > now + 2)
        assert wakeups(supervisor) == before
        procs.wait_until(lambda: record(home)["state"] == "failed", 20)
        assert time.monotonic() - now >= 2.5
    assert last_exit(safe).startswith("ended: runtime limit 3.0s, used 3.0s")


def wakeups(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line and "non" not in line)


def test_too_many_processes_end_the_run_daemons_too(home: Home, safe: Safe) -> None:
    program = """
import os, time
for number in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
time.sleep(60)
"""
    write(home, program, 'processes = 4, interval = "0.2s", action = "stop"')
    assert run_to_its_end(home, safe).startswith("ended: processes limit 4, used 6")
    assert record(home)["last_verdict"]["survivors"] == []


def test_descriptors_stop_at_the_kernels_ceiling_and_the_run_is_ended(home: Home, safe: Safe) -> None:
    program = """
import errno, os, resource, time
held = []
try:
    while True: held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(errno.errorcode[error.errno], len(held) + 3, resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
time.sleep(60)
"""
    write(home, program, 'open_files = 50, interval = "0.3s", action = "stop"')
    assert run_to_its_end(home, safe).startswith("ended: open files limit 50, used 51")
    assert "EMFILE 51 (51, 51)" in home.state_file("t.log").read_text()


def test_descriptors_that_are_only_warned_of_are_not_refused(home: Home, safe: Safe) -> None:
    program = """
import os, time
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(80)]
print("opened", flush=True)
time.sleep(60)
"""
    write(home, program, 'open_files = { most = 50, action = "warn" }, interval = "0.2s"')
    with safe.started("t"):
        procs.wait_until(lambda: events(home, "limit"), 20)
        assert "opened" in home.state_file("t.log").read_text()
        procs.wait_until(lambda: "open files limit 50, used 83" in record(home)["message"])
        assert record(home)["state"] == "running"


def test_output_without_end_ends_the_run(home: Home, safe: Safe) -> None:
    program = """
import time
while True:
    print("x" * 9999, flush=True)
    time.sleep(0.01)
"""
    write(home, program, 'log_growth = "200K", interval = "0.2s", action = "stop"')
    assert run_to_its_end(home, safe).startswith("ended: log growth limit 200 KiB/min, used ")


def test_a_warning_is_told_once_and_its_end_too(home: Home, safe: Safe) -> None:
    program = """
import os, sys, time
children = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        time.sleep(60); os._exit(0)
    children.append(pid)
while not os.path.exists("calm"): time.sleep(0.02)
for pid in children: os.kill(pid, 9); os.waitpid(pid, 0)
time.sleep(60)
"""
    write(home, program, 'processes = { most = 3, action = "warn" }, interval = "0.1s"')
    with safe.started("t"):
        procs.wait_until(lambda: events(home, "limit"), 20)
        begun = time.monotonic()
        procs.wait_until(lambda: time.monotonic() > begun + 0.6)  # some more samples
        assert "processes limit 3, used 6" in safe("status", "t").out
        (home.project / "calm").touch()
        procs.wait_until(lambda: events(home, "limit_over"), 20)
        assert [one["event"] for one in events(home, "limit", "limit_over")] == ["limit", "limit_over"]
        procs.wait_until(lambda: record(home)["message"] == "")
        assert record(home)["state"] == "running"


def test_a_limit_crossed_during_a_stop_changes_nothing(home: Home, safe: Safe) -> None:
    program = """
import os, signal, time
def grow(*_):
    held = b"x" * (100 << 20)
    print("grown", flush=True)
    time.sleep(1.5)
    os._exit(0)
signal.signal(signal.SIGTERM, grow)
print("ready", flush=True)
while True: time.sleep(60)
"""
    write(home, program, 'memory = "50M", interval = "0.1s"')
    with safe.started("t"):
        procs.wait_until(lambda: "ready" in home.state_file("t.log").read_text())
        assert safe("stop", "--force", "t").rc == 0
    assert "grown" in home.state_file("t.log").read_text()
    assert record(home)["state"] == "finished"
    assert record(home)["message"] == "stopped by request"
    assert record(home)["ended_by"] == ""
    assert events(home, "limit") == []


@pytest.mark.parametrize("backend", ["subreaper", "posix"])
def test_limits_hold_on_the_other_backends(home: Home, safe: Safe, backend: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("SAFESH_BACKEND", backend)
    program = """
import os, time
if os.fork() == 0:
    held = b"x" * (100 << 20)
time.sleep(60)
"""
    write(home, program, 'memory = "80M", interval = "0.5s", action = "stop"')
    assert run_to_its_end(home, safe).startswith("ended: memory limit 80.0 MiB, used 1")


def test_a_restart_by_a_limit_counts_towards_the_start_limit(home: Home, safe: Safe) -> None:
    more = 'backoff = { initial = "10ms" }\nstart_limit = { count = 3, window = "60s" }'
    write(home, "import os, time\nos.fork()\ntime.sleep(60)", 'processes = 1, interval = "0.1s"', more)
    result = safe("start", "t", deadline=60)
    assert result.rc != 0
    assert len(events(home, "started")) == 3
    assert "start limit reached" in record(home)["message"]
    assert last_exit(safe).startswith("ended: processes limit 1, used 2")
