"""Limits: when one is crossed, when it is over, and what the kernel is asked to keep; with a clock of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import procs
from helpers.home import SUPERVISOR
from safesh._platform import Info, linux
from safesh._platform.cgroup import Group
from safesh.core import ceilings, keeper, usage
from safesh.core.meter import Meter
from safesh.model import ExitInfo, Limit, Limits, TargetSpec
from safesh.supervise import limits as room
from safesh.supervise.limits import LimitsWatcher

MIB = 1 << 20


def member(pid: int, **fields: Any) -> Info:
    return Info(pid, 1, pid, pid, fields.pop("state", "S"), 100 + pid, **fields)


# --- one limit ----------------------------------------------------------------------------------


def test_a_limit_is_crossed_once_an_episode() -> None:
    meter = Meter("memory", Limit(most=100))
    assert [meter.judge(used, now) for now, used in enumerate([100, 101, 150, 95, 120])] == ["", "crossed", "", "", ""]


def test_an_episode_is_over_below_nine_tenths_and_the_next_one_is_told_again() -> None:
    meter = Meter("memory", Limit(most=100))
    said = [meter.judge(used, now) for now, used in enumerate([101, 90, 89.9, 101])]
    assert said == ["crossed", "", "over", "crossed"]


def test_a_limit_with_a_duration_must_be_passed_without_a_break() -> None:
    meter = Meter("memory", Limit(most=100, lasting=10))
    said = [meter.judge(used, now) for now, used in [(0, 101), (9, 101), (9.5, 100), (10, 101), (19, 101), (20, 101)]]
    assert said == ["", "", "", "", "", "crossed"]


def test_an_average_counts_from_the_beginning_of_its_time() -> None:
    meter = Meter("cpu", Limit(most=90, lasting=4))
    assert meter.judge(99, now=2, began=0) == ""
    assert meter.judge(99, now=4, began=2) == "crossed"


@pytest.mark.parametrize(
    ("name", "limit", "used", "words"),
    [
        ("memory", Limit(most=512 * MIB), 530 * MIB, "memory limit 512 MiB, used 530 MiB"),
        ("cpu", Limit(most=90, lasting=30), 142.3, "cpu limit 90% for 30s, used 142%"),
        ("max_runtime", Limit(most=7200), 7200.2, "runtime limit 2h, used 2h"),
        ("processes", Limit(most=10), 11, "processes limit 10, used 11"),
        ("open_files", Limit(most=100), 101, "open files limit 100, used 101"),
        ("log_growth", Limit(most=10 * MIB), 12 * MIB, "log growth limit 10.0 MiB/min, used 12.0 MiB/min"),
    ],
)
def test_the_words_name_the_limit_and_what_was_used(name: str, limit: Limit, used: float, words: str) -> None:
    assert Meter(name, limit).words(used) == words


# --- a run's limits -------------------------------------------------------------------------------


class Bench:
    """A watcher with a supervisor, a census and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.now = 1000.0
        self.members = [member(10)]
        self.cpu = 0.0
        self.looks = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.condemned: list[tuple[str, str]] = []
        self.said: list[str] = []
        monkeypatch.setattr(room, "monotonic", lambda: self.now)
        monkeypatch.setattr(room, "Census", lambda *_: self)
        monkeypatch.setattr(room.time, "process_time", lambda: 0.0)
        spec = TargetSpec(
            name="t", instance="t", project="p", command=["x"], cwd="/", limits=Limits(interval=2.0, **limits)
        )
        self.supervisor: Any = SimpleNamespace(
            spec=spec,
            state="starting",
            intent="",
            sentence=None,
            record={"cgroup": "", "message": ""},
            journal=SimpleNamespace(event=lambda name, /, **fields: self.events.append((name, fields)), save=lambda: 0),
            say=self.said.append,
            condemn=lambda follows, why: self.condemned.append((follows, why)),
        )
        self.run: Any = SimpleNamespace(
            main=SimpleNamespace(pid=10, start=110),
            keeper=SimpleNamespace(pid=9),
            capture=SimpleNamespace(moved_bytes=0),
            exit=None,
        )
        self.watcher = LimitsWatcher(self.supervisor, self.run)

    group = None

    def look(self) -> list[Info]:
        self.looks += 1
        return self.members

    def cpu_seconds(self, _members: list[Info]) -> float:
        return self.cpu

    def close(self) -> None:
        pass

    def begin(self) -> None:
        self.supervisor.state = "running"
        self.watcher.on_event("ready")

    def go(self, seconds: float) -> None:
        """Let time pass, waking the watcher only when it asked for it."""
        until = self.now + seconds
        while self.watcher.due is not None and self.watcher.due <= until:
            self.now = max(self.now, self.watcher.due)
            self.watcher.tick()
        self.now = until


