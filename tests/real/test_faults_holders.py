"""Holders that nothing tells of any more, and holders that cannot look: nobody's tree is forgotten."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.faults_tools import (
    SLEEPER,
    kill,
    members,
    one_line,
    record_of,
    table,
    wait_gone,
    wait_record,
    write_target,
)
from helpers.home import Home, Safe
from helpers.procs import Spawn, wait_until
from safesh._platform.cgroup import Group

ALWAYS = 'restart = "always"\nbackoff = { initial = "0.05s", jitter = 0 }'
BACKENDS = ("cgroup", "subreaper", "posix")


def lose(home: Home, how: str) -> None:
    """The folder with lock, record, pid file and socket is away."""
    folder = home.state / "proj"
    if how == "moved":
        folder.rename(home.state / "aside")
    else:
        shutil.rmtree(folder)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_stop_ends_the_supervisor_whose_lock_and_record_are_gone(
    home: Home, safe: Safe, backend: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would start again what the stop ends beside it, and "nobody is left" would be a lie."""
    if (backend, how) == ("posix", "removed"):
        pytest.skip("not run: psutil tells no files that have been removed")
    monkeypatch.setenv("SAFESH_BACKEND", backend) if backend != "cgroup" else None
    write_target(home, more=ALWAYS)
    with safe.started("t"):
        found = record_of(home)
        lose(home, how)
        holder = found["supervisor"]["pid"]
        one_line(safe("start", "t", "--detach").check(75), f"pid {holder}", "lock and record are gone", hint=True)
        assert f"{holder}" in safe("status", "t").check(2).out
        done = safe("stop", "t", "--force").check(0)
        assert "nobody is left" in done.out
        for role in ("supervisor", "keeper", "main"):
            assert not procs.alive(found[role]["pid"], found[role]["start"]), role
        assert members(home) == []
        assert "not running" in safe("status", "t").check(3).out
        with safe.started("t"):
            assert len(members(home)) == 1


@pytest.mark.parametrize("state", ["between two runs", "stopped"])
def test_such_a_supervisor_is_found_whatever_it_does(home: Home, safe: Safe, state: str) -> None:
    if state == "stopped":
        write_target(home, more=ALWAYS)
    else:
        write_target(home, "echo up; exit 3", more='restart = "always"\nbackoff = { initial = "60s", jitter = 0 }')
    with safe.started("t"):
        found = record_of(home) if state == "stopped" else wait_record(home, state="backoff")
        if state == "stopped":
            kill(found["supervisor"], signal.SIGSTOP)
        lose(home, "moved")
        one_line(safe("start", "t", "--detach").check(75), "lock and record are gone", hint=True)
        assert "nobody is left" in safe("kill-all", "--force").check(0).out
        wait_gone(found["supervisor"])
        assert members(home) == []


def test_a_start_takes_over_from_a_supervisor_whose_lock_and_record_are_gone(home: Home, safe: Safe) -> None:
    write_target(home, more=ALWAYS)
    with safe.started("t"):
        first = record_of(home)
        lose(home, "moved")
        safe("start", "t", "--detach", "--replace", "--force").check(0)
        wait_gone(first["supervisor"])
        assert len(members(home)) == 1
        assert record_of(home)["supervisor"] != first["supervisor"]


def test_no_process_of_the_tree_is_taken_for_its_holder(home: Home, safe: Safe) -> None:
    """What tells of a holder is in the environment of supervisor and keeper, and of nobody whom they start."""
    write_target(home, more='ready = { command = ["sh", "-c", "env > probe.txt"] }')
    with safe.started("t"):
        found = record_of(home)
        mark = str(home.state / "proj" / "t")
        holders = {one.pid for one in procs.marked("SAFESH_HOLDER", mark)}
        assert holders == {found["supervisor"]["pid"], found["keeper"]["pid"]}
        assert "SAFESH_HOLDER" not in (home.project / "probe.txt").read_text()


