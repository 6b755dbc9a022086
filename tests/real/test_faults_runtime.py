"""Faults of targets, of the machine and of ourselves: whatever happens, nobody is left and somebody says why."""

from __future__ import annotations

import json
import os
import random
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.campaign import in_full, rounds, thinned
from helpers.faults_tools import (
    SLEEPER,
    as_nobody,
    events_of,
    hand_started,
    kill,
    lend_state,
    members,
    nobodys_cli,
    one_line,
    record_of,
    run,
    table,
    wait_gone,
    wait_log,
    wait_record,
    write_target,
)
from helpers.home import CLI, Home, Result, Safe
from helpers.procs import Spawn, wait_until

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
ESCAPE, ECHO = HELPERS / "escape_tree.py", HELPERS / "echo_signals.py"
STUBBORN = "trap '' TERM; echo up; sleep 600 & while :; do wait; done"  # and so is its sleeper
QUICK = 'backoff = { initial = "0.05s", max = "0.05s", jitter = 0 }'


def stop(safe: Safe, *words: str) -> dict[str, Any]:
    """The verdict of a stop that leaves nobody."""
    verdict: dict[str, Any] = safe("stop", "t", "--force", "--json", *words).check(0).json()["verdicts"][0]
    assert verdict["survivors"] == []
    return verdict


# --- what the machine runs out of --------------------------------------------------------------------

PRLIMIT = "prlimit"


@pytest.mark.parametrize("limit", in_full([6, 8, 10, 12, 17, 30], 9, 11, 14, 20))
def test_too_few_descriptors_for_a_start_are_one_line_or_no_matter(home: Home, safe: Safe, limit: int) -> None:
    write_target(home)
    result = run(PRLIMIT, f"--nofile={limit}", *CLI, "start", "t", "--detach")
    if result.rc == 0:
        assert len(members(home)) == 1
        assert safe("status", "t").rc == 0
        assert stop(safe)["target"] == "t"
    elif limit >= 8:  # with fewer, Python itself may not get to our first line
        assert result.rc in (71, 73), result
        one_line(result, "oo many open files")
    else:
        assert result.rc != 0
    assert "Traceback" not in result.err or limit < 8
    wait_until(lambda: members(home) == [], 5)
    with safe.started("t"):
        pass


@pytest.mark.parametrize("limit", in_full([8, 11, 14, 20], 9, 10, 12, 17))
def test_too_few_descriptors_for_a_foreground_start(home: Home, safe: Safe, limit: int) -> None:
    write_target(home, "echo up; exit 7")
    result = run(PRLIMIT, f"--nofile={limit}", *CLI, "start", "t")
    assert result.rc in (7, 71, 73), result
    if result.rc != 7:
        one_line(result, "oo many open files")
    wait_until(lambda: members(home) == [], 5)


@pytest.mark.parametrize("limit", in_full([8, 10, 14, 20], 9, 12, 17))
def test_too_few_descriptors_for_stop_and_status_are_one_line_or_no_matter(home: Home, safe: Safe, limit: int) -> None:
    write_target(home, "echo up; sleep 600 & sleep 600 & sleep 600 & wait")
    with safe.started("t"):
        for verb in (["status", "t"], ["status", "t", "--json"], ["stop", "t", "--force"]):
            result = run(PRLIMIT, f"--nofile={limit}", *CLI, *verb)
            assert "Traceback" not in result.err, result
            if result.rc != 0:
                assert result.rc in (71, 73), result
                one_line(result, "oo many open files")
        if members(home):
            stop(safe)


def test_a_supervisor_short_of_descriptors_still_ends_a_tree_of_many(home: Home, safe: Safe) -> None:
    many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 600 & done; echo up; wait"
    write_target(home, f"trap '' TERM; {many}; while :; do wait; done", grace="0.3s")
    run(PRLIMIT, "--nofile=20", *CLI, "start", "t", "--detach").check()
    try:
        wait_log(home, "up")
        verdict = stop(safe)
        assert len(verdict["killed"]) >= 20
        assert members(home) == []
    finally:
        safe("stop", "t", "--force", "--now")


@pytest.mark.pidns
@pytest.mark.parametrize("limit", in_full([1, 3, 5, 7], 2, 4, 6))
def test_too_few_processes_for_a_start_are_one_line_or_no_matter(home: Home, safe: Safe, limit: int) -> None:
    """RLIMIT_NPROC counts a user's processes and spares root, so it is another user's start."""
    lend_state(home)
    words = [*as_nobody(), PRLIMIT, f"--nproc={limit}", *nobodys_cli()]
    result = run(*words, "start", "t", "--detach", "--", "sleep", "600", cwd="/")
    try:
        if result.rc == 0:
            assert len(members(home, project="default")) == 1
        else:
            assert result.rc == 71, result
            one_line(result, "Resource temporarily unavailable", hint=True)
            wait_until(lambda: members(home, project="default") == [], 5)
    finally:
        stopped = run(*as_nobody(), *nobodys_cli(), "stop", "t", "--force", "--now", cwd="/")
    assert stopped.rc == (0 if limit > 1 else 2), stopped
    assert members(home, project="default") == []


