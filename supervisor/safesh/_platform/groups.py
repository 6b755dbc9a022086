"""What the control groups above a process allow it: cgroup v2 (admin-guide/cgroup-v2.rst) and v1, mixed or alone.

A container that has a cgroup namespace shows its own group as the root: what limits it further up cannot be seen from
inside, except for the memory of v1, whose ``hierarchical_memory_limit`` is the least of all.
"""

from __future__ import annotations

import os
import sys

from safesh._platform import linux, probe

NO_LIMIT = 1 << 60  # version 1 says 2**63 less a page for "max"


class Place:
    """One control group. folder: where its files are; name: its path; source: how it is called in messages."""

    __slots__ = ("folder", "name", "source", "unified")

    def __init__(self, folder: str, name: str, unified: bool) -> None:
        self.folder = folder
        self.name = name
        self.unified = unified
        self.source = f"cgroup v{2 if unified else 1} {name or '/'}"

    def read(self, name: str) -> bytes:
        return linux._read(f"{self.folder}/{name}").strip()

    def number(self, name: str) -> int | None:
        """None for ``max``, for what means it in v1, and where there is no such file."""
        word = self.read(name)
        return int(word) if word.isdigit() and int(word) < NO_LIMIT else None

    def table(self, name: str) -> dict[bytes, int]:
        """A file of lines ``key number``."""
        found = {}
        for line in self.read(name).splitlines():
            key, _, number = line.partition(b" ")
            if number.isdigit():
                found[key] = int(number)
        return found


def places(controller: str, pid: int | str = "self") -> list[Place]:
    """The groups that hold a process for this controller, the innermost first; of v1 where the controller is there."""
    if sys.platform != "linux":
        return []
    wanted, unified = "", False
    for line in linux._read(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        number, names, path = [*line.split(":", 2), "", ""][:3]
        if controller in names.split(","):
            wanted, unified = path, False
            break
        if number == "0" and not names:
            wanted, unified = path, True
    if not wanted or ".." in wanted.split("/"):  # outside of our cgroup namespace
        return []
    for point, kind, options, root in _mounts():
        fits = kind == "cgroup2" if unified else kind == "cgroup" and controller in options.split(",")
        if fits and (root == "/" or wanted == root or wanted.startswith(root + "/")):
            inside = (wanted if root == "/" else wanted.removeprefix(root)).rstrip("/")
            found = []
            while True:
                found.append(Place(point + inside, inside, unified))
                if not inside:
                    return [one for one in found if os.path.isdir(one.folder)]
                inside = inside.rpartition("/")[0]
    return []


def _mounts() -> list[tuple[str, str, str, str]]:
    text = linux._read("/proc/self/mountinfo").decode("utf-8", "surrogateescape")
    return probe.parse_mounts("\n".join(line for line in text.splitlines() if " - cgroup" in line))


def memory_limits(pid: int | str = "self") -> list[tuple[int, int, str]]:
    """(limit, held, source) in bytes for each group that sets one; held: without page cache, which gives way."""
    found = []
    above = places("memory", pid)
    for place in above:
        name = "memory.max" if place.unified else "memory.limit_in_bytes"
        limit = place.number(name)
        if limit is not None:
            found.append((limit, held(place), f"{place.source} {name}"))
        if place.read("memory.use_hierarchy") == b"0":
            break
    if above and not above[0].unified:
        least = above[0].table("memory.stat").get(b"hierarchical_memory_limit", NO_LIMIT)
        if least < NO_LIMIT and least < min((one[0] for one in found), default=NO_LIMIT):
            found.append((least, held(above[0]), f"{above[0].source} hierarchical_memory_limit"))
    return found


def held(place: Place) -> int:
    """Bytes that a group and those below it hold, page cache left out."""
    told = place.table("memory.stat")
    if place.unified:
        used, cache, shared = place.number("memory.current") or 0, told.get(b"file", 0), told.get(b"shmem", 0)
    else:
        used = place.number("memory.usage_in_bytes") or 0
        cache, shared = told.get(b"total_cache", 0), told.get(b"total_shmem", 0)
    return max(0, used - cache + shared)


def swap_limits(pid: int | str = "self") -> list[tuple[int, int, str]]:
    """(limit, used, source) in bytes for each v2 group that sets one."""
    found = []
    for place in places("memory", pid):
        limit = place.number("memory.swap.max") if place.unified else None
        if limit is not None:
            found.append((limit, place.number("memory.swap.current") or 0, f"{place.source} memory.swap.max"))
    return found


def cpu_quotas(pid: int | str = "self") -> list[tuple[float, Place, str]]:
    """(processors, group, source) for each group with a quota: a runtime a period (sched-bwc.rst)."""
    found = []
    for place in places("cpu", pid):
        if place.unified:
            name, words = "cpu.max", place.read("cpu.max").split()
        else:
            name, words = "cpu.cfs_quota_us", [place.read("cpu.cfs_quota_us"), place.read("cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            found.append((int(words[0]) / int(words[1]), place, f"{place.source} {name}"))
    return found


def cpu_seconds(place: Place, pid: int | str = "self") -> float | None:
    """What a group and those below it have used; for a v1 group from the cpuacct group of the same name."""
    if place.unified:
        used = place.table("cpu.stat").get(b"usage_usec")
        return None if used is None else used / 1e6
    for one in places("cpuacct", pid):
        if one.name == place.name:
            total = one.number("cpuacct.usage")
            return None if total is None else total / 1e9
    return None


def cpu_set(pid: int | str = "self") -> tuple[set[int], str] | None:
    """(numbers of the processors, source); the kernel has cut a group's set down to its parent's already."""
    for place in places("cpuset", pid):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            cpus = parse_list(place.read(name).decode())
            if cpus:
                return cpus, f"{place.source} {name}"
    return None


def parse_list(text: str) -> set[int]:
    """``0-3,7`` (cpuset(7), list format); empty for what is no such list."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            return set()
        found.update(range(int(first), int(last if dash else first) + 1))
    return found
