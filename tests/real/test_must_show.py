"""The promises the core is measured by, on the whole program: bin's Python, real trees, real kills."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.campaign import rounds
from helpers.home import CLI, Home, Safe

ESCAPE = Path(__file__).resolve().parents[1] / "helpers" / "escape_tree.py"
GRACE = 0.4


def record_of(home: Home, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.state / "default" / f"{instance}.json").read_text())
    return found


# 1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_of_100_concurrent_starts_exactly_one_wins_and_the_others_exit_75_naming_it(home: Home, safe: Safe) -> None:
    for _ in range(rounds(2, 20)):
        starts = [
            subprocess.Popen(
                [*CLI, "start", "one", "--detach", "--", "sleep", "60"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(100)
        ]  # fmt: skip
        try:
            results = [(one.communicate(timeout=120), one.returncode) for one in starts]
            pid = (home.state / "default" / "one.pid").read_text().strip()
            winners = [said for said, code in results if code == 0]
            losers = [said for said, code in results if code == 75]
            assert (len(winners), len(losers)) == (1, 99), [said for said, code in results if code not in (0, 75)]
            for _out, err in losers:
                assert f"held by pid {pid} for" in err, err
                assert "sleep 60" in err
                assert "stop one" in err
        finally:
            safe("stop", "one", "--force", "--now").check()


# 2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.pidns
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["cgroup", "subreaper"])
def test_stop_ends_the_escape_tree_with_zero_survivors(home: Home, safe: Safe, backend: str) -> None:
    home.write_config(
        f"""[targets.escape]
command = [{sys.executable!r}, {str(ESCAPE)!r}]
stop = {{ grace = "{GRACE}s" }}
"""
    )
    for _ in range(rounds(3, 100)):
        safe("start", "escape", "--detach", env={"SAFESH_BACKEND": backend}).check()
        log = home.state_file("escape.log")
        lines = procs.wait_until(lambda log=log: log.read_text().splitlines(), what="the tree is up")  # type: ignore[misc]
        ready = json.loads(lines[-1])
        before = set(procs.scan())
        said = safe("stop", "escape", "--force", "--json").check().json()
        verdict = said["verdicts"][0]
        assert verdict["survivors"] == []
        assert verdict["killed"], "three members do not cooperate, so somebody was killed"
        for name, one in ready["members"].items():
            assert not procs.alive(one["pid"], one["start"]), name
        # Not only those that were named: nobody of this namespace but ourselves and our ancestors.
        ours = {one.pid for one in procs.tree_of(os.getpid())} | {1, os.getpid(), os.getppid()}
        left = [one for one in procs.scan().values() if not one.dead and one.pid not in ours and one.pid in before]
        assert left == [], left
        log.unlink()


# 3 ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["supervisor", "keeper", "both"])
def test_a_sigkill_at_a_random_moment_leaves_no_tree_and_the_next_start_works(
    home: Home, safe: Safe, rng: random.Random, victim: str
) -> None:
    script = "trap '' TERM; sleep 60 & sleep 60 & wait; sleep 60"
    for _ in range(rounds(4, 100)):
        child = safe.spawn("start", "kill", "--detach", "--", "sh", "-c", script)
        with child:
            pause = rng.random() * 0.15
            holder = procs.wait_until(lambda: _holder(home), 20, "somebody took the lock")
            select_wait(pause)
            victims = _victims(home, holder, victim)
            for pid, start in victims:
                procs.send(pid, start, signal.SIGKILL)
            child.wait(20)
        safe("stop", "kill", "--force", "--timeout", f"{GRACE}").check()
        mark = str(home.state / "default" / "kill")
        assert procs.marked("SAFESH_INSTANCE", mark) == []
        # Whoever was killed, and whenever: the next one starts.
        safe("start", "kill", "--detach", "--", "sleep", "60").check()
        assert len([one for one in procs.marked("SAFESH_INSTANCE", mark) if one.name == "sleep"]) == 1
        safe("stop", "kill", "--force", "--now").check()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_the_tree_is_gone_within_grace_plus_a_second_of_a_sigkill(
    home: Home, safe: Safe, rng: random.Random, victim: str
) -> None:
    home.write_config(f'[targets.t]\ncommand = "sleep 60 & sleep 60"\nshell = true\nstop = {{ grace = "{GRACE}s" }}\n')
    mark = str(home.state / home.project.name / "t")
    for number in range(rounds(4, 100)):
        text = "trap '' TERM; echo up; sleep 60 & while :; do wait; done" if number % 2 else "echo up; sleep 60 & wait"
        home.write_config(
            f'[targets.t]\ncommand = "{text}"\nshell = true\nrestart = "no"\nstop = {{ grace = "{GRACE}s" }}\n'
        )
        safe("start", "t", "--detach").check()
        found = json.loads(home.state_file("t.json").read_text())
        select_wait(rng.random() * 0.05)
        procs.send(found[victim]["pid"], found[victim]["start"], signal.SIGKILL)
        procs.wait_until(lambda: not procs.marked("SAFESH_INSTANCE", mark), GRACE + 1, "the tree is gone")
        procs.wait_until(lambda: not procs.alive(found["keeper"]["pid"], found["keeper"]["start"]), 5)  # noqa: B023
        procs.wait_until(lambda: not procs.alive(found["supervisor"]["pid"], found["supervisor"]["start"]), 5)  # noqa: B023
        # Never two instances, and the lock is free again.
        safe("start", "t", "--detach").check()
        safe("stop", "t", "--force", "--now").check()


def select_wait(seconds: float) -> None:
    """Let a random time pass: the moment of the kill is what is random here."""
    import select

    select.select([], [], [], seconds)


def _holder(home: Home) -> dict[str, Any] | None:
    try:
        text = (home.state / "default" / "kill.lock").read_text()
        return json.loads(text) if text else None
    except (FileNotFoundError, ValueError):
        return None


def _victims(home: Home, holder: dict[str, Any], victim: str) -> list[tuple[int, int]]:
    keepers = [(one.pid, one.start) for one in procs.scan().values() if one.ppid == holder["pid"] and not one.dead]
    supervisor = [(holder["pid"], holder["start"])]
    return {"supervisor": supervisor, "keeper": keepers[:1], "both": supervisor + keepers[:1]}[victim]


# 4 ------------------------------------------------------------------------------------------------------------


def test_closing_the_terminal_ends_a_foreground_start_within_2_s_of_the_grace(home: Home, safe: Safe) -> None:
    home.write_config(
        f"""[targets.t]