def test_a_start_that_lacks_descriptors_is_told_also_where_it_is_tried_again_for_ever(home: Home, safe: Safe) -> None:
    more = 'restart = "on-failure"\nstart_limit = { count = 0 }\nbackoff = { initial = "0.2s", max = "0.2s" }'
    write_target(home, more=more)
    told = []
    for limit in (9, 11, 12, 13, 14):
        try:
            result = run(PRLIMIT, f"--nofile={limit}", *CLI, "start", "t", "--detach")
            told.append((result.rc, result.err))
        finally:
            safe("stop", "t", "--force", "--now")
        assert members(home) == []
    assert {code for code, _said in told} <= {0, 71, 73}, told
    assert any("starts again in" in said for _code, said in told), told


@pytest.mark.pidns
def test_a_target_without_processes_left_is_still_ended(home: Home, safe: Safe) -> None:
    """A tree at its limit of processes: ending it needs none."""
    lend_state(home)
    text = "trap '' TERM; for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done; echo up >&2; while :; do wait; done"
    words = [*as_nobody(), PRLIMIT, "--nproc=13", *nobodys_cli()]
    run(*words, "start", "t", "--detach", "--", "sh", "-c", text, cwd="/").check()
    wait_until(lambda: len(members(home, project="default")) == 10)
    result = run(*words, "stop", "t", "--force", "--timeout", "0.3s", cwd="/")
    assert result.rc == 0, result
    assert members(home, project="default") == []


# --- what targets do ---------------------------------------------------------------------------------


def test_a_target_that_closes_its_stdio_is_held_and_costs_nothing(home: Home, safe: Safe) -> None:
    write_target(home, "echo up; exec <&- >&- 2>&-; sleep 600 & wait")
    with safe.started("t"):
        found = wait_record(home, state="running")
        wait_until(lambda: len(members(home)) == 2)
        wait_until(lambda: not os.path.exists(f"/proc/{found['main']['pid']}/fd/1"))
        before = [_ticks(found[who]["pid"]) for who in ("supervisor", "keeper")]
        select.select([], [], [], 0.5)
        after = [_ticks(found[who]["pid"]) for who in ("supervisor", "keeper")]
        assert after[0] - before[0] <= 2, "it spins"
        assert after[1] - before[1] <= 2, "it spins"
        assert stop(safe)["killed"] == []
        assert home.state_file("t.log").read_text() == "up\n"


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.pidns
@pytest.mark.parametrize("backend", ["cgroup", "subreaper"])
def test_a_tree_that_forks_while_it_is_killed_is_ended_whole(home: Home, safe: Safe, backend: str) -> None:
    command = [sys.executable, str(ESCAPE), "--members", "forker,forker,ignorer", "--hop", "0.002", "--chains", "4"]
    write_target(home, command, grace="0.3s")
    for _ in range(rounds(3, 50)):
        safe("start", "t", "--detach", env={"SAFESH_BACKEND": backend}).check()
        wait_log(home, '"main"')
        assert stop(safe, *random.choice([[], ["--now"]]))["killed"]
        # Nobody of this namespace but ourselves.
        ours = {one.pid for one in procs.tree_of(os.getpid())} | {1, os.getpid(), os.getppid()}
        assert [one for one in procs.scan().values() if not one.dead and one.pid not in ours] == []
        home.state_file("t.log").unlink()


def test_a_target_that_ignores_sigterm_is_killed_after_its_grace(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="0.4s")
    with safe.started("t"):
        wait_log(home, "up")
        verdict = stop(safe)
        assert 0.4 <= verdict["seconds"] < 3
        assert len(verdict["killed"]) == 2
        assert record_of(home)["last_exit"]["signal"] == "SIGKILL"


@pytest.mark.parametrize("who", ["main", "all"])
def test_a_stopped_target_is_asked_and_goes_at_once(home: Home, safe: Safe, who: str) -> None:
    write_target(home, "echo up; sleep 600 & wait", grace="20s")
    with safe.started("t"):
        wait_until(lambda: len(members(home)) == 2)
        main = record_of(home)["main"]
        for one in members(home):
            if who == "all" or one.pid == main["pid"]:
                kill({"pid": one.pid, "start": one.start}, signal.SIGSTOP)
        wait_until(lambda: procs.look(main["pid"]).state == "T")  # type: ignore[union-attr]
        assert "running" in safe("status", "t").check(0).out
        verdict = stop(safe)
        assert verdict["seconds"] < 5
        assert verdict["killed"] == []


