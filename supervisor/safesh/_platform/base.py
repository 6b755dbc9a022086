"""What both platforms share: the picture of one process, and a handle without a descriptor."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    import signal as _signal
else:
    import _signal


class Info:
    """One process at one moment.

    state: the kernel's letter; start: see ``model.Identity``; cpu_seconds: user + system;
    memory_bytes: resident; started_at: wall time.
    """

    __slots__ = (
        "command", "cpu_seconds", "memory_bytes", "pgid", "pid", "ppid", "sid", "start", "started_at", "state", "uid"
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

    @property
    def dead(self) -> bool:
        """A zombie, or being released: nothing left to signal."""
        return self.state in "ZX"


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


# Python's own start-up ignores these two; a program that we start must not inherit that.
PYTHON_IGNORES = tuple(getattr(_signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(_signal, name))
