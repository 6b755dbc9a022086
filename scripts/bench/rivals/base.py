"""What a rival is: something that starts programs and says how to talk to it; and the hall in which it does so.

Everything that a hall starts carries ``BENCH_HALL=<its mark>`` in its environment, so that it can be found again
from outside, by nobody's word but the kernel's.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from bench.stage import DEADLINE, BenchError, Stage

MARK = "BENCH_HALL"
_NUMBERS = itertools.count()


Programs = dict[str, list[str]]  # name -> command line


class How(NamedTuple):
    """How programs are to be run.

    log: a folder where it keeps what the programs print, its usual rotation included; "": thrown away, or kept
    as cheaply as it can. restart: a program that ends is started again, by its own rules. grace: seconds between
    SIGTERM and SIGKILL; None: its own. alone: with an interpreter that nobody else maps, for PSS.
    """

    log: str
    restart: bool
    grace: float | None
    alone: bool


class Rival(ABC):
    """One that starts programs. Made by :func:`bench.rivals.find` when it is here.

    kind: ``daemon``: one that stays and is told by commands; ``wrapper``: a command around the program's own.
    runtime: ``python``, ``node`` or ``c``: whose bare start is the limit of its commands.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["daemon", "wrapper"]] = "daemon"
    runtime: ClassVar[Literal["python", "node", "c"]] = "c"
    ours: ClassVar[bool] = False
    no_wrap: ClassVar[str] = "has no command that ends with the program"
    waits: ClassVar[bool] = True  # its command for stopping returns when the program has ended
    room: ClassVar[Callable[[Any, Stage, Programs, How], Hall]]

    def __init__(self, version: str, folder: Path | None = None) -> None:
        """folder: where its commands lie; None: in PATH."""
        self.version = version
        self.folder = folder

    def program(self, name: str) -> str:
        """The path of one of its commands."""
        found = shutil.which(name, path=str(self.folder) if self.folder else None)
        if found is None:
            raise BenchError(f"{self.name}: its command {name} is not here")
        return found

    @property
    def changes(self) -> dict[str, str]:
        """What the environment needs for its commands (LD_LIBRARY_PATH), besides the hall's own."""
        return {}

    def running(
        self,
        stage: Stage,
        programs: Programs,
        *,
        log: str = "",
        restart: bool = False,
        grace: float | None = None,
        alone: bool = False,
    ) -> Hall:
        """A context manager: the supervisor is there and answers, none of the programs runs yet. See :class:`How`."""
        return self.room(self, stage, programs, How(log, restart, grace, alone))

    def wrap(self, stage: Stage, command: Sequence[str]) -> tuple[list[str], dict[str, str]] | None:
        """A command line that runs ``command`` to its end and ends with it, and changes to the environment."""
        return None


