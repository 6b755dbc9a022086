"""``TreeSampler``: a tree looked at again and again, at a price that it watches itself.

Lean, since a supervisor imports it: nothing here loads more than the supervisor has.
"""

from __future__ import annotations

import time

from safesh.clock import monotonic, wall
from safesh.metrics.tree import TreeWatch, exact_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from safesh._platform.cgroup import Group
    from safesh.metrics.tree import Reading

_CHANGED = 0.25  # share by which processes or resident memory must differ for PSS to be read before its time
_PLAIN = 0.75  # share of the budget for looks; the rest is for PSS
_FIRST = 0.05  # seconds that the first reading of PSS may take; later ones have to be saved for
_PROCESS_COST = 150e-6  # seconds to read the PSS of a process that has next to no memory
_BYTE_COST = 15e-3 / (1 << 30)  # seconds a byte on top of that, until it has been measured


class Sample:
    """One look at a tree.

    at: wall time; cpu_percent: 100 is one core, since the sample before, None in the first; cpu_seconds: since the tree
    began, dead children included; memory_bytes: what its cgroup counts, else PSS, carried on from its last reading in
    proportion to what is resident; processes: living; read_bytes, write_bytes, fds: None where closed to us;
    failed: why nothing could be looked at this time: the figures are then the last ones.
    """

    __slots__ = (
        "at", "cpu_percent", "cpu_seconds", "failed", "fds", "memory_bytes", "processes", "read_bytes", "threads",
        "write_bytes"
    )  # fmt: skip

    def __init__(self, at: float) -> None:
        self.at = at
        self.cpu_percent: float | None = None
        self.cpu_seconds = 0.0
        self.memory_bytes = 0
        self.processes = 0
        self.read_bytes: int | None = None
        self.write_bytes: int | None = None
        self.threads = 0
        self.fds: int | None = None
        self.failed = ""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"Sample({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class TreeSampler:
    """Samples the tree below ``root``.

    Call ``sample()`` when ``due`` (monotonic seconds) has come, from a loop of one's own; or iterate over
    ``samples(stop.wait)`` in a thread. ``interval`` is what is waited now, longer than wished where a look is dear:
    looking takes at most ``share`` of a core. ``cost_seconds``: what the last look took; ``spent_seconds``: all of
    them; ``peak_memory_bytes``: the kernel's where it keeps it, else the most of all samples.
    """

    def __init__(
        self,
        root: int,
        *,
        keeper: bool = False,
        main: tuple[int, int] | None = None,
        group: Group | None = None,
        interval: float = 1.0,
        share: float = 0.005,
        exact_every: float = 60.0,
        details: bool = True,
    ) -> None:
        """root: pid of the tree's first process, or (``keeper``) of who holds it and is no part of it;
        main: (pid, start) of a keeper's main process; group: the run's cgroup; interval: wished seconds between two
        samples; exact_every: seconds between two readings of PSS, 0 for none ever; details: descriptors and I/O too."""
        self._tree = TreeWatch(root, keeper=keeper, main=main, group=group)
        self.wished = self.interval = interval
        self.due = monotonic()
        self.share = share
        self.exact_every = exact_every
        self.details = details
        self.cost_seconds = 0.0
        self.spent_seconds = 0.0
        self.peak_memory_bytes = 0
        self.decisive = 0.0  # bytes: a limit. What is near it is never a guess: PSS is then read at any price
        self.last: Sample | None = None
        self._looked_at = 0.0
        self._plain_share = _PLAIN * share if exact_every else share
        self._paid: float | None = None
        self._debt = 0.0
        self._ratio = 1.0  # PSS to resident, when both were last read
        self._byte_cost = _BYTE_COST
        self._exact_at: tuple[float, int, int] | None = None
        self._exact_cost = self._exact_cost_now = 0.0
        self._exact_paid = self.due

    def sample(self) -> Sample | None:
        """Look now; None once the root is gone. Sets ``due`` anew. Never raises for what it looks at."""
        began = time.thread_time()
        now = monotonic()
        try:
            reading = self._tree.look(details=self.details)
        except Exception as error:  # psutil has its own; none of them may end who looks
            found: Sample | None = self._repeat(error)
        else:
            found = None if reading is None else self._judge(reading, now)
        self._pay(time.thread_time() - began)
        return found

    def samples(self, wait: Callable[[float], object]) -> Iterator[Sample]:
        """A sample each ``interval`` until the root is gone or ``wait(seconds)`` (an Event's) says true."""
        while (found := self.sample()) is not None:
            yield found
            if wait(max(0.0, self.due - monotonic())):
                return

    def close(self) -> None:
        """Let go of the handles by which the portable platform knows members."""
        self._tree.close()

    def _judge(self, reading: Reading, now: float) -> Sample:
        found = Sample(wall())
        found.cpu_seconds = reading.cpu_seconds
        # A failed look in between knows nothing: the rate goes from the last one that did.
        if self.last is not None and now > self._looked_at:
            found.cpu_percent = 100.0 * (reading.cpu_seconds - self.last.cpu_seconds) / (now - self._looked_at)
        self._looked_at = now
        found.processes = len(reading.members)
        found.threads = reading.threads
        found.fds, found.read_bytes, found.write_bytes = reading.fds, reading.read_bytes, reading.write_bytes
        found.memory_bytes = self._weigh(reading, now) if reading.held is None else reading.held
        self.peak_memory_bytes = max(self.peak_memory_bytes, reading.peak or 0)
        if reading.held is not None or self._exact_at is not None or not self.exact_every:
            # Until PSS has been read once, what forks share counts several times: no peak to be remembered.
            self.peak_memory_bytes = max(self.peak_memory_bytes, found.memory_bytes)
        self.last = found
        return found

    def _repeat(self, error: Exception) -> Sample:
        found = Sample(wall())
        if self.last is not None:
            for name in ("cpu_seconds", "memory_bytes", "processes", "threads"):
                setattr(found, name, getattr(self.last, name))
        found.failed = str(error) or type(error).__name__
        return found

    def _weigh(self, reading: Reading, now: float) -> int:
        """Bytes, by PSS where that is due: the kernel walks every page table of the tree for it."""
        resident, processes = reading.resident, len(reading.members)
        if self.exact_every and resident and self._differs(resident, processes, now):
            guess = self._byte_cost * resident + _PROCESS_COST * processes
            saved = (1 - _PLAIN) * self.share * (now - self._exact_paid)
            near = 0 < self.decisive < resident  # of which PSS is a part: below it there is nothing to decide
            if near or guess <= (max(_FIRST, saved) if self._exact_at is None else saved):
                began = time.thread_time()
                try:
                    exact = exact_bytes(reading.members)
                except Exception:  # no descriptor left: another time
                    return int(resident * self._ratio)
                self._exact_cost = self._exact_cost_now = time.thread_time() - began
                self._byte_cost = max(0.0, self._exact_cost - _PROCESS_COST * processes) / resident
                self._ratio = min(1.0, exact / resident)
                self._exact_at = (now, resident, processes)
                self._exact_paid = now
                return exact
        return int(resident * self._ratio)

    def _differs(self, resident: int, processes: int, now: float) -> bool:
        if self._exact_at is None:
            return True
        at, was_resident, were = self._exact_at
        if now - at < self._exact_cost / ((1 - _PLAIN) * self.share) and not 0 < self.decisive < resident:
            return False
        return (
            now - at >= self.exact_every
            or abs(resident - was_resident) > _CHANGED * was_resident
            or abs(processes - were) > _CHANGED * were
        )

    def _pay(self, cost: float) -> None:
        """Wait until the budget has paid for every look so far: a dear one is followed by a long pause.

        Readings of PSS have the rest of the budget to themselves, or they would silence the sampler for minutes.
        """
        now = monotonic()
        if self._paid is not None:
            self._debt = max(0.0, self._debt - self._plain_share * (now - self._paid))
        self._paid = now
        self.spent_seconds += cost
        self.cost_seconds = cost
        self._debt += max(0.0, cost - self._exact_cost_now)
        self._exact_cost_now = 0.0
        self.interval = max(self.wished, self._debt / self._plain_share)
        self.due = now + self.interval
