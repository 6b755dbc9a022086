"""The portable backend: sessions, run ids and psutil, where there is neither subreaper nor pidfd (macOS).

What a holder finds here of a tree: every descendant whose line of parents still lives; every process it has seen
before; everybody in a session that a member leads or led; everybody whose environment, as it was at exec and as
far as the system shows it to us, carries the run's id. What it cannot find is an orphan that did all of
this before anyone looked: left every session of the tree, cleared its environment, and lost its parent. Nor can it be
sure of one that forks, changes session and exits faster than a scan takes. On Linux such processes stay with
the subreaper, so ``HAS_SUBREAPER`` is the capability that tells the two apart. (macOS hides the environment of its own
protected programs, so there the session is all that tells of them.)

A signal goes by pid right after a check of the start time: in the microseconds between the two the process could end
and its pid pass on. A pidfd has no such gap, but nothing portable is better.

On Linux this backend exists to be tested (``SAFESH_BACKEND=posix``); start times and boot id are those of ``linux.py``
there, so that a record written under one backend is understood under the other.
"""

from __future__ import annotations

import os
import sys

from safesh._platform.base import PYTHON_IGNORES, Info, PlainHandle, reopen, tee
from safesh.errors import ResourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
    from typing import Any
else:
    import _signal

__all__ = [
    "HAS_SUBREAPER", "INBLOCK_UNIT", "MAXRSS_UNIT", "Info", "SignalSource", "become_subreaper", "boot_id", "cmdline",
    "descendants",
    "environ", "exit_status", "info", "io_bytes", "is_subreaper", "oom_kills", "open_child", "open_files",
    "open_handle", "plain_handle", "pss", "reopen",
    "scan", "set_name", "set_pdeathsig", "start_time", "tee",
]  # fmt: skip

HAS_SUBREAPER = False
INBLOCK_UNIT = 0
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

_ON_LINUX = sys.platform.startswith("linux")
_TICK = os.sysconf("SC_CLK_TCK")
_LETTERS = {
    "running": "R", "sleeping": "S", "disk-sleep": "D", "stopped": "T", "tracing-stop": "t", "zombie": "Z", "dead": "X",
    "idle": "I",
}  # fmt: skip

# A handler for one of these would return to the instruction that raised it, for ever.
_SYNCHRONOUS = tuple(
    getattr(_signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGEMT")
    if hasattr(_signal, name)
)  # fmt: skip


def _load() -> Any:
    """psutil, imported when it is first needed: it costs 23 ms."""
    global _psutil
    if _psutil is None:
        from safesh.vendor import add_site_packages

        add_site_packages()
        try:
            import psutil
        except ImportError:
            raise ResourceError(
                "is needed on this system and is not installed", place="psutil", hint="pip install psutil"
            ) from None
        _psutil = psutil
    return _psutil


_psutil: Any = None
_boot = ""


def boot_id() -> str:
    """Names this boot, whatever happens to the clock (see ``model.Identity``).

    The boot *time* is no such name: it is the wall clock less the uptime, and moves with every correction. It serves,
    to the minute, only where the kernel keeps no id of its boot.
    """
    global _boot
    if not _boot:
        if _ON_LINUX:
            from safesh._platform.linux import boot_id as linux_boot_id

            _boot = linux_boot_id()
        else:
            _boot = _session_uuid() or f"booted-{round(_load().boot_time() / 60)}"
    return _boot


def _session_uuid() -> str:
    """``kern.bootsessionuuid`` (macOS, sysctl(3)); "" where there is none."""
    try:
        import ctypes

        size = ctypes.c_size_t(64)
        text = ctypes.create_string_buffer(size.value)
        if ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) == 0:
            return text.value.decode("ascii", "replace")
    except (ImportError, AttributeError, OSError):
        pass
    return ""


def _start(process: Any) -> int:
    """Ticks since boot on Linux, microseconds since the epoch elsewhere; the same number for the process's life.

    ``create_time()`` is no such number: newer releases of psutil let it follow steps of the clock, so that one step
    would make every process look like another. What psutil tells processes apart by follows none.
    """
    told = process._ident[1]
    seconds: float = process.create_time() if told is None else told
    if not _ON_LINUX:
        return round(seconds * 1_000_000)
    if seconds > 1e9:  # psutil before 7.1 adds the boot time to it
        seconds -= _load().boot_time()
    return round(seconds * _TICK)


def _picture(process: Any) -> Info:
    """What a scan needs, no more: each further question costs a system call a process."""
    pid = process.pid
    state = _LETTERS.get(process.status(), "S")
    return Info(
        pid,
        process.ppid(),
        _ask(os.getpgid, pid),
        _ask(os.getsid, pid),
        state,
        _start(process),
        command=_tell(process.name, ""),
        # Only a dead leader needs them told: it counts as long as another of its threads lives.
        threads=_tell(process.num_threads, 1) if state in "ZX" else 1,
    )


def _ask(question: Any, pid: int) -> int:
    try:
        answer: int = question(pid)
    except OSError:  # macOS: zombies are in no group any more
        return 0
    return answer


def _tell(question: Any, otherwise: Any) -> Any:
    """An answer that other users' processes, and zombies, may refuse."""
    psutil = _load()
    try:
        return question()
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return otherwise