def test_memory_above_its_limit_ends_the_run_at_the_next_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, memory=Limit(most=50 * MIB, action="stop"))
    monkeypatch.setattr(usage._platform, "pss", lambda _pid: None)
    bench.begin()
    bench.members = [member(10, memory_bytes=30 * MIB), member(11, memory_bytes=30 * MIB)]
    bench.go(1.9)
    assert bench.condemned == []
    bench.go(0.2)
    assert bench.condemned == [("stop", "memory limit 50.0 MiB, used 60.0 MiB")]
    name, fields = bench.events[0]
    assert (name, fields["name"], fields["most"], fields["used"], fields["action"]) == (
        "limit", "memory", 50 * MIB, 60 * MIB, "stop",
    )  # fmt: skip


def test_a_warning_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, processes=Limit(most=2, action="warn"))
    bench.begin()
    bench.members = [member(pid) for pid in (10, 11, 12)]
    bench.go(20)
    assert [name for name, _ in bench.events] == ["limit"]
    assert bench.supervisor.record["message"] == "processes limit 2, used 3"
    assert len(bench.said) == 1
    bench.members = [member(10)]
    bench.go(20)
    assert [name for name, _ in bench.events] == ["limit", "limit_over"]
    assert bench.supervisor.record["message"] == ""
    assert bench.condemned == []


def test_zombies_are_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, processes=Limit(most=1))
    bench.begin()
    bench.members = [member(10), member(11, state="Z")]
    bench.go(10)
    assert bench.condemned == []


def test_cpu_is_percent_of_one_core_over_the_time_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, cpu=Limit(most=150, lasting=6))
    bench.begin()
    for _ in range(2):
        bench.cpu += 4.0  # two cores
        bench.go(2)
    assert bench.condemned == []
    bench.cpu += 3.4
    bench.go(2)
    assert bench.condemned == [("restart", "cpu limit 150% for 6.0s, used 170%")]


def test_cpu_time_that_vanishes_with_a_member_is_no_negative_use(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, cpu=Limit(most=50))
    bench.cpu = 100.0
    bench.begin()
    bench.cpu = 40.0
    bench.go(2)
    assert bench.condemned == []


def test_log_growth_counts_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, log_growth=Limit(most=1000))
    bench.begin()
    for _ in range(30):  # 960 bytes a minute, for ten minutes
        bench.run.capture.moved_bytes += 320
        bench.go(20)
    assert bench.condemned == []
    assert len(bench.watcher._log) < 40
    bench.run.capture.moved_bytes += 640
    bench.go(2)
    assert bench.condemned == [("restart", "log growth limit 1000 B/min, used 1.2 KiB/min")]


def test_the_runtime_alone_is_a_timer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, max_runtime=Limit(most=3600))
    bench.begin()
    assert bench.watcher.due == bench.now + 3600
    bench.go(3599)
    assert (bench.looks, bench.condemned) == (0, [])
    bench.go(1)
    assert bench.condemned == [("restart", "runtime limit 1h, used 1h")]
    assert bench.looks == 0
    assert bench.watcher.due is None


def test_a_limit_crossed_during_a_stop_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, processes=Limit(most=1), max_runtime=Limit(most=5))
    bench.begin()
    bench.members = [member(10), member(11)]
    bench.supervisor.intent, bench.supervisor.state = "stop", "stopping"
    bench.watcher.on_event("stop")
    bench.go(60)
    assert (bench.condemned, bench.events, bench.watcher.due) == ([], [], None)


