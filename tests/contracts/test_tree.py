"""What every backend promises about ending a tree: who is asked, who is killed, and that nobody is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from helpers.contracts import Holder, pids
from helpers.procs import Spawn, look, wait_until

BROOD = ("child", "grandchild", "daemon", "group")


def names(holder: Holder, members: list[dict[str, int]]) -> set[str]:
    """Names of a verdict's members."""
    assert holder.main is not None
    known = {one.pid: name for name, one in {"main": holder.main, **holder.members}.items()}
    return {known.get(member["pid"], f"pid {member['pid']}") for member in members}


# who belongs to it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BROOD, "stubborn", "stopped", "threads"])
def test_a_member_is_found_and_ended_however_it_was_forked(holder: Holder, name: str) -> None:
    holder.start(name)
    assert holder.members[name].pid in holder.call("members")
    verdict = holder.end(grace=0.3)
    assert verdict["survivors"] == []
    assert holder.left() == []


def test_a_whole_brood_is_ended(holder: Holder) -> None:
    holder.start(*BROOD, "stubborn", "stopped")
    verdict = holder.end(grace=0.5)
    assert (verdict["survivors"], holder.left()) == ([], [])
    # A stopped one takes its signal too: it is woken for that. So only the deaf had to be killed.
    assert names(holder, verdict["killed"]) == {"stubborn"}
    assert names(holder, verdict["asked"]) >= {"main", *BROOD, "stubborn", "stopped"}


def test_an_orphan_of_another_session_without_its_environment_is_ended_where_orphans_stay(holder: Holder) -> None:
    """The one thing that the portable backend cannot do, and the only one: _platform/posix.py says why."""
    holder.start("cleared")
    member = holder.members["cleared"]
    stays = holder.call("hello")["orphans_stay"]
    assert (member.pid in holder.call("members")) is stays
    verdict = holder.end(grace=0.3)
    assert verdict["survivors"] == []
    assert member.alive is not stays
    assert holder.left() == ([] if stays else ["cleared"])


def test_an_orphan_without_its_environment_is_ended_while_it_is_in_the_targets_session(holder: Holder) -> None:
    holder.start("cleared-orphan")
    verdict = holder.end(grace=0.3)
    assert (verdict["survivors"], holder.left()) == ([], [])


def test_an_orphan_of_the_targets_session_is_ended_after_its_leader_has_gone(holder: Holder) -> None:
    """Nobody looked while the leader lived: its session is remembered from the start."""
    holder.start("--exit", "0", "cleared-orphan")
    holder.event("gone")
    assert holder.left() == []


def test_a_zombie_is_no_member(holder: Holder) -> None:
    holder.start("zombie")
    member = holder.members["zombie"]
    wait_until(lambda: (found := look(member.pid)) and found.state == "Z")
    assert member.pid not in holder.call("members")
    verdict = holder.end()
    assert member.pid not in pids(verdict["asked"]) | pids(verdict["killed"]) | pids(verdict["survivors"])


def test_an_empty_tree_is_ended_at_once_and_again(holder: Holder) -> None:
    holder.start("child")
    holder.end()
    holder.event("ended")
    for _ in range(2):
        verdict = holder.call("clean", policy={"grace": 5.0})
        assert (verdict["asked"], verdict["killed"], verdict["survivors"]) == ([], [], [])
        assert verdict["seconds"] < 2.0


def test_pid_1_our_ancestors_and_we_ourselves_are_never_members(holder: Holder) -> None:
    with Spawn("sleep", "60") as stray:
        seeds = [1, os.getpid(), os.getppid(), holder.pid, stray.pid]
        assert holder.call("find", seeds=seeds) == [stray.pid]
        verdict = holder.call("end_seeds", seeds=seeds, policy={"grace": 5.0})
        assert (pids(verdict["asked"]), verdict["killed"], verdict["survivors"]) == ({stray.pid}, [], [])
        assert stray.wait() == -signal.SIGTERM


def test_a_stray_is_ended_with_its_children_and_nobody_elses(holder: Holder) -> None:
    with Spawn("sleep", "60") as other, Spawn("sh", "-c", "sleep 60 & echo $!; wait") as stray:
        child = int(stray.wait_line(r"\d+").group())
        verdict = holder.call("end_seeds", seeds=[stray.pid], policy={"grace": 5.0, "scope": "tree"})
        assert (pids(verdict["asked"]), verdict["survivors"]) == ({stray.pid, child}, [])
        stray.wait()
        assert other.alive()


# how it is asked ----------------------------------------------------------------------------------------------


def test_the_cooperative_are_asked_and_none_is_killed(holder: Holder) -> None:
    holder.start("--main", "polite", "polite")
    verdict = holder.end(grace=20.0)
    assert names(holder, verdict["asked"]) == {"main", "polite"}
    assert (verdict["killed"], verdict["survivors"]) == ([], [])
    assert verdict["seconds"] < 10.0  # nobody waits out a grace that nobody needs


