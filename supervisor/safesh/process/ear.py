"""How a conversation listens: it reads the stream in its own thread, for as long as the loop lends it.

A hand-over from the loop to whoever waits would cost more than the answer of a fast command takes.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from safesh.clock import monotonic
from safesh.process import loop
from safesh.process.output import spool

if TYPE_CHECKING:
    from safesh.process.job import Job
    from safesh.process.streams import Stream

GLANCE = 0.5  # seconds between two looks whether a silent conversation has anybody left to talk to


class Ear:
    """Takes a stream over from the loop for as long as a conversation lasts."""

    def __init__(self, job: Job, stream: Stream) -> None:
        self.job = job
        self.stream = stream
        self._lent = False

    def __enter__(self) -> Ear:
        job = self.job
        with job.lock:
            fd = self.stream.fd
            if fd >= 0:
                self._lent = True
                loop.get().serving.lend(job, self.stream)
                if job.ear is None or job.ear[0] != fd:
                    poll = select.poll()
                    poll.register(fd, select.POLLIN)
                    job.ear = (fd, poll)
        return self

    def hear(self, deadline: float | None) -> bool:
        """Wait for bytes and take them into the store; False at the deadline and at the end of the output."""
        stream, job = self.stream, self.job
        while True:
            if stream.fd < 0 or job.ear is None:
                return False
            wait = GLANCE if deadline is None else min(deadline - monotonic(), GLANCE)
            if job.ear[1].poll(max(wait, 0.0) * 1000 + 0.999):
                break
            if deadline is not None and monotonic() >= deadline:
                return False
            # The end of a run whose output an outsider keeps open closes it, and nothing here wakes for that.
            store = spool(job, stream.name)
            if store is not None and store.unread:
                return True  # drained by whoever saw the run off
        with job.lock:
            if stream.fd < 0:
                return False
            if stream.pump():
                return True
            loop.get().poller.close_stream(stream)
        loop.get().departures.progress(job)
        return False

    def __exit__(self, *_exception: object) -> None:
        if self._lent:
            with self.job.lock:
                loop.get().serving.take_back(self.job, self.stream)
