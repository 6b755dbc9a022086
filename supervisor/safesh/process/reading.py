"""Output that nobody has read yet, taken by pid: when it comes, and in whole characters."""

from __future__ import annotations

import codecs
import threading
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.process import registry
from safesh.process.command import parse_timeout, refuse
from safesh.process.ear import Ear
from safesh.process.output import decode, spool

if TYPE_CHECKING:
    from safesh.process.job import Job

_LONGEST = 3  # bytes that a character may have beyond its first


def read_from_process(pid: int, timeout: float | None = 0.0, *, stream: str = "stdout", size: int = -1) -> Any:
    """Output that nobody has read yet: text, or bytes of a command with ``encoding=None``; "" when there is none.

    timeout: seconds to wait for something to come, or the end of it; 0 takes what is there; None waits for ever.
    size: at most so many bytes, but a whole character. What was dropped (``get_process_output_info``) is passed over.

    Raises NotManaged for a process this API did not start, NoSuchProcess for none, InvalidCommand for bad arguments.
    """
    job = registry.need(pid, "reading its output")
    wait = parse_timeout(timeout)
    _check_stream(stream)
    _check_size(size)
    deadline = None if wait is None else monotonic() + wait
    if not job.talk.acquire(timeout=-1 if wait is None else min(wait, threading.TIMEOUT_MAX)):
        return given(job, b"")  # another conversation takes all there is
    try:
        while not (found := _take(job, stream, size)):
            if not _wait_for_output(job, stream, deadline):
                found = _take(job, stream, size)
                break
    finally:
        job.talk.release()
    return given(job, found)


def _check_stream(stream: str) -> None:
    if stream not in ("stdout", "stderr"):
        refuse("stream", f"expected 'stdout' or 'stderr', not {stream!r}")


def _check_size(size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size == 0 or size < -1:
        refuse("size", f"expected bytes above 0, not {size!r}", "-1 for all there are")


def given(job: Job, data: bytes) -> Any:
    return data if job.encoding is None else decode(job, data)


def _take(job: Job, stream: str, size: int = -1) -> bytes:
    """What is unread; whole characters only, and at least one, as long as more may come."""
    with job.lock:
        store = spool(job, stream)
        if store is None:
            return b""
        data = job.rest.pop(stream, b"")
        data += store.read(max(0, size + _LONGEST - len(data)) if size >= 0 else -1)
        cut = len(data) if size < 0 else min(size, len(data))
        if job.encoding is not None and cut:
            torn = _unfinished(data[:cut], job.encoding)
            ours = job.out if stream == "stdout" else job.err
            if torn and (cut < len(data) or (ours is not None and ours.fd >= 0)):
                if torn < cut:
                    cut -= torn
                else:
                    while torn and cut < len(data):
                        cut += 1
                        torn = _unfinished(data[:cut], job.encoding)
                    if torn and ours is not None and ours.fd >= 0:
                        cut = 0
        if cut < len(data):
            job.rest[stream] = data[cut:]
        return data[:cut]


def _unfinished(data: bytes, encoding: str) -> int:
    """Bytes at the end that begin a character and do not finish it."""
    if encoding.replace("_", "-").lower() not in ("utf-8", "utf8"):
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        decoder.decode(data)
        return len(decoder.getstate()[0])
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if length > back else 0
    return 0


def _wait_for_output(job: Job, stream: str, deadline: float | None) -> bool:
    """Until something is unread, or False: nothing came in time, or nothing more can come.

    Reads in this very thread, without a hand-over.
    """
    ours = job.out if stream == "stdout" else job.err
    store = spool(job, stream)
    if ours is None or store is None:
        return False
    with Ear(job, ours) as ear:
        while not store.unread and ear.hear(deadline):
            pass
    return store.unread > 0


def get_process_output_info(pid: int, *, stream: str = "stdout") -> dict[str, int]:
    """``{"size", "lines", "dropped", "unread"}``: bytes and newlines so far, bytes gone before anybody read them."""
    job = registry.need(pid, "asking for its output")
    _check_stream(stream)
    with job.lock:
        store = spool(job, stream)
        if store is None:
            return {"size": 0, "lines": 0, "dropped": 0, "unread": 0}
        return {
            "size": store.size,
            "lines": store.lines,
            "dropped": store.dropped,
            "unread": store.unread + len(job.rest.get(stream, b"")),
        }
