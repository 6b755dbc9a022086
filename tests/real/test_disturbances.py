"""Each disturbance of the fault campaign does what it says, to nobody else, and what it gives undoes it."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import disturbances, processes
from faults.disturbances import calls, clock, damage, disk, limits, stopping
from faults.world import World

from helpers.procs import wait_until

pytestmark = pytest.mark.pidns


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SAFESH_VENV", sys.prefix)  # this Python runs safesh in there
    with World("subreaper", names=("daemon",), size_kib=1024) as made:
        yield made
        assert made.snapshot() == made.untouched  # nothing outside of the state folder is ever disturbed
        assert all(decoy.poll() is None for decoy in made.decoys)


@pytest.fixture
def live(world: World) -> World:
    done = world.safe("start", "--detach", "daemon")
    assert done.code == 0, done
    wait_until(lambda: len(world.of("daemon")) >= 4, 5, "the whole tree")
    return world


def run_in(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """A program as the world's commands are run."""
    return subprocess.run(
        [*world.prefix, *words], env=world.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=20,
    )  # fmt: skip


def test_somebody_of_each_role_stands_still_until_it_is_undone(live: World, rng: random.Random) -> None:
    for role in ("supervisor", "keeper", "target", "member"):
        undo = stopping.Stopped(role).apply(live, rng)
        assert undo is not None
        (found,) = wait_until(lambda: [one for one in live.members() if one.stopped], 2, "somebody stopped")
        keepers = {one.pid for one in live.members() if one.role == "keeper"}
        assert found.role == role or (found.role == "member" and (role == "member" or found.ppid in keepers))
        undo()
        wait_until(lambda: not any(one.stopped for one in live.members()), 2, "nobody stopped")


def test_descriptors_of_a_living_holder_run_out_and_come_back(live: World, rng: random.Random) -> None:
    for role in ("supervisor", "keeper"):
        one = stopping.pick(live, rng, role)
        assert one is not None
        before = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
        undo = limits.Descriptors(role).apply(live, rng)
        assert undo is not None
        highest = max(int(name) for name in os.listdir(f"/proc/{one.pid}/fd"))
        assert resource.prlimit(one.pid, resource.RLIMIT_NOFILE)[0] <= highest + 6
        undo()
        assert resource.prlimit(one.pid, resource.RLIMIT_NOFILE) == before


def test_system_calls_of_a_living_holder_fail_until_strace_is_gone(live: World, rng: random.Random) -> None:
    if not shutil.which("strace"):
        pytest.skip("not run: no strace")
    for role in ("supervisor", "keeper"):
        one = stopping.pick(live, rng, role)
        undo = calls.Calls(role).apply(live, rng)
        assert one is not None
        assert undo is not None
        assert processes.traced_by(one.pid) > 0
        assert {processes.traced_by(one.pid)} == live.foreign  # no member of the world
        undo()
        assert processes.traced_by(one.pid) == 0
        assert not live.foreign
        assert processes.alive(one.key)