def test_dear_looks_are_made_less_often_and_that_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, processes=Limit(most=9))
    spent = [0.0]

    def clock() -> float:
        spent[0] += 0.04  # each look costs 40 ms: 2 % of a core at 2 s
        return spent[0]

    monkeypatch.setattr(room.time, "process_time", clock)
    bench.begin()
    bench.go(200)
    assert bench.watcher.interval == pytest.approx(8, rel=0.1)
    told = [fields for name, fields in bench.events if name == "sampling_stretched"]
    assert 1 <= len(told) <= 4


def test_the_kernels_kill_is_followed_by_what_the_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, memory=Limit(most=512 * MIB, action="stop"))
    bench.begin()
    bench.run.exit = ExitInfo(signal="SIGKILL", cause=f"ended: memory limit 512 MiB {keeper.BY_KERNEL}")
    bench.supervisor.state = "stopping"
    bench.watcher.on_event("exited")
    assert bench.supervisor.sentence == ("stop", "memory limit 512 MiB (killed by the kernel)")
    assert [name for name, _ in bench.events] == ["limit"]


def test_after_a_stop_request_the_kernels_kill_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, memory=Limit(most=512 * MIB, action="restart"))
    bench.begin()
    bench.run.exit = ExitInfo(signal="SIGKILL", cause=f"ended: memory limit 512 MiB {keeper.BY_KERNEL}")
    bench.supervisor.state, bench.supervisor.intent = "stopping", "stop"
    bench.watcher.on_event("exited")
    assert bench.supervisor.sentence is None


# --- what is measured ------------------------------------------------------------------------------


def test_pss_is_read_only_where_the_resident_sum_exceeds_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def pss(pid: int) -> int | None:
        read.append(pid)
        return None if pid == 3 else 5 * MIB

    monkeypatch.setattr(usage._platform, "pss", pss)
    members = [member(pid, memory_bytes=10 * MIB) for pid in (1, 2, 3)]
    assert usage.tree_usage(members, exact_above=30 * MIB).memory_bytes == 30 * MIB
    assert read == []
    assert usage.tree_usage(members, exact_above=29 * MIB).memory_bytes == 20 * MIB  # one is closed to us
    assert read == [1, 2, 3]


def test_our_own_figures_are_the_kernels(tmp_path: Path) -> None:
    me = linux.info(os.getpid())
    assert me is not None
    rollup = linux.pss(me.pid)
    assert rollup is not None
    assert 0 < rollup <= me.memory_bytes * 1.5
    before = linux.open_files(me.pid)
    with open(tmp_path / "one", "w"), open(tmp_path / "two", "w"):
        after = linux.open_files(me.pid)
    assert before is not None
    assert after == before + 2
    assert linux.pss(2**22 + 1) is None
    assert linux.open_files(2**22 + 1) is None


def test_children_files_give_the_tree_without_a_look_at_others(tmp_path: Path) -> None:
    def process(pid: int, children: dict[int, str]) -> None:
        for thread, listed in children.items():
            task = tmp_path / str(pid) / "task" / str(thread)
            task.mkdir(parents=True)
            (task / "children").write_text(listed)
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a b) S 1 1 1 0 -1 " + " ".join(["0"] * 44))

    process(5, {5: "6 7 ", 55: "8 "})
    process(6, {6: ""})
    process(7, {7: "9 "})
    process(8, {8: ""})
    process(9, {9: "404 "})  # gone meanwhile
    process(10, {10: ""})
    found = linux.descendants(5, str(tmp_path))
    assert found is not None
    assert sorted(found) == [6, 7, 8, 9]
    assert linux.descendants(4, str(tmp_path)) is None


# --- what the kernel keeps ---------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """A folder that looks like a cgroup with its controllers on: this machine enables none."""
    for name, text in {
        "memory.max": "max",
        "memory.oom.group": "0",
        "memory.current": str(300 * MIB),
        "memory.stat": f"anon {90 * MIB}\nfile {200 * MIB}\nshmem {40 * MIB}\n",
        "memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 1\n",
        "pids.max": "max",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
    }.items():
        (tmp_path / name).write_text(text + "\n")
    return Group(str(tmp_path))


def text(group: Group, name: str) -> str:
    return Path(group.path, name).read_text().split("\n")[0]