ZOMBIES = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os._exit(0)
os.write(1, b"up\\n")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def test_zombies_in_a_tree_are_no_survivors(home: Home, safe: Safe) -> None:
    write_target(home, [sys.executable, "-S", "-c", ZOMBIES], grace="0.3s")
    with safe.started("t"):
        wait_log(home, "up")
        main = record_of(home)["main"]
        wait_until(lambda: [one.state for one in procs.tree_of(main["pid"])][1:] == ["Z"] * 3)
        safe("status", "t").check(0)
        assert len(stop(safe)["killed"]) == 1


def test_a_target_that_dumps_core_says_so(home: Home, safe: Safe) -> None:
    write_target(home, "ulimit -c unlimited 2>/dev/null; ulimit -c; kill -SEGV $$")
    result = safe("start", "t").check(128 + signal.SIGSEGV)
    end = record_of(home)["last_exit"]
    assert end["signal"] == "SIGSEGV"
    assert ("core dumped" in end["cause"]) == end["core"]
    assert "SIGSEGV" in result.err
    assert "SIGSEGV" in safe("status", "t").check(3).out
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern == "core\n" and result.out == "unlimited\n":
        assert end["core"]
        assert any(path.name.startswith("core") for path in home.project.iterdir())


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.execve("/bin/sleep", ["sleep", "604"], {})
while b"sleep" not in b"".join(open(f"/proc/{n}/cmdline", "rb").read() for n in os.listdir("/proc") if n.isdigit()
                               and open(f"/proc/{n}/cmdline", "rb").read() == b"sleep\\x00604\\x00"):
    time.sleep(0.01)
