"""What both platforms share: the picture of one process, and a handle without a descriptor."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal


class Info:
    """One process at one moment.

    state: the kernel's letter; start: see ``model.Identity``; cpu_seconds: user + system; waited_seconds: the same of
    its descendants that have ended and been waited for; memory_bytes: resident; started_at: wall time.
    """

    __slots__ = (
        "command", "cpu_seconds", "memory_bytes", "pgid", "pid", "ppid", "sid", "start", "started_at", "state",
        "threads", "uid", "waited_seconds"
    )  # fmt: skip

    def __init__(
        self,
        pid: int,
        ppid: int,
        pgid: int,
        sid: int,
        state: str,
        start: int,
        *,
        command: str = "",
        uid: int = -1,
        cpu_seconds: float = 0.0,
        memory_bytes: int = 0,
        started_at: float = 0.0,
        threads: int = 1,
        waited_seconds: float = 0.0,
    ) -> None:
        self.pid = pid
        self.ppid = ppid
        self.pgid = pgid
        self.sid = sid
        self.state = state
        self.start = start
        self.command = command
        self.uid = uid
        self.cpu_seconds = cpu_seconds
        self.memory_bytes = memory_bytes
        self.started_at = started_at
        self.threads = threads
        self.waited_seconds = waited_seconds

    @property
    def dead(self) -> bool:
        """A zombie, or being released: nothing left to signal. A leader that ended before its threads is not dead."""
        return self.state in "ZX" and self.threads <= 1


class PlainHandle:
    """A process told by pid and start time, checked before every signal; for kernels without pidfds."""

    def __init__(self, pid: int, start: int, look: Callable[[int], Info | None]) -> None:
        self.pid = pid
        self.start = start
        self._look = look

    def fileno(self) -> int:
        """-1: there is nothing to poll."""
        return -1

    def alive(self) -> bool:
        info = self._look(self.pid)
        return info is not None and info.start == self.start and not info.dead

    def send(self, signal: int) -> bool:
        """True when sent, False when the process is gone; PermissionError when it may not be signalled."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, signal)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        pass


def reopen(fd: int, flags: int) -> int:
    """A descriptor of the terminal behind ``fd`` with an open file description of its own.

    OSError where there is no second way to it; pipes have none here.
    """
    return os.open(os.ttyname(fd), flags | os.O_NOCTTY | os.O_CLOEXEC)


def tee(_source: int, _sink: int, _length: int) -> int:
    """-1: bytes of a pipe cannot be looked at without taking them (see ``linux.tee``)."""
    return -1


# Python's own start-up ignores these two; a program that we start must not inherit that.
PYTHON_IGNORES = tuple(getattr(_signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(_signal, name))
