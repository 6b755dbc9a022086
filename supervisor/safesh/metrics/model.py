"""The nouns of this room: what the system, a process, a tree and a graphics card use, each at one moment.

Units, everywhere: ``_mb`` is MiB (1024² bytes), ``_gb`` is GiB, ``_bytes`` bytes, ``_bytes_s`` bytes a second,
``_percent`` 0 to 100, except that the CPU percent of a process or a tree counts one core as 100. Times are wall
seconds. None means: not known (yet); it never means zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

MIB = 1024 * 1024
GIB = 1024 * MIB


class Plain:
    """Gives a record as plain data, ready for JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, nested records, lists and tuples included."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Plain):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@dataclass(slots=True, kw_only=True)
class GpuInfo(Plain):
    """One graphics card, as its driver tells. processes: pid -> MiB held there by it (as seen from our pid namespace;
    None where the driver does not say how much)."""

    index: int
    name: str
    uuid: str = ""
    utilization_percent: float | None = None
    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    processes: dict[int, float | None] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class SystemSnapshot(Plain):
    """What the system, or the container that holds us, uses and has.

    cpu_percent: of ``cpus``, since the last snapshot of the same monitor; None in the first one.
    cpus: usable cores: the least of the machine's, our affinity, the cpusets and the quotas of the groups above us.
    memory_*: the least limit of the machine, the groups above us and RLIMIT_AS, and the least that any of them leaves.
    load: of 1, 5 and 15 minutes. pressure: ``{"cpu"|"memory"|"io": {"some_avg10": %, "full_avg10": %}}`` (psi.rst).
    network_*, disk_read/write_*: since the last snapshot, None in the first one; loopback and stacked devices left out.
    sources: field -> where its number comes from (``/proc/meminfo``, ``cgroup v2 /foo memory.max``).
    failed: field -> why it is None although it should not be. What a first sample cannot know is in neither.
    """

    at: float
    cpu_percent: float | None = None
    cpus: float = 1.0
    memory_percent: float | None = None
    memory_available_mb: float | None = None
    memory_total_mb: float | None = None
    disk_percent: float | None = None
    disk_free_gb: float | None = None
    load: tuple[float, float, float] | None = None
    swap_percent: float | None = None
    swap_used_mb: float | None = None
    network_rx_bytes_s: float | None = None
    network_tx_bytes_s: float | None = None
    disk_read_bytes_s: float | None = None
    disk_write_bytes_s: float | None = None
    pressure: dict[str, dict[str, float]] | None = None
    gpus: list[GpuInfo] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ProcessUsage(Plain):
    """One process. cpu_percent: 100 is one core, since the last look of the same monitor at this very process (pid and
    start), None at the first; memory_mb: resident; pss_mb, uss_mb: only where asked for (``exact``) and allowed;
    read_bytes, write_bytes: what reached or came from the disk (proc_pid_io(5)), None where closed to us;
    start: see ``model.Identity``; started_at: wall time; uid: -1 where unknown; command: the command line, or the
    kernel's name in brackets; cpu_seconds: user and system; ppid: its parent."""

    pid: int
    start: int
    name: str
    command: str = ""
    cpu_percent: float | None = None
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    pss_mb: float | None = None
    uss_mb: float | None = None
    num_threads: int = 1
    fds: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    state: str = ""
    started_at: float = 0.0
    runtime_seconds: float = 0.0
    uid: int = -1
    ppid: int = 0


@dataclass(slots=True, kw_only=True)
class TreeUsage(Plain):
    """One run's tree. processes: living members; cpu_percent: 100 is one core, since the last look at the same tree;
    cpu_seconds: since it began, children already dead included; memory_mb: see ``sources["memory_mb"]``;
    peak_memory_mb: the kernel's, else the most that this monitor has seen; read_bytes, write_bytes: of the living and
    of the dead that somebody waited for; fds, read_bytes, write_bytes: None where no member may be asked.
    sources: field -> where its number comes from."""

    run_id: str = ""
    at: float = 0.0
    processes: int = 0
    cpu_percent: float | None = None
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    peak_memory_mb: float | None = None
    threads: int = 0
    fds: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    members: list[ProcessUsage] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, str]:
        """The same as ``sources``."""
        return self.sources
