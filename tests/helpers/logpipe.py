"""A pipe, the Capture that empties it, and all that it left on the disk."""

from __future__ import annotations

import gzip
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safesh.core.output import Capture
from safesh.model import LogPolicy

PLAIN = LogPolicy(size=0)


class Rig:
    """A capture at work. sink: the target's end of the pipe; events: what it told, (name, fields)."""

    def __init__(self, path: Path, policy: LogPolicy = PLAIN, echo: int | None = None) -> None:
        self.path = path
        self.events: list[tuple[str, dict[str, Any]]] = []
        source, self.sink = os.pipe()
        try:
            self.capture = Capture(source, str(path), policy, echo, lambda *event: self.events.append(event))
        except BaseException:
            os.close(source)
            os.close(self.sink)
            raise
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Write like a target, pump like a supervisor, until all of it has left the pipe."""
        os.set_blocking(self.sink, False)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.sink, view[:4096]) :]
            except BlockingIOError:
                self.pump()
        self.pump()

    def pump(self) -> None:
        """Until the pipe is empty."""
        watch = select.poll()
        watch.register(self.capture.fileno(), select.POLLIN)
        while not self.ended and watch.poll(0):
            self.ended = not self.capture.pump()

    def release(self) -> None:
        """Close the target's end."""
        if self.sink >= 0:
            os.close(self.sink)
            self.sink = -1

    def run(self, deadline: float = 60, also: Callable[[], None] = lambda: None) -> None:
        """The supervisor's loop until every writer is gone; the test's own end is closed first."""
        self.release()
        limit = time.monotonic() + deadline
        while not self.ended:
            watch = select.poll()
            watch.register(self.capture.fileno(), select.POLLIN)
            if self.capture.wants_write:
                watch.register(self.capture.echo_fileno(), select.POLLOUT)
            assert watch.poll(max(0, limit - time.monotonic()) * 1000), "the writers did not end in time"
            self.capture.flush_echo()
            self.ended = not self.capture.pump()
            also()

    def reap(self, deadline: float = 30) -> None:
        """Collect compressing children, as the supervisor's reaper does, until there is none."""
        limit = time.monotonic() + deadline
        while pid := self.capture.compressor_pid():
            assert time.monotonic() < limit, "compression did not end"
            fd = os.pidfd_open(pid)
            try:
                select.select([fd], [], [], deadline)
            finally:
                os.close(fd)
            assert self.capture.reaped(*os.waitpid(pid, 0))

    def close(self) -> None:
        self.release()
        self.capture.close()


@contextmanager
def rig(path: Path, policy: LogPolicy = PLAIN, echo: int | None = None) -> Iterator[Rig]:
    made = Rig(path, policy, echo)
    try:
        yield made
    finally:
        made.close()


def parts_of(path: Path) -> list[Path]:
    """The rotated files, oldest first."""
    names = [one for one in path.parent.iterdir() if one.name.startswith(path.name + ".")]
    return sorted(names, key=lambda one: int(one.name.removesuffix(".gz").rpartition(".")[2]))


def content_of(path: Path) -> bytes:
    """One file of a log, unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def whole(path: Path) -> bytes:
    """All of a log, rotated parts first."""
    files = [*parts_of(path), path] if path.exists() else parts_of(path)
    return b"".join(content_of(one) for one in files)


def numbered(count: int, start: int = 0) -> bytes:
    """Lines that tell their number, of different lengths."""
    return b"".join(b"%08d %s\n" % (n, b"x" * (n * 7 % 61)) for n in range(start, start + count))


def save_rest(pipe_fd: int, path: str) -> int:
    """As the keeper of a vanished supervisor does: append what is left in the pipe; bytes that could not be written."""
    capture = Capture(pipe_fd, path, LogPolicy(size=0, keep=0))
    try:
        capture.drain(time.monotonic() + 5)
    finally:
        capture.close()
    return capture.lost_bytes
