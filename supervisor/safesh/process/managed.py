"""Talking to, signalling and ending processes by pid; those of this API, and where it makes sense any other."""

from __future__ import annotations

import codecs
import os
import re
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.model import StopPolicy, Verdict
from safesh.process import foreign, glance, loop, registry
from safesh.process.command import as_bytes, parse_timeout, refuse
from safesh.process.endings import end_jobs
from safesh.process.errors import CommandTimeout, NotManaged, StdinClosed
from safesh.process.spool import Spool

if TYPE_CHECKING:
    from safesh.process.job import Job
    from safesh.process.streams import Stream

    Until = str | bytes | re.Pattern[str] | re.Pattern[bytes] | Callable[[Any], object] | None

_ANSWER = 1 << 14
_GLANCE = 0.5  # seconds between two looks whether a silent conversation has anybody left to talk to
_LONGEST = 3  # bytes that a character may have beyond its first
TERMINATE_GRACE = 3.0  # seconds between the question and the kill, or the answer that it is still there


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
        return _given(job, b"")  # another conversation takes all there is
    try:
        while not (found := _take(job, stream, size)):
            if not _wait_for_output(job, stream, deadline):
                found = _take(job, stream, size)
                break
    finally:
        job.talk.release()
    return _given(job, found)


def _check_stream(stream: str) -> None:
    if stream not in ("stdout", "stderr"):
        refuse("stream", f"expected 'stdout' or 'stderr', not {stream!r}")


