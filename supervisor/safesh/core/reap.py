"""Collecting ended children, and saying how they ended."""

from __future__ import annotations

import os

from safesh import _platform
from safesh.clock import wall
from safesh.core import signals
from safesh.model import ExitInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator


def reap_all(stopped: bool = False) -> Iterator[tuple[int, int, resource.struct_rusage]]:
    """(pid, wait status, rusage) of every child that has ended, own and adopted.

    stopped: of every child that job control stopped, too; ask ``os.WIFSTOPPED``.

    Only for processes of ours that own all their children (keeper, supervisor, init): beside a
    ``subprocess.Popen`` this would steal its status.
    """
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG | (os.WUNTRACED if stopped else 0))
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage


def read_status(status: int, usage: resource.struct_rusage | None = None) -> ExitInfo:
    """A wait status (wait(2)) as an ExitInfo with its cause in words."""
    code = os.waitstatus_to_exitcode(status)
    info = ExitInfo(code=code if code >= 0 else -1, at=wall())
    if code < 0:
        info.signal = signals.name(-code)
        info.core = os.WCOREDUMP(status)
        info.cause = f"killed by {info.signal}" + (" (core dumped)" if info.core else "")
    else:
        info.cause = "exited 0" if code == 0 else f"exited with code {code}"
    if usage is not None:
        info.user_seconds = round(usage.ru_utime, 6)
        info.system_seconds = round(usage.ru_stime, 6)
        info.peak_memory_bytes = usage.ru_maxrss * _platform.MAXRSS_UNIT
    return info


def shell_status(info: ExitInfo) -> int:
    """The shell's exit status: the code, or 128 + the signal's number."""
    return 128 + signals.number(info.signal.removeprefix("signal ")) if info.signal else max(info.code, 0)
