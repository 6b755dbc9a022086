"""What an executed keeper promises a caller with threads: all that a forked one does, and an account of the tree."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.test_keeper import (  # the same promises, held by the ``holder`` below  # noqa: F401
    inspect,
    test_a_stopped_keeper_ends_the_tree_once_it_goes_on,
    test_a_target_that_cannot_be_executed_is_refused_with_the_shells_code,
    test_a_target_that_died_of_a_signal_is_told_by_its_name,
    test_a_target_that_is_no_python_gets_even_sigpipe,
    test_every_adopted_zombie_is_reaped_while_the_target_lives,
    test_orphans_of_a_killed_keeper_are_ended_after_their_main_process_too,
    test_the_exit_status_and_the_resources_used_are_told,
    test_the_keeper_does_not_wake_while_nothing_happens,
    test_the_keeper_takes_no_notice_of_signals,
    test_the_orphans_of_a_killed_keeper_are_ended_by_the_holder,
    test_the_target_leads_its_own_session_and_knows_its_run,
    test_the_target_starts_with_default_signals_and_an_empty_mask,
)
from helpers import contracts
from helpers.campaign import thinned
from helpers.contracts import Holder
from helpers.procs import wait_until
from safesh import _platform, errors
from safesh._platform.cgroup import Group
from safesh.core import holder as executed
from safesh.core import lean, tally
from safesh.core.contain import Tree
from safesh.core.keeper import KeeperLink
from safesh.errors import ConfigError, ResourceError
from safesh.model import StopPolicy

DRIVER = Path(contracts.__file__).with_name("holder_driver.py")


@pytest.fixture
def holder(backend: str) -> Iterator[Holder]:
    with Holder(backend, DRIVER) as one:
        yield one


# --- what the target gets -----------------------------------------------------------------------


def test_the_backend_is_the_one_that_the_callers_environment_names(holder: Holder) -> None:
    assert bool(holder.hold(["sleep", "60"])["group"]) == (holder.backend == "cgroup")
    holder.order()
    assert holder.event("gone")["usage"]["whole"] == (holder.backend != "posix")


def test_the_target_inherits_no_descriptor_and_has_an_error_output_of_its_own(holder: Holder) -> None:
    found = inspect(holder, leak=True)["fds"]
    assert sorted(found) == ["0", "1", "2"]
    assert found["0"] == "/dev/null"
    assert found["1"].startswith("pipe:")
    assert found["2"].startswith("pipe:")
    assert found["1"] != found["2"]


def test_both_outputs_end_with_the_target_while_its_keeper_still_lives(holder: Holder) -> None:
    """A child without the pipes keeps the keeper busy; the pipes' end must not wait for that."""
    holder.hold(["sh", "-c", "echo out; echo err >&2; sleep 60 >/dev/null 2>&1 & exit 0"], grace=0.1, scope="tree")
    assert holder.call("ends", deadline=10.0) == ["out\n", "err\n"]
    assert holder.event("gone")["verdict"]["survivors"] == []


def test_both_outputs_end_with_a_target_that_closes_them_and_runs_on(holder: Holder) -> None:
    holder.hold(["sh", "-c", "echo out; exec sleep 60 >/dev/null 2>&1"])
    assert holder.call("ends", deadline=10.0) == ["out\n", ""]
    assert holder.keeper is not None
    assert holder.keeper.alive
    assert holder.left() == ["main"]
    assert holder.end()["survivors"] == []


def test_neither_argv_nor_environment_show_in_the_keepers_command_line(holder: Holder) -> None:
    holder.hold(["sh", "-c", "echo up; exec sleep 60 # hush-argv"], env={"TOKEN": "hush-env"})
    assert holder.line() == "up"
    assert holder.keeper is not None
    for name in ("cmdline", "environ"):
        assert b"hush" not in Path(f"/proc/{holder.keeper.pid}/{name}").read_bytes()
    holder.end()


