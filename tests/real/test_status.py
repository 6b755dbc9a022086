"""``status`` on real processes: what runs, what it costs, what is wrong, and an exit status for scripts."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from helpers import procs
from helpers.home import CLI, Home, Result, Safe
from helpers.procs import Spawn, wait_until
from safesh.cli import status, watch
from safesh.instance.view import InstanceView
from safesh.model import Member, TargetSpec
from safesh.paths import InstancePaths

ONE = """
[targets.sleeper]
command = ["sh", "-c", "echo ready; sleep 600 & wait"]
stop = { grace = "2s" }
"""
SHARED = """
[targets.headless]
command = ["sleep", "600"]
instance = "robot"

[targets.gui]
command = ["sleep", "601"]
instance = "robot"
match = "sleep 86399"
"""

# Holds the lock, keeps one child, writes a record with every kind of news in it, and lives as long as its stdin.
HOLDER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from safesh import config
from safesh._platform import start_time
from safesh.instance import lock, record
from safesh.paths import InstancePaths
spec = config.load("safe.toml").targets["sleeper"]
paths = InstancePaths.of(spec)
held = lock.try_acquire(paths.lock)
held.describe(spec)
child = os.fork()
if child == 0:
    os.execvp("sleep", ["sleep", "600"])
me = lock.own_identity()
now = time.time()
last = {"code": -1, "signal": "SIGKILL", "core": False, "cause": "out of memory", "at": now - 5}
record.write_record(paths, dict(
    project=spec.project, instance=spec.instance, target=spec.name, state="backoff", config="x", mode="detached",
    backend="subreaper", cgroup="", run_id="r", supervisor=me, keeper=None,
    main={**me, "pid": child, "start": start_time(child)}, command=["sleep"], cwd="/", log="/l",
    log_lost_bytes=2048, grace=1.0, supervised_since=now, since=now, started_at=now, restarts=3,
    next_start_at=now + 60, message="crashed too often", last_exit=last, last_verdict=None,
))
print("ready", child, flush=True)
sys.stdin.read()
"""


def only(result: Result) -> dict[str, Any]:
    document = result.json()
    assert document["v"] == 1
    (instance,) = document["instances"]
    assert isinstance(instance, dict)
    return instance


# --- one running target -----------------------------------------------------------------------


