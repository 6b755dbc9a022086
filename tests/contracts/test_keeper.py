"""What a keeper promises on every backend: it starts the target clean, tells its end, and buries the tree."""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import thinned
from helpers.contracts import Holder, pids
from helpers.procs import look, send, wait_until

# Prints what a program finds when it starts: descriptors, signals, session, environment.
_INSPECT = """
import json, os
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if line.startswith("Sig"))
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps({"fds": fds, "status": status, "pid": os.getpid(), "sid": os.getsid(0), "pgid": os.getpgrp(),
                  "env": dict(os.environ), "cwd": os.getcwd()}), flush=True)
"""


def inspect(holder: Holder, **options: Any) -> dict[str, Any]:
    command = [sys.executable, "-I", "-S", "-c", _INSPECT]
    assert holder.hold(command, **options)["event"] == "spawned"
    found: dict[str, Any] = json.loads(holder.line())
    holder.event("gone")
    return found


def test_the_target_inherits_no_descriptor_beyond_0_to_2(holder: Holder, tmp_path: Path) -> None:
    found = inspect(holder, leak=True, lock_file=str(tmp_path / "lock"))
    assert sorted(found["fds"]) == ["0", "1", "2"]
    assert found["fds"]["0"] == "/dev/null"
    assert found["fds"]["1"] == found["fds"]["2"]
    assert found["fds"]["1"].startswith("pipe:")


# glibc keeps signals 32 and 33 for itself: posix_spawn(3), which make uses, ignores them, and no program can change it.
LIBC = 0b11 << 31


def test_the_target_starts_with_default_signals_and_an_empty_mask(holder: Holder) -> None:
    found = inspect(holder)["status"]
    assert int(found["SigBlk"], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ and catches SIGINT; what came before it is what counts.
    python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(found["SigIgn"], 16) & ~LIBC == python
    assert int(found["SigCgt"], 16) == 1 << (signal.SIGINT - 1)


def test_a_target_that_is_no_python_gets_even_sigpipe(holder: Holder) -> None:
    assert holder.hold(["cat", "/proc/self/status"])["event"] == "spawned"
    lines = {}
    while "SigCgt" not in lines:
        name, _, value = holder.line().partition(":\t")
        lines[name] = value
    assert int(lines["SigIgn"], 16) & ~LIBC == 0
    holder.event("gone")


def test_the_target_leads_its_own_session_and_knows_its_run(holder: Holder) -> None:
    found = inspect(holder, env={"EXTRA": "1"}, cwd="/usr")
    assert found["sid"] == found["pgid"] == found["pid"]
    assert (found["env"]["SAFESH_RUN_ID"], found["env"]["EXTRA"]) == (holder.run_id, "1")
    assert found["cwd"] == "/usr"


@thinned()
@pytest.mark.parametrize(("code", "words"), [(0, "exited 0"), (7, "exited with code 7")])
def test_the_exit_status_and_the_resources_used_are_told(holder: Holder, code: int, words: str) -> None:
    burn = f"import time\nwhile time.process_time() < 0.2: pass\nraise SystemExit({code})"
    holder.hold([sys.executable, "-I", "-S", "-c", burn])
    end = holder.event("exited")["exit"]
    assert (end["code"], end["signal"], end["cause"]) == (code, "", words)
    assert end["user_seconds"] + end["system_seconds"] >= 0.2
    assert end["peak_memory_bytes"] > 1 << 20
    assert abs(end["at"] - time.time()) < 30
    assert holder.event("gone")["verdict"]["survivors"] == []
    assert holder.event("ended")["status"] == 0


def test_a_target_that_died_of_a_signal_is_told_by_its_name(holder: Holder) -> None:
    holder.hold(["sleep", "60"])
    assert holder.main is not None
    send(holder.main.pid, holder.main.start, signal.SIGUSR1)
    end = holder.event("exited")["exit"]
    assert (end["code"], end["signal"], end["cause"]) == (-1, "SIGUSR1", "killed by SIGUSR1")


@thinned()
@pytest.mark.parametrize(
    ("command", "code"), [("no-such-program", 127), ("/no/such/program", 127), ("/etc/passwd", 126), ("/usr", 126)]
)
def test_a_target_that_cannot_be_executed_is_refused_with_the_shells_code(
    holder: Holder, command: str, code: int
) -> None:
    message = holder.hold([command])
    assert (message["event"], message["code"], message["place"]) == ("refused", code, command)
    assert message["message"]
    assert message["hint"]
    assert holder.event("ended")["status"] == 0


def test_a_folder_that_is_missing_is_refused_by_name(holder: Holder) -> None:
    message = holder.hold(["true"], cwd="/no/such/folder")
    assert (message["event"], message["code"], message["place"]) == ("refused", 78, "/no/such/folder")


def test_the_supervisors_end_ends_the_tree(holder: Holder, tmp_path: Path) -> None:
    told = tmp_path / "orphaned.json"
    holder.start("stubborn", "daemon", "group", grace=0.4, orphaned=str(told))
    holder.send(signal.SIGKILL)
    holder.wait()
    report = wait_for_report(told)
    assert holder.left() == []
    assert report["verdict"]["survivors"] == []
    assert pids(report["verdict"]["killed"]) == {holder.members["stubborn"].pid}
    assert report["exit"]["signal"] == "SIGTERM"
    assert holder.keeper is not None
    keeper = holder.keeper
    wait_until(lambda: not keeper.alive)


def wait_for_report(path: Path) -> dict[str, Any]:
    wait_until(path.exists, 20)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def test_the_keeper_holds_the_lock_until_the_tree_is_empty(holder: Holder, tmp_path: Path) -> None:
    lock, told = tmp_path / "lock", tmp_path / "orphaned.json"
    holder.start("stubborn", grace=1.0, lock_file=str(lock), orphaned=str(told))
    holder.send(signal.SIGKILL)
    holder.wait()
    held_while_alive = 0
    with open(lock, "rb") as file:

        def free() -> bool:
            nonlocal held_while_alive
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held_while_alive += bool(holder.left())
                return False
            assert holder.left() == []
            return True

        wait_until(free, 20)
    assert held_while_alive > 0
    wait_for_report(told)


@thinned()
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1])
def test_the_keeper_takes_no_notice_of_signals(holder: Holder, number: int) -> None:
    holder.start("child")
    assert holder.keeper is not None
    assert send(holder.keeper.pid, holder.keeper.start, number)
    assert holder.call("event", deadline=0.2) is None
    assert holder.keeper.alive
    assert holder.left() == ["main", "child"]
    assert holder.end()["survivors"] == []


