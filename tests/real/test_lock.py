"""The instance's lock: filelock's protocol, one holder, and files that are not to be trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

from helpers.home import SUPERVISOR
from helpers.procs import Spawn
from safesh.errors import StateError
from safesh.instance import lock
from safesh.model import TargetSpec

SPEC = TargetSpec(name="robot", instance="robot", project="p", command=["python3", "robot.py"], cwd="/")

# Waits for its turn, tries to take the lock, says how that went, and keeps it until its input ends.
_CONTEND = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
from safesh.instance import lock
from safesh.model import TargetSpec
os.read(0, 1)
held, holder = lock.acquire(sys.argv[1], 30.0)
if held is not None:
    held.describe(TargetSpec(name="robot", instance="robot", project="p", command=["robot"], cwd="/"))
print(json.dumps({"pid": os.getpid(), "won": held is not None, "holder": holder}), flush=True)
os.read(0, 1)
"""

_PROBE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from safesh.instance import lock
print("probing", flush=True)
until = time.monotonic() + 20
while time.monotonic() < until:
    lock.is_held(sys.argv[1])
"""


def python(code: str, path: Path) -> list[str]:
    return [sys.executable, "-E", "-s", "-S", "-c", code, str(path), str(SUPERVISOR)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "robot.lock"


def test_filelock_cannot_take_what_we_hold(path: Path) -> None:
    ours = lock.try_acquire(str(path))
    assert ours is not None
    ours.describe(SPEC)
    with pytest.raises(filelock.Timeout), filelock.FileLock(path, timeout=0):
        pass
    holder = lock.read_holder(str(path))
    ours.release()
    assert holder is not None
    assert holder["pid"] == os.getpid()
    with filelock.FileLock(path, timeout=0):
        pass


def test_we_cannot_take_what_filelock_holds(path: Path) -> None:
    with filelock.FileLock(path, timeout=0):
        assert lock.try_acquire(str(path)) is None
        assert lock.is_held(str(path))
    ours = lock.try_acquire(str(path))
    assert ours is not None
    ours.release()


def test_the_file_stays_after_the_release_so_waiters_meet_on_one_inode(path: Path) -> None:
    ours = lock.try_acquire(str(path))
    assert ours is not None
    inode = path.stat().st_ino
    ours.release()
    assert path.stat().st_ino == inode
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_on_an_unlinked_file_is_not_taken_for_the_lock(path: Path) -> None:
    first = lock.try_acquire(str(path))
    assert first is not None
    path.unlink()
    second = lock.try_acquire(str(path))
    assert second is not None
    assert os.fstat(second.fd).st_ino == path.stat().st_ino
    for one in (first, second):
        one.release()


def test_the_file_says_who_holds_it(path: Path) -> None:
    ours = lock.try_acquire(str(path))
    assert ours is not None
    before = time.time()
    ours.describe(SPEC)
    holder = lock.read_holder(str(path))
    ours.release()
    assert holder is not None
    assert {name: holder[name] for name in ("pid", "target", "command")} == {
        "pid": os.getpid(), "target": "robot", "command": ["python3", "robot.py"],
    }  # fmt: skip
    assert before - 1 <= holder["since"] <= time.time() + 1
    assert lock.is_alive(holder)


def test_a_living_holder_is_named_at_once(path: Path) -> None:
    with Spawn(*python(_CONTEND, path)) as child:
        child.write("1")
        child.wait_line('"won": true')
        started = time.monotonic()
        taken, holder = lock.acquire(str(path), 30.0)
        assert taken is None
        assert holder is not None
        assert holder["pid"] == child.pid
        assert time.monotonic() - started < 5.0


def test_the_lock_of_a_killed_holder_is_free_and_its_line_is_known_to_be_stale(path: Path) -> None:
    with Spawn(*python(_CONTEND, path)) as child:
        child.write("1")
        child.wait_line('"won": true')
        child.send(9)
        child.wait()
    assert not lock.is_held(str(path))
    stale = lock.read_holder(str(path))
    assert stale is not None
    assert not lock.is_alive(stale)
    ours, holder = lock.acquire(str(path), 0.0)
    assert ours is not None
    assert holder is None
    ours.release()


def test_the_lock_is_held_as_long_as_anybody_has_its_descriptor(path: Path) -> None:
    """As the keeper does when the supervisor is gone."""
    ours = lock.try_acquire(str(path))
    assert ours is not None
    keep = subprocess.Popen(["sleep", "60"], pass_fds=[ours.fd])
    try:
        ours.release()
        assert lock.is_held(str(path))
        taken, _holder = lock.acquire(str(path), 0.1)
        assert taken is None
    finally:
        keep.kill()
        keep.wait()
    assert not lock.is_held(str(path))


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another/1"}, {"pid": 1 << 30}, {"pid": True}, {"pid": "1"}])
def test_a_line_that_names_no_living_process_names_no_holder(change: dict[str, Any]) -> None:
    assert lock.is_alive(lock.own_identity())
    assert not lock.is_alive({**lock.own_identity(), **change})


@pytest.mark.parametrize(
    "text", ["", "x", "[1]", "null", '{"pid": 1}', '{"pid": -1, "start": 1, "boot": ""}', "{" * 9999]
)
def test_a_damaged_line_is_no_holder_and_no_traceback(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    assert lock.read_holder(str(path)) is None
    ours, holder = lock.acquire(str(path), 0.0)
    assert ours is not None
    assert holder is None
    ours.release()


# files that are not to be trusted -----------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The one line that taking it and asking about it both end in."""
    said = set()
    for action in (lock.try_acquire, lock.is_held, lock.read_holder):
        with pytest.raises(StateError) as caught:
            action(str(path))
        assert str(path) in str(caught.value)
        assert caught.value.hint
        said.add(caught.value.message)
    assert len(said) == 1
    return said.pop()


