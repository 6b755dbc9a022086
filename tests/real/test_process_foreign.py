"""Processes that the API did not start: opened for certain, signalled, ended with all below them, glanced at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.procs import Spawn, alive, look, start_of, tree_of, wait_until
from safesh import _platform
from safesh.core import kill
from safesh.model import StopPolicy
from safesh.process import errors, foreign
from safesh.process.glance import glance

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
FREEZER = Path("/sys/fs/cgroup/freezer")
POLICY = StopPolicy(grace=10.0)
NOBODY = 65534
DEAF = "trap '' TERM; echo up; while :; do sleep 60 & wait $!; done"


linux_only = pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="the portable backend cannot tell, or is slower")


@pytest.fixture
def sleeper() -> Iterator[Spawn]:
    with Spawn("sleep", "60") as child:
        yield child


def pids(members: list[Any]) -> set[int]:
    return {member.pid for member in members}


def as_nobody(question: Callable[[], Any]) -> Any:
    """What it answers, or the name and text of what it raises, asked by a child without any rights."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                answer = question()
            except Exception as error:
                answer = [type(error).__name__, str(error)]
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(data)


# opening ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", [True, "12", 1.5, None, b"1", -1, -(2**70)])
def test_what_is_no_pid_is_refused_by_name(pid: Any) -> None:
    with pytest.raises(errors.InvalidCommand) as caught:
        foreign.open_process(pid)
    assert caught.value.place == "pid"


@pytest.mark.parametrize("pid", [0, 2**31, 2**70, 2**31 - 1])
def test_a_number_that_nobody_has_is_told(pid: int) -> None:
    with pytest.raises(errors.NoSuchProcess, match=str(pid)):
        foreign.open_process(pid)


@linux_only
def test_an_open_process_is_that_one_and_costs_one_descriptor(sleeper: Spawn) -> None:
    with foreign.open_process(sleeper.pid) as target:
        fd = target.handle.fileno()
        os.fstat(fd)
        assert (target.pid, target.start, target.alive) == (sleeper.pid, sleeper.start, True)
        sleeper.send(signal.SIGKILL)
        wait_until(lambda: not target.alive)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@linux_only
def test_a_threads_number_is_not_taken_for_a_process() -> None:
    """kill(2) would end the whole process that the thread belongs to."""
    done, up = threading.Event(), threading.Event()
    numbers: list[int] = []

    def body() -> None:
        numbers.append(threading.get_native_id())
        up.set()
        done.wait(30)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert up.wait(10)
        for ask in (foreign.open_process, lambda pid: foreign.send(pid, 0), lambda pid: foreign.send(pid, "TERM")):
            with pytest.raises(errors.NoSuchProcess, match=f"thread of process {os.getpid()}"):
                ask(numbers[0])
    finally:
        done.set()
        thread.join(10)


# protected ----------------------------------------------------------------------------------------------------


def test_ourselves_those_above_us_and_the_first_process_are_refused() -> None:
    for pid in (0, 1, os.getpid(), os.getppid()):
        for act in (
            lambda pid: foreign.send(pid, "SIGTERM"),
            lambda pid: foreign.end_foreign(pid, POLICY, now=True),
            lambda pid: foreign.polite_end(pid, POLICY),
        ):
            with pytest.raises(errors.Refused, match=f"pid {pid}"):
                act(pid)
    foreign.send(os.getpid(), 0)
    foreign.send(os.getppid(), 0)


@linux_only
def test_the_kernels_threads_are_refused() -> None:
    if (found := look(2)) is None or found.name != "kthreadd":
        pytest.skip("the kernel's threads are not to be seen from here")
    with pytest.raises(errors.Refused, match="kernel"):
        foreign.send(2, "SIGTERM")


# one signal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGUSR1", "usr1", signal.SIGUSR1, int(signal.SIGUSR1)])
def test_a_signal_arrives_however_it_is_named(sleeper: Spawn, name: Any) -> None:
    foreign.send(sleeper.pid, 0)
    foreign.send(sleeper.pid, name)
    assert sleeper.wait() == -signal.SIGUSR1


@pytest.mark.parametrize("name", ["SIGNONE", "", -1, 999, True, None, 1.0])
def test_what_is_no_signal_is_refused_by_name(sleeper: Spawn, name: Any) -> None:
    with pytest.raises(errors.InvalidCommand) as caught:
        foreign.send(sleeper.pid, name)
    assert caught.value.place == "signal"
    assert sleeper.alive()