command = "trap '' HUP TERM; sleep 60 & echo up; while :; do wait; done"
shell = true
stop = {{ grace = "{GRACE}s" }}
"""
    )
    pid, master = os.forkpty()
    if pid == 0:
        os.execv(CLI[0], [*CLI, "start", "t"])
    start = procs.start_of(pid)
    try:
        seen = b""
        while b"up" not in seen:
            seen += os.read(master, 4096)
        mark = str(home.state / home.project.name / "t")
        assert len(procs.marked("SAFESH_INSTANCE", mark)) == 2
    finally:
        os.close(master)
    try:
        procs.wait_until(lambda: not procs.marked("SAFESH_INSTANCE", mark), GRACE + 2, "nothing is left")
        procs.wait_until(lambda: not procs.alive(pid, start), 2, "the supervisor is gone")
    finally:
        procs.send(pid, start, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert safe("status", "t").rc == 3
    with safe.started("t"):  # the lock was released
        pass


# 5 ------------------------------------------------------------------------------------------------------------

WRITER = """
import hashlib, os, sys
total, seed = int(sys.argv[1]), 0
digest = hashlib.sha256()
while total:
    seed += 1
    block = (b"%08d " % seed) * (1 << 12) + b"\\n"
    block = block[:total]
    total -= len(block)
    digest.update(block)
    while block:
        block = block[os.write(1, block):]
open(sys.argv[2], "w").write(digest.hexdigest())
"""


@pytest.mark.timeout(600)
def test_every_byte_through_the_log_is_accounted_for_across_rotations(home: Home, safe: Safe) -> None:
    size = rounds(96, 1024) * 1024 * 1024 + 12345
    (home.project / "writer.py").write_text(WRITER)
    home.write_config(
        f"""[targets.w]
command = [{sys.executable!r}, "writer.py", "{size}", "digest"]
log = {{ size = "10M", keep = 0 }}
"""
    )
    result = safe("start", "w", deadline=300)
    result.check()
    folder = home.state / home.project.name
    parts = sorted(path for path in folder.iterdir() if re.fullmatch(r"w\.log\.\d+", path.name))
    assert len(parts) >= size // (11 << 20)
    digest = hashlib.sha256()
    total = 0
    for path in [*parts, folder / "w.log"]:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                total += len(chunk)
        path.unlink()
    assert total == size
    assert digest.hexdigest() == (home.project / "digest").read_text()
