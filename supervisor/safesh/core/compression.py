"""Compressing rotated parts, one at a time, in a child of low priority, so that the loop never waits for it."""

from __future__ import annotations

import os

from safesh import _platform, paths
from safesh.core import fds, signals
from safesh.core.rotation import PACKED, UNFINISHED, scan_parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal

_CHUNK = 1 << 18


class Packer:
    """At most one child that turns the oldest plain part into a ``.gz``."""

    def __init__(self, path: str, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._part = ""
        self.pid = 0
        self.held = False  # the newest part is still being written: no new file could be opened

    def start(self) -> None:
        """Compress the oldest plain part, if there is one and no child is at work."""
        if self.pid:
            self._look()
        if self.pid or self.held:
            return
        try:
            plain = [names[0] for names in scan_parts(self._path).values() if not names[0].endswith(PACKED)]
            if plain:
                self._fork(plain[0])
        except OSError:
            pass  # no processes or descriptors left: the next rotation tries again

    def _look(self) -> None:
        """Collect the child if it has ended and nobody else has."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.pid = 0
            return
        if pid:
            self._ended(status)

    def reaped(self, pid: int, status: int) -> bool:
        """Somebody collected ``pid`` with this wait status; True when it was ours. The next part then begins."""
        if not self.pid or pid != self.pid:
            return False
        if self._ended(status):
            self.start()
        return True

    def _ended(self, status: int) -> bool:
        part, self.pid, self._part = self._part, 0, ""
        if status == 0:
            return True
        _remove(part + UNFINISHED)
        code = os.waitstatus_to_exitcode(status)
        reason = os.strerror(code) if code > 0 else f"ended by {signals.name(-code)}"
        self._on_event("log_compression_failed", {"path": part, "reason": reason})
        return False

    def close(self) -> None:
        """End a child that is still at work; its part stays plain and is compressed after the next start."""
        if not self.pid:
            return
        try:
            # Alive and uncollected, so the number cannot be anybody else's.
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                os.kill(self.pid, _signal.SIGKILL)
                os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        _remove(self._part + UNFINISHED)
        self.pid = 0

    def _fork(self, part: str) -> None:
        # The supervisor's handlers must not run in the child: they would write into its wakeup descriptor.
        before = _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                _work(part, parent)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        self.pid, self._part = pid, part


def _work(part: str, parent: int) -> NoReturn:
    """The child's whole life; its status is an errno or 0."""
    code = 1
    try:
        # The lock, the lifeline and the target's pipe must not live on in here.
        fds.close_all_except(())
        fds.point_stdio_at_null()
        _platform.set_pdeathsig(_signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()  # the terminal's Ctrl-C is not for us
        _signal.set_wakeup_fd(-1)
        for number in signals.FORWARDABLE:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        _platform.set_name("safesh-gzip")
        os.nice(19)
        pack(part)
        code = 0
    except OSError as error:
        code = error.errno if error.errno and error.errno < 126 else 1
    except BaseException:
        code = 1
    finally:
        if code:
            _remove(part + UNFINISHED)
        os._exit(code)


def pack(part: str) -> None:
    """``part`` into ``part.gz`` (RFC 1952): whole and on the disk before it gets its name, and only then the
    original goes. OSError, and the original untouched, otherwise."""
    import zlib

    source = paths.open_private(part, os.O_RDONLY)
    try:
        sink = paths.open_private(part + UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: a gzip header and trailer
            while chunk := os.read(source, _CHUNK):
                _write(sink, packer.compress(chunk))
            _write(sink, packer.flush())
            os.fsync(sink)
        finally:
            os.close(sink)
    finally:
        os.close(source)
    os.rename(part + UNFINISHED, part + PACKED)
    os.unlink(part)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