class Hall(ABC):
    """A rival at work for a ``with`` block. Every command line is to be run with ``**hall.changes``:
    ``stage.time(hall.start("a"), **hall.changes)``.

    None in the place of a command line: the rival has no such thing.
    """

    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        self.rival = rival
        self.stage = stage
        self.programs = programs
        self.how = how
        # Short: a unix socket's path has at most 107 bytes (unix(7)).
        self.folder = stage.folder / f"{rival.name}-{next(_NUMBERS)}"
        self.folder.mkdir()
        self.mark = f"{stage.folder.name}-{self.folder.name}"
        self.changes: dict[str, str] = {**rival.changes, MARK: self.mark}
        self.own: dict[str, str] = {}  # changes for the supervisor alone
        self.cleared: list[int] = []  # who was still there at the very end
        self.children: dict[str, subprocess.Popen[bytes]] = {}  # "": the daemon; else a wrapper's, by program

    # ---- the control commands, to be timed

    @abstractmethod
    def start(self, name: str) -> list[str] | None:
        """Start a program. A daemon's returns; a wrapper's is the wrapping command itself and stays."""

    @abstractmethod
    def status(self, name: str) -> list[str] | None:
        """Whether it runs, for people; exit status 0 while it does."""

    @abstractmethod
    def stop(self, name: str) -> list[str] | None:
        """End it; returns when the rival says that it is ended, or as soon as it can say anything."""

    # ---- who is who

    @abstractmethod
    def pids(self) -> list[int]:
        """The supervisor's own processes, not the programs'."""

    @abstractmethod
    def program_pid(self, name: str) -> int | None:
        """The pid of the program's first process; None: not running."""

    # ---- for whoever doesn't time anything

    def begin(self, name: str, deadline: float = DEADLINE) -> int:
        """Start a program in whatever way, wait until it has a pid."""
        command = self.start(name)
        assert command is not None
        if self.rival.kind == "wrapper":
            self.children[name] = self.stage.begin(command, **self.changes, **self.own)
        else:
            self.stage.call(command, deadline, **self.changes)
        return self.wait_for([name], deadline)[0]

    def begin_all(self) -> list[int]:
        """Start all of them; their pids."""
        return [self.begin(name) for name in self.programs]

    def wait_for(self, names: Sequence[str], deadline: float = DEADLINE) -> list[int]:
        """The pids of programs that are being started."""
        limit = time.monotonic() + deadline
        found = []
        for name in names:
            while (pid := self.program_pid(name)) is None:
                if time.monotonic() > limit:
                    raise BenchError(f"{self.rival.name}: {name} doesn't run after {deadline:g} s")
                time.sleep(0.02)
            found.append(pid)
        return found

    def end(self, name: str, deadline: float = DEADLINE) -> None:
        """Stop a program in whatever way: its command, or SIGTERM to the wrapper."""
        command = self.stop(name)
        child = self.children.pop(name, None)
        if child is not None:
            self.stage.end(child, deadline)
        elif command is not None:
            self.stage.call(command, deadline, **self.changes)

    # ---- from beginning to end

    @abstractmethod
    def open(self) -> None:
        """Start the supervisor and return when it answers."""

    def close(self) -> None:
        """End the programs and the supervisor, in the way of its manual; twice is once."""
        for name in [name for name in self.children if name]:
            self.end(name)
        if daemon := self.children.pop("", None):
            self.stage.end(daemon, 30.0)

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self.cleared = end_marked(self.mark)
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- help for the adapters

    def daemon(self, command: Sequence[str], ready: Callable[[], object], deadline: float = DEADLINE) -> None:
        """Start the supervisor in the foreground; wait until ``ready`` neither raises nor is False."""
        child = self.children[""] = self.stage.begin(command, **self.changes, **self.own)
        limit = time.monotonic() + deadline
        while True:
            try:
                if ready() is not False:
                    return
                why = "not ready"
            except (BenchError, OSError) as error:
                why = str(error)
            if child.poll() is not None or time.monotonic() > limit:
                raise BenchError(f"{self.rival.name} doesn't answer: {why}")
            time.sleep(0.05)

    def ask(self, *command: str, deadline: float = DEADLINE) -> str:
        """What a control command says; "" when it fails."""
        try:
            return self.stage.call(command, deadline, **self.changes)
        except BenchError:
            return ""


class Wrapping(Hall):
    """A wrapper's: nobody to ask, so the kernel is. First ``begin(name)``, or ``children[name] = stage.begin(...)``.

    between: how many generations of its own it puts between itself and the program.
    """

    between = 0

    def status(self, name: str) -> None:
        return None

    def stop(self, name: str) -> None:
        return None

    def pids(self) -> list[int]:
        """The wrappers, and what they put between them and the programs."""
        living = [child.pid for child in self.children.values() if child.poll() is None]
        return [pid for one in living for place in range(self.between + 1) for pid in below(one, place)]

    def program_pid(self, name: str) -> int | None:
        child = self.children.get(name)
        found = below(child.pid, self.between + 1) if child and child.poll() is None else []
        return found[0] if found else None

    def open(self) -> None:
        """There is nothing before a program."""


# ---- processes, as the kernel tells them


def gone(pid: int, deadline: float) -> bool:
    """Wait until a process has ended (a zombie has). pidfd_open(2): also where it is nobody's child here."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(deadline * 1000))
    finally:
        os.close(descriptor)


def children(pid: int) -> list[int]:
    """Of a living process, of all its threads."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    except OSError:
        pass
    return found


def below(pid: int, generations: int) -> list[int]:
    """Its children's children's ...; in the order of their birth."""
    found = [pid]
    for _ in range(generations):
        found = [one for parent in found for one in children(parent)]
    return found


def has_mark(pid: int, mark: str) -> bool:
    """Alive (a zombie has no environment), and executed with the mark, or forked by one that was."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # gone, or another user's


def marked(mark: str) -> list[int]:
    """Everybody with the mark but this process."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and has_mark(pid, mark)]


def end_marked(mark: str, deadline: float = 10.0) -> list[int]:
    """End whoever a hall has left behind. SIGKILL by pidfd, so never a pid that was given to another meanwhile."""
    ended: list[int] = []
    limit = time.monotonic() + deadline
    while (left := marked(mark)) and time.monotonic() < limit:
        for pid in left:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if has_mark(pid, mark):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    ended.append(pid)
            except ProcessLookupError:
                pass
            finally:
                os.close(descriptor)
        for pid in left:
            gone(pid, 1.0)
    return ended
