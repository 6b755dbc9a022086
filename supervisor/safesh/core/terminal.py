"""Showing a target's output where ``start`` was typed, without ever waiting for it."""

from __future__ import annotations

import os
import select
import stat

from safesh import _platform
from safesh.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

_BACKLOG = 1 << 20
_CHUNK = 1 << 16
_FULL = _BACKLOG - (1 << 18)  # there may be no room for the next piece
_PATIENCE = 0.25  # seconds in which a reader must have taken something to be waited for
_WAIT = 5  # milliseconds that it is waited for at once
_CAREFUL = 256  # n_tty and pipes call themselves writable with at least this much room


class Echo:
    """A terminal, pipe, socket or file that is shown the bytes of a log.

    The descriptor's open file description is shared with the shell that started us, so O_NONBLOCK
    would be seen there: a terminal or pipe is opened a second time instead. What it does not take
    at once waits in a backlog of 1 MiB; beyond that it is dropped and counted in a note. Only a pipe's or socket's
    reader that keeps reading is waited for, being the next command of a pipeline: see :meth:`holds_back`.
    """

    def __init__(self, fd: int, path: str) -> None:
        """fd stays the caller's; path: where all of the log is, for the note."""
        self._note_path = path
        self._fd = -1
        self._socket: _socket.socket | None = None
        self._careful = False
        self._patient = False
        self._taken_at = monotonic()
        self._backlog = bytearray()
        self._dropped = 0
        self._mid_line = False
        self.gone = False
        try:
            self._open(fd)
        except OSError:
            self.gone = True

    def _open(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self._patient = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if stat.S_ISSOCK(mode):
            from _socket import socket

            duplicate = os.dup(fd)
            try:
                self._socket = socket(fileno=duplicate)
            except OSError:
                os.close(duplicate)
                raise
            self._fd = duplicate
        elif stat.S_ISREG(mode):
            self._fd = os.dup(fd)
        else:
            try:
                self._fd = _platform.reopen(fd, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                self._fd = os.dup(fd)
                self._careful = os.get_blocking(fd)

    def fileno(self) -> int:
        """For poll(2) while ``wants_write``; -1 once it is gone."""
        return self._fd

    @property
    def wants_write(self) -> bool:
        return not self.gone and bool(self._backlog)

    def holds_back(self) -> bool:
        """Whether to take nothing more from the target now, as in any pipeline whose next command is slower.

        Waits 5 ms at most. Never for a terminal, and no longer for a reader that has stopped reading: then we drop.
        """
        if not self._patient or self.gone or self._dropped or len(self._backlog) <= _FULL:
            return False
        if monotonic() - self._taken_at > _PATIENCE:
            return False
        watch = select.poll()
        watch.register(self._fd, select.POLLOUT)
        watch.poll(_WAIT)
        self.flush()
        return len(self._backlog) > _FULL  # none once it is gone

    def show(self, data: bytes | memoryview) -> None:
        """Write what can be written now, keep or drop the rest; ``data`` is free again afterwards."""
        if self.gone:
            return
        if not self._backlog and not self._dropped:
            data = data[self._send(data) :]
        if data and not self.gone:
            self._keep(bytes(data))
            self.flush()

    def _keep(self, data: bytes) -> None:
        room = 0 if self._dropped else _BACKLOG - len(self._backlog)
        if len(data) > room:
            # Whole lines where possible, so that the note stands on a line of its own.
            cut = data.rfind(b"\n", 0, max(room, 0)) + 1 or max(room, 0)
            self._dropped += len(data) - cut
            data = data[:cut]
        if data:
            self._backlog += data
            self._mid_line = not data.endswith(b"\n")

    def flush(self) -> None:
        """Write of the backlog what can be written now."""
        while self._backlog and not self.gone:
            sent = self._send(bytes(self._backlog[:_CHUNK]))
            if not sent:
                return
            del self._backlog[:sent]
            if self._dropped and not self._backlog:
                start = "\n" if self._mid_line else ""
                self._backlog += (
                    f"{start}[safesh: {self._dropped} bytes not shown; all of it is in {self._note_path}]\n"
                ).encode("utf-8", "surrogateescape")
                self._dropped = 0
                self._mid_line = False

    def _send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken; a terminal that has gone away takes none, ever."""
        sent = 0
        try:
            while sent < len(data):
                sent += self._send_once(data[sent:] if sent else data)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if sent:
            self._taken_at = monotonic()
        if not self._backlog and sent:
            self._mid_line = data[sent - 1 : sent] != b"\n"
        return sent

    def _send_once(self, data: bytes | memoryview) -> int:
        if self._socket is not None:
            import _socket

            return self._socket.send(data, _socket.MSG_DONTWAIT | getattr(_socket, "MSG_NOSIGNAL", 0))
        if self._careful:
            watch = select.poll()
            watch.register(self._fd, select.POLLOUT)
            if not watch.poll(0):
                raise BlockingIOError
            data = data[:_CAREFUL]
        return os.write(self._fd, data)

    def close(self) -> None:
        """Show nothing more."""
        self.gone = True
        self._backlog.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