def test_a_running_target_is_shown_with_its_whole_tree(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.started("sleeper"):
        shown = only(safe("status", "sleeper", "--json").check(0))
        assert shown["status"] == "running"
        assert shown["lock"] == "held"
        assert shown["main_alive"]
        assert 0 <= shown["uptime_seconds"] < 30
        tree = {member["pid"]: member for member in shown["tree"]}
        assert set(tree) == {one.pid for one in procs.tree_of(shown["pid"])}
        assert sorted(member["command"].split()[0] for member in tree.values()) == ["sh", "sleep"]
        assert shown["total"]["processes"] == 2
        assert shown["total"]["memory_bytes"] == sum(member["memory_bytes"] for member in tree.values()) > 0
        assert shown["strays"] == shown["problems"] == []

        human = safe("status").check(0).out
        assert re.search(r"^sleeper  running  pid \d+  up ", human)
        assert re.search(r"^ +\d+ .*└─ sleep 600$", human, re.MULTILINE)
        assert "total: 2 processes" in human
        assert "\x1b" not in human


def test_a_target_that_does_not_run_is_3_and_names_the_next_command(
    safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config(ONE)
    result = safe("status", "sleeper").check(3)
    assert "sleeper  not running" in result.out
    assert " start sleeper" in result.out


def test_the_last_exit_and_its_cause_are_shown(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE.replace("sleep 600 & wait", "exit 7"))
    safe("start", "sleeper")
    shown = only(safe("status", "sleeper", "--json").check(3))
    assert shown["last_exit"]["code"] == 7
    assert re.search(r"last exit +.*7.* ago", safe("status").check(3).out)


def test_an_ad_hoc_run_is_shown_without_any_safe_toml(safe: Safe, home: Home) -> None:
    with safe.started("nightly", "--", "sleep", "600"):
        shown = only(safe("status", "--json").check(0))
        assert shown["name"] == "nightly"
        assert shown["config"] is None
        assert "none (ad hoc)" in safe("status", "nightly").check(0).out


def test_a_target_whose_instance_another_one_holds_is_not_running(
    safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config(SHARED)
    with safe.started("headless"):
        assert safe("status", "headless").check(0).out.startswith("headless  running")
        result = safe("status", "gui").check(3)
        assert "not running (headless has the instance)" in result.out
        assert "stop headless" in result.out
        assert safe("status").check(0).out.startswith("headless  running")


def test_a_command_line_cannot_reach_the_terminal(safe: Safe, home: Home) -> None:
    with safe.started("evil", "--", "sh", "-c", "sleep 600; :", "\x1b]0;owned\x07\x1b[2J"):
        out = safe("status").check(0).out
        assert "\x1b" not in out
        assert "\\x1b]0;owned\\x07" in out


# --- what is left over or damaged ---------------------------------------------------------------


def test_a_copy_started_by_hand_is_a_stray(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(SHARED)
    with Spawn("sleep", "86399") as copy:
        result = wait_until(lambda: safe("status", "--json").check(2))
        (stray,) = only(result)["strays"]
        assert (stray["pid"], stray["start"]) == (copy.pid, copy.start)
        assert stray["reason"]
        human = safe("status").check(2).out
        assert "1 stray that no supervisor holds" in human
        assert " stop " in human


def test_a_pid_file_left_by_the_dead_is_1(safe: Safe, home: Home, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    safe("status").check(3)
    gone = Spawn("true")
    with gone:
        gone.wait()
    home.state_file("sleeper.pid").write_text(f"{gone.pid}\n")
    safe("status", "sleeper").check(1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 99}', '{"v": 1, "state": 3}', "\x00\xff", "[" * 100000])
def test_a_damaged_record_is_named_and_never_a_traceback(
    text: str, safe: Safe, home: Home, write_config: Callable[[str], Any]
) -> None:
    write_config(ONE)
    safe("status").check(3)
    home.state_file("sleeper.json").write_text(text)
    result = safe("status").check(3)
    assert "problem: " in result.out
    assert "sleeper.json" in result.out


def test_a_lock_that_is_a_symlink_is_4_and_named(safe: Safe, home: Home, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    safe("status").check(3)
    home.state_file("sleeper.lock").symlink_to("/etc/hostname")
    result = safe("status").check(4)
    assert "sleeper.lock is a symlink" in result.out.replace(": is", " is").replace(":", "")


def test_a_record_made_by_hand_with_living_processes_shows_them(
    safe: Safe, home: Home, write_config: Callable[[str], Any]
) -> None:
    """A holder of the lock that is none of our supervisors, with a real child: the record alone tells the rest."""
    write_config(ONE)
    safe("status").check(3)
    with Spawn(sys.executable, "-c", HOLDER, str(CLI[-1]).rpartition("/safesh/")[0]) as holder:
        child = int(holder.wait_line(r"ready (\d+)")[1])
        wait_until(lambda: procs.argv(child)[:1] == ["sleep"])
        out = safe("status", "sleeper").check(0).out
        assert re.search(rf"^sleeper  backoff  pid {child}  up .*  3 restarts  starts in \d", out)
        assert f"held by pid {holder.pid} for" in out
        assert "crashed too often" in out
        assert "out of memory, 5." in out
        assert "2.0 KiB could not be written" in out
        assert re.search(rf"^ *{child} .* sleep 600$", out, re.MULTILINE)


def test_no_instance_at_all_is_3_and_tells_how_to_begin(safe: Safe, home: Home) -> None:
    result = safe("status").check(3)
    assert "start NAME -- CMD" in result.out
    assert safe("status", "--json").check(3).json() == {"v": 1, "instances": []}


def test_an_unknown_target_is_refused_with_the_closest_one(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    result = safe("status", "sleper").check(2)
    assert "sleeper" in result.err
    assert result.out == ""


# --- codes of several, shares of CPU ------------------------------------------------------------


def report(code: int, *, adhoc: bool = False, asked: bool = False, view: InstanceView | None = None) -> status.Report:
    specs = [] if adhoc else [TargetSpec(name="t", instance="t", project="p", command=["x"], cwd="/")]
    subject = status.Subject("t", InstancePaths("/nowhere", "t"), specs, asked=asked)
    return status.Report(subject, view or InstanceView(instance="t", lock="free", code=code), time.time())


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 3), ([0], 0), ([0, 0], 0), ([3], 3), ([0, 3], 3), ([3, 1], 1), ([1, 2, 3], 2), ([0, 1, 2, 3, 4], 4)],
)
def test_several_give_0_if_all_run_else_the_worst(codes: list[int], code: int) -> None:
    assert status.exit_code([report(one) for one in codes]) == code


def test_an_ad_hoc_run_that_ended_does_not_spoil_the_others() -> None:
    assert status.exit_code([report(0), report(3, adhoc=True)]) == 0
    assert status.exit_code([report(0), report(2, adhoc=True)]) == 2
    assert status.exit_code([report(3, adhoc=True)]) == 3
    assert status.exit_code([report(0), report(3, adhoc=True, asked=True)]) == 3


def test_watch_gives_cpu_as_the_share_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(watch, "monotonic", lambda: next(clock))

    def seen(seconds: float, start: int = 5) -> list[status.Report]:
        busy = Member(pid=1, start=start, cpu_seconds=seconds, started_at=1.0)
        return [report(0, view=InstanceView(instance="t", lock="held", code=0, tree=[busy]))]

    sampler = watch.Sampler()
    assert sampler.percents(seen(50.0)) == {}
    assert sampler.percents(seen(51.0)) == {(1, 5): 50.0}


def test_a_reused_pid_is_another_process_for_the_cpu_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(watch, "monotonic", lambda: next(clock))
    sampler = watch.Sampler()
    for start in (5, 6):
        busy = Member(pid=1, start=start, cpu_seconds=9.0)
        found = sampler.percents([report(0, view=InstanceView(instance="t", lock="held", code=0, tree=[busy]))])
    assert found == {}


# --- watching -----------------------------------------------------------------------------------


def test_watch_through_a_pipe_prints_plain_blocks_until_ctrl_c(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.spawn("status", "--watch", "--interval", "0.2s", whole=True) as child:
        for _look in range(2):
            child.wait_line(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
            child.wait_line("sleeper  not running")
        assert procs.send(child.pid, child.start, signal.SIGINT)
        assert child.wait() == 0
        child.wait_output(5)
        assert "\x1b" not in child.out
        assert child.err == ""


def test_watch_with_json_prints_a_document_a_line(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.spawn("status", "-w", "--json", "--interval", "0.2s", whole=True) as child:
        for _look in range(2):
            line = child.wait_line("^{")
            assert json.loads(line.string)["v"] == 1
        assert procs.send(child.pid, child.start, signal.SIGINT)
        assert child.wait() == 0


class Terminal:
    """Our end of a pseudo-terminal and what was shown on it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.shown = b""

    def read(self) -> bytes:
        try:
            self.shown += os.read(self.fd, 65536)
        except (BlockingIOError, OSError):
            pass  # nothing yet, or (EIO) the other end is closed
        return self.shown

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def terminal(columns: int, lines: int) -> Iterator[tuple[Terminal, int]]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        screen = Terminal(ours)
        screen.resize(columns, lines)
        yield screen, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def frames(shown: bytes) -> list[list[str]]:
    """Each drawing's lines, as they would be read on the screen."""
    text = re.sub(r"\x1b\[[0-9;]*[mKJ]", "", shown.decode())
    return [part.replace("\r", "").splitlines() for part in text.split("\x1b[H")[1:]]


def test_watch_on_a_terminal_redraws_fits_the_window_and_follows_a_resize(safe: Safe, home: Home) -> None:
    long = "x" * 300
    with safe.started("job", "--", "sh", "-c", "sleep 600; :", long), terminal(60, 40) as (screen, theirs):
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with Spawn(*CLI, "status", "-w", "--interval", "0.3s", extra_env={"TERM": "xterm"}, **streams) as child:
            wait_until(lambda: len(frames(screen.read())) >= 3)
            before = len(frames(screen.read()))
            assert all(len(line) <= 60 for frame in frames(screen.shown)[1:-1] for line in frame)
            assert any("…" in line for line in frames(screen.shown)[1])
            assert b"\x1b[" in screen.shown
            # The kernel sends SIGWINCH only to a foreground group of the terminal's session; here it has none.
            screen.resize(30, 6)
            assert procs.send(child.pid, child.start, signal.SIGWINCH)
            wait_until(lambda: len(frames(screen.read())) >= before + 4)
            last = frames(screen.shown)[-2]
            assert all(len(line) <= 30 for line in last)
            assert len(last) <= 6
            assert any("more lines" in line for line in last)
            assert procs.send(child.pid, child.start, signal.SIGINT)
            assert child.wait() == 0


# --- cost ---------------------------------------------------------------------------------------


def test_status_imports_no_heavy_module(safe: Safe, write_config: Callable[[str], Any], home: Home) -> None:
    write_config(ONE)
    safe("status").check(3)  # now safe.toml is cached, as it is for everybody but the first
    code = (
        "import sys; sys.argv = ['x', 'status']; sys.path.insert(0, sys.argv.pop() and sys.orig_argv[-1])\n"
        "before = set(sys.modules)\n"
        "from safesh.cli.main import main\n"
        "code = main(['status'])\n"
        "print('loaded', *sorted(set(sys.modules) - before))\n"
        "sys.exit(code)\n"
    )
    source = str(CLI[-1]).rpartition("/safesh/")[0]
    with Spawn(sys.executable, "-E", "-s", "-S", "-c", code, source) as child:
        assert child.wait() == 3, child.err
        child.wait_output(5)
        loaded = set(child.out.splitlines()[-1].split())
    heavy = "click rich psutil filelock msgspec tomllib json re enum signal typing subprocess dataclasses functools"
    assert not loaded & {*heavy.split(), "contextlib", "logging", "asyncio", "importlib.metadata", "threading"}