def test_who_ignores_the_signal_is_killed_and_listed_after_the_grace(holder: Holder) -> None:
    holder.start("--main", "stubborn", "stubborn")
    verdict = holder.end(grace=0.7)
    assert names(holder, verdict["killed"]) == {"main", "stubborn"}
    assert {member["reason"] for member in verdict["killed"]} == {"SIGKILL"}
    assert all("contract_target" in member["command"] for member in verdict["killed"])
    assert verdict["survivors"] == []
    assert 0.7 <= verdict["seconds"] < 5.0


def test_scope_main_asks_the_main_process_first_and_the_rest_when_it_has_gone(holder: Holder) -> None:
    holder.start("--main", "slow", "polite")
    holder.end(grace=20.0, scope="main")
    told = [holder.told() for _ in range(4)]
    assert [line.get("asked") or line.get("left") for line in told] == ["main", "main", "polite", "polite"]
    assert told[2]["at"] >= told[1]["at"]


def test_scope_tree_asks_all_at_once(holder: Holder) -> None:
    holder.start("--main", "slow", "polite")
    holder.end(grace=20.0, scope="tree")
    told = [holder.told() for _ in range(4)]
    at = {next(iter(line.items())): line["at"] for line in told}
    assert at["asked", "polite"] < at["left", "main"]


def test_now_kills_without_asking(holder: Holder) -> None:
    holder.start("--main", "polite", "polite")
    verdict = holder.end(grace=20.0, now=True)
    assert verdict["asked"] == []
    assert names(holder, verdict["killed"]) == {"main", "polite"}
    assert holder.call("line", deadline=0.2) is None


def test_a_hurry_ends_the_grace(holder: Holder) -> None:
    holder.start("--main", "stubborn")
    holder.order(grace=60.0)
    holder.order(grace=60.0, now=True)
    verdict = holder.event("gone")["verdict"]
    assert names(holder, verdict["killed"]) == {"main"}
    assert verdict["seconds"] < 10.0


def test_an_order_with_a_short_grace_shortens_the_one_under_way(holder: Holder) -> None:
    """The main process has ended and the rest is being asked with the target's own grace when ``stop`` comes."""
    holder.start("--exit", "0", "stubborn", grace=60.0)
    holder.event("exited")
    holder.order(grace=0.5)
    verdict = holder.event("gone")["verdict"]
    assert names(holder, verdict["killed"]) == {"stubborn"}
    assert verdict["seconds"] < 10.0


def test_who_forks_on_the_signal_is_ended_with_all_it_left(holder: Holder) -> None:
    """Each one that is asked leaves the rest to a child; the last generation is deaf."""
    holder.start("forker", "stubborn")
    verdict = holder.end(grace=1.0, scope="tree")
    assert verdict["survivors"] == []
    assert holder.left() == []
    assert holder.call("clean", policy={"grace": 0.0})["killed"] == []


# cgroups ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_group(holder: Holder) -> Holder:
    if holder.backend != "cgroup":
        pytest.skip(f"{holder.backend} has no cgroup")
    return holder


def test_the_runs_cgroup_is_removed_after_the_end(own_group: Holder) -> None:
    own_group.start("child")
    assert own_group.main is not None
    folder = Path(own_group.group)
    listed = {int(word) for word in (folder / "cgroup.procs").read_text(encoding="ascii").split()}
    assert listed == {own_group.main.pid, own_group.members["child"].pid}
    own_group.end()
    assert not folder.exists()


def test_a_cgroup_that_the_target_made_is_ended_and_removed_too(own_group: Holder) -> None:
    own_group.start("subgroup")
    inner = Path(own_group.group, "inner")
    assert inner.is_dir()
    verdict = own_group.end(grace=0.5)
    assert (verdict["survivors"], own_group.left()) == ([], [])
    assert not inner.exists()
    assert not inner.parent.exists()


def test_a_member_that_root_moved_out_of_the_cgroup_is_ended(own_group: Holder) -> None:
    own_group.start("stubborn", "daemon")
    outer = Path(own_group.group).parent / "cgroup.procs"
    for name in ("stubborn", "daemon"):
        outer.write_text(str(own_group.members[name].pid), encoding="ascii")
    verdict = own_group.end(grace=0.3)
    assert (verdict["survivors"], own_group.left()) == ([], [])
    assert not Path(own_group.group).exists()


def test_a_stopped_supervisor_finds_the_grace_over_when_it_wakes(holder: Holder) -> None:
    """The keeper alone keeps time: the tree ends also while whoever ordered it is stopped."""
    holder.start("--main", "stubborn")
    assert holder.main is not None
    main = holder.main
    holder.order(grace=0.3)
    started = time.monotonic()
    holder.send(signal.SIGSTOP)
    try:
        wait_until(lambda: not main.alive, 10)
    finally:
        holder.send(signal.SIGCONT)
    assert time.monotonic() - started >= 0.2
    assert holder.event("gone")["verdict"]["survivors"] == []
