"""A lean Python of its own, executed: ``lean.py ROOM REPORT PLAN [FD...]``, for callers that must not fork themselves.

A forked child of a process with threads may run no Python (another thread may have held any lock), an executed one
may. What it is to do is its plan, sent through memory and not on the command line, where everybody could read it. If
it cannot even begin it says so on REPORT, in a keeper's words: ``{"event": "broken", "message"}``.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # executed
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh import wire
from safesh.errors import ResourceError, SafeshError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any

_FILE = os.path.abspath(__file__)  # now: the caller may change its folder


def start(
    room: str, report: int, plan: Mapping[str, Any], *, stdio: Sequence[int], pass_fds: Collection[int] = ()
) -> int:
    """Execute ``core.ROOM.main(report, plan's descriptor, *pass_fds)`` in a new session; the child's pid.

    Its environment and folder are ours, so it finds the backend and the libraries that we would.
    ResourceError where there is no Python to execute, or no descriptor, process or memory left.
    """
    from safesh.core import quick

    if not sys.executable or getattr(sys, "frozen", False):  # a frozen program would start itself again
        raise ResourceError(
            "this process does not know its Python", place="sys.executable", hint="set sys.executable to a python3"
        )
    data = wire.dumps(plan).encode()
    reading, left = _carry(data)
    lifted: list[int] = []
    try:
        fds = [_lift(fd, lifted) for fd in (report, reading, *pass_fds)]
        words = [sys.executable, "-E", "-s", "-S", _FILE, room, *map(str, fds)]
        pid = quick.start(words, stdio=stdio, pass_fds=fds)
    except BaseException as error:
        if left >= 0:
            os.close(left)
        if isinstance(error, ResourceError) or not isinstance(error, (SafeshError, OSError)):
            raise
        raise ResourceError(f"cannot be started: {error}", place=sys.executable, hint="set sys.executable") from None
    finally:
        for fd in (reading, *lifted):
            os.close(fd)
    if left >= 0:
        _feed(left, data)
    return pid


def _lift(fd: int, lifted: list[int]) -> int:
    """The same above 2, where stdio does not take its place: a caller may have closed its own."""
    if fd > 2:
        return fd
    import fcntl

    lifted.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
    return lifted[-1]


def _carry(data: bytes) -> tuple[int, int]:
    """(what the plan is read from, where it is still to be written or -1)."""
    try:
        fd = os.memfd_create("safesh-plan")
    except (AttributeError, OSError):
        try:
            return os.pipe()
        except OSError as error:
            raise ResourceError(f"no pipe can be made: {error.strerror}", place="plan", hint="see ulimit -n") from None
    try:
        with open(fd, "wb", buffering=0, closefd=False) as file:
            while data:
                data = data[file.write(data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        raise ResourceError(f"cannot be written: {error.strerror}", place="plan") from None
    return fd, -1


def _feed(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass  # it has gone, which its report tells
    finally:
        os.close(fd)


def read_plan(fd: int) -> dict[str, Any]:
    """All of the plan; its descriptor is closed. ValueError when it is none."""
    data = b""
    while chunk := os.read(fd, 1 << 20):
        data += chunk
    os.close(fd)
    plan = wire.loads(data.decode())
    if not isinstance(plan, dict):
        raise ValueError("the plan is no object")
    return plan


def pack(words: Iterable[str]) -> list[str]:
    """Strings as the bytes that a program gets, one character a byte: the two Pythons may disagree about encodings.

    ValueError for what has no bytes.
    """
    return [os.fsencode(word).decode("latin-1") for word in words]


def unpack(words: Iterable[str]) -> list[str]:
    """What ``pack`` gave, as this process writes it."""
    return [os.fsdecode(word.encode("latin-1")) for word in words]


def _execute(words: Sequence[str]) -> int:
    room, (report, *fds) = words[0], map(int, words[1:])
    try:
        if room == "holder":
            from safesh.core import holder

            holder.main(report, *fds)
        else:
            from safesh.core import quickpty

            quickpty.main(report, *fds)
    except BaseException as error:
        message = {"event": "broken", "message": f"{type(error).__name__}: {error}"}
        os.write(report, wire.dumps(message).encode() + b"\n")
    return 70


if __name__ == "__main__":
    os._exit(_execute(sys.argv[1:]))
