"""A log that cannot be written: the target runs on, every lost byte is counted, and the log tells it afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.home import SUPERVISOR

TESTS = Path(__file__).resolve().parents[1]

# Runs by itself: its mount and its limits end with it. argv: folder, way. Prints what happened as JSON.
SCENARIO = """
import json, os, resource, sys
from pathlib import Path
from helpers.logpipe import numbered, rig, whole
from safesh.core import output
from safesh.model import LogPolicy

folder, way, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
output._RETRY = 1e9
path = folder / "t.log"
if way == "copy":
    del os.splice
if way == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
else:
    (folder / "ballast").write_bytes(bytes(300 << 10))
data = numbered(40_000)
terminal, shown = os.pipe()
os.set_blocking(terminal, False)
policy = LogPolicy(size=size, keep=0)
with rig(path, policy, None if way == "copy" else shown) as at:
    echoed = b""
    def show():
        global echoed
        more = True
        while more:
            more = at.capture.wants_write
            at.capture.flush_echo()
            try:
                while True:
                    echoed += os.read(terminal, 1 << 20)
            except BlockingIOError:
                pass
    step = 3000 if way == "trickle" else 200_000
    for start in range(0, len(data), step):
        at.feed(data[start : start + step])
        show()
    before, lost = whole(path), at.capture.lost_bytes
    events = [name for name, _ in at.events]
    if way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        (folder / "ballast").unlink()
    at.capture._loss.retry_at = 0.0
    at.feed(b"after\\n")
    after = whole(path)
    show()
    print(json.dumps({
        "sent": len(data), "before": len(before), "lost": lost, "prefix": data.startswith(before),
        "goes_on": after.startswith(before), "added": after[len(before):].decode(), "events": events,
        "all_events": [name for name, _ in at.events], "fields": at.events[-1][1],
        "echoed": echoed == data + b"after\\n" or way == "copy",
    }))
"""


def play(folder: Path, way: str, size: int = 0) -> dict[str, Any]:
    """The scenario on a disk of 512 KiB in a mount namespace of its own."""
    run = [sys.executable, "-c", SCENARIO, str(folder), way, str(size)]
    if way != "limit":
        mount = 'mount -t tmpfs -o size=512k,mode=700 tmpfs "$0" && exec "$@"'
        run = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, str(folder), *run]
        probe = subprocess.run([*run[:7], str(folder), "true"], capture_output=True, text=True, timeout=20, check=False)
        if probe.returncode:
            pytest.skip(f"no small disk can be mounted here: {probe.stderr.strip()}")
    done = subprocess.run(
        run,
        env={"PYTHONPATH": f"{SUPERVISOR}:{TESTS}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], reason: str) -> None:
    assert told["prefix"], "what is in the log is not what the target wrote first"
    assert told["before"] + told["lost"] == told["sent"]
    assert told["lost"] > 0
    assert told["events"] == ["log_loss"]
    assert told["all_events"] == ["log_loss", "log_recovered"]
    assert told["fields"]["bytes"] == told["lost"]
    assert told["fields"]["reason"] == reason
    assert told["goes_on"]
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    note = rf"\n?\[safesh: {told['lost']} bytes lost from {moment} to {moment}: {reason}\]\nafter\n"
    assert re.fullmatch(note, told["added"]), told["added"]
    assert told["echoed"], "the terminal did not get everything"


@pytest.mark.parametrize("way", ["flood", "trickle", "copy"])
def test_a_full_disk_costs_exactly_the_bytes_that_are_counted(tmp_path: Path, way: str) -> None:
    check(play(tmp_path, way), "No space left on device")


@pytest.mark.parametrize("way", ["flood", "trickle", "copy"])
def test_a_disk_that_fills_within_rotation_costs_exactly_the_bytes_that_are_counted(tmp_path: Path, way: str) -> None:
    check(play(tmp_path, way, size=20_000), "No space left on device")


def test_a_file_size_limit_costs_exactly_the_bytes_that_are_counted(tmp_path: Path) -> None:
    check(play(tmp_path, "limit"), "File too large")