def test_the_orphans_of_a_killed_keeper_are_ended_by_the_holder(holder: Holder) -> None:
    holder.start("stubborn", "daemon", "group", "stopped", "grandchild")
    assert holder.keeper is not None
    assert holder.main is not None
    send(holder.keeper.pid, holder.keeper.start, signal.SIGKILL)
    assert holder.event("ended")["status"] == -signal.SIGKILL
    main = [holder.main.pid, holder.main.start]
    verdict = holder.call("clean", policy={"signal": "SIGTERM", "scope": "main", "grace": 0.5}, main=main)
    assert verdict["survivors"] == []
    assert holder.left() == []
    assert pids(verdict["killed"]) == {holder.members["stubborn"].pid}
    assert not holder.group or not Path(holder.group).exists()


def test_orphans_of_a_killed_keeper_are_ended_after_their_main_process_too(holder: Holder) -> None:
    holder.start("cleared-orphan", "child")
    assert holder.keeper is not None
    assert holder.main is not None
    main = holder.main
    send(holder.keeper.pid, holder.keeper.start, signal.SIGKILL)
    holder.event("ended")
    send(main.pid, main.start, signal.SIGKILL)
    wait_until(lambda: not main.alive)
    verdict = holder.call("clean", policy={"grace": 5.0}, main=[main.pid, main.start])
    assert (verdict["survivors"], holder.left()) == ([], [])


def test_a_stopped_keeper_ends_the_tree_once_it_goes_on(holder: Holder) -> None:
    holder.start("child")
    assert holder.keeper is not None
    keeper = holder.keeper
    send(keeper.pid, keeper.start, signal.SIGSTOP)
    wait_until(lambda: (found := look(keeper.pid)) and found.state == "T")
    holder.order()
    send(keeper.pid, keeper.start, signal.SIGCONT)
    assert holder.event("gone")["verdict"]["survivors"] == []


def test_every_adopted_zombie_is_reaped_while_the_target_lives(holder: Holder) -> None:
    holder.start("daemon", "grandchild")
    member = holder.members["daemon"]
    send(member.pid, member.start, signal.SIGKILL)
    if holder.call("hello")["orphans_stay"]:
        found = look(member.pid)
        assert found is None or found.ppid == holder.keeper.pid  # type: ignore[union-attr]
    wait_until(lambda: look(member.pid) is None)
    assert holder.left() == ["main", "grandchild"]


def test_the_keeper_does_not_wake_while_nothing_happens(holder: Holder) -> None:
    holder.start("child")
    assert holder.keeper is not None
    before = switches(holder.keeper.pid)
    assert holder.call("event", deadline=1.0) is None
    assert switches(holder.keeper.pid) == before


def switches(pid: int) -> int:
    """Voluntary context switches: how often it has gone to sleep (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches")))


def test_a_tree_larger_than_the_descriptors_left_is_ended(backend: str) -> None:
    """Handles that find no descriptor check the start time instead."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, hard))
    try:
        holder = Holder(backend)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with holder:
        script = (
            "for i in 1 2 3 4 5 6 7 8; do (trap '' TERM; sleep 60 & sleep 60 & sleep 60 & wait) & done; echo up; wait"
        )
        holder.hold(["sh", "-c", script])
        assert holder.line() == "up"
        wait_until(lambda: len(holder.call("members")) == 33)
        found = holder.call("members")
        verdict = holder.end(grace=0.3)
        assert verdict["survivors"] == []
        assert [pid for pid in found if (one := look(pid)) and not one.dead] == []
