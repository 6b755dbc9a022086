"""System calls of a living supervisor or keeper fail, come late or are interrupted for a while (strace's injection).

A case for a process from its first call on, counted, is a part of its own: faults.inject.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from faults import processes
from faults.disturbances.stopping import pick
from faults.world import World

_SECONDS = 3.0  # to attach
# What a kernel may really answer to a call that is right: no descriptor, no memory, no space, a broken disk.
_FAILURES = (
    "openat:error=EMFILE", "openat:error=ENOSPC", "openat:error=EIO", "openat:error=ENOMEM", "write:error=ENOSPC",
    "write:error=EIO", "rename:error=ENOSPC", "rename:error=EIO", "unlink:error=EIO", "pipe2:error=EMFILE",
    "clone,clone3,fork,vfork:error=EAGAIN", "accept4:error=EMFILE", "splice:error=EIO", "splice:error=ENOSPC",
    "pidfd_open:error=EMFILE", "poll:error=EINTR", "read:error=EINTR", "mkdir:error=ENOSPC", "socket:error=EMFILE",
    "poll:delay_enter=50000", "wait4:delay_enter=20000", "rename:delay_enter=50000", "write:delay_exit=20000",
)  # fmt: skip


class Calls:
    """Every Nth of some system calls of one process goes wrong, until it is undone."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.name = f"system calls of a {role} failing"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        failure, when = rng.choice(_FAILURES), f"{rng.randrange(1, 6)}+{rng.randrange(1, 6)}"
        one = pick(world, rng, self.role)
        if one is None or not shutil.which("strace"):
            return None
        tracer = attach(world, one.pid, [f"{failure}:when={when}"])
        return None if tracer is None else lambda: detach(world, tracer)


def attach(
    world: World, pid: int, injections: list[str], output: str = "/dev/null", more: tuple[str, ...] = ()
) -> subprocess.Popen[bytes] | None:
    """strace on a living process; None when it ended before. It is no member of the world: the driver's own child."""
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", output, *more, "-p", str(pid), *[f"-einject={one}" for one in injections]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    world.foreign.add(tracer.pid)
    until = time.monotonic() + _SECONDS
    while tracer.poll() is None and time.monotonic() < until:
        if processes.traced_by(pid) == tracer.pid:
            return tracer
        time.sleep(0.001)
    detach(world, tracer)
    return None


def detach(world: World, tracer: subprocess.Popen[bytes]) -> None:
    """End strace; whom it traced goes on."""
    if tracer.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(tracer.pid, signal.SIGTERM)
        try:
            tracer.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
    world.foreign.discard(tracer.pid)
