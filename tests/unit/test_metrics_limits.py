"""What a process may have: control groups of both versions read from made-up files, the least of all limits wins."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesh._platform import groups, linux
from safesh._platform import system as platform
from safesh.metrics import container

MIB = 1 << 20
GIB = 1 << 30
V2 = "25 20 0:21 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "30 20 0:30 / /cg/memory rw - cgroup cgroup rw,memory\n"
    "31 20 0:31 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 20 0:32 / /cg/cpuset rw - cgroup cgroup rw,cpuset\n"
    "33 20 0:33 / /cg/unified rw - cgroup2 cgroup2 rw\n"
)
World = Callable[..., None]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Makes the machine: 16 GiB of which 12 are left, 8 processors, and the files it is told."""

    def make(mounts: str, cgroup: str, files: dict[str, str], affinity: set[int] | None = None) -> None:
        known = {"/proc/self/mountinfo": mounts, "/proc/self/cgroup": cgroup, **files}
        folders = {os.path.dirname(name) for name in files}
        monkeypatch.setattr(linux, "_read", lambda path: known.get(path, "").encode())
        monkeypatch.setattr(
            groups.os.path, "isdir", lambda path: any((one + "/").startswith(path.rstrip("/") + "/") for one in folders)
        )
        monkeypatch.setattr(platform, "memory", lambda: (16 * GIB, 12 * GIB))
        monkeypatch.setattr(platform, "rlimit", lambda _pid, _name: None)
        monkeypatch.setattr(platform, "affinity", lambda _pid: affinity or set(range(8)))
        monkeypatch.setattr(container, "os", SimpleNamespace(cpu_count=lambda: 8, getpid=os.getpid))

    return make


def test_without_limits_the_machine_is_told(world: World) -> None:
    world(V2, "0::/\n", {"/sys/fs/cgroup/cpu.stat": "usage_usec 1"})
    room, cores = container.find_memory(), container.find_cores()
    assert (room.total, room.available, room.source) == (16 * GIB, 12 * GIB, platform.SOURCES["memory"])
    assert (cores.count, cores.source) == (8.0, "processors online")


def test_the_least_memory_max_of_all_ancestors_counts_and_what_each_leaves(world: World) -> None:
    outer, inner = "/sys/fs/cgroup/pod", "/sys/fs/cgroup/pod/app"
    world(V2, "0::/pod/app\n", {
        f"{inner}/memory.max": "max\n",
        f"{inner}/memory.current": str(GIB),
        f"{outer}/memory.max": str(2 * GIB),
        f"{outer}/memory.current": str(2 * GIB - MIB),
        f"{outer}/memory.stat": f"anon 5\nfile {100 * MIB}\nshmem {40 * MIB}\n",
    })  # fmt: skip
    room = container.find_memory()
    assert (room.total, room.source) == (2 * GIB, "cgroup v2 /pod memory.max")
    assert room.available == 61 * MIB, "page cache gives way, shared memory does not"


def test_a_fuller_ancestor_with_a_wider_limit_still_bounds_what_is_left(world: World) -> None:
    world(V2, "0::/a/b\n", {
        "/sys/fs/cgroup/a/memory.max": str(4 * GIB), "/sys/fs/cgroup/a/memory.current": str(4 * GIB - 7 * MIB),
        "/sys/fs/cgroup/a/b/memory.max": str(GIB), "/sys/fs/cgroup/a/b/memory.current": "0",
    })  # fmt: skip
    room = container.find_memory()
    assert (room.total, room.available) == (GIB, 7 * MIB)


def test_memory_of_version_1_counts_hierarchies_and_limits_that_cannot_be_seen(world: World) -> None:
    folder = "/cg/memory/box"
    files = {
        f"{folder}/memory.limit_in_bytes": str(2**63 - 4096),
        f"{folder}/memory.usage_in_bytes": str(300 * MIB),
        f"{folder}/memory.stat": f"total_cache {80 * MIB}\ntotal_shmem {30 * MIB}\nhierarchical_memory_limit {GIB}\n",
    }
    world(V1, "4:memory:/box\n0::/\n", files)
    room = container.find_memory()
    assert (room.total, room.available) == (GIB, GIB - 250 * MIB)
    assert room.source == "cgroup v1 /box hierarchical_memory_limit"
    world(V1, "4:memory:/box\n0::/\n", {**files, f"{folder}/memory.limit_in_bytes": str(GIB)})
    assert container.find_memory().source == "cgroup v1 /box memory.limit_in_bytes"


