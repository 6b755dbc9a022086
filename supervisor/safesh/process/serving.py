"""What the loop does for one descriptor that has something to tell: output, room for input, a keeper's word, an end.

Nothing here waits. Who reads a stream is either the loop or a conversation (``ear``), to which it is lent; the job's
lock decides between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.core.keeper import KeeperLink
from safesh.process import kept
from safesh.process.poller import READ, WRITE
from safesh.process.streams import Feed, Stream

if TYPE_CHECKING:
    from safesh.process.departures import Departures
    from safesh.process.job import Job
    from safesh.process.poller import End, Poller
    from safesh.process.timers import Timers

_KEEP_LENT = 0.02  # seconds after an exchange in which the next one is likely


class Serving:
    """The steps between what the poller tells and what becomes of it."""

    def __init__(self, poller: Poller, timers: Timers, departures: Departures) -> None:
        self._poller = poller
        self._timers = timers
        self._departures = departures

    def serve(self, fd: int, job: Job, end: End) -> None:
        poller = self._poller
        with job.lock:
            if end is job.heard or poller.watched.get(fd, (None, None))[1] is not end:
                return
            if isinstance(end, Stream):
                if not end.pump():
                    poller.close_stream(end)
                elif job.full and end.deliver is not None:
                    self._hold_back(job, end)
                    return
                else:
                    return
            elif isinstance(end, Feed):
                self.pump_feed(job, end)
                return
            elif isinstance(end, KeeperLink):
                self._listen(job, end)
            elif not end.alive():
                poller.forget(fd)
                job.exited = True
            else:
                return
        if job.heard is not None:
            self._take_back_idle(job, job.heard)
        self._departures.progress(job)

    # --- input --------------------------------------------------------------------------------

    def push(self, job: Job) -> None:
        """Something was added to the job's feed: write it, now or when it is taken. With ``job.lock`` held."""
        if job.feed is not None and job.feed.fd >= 0:
            self.pump_feed(job, job.feed)

    def pump_feed(self, job: Job, feed: Feed) -> None:
        """With ``job.lock`` held."""
        if feed.pump():
            if feed.fd not in self._poller.watched:
                self._poller.watch(job, feed, WRITE)
            return
        if feed.over:
            self._poller.close_stream(feed)
        else:
            self._poller.forget(feed.fd)
        if job.taken is not None:
            job.taken.set()

    # --- output that is held back -------------------------------------------------------------

    def _hold_back(self, job: Job, stream: Stream) -> None:
        """Callbacks are behind: nothing more is read until they have caught up, and the pipe holds the child back."""
        self._poller.forget(stream.fd)
        job.held_back.append(stream)
        if job.outlet is not None and job.take is None:
            job.outlet.on_room = lambda: self.resume(job)
        if not job.full:  # they caught up meanwhile
            self.resume(job)

    def resume(self, job: Job) -> None:
        """Read on where ``_hold_back`` stopped; from any thread."""
        with job.lock:
            held, job.held_back = job.held_back, []
            for stream in held:
                if stream.fd >= 0 and stream is not job.heard:
                    self._poller.watch(job, stream, READ)

    # --- output that is lent ------------------------------------------------------------------

    def lend(self, job: Job, stream: Stream) -> None:
        """Somebody else reads from this stream for a while, and the loop does not. With ``job.lock`` held.

        What the poller tells of it all the same ``serve`` passes over.
        """
        job.heard = stream
        self._poller.pause(stream)

    def lend_for_now(self, job: Job, stream: Stream) -> None:
        """Lent until some moments after the last exchange, so that a conversation of many short ones pays only once.

        With ``job.lock`` and ``job.talk`` held.
        """
        self.lend(job, stream)
        self._timers.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))

    def _take_back_idle(self, job: Job, stream: Stream) -> None:
        if job.heard is not stream or stream.fd < 0:
            return
        if not job.talk.acquire(False):
            self._timers.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))
            return
        try:
            with job.lock:
                if job.heard is stream:
                    if not job.exited and monotonic() - job.heard_at < _KEEP_LENT:
                        self._timers.after(_KEEP_LENT, lambda: self._take_back_idle(job, stream))
                    else:
                        self.take_back(job, stream)
        finally:
            job.talk.release()

    def take_back(self, job: Job, stream: Stream) -> None:
        """With ``job.lock`` held."""
        job.heard = None
        if stream.fd >= 0:
            self._poller.go_on(job, stream)

    # --- what a keeper says -------------------------------------------------------------------

    def _listen(self, job: Job, link: KeeperLink) -> None:
        messages, more = link.read()
        for message in messages:
            self.hear(job, message)
        if not more:
            self._poller.forget(link.report)
            job.keeper_gone = True
            if not job.kept_done:
                kept.lost(job)

    def hear(self, job: Job, message: dict[str, Any]) -> None:
        if kept.hear(job, message):
            job.kept_done = True