def _check_size(size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size == 0 or size < -1:
        refuse("size", f"expected bytes above 0, not {size!r}", "-1 for all there are")


def _given(job: Job, data: bytes) -> Any:
    return data if job.encoding is None else job.decode(data)


def _take(job: Job, stream: str, size: int = -1) -> bytes:
    """What is unread; whole characters only, and at least one, as long as more may come."""
    with job.lock:
        store = job.spool(stream)
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
    store = job.spool(stream)
    if ours is None or store is None:
        return False
    with _Ear(job, ours) as ear:
        while not store.unread and ear.hear(deadline):
            pass
    return store.unread > 0


class _Ear:
    """Takes a stream over from the loop for as long as a conversation lasts."""

    def __init__(self, job: Job, stream: Stream) -> None:
        self.job = job
        self.stream = stream
        self._lent = False

    def __enter__(self) -> _Ear:
        job = self.job
        with job.lock:
            fd = self.stream.fd
            if fd >= 0:
                self._lent = True
                loop.get().lend(job, self.stream)
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
            wait = _GLANCE if deadline is None else min(deadline - monotonic(), _GLANCE)
            if job.ear[1].poll(max(wait, 0.0) * 1000 + 0.999):
                break
            if deadline is not None and monotonic() >= deadline:
                return False
            # The end of a run whose output an outsider keeps open closes it, and nothing here wakes for that.
            store = job.spool(stream.name)
            if store is not None and store.unread:
                return True  # drained by whoever saw the run off
        with job.lock:
            if stream.fd < 0:
                return False
            if stream.pump():
                return True
            loop.get().close_stream(stream)
        loop.get().progress(job)
        return False

    def __exit__(self, *_exception: object) -> None:
        if self._lent:
            with self.job.lock:
                loop.get().take_back(self.job, self.stream)


def get_process_output_info(pid: int, *, stream: str = "stdout") -> dict[str, int]:
    """``{"size", "lines", "dropped", "unread"}``: bytes and newlines so far, bytes gone before anybody read them."""
    job = registry.need(pid, "asking for its output")
    _check_stream(stream)
    with job.lock:
        store = job.spool(stream)
        if store is None:
            return {"size": 0, "lines": 0, "dropped": 0, "unread": 0}
        return {
            "size": store.size,
            "lines": store.lines,
            "dropped": store.dropped,
            "unread": store.unread + len(job.rest.get(stream, b"")),
        }


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
        loop.get().push(job)
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
        if feed.lost:
            raise _closed(job)
    return len(content)


def _closed(job: Job) -> StdinClosed:
    why = "it has ended" if job.over or job.exited else "its standard input is closed"
    return StdinClosed(f"{why}; nothing can be written to it", place=f"pid {job.pid}")


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
            return _given(job, answer)
        if sent:
            data = b""
    wait = parse_timeout(timeout)
    deadline = None if wait is None else began + wait
    find = _finder(until, job)
    as_bytes(data, job.encoding, "data")
    stream = job.out
    store = job.spool("stdout")
    if stream is None or store is None:
        raise NotManaged("its output is not kept here", place=f"pid {pid}")
    if not job.talk.acquire(timeout=-1 if wait is None else wait):
        raise CommandTimeout("is in another conversation", place=f"pid {pid}", timeout=wait or 0.0)
    try:
        with _Ear(job, stream) as ear:
            if len(data) or close:
                _send(job, pid, data, close)
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
    return _given(job, bytes(heard[:end]))


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
                the_loop.lend_for_now(job, stream)
            sent = feed.write_now(content)
            if not sent:
                if not feed.waiting:
                    return False, None
                the_loop.push(job)
                return True, None
        heard = ear[1].poll(min(wait, _GLANCE) * 1000)
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


def _send(job: Job, pid: int, data: str | bytes, close: bool) -> None:
    """Write without waiting: what is not taken at once the loop writes while we listen."""
    content = as_bytes(data, job.encoding, "data")
    with job.lock:
        feed = job.feed
        if feed is None or not feed.is_open:
            raise _closed(job)
        feed.push(content)
        feed.closing = close
        loop.get().push(job)
        if feed.broken:
            raise _closed(job)


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
        return lambda data, _searched: len(data) if until(bytes(data) if plain else job.show(data)) else -1
    refuse("until", f"expected text, bytes, a compiled pattern or a function, not {type(until).__name__}")


# --- signals and endings ----------------------------------------------------------------------


def send_signal_to_process(pid: int, signal: str | int) -> None:
    """Send one signal (``"SIGINT"``, ``signal.SIGINT``, 2) to one process, whoever started it.

    Raises NoSuchProcess, Refused (ourselves, our ancestors, pid 1, the kernel's own), ProcessError where not permitted.
    """
    job = registry.find(foreign.checked_pid(pid))
    if job is None or job.handle is None:
        foreign.send(pid, signal)
        return
    number = foreign.checked_signal(signal)
    with job.lock:
        # The handle was opened at its birth, so it is this process or none, as long as it is not closed.
        if job.over or job.departing or job.reaped:
            raise foreign.missing(pid)
        foreign.send_through(job.handle, number)


def interrupt_process(pid: int) -> None:
    """Send SIGINT, as Ctrl-C would, to the process alone."""
    send_signal_to_process(pid, "SIGINT")


def terminate_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """Ask a process, and then what is left of its tree, to end (SIGTERM); who does not in ``grace`` seconds is listed.

    force: who has not ended by then is killed.
    """
    _check_force(force)
    return _end(pid, _policy(grace), now=False, force=force)


def kill_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """End a process with its whole tree: asked first, killed after ``grace`` seconds; force: killed at once."""
    _check_force(force)
    return _end(pid, _policy(grace), now=force, force=True)


def kill_process_tree(pid: int) -> Verdict:
    """Kill a process and everything below it at once: frozen first, so that nobody forks away."""
    return _end(pid, _policy(0.0), now=True, force=True)


def terminate_managed_process(pid: int, force: bool = False, *, grace: float = TERMINATE_GRACE) -> Verdict:
    """``kill_process`` for a command of this API alone, forgotten afterwards; NotManaged for any other process."""
    _check_force(force)
    policy = _policy(grace)
    job = registry.need(pid, "ending it as ours")
    verdict = Verdict(run_id=job.run_id) if job.over else end_jobs([job], policy, now=force)[pid]
    if verdict.ok:
        registry.forget(job)
    return verdict


def _check_force(force: Any) -> None:
    if not isinstance(force, bool):
        refuse("force", f"expected True or False, not {force!r}")


def _policy(grace: float) -> StopPolicy:
    seconds = parse_timeout(grace, "grace")
    return StopPolicy(signal="SIGTERM", scope="main", grace=86400.0 if seconds is None else seconds)


def _end(pid: int, policy: StopPolicy, *, now: bool, force: bool) -> Verdict:
    job = registry.find(foreign.checked_pid(pid))
    if job is not None and job.over and foreign.is_there(pid):
        job = None  # its number has passed on
    if job is None:
        return foreign.end_foreign(pid, policy, now=now) if force else foreign.polite_end(pid, policy)
    if job.over:
        return Verdict(target=f"pid {pid}", run_id=job.run_id, notes=["it had ended already"])
    if force:
        return end_jobs([job], policy, now=now)[pid]
    return _ask(job, policy)


def _ask(job: Job, policy: StopPolicy) -> Verdict:
    """Asked, and never killed."""
    from safesh.process.ending import end_runs

    verdict = None
    job.expect_verdict(ending=False)
    try:
        verdict = end_runs([job.mark()], policy, force=False)[job.pid]
    finally:
        job.give_verdict(verdict if verdict is not None and verdict.ok else None)
    if verdict.ok and not job.waits_for_itself:
        job.wait(5.0)
    return verdict


# --- looking ----------------------------------------------------------------------------------


def get_process_status(pid: int) -> dict[str, Any]:
    """What is known of a process: of any ``pid, running, state, command, cpu_seconds, memory_bytes, threads,
    started_at, ppid, managed``; of one of ours also ``run_id, mode, return_code, signal, execution_time, timed_out``.

    NoSuchProcess when there is none, and never was one of ours that is not forgotten yet.
    """
    job = registry.find(foreign.checked_pid(pid))
    if job is not None and job.over and foreign.is_there(pid):
        job = None
    found = glance.glance([pid]).get(pid)
    if job is None and found is None:
        raise foreign.missing(pid)
    status: dict[str, Any] = dict(found) if found is not None else {"pid": pid, "state": "gone", "running": False}
    status["managed"] = job is not None
    if job is not None:
        status |= _ours(job)
        status["running"] = not job.exited and not job.over
    return status


def _ours(job: Job) -> dict[str, Any]:
    result = job.result
    took = result.execution_time
    return {
        "run_id": job.run_id,
        "command": [job.redact(word) for word in job.shown],
        "mode": job.plan.mode,
        "started_at": job.started_at,
        "execution_time": took if took is not None else round(time.time() - job.started_at, 3),
        "return_code": result.return_code,
        "signal": result.signal,
        "timed_out": result.timed_out,
        "contain": job.plan.contain,
    }


def get_active_processes() -> dict[int, dict[str, Any]]:
    """The commands of this API that run now, by pid: ``get_process_status`` of each, in one look."""
    jobs = {job.pid: job for job in registry.running()}
    found = glance.glance(jobs)
    active = {}
    for pid, job in jobs.items():
        if job.over or job.exited:
            continue
        status: dict[str, Any] = dict(found.get(pid, {"pid": pid, "state": "gone"}))
        status |= _ours(job)
        status["running"] = status["managed"] = True
        active[pid] = status
    return active


def cleanup_finished_processes() -> int:
    """Forget the commands that have ended; how many. Their results keep what they have."""
    return registry.clean_up()


def end_all(pids: Sequence[int] | None = None, *, grace: float | None = None, now: bool = False) -> dict[int, Verdict]:
    """End all running commands of this API (or those of ``pids``) together, at the price of a few looks in all."""
    jobs = registry.running() if pids is None else [registry.need(pid, "ending it as ours") for pid in pids]
    return end_jobs([job for job in jobs if not job.over], None if grace is None else _policy(grace), now=now)
