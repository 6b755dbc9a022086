"""A target's output: one pipe, moved into its log without losing, doubling or waiting for a byte.

A target that writes now and then is served by splice(2), from the pipe into the file. Where bytes have to be seen as
well (for the terminal, or to find the end of a line) tee(2) shows them before they are moved, so at no time do they
exist in this process alone: whoever is killed here, the rest is still in the pipe, for the keeper to save.

A target that floods is served by read and write through one buffer: splice holds the pipe's lock while it
fills the file, so the target stands still meanwhile, and it moves page by page; measured, a flood went at 0.6 of
``| cat``'s speed by splice and at 1.0 this way. Stamped lines, and platforms without splice, take this way too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from safesh.clock import monotonic
from safesh.core.loss import Loss
from safesh.core.peek import Peek, has_bytes
from safesh.core.rotation import LONGEST_LINE, LogFile
from safesh.errors import StateError
from safesh.model import LogPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from safesh.core.stamps import Stamper
    from safesh.core.terminal import Echo

_PIPE_SIZE = 1 << 20  # an unprivileged user's largest (fs.pipe-max-size, pipe(7))
_BUDGET = 4 << 20  # bytes per pump(), so that the loop gets its turn
_BUFFER = 1 << 18
_CALM = 1 << 16  # bytes that a target may have written at once and is not flooding yet
_PAUSE = 0.001  # seconds between two pump()s; so many in a row with less between them are a flood as well:
_STREAK = 16
_SPLICE_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0)
_RETRY = 1.0  # seconds between two attempts to write after a failed one


class Capture:
    """The reading end of a target's output pipe and the log that it goes to.

    lost_bytes: what could not be written since the beginning, disk full and the like; moved_bytes: what was taken from
    the pipe since then. Not thread-safe.
    """

    def __init__(
        self,
        pipe_fd: int,
        path: str,
        policy: LogPolicy,
        echo_fd: int | None = None,
        on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _fields: None,
    ) -> None:
        """pipe_fd becomes ours and non-blocking; echo_fd stays the caller's. StateError: the log cannot be used.

        on_event("log_loss", {path, reason, since}) at the first byte that cannot be written,
        on_event("log_recovered", {path, reason, bytes, since, until}) once the log goes on; wall times.
        """
        self.lost_bytes = 0
        self.moved_bytes = 0
        self._log = LogFile(path, policy, on_event)
        self._pipe = pipe_fd
        os.set_blocking(pipe_fd, False)
        _enlarge(pipe_fd)
        self._on_event = on_event
        self._loss: Loss | None = None
        self._peek: Peek | None = None
        self._splices = hasattr(os, "splice") and not policy.timestamps
        self._flood = False
        self._pumped_at = 0.0
        self._streak = 0
        self._emptied = False  # the last move took all that there was
        self._buffer: memoryview | None = None
        self._stamper: Stamper | None = None
        if policy.timestamps:
            from safesh.core.stamps import Stamper

            self._stamper = Stamper(self._log.ends_line())
        self._echo: Echo | None = None
        if echo_fd is not None:
            from safesh.core.terminal import Echo

            self._echo = Echo(echo_fd, path)

    def fileno(self) -> int:
        """The pipe, for poll(2): call :meth:`pump` when it is readable or hung up."""
        return self._pipe

    # -- moving ---------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Move what is in the pipe, 4 MiB at most, without waiting; False once every writer has closed it."""
        total = 0
        self._streak = self._streak + 1 if monotonic() - self._pumped_at < _PAUSE else 0
        self._flood = self._streak >= _STREAK
        if not self._flood:
            self._buffer = None  # a quarter of a megabyte that an idle supervisor need not keep
        try:
            while total < _BUDGET and not (self._echo is not None and self._echo.holds_back()):
                moved = self._move()
                if not moved:
                    return False
                total += moved
                self.moved_bytes += moved
                if self._emptied:  # poll(2) finds out more cheaply than a read that fails
                    break
                self._flood = True
        except BlockingIOError:
            pass
        # Now the target has an empty pipe to fill, so it does not stand still meanwhile.
        self._log.sweep()
        self._pumped_at = monotonic()
        return True

    def drain(self, deadline: float) -> bool:
        """Move everything until the last writer is gone (True) or the deadline (monotonic seconds) has come.

        What was in the pipe at the deadline is moved all the same. Then the terminal gets what
        is left of the time to take its backlog.
        """
        ended = False
        while not ended:
            watch = select.poll()
            watch.register(self._pipe, select.POLLIN)
            self._watch_echo(watch)
            left = deadline - monotonic()
            watch.poll(max(0, left * 1000))
            self.flush_echo()
            ended = not self.pump()
            if left <= 0:
                break
        while self.wants_write and (left := deadline - monotonic()) > 0:
            watch = select.poll()
            self._watch_echo(watch)
            watch.poll(left * 1000)
            self.flush_echo()
        return ended

    def _move(self) -> int:
        """Bytes taken from the pipe, a buffer's worth at most, 0 at its end; BlockingIOError when it is empty."""
        if self._loss is not None and not self._recover():
            return self._discard()
        log = self._log
        try:
            log.settle()
            room = log.room()
            # No new file before there is something for it.
            if room <= 0 and log.at_boundary() and has_bytes(self._pipe):
                log.rotate()
                room = log.room()
        except (OSError, StateError) as error:
            return self._discard(error)
        if not self._splices or (self._flood and room > 0):
            return self._copy(room)
        try:
            if room <= 0 or (self._echo is not None and not self._echo.gone):
                return self._move_seen(room)
            want = min(_CALM, room)
            moved = os.splice(self._pipe, log.fd, want, offset_dst=log.size, flags=_SPLICE_FLAGS)
            log.size += moved
            self._emptied = moved < want
            return moved
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):  # a file system without splice
                self._splices = False
                return self._copy(room)
            return self._discard(error)

    def _move_seen(self, room: int) -> int:
        """The same, shown on the terminal; a file that is due ends with the first line end that comes."""
        if self._peek is None:
            try:
                self._peek = Peek()
            except OSError:  # no descriptor left: that costs no byte
                return self._copy(room)
        seen = self._peek.look(self._pipe, _CALM)
        if seen is None:
            self._splices = False
            return self._copy(room)
        cut = _cut(seen, room)
        self._emptied = cut == len(seen) < _CALM
        moved = 0
        try:
            while moved < cut:
                step = os.splice(self._pipe, self._log.fd, cut - moved, offset_dst=self._log.size, flags=_SPLICE_FLAGS)
                self._log.size += step
                moved += step
        finally:
            self._show(seen[:moved])
        return moved

    def _copy(self, room: int) -> int:
        """Through memory: a flood, stamps, and where there is no splice.

        A flood takes no more than the file has room for, so that a rotation never finds a byte in memory alone.
        """
        data = self._read(room if self._splices and room > 0 else _BUFFER)
        self._show(data)
        rest = data if self._stamper is None else memoryview(self._stamper.stamp(bytes(data)))
        log = self._log
        try:
            while rest:
                room = log.room()
                if room <= 0 and log.at_boundary():
                    log.rotate()
                    room = log.room()
                written = os.pwrite(log.fd, rest[: _cut(rest, room)], log.size)
                log.size += written
                rest = rest[written:]
        except (OSError, StateError) as error:
            self._lose(error, len(rest))
        return len(data)

    def _read(self, limit: int = _BUFFER) -> memoryview:
        """What is in the pipe, taken; valid until the next call."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        limit = min(limit, _BUFFER)
        length = os.readv(self._pipe, [self._buffer[:limit]])
        self._emptied = length < limit
        return self._buffer[:length]

    # -- losing ---------------------------------------------------------------------------------

    def _lose(self, error: OSError | StateError, count: int) -> None:
        if self._loss is None:
            reason = error.message if isinstance(error, StateError) else os.strerror(error.errno or 0)
            self._loss = Loss(reason)
            self._on_event("log_loss", {"path": self._log.path, "reason": reason, "since": self._loss.since})
        self._loss.retry_at = monotonic() + _RETRY
        self._loss.count(count)
        self.lost_bytes += count

    def _discard(self, error: OSError | StateError | None = None) -> int:
        """The target must not wait for a log that cannot be written. error: of the write that just failed."""
        data = self._read()
        self._show(data)
        if error is not None and data:
            self._lose(error, len(data))
        elif self._loss is not None:
            self._loss.count(len(data))
            self.lost_bytes += len(data)
        return len(data)

    def _recover(self) -> bool:
        """Try again, once a second at most: the log goes on with a line that tells what is missing."""
        loss = self._loss
        if loss is None or monotonic() < loss.retry_at:
            return loss is None
        loss.retry_at = monotonic() + _RETRY
        try:
            self._log.reopen()  # the old descriptor may be stale, the file system another
            note = loss.note()
            self._log.append_whole(note if self._log.ends_line() else b"\n" + note)
        except (OSError, StateError):
            return False
        self._loss = None
        if self._stamper is not None:
            self._stamper.at_start = True
        self._on_event("log_recovered", {"path": self._log.path, **loss.fields()})
        return True

    # -- the terminal ---------------------------------------------------------------------------

    def _show(self, data: bytes | memoryview) -> None:
        if self._echo is not None and data:
            self._echo.show(data)

    @property
    def wants_write(self) -> bool:
        """Whether the terminal has bytes waiting: then poll ``echo_fileno()`` for POLLOUT."""
        return self._echo is not None and self._echo.wants_write

    def echo_fileno(self) -> int:
        """The terminal's descriptor, -1 when there is none any more."""
        return self._echo.fileno() if self._echo is not None else -1

    def flush_echo(self) -> None:
        """Give the terminal what it takes now."""
        if self._echo is not None:
            self._echo.flush()

    def _watch_echo(self, watch: select.poll) -> None:
        if self.wants_write:
            watch.register(self.echo_fileno(), select.POLLOUT)

    # -- the compressing child, and the end -------------------------------------------------------

    def compressor_pid(self) -> int:
        """The child that compresses a part, 0 when there is none: it belongs to no tree."""
        return self._log.packer.pid if self._log.packer is not None else 0

    def reaped(self, pid: int, status: int) -> bool:
        """Tell that ``pid`` was collected with this wait status; True when it was the compressing child."""
        return self._log.reaped(pid, status)

    def close(self) -> None:
        """Close the log, the pipe and the terminal; end a compressing child. Call :meth:`drain` first."""
        if self._pipe < 0:
            return
        if self._loss is not None:
            self._loss.retry_at = 0.0
            self._recover()
        self._log.close()
        if self._echo is not None:
            self._echo.close()
        if self._peek is not None:
            self._peek.close()
        os.close(self._pipe)
        self._pipe = -1


def tail(path: str, lines: int) -> list[str]:
    """The last ``lines`` lines of a log, from its rotated parts too; [] when there is none."""
    from safesh.core.logtail import last_lines

    return last_lines(path, lines)


def _cut(data: bytes | memoryview, room: int) -> int:
    """How much of ``data`` belongs in the file: what there is room for, or up to the line end where none is."""
    if room > 0:
        return min(room, len(data))
    data = data[: max(1, LONGEST_LINE + room)]
    return bytes(data).find(b"\n") + 1 or len(data)


def _enlarge(pipe_fd: int) -> None:
    """A large pipe lets the target run on while we sleep (F_SETPIPE_SZ, fcntl(2)); any size will do."""
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return
    try:
        fcntl.fcntl(pipe_fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        pass  # more than the user's share of pipe pages: as it is, then
