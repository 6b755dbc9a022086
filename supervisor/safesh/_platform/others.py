"""What the process API asks about processes that need not be its own: who they belong to, what they hold open.

Beside the contract of ``_platform`` and not in it: supervisor and keeper never ask these, so they do not load them.
Where the portable half answers less, each function says so.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from safesh import _platform
from safesh._platform import Info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Asked of the module that was chosen, so that a forced backend is tested as a whole.
_LINUX = _platform.HAS_SUBREAPER
if _LINUX:
    from safesh._platform import linux

# The kernel's letters for what a process does (proc_pid_stat(5)) in words.
STATE_WORDS = {
    "R": "running", "S": "sleeping", "D": "disk-sleep", "T": "stopped", "t": "tracing-stop", "Z": "zombie",
    "X": "dead", "x": "dead", "I": "idle", "P": "parked", "K": "wakekill", "W": "waking",
}  # fmt: skip

_NEAR = 64  # numbers that are tried one by one, rather than list all there are
_PF_KTHREAD = 0x00200000  # linux/sched.h


def pictures(pids: Iterable[int]) -> dict[int, Info]:
    """Those of ``pids`` that exist, with their start in wall time and without owner: one small read for each.

    A thread's number is not told apart from a process's (see ``thread_group``).
    """
    found: dict[int, Info] = {}
    if not _LINUX:
        for pid in pids:
            one = _platform.info(pid)
            if one is not None:
                found[pid] = one
        return found
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    tick = os.sysconf("SC_CLK_TCK")
    for pid in pids:
        one = linux._parse(pid, linux._read_record(f"/proc/{pid}/stat"))
        if one is not None:
            one.started_at = booted + one.start / tick
            found[pid] = one
    return found


def owners(pid: int) -> tuple[int, int] | None:
    """(real, effective) uid; None when it is gone or nobody tells. ``Info.uid`` is the effective one alone."""
    if not _LINUX:
        psutil = _psutil()
        try:
            told = psutil.Process(pid).uids()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return told.real, told.effective
    for line in linux._read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            words = line.split()
            return int(words[1]), int(words[2])
    return None


def thread_group(pid: int) -> int:
    """The process that this number belongs to: itself, or another one's when it is the number of a thread; 0 for none.

    /proc answers for threads too, though it does not list them, and kill(2) takes their numbers for their process's.
    """
    if not _LINUX:
        return pid if _psutil().pid_exists(pid) else 0
    for line in linux._read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return 0


def is_kernel(pid: int) -> bool:
    """Whether it is one of the kernel's own threads. Portable: only pid 0 is known to be."""
    if not _LINUX:
        return pid == 0
    fields = linux._read_record(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return len(fields) > 6 and bool(int(fields[6]) & _PF_KTHREAD)


def born_since(pid: int) -> list[int] | None:
    """Numbers in our pid namespace that may belong to processes younger than ``pid``; None when they do not tell.

    Numbers are given in turn (kernel/pid.c, idr_alloc_cyclic), and the last one is the end of /proc/loadavg, so the
    usual answer, nobody, costs one read. Right as long as they have not gone round all the way, which takes 32,768
    starts at the least: the caller asks only about the last moments.
    """
    if not _LINUX:
        return None
    words = linux._read_record("/proc/loadavg").split()
    if len(words) < 5 or not words[4].isdigit():
        return None
    last = int(words[4])
    if last == pid:
        return []
    if last < pid:
        return None
    if last - pid <= _NEAR:
        return list(range(pid + 1, last + 1))
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and pid < int(name) <= last]


def other_end(fd: int) -> str:
    """What the processes at the other end of this pipe, FIFO or pty have open, for ``openers``; "" for anything else.

    Portable: always "".
    """
    if not _LINUX:
        return ""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return os.readlink(f"/proc/self/fd/{fd}")
    if stat.S_ISCHR(mode):
        import fcntl

        try:
            number = fcntl.ioctl(fd, 0x80045430, bytes(4))  # TIOCGPTN (ioctl_tty(2)): of a pty's master only
        except OSError:
            return ""
        return f"/dev/pts/{int.from_bytes(number, sys.byteorder)}"
    return ""


def openers(link: str, *, writing: bool | None = None) -> list[int]:
    """Pids of the processes that have ``link`` open, as far as their descriptors are open to us.

    writing: only those that can write to it (True) or read from it (False). Portable: nobody.
    """
    if not _LINUX or not link:
        return []
    wanted = {None: 0o600, True: 0o200, False: 0o400}[writing]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        folder = f"/proc/{name}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        for number in numbers:
            try:
                # The link's own permission bits tell how it was opened (proc_pid_fd(5)).
                if os.readlink(f"{folder}/{number}") == link and os.lstat(f"{folder}/{number}").st_mode & wanted:
                    found.append(int(name))
                    break
            except OSError:
                continue
    return found


def hidden(known: Collection[int]) -> int | None:
    """How many processes beside ``known`` are listed and closed to us (proc(5), hidepid=1); None where others are not
    even listed (hidepid=2).

    Portable: 0, since there everybody is listed and told of by name.
    """
    if not _LINUX:
        return 0
    closed = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in known:
            try:
                os.close(os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC))
            except PermissionError:
                closed += 1
            except OSError:
                continue  # it has ended
    # The first process is always there.
    return closed if closed or linux._read_record("/proc/1/stat") else None


def _psutil() -> _Any:
    from safesh._platform import posix

    return posix._load()


if TYPE_CHECKING:
    from typing import Any as _Any
