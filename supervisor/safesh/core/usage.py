"""What a run's tree uses, looked up at the price of the tree and not of the machine wherever the kernel allows."""

from __future__ import annotations

from safesh import _platform
from safesh.core.contain import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from safesh._platform import Info
    from safesh._platform.cgroup import Group

_LOOK_AROUND = 15  # with a cgroup, one look in so many goes through all processes, for members that root moved out


class Usage:
    """memory_bytes: PSS where it was read, else resident; cpu_seconds: user and system, those of waited-for
    descendants included; processes: living members; most_open_files: of the member that has most."""

    __slots__ = ("cpu_seconds", "memory_bytes", "most_open_files", "processes")

    def __init__(self, memory_bytes: int, cpu_seconds: float, processes: int, most_open_files: int) -> None:
        self.memory_bytes = memory_bytes
        self.cpu_seconds = cpu_seconds
        self.processes = processes
        self.most_open_files = most_open_files


def tree_usage(
    members: Collection[Info], *, exact_above: float = float("inf"), memory: bool = True, files: bool = False
) -> Usage:
    """The sums over ``members``.

    memory: PSS is never more than what is resident, and dear to read; so it is read only where the resident sum
    exceeds ``exact_above`` bytes. files: count descriptors too; a member closed to us counts none.
    """
    held = sum(one.memory_bytes for one in members) if memory else 0
    if held > exact_above:
        held = 0
        for one in members:
            exact = _platform.pss(one.pid)
            held += one.memory_bytes if exact is None else exact
    return Usage(
        held,
        sum(one.cpu_seconds + one.waited_seconds for one in members),
        sum(1 for one in members if not one.dead),
        max((_platform.open_files(one.pid) or 0 for one in members), default=0) if files else 0,
    )


class Census:
    """Finds the members of one run again and again.

    By the children of its keeper where the kernel lists them, else by its cgroup, else by a look at all processes.
    """

    def __init__(self, keeper: int, main: tuple[int, int], group: Group | None) -> None:
        """keeper: its pid; main: pid and start time of the main process."""
        self.keeper = keeper
        self.group = group
        self._looks = 0
        self._outside: list[tuple[int, int]] = []
        # Without its run id: reading everybody's environment every time is what ending a tree may do, not sampling.
        self._tree = Tree(root=keeper)
        if not _platform.HAS_SUBREAPER:
            self._tree.adopt(*main, leads=True)

    def look(self) -> list[Info]:
        """The members now, zombies included where they are seen: their time counts until somebody waits for them."""
        below = _platform.descendants(self.keeper)
        if below is not None:
            return list(below.values())
        if self.group is None:
            return self._look_at_all()
        inside = self._ask(self.group.pids())
        if self._looks % _LOOK_AROUND == 0:
            here = {one.pid for one in inside}
            self._outside = [(one.pid, one.start) for one in self._look_at_all() if one.pid not in here]
        self._looks += 1
        if self._outside:
            known, here = set(self._outside), {one.pid for one in inside}
            outside = self._ask([pid for pid, _start in known if pid not in here])
            inside += [one for one in outside if (one.pid, one.start) in known]
        return inside

    def _look_at_all(self) -> list[Info]:
        found = self._tree.find(_platform.scan())
        # A portable scan tells neither time nor memory.
        return list(found.values()) if _platform.HAS_SUBREAPER else self._ask(list(found))

    def _ask(self, pids: list[int]) -> list[Info]:
        return [one for one in map(_platform.info, pids) if one is not None]

    def cpu_seconds(self, members: Collection[Info]) -> float:
        """Of the whole tree since it began, as far as anybody kept count; it may fall when a member vanishes."""
        told = self.group.cpu_seconds() if self.group is not None else None
        if told is not None:
            return told
        keeper = _platform.info(self.keeper)  # orphans are waited for by it
        return tree_usage(members, memory=False).cpu_seconds + (keeper.waited_seconds if keeper is not None else 0.0)

    def close(self) -> None:
        self._tree.close()