def test_a_group_of_version_1_without_hierarchy_is_not_bound_by_its_parent(world: World) -> None:
    world(V1, "4:memory:/a/b\n", {
        "/cg/memory/a/memory.limit_in_bytes": str(GIB),
        "/cg/memory/a/b/memory.limit_in_bytes": str(3 * GIB),
        "/cg/memory/a/b/memory.use_hierarchy": "0\n",
    })  # fmt: skip
    assert container.find_memory().total == 3 * GIB


@pytest.mark.parametrize(
    ("mounts", "cgroup", "files", "count", "source"),
    [
        (V2, "0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "max 100000", "/sys/fs/cgroup/a/cpu.max": "150000 100000"},
         1.5, "cgroup v2 /a cpu.max"),
        (V1, "5:cpu,cpuacct:/a\n", {"/cg/cpu/a/cpu.cfs_quota_us": "50000", "/cg/cpu/a/cpu.cfs_period_us": "100000"},
         0.5, "cgroup v1 /a cpu.cfs_quota_us"),
        (V1, "5:cpu,cpuacct:/a\n", {"/cg/cpu/a/cpu.cfs_quota_us": "-1", "/cg/cpu/a/cpu.cfs_period_us": "100000"},
         8.0, "processors online"),
        (V2, "0::/a\n", {"/sys/fs/cgroup/a/cpuset.cpus.effective": "0-2"}, 3.0, "cgroup v2 /a cpuset.cpus.effective"),
        (V1, "6:cpuset:/a\n", {"/cg/cpuset/a/cpuset.cpus": "1,3"}, 2.0, "cgroup v1 /a cpuset.cpus"),
        (V2, "0::/a\n", {"/sys/fs/cgroup/a/cpuset.cpus.effective": "0-1", "/sys/fs/cgroup/a/cpu.max": "900000 100000"},
         2.0, "cgroup v2 /a cpuset.cpus.effective"),
    ],
)  # fmt: skip
def test_cores_are_the_least_of_quotas_and_sets(
    world: World, mounts: str, cgroup: str, files: dict[str, str], count: float, source: str
) -> None:
    world(mounts, cgroup, files)
    cores = container.find_cores()
    assert (cores.count, cores.source) == (count, source)


def test_an_affinity_narrower_than_every_group_is_told(world: World) -> None:
    world(V2, "0::/a\n", {"/sys/fs/cgroup/a/cpuset.cpus.effective": "0-3"}, affinity={2})
    cores = container.find_cores()
    assert (cores.count, cores.source, cores.numbers) == (1.0, "sched_getaffinity", {2})


def test_a_container_sees_its_own_group_through_a_mount_of_a_part(world: World) -> None:
    mounts = "25 20 0:21 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    world(mounts, "0::/docker/abc/svc\n", {
        "/sys/fs/cgroup/memory.max": str(512 * MIB), "/sys/fs/cgroup/svc/memory.max": "max",
    })  # fmt: skip
    assert container.find_memory().total == 512 * MIB


def test_a_group_outside_of_our_namespace_is_told_of_nothing(world: World) -> None:
    world(V2, "0::/../other\n", {"/sys/fs/cgroup/memory.max": str(GIB)})
    assert container.find_memory().total == 16 * GIB


def test_an_address_space_limit_is_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world(V2, "0::/\n", {})
    monkeypatch.setattr(platform, "rlimit", lambda _pid, name: GIB if name == "RLIMIT_AS" else None)
    monkeypatch.setattr(platform, "address_space", lambda _pid: 600 * MIB)
    room = container.find_memory()
    assert (room.total, room.available, room.source) == (GIB, 424 * MIB, "RLIMIT_AS")


def test_a_swap_limit_of_a_group_is_found(world: World) -> None:
    world(V2, "0::/a\n", {"/sys/fs/cgroup/a/memory.swap.max": "1000", "/sys/fs/cgroup/a/memory.swap.current": "10"})
    assert groups.swap_limits() == [(1000, 10, "cgroup v2 /a memory.swap.max")]


@given(st.sets(st.integers(0, 300), min_size=1))
def test_lists_of_processors_are_read_as_the_kernel_writes_them(cpus: set[int]) -> None:
    parts, ordered = [], sorted(cpus)
    while ordered:
        first = last = ordered.pop(0)
        while ordered and ordered[0] == last + 1:
            last = ordered.pop(0)
        parts.append(f"{first}-{last}" if last > first else str(first))
    assert groups.parse_list(",".join(parts)) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "1,,2", "0-x"])
def test_what_is_no_list_of_processors_is_empty(text: str) -> None:
    assert groups.parse_list(text) == set()
