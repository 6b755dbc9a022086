"""Strays: whom an instance claims although nobody holds it, and whom it never touches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import contracts
from helpers.home import SUPERVISOR
from helpers.procs import Spawn, look, wait_until
from safesh.instance.strays import matches

FOLDER = "/var/empty/safesh"


@pytest.fixture(params=contracts.BACKENDS)
def holder(request: pytest.FixtureRequest) -> Iterator[contracts.Holder]:
    """A process that looks for strays on each backend that can be had."""
    why = contracts.why_not(request.param)
    if why:
        pytest.skip(f"not to be had here: {why}")
    with contracts.Holder(request.param) as one:
        yield one


@pytest.fixture
def instance() -> str:
    return f"robot-{uuid.uuid4().hex}"


def marked(instance: str, run_id: str = "run-1") -> dict[str, str]:
    return {"SAFESH_INSTANCE": os.path.join(FOLDER, instance), "SAFESH_RUN_ID": run_id}


def find(holder: contracts.Holder, instance: str, **options: Any) -> dict[int, str]:
    found = holder.call("strays", folder=FOLDER, instance=instance, **options)
    return {int(pid): reason for pid, reason in found.items()}


def as_nobody(*command: str) -> list[str]:
    code = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[2:])"
    program = shutil.which(command[0])  # looked up here: Python's own library may be closed to nobody
    assert program is not None
    return [sys.executable, "-I", "-S", "-c", code, program, *command]


# patterns -----------------------------------------------------------------------------------------------------

ARGV = ["/usr/bin/python3", "scripts/launch_robot.py", "--headless", "--port=80"]


@pytest.mark.parametrize(
    "pattern",
    [
        "launch_robot.py",
        "scripts/launch_robot.py",
        "python3 scripts/launch_robot.py --headless",
        "python3 launch_robot.py --headless",
        "launch_robot.py --headless",
        "python* launch_*.py",
        "*/launch_robot.py",
        "--port=*",
        "launch*robot*",
        "*",
        "  launch_robot.py   --headless ",
    ],
)
def test_a_pattern_matches_words_that_stand_one_after_the_other(pattern: str) -> None:
    assert matches(ARGV, pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "   ",
        "robot.py",
        "launch_robot",
        "launch_robot.py --port=80",  # a word in between
        "--headless launch_robot.py",  # the other way round
        "other/launch_robot.py",
        "python3 scripts/launch_robot.py --headless --port=80 more",
        "*aa",
        "--port=*0*0",  # the two must not share a letter
        "LAUNCH_ROBOT.PY",
        "launch_robot?py",
        "launch_robo[t].py",
    ],
)
def test_a_pattern_does_not_match_anything_else(pattern: str) -> None:
    assert not matches(ARGV, pattern)


def test_no_pattern_matches_a_process_without_arguments() -> None:
    assert not matches([], "*")


# whom it claims -----------------------------------------------------------------------------------------------


def test_a_process_with_the_instances_mark_is_a_stray(holder: contracts.Holder, instance: str) -> None:
    with (
        Spawn("sleep", "60", extra_env=marked(instance)) as left,
        Spawn("sleep", "60", extra_env=marked(instance + "2")),
        Spawn("sleep", "60", extra_env={"SAFESH_INSTANCE": instance}),
    ):
        assert find(holder, instance) == {left.pid: "left of run run-1"}


def test_a_process_that_a_living_supervisor_accounts_for_is_none(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sleep", "60", extra_env=marked(instance)) as left:
        assert find(holder, instance, held=[left.pid]) == {}


def test_a_copy_started_by_hand_is_found_by_its_command(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sh", "-c", "read line", f"/x/{instance}.py", "--headless") as by_hand:
        patterns = [["headless", f"{instance}.py --headless"], ["gui", f"{instance}.py --gui"]]
        assert find(holder, "other", patterns=patterns) == {by_hand.pid: "started by hand (matches target headless)"}
        assert find(holder, "other", patterns=patterns[1:]) == {}


def record(holder: contracts.Holder, pid: int, **change: Any) -> dict[str, Any]:
    boot = holder.call("hello")["boot"]
    start = holder.call("start_time", pid=pid)
    return {"main": {"pid": pid, "start": start, "boot": boot, **change}, "run_id": "", "cgroup": ""}


def test_the_recorded_main_process_is_a_stray(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sleep", "60") as main:
        found = find(holder, instance, record=record(holder, main.pid))
        assert found == {main.pid: "main process of a run whose supervisor is gone"}


def test_a_recorded_pid_that_has_passed_to_another_process_is_none(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sleep", "60") as other:
        start = holder.call("start_time", pid=other.pid)
        assert find(holder, instance, record=record(holder, other.pid, start=start - 1)) == {}


def test_a_record_of_another_boot_names_nobody(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sleep", "60") as other:
        assert find(holder, instance, record=record(holder, other.pid, boot="another-boot/1")) == {}


def test_who_was_left_in_the_runs_cgroup_is_a_stray(instance: str) -> None:
    why = contracts.why_not("cgroup")
    if why:
        pytest.skip(f"not to be had here: {why}")
    with contracts.Holder("cgroup") as holder:
        holder.start("child")
        child = holder.members["child"]
        last = {"main": None, "run_id": holder.run_id, "cgroup": holder.group}
        assert find(holder, instance, record=last)[child.pid] == "left in the run's cgroup"
        # Nobody lived to write the group into the record: the run's id alone leads there.
        assert child.pid in find(holder, instance, record={**last, "cgroup": ""})
        holder.end()
        assert not Path(holder.group).exists()


# whom it never touches ----------------------------------------------------------------------------------------


def test_another_users_process_is_never_a_stray(holder: contracts.Holder, instance: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start another user's process")
    with Spawn(*as_nobody("sleep", "60"), extra_env=marked(instance)) as foreign:
        wait_until(lambda: holder.call("info", pid=foreign.pid)["uid"] == 65534)
        wait_until(lambda: holder.call("cmdline", pid=foreign.pid) == ["sleep", "60"])
        last = record(holder, foreign.pid)
        assert find(holder, instance, record=last, patterns=[["any", "sleep 60"]]).get(foreign.pid) is None


def test_a_zombie_is_no_stray(holder: contracts.Holder, instance: str) -> None:
    with Spawn("sleep", "60", extra_env=marked(instance)) as left:
        left.send(signal.SIGKILL)
        wait_until(lambda: (found := look(left.pid)) and found.state == "Z")
        assert find(holder, instance, record=record(holder, left.pid)) == {}


_FIND = """
import json, sys
sys.path.insert(0, sys.argv[1])
from safesh import _platform
from safesh.instance.strays import Finder
print(json.dumps(Finder(sys.argv[2], sys.argv[3], None, []).find(_platform.scan())), flush=True)
"""


def test_our_ancestors_and_we_ourselves_are_no_strays(instance: str) -> None:
    """A command of ours that a target runs carries the mark, and so does everything above it."""
    inner = f'"{sys.executable}" -E -s -S -c "$0" "$@" && true'  # not the shell's last word, so it stays in between
    script = f"sleep 60 & echo $!; {inner}; wait"
    with Spawn("sh", "-c", script, _FIND, str(SUPERVISOR), FOLDER, instance, extra_env=marked(instance)) as shell:
        sibling = int(shell.wait_line(r"^\d+$").group())
        found = json.loads(shell.wait_line("^{").string)
        assert set(found) == {str(sibling)}


# ending them --------------------------------------------------------------------------------------------------


@pytest.mark.pidns
def test_strays_are_ended_with_their_children(holder: contracts.Holder, instance: str) -> None:
    script = "trap '' TERM; env -i sleep 60 & echo $!; wait"
    with (
        Spawn("sh", "-c", script, extra_env=marked(instance)) as left,
        Spawn("sh", "-c", "read line", f"{instance}.py") as by_hand,
        Spawn("sleep", "60") as bystander,
    ):
        child = int(left.wait_line(r"\d+").group())
        wait_until(lambda: holder.call("cmdline", pid=child) == ["sleep", "60"])
        patterns = [["robot", f"{instance}.py"]]
        verdict = holder.call("strays", folder=FOLDER, instance=instance, patterns=patterns, end=True)
        assert verdict["survivors"] == []
        assert contracts.pids(verdict["asked"]) == {left.pid, by_hand.pid, child}
        assert left.wait() in (0, -signal.SIGKILL, 143)
        assert by_hand.wait() == -signal.SIGTERM
        assert bystander.alive()
        assert find(holder, instance, patterns=patterns) == {}