def test_a_symlink_is_refused_by_name(path: Path) -> None:
    target = path.with_name("other")
    target.write_text("", encoding="ascii")
    path.symlink_to(target)
    assert refused(path) == "is a symlink, which is not trusted"


def test_another_users_file_is_refused_by_name(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    path.write_text("", encoding="ascii")
    os.chown(path, 65534, -1)
    assert refused(path) == "belongs to user 65534, not to you (0), so it is not trusted"


def test_a_folder_in_its_place_is_refused_by_name(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateError) as caught:
        lock.try_acquire(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint
    with pytest.raises(StateError, match="is not a regular file"):
        lock.is_held(str(path))


def test_a_pipe_in_its_place_is_refused_by_name_and_waits_for_nobody(path: Path) -> None:
    os.mkfifo(path, 0o600)
    assert refused(path) == "is not a regular file"


def test_a_folder_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "robot.lock"
    with pytest.raises(StateError, match="its folder does not exist") as caught:
        lock.try_acquire(str(path))
    assert "mkdir -p" in caught.value.hint
    assert not lock.is_held(str(path))


# many at once -------------------------------------------------------------------------------------------------


def test_of_100_processes_that_contend_exactly_one_wins_and_the_others_name_it(path: Path) -> None:
    children = [
        subprocess.Popen(python(_CONTEND, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(100)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("1")
            child.stdin.flush()
        told = [json.loads(child.stdout.readline()) for child in children if child.stdout is not None]
        winners = [one["pid"] for one in told if one["won"]]
        assert len(winners) == 1
        assert {one["holder"]["pid"] for one in told if not one["won"]} == set(winners)
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_probing_readers_never_make_a_start_fail(path: Path) -> None:
    probes = [Spawn(*python(_PROBE, path)) for _ in range(3)]
    try:
        first = lock.try_acquire(str(path))
        assert first is not None
        first.release()
        for probe in probes:
            probe.wait_line("probing")
        for _ in range(200):
            ours, _holder = lock.acquire(str(path), 2.0)
            assert ours is not None
            ours.release()
    finally:
        for probe in probes:
            probe.close()
