"""The capturing process is killed with SIGKILL; the keeper saves what is in the pipe, and a next start goes on."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.campaign import rounds
from helpers.home import SUPERVISOR
from helpers.logpipe import numbered, parts_of, save_rest, whole
from helpers.procs import Spawn, wait_until

CAPTURE = """
import select, sys
from safesh.core import output
from safesh.core.output import Capture
from safesh.model import LogPolicy
if sys.argv[3:] == ["calm"]:
    output._STREAK = 1 << 30  # on a busy machine a calm target looks like a flood
capture = Capture(0, sys.argv[1], LogPolicy(size=int(sys.argv[2]), keep=0, compress=sys.argv[3:] == ["compress"]))
print("ready", flush=True)
watch = select.poll()
watch.register(0, select.POLLIN)
while True:
    watch.poll()
    capture.pump()
"""

FLOOD = """
import os
n = 0
while True:
    os.write(1, b"".join(b"%015d\\n" % k for k in range(n, n + 256)))
    n += 256
"""


def capturing(source: int, path: Path, size: int, *more: str) -> Spawn:
    return Spawn(
        sys.executable,
        "-c",
        CAPTURE,
        str(path),
        str(size),
        *more,
        stdin=source,
        extra_env={"PYTHONPATH": str(SUPERVISOR)},
    )


def has_parts(path: Path, count: int) -> bool:
    return len(parts_of(path)) >= count


@pytest.mark.skipif(sys.platform != "linux", reason="splice(2) and tee(2) are Linux's")
def test_a_target_that_is_not_flooding_loses_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Killed at a random moment while it rotates with every second write: nothing is lost, nothing is there twice."""
    for attempt in range(rounds(8, 100)):
        path = tmp_path / str(attempt) / "t.log"
        path.parent.mkdir()
        data = numbered(3000)
        kill_at = rng.randrange(1, 150)
        source, sink = os.pipe()
        try:
            with capturing(source, path, 1500, "calm") as capture:
                capture.wait_line("ready")
                for count, start in enumerate(range(0, len(data), 900)):
                    select.select([], [], [], 0.002)  # the pace of the target: 500 writes a second
                    os.write(sink, data[start : start + 900])
                    if count == kill_at:
                        capture.send(signal.SIGKILL)
                        assert capture.wait() == -signal.SIGKILL
                        break
            os.write(sink, data[start + 900 : start + 5000])
            os.close(sink)
            sink = -1
            keeping, source = source, -1
            save_rest(keeping, str(path))
            assert whole(path) == data[: start + 5000], f"round {attempt}, killed at write {kill_at}"
        finally:
            for fd in (source, sink):
                if fd >= 0:
                    os.close(fd)


def test_a_flood_loses_no_more_than_was_on_its_way_and_doubles_nothing(tmp_path: Path, rng: random.Random) -> None:
    for attempt in range(rounds(4, 50)):
        path = tmp_path / str(attempt) / "t.log"
        path.parent.mkdir()
        source, sink = os.pipe()
        try:
            with Spawn(sys.executable, "-c", FLOOD, stdout=sink) as target, capturing(source, path, 50_000) as capture:
                os.close(sink)
                sink = -1
                capture.wait_line("ready")
                enough = rng.randrange(5, 60)
                wait_until(partial(has_parts, path, enough))
                capture.send(signal.SIGKILL)
                capture.wait()
                target.send(signal.SIGKILL)
                target.wait()
            keeping, source = source, -1
            save_rest(keeping, str(path))
        finally:
            for fd in (source, sink):
                if fd >= 0:
                    os.close(fd)
        data = whole(path)
        numbers = [int(line) for line in data.split(b"\n")[:-1] if len(line) == 15]
        assert all(one < two for one, two in pairwise(numbers)), "out of order, or twice"
        missing = 16 * (numbers[-1] + 1) - len(data)
        assert missing <= 1 << 18, f"{missing} bytes lost"


def test_a_compressing_child_dies_with_the_capturing_process(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "t.log"
    (tmp_path / "t.log.000001").write_bytes(rng.randbytes(60 << 20))
    source, sink = os.pipe()
    try:
        with capturing(source, path, 1000, "compress") as capture:
            capture.wait_line("ready")
            wait_until(lambda: (tmp_path / "t.log.000001.gz.tmp").exists())
            children = [one for one in capture.members() if one.pid != capture.pid]
            assert len(children) == 1
            capture.send(signal.SIGKILL)
            capture.wait()
            wait_until(lambda: not capture.members(), 5, "the end of the compressing child")
        assert (tmp_path / "t.log.000001").stat().st_size == 60 << 20
    finally:
        os.close(source)
        os.close(sink)
