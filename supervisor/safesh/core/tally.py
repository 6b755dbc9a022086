"""What a run used, counted once at its end: by its control group, and by whom its holder has waited for.

``account`` gives the ``usage`` that a keeper adds to ``gone``::

    {"user_seconds", "system_seconds", "peak_memory_bytes", "peak_memory_of", "peak_memory_floor_bytes",
     "read_bytes", "write_bytes", "whole"}

peak_memory_of: ``tree``, where a cgroup's memory controller counted, page cache included; else ``process``: the largest
resident size of any one. The kernel lets that begin with what the keeper's fork held before exec, the floor: a peak
near the floor means that much or less. read_bytes, write_bytes: from and to storage; null where nobody tells. whole:
false where orphans went to pid 1 and were not counted (no subreaper). A process whose parent ignores SIGCHLD (wait(2))
is counted by a cgroup alone.
"""

from __future__ import annotations

import os

from safesh import _platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh._platform.cgroup import Group
    from safesh.core.contain import Tree


class Tally:
    """The counters of one tree's group, read in the last moment: they go with it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.cpu: tuple[float, float] | None = None
        self.peak: int | None = None
        tree.on_remove = self.read

    def read(self, group: Group) -> None:
        try:
            self.cpu = group.cpu_times()
            self.peak = group.ceiling("memory.peak")
        except (OSError, ValueError):  # we are in the middle of an ending, which goes on
            pass

    def account(self, user: float, system: float, peak: int, floor: int, *, io: bool = True) -> dict[str, Any]:
        """What the tree used, its dead included.

        user, system, peak: seconds, and the largest resident size in bytes, of all that were waited for; floor: bytes.
        io: whoever was waited for was waited for by this process, whose I/O counters hold theirs.
        """
        if self.tree.group is not None:  # not empty, so it is still there
            self.read(self.tree.group)
        cpu = (user, system)
        # Each may know of somebody whom the other does not: moved out of the group, or never waited for.
        if self.cpu is not None and sum(self.cpu) > sum(cpu):
            cpu = self.cpu
        of = "process"
        if self.peak is not None:
            peak, of, floor = self.peak, "tree", 0
        ours = _platform.io_bytes(os.getpid(), alone=True) if io else None
        total = _platform.io_bytes(os.getpid()) if io else None
        return {
            "user_seconds": round(cpu[0], 6),
            "system_seconds": round(cpu[1], 6),
            "peak_memory_bytes": peak,
            "peak_memory_of": of,
            "peak_memory_floor_bytes": floor,
            "read_bytes": max(0, total[0] - ours[0]) if total and ours else None,
            "write_bytes": max(0, total[1] - ours[1]) if total and ours else None,
            "whole": _platform.HAS_SUBREAPER,
        }