def test_variables_that_python_reads_and_bytes_that_are_no_text_reach_the_target_unchanged(holder: Holder) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    extra = {"PYTHONHOME": "/x", "PYTHONUTF8": "0", "ODD": odd, "LC_ALL": "", "LANG": "C"}
    holder.hold(["sh", "-c", 'env -0 | grep -z -E "^(PYTHONHOME|ODD|LC_CTYPE)="; printf %s "$1"', "-", odd], env=extra)
    out, _errors = holder.call("ends", deadline=10.0)
    *variables, argument = out.split("\0")
    assert sorted(variables) == ["ODD=\\xff\\xfe", "PYTHONHOME=/x"]
    assert argument == "\\xff\\xfe"
    holder.event("gone")


# --- refusals -----------------------------------------------------------------------------------


@thinned()
@pytest.mark.parametrize(
    ("command", "cwd", "expected"),
    [
        (["/no/such/program"], "/", ["CommandNotFound", 127, "/no/such/program"]),
        (["/etc/passwd"], "/", ["CommandNotExecutable", 126, "/etc/passwd"]),
        (["true"], "/no/such/folder", ["ConfigError", 78, "/no/such/folder"]),
        (["true", "a\0b"], "/", ["ConfigError", 78, "true"]),
        (["true", "x" * 300_000], "/", ["ArgumentsTooLong", 126, "true"]),
        ([""], "/", ["CommandNotFound", 127, ""]),
        ([], "/", ["CommandNotFound", 127, "(no command)"]),
    ],
    ids=["127", "126", "cwd", "nul", "too-long", "empty", "none"],
)
def test_a_refusal_is_a_typed_error(holder: Holder, command: list[str], cwd: str, expected: list[Any]) -> None:
    message = holder.hold(command, cwd=cwd)
    assert message["event"] == "refused"
    assert holder.call("refusal", message=message) == expected
    assert holder.event("ended")["status"] == 0
    assert holder.call("ends", deadline=10.0) == ["", ""]


def test_a_plan_of_many_megabytes_arrives_whole(holder: Holder) -> None:
    """Far beyond a pipe's 64 KiB, and beyond what exec takes: the keeper has read it and can tell."""
    message = holder.hold(["true"], env={f"V{i}": "x" * 100_000 for i in range(40)})
    assert message["event"] == "refused"
    assert holder.call("refusal", message=message)[0] == "ArgumentsTooLong"
    holder.event("ended")


# --- the end ------------------------------------------------------------------------------------


def test_a_killed_caller_takes_the_tree_with_it(holder: Holder) -> None:
    away = [] if holder.backend == "posix" else ["cleared"]  # see docs/architecture.md, Backends
    holder.start("stubborn", "daemon", "group", "grandchild", "cleared-orphan", *away, grace=0.3)
    holder.send(signal.SIGKILL)
    holder.wait()
    keeper = holder.keeper
    assert keeper is not None
    wait_until(lambda: not keeper.alive, 20)
    assert holder.left() == []
    assert not holder.group or not Path(holder.group).exists()


def test_an_orphan_without_environment_is_ended_even_in_a_session_of_its_own(holder: Holder) -> None:
    """Where orphans do not stay with us, only one that kept its session can be found (docs/architecture.md)."""
    holder.start("cleared" if holder.call("hello")["orphans_stay"] else "cleared-orphan", "stubborn")
    verdict = holder.end(grace=0.3)
    assert verdict["survivors"] == []
    assert holder.left() == []


def test_what_the_main_process_left_behind_is_ended_when_it_exits(holder: Holder) -> None:
    holder.hold(["sh", "-c", "setsid sleep 60 & sleep 60 & exit 3"], grace=5.0)
    assert holder.event("exited")["exit"]["code"] == 3
    gone = holder.event("gone")
    assert gone["verdict"]["survivors"] == []
    assert holder.event("ended")["status"] == 0