def test_a_zombie_takes_no_signal_and_says_so(sleeper: Spawn) -> None:
    sleeper.send(signal.SIGKILL)
    wait_until(lambda: (found := look(sleeper.pid)) and found.dead)
    with pytest.raises(errors.NoSuchProcess, match="not collected"):
        foreign.send(sleeper.pid, "SIGTERM")
    verdict = foreign.end_foreign(sleeper.pid, POLICY)
    assert verdict.ok
    assert "ended already" in verdict.notes[0]


def test_what_the_system_does_not_permit_is_told_with_whose_it_is(sleeper: Spawn) -> None:
    name, text = as_nobody(lambda: foreign.send(sleeper.pid, "SIGTERM"))
    assert name == "ProcessError"
    assert f"pid {sleeper.pid}: not permitted to send it SIGTERM: it runs as user 0" in text
    assert sleeper.alive()


@pytest.mark.pidns
def test_a_number_that_passes_on_after_it_was_opened_is_not_signalled() -> None:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip("this kernel does not let pids be chosen (CONFIG_CHECKPOINT_RESTORE)")
    first = subprocess.Popen(["sleep", "60"])
    start = start_of(first.pid)
    target = foreign.open_process(first.pid)
    brief = foreign.LeanTree()
    brief._pidfds = 0
    handle = brief.adopt(first.pid, start)
    assert handle is not None
    assert handle.alive()
    first.kill()
    first.wait()

    def attempt() -> subprocess.Popen[bytes] | None:
        LAST_PID.write_text(str(first.pid - 1), encoding="ascii")
        process = subprocess.Popen(["sleep", "60"])
        if process.pid == first.pid and start_of(process.pid) != start:
            return process
        process.kill()
        process.wait()
        return None

    second = wait_until(attempt, 10)
    assert second is not None
    try:
        assert not target.alive
        assert not target.handle.send(signal.SIGKILL)
        assert not handle.alive()
        assert not handle.send(signal.SIGKILL)
        assert second.poll() is None
    finally:
        target.close()
        second.kill()
        second.wait()


# ending -------------------------------------------------------------------------------------------------------


def test_a_process_is_ended_with_everything_below_it_and_nobody_beside_it() -> None:
    script = "sh -c 'sleep 60 & echo $!; wait' & echo $!; setsid sleep 60 & echo $!; wait"
    with Spawn("sleep", "60") as beside, Spawn("sh", "-c", script) as child:
        below = {int(child.wait_line(r"\d+").group()) for _ in range(3)}
        verdict = foreign.end_foreign(child.pid, POLICY)
        assert (verdict.killed, verdict.survivors) == ([], [])
        # The inner shell ends by itself when what it waits for was asked before it.
        assert child.pid in pids(verdict.asked)
        assert pids(verdict.asked) <= {child.pid, *below}
        assert all(found is None or found.dead for found in map(look, below))
        assert verdict.target == f"pid {child.pid}"
        assert child.wait() == -signal.SIGTERM
        assert beside.alive()


def test_the_deaf_are_killed_after_the_grace_and_at_once_when_now() -> None:
    for now in (False, True):
        with Spawn("sh", "-c", DEAF) as child:
            child.wait_line("up")
            verdict = foreign.end_foreign(child.pid, StopPolicy(grace=0.5), now=now)
            assert verdict.ok
            assert child.pid in pids(verdict.killed)
            assert (verdict.asked == []) is now
            assert child.wait() == -signal.SIGKILL


LEAVING = """
import os, signal, time
def leave(*_):
    if os.fork() == 0:
        os.environ.clear()
        os.execv("/bin/sleep", ["sleep", "60"])
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
os.write(1, b"up\\n")
while True: time.sleep(60)
"""


def test_who_forks_on_the_signal_is_ended_with_what_it_left() -> None:
    with Spawn(sys.executable, "-S", "-c", LEAVING) as child:
        child.wait_line("up")
        verdict = foreign.end_foreign(child.pid, POLICY)
        assert verdict.ok
        assert len(verdict.asked) >= 2
        assert child.members() == []


def test_what_a_process_had_left_behind_before_is_left_in_peace() -> None:
    with Spawn("sh", "-c", "(sleep 60 & echo $!); exec sleep 60") as child:
        orphan = int(child.wait_line(r"\d+").group())
        start = start_of(orphan)
        wait_until(lambda: orphan not in {one.pid for one in tree_of(child.pid)})
        verdict = foreign.end_foreign(child.pid, POLICY)
        assert pids(verdict.asked) == {child.pid}
        assert alive(orphan, start)


