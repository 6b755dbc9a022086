"""What processes are doing right now, at one small read each: for status, not for decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from safesh._platform import others

if TYPE_CHECKING:
    from collections.abc import Iterable


class Glance(TypedDict):
    """state: a word of ``others.STATE_WORDS``; command: the kernel's name for it (15 bytes on Linux); cpu_seconds: user
    and system; memory_bytes: resident; started_at: wall time; running: neither a zombie nor being released."""

    pid: int
    ppid: int
    state: str
    command: str
    cpu_seconds: float
    memory_bytes: int
    threads: int
    started_at: float
    running: bool


def glance(pids: Iterable[int]) -> dict[int, Glance]:
    """Those of ``pids`` that exist, by pid; the others are left out."""
    return {
        pid: {
            "pid": pid,
            "ppid": one.ppid,
            "state": others.STATE_WORDS.get(one.state, one.state),
            "command": one.command,
            "cpu_seconds": one.cpu_seconds,
            "memory_bytes": one.memory_bytes,
            "threads": one.threads,
            "started_at": one.started_at,
            "running": not one.dead,
        }
        for pid, one in others.pictures(pids).items()
    }
