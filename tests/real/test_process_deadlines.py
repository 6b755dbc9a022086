"""A deadline is hard and an end is an end: whoever keeps the output open, whatever was left behind."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers import commands
from helpers.campaign import thinned
from helpers.commands import Clock, gone, python
from helpers.procs import alive, environ, scan, spawn, start_of, wait_until
from safesh import (
    CommandTimeout,
    ExecutionMode,
    Limit,
    LimitExceeded,
    Limits,
    StopPolicy,
    execute_command,
    kill_process,
    read_from_process,
    write_to_process,
)
from safesh.process.result import ExecutionResult

MODES = tuple(ExecutionMode)
BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = MODES
CONTAIN = ("session", "keeper")
GRACE = 0.3
SLACK = 1.5  # seconds beyond timeout and grace in which the result must be there
pytestmark = pytest.mark.timeout(60)

# How a process is left behind: daemonised as in daemon(7), with what is given as its body.
DAEMON = """
import os, sys, time
def daemon(clear=False):
    if os.fork(): return
    os.setsid()
    if os.fork(): os._exit(0)
    print(os.getpid(), flush=True)
    if clear: os.execve('/bin/sleep', ['sleep', '60'], {})
    time.sleep(60)
    os._exit(0)
"""


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def run(command: Any, mode: ExecutionMode = BLOCKING, **options: Any) -> tuple[ExecutionResult, float]:
    options.setdefault("stop", GRACE)
    with Clock() as took:
        result = execute_command(command, mode, **options)
        assert result.wait(30).done
    return result, took.seconds


def pids_in(result: ExecutionResult) -> list[int]:
    return [int(word) for word in result.stdout.split() if word.isdigit()]


def nobody_carries(run_id: str) -> bool:
    return not [one for one in scan().values() if not one.dead and environ(one.pid).get("SAFESH_RUN_ID") == run_id]


# --- a timeout is a hard deadline --------------------------------------------------------------


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
def test_a_tree_that_ignores_the_request_is_killed_in_time(mode: ExecutionMode, contain: str) -> None:
    deaf = "trap '' TERM INT HUP; echo $$; while :; do sleep 60; done"
    script = f"trap '' TERM; sh -c \"{deaf.replace('$', chr(92) + '$')}\" & {deaf}"
    result, seconds = run(["sh", "-c", script], mode, contain=contain, timeout=0.7)
    assert result.timed_out
    assert seconds < 0.7 + GRACE + SLACK
    assert isinstance(result.error, CommandTimeout)
    assert result.signal == "SIGKILL"
    pids = pids_in(result)
    assert len(pids) == 2
    gone(*pids, deadline=0.5)
    assert result.verdict is not None
    assert result.verdict.ok
    assert {one.pid for one in result.verdict.killed} >= set(pids)
    assert nobody_carries(result.run_id)


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
def test_a_daemon_in_a_session_of_its_own_that_keeps_the_pipe_is_ended_with_it(
    mode: ExecutionMode, contain: str
) -> None:
    script = DAEMON + "daemon()\nprint('main', flush=True); time.sleep(60)"
    result, seconds = run(python(script), mode, contain=contain, timeout=1.0)
    assert result.timed_out
    assert seconds < 1.0 + GRACE + SLACK
    assert "main" in result.stdout
    (daemon,) = pids_in(result)
    gone(daemon, deadline=0.5)
    assert {one.pid for one in result.pipe_holders} >= {daemon, result.pid}
    assert result.verdict is not None
    assert result.verdict.ok
    assert isinstance(result.error, CommandTimeout)
    assert {one.pid for one in result.error.holders} >= {daemon}
    assert nobody_carries(result.run_id)


class Outsider:
    """A process that is nobody's of ours, and gets a descriptor by SCM_RIGHTS (unix(7)), which it keeps."""

    CODE = """
import array, os, socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen(); print("ready", flush=True)
held = []
while True:
    one, _ = server.accept()
    data, rights, _, _ = one.recvmsg(1, socket.CMSG_SPACE(64))
    held += [array.array("i", part[2]) for part in rights]
    one.sendall(b"x")
"""
    SENDER = """
import array, socket, sys, time
one = socket.socket(socket.AF_UNIX); one.connect(sys.argv[1])
one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1, 2]))])
one.recv(1)
print("passed on", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def outsider(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """(pid, where it listens)"""
    place = str(tmp_path / "s")
    with spawn(*python(Outsider.CODE, place)) as child:
        child.wait_line("ready")
        yield child.pid, place


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
def test_an_outsider_that_keeps_the_pipe_delays_nothing_and_is_told(
    mode: ExecutionMode, contain: str, outsider: tuple[int, str]
) -> None:
    pid, place = outsider
    birth = start_of(pid)
    result, seconds = run(python(Outsider.SENDER, place, "60"), mode, contain=contain, timeout=1.0)
    assert result.timed_out
    assert seconds < 1.0 + GRACE + SLACK
    assert result.stdout == "passed on\n"
    assert pid in {one.pid for one in result.pipe_holders}
    assert alive(pid, birth), "who is not of the tree is not ended"
    assert nobody_carries(result.run_id)


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
def test_without_a_deadline_an_outsider_holds_up_the_end_for_moments_only(
    mode: ExecutionMode, contain: str, outsider: tuple[int, str]
) -> None:
    pid, place = outsider
    result, seconds = run(python(Outsider.SENDER, place, "0"), mode, contain=contain)
    assert result.success
    assert seconds < 3
    assert result.stdout == "passed on\n"
    assert [one.pid for one in result.pipe_holders] == [pid]
    assert start_of(pid)


def test_a_reader_without_a_deadline_wakes_when_an_outsider_keeps_the_pipe(outsider: tuple[int, str]) -> None:
    _pid, place = outsider
    result = execute_command(python(Outsider.SENDER, place, "0.3"), BACKGROUND)
    assert result.pid is not None
    with Clock() as took:
        assert read_from_process(result.pid, 10) == "passed on\n"
        assert read_from_process(result.pid, None) == ""
    assert took.seconds < 4
    assert result.wait(5).success


@thinned()
@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_child_that_neither_reads_nor_ends_is_over_in_time(mode: ExecutionMode, pty: bool) -> None:
    result, seconds = run(["sh", "-c", "trap '' TERM HUP; while :; do sleep 60; done"], mode, pty=pty, timeout=0.4,
                          input_data="x\n" * (1 << 20))  # fmt: skip
    assert result.timed_out
    assert seconds < 0.4 + GRACE + SLACK


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
def test_a_tree_that_floods_its_output_is_over_in_time(mode: ExecutionMode, contain: str) -> None:
    result, seconds = run(["sh", "-c", "yes & yes >&2 & trap '' TERM; while :; do echo mine; done"], mode,
                          contain=contain, timeout=0.5, max_output="1M")  # fmt: skip
    assert result.timed_out
    assert result.truncated
    assert seconds < 0.5 + GRACE + SLACK
    assert nobody_carries(result.run_id)


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_of_nothing_ends_at_once(mode: ExecutionMode) -> None:
    result, seconds = run("sleep 60", mode, timeout=0)
    assert result.timed_out
    assert seconds < GRACE + SLACK


@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
def test_a_stuck_callback_does_not_keep_the_tree_alive(mode: ExecutionMode) -> None:
    gate = threading.Event()
    pids: list[int] = []

    def hang(line: str) -> None:
        pids.append(int(line))
        gate.wait(30)

    result = execute_command(["sh", "-c", "sleep 60 & echo $!; yes"], mode, on_output=hang, timeout=0.5, stop=GRACE,
                             max_output="512K")  # fmt: skip
    try:
        wait_until(lambda: pids)
        assert result.pid is not None
        gone(pids[0], result.pid, deadline=0.5 + GRACE + SLACK)
    finally:
        gate.set()
    assert result.timed_out
    assert result.wait(20).done


def test_a_deadline_is_kept_by_many_at_once() -> None:
    with Clock() as took:
        results = [execute_command(["sh", "-c", "trap '' TERM; sleep 60 & wait"], BACKGROUND, timeout=0.5, stop=GRACE)
                   for _ in range(20)]  # fmt: skip
        assert all(result.wait(20).timed_out for result in results)
    assert took.seconds < 4
    assert all(nobody_carries(result.run_id) for result in results)


@pytest.mark.parametrize(
    ("stop", "name"),
    [("SIGINT", "SIGINT"), (StopPolicy(signal="SIGUSR1", grace=1.0), "SIGUSR1"), ("hup", "SIGHUP")],
)
def test_the_stop_signal_is_the_callers_choice(stop: Any, name: str) -> None:
    result, _seconds = run("sleep 60", timeout=0.2, stop=stop)
    assert result.signal == name


def test_a_command_that_cleans_up_in_its_grace_is_not_killed() -> None:
    script = "trap 'echo cleaned; exit 7' TERM; echo up; while :; do sleep 0.01; done"
    result, _seconds = run(["sh", "-c", script], timeout=0.4, stop=3.0)
    assert result.stdout == "up\ncleaned\n"
    assert (result.return_code, result.timed_out) == (7, True)
    assert isinstance(result.error, CommandTimeout)


# --- leftovers ---------------------------------------------------------------------------------


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outputs", ["", ">/dev/null 2>&1"], ids=["with the pipe", "without"])
def test_a_child_left_in_the_group_is_ended_and_told(mode: ExecutionMode, contain: str, outputs: str) -> None:
    result, seconds = run(["sh", "-c", f"sleep 60 {outputs} & echo $!"], mode, contain=contain)
    assert result.success
    assert seconds < 3
    (left,) = pids_in(result)
    gone(left, deadline=0.5)
    assert result.leftovers is not None
    assert result.leftovers.ok
    assert [one.pid for one in result.leftovers.asked] == [left]
    assert result.verdict is None


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outputs", ["", "; fd = os.open('/dev/null', 1); os.dup2(fd, 1); os.dup2(fd, 2)"],
                         ids=["with the pipe", "without"])  # fmt: skip
def test_a_daemon_left_behind_is_ended_and_told(mode: ExecutionMode, contain: str, outputs: str) -> None:
    code = DAEMON.replace("flush=True)", "flush=True)" + outputs, 1) + "daemon()\nos.wait()"
    # Its parent waits until it has told its pid, so that it is there for certain when the main process ends.
    code = code.replace("os._exit(0)\n    print", "time.sleep(0.3); os._exit(0)\n    print", 1)
    result, seconds = run(python(code), mode, contain=contain)
    assert result.success
    assert seconds < 4
    (left,) = pids_in(result)
    gone(left, deadline=0.5)
    assert result.leftovers is not None
    assert left in {one.pid for one in result.leftovers.asked}
    assert nobody_carries(result.run_id)


@pytest.mark.parametrize("mode", MODES)
def test_a_daemon_that_cleared_its_environment_does_not_escape_a_keeper(mode: ExecutionMode) -> None:
    code = DAEMON + "daemon(clear=True)\nos.wait()\ntime.sleep(0.2)"
    result, _seconds = run(python(code), mode, contain="keeper")
    assert result.success
    (left,) = pids_in(result)
    gone(left, deadline=0.5)
    assert result.leftovers is not None
    assert left in {one.pid for one in result.leftovers.asked}


@pytest.mark.parametrize("contain", CONTAIN)
def test_what_is_left_may_finish_writing_first(contain: str) -> None:
    result, _seconds = run(["sh", "-c", "(sleep 0.3; echo late) & echo early"], contain=contain, stop=1.0)
    assert result.success
    assert result.stdout == "early\nlate\n" or contain == "keeper"


@pytest.mark.parametrize("mode", MODES)
def test_nothing_left_behind_is_told_as_nothing(mode: ExecutionMode) -> None:
    result, _seconds = run(["sh", "-c", "sleep 0.01 & wait; echo done"], mode)
    assert (result.leftovers, result.verdict, result.success) == (None, None, True)


def test_a_keepers_tree_ends_with_its_caller(tmp_path: Path) -> None:
    supervisor = str(Path(sys.modules["safesh"].__file__ or "").parent.parent)
    code = f"import sys; sys.path.insert(0, {supervisor!r}); from safesh import execute_command, ExecutionMode\n"
    code += (
        "r = execute_command(['sh', '-c', 'sleep 60 & echo $!; wait'], ExecutionMode.BACKGROUND, contain='keeper')\n"
    )
    code += "import time\nwhile not r.stdout: time.sleep(0.01)\nprint(r.pid, r.stdout, flush=True); time.sleep(60)"
    with spawn(commands.PYTHON, "-Ic", code, whole=False) as child:
        pids = [int(word) for word in child.wait_line(r"^\d+ \d+").group().split()]
        child.send(signal.SIGKILL)
        child.wait(5)
        gone(*pids, deadline=5)


# --- limits ------------------------------------------------------------------------------------

HUNGRY = "x = bytearray(150_000_000); import time; print('up', flush=True); time.sleep(60)"
LIMITS: list[tuple[str, Any, list[str]]] = [
    ("memory", "60M", python(HUNGRY)),
    ("cpu", 30, ["sh", "-c", "while :; do :; done"]),
    ("processes", 3, ["sh", "-c", "for i in 1 2 3 4 5; do sleep 60 & done; wait"]),
    ("max_runtime", 0.5, ["sleep", "60"]),
    ("open_files", 20, python("f = [open('/dev/null') for _ in range(50)]; import time; time.sleep(60)")),
]


@thinned()
@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize(("name", "most", "command"), LIMITS, ids=lambda one: one if isinstance(one, str) else "")
@pytest.mark.parametrize("mode", [BLOCKING, MONITORED])
def test_a_limit_ends_the_tree_with_a_typed_error(
    mode: ExecutionMode, name: str, most: Any, command: list[str], contain: str
) -> None:
    result, seconds = run(command, mode, limits={name: most, "interval": 0.1}, contain=contain, timeout=20)
    if contain == "keeper" and name == "open_files" and result.return_code == 1:
        assert "Too many open files" in result.stderr  # a keeper has the kernel itself keep this one
        return
    assert seconds < 8
    assert isinstance(result.error, LimitExceeded), result
    assert result.error.name == name
    assert result.error.used > result.error.most > 0 or name == "max_runtime"
    assert name.replace("_", " ").removeprefix("max ") in str(result.error)
    assert (result.success, result.timed_out) == (False, False)
    assert result.verdict is not None
    assert result.verdict.ok
    assert nobody_carries(result.run_id)
    with pytest.raises(LimitExceeded):
        result.check()


@pytest.mark.parametrize(("name", "most"), [("processes", 1), ("max_runtime", 0.2), ("open_files", 1)])
def test_a_limit_that_only_warns_is_logged_and_ends_nothing(name: str, most: float) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    limits = Limits(interval=0.1, **{name: Limit(most=most, action="warn")})  # type: ignore[arg-type]
    result, _seconds = run(["sh", "-c", "sleep 0.8; echo done"], MONITORED, limits=limits,
                           logger=lambda event, fields: told.append((event, fields)))  # fmt: skip
    assert result.success
    assert result.stdout == "done\n"
    warnings = [fields for event, fields in told if event == "process_limit_warning"]
    assert len(warnings) == 1, "once an episode"
    assert warnings[0]["limit"] == name


def test_a_limit_that_must_last_is_no_matter_of_one_sample() -> None:
    limits = Limits(interval=0.1, cpu=Limit(most=20, lasting=30.0, action="stop"))
    result, _seconds = run(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], MONITORED, limits=limits)
    assert result.success


@pytest.mark.parametrize("contain", CONTAIN)
def test_memory_is_seen_although_the_program_was_something_small_at_first(contain: str) -> None:
    # What forks share is counted once: the first look finds little, and what follows must not be taken for as little.
    script = 'for i in 1 2 3 4 5 6 7 8; do (:; sleep 0.02; :) & done; wait; exec "$@"'
    result, seconds = run(["bash", "-c", script, "sh", *python(HUNGRY)], MONITORED, contain=contain, timeout=20,
                          limits={"memory": "60M", "interval": 0.1})  # fmt: skip
    assert isinstance(result.error, LimitExceeded), result
    assert seconds < 2.5


# --- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("contain", CONTAIN)
def test_monitored_samples_what_the_tree_uses_and_calls_back(contain: str) -> None:
    seen: list[Any] = []
    done: list[ExecutionResult] = []
    code = "import subprocess, time\nx = bytearray(30_000_000)\nc = subprocess.Popen(['sleep', '2'])\n"
    code += "while time.process_time() < 0.4: pass\nc.wait()"
    result, _seconds = run(python(code), MONITORED, limits={"interval": 0.1}, on_sample=seen.append,
                           on_complete=done.append, contain=contain)  # fmt: skip
    assert result.success
    assert done == [result]
    assert len(result.samples) >= 4
    assert seen == result.samples
    assert [one.at for one in seen] == sorted(one.at for one in seen)
    assert max(one.processes for one in seen) == 2
    assert max(one.memory_bytes for one in seen) > 25_000_000
    assert max(one.cpu_seconds for one in seen) > 0.2
    assert seen[0].cpu_percent is None
    # What it is depends on how busy the machine is; it is what the seconds say.
    busiest = max((now.cpu_seconds - before.cpu_seconds) / (now.at - before.at) for before, now in pairwise(seen))
    assert max(one.cpu_percent for one in seen[1:]) == pytest.approx(100 * busiest, rel=0.3)
    assert all(one.failed == "" for one in seen)


def test_without_limits_monitored_still_samples_and_others_do_not() -> None:
    assert len(run("sleep 1.2", MONITORED)[0].samples) >= 2
    assert run("sleep 0.2", BACKGROUND)[0].samples == []


def test_write_to_a_monitored_process_while_it_is_sampled() -> None:
    result = execute_command("cat", MONITORED, limits={"interval": 0.05})
    assert result.pid is not None
    for number in range(100):
        write_to_process(result.pid, f"{number}\n")
        assert read_from_process(result.pid, 5) == f"{number}\n"
    assert kill_process(result.pid).ok
    assert result.wait(5).signal == "SIGTERM"
