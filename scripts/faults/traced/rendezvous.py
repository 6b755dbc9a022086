"""safesh with a place to be waited for: where a process of a role begins, it can wait until strace has attached.

So calls are counted from the same one each time, those that load Python left out, and only the process that is meant is
traced. Nothing else is changed. ``FAULTS_TRACE`` names a folder; a file ``ROLE.want`` there asks for the first process
of that role, which tells its pid in ``ROLE.pid`` and waits at the pipe ``ROLE.go``.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SUPERVISOR = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(HERE))), "supervisor")


def use_safesh() -> None:
    """Our imports come from the checkout; this file's neighbours are named like it, and are not it."""
    sys.path[0] = SUPERVISOR


def wait_for_tracer(role: str) -> None:
    """Wait, if this process is the one that is to be traced."""
    base = os.path.join(os.environ.get("FAULTS_TRACE", ""), role)
    try:
        os.rename(base + ".want", base + ".taken")
    except OSError:
        return
    fd = os.open(base + ".new", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)
    os.rename(base + ".new", base + ".pid")
    try:
        os.close(os.open(base + ".go", os.O_RDONLY))  # blocks until somebody opens it for writing
    except OSError:
        pass  # the first call that could fail


def hold_here() -> None:
    """The front end becomes our supervisor instead of safesh's own."""
    plain = os.execve

    def execve(path: Any, words: Any, environ: Any) -> None:
        ours = os.path.join(HERE, "cli", "hold.py")
        plain(path, [ours if str(word).endswith("/safesh/cli/hold.py") else word for word in words], environ)

    os.execve = execve  # type: ignore[assignment]
