"""Ending runs that are contained by their session: who belongs to them, what it costs, and that nobody else is met."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.procs import Spawn, alive, look, start_of, wait_until
from safesh import _platform
from safesh.core.contain import RUN_ID
from safesh.errors import ConfigError
from safesh.model import StopPolicy, Verdict
from safesh.process.ending import Mark, anybody_left, end_runs, holders_of, leftovers

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
POLICY = StopPolicy(grace=10.0)
DEAF = "trap '' TERM; echo up; while :; do sleep 60 & wait $!; done"


class Run(Spawn):
    """A child that was started as the process API starts one."""

    def __init__(self, *command: str, **options: Any) -> None:
        self.run_id = uuid.uuid4().hex[:16]
        super().__init__(*command, extra_env={RUN_ID: self.run_id}, **options)

    @property
    def as_mark(self) -> Mark:
        return Mark(self.pid, self.start, self.run_id)


linux_only = pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="the portable backend cannot tell")


def pids(members: list[Any]) -> set[int]:
    return {member.pid for member in members}


def told(run: Run, count: int = 1) -> list[int]:
    return [int(run.wait_line(r"^\d+$").group()) for _ in range(count)]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every look at all processes."""
    counted: list[int] = []
    real = _platform.scan

    def scan() -> Any:
        counted.append(1)
        return real()

    monkeypatch.setattr(_platform, "scan", scan)
    return counted


# who belongs to it --------------------------------------------------------------------------------------------


def test_a_run_of_three_is_asked_and_gone_at_the_price_of_a_few_looks(scans: list[int]) -> None:
    with Run("sh", "-c", "sleep 60 & echo $!; sleep 60 & echo $!; wait") as run:
        children = set(told(run, 2))
        verdict = end_runs([run.as_mark], POLICY)[run.pid]
        assert (verdict.survivors, verdict.killed) == ([], [])
        assert pids(verdict.asked) == {run.pid, *children}
        assert (verdict.run_id, verdict.target) == (run.run_id, "")
        assert verdict.seconds < 5
        assert run.wait() == -signal.SIGTERM
        assert len(scans) <= 4


