"""Which system call fails how: what processes of ours really call, and what the manual page of each lets it answer."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from faults.namespace import ROOT

# Scenario -> (its target, the backend, its steps). A step: "ROLE: words" is a command, by which it can be traced;
# "ROLE&: words" one that lasts until the others have ended; "kill ROLE" is SIGKILL to a holder; "wait" lets the target
# do something.
START, STOP = "start: start --detach T", "stop: stop --force T"
LIFE = (START, "wait", "status: status --json T", "restart: restart --force T", STOP)
SCENARIOS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "life": ("daemon", "cgroup", LIFE),
    "log": ("logger", "subreaper", LIFE),
    "portable": ("calm", "posix", LIFE),
    "crash": ("crasher", "cgroup", (START, "wait", "wait", "wait", STOP)),
    "probed": ("patient", "subreaper", (START, "health: health --json T", STOP)),
    "terminal": ("logger", "subreaper", ("start&: start T", "wait", "status: status T", STOP)),
    "orphan": ("daemon", "subreaper", (START, "kill supervisor", STOP)),
    "undertaker": ("deaf", "cgroup", (START, "kill keeper", "wait", STOP)),
    "strays": ("daemon", "cgroup", (START, "kill both", STOP)),
    "replace": ("daemon", "subreaper", (START, "kill both", "start2: start --replace --force --detach T")),
}

_FILES = ("EIO", "EACCES", "ENOMEM")
_SCARCE = ("EMFILE", "ENFILE", "ENOMEM")
# Errors by section 2 of the manual, of calls that are right: the machine's fault, not the caller's. ``+``: that call
# and every one of its kind after it.
ERRORS: dict[str, tuple[str, ...]] = {
    "openat": ("EMFILE", "EMFILE+", "ENFILE", "ENOMEM", "ENOSPC", "EIO", "EACCES", "EINTR", "EROFS", "EDQUOT"),
    "read": ("EIO", "EINTR"),
    "pread64": ("EIO",),
    "write": ("ENOSPC", "ENOSPC+", "EIO", "EDQUOT", "EINTR", "EFBIG"),
    "pwrite64": ("ENOSPC", "EIO", "EINTR"),
    "rename": ("ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT"),
    "unlink": ("EIO", "EACCES", "EROFS", "EPERM"),
    "mkdir": ("ENOSPC", "EACCES", "EROFS", "EMLINK"),
    "rmdir": ("EBUSY", "EIO", "EACCES"),
    "chmod": ("EPERM", "EIO", "EROFS"),
    "ftruncate": ("EIO", "EPERM", "EINTR"),
    "fsync": ("EIO", "ENOSPC"),
    "clone": ("EAGAIN", "ENOMEM", "EAGAIN+"),
    "clone3": ("EAGAIN", "ENOMEM", "EAGAIN+", "EBUSY", "EOPNOTSUPP", "ENOSYS", "EACCES"),
    "fork": ("EAGAIN", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "execve": ("ENOMEM", "EIO", "EMFILE", "EACCES"),
    "pidfd_open": ("EMFILE", "EMFILE+", "ENFILE", "ENOMEM", "ENODEV", "ENOSYS", "EPERM"),
    "pidfd_send_signal": ("EPERM",),
    "kill": ("EPERM",),
    "wait4": ("EINTR",),
    "waitid": ("EINTR",),
    "poll": ("EINTR", "ENOMEM"),
    "ppoll": ("EINTR", "ENOMEM"),
    "socket": (*_SCARCE, "EMFILE+", "EACCES", "ENOBUFS"),
    "bind": ("EADDRINUSE", "EACCES", "ENOMEM", "EROFS", "ENOSPC"),
    "listen": ("EADDRINUSE",),
    "accept4": (*_SCARCE, "EMFILE+", "ECONNABORTED", "EINTR"),
    "connect": ("ECONNREFUSED", "EAGAIN", "EINTR", "EACCES"),
    "sendto": ("ENOMEM", "ENOBUFS", "EPIPE", "ECONNRESET"),
    "recvfrom": ("ENOMEM", "ECONNRESET", "EINTR"),
    "recvmsg": ("ENOMEM", "ECONNRESET", "EINTR"),
    "sendmsg": ("ENOMEM", "ENOBUFS", "EPIPE"),
    "splice": ("ENOMEM", "EIO", "ENOSPC", "EINVAL", "ENOSPC+"),
    "tee": ("ENOMEM", "EINVAL"),
    "pipe2": ("EMFILE", "ENFILE", "EMFILE+"),
    "dup": ("EMFILE",),
    "dup2": ("EBUSY", "EINTR"),
    "flock": ("EINTR", "ENOLCK"),
    "prctl": ("EINVAL", "EPERM"),
    "setsid": ("EPERM",),
    "getdents64": ("EIO", "ENOMEM"),
    "newfstatat": _FILES,
    "statx": _FILES,
    "readlink": _FILES,
    "mmap": ("ENOMEM", "ENOMEM+"),
    "signalfd4": _SCARCE,
    "epoll_create1": _SCARCE,
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_wait": ("EINTR",),
    "chdir": _FILES,
    "fchdir": ("EACCES",),
    "close_range": ("ENOMEM", "ENOSYS", "EPERM"),
    "getcwd": ("ENOENT", "ENOMEM"),
    "getrandom": ("EINTR",),
    "timerfd_create": _SCARCE,
    "memfd_create": _SCARCE,
    "eventfd2": _SCARCE,
    "inotify_init1": _SCARCE,
}
# Of a call on a pipe or a socket these make no sense; there is no disk.
_OF_DISKS = {"ENOSPC", "ENOSPC+", "EDQUOT", "EFBIG", "EIO", "EROFS"}
_DELAYED = {
    "rename", "write", "unlink", "flock", "clone", "clone3", "wait4", "waitid", "poll", "accept4", "connect", "kill",
    "pidfd_send_signal", "pidfd_open", "execve", "openat", "mkdir", "rmdir", "bind", "listen", "sendto",
}  # fmt: skip
_NOT_KILLED = {"exit_group", "restart_syscall"}
# Loading our own program, or Python's: what cannot be read cannot be run, and cannot explain itself either.
_CODE = re.compile(rf"\.pyc?\b|__pycache__|/lib/python|\.so\b|ld\.so|{re.escape(str(ROOT))}/(supervisor|\.venv)")
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")


RENDEZVOUS = '.go", O_RDONLY'


class Point(NamedTuple):
    """One call of a recorded run: the ``number``-th ``call`` of that process. loads: it was to load code."""

    scenario: str
    role: str
    call: str
    number: int
    text: str
    loads: bool


class Case(NamedTuple):
    """What is injected where. how: error=E, error=E+ (that call and all after it), signal=KILL, delay=MICROSECONDS."""

    scenario: str
    role: str
    call: str
    number: int
    how: str
    loads: bool = False

    def __str__(self) -> str:
        return f"{self.scenario}/{self.role}/{self.call}/{self.number}/{self.how}" + ("/loads" if self.loads else "")

    @classmethod
    def read(cls, text: str) -> Case:
        scenario, role, call, number, how, *loads = text.split("/")
        return cls(scenario, role, call, int(number), how, bool(loads))

    @property
    def strace(self) -> str:
        """For ``strace -e inject=``."""
        kind, _, value = self.how.partition("=")
        when = f"{self.number}{'+' if value.endswith('+') else ''}"
        option = {"error": "error=", "signal": "signal=SIG", "delay": "delay_enter="}[kind]
        return f"{self.call}:{option}{value.rstrip('+')}:when={when}"


def roles(scenario: str) -> list[str]:
    """Who can be traced in it."""
    steps = SCENARIOS[scenario][2]
    return [*(step.partition(":")[0].removesuffix("&") for step in steps if ":" in step), "supervisor", "keeper"]


def points(scenario: str, role: str, lines: Iterable[str]) -> Iterator[Point]:
    """The calls of a recording by ``strace -y``."""
    numbers: Counter[str] = Counter()
    for line in lines:
        found = _LINE.match(line)
        if found:
            call, rest = found.groups()
            numbers[call] += 1
            if not (call == "openat" and RENDEZVOUS in rest):  # there we wait for strace itself
                yield Point(scenario, role, call, numbers[call], rest[:160], bool(_CODE.search(rest)))


def cases(one: Point) -> Iterator[Case]:
    """All that can happen at a point."""
    what = [f"error={error}" for error in ERRORS.get(one.call, ()) if not _senseless(one, error)]
    if one.call not in _NOT_KILLED:
        what.append("signal=KILL")
    if one.call in _DELAYED and not one.loads:
        what.append("delay=40000")
    for how in what:
        yield Case(one.scenario, one.role, one.call, one.number, how, one.loads)


def _senseless(one: Point, error: str) -> bool:
    pipe = "<pipe:" in one.text or "<socket:" in one.text or "<UNIX" in one.text or "signalfd" in one.text
    if pipe and one.call in ("read", "write") and error in _OF_DISKS:
        return True
    if "/proc/" in one.text and error in _OF_DISKS:
        return True
    if error == "EINTR" and one.call == "openat" and "O_DIRECTORY" in one.text:
        return True  # only the opening of a pipe or a slow device can be interrupted
    if one.call in ("mmap", "newfstatat", "readlink", "getdents64") and one.loads:
        return True
    # Who writes into a pipe that nobody reads gets the signal, too.
    return one.call == "mmap" and "MAP_ANONYMOUS" not in one.text


def choose(everything: list[Point], count: int, rng: random.Random) -> tuple[list[Case], int]:
    """(``count`` cases, of each kind of call, role and error in turn; how many there are in all)."""
    kinds: dict[tuple[str, ...], list[Case]] = {}
    total = 0
    for one in everything:
        for case in cases(one):
            total += 1
            # Loading code is one kind, however it fails.
            kind = ("loads", case.role) if case.loads else (case.role, case.call, case.how)
            kinds.setdefault(kind, []).append(case)
    for found in kinds.values():
        rng.shuffle(found)
    order = sorted(kinds)
    rng.shuffle(order)
    chosen: list[Case] = []
    while len(chosen) < min(count, total):
        for kind in order:
            if kinds[kind] and len(chosen) < count:
                chosen.append(kinds[kind].pop())
    return chosen, total