def test_a_polite_end_kills_nobody_and_lists_who_is_there() -> None:
    with Spawn("sh", "-c", DEAF) as child:
        child.wait_line("up")
        verdict = foreign.polite_end(child.pid, StopPolicy(grace=0.3))
        assert (child.pid in pids(verdict.asked), verdict.killed, verdict.ok) == (True, [], False)
        (left,) = [one for one in verdict.survivors if one.pid == child.pid]
        assert left.reason == "still there 0.3 s after SIGTERM; force=True kills it"
        assert child.alive()
    with Spawn("sleep", "60") as child:
        started = time.monotonic()
        assert foreign.polite_end(child.pid, POLICY).ok
        assert time.monotonic() - started < 5
        assert child.wait() == -signal.SIGTERM


def test_somebody_elses_process_is_a_survivor_with_the_reason_at_once(sleeper: Spawn) -> None:
    started = time.monotonic()
    told = as_nobody(lambda: foreign.end_foreign(sleeper.pid, POLICY).to_dict())
    assert time.monotonic() - started < 3
    assert [(one["pid"], one["reason"]) for one in told["survivors"]] == [
        (sleeper.pid, "not permitted to signal it (it runs as another user)")
    ]
    assert sleeper.alive()


def test_one_in_uninterruptible_sleep_is_a_survivor_with_the_reason(
    sleeper: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = FREEZER / f"sft-{os.getpid()}-{sleeper.pid}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroup v1 freezer here, which holds a process against SIGKILL")
    monkeypatch.setattr(kill, "KILL_SECONDS", 0.5)
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid), encoding="ascii")
        (group / "freezer.state").write_text("FROZEN", encoding="ascii")
        wait_until(lambda: (found := look(sleeper.pid)) and found.state == "D")
        verdict = foreign.end_foreign(sleeper.pid, StopPolicy(grace=0.1))
        assert [(one.pid, one.reason) for one in verdict.survivors] == [
            (sleeper.pid, "in uninterruptible sleep (D): it ends when the kernel's I/O returns")
        ]
    finally:
        (group / "freezer.state").write_text("THAWED", encoding="ascii")
        sleeper.wait()
        group.rmdir()


# a glance -----------------------------------------------------------------------------------------------------


def test_a_glance_tells_what_a_process_does(sleeper: Spawn) -> None:
    before = time.time()
    with Spawn(
        sys.executable, "-c", "import time\nwhile time.process_time() < 0.1: pass\nprint('up'); input()"
    ) as busy:
        wait_until(
            lambda: (
                (found := look(busy.pid)) and found.state == "S" and glance([busy.pid])[busy.pid]["cpu_seconds"] > 0.05
            )
        )
        told = glance([busy.pid, sleeper.pid, 2**31 - 1])
        assert set(told) == {busy.pid, sleeper.pid}
        one = told[busy.pid]
        assert {name: one[name] for name in ("pid", "ppid", "state", "threads", "running")} == {
            "pid": busy.pid, "ppid": os.getpid(), "state": "sleeping", "threads": 1, "running": True,
        }  # fmt: skip
        assert one["memory_bytes"] > 1 << 20
        assert before - 30 < one["started_at"] <= time.time() + 1
        assert told[sleeper.pid]["command"] == "sleep"


def test_a_zombie_is_glanced_at_as_one_that_does_not_run(sleeper: Spawn) -> None:
    sleeper.send(signal.SIGKILL)
    wait_until(lambda: not glance([sleeper.pid])[sleeper.pid]["running"])
    assert glance([sleeper.pid])[sleeper.pid]["state"] == "zombie"
    sleeper.wait()
    assert glance([sleeper.pid]) == {}


@linux_only
@pytest.mark.pidns
def test_a_hundred_processes_are_glanced_at_in_a_third_of_psutils_time() -> None:
    import psutil

    fields = ["pid", "ppid", "name", "status", "cpu_times", "memory_info", "num_threads", "create_time"]
    runs = [subprocess.Popen(["sleep", "60"]) for _ in range(100)]
    try:
        numbers = [run.pid for run in runs]
        ours, theirs = [], []
        for _ in range(15):
            at = time.perf_counter()
            assert len(glance(numbers)) == 100
            ours.append(time.perf_counter() - at)
            at = time.perf_counter()
            assert len([one.info for one in psutil.process_iter(fields)]) >= 100
            theirs.append(time.perf_counter() - at)
        assert min(ours) < 0.005
        assert min(ours) <= min(theirs) / 3
    finally:
        for run in runs:
            run.kill()
            run.wait()