def test_a_run_leaves_no_descriptor_in_the_caller(holder: Holder) -> None:
    before = holder.call("descriptors")
    for command in (["true"], ["/no/such/program"]):
        holder.hold(command)
        holder.event("ended")
        holder.call("forget")
    assert holder.call("descriptors") == before


# --- the account --------------------------------------------------------------------------------

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def usage(holder: Holder, *command: str, **options: Any) -> dict[str, Any]:
    assert holder.hold(list(command), **options)["event"] == "spawned"
    found: dict[str, Any] = holder.event("gone")["usage"]
    return found


def test_the_time_of_dead_children_is_counted(holder: Holder) -> None:
    busy = f"{sys.executable} -I -S -c '{BUSY}'"
    found = usage(holder, "sh", "-c", f"{busy} & {busy} & wait; {busy}")
    assert 0.9 <= found["user_seconds"] + found["system_seconds"] < 3.0


def test_the_time_of_an_orphan_that_got_away_is_counted(holder: Holder, tmp_path: Path) -> None:
    busy = f"{sys.executable} -I -S -c '{BUSY}\nprint(1)'"
    # The orphan works while its starter waits for it to say that it is done.
    fifo = tmp_path / "done"
    os.mkfifo(fifo)
    found = usage(holder, "sh", "-c", f"(setsid env -i {busy} >{fifo} &); read -r line <{fifo}")
    total = found["user_seconds"] + found["system_seconds"]
    assert found["whole"] == holder.call("hello")["orphans_stay"]
    if found["whole"]:
        assert 0.3 <= total < 2.0


def test_the_time_of_a_child_that_nobody_waits_for_is_counted_by_a_cgroup(backend: str, holder: Holder) -> None:
    if backend != "cgroup":
        pytest.skip("nobody else counts it: wait(2), SIGCHLD ignored")
    script = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    while time.process_time() < 0.3: pass\n    os._exit(0)\n"
        "try:\n    os.wait()\nexcept ChildProcessError:\n    pass\n"
    )
    found = usage(holder, sys.executable, "-I", "-S", "-c", script)
    assert found["user_seconds"] + found["system_seconds"] >= 0.3


def test_the_largest_process_is_told_and_what_could_hide_a_small_one(holder: Holder) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', 'x = bytearray(80 << 20)'])"
    large = usage(holder, sys.executable, "-I", "-c", script)
    assert 80 << 20 <= large["peak_memory_bytes"] < 130 << 20
    assert large["peak_memory_of"] in ("process", "tree")
    holder.event("ended")
    small = usage(holder, "true")
    if small["peak_memory_of"] == "process":
        # A megabyte of what the child's last steps before exec touched, no more.
        assert 0 < small["peak_memory_floor_bytes"] <= small["peak_memory_bytes"]
        assert small["peak_memory_bytes"] < small["peak_memory_floor_bytes"] + (2 << 20)


def test_what_a_dead_grandchild_wrote_to_disk_is_counted(holder: Holder, tmp_path: Path) -> None:
    if _platform.io_bytes(os.getpid()) is None:
        pytest.skip("this kernel keeps no account of I/O")
    target = tmp_path / "data"
    found = usage(holder, "sh", "-c", f"(dd if=/dev/zero of={target} bs=1M count=8 conv=fsync 2>/dev/null; true); true")
    if holder.backend == "posix":
        assert found["write_bytes"] is None
    elif found["write_bytes"] < 8 << 20:
        assert os.statvfs(tmp_path).f_fsid == 0, found  # tmpfs has no storage
    else:
        assert found["write_bytes"] < 16 << 20
        assert found["read_bytes"] is not None


def test_a_groups_counters_are_read_where_the_kernel_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    found = tally.Tally(Tree())
    found.read(Group(str(tmp_path)))
    assert (found.cpu, found.peak) == ((2.0, 1.0), 4096)
    assert Group(str(tmp_path / "none")).cpu_times() is None


# --- the calling process ------------------------------------------------------------------------