"""


@pytest.mark.pidns
@pytest.mark.parametrize("backend", ["cgroup", "subreaper"])
def test_a_target_that_daemonises_away_is_ended_whole(home: Home, safe: Safe, backend: str) -> None:
    """Its main process exits 0 and leaves a daemon without our mark: the run is over when nobody is left."""
    write_target(home, [sys.executable, "-S", "-c", DAEMON])
    safe("start", "t", env={"SAFESH_BACKEND": backend}).check(0)
    assert [one for one in procs.scan().values() if one.name == "sleep" and not one.dead] == []
    verdict = record_of(home)["last_verdict"]
    assert verdict["survivors"] == []
    assert any("604" in line["command"] for line in verdict["asked"]), verdict


def test_the_target_gets_its_names_and_no_descriptor_of_ours(home: Home, safe: Safe) -> None:
    write_target(home, 'env | grep ^SAFESH_ | sort; ls -l /proc/self/fd | grep -c -- "->"; ls -l /proc/self/fd >&2')
    read, write = os.pipe()
    try:
        with Spawn(*CLI, "start", "t", pass_fds=(read, write), stdin=subprocess.DEVNULL) as child:
            assert child.wait() == 0
            child.wait_output(5)
            lines = child.out.splitlines()
    finally:
        os.close(read)
        os.close(write)
    found = record_of(home)
    assert f"SAFESH_RUN_ID={found['run_id']}" in lines
    assert "SAFESH_TARGET=t" in lines
    assert f"SAFESH_INSTANCE={home.state / 'proj' / 't'}" in lines
    assert "4" in lines, f"0, 1, 2 and the folder that ls reads: {lines}"


def test_a_detached_start_keeps_no_descriptor_of_its_caller(home: Home, safe: Safe) -> None:
    """A pipe that the supervisor kept would never end for whoever reads it."""
    write_target(home)
    read, write = os.pipe()
    try:
        with Spawn(*CLI, "start", "t", "--detach", pass_fds=(write,), stdin=subprocess.DEVNULL, whole=False) as child:
            os.close(write)
            assert child.wait() == 0
            ready, _, _ = select.select([read], [], [], 5)
            assert ready
            assert os.read(read, 1) == b""
        found = record_of(home)
        for who in ("supervisor", "keeper"):
            names = [os.readlink(f"/proc/{found[who]['pid']}/fd/{fd}") for fd in (0, 1, 2)]
            assert names == ["/dev/null"] * 3, who
    finally:
        os.close(read)
        safe("stop", "t", "--force", "--now")


# --- SIGKILL and SIGSTOP on ourselves ------------------------------------------------------------------


def test_after_sigkill_of_the_supervisor_the_keeper_ends_the_tree_and_status_tells(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="3.5s")  # a start waits 2 s for whoever is about to let go
    with safe.started("t"):
        wait_log(home, "up")
        found = record_of(home)
        kill(found["supervisor"])
        wait_gone(found["supervisor"])
        shown = safe("status", "t").check(2)
        assert "the keeper ends the tree" in shown.out
        one_line(safe("start", "t", "--detach").check(75), "keeper", "--now", hint=True)
        wait_gone(found["keeper"], 6)
        assert members(home) == []
        after = safe("status", "t").check(1)
        assert "supervisor vanished" in after.out
        assert record_of(home)["last_exit"]["signal"] == "SIGKILL"
        assert [one["event"] for one in events_of(home)][-1] == "supervisor_lost"
    with safe.started("t"):
        pass


def test_after_sigkill_of_the_keeper_the_supervisor_ends_the_tree_and_says_so(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN)
    with safe.started("t"):
        wait_log(home, "up")
        found = record_of(home)
        kill(found["keeper"])
        wait_gone(found["supervisor"])
        assert members(home) == []
        shown = safe("status", "t").check(3)
        assert "keeper was killed" in shown.out
        assert events_of(home, "keeper_lost")
        assert record_of(home)["state"] == "failed"


def test_after_sigkill_of_the_keeper_a_policy_of_restarts_holds(home: Home, safe: Safe) -> None:
    write_target(home, more=f'restart = "on-failure"\n{QUICK}')
    with safe.started("t"):
        first = record_of(home)
        kill(first["keeper"])
        again = wait_record(home, restarts=1, state="running")
        assert again["run_id"] != first["run_id"]
        assert again["supervisor"] == first["supervisor"]
        wait_until(lambda: len(members(home)) == 1)


def test_after_sigkill_of_both_the_strays_are_shown_refused_and_ended(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN)
    with safe.started("t"):
        wait_log(home, "up")
        orphan_it(home)
        shown = safe("status", "t").check(2)
        assert "2 strays" in shown.out
        said = one_line(safe("start", "t", "--detach").check(75), "without a supervisor", "--replace", hint=True)
        assert str(record_of(home)["main"]["pid"]) in said
        assert len(stop(safe)["killed"]) == 2
        assert safe("status", "t").rc in (1, 3)
    with safe.started("t"):
        safe("status", "t").check(0)


def orphan_it(home: Home) -> None:
    """Kill supervisor and keeper so that neither can act for the other."""
    found = record_of(home)
    kill(found["keeper"], signal.SIGSTOP)
    kill(found["supervisor"])
    wait_gone(found["supervisor"])
    kill(found["keeper"])
    wait_gone(found["keeper"])


def test_start_replace_takes_over_from_strays_and_from_a_running_holder(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN)
    with safe.started("t"):
        wait_log(home, "up")
        for orphaned in (True, False):
            before = record_of(home)["main"]
            if orphaned:
                orphan_it(home)
            safe("start", "t", "--detach", "--replace", "--force").check(0)
            assert not procs.alive(before["pid"], before["start"])
            wait_until(lambda: len(members(home)) == 2)
            safe("status", "t").check(0)


@thinned()
@pytest.mark.parametrize(
    "who", [["supervisor"], ["keeper"], ["supervisor", "keeper"], ["main", "keeper", "supervisor"]]
)
@pytest.mark.parametrize("text", ["echo up; exec sleep 600", STUBBORN])
def test_sigstop_on_ourselves_keeps_no_stop_from_ending_everything(
    home: Home, safe: Safe, who: list[str], text: str
) -> None:
    write_target(home, text)
    with safe.started("t"):
        wait_log(home, "up")
        found = record_of(home)
        for one in who:
            kill(found[one], signal.SIGSTOP)
            wait_until(lambda one=one: procs.look(found[one]["pid"]).state == "T")  # type: ignore[misc,union-attr]
        safe("status", "t").check(0)
        stop(safe)
        assert members(home) == []
        for one in found["supervisor"], found["keeper"]:
            wait_gone(one)


# --- several commands at once ----------------------------------------------------------------------------


def test_a_stop_during_a_start_leaves_nobody_and_nothing_wrong(home: Home, safe: Safe, rng: random.Random) -> None:
    write_target(home, "echo up; sleep 600 & wait")
    for _ in range(rounds(8, 100)):
        with safe.spawn("start", "t", "--detach", stdin=subprocess.DEVNULL) as start:
            select.select([], [], [], rng.random() * 0.25)
            stopped = safe("stop", "t", "--force")
            assert stopped.rc == 0, stopped
            start.wait(20)
            start.wait_output(5)
            result = Result(start.command, start.wait(), start.out, start.err)
        if result.rc != 0:
            assert result.rc in (1, 75, 128 + signal.SIGTERM), result
            one_line(result)
        stop_whatever(safe)
        assert members(home) == []


def test_a_start_that_was_killed_before_it_wrote_a_record_is_known_by_its_lock(home: Home, safe: Safe) -> None:
    write_target(home, name="other")
    with safe.started("once", "--", "sleep", "600"):
        pass
    for path in (home.state / "proj").glob("once.*"):
        if path.suffix != ".lock":
            path.unlink()
    assert safe("stop", "once", "--force").check(0).out == "once: not running\n"
    safe("status", "once").check(3)


def stop_whatever(safe: Safe) -> None:
    safe("stop", "t", "--force", "--now").check(0)


def test_a_start_during_a_stop_is_refused_in_clear_text_or_works(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="0.8s")
    with safe.started("t"):
        wait_log(home, "up")
        with safe.spawn("stop", "t", "--force", stdin=subprocess.DEVNULL) as stopping:
            wait_record(home, state="stopping")
            refused = safe("start", "t", "--detach").check(75)
            one_line(refused, "already running", hint=True)
            assert stopping.wait(20) == 0
        assert members(home) == []
        safe("start", "t", "--detach").check(0)


def test_two_stops_at_once_get_the_same_verdict(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="0.6s")
    with safe.started("t"):
        wait_log(home, "up")
        stops = [safe.spawn("stop", "t", "--force", "--json", stdin=subprocess.DEVNULL) for _ in range(3)]
        try:
            for one in stops:
                assert one.wait(20) == 0, one.err
                one.wait_output(5)
            verdicts = [json.loads(one.out)["verdicts"] for one in stops]
        finally:
            for one in stops:
                one.close()
        told = [found[0] for found in verdicts if found]
        assert told
        assert all(one["survivors"] == [] for one in told)
        assert members(home) == []


def test_a_second_stop_with_now_ends_the_grace_of_the_first(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="60s")
    with safe.started("t"):
        wait_log(home, "up")
        with safe.spawn("stop", "t", "--force", stdin=subprocess.DEVNULL) as first:
            wait_record(home, state="stopping")
            assert stop(safe, "--now")["seconds"] < 10
            assert first.wait(5) == 0


def test_a_stop_during_a_backoff_ends_it_at_once(home: Home, safe: Safe) -> None:
    write_target(home, "exit 3", more='restart = "always"\nbackoff = { initial = "60s" }\nstart_limit = { count = 0 }')
    with safe.spawn("start", "t", stdin=subprocess.DEVNULL, whole=True) as child:
        wait_record(home, state="backoff")
        shown = safe("status", "t").check(0)
        assert "backoff" in shown.out
        assert "starts in" in shown.out
        assert safe("stop", "t", "--force").check(0).err == ""
        assert child.wait(5) == 3
    safe("status", "t").check(3)


def test_a_restart_during_a_backoff_starts_at_once(home: Home, safe: Safe) -> None:
    write_target(
        home, "test -e fixed && exec sleep 600; exit 3", more='restart = "always"\nbackoff = { initial = "60s" }'
    )
    with safe.spawn("start", "t", stdin=subprocess.DEVNULL, whole=True) as child:
        wait_record(home, state="backoff")
        (home.project / "fixed").touch()
        safe("restart", "t", "--force").check(0)
        wait_record(home, state="running")
        assert len(members(home)) == 1
        stop(safe)
        child.wait(5)


def test_a_restart_of_what_does_not_run_starts_it(home: Home, safe: Safe) -> None:
    """Also where a start would look first whether there is room: a restart does not."""
    write_target(home, more='admission = { needs_memory = "900T" }')
    try:
        assert "runs" in safe("restart", "t", "--force").check(0).out
        assert len(members(home)) == 1
        stop(safe)
    finally:
        safe("stop", "t", "--force", "--now")


def test_a_restart_during_a_stop_is_told_and_leaves_one_or_none(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="0.8s")
    with safe.started("t"):
        wait_log(home, "up")
        with safe.spawn("stop", "t", "--force", stdin=subprocess.DEVNULL) as stopping:
            wait_record(home, state="stopping")
            result = safe("restart", "t", "--force")
            assert stopping.wait(10) == 0, stopping.err
        if result.rc == 0:
            wait_until(lambda: len(members(home)) == 2)
        else:
            one_line(result, hint=True)
            assert members(home) == []


def test_a_stop_during_a_restart_wins(home: Home, safe: Safe) -> None:
    write_target(home, STUBBORN, grace="0.8s")
    with safe.started("t"):
        wait_log(home, "up")
        with safe.spawn("restart", "t", "--force", stdin=subprocess.DEVNULL) as restarting:
            wait_record(home, state="stopping")
            stop(safe)
            assert restarting.wait(10) != 0
            restarting.wait_output(5)
            one_line(Result(restarting.command, 1, restarting.out, restarting.err), hint=True)
        assert members(home) == []


def test_a_restart_keeps_the_lock_so_no_start_slips_in(home: Home, safe: Safe) -> None:
    """While it is restarted again and again, somebody tries the lock all the time, as flock(1) would."""
    write_target(home, "echo up; exec sleep 600", grace="0.2s")
    prober = (
        "import fcntl, os, select, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); tries = 0\n"
        "print('ready', flush=True)\n"
        "while not select.select([0], [], [], 0.0005)[0]:\n"
        "    tries += 1\n"
        "    try: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: continue\n"
        "    print('SLIPPED IN', flush=True); break\n"
        "print('tries', tries, flush=True)\n"
    )
    with safe.started("t"):
        holder = record_of(home)["supervisor"]
        with Spawn(sys.executable, "-S", "-c", prober, str(home.state_file("t.lock"))) as probing:
            probing.wait_line("ready")
            for _ in range(rounds(3, 20)):
                safe("restart", "t", "--force").check(0)
                one_line(safe("start", "t", "--detach").check(75))
            probing.close_stdin()
            probing.wait()
            probing.wait_output(5)
            assert "SLIPPED IN" not in probing.out
            assert int(probing.out.split()[-1]) > 50
        assert record_of(home)["supervisor"] == holder
        assert record_of(home)["restarts"] == rounds(3, 20)


# --- kill-all, and what is inside what --------------------------------------------------------------------


def test_kill_all_ends_every_instance_and_every_ad_hoc_run(home: Home, safe: Safe) -> None:
    home.write_config(table(SLEEPER, "one") + table(STUBBORN, "two") + table(SLEEPER, "three", 'instance = "robot"'))
    for name in ("one", "two", "three"):
        safe("start", name, "--detach").check()
    safe("start", "four", "--detach", "--", "sleep", "600").check()
    try:
        wait_log(home, "up", "two")
        verdicts = safe("kill-all", "--force", "--json").check(0).json()["verdicts"]
        assert {one["instance"] for one in verdicts} == {"one", "two", "robot", "four"}
        assert all(one["survivors"] == [] for one in verdicts)
        for name in ("one", "two", "robot", "four"):
            assert members(home, name) == []
    finally:
        safe("kill-all", "--force", "--now")


def test_kill_all_inside_a_target_leaves_what_it_runs_in_alone(home: Home, safe: Safe) -> None:
    inner = shlex.join([*CLI, "kill-all", "--force"])
    home.write_config(table(f"{inner} >said 2>&1; echo done $?; sleep 600 & wait", "inside") + table(SLEEPER, "other"))
    with safe.started("other"), safe.started("inside"):
        assert "done 0" in wait_log(home, "done", "inside", 20)
        assert members(home, "other") == []
        assert "left alone" in (home.project / "said").read_text()
        safe("status", "inside").check(0)
        # By name it is refused.
    assert members(home, "inside") == []


def test_a_stop_of_the_own_target_from_inside_is_refused_with_a_way_out(home: Home, safe: Safe) -> None:
    inner = shlex.join([*CLI, "stop", "t", "--force"])
    write_target(home, f"{inner} >said 2>&1; echo done $?; sleep 600 & wait")
    with safe.started("t"):
        assert "done 2" in wait_log(home, "done", deadline=20)
        assert "runs inside it" in (home.project / "said").read_text()
        safe("status", "t").check(0)


def test_a_target_shares_its_instance_with_one_at_a_time(home: Home, safe: Safe) -> None:
    home.write_config(table(SLEEPER, "headless", 'instance = "robot"') + table(SLEEPER, "gui", 'instance = "robot"'))
    with safe.started("headless"):
        said = one_line(safe("start", "gui", "--detach").check(75), "target headless is held by", hint=True)
        assert "stop headless" in said
        stopped = safe("stop", "gui", "--force").check(0)
        assert "held by headless" in stopped.out
        assert len(members(home, "robot")) == 1
        shown = safe("status", "gui").check(3)
        assert "headless has the instance" in shown.out
        safe("status", "headless").check(0)
        # The instance's own name means whoever holds it.
        assert "nobody is left" in safe("stop", "robot", "--force").check(0).out


# --- copies started by hand -----------------------------------------------------------------------------

ROBOT = "import sys, time; print('up', flush=True); time.sleep(600)"


def write_robot(home: Home) -> list[str]:
    """A target with a ``match``, and the words that somebody types to start a copy by hand."""
    (home.project / "launch_robot.py").write_text(ROBOT)
    home.write_config(
        table([sys.executable, "launch_robot.py", "--headless"], "headless", 'match = "launch_robot.py --headless"')
    )
    return [sys.executable, "-S", "launch_robot.py", "--headless"]


@pytest.mark.pidns
def test_a_copy_started_by_hand_is_shown_refused_taken_over_and_ended(home: Home, safe: Safe) -> None:
    words = write_robot(home)
    with hand_started(*words) as copy:
        copy.wait_line("up")
        shown = safe("status", "headless")
        assert f"{copy.pid}" in shown.out
        assert "started by hand" in shown.out or "stray" in shown.out
        one_line(safe("start", "headless", "--detach").check(75), f"pid {copy.pid}", "started by hand", hint=True)
        assert copy.alive()
        safe("start", "headless", "--detach", "--replace", "--force").check(0)
        assert not copy.alive()
        assert len(members(home, "headless")) == 1
        safe("stop", "headless", "--force").check(0)


@pytest.mark.pidns
@pytest.mark.parametrize("verb", [["stop", "headless"], ["stop"], ["kill-all"]])
def test_a_copy_started_by_hand_is_ended_by_stop_and_kill_all(home: Home, safe: Safe, verb: list[str]) -> None:
    words = write_robot(home)
    with hand_started(*words) as copy:
        copy.wait_line("up")
        assert safe(*verb).check(2).err.startswith("safesh: ")
        assert copy.alive()
        verdict = safe(*verb, "--force", "--json").check(0).json()["verdicts"][0]
        assert [line["pid"] for line in verdict["asked"]] == [copy.pid]
        assert not copy.alive()


@pytest.mark.pidns
def test_a_copy_beside_a_running_target_is_a_stray_that_a_stop_ends_too(home: Home, safe: Safe) -> None:
    words = write_robot(home)
    safe("start", "headless", "--detach").check(0)
    with hand_started(*words) as copy:
        copy.wait_line("up")
        shown = safe("status", "headless", "--json").check(0).json()["instances"][0]
        assert [one["pid"] for one in shown["strays"]] == [copy.pid]
        assert copy.pid not in [one["pid"] for one in shown["tree"]]
        safe("stop", "headless", "--force").check(0)
        assert not copy.alive()


@pytest.mark.pidns
def test_another_users_copy_is_nobodys_business(home: Home, safe: Safe) -> None:
    words = write_robot(home)
    home.path.parent.chmod(0o755)
    with hand_started(*as_nobody(), *words) as copy:
        copy.wait_line("up")
        shown = safe("status", "headless", "--json").json()["instances"][0]
        assert shown["strays"] == []
        safe("stop", "headless", "--force", "--now").check(0)
        safe("kill-all", "--force", "--now").check(0)
        assert copy.alive()
        safe("start", "headless", "--detach").check(0)
        safe("stop", "headless", "--force", "--now").check(0)
        assert copy.alive()


# --- restarts --------------------------------------------------------------------------------------------

COUNT = "echo life >> lives; test $(wc -l < lives) -ge {times} && exec {last}; exit {code}"


def lives(home: Home) -> int:
    try:
        return len((home.project / "lives").read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [("no", 3, False), ("no", 0, False), ("on-failure", 3, True), ("on-failure", 0, False),
     ("always", 3, True), ("always", 0, True)],
)  # fmt: skip
def test_restart_policies(home: Home, safe: Safe, policy: str, code: int, restarts: bool) -> None:
    write_target(home, COUNT.format(times=3, last="sleep 600", code=code), more=f'restart = "{policy}"\n{QUICK}')
    with safe.spawn("start", "t", stdin=subprocess.DEVNULL, whole=True) as child:
        if restarts:
            wait_record(home, restarts=2, state="running")
            wait_until(lambda: lives(home) == 3)
            wait_until(lambda: len(members(home)) == 1)  # `wc` may still be on its way out
            stop(safe)
            assert child.wait(5) == 128 + signal.SIGTERM
        else:
            assert child.wait(10) == code
            assert lives(home) == 1


def test_a_signal_counts_as_a_failure(home: Home, safe: Safe) -> None:
    write_target(home, more=f'restart = "on-failure"\n{QUICK}')
    with safe.started("t"):
        kill(record_of(home)["main"])
        found = wait_record(home, restarts=1, state="running")
        assert found["last_exit"]["signal"] == "SIGKILL"


def test_the_backoff_grows_to_its_ceiling_and_the_start_limit_ends_it(home: Home, safe: Safe) -> None:
    write_target(
        home,
        "exit 9",
        more='restart = "always"\nbackoff = { initial = "0.05s", factor = 2, max = "0.15s", jitter = 0 }\n'
        'start_limit = { count = 5, window = "60s" }',
    )
    result = safe("start", "t").check(9)
    assert [one["delay"] for one in events_of(home, "restarting")] == [0.05, 0.1, 0.15, 0.15]
    assert len(events_of(home, "started")) == 5
    assert "start limit reached: 5 starts in 1m" in result.err
    found = record_of(home)
    assert found["state"] == "failed"
    shown = safe("status", "t").check(3)
    assert "start limit reached" in shown.out
    assert "failed" in shown.out


def test_the_start_limit_of_a_detached_start_is_told_by_status(home: Home, safe: Safe) -> None:
    write_target(home, "exit 9", more=f'restart = "always"\n{QUICK}\nstart_limit = {{ count = 2, window = "60s" }}')
    safe("start", "t", "--detach")
    wait_record(home, state="failed")
    assert "start limit reached" in safe("status", "t").check(3).out


# --- signals ----------------------------------------------------------------------------------------------


def echo(*words: str) -> list[str]:
    return [sys.executable, "-S", str(ECHO), "--stdin", "ignore", *words]


def holder_of(home: Home) -> dict[str, int]:
    pid = int(home.state_file("t.pid").read_text())
    return {"pid": pid, "start": procs.start_of(pid)}


def test_forwardable_signals_reach_a_detached_target_and_end_nothing(home: Home, safe: Safe) -> None:
    write_target(home, echo())
    with safe.started("t"):
        wait_log(home, "ready")
        names = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM", "SIGQUIT", "SIGPIPE", "SIGCONT", "SIGVTALRM",
                 "SIGABRT", "SIGTSTP"]  # fmt: skip
        for name in names:
            kill(holder_of(home), signal.Signals[name])
            wait_log(home, f"{name}\n")
        safe("status", "t").check(0)
        assert record_of(home)["restarts"] == 0


def test_signals_are_rewritten_and_dropped(home: Home, safe: Safe) -> None:
    signals = '{ SIGUSR1 = "SIGUSR2", SIGHUP = "", TERM = "INT" }'
    write_target(home, echo("--exit-on", "SIGINT:5"), more=f"signals = {signals}")
    with safe.started("t"):
        wait_log(home, "ready")
        holder = holder_of(home)
        kill(holder, signal.SIGHUP)
        kill(holder, signal.SIGUSR1)
        text = wait_log(home, "SIGUSR2\n")
        assert "SIGHUP" not in text
        assert "SIGUSR1" not in text
        kill(holder, signal.SIGTERM)
        wait_gone(holder)
        text = home.state_file("t.log").read_text()
        assert "SIGINT\n" in text
        assert "SIGTERM" not in text
        assert record_of(home)["last_exit"]["code"] == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_to_a_foreground_start_ends_the_whole_tree(home: Home, safe: Safe, number: int, code: int) -> None:
    write_target(home, "echo up; sleep 600 & sleep 600 & exec sleep 600")
    with safe.spawn("start", "t", stdin=subprocess.DEVNULL, whole=True) as child:
        child.wait_line("up")
        wait_until(lambda: len(members(home)) == 3)
        child.send(number)
        assert child.wait(10) == code
        assert members(home) == []
    safe("status", "t").check(3)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_asks_and_a_second_one_kills_at_once(home: Home, safe: Safe, times: int) -> None:
    # A shell's background children ignore SIGINT, its pipelines do not.
    write_target(home, f"trap '' INT; {STUBBORN}" if times == 2 else "echo up; sleep 600 | sleep 600", grace="60s")
    pid, master = os.forkpty()
    if pid == 0:
        os.execv(CLI[0], [*CLI, "start", "t"])
    start = procs.start_of(pid)
    try:
        seen = b""
        while b"up" not in seen:
            seen += os.read(master, 4096)
        wait_until(lambda: len(members(home)) >= 2)
        os.write(master, b"\x03")
        if times == 2:
            wait_record(home, state="stopping")
            assert len(members(home)) == 2  # still
            os.write(master, b"\x03")
        wait_until(lambda: not members(home), 5)
        wait_until(lambda: not procs.alive(pid, start), 5)
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) in (130, 137, 143)
    finally:
        procs.send(pid, start, signal.SIGKILL)
        os.close(master)
    assert b"Traceback" not in seen


def test_what_a_target_says_while_its_keeper_ends_it_is_in_the_log_however_much_it_is(home: Home, safe: Safe) -> None:
    script = "trap 'head -c 3000000 /dev/zero; echo last words; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    home.write_config(f'[targets.t]\ncommand = "{script}"\nshell = true\nstop = {{ grace = "20s" }}\n')
    safe("start", "t", "--detach").check()
    log = home.state_file("t.log")
    procs.wait_until(lambda: b"up" in log.read_bytes())
    record = json.loads(home.state_file("t.json").read_text())
    procs.send(record["supervisor"]["pid"], record["supervisor"]["start"], signal.SIGKILL)
    procs.wait_until(lambda: log.read_bytes().endswith(b"last words\n"), 15)
    assert log.stat().st_size >= 3000000
    procs.wait_until(lambda: not procs.alive(record["keeper"]["pid"], record["keeper"]["start"]), 10)
