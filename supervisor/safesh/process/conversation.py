"""A message there and its answer back, by pid; one conversation at a time, and no byte of the next answer taken.

A short line against a short line is what a command is asked thousands of times: ``_exchange`` does that for little more
than its system calls, and leaves everything else to the long way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.process import loop, registry
from safesh.process.command import as_bytes, parse_timeout, refuse
from safesh.process.ear import GLANCE, Ear
from safesh.process.errors import CommandTimeout, NotManaged
from safesh.process.output import show, spool
from safesh.process.reading import given
from safesh.process.spool import Spool
from safesh.process.writing import send

if TYPE_CHECKING:
    from safesh.process.job import Job
    from safesh.process.streams import Stream

    Until = str | bytes | re.Pattern[str] | re.Pattern[bytes] | Callable[[Any], object] | None

_ANSWER = 1 << 14


def communicate_with_process(
    pid: int, data: str | bytes = b"", timeout: float | None = 10.0, until: Until = "\n", *, close: bool = False
) -> Any:
    """Send a message and return the answer: all unread output up to and with ``until``, and no byte more.

    until: text or bytes that ends the answer, a compiled pattern, or a function of the output so far that says true;
    None takes everything to the end of the output. What comes after stays unread. One conversation at a time.

    Raises CommandTimeout when the answer was not there within ``timeout`` seconds: what had come stays unread.
    StdinClosed when the message could not be sent; an output that ends before ``until`` is returned as it is.
    """
    job = registry.need(pid, "talking to it")
    began = monotonic()
    if until == "\n" and not close:
        sent, answer = _exchange(job, data, timeout)
        if answer is not None:
            return given(job, answer)
        if sent:
            data = b""
    wait = parse_timeout(timeout)
    deadline = None if wait is None else began + wait
    find = _finder(until, job)
    as_bytes(data, job.encoding, "data")
    stream = job.out
    store = spool(job, "stdout")
    if stream is None or store is None:
        raise NotManaged("its output is not kept here", place=f"pid {pid}")
    if not job.talk.acquire(timeout=-1 if wait is None else wait):
        raise CommandTimeout("is in another conversation", place=f"pid {pid}", timeout=wait or 0.0)
    try:
        with Ear(job, stream) as ear:
            if len(data) or close:
                send(job, pid, data, close)
            with job.lock:
                heard = bytearray(job.rest.pop("stdout", b"") + store.read())
            end = 0  # of the answer; what stands behind it stays unread, all of it when this raises
            try:
                searched = 0
                while (found := find(heard, searched)) < 0:
                    searched = len(heard)
                    more = ear.hear(deadline)
                    with job.lock:
                        heard += store.read()
                    if not more and len(heard) == searched:
                        if stream.fd < 0:
                            found = searched
                            break
                        raise CommandTimeout(
                            f"did not answer within {wait:g} s", place=f"pid {pid}", timeout=wait or 0.0
                        )
                end = found
            finally:
                if end < len(heard):
                    with job.lock:
                        job.rest["stdout"] = bytes(heard[end:]) + job.rest.get("stdout", b"")
    finally:
        job.talk.release()
    return given(job, bytes(heard[:end]))


def _exchange(job: Job, data: object, timeout: object) -> tuple[bool, bytes | None]:
    """A line there and a line back, for little more than the system calls they take.

    (whether the message was sent, the answer). Without an answer whatever came is unread; not sent: it is not as simple
    as that, and nothing was done.
    """
    stream, feed, store = job.out, job.feed, job.stores.get("stdout")
    if stream is None or feed is None or type(store) is not Spool or not data or type(timeout) not in (float, int):
        return False, None
    if type(data) is str and job.encoding == "utf-8" and data.isascii():
        content = data.encode()
    elif type(data) is bytes:
        content = data
    else:
        return False, None
    wait: float = timeout  # type: ignore[assignment]
    if not wait > 0 or not job.talk.acquire(False):
        return False, None
    try:
        the_loop = loop.get()
        with job.lock:
            fd, ear = stream.fd, job.ear
            if fd < 0 or ear is None or ear[0] != fd or store.unread or job.rest:
                return False, None
            if job.heard is not stream:
                the_loop.serving.lend_for_now(job, stream)
            sent = feed.write_now(content)
            if not sent:
                if not feed.waiting:
                    return False, None
                the_loop.serving.push(job)
                return True, None
        heard = ear[1].poll(min(wait, GLANCE) * 1000)
        with job.lock:
            answer = None
            if heard and stream.fd == fd:
                if stream.splitter is not None:
                    stream.pump()
                else:
                    answer = _one_line(stream, store)
            job.heard_at = monotonic()  # the loop takes it back a moment after the last exchange
            return True, answer
    finally:
        job.talk.release()


def _one_line(stream: Stream, store: Spool) -> bytes | None:
    """What has come, where that is one line and nothing else; or None, and it is unread."""
    try:
        data = os.read(stream.fd, _ANSWER)
    except OSError:  # nothing there after all, or a terminal whose other side is closed: whoever reads next sees to it
        return None
    if data and data.find(b"\n") == len(data) - 1:
        store.pass_on(data)
        return data
    if data:
        store.append(data)
    return None


def _finder(until: Until, job: Job) -> Callable[[bytearray, int], int]:
    """(output, how much of it was searched before) -> where the answer ends, or -1."""
    if until is None:
        return lambda _data, _searched: -1
    if isinstance(until, (str, bytes)):
        mark = bytes(as_bytes(until, job.encoding, "until"))
        if not mark:
            refuse("until", "is empty", "None waits for the end of the output")

        def find(data: bytearray, searched: int) -> int:
            at = data.find(mark, max(0, searched - len(mark) + 1))
            return at + len(mark) if at >= 0 else -1

        return find
    if isinstance(until, re.Pattern):
        pattern: re.Pattern[Any] = until

        encoding = job.encoding or "utf-8"

        def match(data: bytearray, _searched: int) -> int:
            if isinstance(pattern.pattern, bytes):
                found = pattern.search(data)
                return found.end() if found else -1
            # Every byte comes back as it was, so that the match's end is found among the bytes.
            text = data.decode(encoding, "surrogateescape")
            there = pattern.search(text)
            return len(text[: there.end()].encode(encoding, "surrogateescape")) if there else -1

        return match
    if callable(until):
        plain = job.encoding is None
        return lambda data, _searched: len(data) if until(bytes(data) if plain else show(job, data)) else -1
    refuse("until", f"expected text, bytes, a compiled pattern or a function, not {type(until).__name__}")
