"""What the loop sleeps on: epoll(7), or poll(2) elsewhere, and the pipe by which any thread wakes it.

It knows which descriptor is whose and nothing of what is done there. A descriptor is forgotten before it is closed: its
number may be somebody else's a moment later.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from safesh.core import forking
from safesh.core.keeper import KeeperLink
from safesh.process.streams import Feed, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh._platform import Handle
    from safesh.process.job import Job

    End = Stream | Feed | KeeperLink | Handle

_HAS_EPOLL = hasattr(select, "epoll")
_ONCE = 1 << 30  # EPOLLONESHOT, and nothing to wait for
READ, WRITE = 1, 4  # POLLIN and POLLOUT, EPOLLIN and EPOLLOUT


class Poller:
    """The descriptors that are watched, each with its job and what it is of that job.

    blind: the jobs whose end wakes nobody (no pidfd), and that have to be looked at. poll(seconds): the events as poll
    objects tell them; -1 waits for ever. awake: somebody has written to the pipe already; the loop takes that
    back before it looks how long it may sleep.
    """

    def __init__(self) -> None:
        self.watched: dict[int, tuple[Job, End]] = {}
        self.blind: set[Job] = set()
        self.awake = False
        self.wake_read, self._wake_write = forking.make_pipe()
        self._poller: Any = None
        try:
            for fd in (self.wake_read, self._wake_write):
                os.set_blocking(fd, False)
            self._poller = select.epoll() if _HAS_EPOLL else select.poll()
            self._poller.register(self.wake_read, READ)
        except BaseException:
            self.discard()
            raise
        self.poll: Callable[[float], list[tuple[int, int]]] = self._poller.poll if _HAS_EPOLL else self._poll

    def _poll(self, seconds: float) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = self._poller.poll(seconds * 1000 + 1 if seconds >= 0 else -1)
        return found

    def close(self) -> None:
        """Give the poller's own descriptor back, and leave the pipe."""
        if _HAS_EPOLL and self._poller is not None:
            self._poller.close()

    def discard(self) -> None:
        """Nobody will ever sleep here."""
        self.close()
        for fd in (self.wake_read, self._wake_write):
            forking.close_fd(fd)

    # --- from any thread ----------------------------------------------------------------------

    def watch(self, job: Job, end: End, events: int) -> None:
        if isinstance(end, (Stream, Feed)):
            fd = end.fd
        else:
            fd = end.report if isinstance(end, KeeperLink) else end.fileno()
        self.watched[fd] = (job, end)
        try:
            self._poller.register(fd, events)
        except FileExistsError:
            self._poller.modify(fd, events)
        if not _HAS_EPOLL:
            self.wake()

    def watch_blindly(self, job: Job) -> None:
        """It has no descriptor that would tell its end."""
        self.blind.add(job)
        self.wake()

    def pause(self, stream: Stream) -> None:
        """Somebody else reads from this stream for a while.

        A hang-up is told all the same (epoll_ctl(2)), but only once. Changing the mask is cheaper than to leave the set
        and come back.
        """
        if _HAS_EPOLL and stream.fd in self.watched:
            self._poller.modify(stream.fd, _ONCE)
        else:
            self.forget(stream.fd)

    def go_on(self, job: Job, stream: Stream) -> None:
        """After ``pause``."""
        fd = stream.fd
        if fd in self.watched:
            self._poller.modify(fd, READ)
        else:
            self.watch(job, stream, READ)

    def forget(self, fd: int) -> None:
        if self.watched.pop(fd, None) is not None:
            try:
                self._poller.unregister(fd)
            except (OSError, KeyError, ValueError):
                pass

    def forget_job(self, job: Job) -> None:
        """Every descriptor of its that is still open."""
        for stream in (job.out, job.err, job.feed):
            if stream is not None and stream.fd >= 0:
                self.forget(stream.fd)
        if job.handle is not None:
            self.forget(job.handle.fileno())
        if job.link is not None:
            self.forget(job.link.report)
        self.blind.discard(job)

    def close_stream(self, stream: Stream | Feed) -> None:
        self.forget(stream.fd)
        stream.close()

    def wake(self) -> None:
        if not self.awake:
            self.awake = True
            try:
                os.write(self._wake_write, b"x")
            except OSError:
                pass

    def drain_wake(self) -> None:
        """In the loop, when ``wake_read`` is told."""
        try:
            os.read(self.wake_read, 4096)
        except BlockingIOError:
            pass