def test_no_process_can_be_made_by_commands_or_holders(live: World) -> None:
    top = limits.controller("pids")
    if top is None:
        pytest.skip("not run: no cgroup pids controller to make a group in")
    undo = limits.Pids().apply(live, random.Random(0))
    assert undo is not None
    group = top / f"{live.marker}-pids"
    try:
        inside = (group / "cgroup.procs").read_text().split()
        assert {str(one.pid) for one in live.members()} <= set(inside)
        done = run_in(live, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait")
        assert "fork" in done.stderr
    finally:
        undo()
    assert not group.exists()
    assert live.prefix == []
    assert run_in(live, "sh", "-c", "sleep 0.01 & sleep 0.01 & wait").stderr == ""


def test_commands_begin_with_few_descriptors(world: World, rng: random.Random) -> None:
    undo = limits.CommandDescriptors().apply(world, rng)
    assert undo is not None
    assert 6 <= int(run_in(world, "sh", "-c", "ulimit -n").stdout) < 24
    undo()
    assert world.prefix == []


def test_the_disk_is_full_without_inodes_and_read_only(world: World) -> None:
    if not world.mounted:
        pytest.skip("not run: nothing can be mounted here")
    page = b"x" * (3 * os.sysconf("SC_PAGE_SIZE"))

    def refused() -> int:
        """What the third file is refused with: room for a page, or for two files, may be left."""
        paths = [world.state / f"probe{number}" for number in range(3)]
        try:
            for path in paths:
                path.write_bytes(page)
        except OSError as error:
            return error.errno or 0
        finally:
            for path in paths:
                if os.path.lexists(path):
                    path.unlink()
        return 0

    for one, number in ((disk.Full(), errno.ENOSPC), (disk.Inodes(), errno.ENOSPC), (disk.ReadOnly(), errno.EROFS)):
        assert refused() == 0
        undo = one.apply(world, random.Random(0))
        assert undo is not None
        assert refused() == number, one.name
        undo()
    assert refused() == 0
    with (world.state / "busy").open("w"):
        assert disk.ReadOnly().apply(world, random.Random(0)) is None  # under a writer nothing is remounted


# ---- damage

_LOOKS = {
    "emptied": lambda path, before: path.read_bytes() == b"",
    "cut": lambda path, before: len(path.read_bytes()) < len(before) and before.startswith(path.read_bytes()),
    "with bits flipped": lambda path, before: len(path.read_bytes()) == len(before) and path.read_bytes() != before,
    "of garbage": lambda path, before: path.read_bytes() != before,
    "grown huge": lambda path, before: path.stat().st_size == damage.HUGE,
    "a symlink": lambda path, before: path.is_symlink(),
    "a folder": lambda path, before: path.is_dir(),
    "a pipe": lambda path, before: path.is_fifo(),
    "of another user": lambda path, before: path.lstat().st_uid == damage.NOBODY,
    "of a wrong mode": lambda path, before: stat.S_IMODE(path.stat().st_mode) != 0o600,
    "removed": lambda path, before: not os.path.lexists(path),
}


def test_each_kind_of_damage_befalls_one_state_file_and_is_noted(world: World) -> None:
    assert set(_LOOKS) == set(damage.KINDS)
    text = b'{"v": 1, "some": "record"}\n' * 20
    names = ["daemon.json", "daemon.lock", "daemon.log", "daemon.log.000001", "events.jsonl", "history.db"]
    chosen = set()
    for number, (kind, looks) in enumerate(_LOOKS.items()):
        shutil.rmtree(world.files, ignore_errors=True)
        world.files.mkdir()
        for name in names:
            (world.files / name).write_bytes(text)
            (world.files / name).chmod(0o600)
        world.damaged.clear()
        (one,) = [one for one in disturbances.ALL if one.name == f"state file {kind}"]
        one.apply(world, random.Random(number))
        (path,) = map(Path, world.damaged)
        assert looks(path, text), kind
        chosen.add(path.name)
        assert all((world.files / name).read_bytes() == text for name in names if name != path.name)
    assert len(chosen) > 3
    assert damage.kind_of(Path("headless.log.000012")) == damage.kind_of(Path("gui.log.000001")) == ".log."


def test_the_state_folder_is_spoilt_and_comes_back(world: World) -> None:
    world.files.mkdir(mode=0o700)
    (world.files / "daemon.lock").touch()
    for kind in damage.FOLDER_KINDS:
        undo = damage.FolderDamaged(kind).apply(world, random.Random(0))
        info = os.lstat(world.files) if os.path.lexists(world.files) else None
        if kind == "open to all":
            assert info is not None
            assert undo is None
            assert stat.S_IMODE(info.st_mode) == 0o777
            continue
        assert undo is not None
        if kind == "of another user":
            assert info is not None
            assert info.st_uid == damage.NOBODY
        elif kind == "a symlink":
            assert world.files.is_symlink()
        else:
            assert info is None
        undo()
        assert (world.files / "daemon.lock").exists()
        assert world.files.stat().st_uid == os.geteuid()


# ---- plans


@pytest.mark.parametrize("name", ["events.jsonl", "logs/a.log"])
def test_a_pipe_in_a_plans_folder_is_not_waited_for(world: World, rng: random.Random, name: str) -> None:
    plan, output = world.folder / "plan.json", world.folder / "output"
    plan.write_text('{"id": "p", "steps": [{"id": "a", "command": ["true"]}]}')
    words = ("run", str(plan), "--output", str(output), "--progress", "plain")
    assert world.safe(*words).code == 0
    damage.fifo(output / name, world, rng)
    done = world.safe(*words, timeout=15)
    assert not done.hung
    assert done.code in (1, 73)
    assert "is not a regular file" in done.out + done.err


# ---- clocks


def test_the_clock_is_stepped_for_those_who_run_and_for_nobody_else(world: World) -> None:
    if not clock.library():
        pytest.skip("not run: no libfaketime")
    hour = 3600
    script = "import time\nwhile input() != 'end': print(time.time(), time.monotonic())"
    asks = [sys.executable, "-E", "-S", "-c", script]
    shifts = []
    undo = clock.Stepped("ahead").apply(world, random.Random(0))
    assert undo is not None
    with subprocess.Popen(
        asks,
        env=world.environment(PYTHONUNBUFFERED="1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        for seconds in (5 * hour, -2 * hour, 0):
            clock.step(world, seconds)
            child.stdin.write("now\n")
            child.stdin.flush()
            wall, monotonic = (float(word) for word in child.stdout.readline().split())
            shifts.append(wall - time.time())
            assert abs(monotonic - time.monotonic()) < 5
            assert abs(shifts[-1] - seconds) < 5
        child.stdin.write("end\n")
    undo()
    assert world.environ == {}
    assert abs(float(run_in(world, "date", "+%s").stdout) - time.time()) < 5


def test_commands_have_another_monotonic_clock(world: World) -> None:
    if not clock.time_namespaces():
        pytest.skip("not run: no time namespaces")
    undo = clock.Monotonic().apply(world, random.Random(0))
    assert undo is not None
    told = run_in(world, sys.executable, "-E", "-S", "-c", "import time; print(time.monotonic())")
    assert abs(float(told.stdout) - time.monotonic()) > 30
    undo()
    assert world.prefix == []


def test_they_are_named_once_each_and_what_cannot_be_done_is_named() -> None:
    names = [one.name for one in disturbances.ALL]
    assert len(names) == len(set(names)) > 25
    assert set(disturbances.missing()) <= set(names)
