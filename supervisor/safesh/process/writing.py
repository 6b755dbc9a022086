"""What a command is told on its standard input, by pid: handed over at once, or by the loop as it is taken."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from safesh.process import loop, registry
from safesh.process.command import as_bytes, parse_timeout
from safesh.process.errors import CommandTimeout, StdinClosed

if TYPE_CHECKING:
    from safesh.process.job import Job


def write_to_process(pid: int, data: str | bytes = b"", timeout: float | None = None, *, close: bool = False) -> int:
    """Write to its standard input; how many bytes. Returns once they are handed over to the kernel.

    Whatever the command says meanwhile is read, so no order of writing and reading can lock up; only a command that
    does not read its input makes this wait, at most ``timeout`` seconds. From one of its own callbacks nothing is
    waited for: the data is queued. close: nothing follows; it then reads its end of file.

    Raises StdinClosed when nobody reads there any more, CommandTimeout (the rest stays queued), NotManaged,
    NoSuchProcess.
    """
    job = registry.need(pid, "writing to it")
    wait = parse_timeout(timeout)
    content = as_bytes(data, job.encoding, "data")
    feed = job.feed
    with job.lock:
        if feed is None or not feed.is_open:
            if not len(content) and close:
                return 0
            raise _closed(job)
        if job.taken is None:
            job.taken = threading.Event()
        job.taken.clear()
        feed.push(content)
        feed.closing = close
        loop.get().serving.push(job)
        if feed.broken:
            raise _closed(job)
        if not feed.waiting:
            return len(content)
    if job.waits_for_itself or loop.is_loop_thread():
        return len(content)
    if not job.taken.wait(wait):
        raise CommandTimeout(
            f"took {len(content) - feed.waiting} of {len(content)} bytes within {wait:g} s; the rest is queued",
            place=f"pid {pid}",
            timeout=wait or 0.0,
        )
    with job.lock:
        if feed.broken:  # what another thread has added meanwhile may wait still
            raise _closed(job)
    return len(content)


def _closed(job: Job) -> StdinClosed:
    why = "it has ended" if job.over or job.exited else "its standard input is closed"
    return StdinClosed(f"{why}; nothing can be written to it", place=f"pid {job.pid}")


def send(job: Job, pid: int, data: str | bytes, close: bool) -> None:
    """Write without waiting: what is not taken at once the loop writes while we listen."""
    content = as_bytes(data, job.encoding, "data")
    with job.lock:
        feed = job.feed
        if feed is None or not feed.is_open:
            raise _closed(job)
        feed.push(content)
        feed.closing = close
        loop.get().serving.push(job)
        if feed.broken:
            raise _closed(job)
