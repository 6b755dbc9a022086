"""Limits that the kernel keeps: a cgroup's where its controllers are enabled, a resource limit for descriptors.

docs/limits.md says which limit is kept how. A ceiling of the kernel's knows no "for so long" and no "only warn", so it
is set only for limits whose first crossing ends the run.
"""

from __future__ import annotations

import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh._platform.cgroup import Group
    from safesh.model import Limit, Limits

_PAGES = 1 << 16  # the kernel rounds memory.max to a page, which has 64 KiB at most


def kept(limit: Limit) -> bool:
    """Whether the kernel may keep this limit, where it can."""
    return limit.most > 0 and limit.action != "warn" and limit.lasting == 0


def set_on(group: Group, limits: Limits) -> None:
    """Write the ceilings of a new cgroup; without its controllers nothing happens, and samples have to do."""
    if kept(limits.memory) and group.set_ceiling("memory.max", int(limits.memory.most)):
        # All or nobody: a tree that lost a random member would be worse than one that is started again.
        group.set_ceiling("memory.oom.group", 1)
    if kept(limits.processes):
        # pids.max counts threads (cgroup-v2.rst: "TIDs, process IDs as used by the kernel"), our limit does not. So it
        # is a net below the samples: a fork bomb stops here until the next one.
        group.set_ceiling("pids.max", 32 * int(limits.processes.most) + 1000)


def memory_is_kept(group: Group | None, limits: Limits) -> bool:
    """Whether ``memory.max`` of this group is the limit."""
    if group is None or not kept(limits.memory):
        return False
    ceiling = group.ceiling("memory.max")
    return ceiling is not None and abs(ceiling - limits.memory.most) < _PAGES


def lower(limits: Limits) -> None:
    """For a child before its exec: RLIMIT_NOFILE, soft and hard (setrlimit(2)), inherited by the whole tree.

    One more than the limit allows: a member that stands at the ceiling has passed the limit, which the next sample
    sees. A ceiling, never a grant: what the system allows less of stays.
    """
    if kept(limits.open_files):
        most = int(limits.open_files.most) + 1
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_least(soft, most), _least(hard, most)))


def _least(now: int, most: int) -> int:
    return most if now == resource.RLIM_INFINITY else min(now, most)
