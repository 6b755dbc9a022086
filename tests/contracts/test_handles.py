"""What every platform promises about single processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.contracts import Holder
from helpers.procs import Spawn, alive, environ, look, start_of, wait_until

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.fixture
def sleeper() -> Iterator[Spawn]:
    with Spawn("sleep", "60") as child:
        yield child


def test_a_handle_tells_whether_its_process_lives(holder: Holder, sleeper: Spawn) -> None:
    handle = holder.call("open", pid=sleeper.pid, start=sleeper.start)
    assert holder.call("alive", handle=handle)
    sleeper.send(signal.SIGKILL)
    assert holder.call("fires", handle=handle, deadline=5)
    assert not holder.call("alive", handle=handle)


def test_a_zombie_is_not_alive_and_takes_no_signal(holder: Holder, sleeper: Spawn) -> None:
    handle = holder.call("open", pid=sleeper.pid, start=sleeper.start)
    sleeper.send(signal.SIGKILL)
    wait_until(lambda: (found := look(sleeper.pid)) and found.state == "Z")
    assert not holder.call("alive", handle=handle)
    assert not holder.call("send", handle=handle, signal=signal.SIGTERM)
    assert holder.call("info", pid=sleeper.pid)["dead"]


@pytest.mark.parametrize("plain", [False, True])
def test_a_handle_of_a_process_that_is_gone_sends_nothing(holder: Holder, sleeper: Spawn, plain: bool) -> None:
    handle = holder.call("open", pid=sleeper.pid, start=sleeper.start, plain=plain)
    sleeper.send(signal.SIGKILL)
    sleeper.wait()
    assert not holder.call("send", handle=handle, signal=signal.SIGTERM)
    assert not holder.call("alive", handle=handle)
    assert holder.call("open", pid=sleeper.pid, start=sleeper.start) is None


@pytest.mark.parametrize("plain", [False, True])
def test_a_handle_sends_its_process_the_signal(holder: Holder, sleeper: Spawn, plain: bool) -> None:
    handle = holder.call("open", pid=sleeper.pid, start=sleeper.start, plain=plain)
    assert holder.call("send", handle=handle, signal=signal.SIGUSR1)
    assert sleeper.wait() == -signal.SIGUSR1


@pytest.mark.parametrize("plain", [False, True])
def test_a_pid_with_another_start_time_is_another_process(holder: Holder, sleeper: Spawn, plain: bool) -> None:
    handle = holder.call("open", pid=sleeper.pid, start=sleeper.start - 1, plain=plain)
    if plain:
        assert not holder.call("alive", handle=handle)
        assert not holder.call("send", handle=handle, signal=signal.SIGKILL)
    else:
        assert handle is None
    assert sleeper.alive()


@pytest.mark.pidns
@pytest.mark.parametrize("plain", [False, True])
def test_a_reused_pid_is_never_signalled(holder: Holder, plain: bool) -> None:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip("this kernel does not let pids be chosen (CONFIG_CHECKPOINT_RESTORE)")
    first = subprocess.Popen(["sleep", "60"])
    start = start_of(first.pid)
    handle = holder.call("open", pid=first.pid, start=start, plain=plain)
    first.kill()
    first.wait()
    second = reuse(first.pid, start)
    try:
        assert not holder.call("alive", handle=handle)
        assert not holder.call("send", handle=handle, signal=signal.SIGKILL)
        assert holder.call("open", pid=first.pid, start=start) is None
        assert holder.call("start_time", pid=first.pid) != start
        verdict = holder.call("end_seeds", seeds=[], policy={"grace": 0.0})
        assert verdict["killed"] == []
        assert second.poll() is None
    finally:
        second.kill()
        second.wait()


def reuse(pid: int, start: int) -> subprocess.Popen[bytes]:
    """A process that was given ``pid`` anew, in a later tick of the clock."""

    def attempt() -> subprocess.Popen[bytes] | None:
        LAST_PID.write_text(str(pid - 1), encoding="ascii")
        process = subprocess.Popen(["sleep", "60"])
        if process.pid == pid and start_of(pid) != start:
            return process
        process.kill()
        process.wait()
        return None

    found = wait_until(attempt, 10, f"a process with the pid {pid}")
    assert found is not None
    return found


def test_a_process_whose_first_thread_has_ended_lives_as_long_as_another_thread(holder: Holder) -> None:
    holder.start("threads")
    member = holder.members["threads"]
    wait_until(lambda: (found := look(member.pid)) and found.state == "Z")  # as the kernel shows such a leader
    handle = holder.call("open", pid=member.pid, start=member.start)
    assert handle is not None
    assert holder.call("alive", handle=handle)
    assert not holder.call("info", pid=member.pid)["dead"]
    assert member.pid in holder.call("members")
    verdict = holder.end(grace=0.2)
    assert verdict["survivors"] == []
    wait_until(lambda: look(member.pid) is None)


def test_a_process_is_described_as_the_kernel_knows_it(holder: Holder) -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass\nprint('up', flush=True)\ninput()"
    with Spawn(sys.executable, "-c", burn, extra_env={"TOLD": "äöü=1"}) as child:
        child.wait_line("up")
        known = look(child.pid)
        assert known is not None
        before = time.time()
        info = holder.call("info", pid=child.pid)
        assert {name: info[name] for name in ("pid", "ppid", "pgid", "sid", "state", "uid", "threads")} == {
            "pid": child.pid, "ppid": os.getpid(), "pgid": child.pid, "sid": child.pid, "state": "S",
            "uid": os.geteuid(), "threads": 1,
        }  # fmt: skip
        assert before - 30 < info["started_at"] <= before + 1
        assert info["memory_bytes"] > 1 << 20
        assert 0.05 < info["cpu_seconds"] < 10.0
        assert info["start"] == child.start == holder.call("start_time", pid=child.pid)
        scanned = holder.call("scanned", pid=child.pid)
        assert {name: scanned[name] for name in ("ppid", "pgid", "sid", "start", "command")} == {
            name: info[name] for name in ("ppid", "pgid", "sid", "start", "command")
        }
        assert holder.call("cmdline", pid=child.pid) == child.command
        assert holder.call("environ", pid=child.pid)["TOLD"] == "äöü=1"


def test_a_process_that_is_gone_has_no_description(holder: Holder, sleeper: Spawn) -> None:
    sleeper.send(signal.SIGKILL)
    sleeper.wait()
    for question in ("info", "scanned", "start_time", "environ"):
        assert holder.call(question, pid=sleeper.pid) is None
    assert holder.call("cmdline", pid=sleeper.pid) == []


def test_a_stopped_process_shows_as_stopped(holder: Holder, sleeper: Spawn) -> None:
    sleeper.send(signal.SIGSTOP)
    wait_until(lambda: (found := look(sleeper.pid)) and found.state == "T")
    assert holder.call("info", pid=sleeper.pid)["state"] == "T"
    assert not holder.call("info", pid=sleeper.pid)["dead"]


def test_backends_of_one_machine_understand_each_others_identities() -> None:
    from helpers.contracts import BACKENDS, why_not

    told = []
    with Spawn("sleep", "60") as child:
        for backend in BACKENDS:
            if not why_not(backend):
                with Holder(backend) as holder:
                    told.append((holder.call("hello")["boot"], holder.call("start_time", pid=child.pid)))
    assert len(set(told)) == 1


# signals ------------------------------------------------------------------------------------------------------


def masks(pid: int) -> dict[str, str]:
    """The blocked, ignored and caught signals of a process (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":\t") for line in lines if line.startswith("Sig"))
    return {name: value for name, value in pairs if name in ("SigBlk", "SigIgn", "SigCgt")}