def test_the_group_is_told_the_limits_that_end_a_run_at_once(group: Group) -> None:
    limits = Limits(memory=Limit(most=512 * MIB), processes=Limit(most=10, action="stop"))
    Path(group.path, "memory.max").write_text("")
    ceilings.set_on(group, limits)
    assert text(group, "memory.max") == str(512 * MIB)
    assert text(group, "memory.oom.group").startswith("1")
    assert group.ceiling("pids.max") == 1320 or text(group, "pids.max").startswith("1320")
    assert ceilings.memory_is_kept(group, limits)


@pytest.mark.parametrize("limit", [Limit(most=MIB, action="warn"), Limit(most=MIB, lasting=5), Limit()])
def test_the_group_is_told_of_no_limit_that_warns_or_takes_its_time(group: Group, limit: Limit) -> None:
    limits = Limits(memory=limit, processes=limit)
    ceilings.set_on(group, limits)
    assert text(group, "memory.max") == text(group, "pids.max") == "max"
    assert not ceilings.memory_is_kept(group, limits)


def test_a_group_without_controllers_keeps_nothing(tmp_path: Path) -> None:
    bare, limits = Group(str(tmp_path)), Limits(memory=Limit(most=MIB), processes=Limit(most=1))
    ceilings.set_on(bare, limits)
    assert list(tmp_path.iterdir()) == []
    assert not ceilings.memory_is_kept(bare, limits)
    assert bare.memory_bytes() is None
    assert bare.cpu_seconds() is None


def test_a_groups_memory_leaves_the_page_cache_out(group: Group) -> None:
    assert group.memory_bytes() == 140 * MIB
    assert group.cpu_seconds() == 1.5


def cause(limits: Limits, group: Group) -> str:
    """What a keeper says of a SIGKILL that nobody here sent."""
    one: Any = SimpleNamespace(
        order=None,
        orphaned=False,
        oom_before=0,
        tree=SimpleNamespace(group=group),
        run=SimpleNamespace(spec=SimpleNamespace(limits=limits)),
    )
    end = ExitInfo(signal="SIGKILL", cause="killed by SIGKILL")
    keeper.Keeper._tell_memory_apart(one, end)
    return end.cause


def test_a_kill_for_the_groups_own_limit_names_it(group: Group) -> None:
    limits = Limits(memory=Limit(most=512 * MIB))
    Path(group.path, "memory.max").write_text(str(512 * MIB))
    assert cause(limits, group) == "ended: memory limit 512 MiB (killed by the kernel)"


def test_a_kill_for_somebody_elses_limit_does_not_name_ours(group: Group) -> None:
    limits = Limits(memory=Limit(most=512 * MIB))
    Path(group.path, "memory.max").write_text(str(512 * MIB))
    Path(group.path, "memory.events").write_text("max 0\noom 0\noom_kill 1\n")
    assert "out of memory" in cause(limits, group)


def test_a_target_without_limits_does_not_load_them() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from safesh.model import TargetSpec
from safesh.supervise import supervisor, watchers
spec = TargetSpec(name="t", instance="t", project="p", command=["x"], cwd="/")
watchers.for_run(SimpleNamespace(spec=spec, record={}, watchers=[]), None)
print(sorted({"safesh.supervise.limits", "safesh.core.usage", "safesh.core.ceilings"} & set(sys.modules)))
"""
    command = [sys.executable, "-E", "-s", "-S", "-c", code, str(SUPERVISOR)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("way", ["children files", "cgroup", "all processes"])
def test_every_way_to_the_members_finds_the_same_ones(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with procs.spawn("sh", "-c", "sleep 60 & (sleep 60; :) & echo ready; wait") as child:
        child.wait_line("ready")
        procs.wait_until(lambda: len(procs.tree_of(child.pid)) == 4)
        below = sorted(one.pid for one in procs.tree_of(child.pid))[1:]
        if way != "children files":
            monkeypatch.setattr(usage._platform, "descendants", lambda _pid: None)
        elif usage._platform.descendants(child.pid) is None:
            pytest.skip("not to be had here: the kernel lists no children (CONFIG_PROC_CHILDREN)")
        # The group has lost one: root has moved it elsewhere.
        group: Any = SimpleNamespace(pids=lambda: below[:-1]) if way == "cgroup" else None
        census = usage.Census(child.pid, (below[0], procs.start_of(below[0])), group)
        try:
            for _ in range(3):
                assert sorted(one.pid for one in census.look()) == below
        finally:
            census.close()
