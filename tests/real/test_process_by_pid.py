"""The functions that take a pid: on commands that run, have ended, never were, are somebody else's, or our own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import safesh
from helpers import commands
from helpers.commands import Clock, gone
from helpers.procs import Spawn, alive, spawn, start_of, wait_until
from safesh import (
    CommandExecutor,
    ExecutionMode,
    InvalidCommand,
    NoSuchProcess,
    NotManaged,
    Refused,
    cleanup_finished_processes,
    communicate_with_process,
    end_all,
    execute_command,
    get_active_processes,
    get_process_output_info,
    get_process_status,
    interrupt_process,
    kill_process,
    kill_process_tree,
    read_from_process,
    send_signal_to_process,
    terminate_managed_process,
    terminate_process,
    write_to_process,
)
from safesh.process.result import ExecutionResult

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
MODES = tuple(ExecutionMode)
BLOCKING, BACKGROUND, INTERACTIVE, MONITORED = MODES
CONTAIN = ("session", "keeper")
pytestmark = pytest.mark.timeout(60)

Call = Callable[[int], Any]
FOR_OURS: dict[str, Call] = {
    "read": read_from_process,
    "info": get_process_output_info,
    "write": lambda pid: write_to_process(pid, "x"),
    "communicate": lambda pid: communicate_with_process(pid, "x\n", 1),
    "terminate managed": terminate_managed_process,
    "end all": lambda pid: end_all([pid]),
}
SIGNALS: dict[str, Call] = {
    "signal": lambda pid: send_signal_to_process(pid, "SIGUSR1"),
    "interrupt": interrupt_process,
}
ENDINGS: dict[str, Call] = {
    "terminate": terminate_process,
    "terminate by force": lambda pid: terminate_process(pid, force=True),
    "kill": kill_process,
    "kill by force": lambda pid: kill_process(pid, force=True),
    "kill tree": kill_process_tree,
}
FOR_ANY = {"status": get_process_status, **SIGNALS, **ENDINGS}
ALL = {**FOR_OURS, **FOR_ANY}


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


@pytest.fixture
def foreign() -> Iterator[Spawn]:
    """A process that the API did not start."""
    with spawn("sh", "-c", "echo up; sleep 60 & echo $!; wait") as child:
        child.wait_line("up")
        yield child


def start(command: Any, mode: ExecutionMode = BACKGROUND, **options: Any) -> tuple[int, ExecutionResult]:
    options.setdefault("timeout", 50)
    result = execute_command(command, mode, **options)
    assert result.pid is not None, result.error
    return result.pid, result


def up(command: list[str], **options: Any) -> tuple[int, ExecutionResult]:
    """Started, and its first line has come."""
    pid, result = start(command, **options)
    wait_until(lambda: "\n" in result.stdout)
    return pid, result


def ended(command: Any = "true", **options: Any) -> int:
    pid, result = start(command, **options)
    assert result.wait(10).done
    return pid


# --- pids that are none, or must not be touched ------------------------------------------------


@pytest.mark.parametrize("call", ALL.values(), ids=ALL)
@pytest.mark.parametrize("pid", [-1, -2, True, "1", 1.0, None], ids=repr)
def test_what_is_no_pid_is_refused_by_name(call: Call, pid: Any) -> None:
    with pytest.raises(InvalidCommand) as refused:
        call(pid)
    assert refused.value.place == "pid"


@pytest.mark.parametrize("call", ALL.values(), ids=ALL)
@pytest.mark.parametrize("pid", [4194305, 2**31, 2**70])
def test_a_pid_that_never_was_is_no_such_process(call: Call, pid: int) -> None:
    with pytest.raises(NoSuchProcess) as missing:
        call(pid)
    assert isinstance(missing.value, LookupError)
    assert str(pid) in missing.value.place


@pytest.mark.parametrize("call", {**SIGNALS, **ENDINGS}.values(), ids={**SIGNALS, **ENDINGS})
@pytest.mark.parametrize("pid", [0, 1, os.getpid(), os.getppid()], ids=["nobody", "init", "self", "parent"])
def test_ourselves_our_parents_and_the_first_process_are_never_signalled(call: Call, pid: int) -> None:
    with pytest.raises(Refused):
        call(pid)


@pytest.mark.parametrize("call", FOR_OURS.values(), ids=FOR_OURS)
def test_what_only_its_starter_can_do_is_refused_plainly_for_others(call: Call, foreign: Spawn) -> None:
    with pytest.raises(NotManaged, match="was not started by"):
        call(foreign.pid)
    assert foreign.alive()


# --- processes of somebody else ----------------------------------------------------------------


def test_a_foreign_process_has_a_status(foreign: Spawn) -> None:
    status = get_process_status(foreign.pid)
    assert (status["pid"], status["ppid"], status["running"], status["managed"]) == (foreign.pid, os.getpid(), True,
                                                                                     False)  # fmt: skip
    assert set(status) >= {"state", "command", "cpu_seconds", "memory_bytes", "threads", "started_at"}
    assert abs(status["started_at"] - time.time()) < 20
    assert get_process_status(os.getpid())["running"]
    assert get_process_status(1)["pid"] == 1
    assert foreign.pid not in get_active_processes()


def test_a_foreign_process_takes_signals() -> None:
    with spawn("sh", "-c", "trap 'echo usr' USR1; trap 'echo int' INT; echo up; while :; do sleep 0.05; done") as child:
        child.wait_line("up")
        for spelled in ("SIGUSR1", "usr1", signal.SIGUSR1, int(signal.SIGUSR1)):
            send_signal_to_process(child.pid, spelled)
            child.wait_line("usr")
        interrupt_process(child.pid)
        child.wait_line("int")
        send_signal_to_process(child.pid, 0)


@pytest.mark.parametrize("call", ENDINGS.values(), ids=ENDINGS)
def test_a_foreign_tree_is_ended_with_a_verdict(call: Call, foreign: Spawn) -> None:
    below = int(foreign.wait_line(r"^\d+$").group())
    verdict = call(foreign.pid)
    assert verdict.ok
    assert verdict.target == f"pid {foreign.pid}"
    assert {one.pid for one in [*verdict.asked, *verdict.killed]} == {foreign.pid, below}
    gone(below, foreign.pid)
    assert foreign.wait() < 0


@pytest.mark.parametrize(("name", "wrong"), [("signal", "SIGNOPE"), ("signal", 99), ("signal", True), ("signal", None)])
def test_a_wrong_signal_is_refused_by_name(name: str, wrong: Any) -> None:
    pid, _result = start("cat")
    with pytest.raises(InvalidCommand) as refused:
        send_signal_to_process(pid, wrong)
    assert refused.value.place == name


@pytest.mark.parametrize("call", [terminate_process, kill_process, terminate_managed_process])
@pytest.mark.parametrize(("name", "wrong"), [("grace", -1), ("grace", "soon"), ("grace", True), ("force", "no"),
                                             ("force", None)])  # fmt: skip
def test_a_wrong_argument_of_an_ending_is_refused_by_name(call: Any, name: str, wrong: Any) -> None:
    pid, result = start("cat")
    with pytest.raises(InvalidCommand) as refused:
        call(pid, **{name: wrong})
    assert refused.value.place == name
    assert not result.done


# --- our own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
def test_a_running_command_has_a_status_and_is_active(mode: ExecutionMode, contain: str) -> None:
    pid, result = start("cat", mode, contain=contain)
    status = get_process_status(pid)
    wanted = {"pid": pid, "running": True, "managed": True, "run_id": result.run_id, "mode": mode.value,
              "return_code": None, "signal": "", "timed_out": False, "command": ["cat"],
              "contain": contain}  # fmt: skip
    assert {name: status[name] for name in wanted} == wanted
    active = get_active_processes()
    assert list(active) == [pid]
    assert {name: active[pid][name] for name in wanted} == wanted
    assert set(status) == set(active[pid])
    write_to_process(pid, close=True)
    assert result.wait(10).success
    assert get_active_processes() == {}
    status = get_process_status(pid)
    assert (status["running"], status["state"], status["return_code"]) == (False, "gone", 0)
    assert status["execution_time"] == result.execution_time


def test_a_blocking_command_of_another_thread_is_active_and_can_be_ended() -> None:
    box: list[ExecutionResult] = []
    thread = threading.Thread(target=lambda: box.append(execute_command("sleep 60", timeout=50)))
    thread.start()
    wait_until(get_active_processes)
    (pid,) = get_active_processes()
    verdict = terminate_process(pid)
    assert [one.pid for one in verdict.asked] == [pid]
    thread.join(10)
    assert box[0].signal == "SIGTERM"
    assert box[0].verdict is not None
    assert box[0].verdict.ok


@pytest.mark.parametrize("contain", CONTAIN)
def test_a_polite_request_kills_nobody_and_lists_who_stays(contain: str) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    pid, result = up(["sh", "-c", script], contain=contain)
    with Clock() as took:
        verdict = terminate_process(pid, grace=0.4)
    assert 0.3 < took.seconds < 3
    assert not verdict.ok
    assert verdict.killed == []
    assert pid in {one.pid for one in verdict.survivors}
    assert "force" in verdict.survivors[0].reason
    assert not result.done
    assert get_process_status(pid)["running"]
    verdict = terminate_process(pid, force=True, grace=0.2)
    assert verdict.ok
    assert pid in {one.pid for one in verdict.killed}
    assert result.wait(5).signal == "SIGKILL"


@pytest.mark.parametrize("contain", CONTAIN)
@pytest.mark.parametrize("mode", [BACKGROUND, INTERACTIVE, MONITORED])
@pytest.mark.parametrize("call", ENDINGS.values(), ids=ENDINGS)
def test_an_ending_takes_the_whole_tree_and_gives_a_verdict(call: Call, mode: ExecutionMode, contain: str) -> None:
    pid, result = start(["sh", "-c", "sleep 60 & echo $!; setsid sleep 60 & echo $!; wait"], mode, contain=contain)
    wait_until(lambda: result.stdout.count("\n") == 2)
    below = [int(line) for line in result.stdout.split()]
    # setsid(1) forks where it leads a group: then its child is the one; either way they all must go.
    verdict = call(pid)
    assert verdict.ok
    told = {one.pid for one in [*verdict.asked, *verdict.killed]}
    # After a polite request the keeper itself sees to those that the main process left behind.
    assert told >= ({pid} if contain == "keeper" and call is terminate_process else {pid, *below})
    assert result.wait(5).done
    gone(pid, *below, deadline=0.5)
    assert result.signal in ("SIGTERM", "SIGKILL")
    assert result.verdict is not None
    assert result.verdict.ok
    assert not result.timed_out


@pytest.mark.parametrize("call", {**SIGNALS, "write": FOR_OURS["write"]}.values())
def test_what_needs_a_running_process_fails_typed_on_an_ended_one(call: Call) -> None:
    pid = ended()
    with pytest.raises((NoSuchProcess, safesh.StdinClosed)):
        call(pid)


@pytest.mark.parametrize("call", ENDINGS.values(), ids=ENDINGS)
def test_ending_what_has_ended_is_a_success_that_says_so(call: Call) -> None:
    verdict = call(ended())
    assert verdict.ok
    assert verdict.notes == ["it had ended already"]


@pytest.mark.pidns
@pytest.mark.parametrize("call", ENDINGS.values(), ids=ENDINGS)
def test_whoever_got_the_number_of_an_ended_command_is_left_alone(call: Call) -> None:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip("this kernel does not let pids be chosen (CONFIG_CHECKPOINT_RESTORE)")
    pid = ended()

    def attempt() -> subprocess.Popen[bytes] | None:
        LAST_PID.write_text(str(pid - 1), encoding="ascii")
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
        return None

    newcomer = wait_until(attempt, 10)
    try:
        verdict = call(pid)
        assert verdict.ok
        assert verdict.notes[0].startswith("it had ended already")
        with pytest.raises(subprocess.TimeoutExpired):
            newcomer.wait(0.2)
    finally:
        newcomer.kill()
        newcomer.wait()


def test_an_ended_command_is_known_until_it_is_cleaned_up() -> None:
    assert cleanup_finished_processes() == 0
    pids = [ended(["echo", str(number)]) for number in range(3)]
    running, _result = start("cat")
    assert [read_from_process(pid) for pid in pids] == ["0\n", "1\n", "2\n"]
    assert get_process_output_info(pids[0])["size"] == 2
    assert cleanup_finished_processes() == 3
    assert cleanup_finished_processes() == 0
    for pid in pids:
        with pytest.raises(NoSuchProcess):
            read_from_process(pid)
        with pytest.raises(NoSuchProcess):
            get_process_status(pid)
    assert list(get_active_processes()) == [running]


def test_a_result_keeps_its_output_after_the_clean_up() -> None:
    _pid, result = start(["sh", "-c", "echo kept; seq 1 300000 >&2"])
    assert result.wait(10).done
    assert cleanup_finished_processes() == 1
    assert result.stdout == "kept\n"
    assert result.stderr.endswith("300000\n")


def test_blocking_commands_and_those_that_never_started_leave_nothing_to_clean_up() -> None:
    assert execute_command("true").success
    assert execute_command("no-such-program", BACKGROUND).wait(5).return_code == 127
    assert cleanup_finished_processes() == 0


@pytest.mark.parametrize("contain", CONTAIN)
def test_terminating_a_managed_process_forgets_it(contain: str) -> None:
    pid, result = up(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], contain=contain)
    verdict = terminate_managed_process(pid, grace=0.2)
    assert verdict.ok
    assert pid in {one.pid for one in verdict.killed}
    assert result.wait(5).signal == "SIGKILL"
    with pytest.raises(NoSuchProcess):
        get_process_status(pid)
    assert cleanup_finished_processes() == 0
    assert terminate_managed_process(ended()).ok


@pytest.mark.parametrize("contain", CONTAIN)
def test_signals_reach_the_process_alone(contain: str) -> None:
    script = "trap 'echo int' INT; trap 'echo usr' USR1; sh -c 'trap \"\" USR1; echo $$; sleep 60' & echo up; "
    script += "while :; do sleep 0.05; done"
    pid, result = start(["sh", "-c", script], contain=contain)
    wait_until(lambda: result.stdout.count("\n") == 2)
    below = int(next(line for line in result.stdout.split() if line.isdigit()))
    birth = start_of(below)
    interrupt_process(pid)
    wait_until(lambda: "int\n" in result.stdout)
    for spelled in ("SIGUSR1", "usr1", signal.SIGUSR1):
        before = result.stdout.count("usr")
        send_signal_to_process(pid, spelled)
        wait_until(lambda before=before: result.stdout.count("usr") > before)  # type: ignore[misc]
    assert alive(below, birth)
    assert kill_process_tree(pid).ok
    gone(below)


def test_a_stopped_process_is_told_as_stopped_and_can_be_ended() -> None:
    pid, result = start("cat")
    send_signal_to_process(pid, "SIGSTOP")
    wait_until(lambda: get_process_status(pid)["state"] == "stopped")
    assert get_process_status(pid)["running"]
    assert terminate_process(pid).ok
    assert result.wait(5).signal == "SIGTERM"


@pytest.mark.parametrize("contain", CONTAIN)
def test_two_threads_may_end_the_same_command_at_once(contain: str) -> None:
    pid, result = up(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], contain=contain)
    verdicts: list[Any] = []
    calls = [lambda: terminate_process(pid, force=True, grace=0.3), lambda: kill_process(pid, force=True)] * 2
    threads = [threading.Thread(target=lambda call=call: verdicts.append(call())) for call in calls]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert [verdict.ok for verdict in verdicts] == [True] * 4
    assert result.wait(5).signal == "SIGKILL"
    assert result.verdict is not None


def test_end_all_ends_those_that_are_named_and_else_everybody() -> None:
    pids = [start("sleep 60")[0] for _ in range(4)]
    assert set(end_all(pids[:2])) == set(pids[:2])
    assert set(get_active_processes()) == set(pids[2:])
    verdicts = end_all()
    assert set(verdicts) == set(pids[2:])
    assert all(verdict.ok for verdict in verdicts.values())
    assert get_active_processes() == {}


def test_an_executor_ends_what_it_started_and_nothing_else() -> None:
    other, _result = start("sleep 60")
    with CommandExecutor(timeout=50) as executor:
        assert executor("true").success
        mine = executor.execute("sleep 60", BACKGROUND)
        assert executor.running == [mine]
    assert mine.wait(5).signal == "SIGTERM"
    assert list(get_active_processes()) == [other]
