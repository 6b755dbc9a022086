"""Linux: the machine's and the processes' numbers, each by one direct read (see ``system.py`` for the contract)."""

from __future__ import annotations

import os
import time

from safesh._platform import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh._platform.base import Info

SOURCES = {
    "cpu_times": "/proc/stat",
    "memory": "/proc/meminfo",
    "swap": "/proc/meminfo",
    "network": "/proc/net/dev",
    "disks": "/proc/diskstats",
    "pressure": "/proc/pressure",
}
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SECTOR = 512  # the unit of diskstats whatever the device's own is (Documentation/admin-guide/iostats.rst)
_STACKED = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")


def _need(path: str) -> bytes:
    data = linux._read(path)
    if not data:
        raise OSError(f"{path} is closed to us, empty or missing")
    return data


def cpu_times() -> dict[int, tuple[float, float]]:
    """proc_stat(5): idle and iowait are not busy; guest time is in user time already."""
    found = {}
    for line in _need("/proc/stat").splitlines():
        if line.startswith(b"cpu") and line[3:4].isdigit():
            words = line.split()
            ticks = [int(word) for word in words[1:9]]
            idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0)
            found[int(words[0][3:])] = ((sum(ticks) - idle) / _TICK, sum(ticks) / _TICK)
    if not found:
        raise ValueError("/proc/stat names no processor")
    return found


def _meminfo() -> dict[bytes, int]:
    found = {}
    for line in _need("/proc/meminfo").splitlines():
        name, _, rest = line.partition(b":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if len(words) > 1 else 1)
    return found


def memory() -> tuple[int, int]:
    told = _meminfo()
    if b"MemTotal" not in told:
        raise ValueError("/proc/meminfo has no MemTotal")
    # MemAvailable is there since Linux 3.14; before it, this was the usual guess.
    free = told.get(b"MemFree", 0) + told.get(b"Buffers", 0) + told.get(b"Cached", 0)
    return told[b"MemTotal"], told.get(b"MemAvailable", free)


def swap() -> tuple[int, int]:
    told = _meminfo()
    return told.get(b"SwapTotal", 0), max(0, told.get(b"SwapTotal", 0) - told.get(b"SwapFree", 0))


def network() -> tuple[int, int, str]:
    """proc_net_dev(5). Devices of hardware where there are any (a bond's and a bridge's bytes pass through those)."""
    counts = {}
    for line in _need("/proc/net/dev").decode("utf-8", "replace").splitlines()[2:]:
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and len(words) >= 16 and name.strip() != "lo":
            counts[name.strip()] = (int(words[0]), int(words[8]))
    real = {name: pair for name, pair in counts.items() if os.path.exists(f"/sys/class/net/{name}/device")} or counts
    source = f"{SOURCES['network']} ({', '.join(sorted(real)) or 'no device but loopback'})"
    return sum(one[0] for one in real.values()), sum(one[1] for one in real.values()), source


def disks() -> tuple[int, int, str]:
    """Whole disks only: what goes to a partition, to LVM or to a RAID arrives at one of them."""
    read = written = 0
    names = []
    for line in _need("/proc/diskstats").decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) < 10 or words[2].startswith(_STACKED) or not os.path.exists(f"/sys/block/{words[2]}"):
            continue
        names.append(words[2])
        read += int(words[5]) * _SECTOR
        written += int(words[9]) * _SECTOR
    return read, written, f"{SOURCES['disks']} ({', '.join(names) or 'no disk'})"


def pressure() -> dict[str, dict[str, float]] | None:
    """Documentation/accounting/psi.rst; None without CONFIG_PSI or with psi=0."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("cpu", "memory", "io"):
        for line in linux._read(f"/proc/pressure/{kind}").decode().splitlines():
            head, *pairs = line.split()
            for pair in pairs:
                if pair.startswith("avg10="):
                    found.setdefault(kind, {})[f"{head}_avg10"] = float(pair[6:])
    return found or None


def visible() -> dict[int, Info]:
    return linux.scan()


def complete(info: Info) -> None:
    """Adds owner and start in wall time, where it has none yet."""
    if info.started_at:
        return
    try:
        info.uid = os.stat(f"/proc/{info.pid}").st_uid
    except OSError:
        info.uid = -1
    info.started_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + info.start / _TICK


disk_io = linux.io_bytes


def exact_memory(pid: int) -> tuple[int, int] | None:
    """smaps_rollup (proc_pid_smaps(5)): Pss, and Private_* summed up."""
    pss, uss = -1, 0
    for line in linux._read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            pss = int(line.split()[1]) * 1024
        elif line.startswith(b"Private_"):
            uss += int(line.split()[1]) * 1024
    return None if pss < 0 else (pss, uss)


def address_space(pid: int) -> int | None:
    """proc_pid_statm(5), the first field."""
    words = linux._read(f"/proc/{pid}/statm").split()
    return int(words[0]) * _PAGE if words else None