def test_signals_arrive_as_something_to_poll_each_once_and_in_order(holder: Holder) -> None:
    holder.call("watch", numbers=[signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD])
    assert holder.call("signals", deadline=0) == []
    for number in (signal.SIGUSR1, signal.SIGUSR1):
        holder.send(number)
    assert holder.call("signals", deadline=5) == [signal.SIGUSR1]
    holder.send(signal.SIGTERM)
    assert holder.call("signals", deadline=5) == [signal.SIGTERM]
    assert holder.call("signals", deadline=0) == []


def test_a_closed_signal_source_leaves_handlers_and_mask_as_they_were(holder: Holder) -> None:
    holder.call("hello")  # it is up
    before = masks(holder.pid)
    holder.call("watch", numbers=[signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
    assert masks(holder.pid) != before
    holder.call("unwatch")
    assert masks(holder.pid) == before


def test_no_handler_is_set_for_what_the_processor_raises(holder: Holder) -> None:
    """It would return to the instruction that crashed, for ever."""
    holder.call("hello")
    holder.call("watch", numbers=[signal.SIGSEGV, signal.SIGTERM])
    caught = int(masks(holder.pid)["SigCgt"], 16)
    assert not caught >> (signal.SIGSEGV - 1) & 1


# no-ops and questions -----------------------------------------------------------------------------------------


def test_what_a_platform_lacks_it_says(holder: Holder) -> None:
    stays = holder.call("hello")["orphans_stay"]
    assert holder.call("call", name="become_subreaper") is stays
    assert holder.call("call", name="is_subreaper") is stays
    kills = holder.call("call", name="oom_kills")
    assert kills is None if not stays else kills >= 0


def test_the_drivers_see_the_same_processes_as_the_kernel(holder: Holder, sleeper: Spawn) -> None:
    assert holder.call("scanned", pid=sleeper.pid)["start"] == sleeper.start
    assert alive(sleeper.pid, sleeper.start)
    assert environ(sleeper.pid) == holder.call("environ", pid=sleeper.pid)
