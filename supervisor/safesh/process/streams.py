"""The three streams of a child: what it says, read and kept; what it is told, written as it takes it."""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Protocol

from safesh.core import forking

if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence

    from safesh.process.lines import LineSplitter
else:
    import _signal

_ROOM = 1 << 16  # what a pipe holds, and a first read takes
_MOST_ROOM = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2), Linux
_VEOF = b"\x04"


class Store(Protocol):
    """Where a stream's bytes are kept; ``Collector`` or ``Spool``."""

    def append(self, data: bytes) -> None: ...
    def all(self) -> bytes: ...
    def tail(self, size: int) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def lost(self) -> int: ...


class Collector:
    """The last ``limit`` bytes of a stream in memory, as they came."""

    __slots__ = ("_chunks", "_held", "limit", "lost", "size")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.size = 0
        self.lost = 0
        self._held = 0
        self._chunks: deque[bytes] = deque()

    def append(self, data: bytes) -> None:
        self.size += len(data)
        self._chunks.append(data)
        if self.limit is None:
            return
        self._held += len(data)
        while self._held > self.limit:
            over = self._held - self.limit
            first = self._chunks.popleft()
            if len(first) > over:
                self._chunks.appendleft(first[over:])
                first = first[:over]
            self._held -= len(first)
            self.lost += len(first)

    def all(self) -> bytes:
        chunks = self._chunks
        if len(chunks) > 1:
            self._chunks = deque([b"".join(chunks)])
        return self._chunks[0] if self._chunks else b""

    def tail(self, size: int) -> bytes:
        """The last ``size`` bytes."""
        parts: list[bytes] = []
        for chunk in reversed(self._chunks):
            if size <= 0:
                break
            parts.append(chunk[-size:])
            size -= len(chunk)
        return b"".join(reversed(parts))


class Stream:
    """Our end of the child's stdout or stderr."""

    __slots__ = ("_pty", "_room", "deliver", "fd", "name", "splitter", "store")

    def __init__(self, name: str, fd: int, store: Store, *, pty: bool = False) -> None:
        self.name = name
        self.fd = fd
        self.store = store
        self.splitter: LineSplitter | None = None
        self.deliver: Callable[[str, Sequence[str] | Sequence[bytes]], None] | None = None
        self._room = _ROOM
        self._pty = pty

    def pump(self) -> bool:
        """Take what is there, once; False at the end of it. Closing our end is the driver's, who watches it."""
        try:
            data = os.read(self.fd, self._room)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EBADF):  # EIO: the pty's other side is closed
                raise
            data = b""
        if not data:
            return False
        self.take(data)
        if len(data) == self._room:
            if self._room < _MOST_ROOM and not self._pty:
                self._grow()
        elif len(data) < _ROOM:
            self._room = _ROOM  # the flood is over, and a large buffer is dear for a small read
        return True

    def take(self, data: bytes) -> None:
        self.store.append(data)
        if self.splitter is not None and self.deliver is not None:
            lines = self.splitter.feed(data)
            if lines:
                self.deliver(self.name, lines)

    def _grow(self) -> None:
        """A child that fills the pipe gets a larger one: fewer switches between the two."""
        self._room = _MOST_ROOM
        set_pipe_size(self.fd, _MOST_ROOM)

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            forking.close_fd(fd)
            if self.splitter is not None and self.deliver is not None:
                rest = self.splitter.flush()
                if rest:
                    self.deliver(self.name, rest)


class Feed:
    """Our end of the child's stdin, and what waits to be written there.

    terminal: it is a usual one, which has no end of file but the character for it (termios(3), VEOF), and that only at
    a line's beginning: elsewhere it takes a second one. In a raw one nothing stands for the end.
    """

    __slots__ = ("_mid_line", "_owes_eof", "_pending", "broken", "closing", "fd", "waiting", "written")

    def __init__(self, fd: int, *, terminal: bool = False) -> None:
        self.fd = fd
        self.waiting = 0
        self.written = 0
        self.closing = False
        self.broken = False
        self._owes_eof = terminal
        self._mid_line = False
        self._pending: deque[memoryview] = deque()

    def push(self, data: bytes | memoryview) -> None:
        if len(data):
            self._pending.append(memoryview(data))
            self.waiting += len(data)
            if self._owes_eof:
                self._mid_line = data[-1] != 10  # a newline

    def write_now(self, data: bytes | memoryview) -> bool:
        """Where nothing waits: whether all of it was taken at once; else nothing was, or what was not waits."""
        if self._pending or self._owes_eof or not self.is_open:
            return False
        try:
            sent = write_quietly(self.fd, data)
        except OSError:
            sent = 0  # pump() meets it again, and deals with it
        self.written += sent
        if sent == len(data):
            return True
        self.push(memoryview(data)[sent:])
        return False

    def pump(self) -> bool:
        """Write what is taken now; False once there is nothing left to write."""
        if self.closing and self._owes_eof:
            self.push(_VEOF * 2 if self._mid_line else _VEOF)  # in its turn: the terminal may be full now
            self._owes_eof = False
        while self._pending and self.fd >= 0:
            first = self._pending[0]
            try:
                sent = write_quietly(self.fd, first[:_MOST_ROOM])
            except BlockingIOError:
                return True
            except OSError as error:
                # EPIPE, EIO, ECONNRESET: nobody reads there any more. What it did not take is its own choice.
                if error.errno not in (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF):
                    raise
                self.broken = True
                self._pending.clear()
                self.waiting = 0
                return False
            self.waiting -= sent
            self.written += sent
            if sent == len(first):
                self._pending.popleft()
            else:
                self._pending[0] = first[sent:]
        return False

    @property
    def is_open(self) -> bool:
        """Whether it takes more."""
        return self.fd >= 0 and not self.closing and not self.broken

    @property
    def over(self) -> bool:
        """Nothing will be written any more: our end is to be closed."""
        return self.broken or (self.closing and not self._pending and not self._owes_eof)

    def close(self) -> None:
        self.broken = self.broken or self.waiting > 0
        self._pending.clear()
        self.waiting = 0
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            forking.close_fd(fd)


_handler_of = _signal.getsignal  # of plain integers: the enums that ``signal`` makes of them cost as much as the write
_SIGPIPE, _DEFAULT = int(signal.SIGPIPE), int(signal.SIG_DFL)


def write_quietly(fd: int, data: bytes | memoryview) -> int:
    """write(2) whose SIGPIPE ends nobody, also in a program that gave SIGPIPE its default back."""
    if _handler_of(_SIGPIPE) != _DEFAULT:
        return os.write(fd, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        return os.write(fd, data)
    except BrokenPipeError:
        if signal.SIGPIPE not in before and hasattr(signal, "sigtimedwait"):
            signal.sigtimedwait([signal.SIGPIPE], 0)  # ours: it goes to the thread that wrote (signal(7))
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_pipe_size(fd: int, size: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, size)
    except OSError:
        pass  # not Linux, or the user's share of pipe memory is used up (pipe(7)): then it stays as it is