def info(pid: int) -> Info | None:
    """One process with owner, start in wall time, time and memory; None when it is gone."""
    psutil = _load()
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            found = _picture(process)
            found.started_at = process.create_time()
            owner = _tell(process.uids, None)
            times = _tell(process.cpu_times, None)
            memory = _tell(process.memory_info, None)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    found.uid = owner.effective if owner is not None else -1
    found.cpu_seconds = times.user + times.system if times is not None else 0.0
    found.waited_seconds = times.children_user + times.children_system if times is not None else 0.0
    found.memory_bytes = memory.rss if memory is not None else 0
    return found


def start_time(pid: int) -> int | None:
    """See ``model.Identity``."""
    psutil = _load()
    if pid <= 0:
        return None
    try:
        return _start(psutil.Process(pid))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def scan() -> dict[int, Info]:
    """Every visible process, by pid, without owner, wall time, time and memory.

    Not by ``process_iter``: it keeps its objects, and with them the start time of a pid's former owner.
    """
    psutil = _load()
    found = {}
    for pid in psutil.pids():
        if pid <= 0:  # macOS shows its kernel there; to getpgid(2) the number would mean us
            continue
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                found[pid] = _picture(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def descendants(_root: int) -> dict[int, Info] | None:
    """None: there is no way to a process's children but a look at everybody (see ``linux.descendants``)."""
    return None


def pss(pid: int) -> int | None:
    """Bytes of memory, what is shared counted in proportion; None where the system does not tell."""
    psutil = _load()
    try:
        told = getattr(psutil.Process(pid).memory_full_info(), "pss", None)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return None if told is None else int(told)


def open_files(pid: int) -> int | None:
    """How many descriptors a process has; None when closed to us or gone."""
    psutil = _load()
    try:
        number: int = psutil.Process(pid).num_fds()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return number


def io_bytes(_pid: int, alone: bool = False) -> tuple[int, int] | None:
    """None: not known here."""
    return None


def cmdline(pid: int) -> list[str]:
    """argv, empty for kernel threads, zombies and processes closed to us."""
    psutil = _load()
    try:
        words: list[str] = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
    return words


def environ(pid: int, having: str = "") -> dict[str, str] | None:
    """The environment a process was started with; None when closed to us or gone."""
    psutil = _load()
    try:
        pairs: dict[str, str] = psutil.Process(pid).environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if having and having not in pairs and not any(having in value for value in pairs.values()):
        return {} if pairs else None
    return pairs or None


def open_paths(pid: int) -> list[str] | None:
    """The files that its descriptors lead to, those that have been removed left out; None when closed to us."""
    psutil = _load()
    try:
        return [one.path for one in psutil.Process(pid).open_files()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def open_handle(pid: int, start: int) -> PlainHandle | None:
    """A handle of the process with this pid and start time; None when there is none any more."""
    return PlainHandle(pid, start, info) if start_time(pid) == start else None


def plain_handle(pid: int, start: int) -> PlainHandle:
    """The same without a look."""
    return PlainHandle(pid, start, info)


def become_subreaper() -> bool:
    return False


def is_subreaper() -> bool:
    return False


def set_pdeathsig(_signal: int) -> bool:
    return False


def set_name(_name: str) -> None:
    """Nothing: a process is shown by its command line here."""


def oom_kills() -> int | None:
    return None


child_opener = None


def open_child(pid: int, start: int, _fd: int = -1) -> PlainHandle:
    """A handle of a child that nobody has collected yet."""
    return PlainHandle(pid, start, info)


def exit_status(_handle: PlainHandle) -> int | None:
    """None: what was collected cannot be asked for again (see ``linux.exit_status``)."""
    return None


class SignalSource:
    """Signals as something to poll: the interpreter's own C handler writes their numbers into a pipe.

    Left as they were: SIGPIPE and SIGXFSZ, which Python ignores and our own writes raise, and those that the
    processor raises. The pipe holds 16,000 signals and more that nobody has read yet; the ones beyond are lost.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        left_alone = (*PYTHON_IGNORES, *_SYNCHRONOUS, _signal.SIGKILL, _signal.SIGSTOP)
        wanted = [number for number in numbers if number not in left_alone]
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        # A signal that arrives half-way would find a handler and no pipe, so none may arrive.
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        self._wakeup = _signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # The message is the byte in the pipe. A handler that noted the number would run some time after it was read.
        self._handlers = {number: _signal.signal(number, lambda _number, _frame: None) for number in wanted}
        _signal.pthread_sigmask(_signal.SIG_SETMASK, set(self._mask) - set(wanted))

    def fileno(self) -> int:
        return self._reading

    def read(self) -> list[int]:
        """Numbers of the signals that have arrived since the last call, each once, in order."""
        found: dict[int, None] = {}
        try:
            while data := os.read(self._reading, 4096):
                found |= dict.fromkeys(data)
        except BlockingIOError:
            pass
        return [number for number in found if number in self._handlers]

    def close(self) -> None:
        """Everything as it was before."""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        for number, handler in self._handlers.items():
            # None: it was not set from Python, and cannot be given back from there.
            _signal.signal(number, _signal.SIG_DFL if handler is None else handler)
        _signal.set_wakeup_fd(self._wakeup)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        os.close(self._reading)
        os.close(self._writing)


def listeners(port: int) -> set[int]:
    """Nobody can tell here who listens without being root: nothing is known."""
    return set()


def sockets_of(pid: int) -> set[int] | None:
    """Not known here."""
    return None
