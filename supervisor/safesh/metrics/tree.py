"""One tree looked at: its living members, and what is known of its dead. Lean: the supervisor's sampler is made of it.

The root is read before its descendants, and parents before children: a child that ends in between is missed for this
once, and counted from the next look on, when its parent has waited for it. The other way round it would count twice.
"""

from __future__ import annotations

from safesh import _platform
from safesh._platform import system as platform
from safesh.core.usage import Census

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh._platform import Info
    from safesh._platform.cgroup import Group


class Reading:
    """One look. members: living; cpu_seconds: since the tree began, dead children included; resident: bytes;
    held: bytes the control group counts, None where none does; peak: the most it has held; fds, read_bytes,
    write_bytes: None where no member may be asked."""

    __slots__ = (
        "cpu_seconds", "fds", "held", "members", "peak", "read_bytes", "resident", "sources", "threads", "write_bytes"
    )  # fmt: skip

    def __init__(self, members: list[Info]) -> None:
        self.members = members
        self.cpu_seconds = 0.0
        self.resident = sum(one.memory_bytes for one in members)
        self.threads = sum(one.threads for one in members)
        self.held: int | None = None
        self.peak: int | None = None
        self.fds: int | None = None
        self.read_bytes: int | None = None
        self.write_bytes: int | None = None
        self.sources: dict[str, str] = {}


class TreeWatch:
    """The tree below one process, as long as that process is the same one.

    keeper: the root holds the tree and is no part of it; what it has waited for still counts. main: (pid, start) of the
    main process, by which the portable platform finds members; group: the run's cgroup.
    """

    def __init__(
        self, root: int, *, keeper: bool = False, main: tuple[int, int] | None = None, group: Group | None = None
    ) -> None:
        self.root = root
        self.keeper = keeper
        self.group = group
        self.main = main
        self.start: int | None = None
        self._census: Census | None = None
        self._cpu = 0.0
        try:
            self._begin(_platform.start_time(root) or 0)
        except Exception:  # no descriptor left: the first look that has one begins
            pass

    def _begin(self, start: int) -> Census:
        """From here on the root is the process that started then; 0: there is none."""
        self.start = start
        own = (self.root, start)
        self._census = Census(
            self.root, (self.main or own) if self.keeper else own, self.group if self.keeper else None
        )
        return self._census

    def look(self, *, details: bool = True) -> Reading | None:
        """None once the root is gone, or the pid is somebody else's. details: descriptors and I/O too.

        OSError where we have no descriptor left to look with.
        """
        root = _platform.info(self.root)
        if root is None or (self._census is not None and root.start != self.start) or (root.dead and not self.keeper):
            return None
        census = self._census or self._begin(root.start)
        reaped = self._io_of_reaped() if details and self.keeper else None
        everybody = [one for one in census.look() if one.pid != self.root]
        if not self.keeper:
            everybody.insert(0, root)
        reading = Reading([one for one in everybody if not one.dead])
        self._count_cpu(reading, root, everybody)
        if self.group is not None:
            reading.held = self.group.memory_bytes()
            reading.peak = self.group.ceiling("memory.peak")
            if reading.held is not None:
                reading.sources["memory"] = "cgroup v2 memory.current without page cache"
            if reading.peak is not None:
                reading.sources["peak"] = "cgroup v2 memory.peak"
        if details:
            self._add_details(reading, reaped)
        return reading

    def _count_cpu(self, reading: Reading, root: Info, everybody: list[Info]) -> None:
        told = self.group.cpu_seconds() if self.group is not None else None
        if told is None:
            told = sum(one.cpu_seconds + one.waited_seconds for one in everybody)
            told += root.waited_seconds if self.keeper else 0.0
            reading.sources["cpu_seconds"] = "times of the living and of those they waited for"
        else:
            reading.sources["cpu_seconds"] = "cgroup v2 cpu.stat"
        self._cpu = reading.cpu_seconds = max(self._cpu, told)

    def _io_of_reaped(self) -> tuple[int, int] | None:
        """What those have moved that the keeper has waited for."""
        both, own = platform.disk_io(self.root), platform.disk_io(self.root, True)
        if both is None or own is None:
            return None
        return max(0, both[0] - own[0]), max(0, both[1] - own[1])

    def _add_details(self, reading: Reading, reaped: tuple[int, int] | None) -> None:
        read, written, known = (0, 0, False) if reaped is None else (*reaped, True)
        for one in reading.members:
            number = _platform.open_files(one.pid)
            if number is not None:
                reading.fds = (reading.fds or 0) + number
            pair = platform.disk_io(one.pid)
            if pair is not None:
                read, written, known = read + pair[0], written + pair[1], True
        if known:
            reading.read_bytes, reading.write_bytes = read, written
            reading.sources["io"] = "I/O counters of the living and of those they waited for"

    def close(self) -> None:
        if self._census is not None:
            self._census.close()


def exact_bytes(members: list[Info]) -> int:
    """The sum of their PSS; resident where a member is closed to us."""
    total = 0
    for one in members:
        pss = _platform.pss(one.pid)
        total += one.memory_bytes if pss is None else pss
    return total