ESCAPES = {
    "a child": "sleep 60 & echo $!; wait",
    "an orphan in the session": "(sleep 60 & echo $!); exec sleep 60",
    "an orphan in the session without its environment": "(env -i sleep 60 & echo $!); exec sleep 60",
    "a daemon in a session of its own": "(setsid sleep 60 & echo $!); exec sleep 60",
    "a child in a session of its own without its environment": "setsid env -i sleep 60 & echo $!; wait",
}


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_is_ended_wherever_it_went(name: str, now: bool) -> None:
    with Run("sh", "-c", ESCAPES[name]) as run:
        (child,) = told(run)
        run.adopt(child, start_of(child))
        wait_until(lambda: "sleep" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8"))
        verdict = end_runs([run.as_mark], POLICY, now=now)[run.pid]
        assert verdict.ok
        assert pids(verdict.killed if now else verdict.asked) == {run.pid, child}
        assert verdict.asked == [] if now else verdict.killed == []
        assert (found := look(child)) is None or found.dead


@pytest.mark.parametrize("name", [name for name in ESCAPES if "a child in" not in name])
def test_what_a_collected_main_process_left_behind_is_ended(name: str) -> None:
    with Run("sh", "-c", ESCAPES[name].replace("wait", "exit").replace("exec sleep 60", "exit")) as run:
        (child,) = told(run)
        start = start_of(child)
        run.adopt(child, start)
        assert run.wait() == 0
        verdict = end_runs([run.as_mark], POLICY)[run.pid]
        assert verdict.ok
        assert pids(verdict.asked) == {child}
        assert not alive(child, start)


def test_nobody_else_is_met() -> None:
    script = "setsid sleep 60 & echo $!; wait"
    with Run("sh", "-c", script) as other, Spawn("sleep", "60") as plain, Run("sh", "-c", script) as run:
        (theirs,) = told(other)
        told(run)
        verdict = end_runs([run.as_mark], POLICY)[run.pid]
        assert len(verdict.asked) == 2
        assert (other.alive(), plain.alive()) == (True, True)
        assert (found := look(theirs)) is not None
        assert not found.dead


def test_a_run_that_a_member_of_another_started_keeps_its_own_verdict() -> None:
    """Both are to be ended; the inner one is below the outer one's main process."""
    inner_id = uuid.uuid4().hex
    script = f"env {RUN_ID}={inner_id} setsid sh -c 'sleep 60 & echo $$ $!; wait' & wait"
    with Run("sh", "-c", script) as run:
        inner, child = (int(word) for word in run.wait_line(r"\d+ \d+").group().split())
        verdicts = end_runs([run.as_mark, Mark(inner, start_of(inner), inner_id)], POLICY)
        assert pids(verdicts[inner].asked) == {inner, child}
        assert inner not in pids(verdicts[run.pid].asked)
        assert verdicts[run.pid].ok


def test_an_empty_list_and_a_run_that_is_over_cost_nobody_anything() -> None:
    assert end_runs([], POLICY) == {}
    with Run("true") as run:
        wait_until(lambda: (found := look(run.pid)) and found.dead)
        for _ in range(2):  # a zombie, then collected
            verdict = end_runs([run.as_mark], POLICY)[run.pid]
            assert (verdict.asked, verdict.killed, verdict.survivors) == ([], [], [])
            run.wait()


def test_a_signal_that_there_is_none_of_is_told() -> None:
    with Run("sleep", "60") as run:
        with pytest.raises(ConfigError, match="SIGNONE"):
            end_runs([run.as_mark], StopPolicy(signal="SIGNONE"))
        assert run.alive()


# how it is asked ----------------------------------------------------------------------------------------------


def test_every_run_has_a_verdict_of_its_own() -> None:
    with (
        Run("sleep", "60") as polite,
        Run("sh", "-c", DEAF) as deaf,
        Run("sh", "-c", "sleep 60 & echo $!; wait") as two,
    ):
        deaf.wait_line("up")
        (child,) = told(two)
        verdicts = end_runs([polite.as_mark, deaf.as_mark, two.as_mark], StopPolicy(grace=0.7))
        assert set(verdicts) == {polite.pid, deaf.pid, two.pid}
        assert all(verdict.ok for verdict in verdicts.values())
        assert (pids(verdicts[polite.pid].asked), verdicts[polite.pid].killed) == ({polite.pid}, [])
        assert (pids(verdicts[two.pid].asked), verdicts[two.pid].killed) == ({two.pid, child}, [])
        assert deaf.pid in pids(verdicts[deaf.pid].killed)
        assert {verdict.run_id for verdict in verdicts.values()} == {polite.run_id, deaf.run_id, two.run_id}
        # Who ended at once is not told to have taken as long as the slowest.
        assert verdicts[polite.pid].seconds < 0.7 <= verdicts[deaf.pid].seconds


NOTING = """
import os, signal, sys, time
def note(name):
    def handler(*_):
        os.write(1, f"{name} {time.monotonic_ns()}\\n".encode())
        if name == "main":
            time.sleep(0.2)
        os.write(1, f"{name}-gone {time.monotonic_ns()}\\n".encode())
        os._exit(0)
    signal.signal(signal.SIGTERM, handler)
if os.fork() == 0:
    note("child"); os.write(1, b"up\\n")
else:
    note("main"); os.write(1, b"up\\n")
while True: time.sleep(60)
"""


def test_the_main_process_of_each_run_is_asked_before_the_rest_of_it() -> None:
    with Run(sys.executable, "-S", "-c", NOTING) as one, Run(sys.executable, "-S", "-c", NOTING) as other:
        for run in (one, other):
            run.wait_line("up")
            run.wait_line("up")
        verdicts = end_runs([one.as_mark, other.as_mark], POLICY)
        for run in (one, other):
            run.wait_output()
            at = dict(line.split() for line in run.out.splitlines() if line != "up")
            assert int(at["main-gone"]) < int(at["child"])
            assert verdicts[run.pid].ok
            assert verdicts[run.pid].killed == []


def test_with_scope_tree_everybody_is_asked_at_once() -> None:
    with Run(sys.executable, "-S", "-c", NOTING) as run:
        run.wait_line("up")
        run.wait_line("up")
        assert end_runs([run.as_mark], StopPolicy(scope="tree"))[run.pid].ok
        run.wait_output()
        at = dict(line.split() for line in run.out.splitlines() if line != "up")
        assert int(at["child"]) < int(at["main-gone"])


def test_somebody_else_may_collect_the_main_processes_meanwhile() -> None:
    runs = [
        subprocess.Popen(["sleep", "60"], start_new_session=True, env={**os.environ, RUN_ID: f"r{n}"}) for n in range(8)
    ]
    reapers = [threading.Thread(target=run.wait) for run in runs]
    try:
        marks = [Mark(run.pid, start_of(run.pid), f"r{number}") for number, run in enumerate(runs)]
        for reaper in reapers:
            reaper.start()
        verdicts = end_runs(marks, POLICY)
        assert all(verdict.ok and not verdict.killed for verdict in verdicts.values())
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
        for reaper in reapers:
            reaper.join(10)
    assert [run.returncode for run in runs] == [-signal.SIGTERM] * 8


def test_many_threads_end_their_runs_at_once_and_two_the_same_one() -> None:
    verdicts: list[Verdict] = []

    def end(run: Run) -> None:
        verdicts.extend(end_runs([run.as_mark], POLICY).values())

    runs = [Run("sh", "-c", "setsid sleep 60 & echo $!; wait") for _ in range(6)]
    try:
        children = [(child := told(run)[0], start_of(child)) for run in runs]
        threads = [threading.Thread(target=end, args=(run,)) for run in [*runs, runs[0]]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [verdict.ok for verdict in verdicts] == [True] * 7
        assert not any(alive(*child) for child in children)
    finally:
        for run in runs:
            run.close()


def test_a_caller_whose_descriptors_are_used_up_still_ends_its_runs() -> None:
    runs = [Run("sleep", "60") for _ in range(5)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # What there is, one for looking, one for the pidfd of the moment.
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, limits[1]))
        spare = []
        try:
            while len(spare) < 1000:
                spare.append(os.dup(0))
        except OSError:
            pass
        for _ in range(2):
            os.close(spare.pop())
        try:
            verdicts = end_runs([run.as_mark for run in runs], POLICY)
        finally:
            for fd in spare:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert all(verdict.ok for verdict in verdicts.values())
        assert not any(run.alive() for run in runs)
    finally:
        for run in runs:
            run.close()


# numbers that pass on, and many -------------------------------------------------------------------------------


@pytest.mark.pidns
def test_a_number_that_has_passed_to_another_session_is_left_alone() -> None:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip("this kernel does not let pids be chosen (CONFIG_CHECKPOINT_RESTORE)")
    first = subprocess.Popen(["sleep", "60"], start_new_session=True)
    mark = Mark(first.pid, start_of(first.pid), "gone")
    first.kill()
    first.wait()
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]

    def attempt() -> subprocess.Popen[str] | None:
        LAST_PID.write_text(str(mark.pid - 1), encoding="ascii")
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        children.append((child, start_of(child)))
        if process.pid == mark.pid and start_of(process.pid) != mark.start:
            return process
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None

    children: list[tuple[int, int]] = []
    second = wait_until(attempt, 10)
    assert second is not None
    try:
        for now in (False, True):
            verdict = end_runs([mark], POLICY, now=now)[mark.pid]
            assert (verdict.asked, verdict.killed, verdict.survivors) == ([], [], [])
        assert leftovers(mark) == []
        assert second.poll() is None
        assert alive(*children[-1])
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        second.communicate()