def test_a_notification_of_the_last_keeper_is_no_survivor(home: Home, safe: Safe) -> None:
    """The supervisor cannot be asked, so it is killed; its keeper starts a hook that tells of it, while somebody else
    ends the tree."""
    write_target(home, "trap '' TERM; echo up; sleep 600", more='notify = [{ command = ["sleep", "0.2"], every = 0 }]')
    with safe.started("t"):
        home.state_file("t.sock").unlink()
        home.state_file("t.sock").symlink_to(home.state / "nothing")
        told = safe("kill-all", "--force", "--now", "--json").check(0).json()["verdicts"][0]
        assert told["survivors"] == []
        assert "did not answer and was killed" in told["notes"][0]
        assert members(home) == []


def test_a_group_that_its_keeper_removes_while_it_is_frozen_has_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """kill-all froze a run's group in the moment in which the keeper, its supervisor killed, was done with it."""
    group = Group.create(f"test-{os.getpid()}")
    if group is None:
        pytest.skip("not run: no cgroup can be made here")
    read = os.pread

    def late(fd: int, size: int, at: int) -> bytes:
        group.remove()
        return read(fd, size, at)

    monkeypatch.setattr(os, "pread", late)
    assert group.freeze(0.5)
    assert not os.path.exists(group.path)


def test_a_group_that_two_remove_at_once_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group.create(f"test-{os.getpid()}")
    if group is None:
        pytest.skip("not run: no cgroup can be made here")
    remove = os.rmdir

    def busy(path: str) -> None:
        """The other one comes in between: it was busy when we asked, and is gone when we look why."""
        monkeypatch.setattr(os, "rmdir", remove)
        remove(path)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "rmdir", busy)
    assert group.remove()


def test_a_group_is_removed_by_who_can_list_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group.create(f"test-{os.getpid()}")
    if group is None:
        pytest.skip("not run: no cgroup can be made here")

    def refuse(path: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as without:
        without.setattr(os, "scandir", refuse)
        assert group.remove()
    assert not os.path.exists(group.path)


# --- a holder that cannot look ------------------------------------------------------------------------


@contextmanager
def blinded(found: dict[str, Any], error: str, call: str = "openat") -> Iterator[None]:
    """Every such call of this process fails."""
    if not shutil.which("strace"):
        pytest.skip("not run: no strace")
    words = ["strace", "-qq", "-o", "/dev/null", "-p", str(found["pid"]), f"-einject={call}:error={error}"]
    with Spawn(*words, stdin=subprocess.DEVNULL, whole=False) as tracer:
        status = Path(f"/proc/{found['pid']}/status")
        wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text(), 5, "strace holds it")
        yield
        procs.send(tracer.pid, procs.start_of(tracer.pid), signal.SIGTERM)
        tracer.wait(5)


@pytest.mark.parametrize("error", ["EMFILE", "EIO", "ENOMEM"])
@pytest.mark.parametrize("backend", ["cgroup", "subreaper"])
@pytest.mark.parametrize("last", ["supervisor", "keeper"])
def test_the_last_holder_stays_until_it_can_look(
    home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch, last: str, backend: str, error: str
) -> None:
    """Its peer is killed while it can open nothing: it leaves neither tree nor lock to nobody, and ends the tree as
    soon as it can."""
    monkeypatch.setenv("SAFESH_BACKEND", backend) if backend != "cgroup" else None
    write_target(home, "echo up; (setsid sleep 611 &) ; sleep 600")
    with safe.started("t"):
        found = record_of(home)
        wait_until(lambda: len(members(home)) >= 2, 5, "the whole tree")
        holder, other = found[last], found["keeper" if last == "supervisor" else "supervisor"]
        with blinded(holder, error):
            kill(other)
            wait_gone(other)
            one_line(safe("start", "t", "--detach").check(75), hint=True)
            assert procs.alive(holder["pid"], holder["start"])
        wait_gone(holder, 10)
        assert members(home) == []
        assert safe("status", "t").rc in (1, 3)


def test_a_start_does_not_wait_for_an_answer_that_cannot_come(home: Home, safe: Safe) -> None:
    """What it depends on runs, and its supervisor has no descriptor for the connection that asks whether it does."""
    home.write_config(table(SLEEPER, "a") + table(SLEEPER, "b", "depends_on = ['a']"))
    with safe.started("a"), blinded(record_of(home, "a")["supervisor"], "EMFILE", "accept4"):
        safe("start", "--detach", "b", deadline=20).check(0)
        safe("stop", "b", "--force", "--now").check(0)
