"""Linux: /proc, pidfds and prctl(2)."""

from __future__ import annotations

import errno
import os
import select
import sys
import time

from safesh._platform.base import Info as Info
from safesh._platform.base import PlainHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
    from typing import Any
else:
    import _signal

_PR_SET_PDEATHSIG = 1  # numbers from linux/prctl.h; see prctl(2)
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

HAS_SUBREAPER = True
MAXRSS_UNIT = 1024
INBLOCK_UNIT = 512

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def boot_id() -> str:
    """``<boot id>/<inode of our pid namespace>`` (random(4), pid_namespaces(7))."""
    global _boot
    if not _boot:
        boot = _read("/proc/sys/kernel/random/boot_id").decode().strip()
        try:
            space = os.stat("/proc/self/ns/pid").st_ino
        except OSError:
            space = 0
        _boot = f"{boot}/{space}"
    return _boot


_boot = ""


def _read(path: str) -> bytes:
    """The whole of a /proc file, b"" when it is gone or closed to us. OSError where we cannot look."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(fd)
    except OSError as error:
        return _nothing(error)


def _read_record(path: str) -> bytes:
    """As ``_read`` for a file of one record (``stat``, ``io``), which the kernel gives whole at the first read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError as error:
        return _nothing(error)


def _nothing(error: OSError) -> bytes:
    """b"" for what is gone or closed to us; that we cannot look must never be mixed up with it."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO):
        raise error
    return b""


def _parse(pid: int, stat: bytes) -> Info | None:
    # proc_pid_stat(5): the name is in parentheses and may hold any byte, so the fields count from the last one.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    if len(fields) < 22:
        return None
    return Info(
        pid,
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        fields[0].decode(),
        int(fields[19]),
        command=head.partition(b"(")[2].decode("utf-8", "replace"),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICK,
        memory_bytes=int(fields[21]) * _PAGE,
        threads=int(fields[17]),
        waited_seconds=(int(fields[13]) + int(fields[14])) / _TICK,
    )


def info(pid: int) -> Info | None:
    """One process with owner and start in wall time; None when it is gone."""
    found = _parse(pid, _read_record(f"/proc/{pid}/stat"))
    if found is not None:
        try:
            found.uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return None
        found.started_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + found.start / _TICK
    return found


def start_time(pid: int) -> int | None:
    """Clock ticks since boot (proc_pid_stat(5) field 22)."""
    found = _parse(pid, _read_record(f"/proc/{pid}/stat"))
    return None if found is None else found.start


def scan() -> dict[int, Info]:
    """Every visible process, by pid, without owner and wall time."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            pid = int(name)
            one = _parse(pid, _read_record(f"/proc/{name}/stat"))
            if one is not None:
                found[pid] = one
    return found


