"""What was kept of a command's output: its bytes, as text or for people, and what holding them costs.

Asked for at any time and from any thread, also long after the end, while the loop may still add to it: so each look
takes the job's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesh.process.errors import UndecodableOutput
from safesh.process.spool import Spool

if TYPE_CHECKING:
    from safesh.process.job import Job


def is_truncated(job: Job) -> bool:
    """Whether the oldest of it was let go."""
    return any(store.lost for store in job.stores.values())


def size_of(job: Job, stream: str) -> int:
    store = job.stores.get(stream)
    return store.size if store is not None else 0


def collected(job: Job, stream: str) -> bytes:
    store = job.stores.get(stream)
    if store is None:
        return b""
    with job.lock:
        return store.all()


def tail(job: Job, stream: str, size: int) -> bytes:
    store = job.stores.get(stream)
    if store is None:
        return b""
    with job.lock:
        return store.tail(size)


def show(job: Job, data: bytes | bytearray) -> str:
    """``decode`` for people: never raises."""
    errors = job.plan.errors if job.encoding is not None and job.plan.errors != "strict" else "replace"
    return data.decode(job.encoding or "utf-8", errors)


def decode(job: Job, data: bytes) -> str:
    try:
        return data.decode(job.encoding or "utf-8", job.plan.errors if job.encoding else "replace")
    except UnicodeDecodeError as error:
        raise UndecodableOutput(
            f"is not {job.encoding}: {error.reason} at byte {error.start}",
            place=job.shown[0],
            hint="use errors='replace', or encoding=None for the bytes (result.stdout_bytes has them)",
        ) from None


def spool(job: Job, stream: str) -> Spool | None:
    """The store of a job in the loop; None for a stream that it has not."""
    store = job.stores.get(stream)
    return store if store is not None and hasattr(store, "unread") else None  # type: ignore[return-value]


def weigh(job: Job) -> tuple[int, int]:
    """(bytes of its output in memory, files that hold the rest)."""
    spools = [store for store in job.stores.values() if isinstance(store, Spool)]
    return sum(one.in_memory for one in spools), sum(one.has_file for one in spools)