class Held:
    """One run held by this process: both outputs, every message, and the keeper's status once it is over."""

    def __init__(self, *argv: str, env: dict[str, str] | None = None, cwd: str | None = None, tty: int = -1) -> None:
        self.readers = []
        writers = []
        for _ in range(2):
            reading, writing = os.pipe()
            self.readers.append(reading)
            writers.append(writing)
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            self.link: KeeperLink = executed.hold(
                argv,
                run_id=f"t{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}",
                env=dict(os.environ) if env is None else env,
                stdio=(null, *writers),
                stop=StopPolicy(grace=1.0),
                cwd=cwd,
                tty=tty,
            )
        except BaseException:
            for fd in self.readers:
                os.close(fd)
            raise
        finally:
            for fd in (null, *writers):
                os.close(fd)

    def finish(self, deadline: float = 20.0) -> tuple[list[dict[str, Any]], list[str], int]:
        messages: list[dict[str, Any]] = []
        more = True
        limit = time.monotonic() + deadline
        while more:
            watch = select.poll()
            watch.register(self.link.report, select.POLLIN)
            assert watch.poll(max(0.0, limit - time.monotonic()) * 1000), f"the keeper said only {messages}"
            fresh, more = self.link.read()
            messages += fresh
        status = os.waitstatus_to_exitcode(os.waitpid(self.link.pid, 0)[1])
        self.link.close()
        told = []
        for fd in self.readers:
            with open(fd, encoding="utf-8") as file:
                told.append(file.read())
        return messages, told, status


def names(messages: list[dict[str, Any]]) -> list[str]:
    return [message["event"] for message in messages]


WHOLE = ["spawned", "exited", "gone"]


def test_eight_threads_hold_at_once_and_mix_nothing_up() -> None:
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        for _ in range(2):
            held = Held("sh", "-c", f"echo out {number}; echo err {number} >&2; exit {number}")
            found[number] = held.finish()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(8))
    for number, (messages, told, status) in found.items():
        assert names(messages) == WHOLE
        assert messages[1]["exit"]["code"] == number
        assert told == [f"out {number}\n", f"err {number}\n"]
        assert status == 0


def test_the_targets_folder_is_ours_unless_told_and_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    here = os.path.realpath(tmp_path)
    assert Held("pwd", "-P").finish()[1][0] == f"{here}\n"
    assert Held("pwd", "-P", cwd="below").finish()[1][0] == f"{here}/below\n"


def test_a_caller_without_stdio_can_hold(tmp_path: Path) -> None:
    """Then the pipes to the keeper get the numbers 0 to 2, where the target's own are to stand."""
    out = tmp_path / "out"
    script = f"""
import os, select, sys
sys.path.insert(0, {str(contracts.SUPERVISOR)!r})
from safesh.core import holder
from safesh.model import StopPolicy
target = [os.open("/dev/null", os.O_RDWR), os.open({str(out)!r}, os.O_RDWR | os.O_CREAT), 0]
target[2] = os.dup(target[1])
os.closerange(0, 3)
link = holder.hold(["sh", "-c", "echo out; echo err >&2"], run_id="bare", env=dict(os.environ), stdio=target,
                   stop=StopPolicy())
names = []
more = True
while more:
    select.select([link.report], [], [], 20)
    fresh, more = link.read()
    names += [message["event"] for message in fresh]
os.write(target[1], repr(names).encode())
os.waitpid(link.pid, 0)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
    assert out.read_text() == f"out\nerr\n{WHOLE!r}"


def test_a_caller_that_ignores_sigchld_and_blocks_signals_can_hold(tmp_path: Path) -> None:
    script = f"""