HOPPING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"up\\n")
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)
    time.sleep(0.001)
"""


@pytest.mark.pidns
def test_one_that_forks_and_exits_without_end_is_caught() -> None:
    with Run(sys.executable, "-S", "-c", HOPPING) as run:
        run.wait_line("up")
        verdict = end_runs([run.as_mark], StopPolicy(grace=0.2))[run.pid]
        assert verdict.ok
        wait_until(lambda: run.members() == [])


@pytest.fixture
def hundreds() -> Iterator[list[subprocess.Popen[bytes]]]:
    runs: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(300):
            environment = {"PATH": os.environ["PATH"], RUN_ID: f"run-{number}"}
            runs.append(subprocess.Popen(["sleep", "60"], start_new_session=True, env=environment))
        yield runs
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
            run.wait()


@pytest.mark.pidns
@pytest.mark.parametrize("now", [False, True])
def test_hundreds_of_runs_are_ended_at_the_price_of_one(
    hundreds: list[subprocess.Popen[bytes]], scans: list[int], now: bool
) -> None:
    marks = [Mark(run.pid, start_of(run.pid), f"run-{number}") for number, run in enumerate(hundreds)]
    before = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    verdicts = end_runs(marks, POLICY, now=now)
    assert time.monotonic() - started < 5
    assert len(scans) <= 8
    for mark in marks:
        verdict = verdicts[mark.pid]
        assert verdict.ok
        assert (pids(verdict.asked), pids(verdict.killed)) == ((set(), {mark.pid}) if now else ({mark.pid}, set()))
    assert len(os.listdir("/proc/self/fd")) == before


# cheap questions ----------------------------------------------------------------------------------------------


def test_whether_anybody_is_left_in_a_group_is_known_at_once() -> None:
    with Run("sh", "-c", "sleep 60 & echo $!") as run:
        (child,) = told(run)
        assert run.wait() == 0
        assert anybody_left(run.pid)
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not anybody_left(run.pid))
    assert not anybody_left(0)
    assert not anybody_left(1)


@pytest.mark.parametrize("script", ["sleep 60 & echo $!", "setsid sleep 60 & echo $!", "env -i sleep 60 & echo $!"])
def test_leftovers_are_found_also_outside_of_the_group(script: str) -> None:
    with Run("sh", "-c", script) as run:
        (child,) = told(run)
        run.adopt(child, start_of(child))
        assert run.wait() == 0
        assert [one.pid for one in leftovers(run.as_mark)] == [child]
    with Run("true") as clean:
        clean.wait()
        assert leftovers(clean.as_mark) == []


# who holds it open --------------------------------------------------------------------------------------------


@linux_only
def test_who_can_write_to_our_pipe_is_told_and_who_reads_from_it_is_not() -> None:
    reading, writing = os.pipe()
    try:
        with (
            Spawn("sh", "-c", "sleep 60 & echo $!", stdin=subprocess.DEVNULL, stderr=writing) as writer,
            Spawn("sleep", "60", stdin=reading) as reader,
        ):
            child = int(writer.wait_line(r"\d+").group())
            writer.wait()
            found = holders_of(reading, {os.getpid()})
            assert pids(found) == {child}
            assert found[0].command == "sleep 60"
            assert "pipe:" in found[0].reason
            assert pids(holders_of(reading)) == {child, os.getpid()}
            assert holders_of(reading, {child, os.getpid()}) == []
            assert pids(holders_of(writing, {os.getpid()})) == {reader.pid}
    finally:
        os.close(reading)
        os.close(writing)


@linux_only
def test_who_holds_a_terminal_open_is_told_to_its_master() -> None:
    master, slave = pty.openpty()
    try:
        with Spawn("sleep", "60", stdin=slave) as child:
            os.close(slave)
            slave = -1
            assert pids(holders_of(master)) == {child.pid}
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def test_of_a_file_nobody_is_told(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w", encoding="utf-8") as file:
        assert holders_of(file.fileno()) == []