def descendants(root: int, proc: str = "/proc") -> dict[int, Info] | None:
    """Every process below ``root``, without a look at anybody else's; None on kernels without CONFIG_PROC_CHILDREN.

    proc_tid_children(5): a child whose sibling ends while we read may be missed, so this serves samples, not verdicts.
    """
    if not os.path.exists(f"{proc}/{root}/task/{root}/children"):
        return None
    found: dict[int, Info] = {}
    todo: list[tuple[int, bool]] = [(root, False)]
    while todo:
        pid, alone = todo.pop()
        try:
            threads = [str(pid)] if alone else os.listdir(f"{proc}/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            for word in _read(f"{proc}/{pid}/task/{thread}/children").split():
                child = int(word)
                one = _parse(child, _read_record(f"{proc}/{child}/stat"))
                if one is not None and child not in found and child != root:
                    found[child] = one
                    todo.append((child, one.threads == 1))  # who has one thread needs no look for more
    return found


def pss(pid: int) -> int | None:
    """Bytes of memory, what is shared counted in proportion (smaps_rollup, proc_pid_smaps(5)); None when closed to us.

    The kernel walks the process's page tables for it: some milliseconds for each GiB.
    """
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def open_files(pid: int) -> int | None:
    """How many descriptors a process has; None when closed to us or gone."""
    folder = f"/proc/{pid}/fd"
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is the number since Linux 6.2
    except OSError:
        return None


def io_bytes(pid: int, alone: bool = False) -> tuple[int, int] | None:
    """Bytes fetched from and sent to storage (proc_pid_io(5)), what the page cache answered left out.

    The process with its ended threads and the children it has waited for, whose own the kernel adds to it
    (kernel/exit.c, wait_task_zombie); alone: its first thread and nothing else. None when closed to us or gone.
    """
    data = _read_record(f"/proc/{pid}/task/{pid}/io" if alone else f"/proc/{pid}/io")
    at = data.find(b"\nread_bytes: ")
    if at < 0:
        return None
    lines = data[at + 1 :].split(b"\n", 2)
    return int(lines[0][12:]), int(lines[1][13:])


def cmdline(pid: int) -> list[str]:
    """argv, empty for kernel threads, zombies and processes closed to us."""
    data = _read(f"/proc/{pid}/cmdline")
    if not data:
        return []
    return data.removesuffix(b"\0").decode("utf-8", "replace").split("\0")


def environ(pid: int, having: str = "") -> dict[str, str] | None:
    """The environment a process was started with; None when closed to us or gone."""
    data = _read(f"/proc/{pid}/environ")
    if not data:
        return None
    if having and os.fsencode(having) not in data:
        return {}
    pairs = (item.partition("=") for item in data.decode("utf-8", "replace").split("\0"))
    return {key: value for key, equals, value in pairs if equals}


def _call(name: str, *arguments: Any) -> int:
    """One call of a C function that takes and returns ints (bytes go as pointers).

    ``_ctypes`` alone: the package around it would cost each long-lived process 5 ms and 600 KiB.
    """
    from _ctypes import call_function, dlopen, dlsym

    if name not in _symbols:
        program: Any = None  # dlopen(3): NULL stands for what is loaded already
        _symbols[name] = dlsym(dlopen(program, 0), name)
    result: int = call_function(_symbols[name], arguments)
    return result


_symbols: dict[str, int] = {}


def _prctl(option: int, argument: int) -> int:
    """prctl(2) with one argument; -1 on failure."""
    try:
        result = _call("prctl", option, argument, 0, 0, 0)
    except (ImportError, AttributeError, TypeError):
        import ctypes

        result = ctypes.CDLL(None).prctl(option, ctypes.c_ulong(argument), 0, 0, 0)
    return result


def tee(source: int, sink: int, length: int) -> int:
    """tee(2): up to ``length`` bytes of one pipe into another, without taking them; never waits.

    The number of bytes, 0 at the end of file, -1 where nothing is there, or there is no room, or no tee.
    """
    try:
        return _call("tee", source, sink, length, _SPLICE_F_NONBLOCK)
    except (ImportError, AttributeError, TypeError, OSError):
        return -1


_SPLICE_F_NONBLOCK = 2  # splice(2)


def reopen(fd: int, flags: int) -> int:
    """A descriptor of the terminal or pipe behind ``fd`` with an open file description of its own (proc_pid_fd(5)).

    OSError where there is no second way to it.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        # After su(1) the terminal's file belongs to somebody else, but /dev/tty is anybody's. tcgetpgrp(3)
        # answers for the controlling terminal only, so this is the same one.
        os.tcgetpgrp(fd)
        return os.open("/dev/tty", flags | os.O_NOCTTY | os.O_CLOEXEC)


def become_subreaper() -> bool:
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def drop_subreaper() -> bool:
    return _prctl(_PR_SET_CHILD_SUBREAPER, 0) == 0


def is_subreaper() -> bool:
    """Whether the bit is set, by us or by whoever exec'ed us (it survives execve, prctl(2))."""
    import ctypes

    answer = ctypes.c_int(0)
    done: int = ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return done == 0 and answer.value == 1


def set_pdeathsig(signal: int) -> bool:
    return _prctl(_PR_SET_PDEATHSIG, signal) == 0


def set_name(name: str) -> None:
    """The name that ps and top show (15 bytes, PR_SET_NAME); /proc/self/comm is the same thing as a file."""
    try:
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write(name.encode()[:15])
    except OSError:
        pass


def oom_kills() -> int | None:
    """The ``oom_kill`` line of /proc/vmstat: out-of-memory kills since boot, those of cgroups included."""
    for line in _read("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return None


class Handle:
    """A pidfd (pidfd_open(2)): it names one process for ever, so a reused pid is never signalled."""

    def __init__(self, pid: int, start: int, fd: int) -> None:
        self.pid = pid
        self.start = start
        self._fd = fd

    def fileno(self) -> int:
        """Readable once the process has ended, reaped or not."""
        return self._fd

    def alive(self) -> bool:
        watch = select.poll()
        watch.register(self._fd, select.POLLIN)
        return not watch.poll(0)

    def send(self, signal: int) -> bool:
        """True when sent, False when the process is gone; PermissionError when it may not be signalled."""
        if not self.alive():  # the kernel takes signals for zombies, which are as gone as they will be
            return False
        try:
            _signal.pidfd_send_signal(self._fd, signal)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def plain_handle(pid: int, start: int) -> PlainHandle:
    """A handle that needs no descriptor: pid and start time, checked before each signal."""
    return PlainHandle(pid, start, info)


def open_handle(pid: int, start: int) -> Handle | PlainHandle | None:
    """A handle of the process with this pid and start time; None when there is none any more.

    Without a descriptor to spare, or on a kernel before 5.3, the handle checks the start time instead.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError:
        return PlainHandle(pid, start, info) if start_time(pid) == start else None
    handle = Handle(pid, start, fd)
    # The pid may have passed to another process before the open; it cannot any more.
    try:
        same = start_time(pid) == start
    except OSError:  # this was the last descriptor
        handle.close()
        return PlainHandle(pid, start, info) if start_time(pid) == start else None
    if not same:
        handle.close()
        return None
    return handle


child_opener = getattr(os, "pidfd_open", None)


def open_child(pid: int, start: int, fd: int = -1) -> Handle | PlainHandle:
    """A handle of a child that nobody has collected yet, so its pid needs no second look; fd: of ``child_opener``."""
    try:
        return Handle(pid, start, fd if fd >= 0 else os.pidfd_open(pid))
    except OSError:
        return PlainHandle(pid, start, info)


# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), whose first 64 bytes end with the exit status.
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 8


def exit_status(handle: Handle | PlainHandle) -> int | None:
    """The wait status of a process that somebody else has collected; None before Linux 6.15, or without a pidfd."""
    import fcntl

    answer = bytearray(64)
    answer[:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    try:
        fcntl.ioctl(handle.fileno(), _PIDFD_GET_INFO, answer)
    except (OSError, ValueError):
        return None
    if not int.from_bytes(answer[:8], sys.byteorder) & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(answer[60:64], sys.byteorder)


class SignalSource:
    """Signals as something to poll: they are blocked, and read from a signalfd(2).

    A handler would swallow a real SIGSEGV of ours for ever; a blocked one still ends the process.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, wanted)
        mask = sum(1 << (number - 1) for number in wanted).to_bytes(128, sys.byteorder)  # sigset_t is 1024 bits
        flags = os.O_NONBLOCK | os.O_CLOEXEC  # SFD_NONBLOCK and SFD_CLOEXEC have the same values
        self._fd = _call("signalfd", -1, mask, flags)
        if self._fd < 0:
            raise OSError(errno.EMFILE, "signalfd: no descriptor left")
        self._own = os.getpid()

    def fileno(self) -> int:
        return self._fd

    def read(self) -> list[int]:
        """Numbers of the signals that have arrived since the last call.

        What our own system calls raised (SIGPIPE, SIGXFSZ carry our own pid) is nobody's message and is left out.
        """
        found = []
        try:
            while data := os.read(self._fd, 128 * 32):
                for at in range(0, len(data), 128):
                    number = int.from_bytes(data[at : at + 4], sys.byteorder)  # ssi_signo
                    sender = int.from_bytes(data[at + 12 : at + 16], sys.byteorder)  # ssi_pid
                    if sender != self._own:
                        found.append(number)
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        """Everything as it was before; what has arrived and was not read acts now."""
        os.close(self._fd)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)


def listeners(port: int) -> set[int]:
    """Inodes of the TCP sockets that listen on ``port`` in our network namespace (proc_net_tcp(5), state 0A)."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _read(table).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == b"0A" and int(fields[1].rpartition(b":")[2], 16) == port:
                found.add(int(fields[9]))
    return found


def open_paths(pid: int) -> list[str] | None:
    """What its descriptors lead to (proc_pid_fd(5)): a file where it is now; None when they are closed to us."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{name}").removesuffix(" (deleted)"))
            except FileNotFoundError:
                continue
    except FileNotFoundError:
        return []
    except OSError:
        return None
    return found


def sockets_of(pid: int) -> set[int] | None:
    """Inodes of the sockets a process has open; None when its descriptors are closed to us."""
    found = open_paths(pid)
    return None if found is None else {int(one[8:-1]) for one in found if one.startswith("socket:[")}