import os, select, signal, sys
sys.path.insert(0, {str(contracts.SUPERVISOR)!r})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
from safesh.core import holder
from safesh.model import StopPolicy
link = holder.hold(["sh", "-c", "exit 4"], run_id="deaf", env=dict(os.environ), stdio=(0, 2, 2), stop=StopPolicy())
more = True
while more:
    select.select([link.report], [], [], 20)
    fresh, more = link.read()
    for message in fresh:
        print(message["event"], message.get("exit", {{}}).get("code", ""))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["spawned ", "exited 4", "gone "]


def test_a_package_found_by_a_relative_path_is_found_by_the_keeper_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "safesh").mkdir(parents=True)
    os.rmdir(tmp_path / "elsewhere" / "safesh")
    os.symlink(contracts.SUPERVISOR / "safesh", tmp_path / "elsewhere" / "safesh")
    script = """
import os, select, sys
sys.path.insert(0, "elsewhere")
from safesh.core import holder
from safesh.model import StopPolicy
os.chdir("/")
link = holder.hold(["true"], run_id="far", env=dict(os.environ), stdio=(0, 1, 2), stop=StopPolicy())
select.select([link.report], [], [], 20)
print(link.read()[0][0]["event"])
link.close()
os.waitpid(link.pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("spawned\n", "")


@pytest.mark.parametrize("python", ["", "/no/such/python", "/etc/passwd"])
def test_without_a_python_to_execute_the_error_is_typed_and_nothing_leaks(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ResourceError) as caught:
        Held("true")
    assert caught.value.hint


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ResourceError, match=r"sys\.executable"):
        Held("true")


def test_an_executable_that_is_no_python_ends_the_report_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    messages, _told, status = Held("true").finish()
    assert (messages, status) == ([], 1)


def test_text_that_has_no_bytes_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot be passed"):
        Held("true", "\ud800")


@pytest.mark.parametrize("plan", [b"", b"{", b"[]", b"{}", b'{"argv": ["true"]}'])
def test_a_broken_plan_is_told_as_broken(plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean.wire, "dumps", lambda _plan: plan.decode())
    held = Held("true")
    monkeypatch.undo()
    messages, _told, status = held.finish()
    assert names(messages) == ["broken"]
    assert status != 0
    assert isinstance(executed.refusal(messages[0]), ResourceError)


def test_a_system_without_memfd_sends_the_plan_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    messages, told, _status = Held(
        "sh", "-c", "echo ${#LONG}", env={"LONG": "x" * 120_000, "PATH": os.defpath}
    ).finish()
    assert names(messages) == WHOLE
    assert told[0] == "120000\n"


def test_a_caller_that_is_gone_before_the_plan_is_read_starts_nothing(tmp_path: Path) -> None:
    """The lifeline ends before the keeper looks: it must not start what nobody waits for."""
    made = tmp_path / "made"
    held = Held("touch", str(made))
    os.close(held.link._lifeline)
    held.link._lifeline = os.open(os.devnull, os.O_WRONLY)
    messages, _told, status = held.finish()
    assert (names(messages), status) == ([], 0)
    assert not made.exists()


def test_the_terminal_becomes_the_controlling_one_of_the_targets_session() -> None:
    master, slave = pty.openpty()
    try:
        held = Held("sh", "-c", "tty </dev/tty >/dev/null && ps -o tty= -p $$ && echo $PPID", tty=slave)
        os.close(slave)
        messages, told, _status = held.finish()
        assert names(messages) == WHOLE, messages
        shown, parent = told[0].split()
        assert shown.startswith("pts/")
        assert int(parent) == held.link.pid
        with pytest.raises(OSError, match="Input/output"):  # nobody has the other side any more, the keeper included
            os.read(master, 1)
    finally:
        os.close(master)


def test_every_kind_of_refusal_has_its_error() -> None:
    """The message names a class of ``safesh.errors``."""
    for kind in ("CommandNotFound", "CommandNotExecutable", "ArgumentsTooLong", "ConfigError", "ResourceError"):
        message = {"event": "refused", "error": kind, "message": "m", "place": "p", "hint": "h"}
        assert type(executed.refusal(message)) is getattr(errors, kind)
