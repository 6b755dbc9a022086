"""The control socket: one JSON line asks, one JSON line answers.

It lies in the project's folder, which is closed to others (0700), and is bound by a relative name because a
socket's path holds only 108 bytes (unix(7)).
"""

from __future__ import annotations

import os

from safesh import wire
from safesh.clock import LONGEST_WAIT
from safesh.errors import StateError
from safesh.paths import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from typing import Any
else:
    import _socket

_LONGEST = 1 << 20


def listen(path: str) -> _socket.socket:
    """A listening socket at ``path``, replacing a dead one. Only the lock's holder may call this."""
    remove(path)
    server = None
    try:
        server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        _in_folder(path, server.bind)
        os.chmod(path, 0o600)
        server.listen(64)
        server.setblocking(False)
    except OSError as error:
        if server is not None:
            server.close()
        raise StateError(
            f"the control socket cannot be made: {error.strerror}", place=path, hint="free the path, or set SAFESH_HOME"
        ) from None
    return server


def connect(path: str, timeout: float) -> _socket.socket:
    """A connection to the supervisor that listens at ``path``; OSError when none does."""
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        _in_folder(path, client.connect)
    except OSError:
        client.close()
        raise
    return client


def _in_folder(path: str, act: Any) -> None:
    """Run ``act(name)`` with the socket's folder as working directory, and come back."""
    folder, name = os.path.split(path)
    try:
        back = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        back = -1  # the working directory is gone or closed to us; there is nothing to come back to
    try:
        os.chdir(folder)
        act(name)
    finally:
        if back >= 0:
            os.fchdir(back)
            os.close(back)


class Client:
    """One connection to the supervisor, never waited for."""

    def __init__(self, connection: Any) -> None:
        # ``_socket`` accepts plain descriptors; wrapping gives send and recv.
        self.socket = connection
        self._partial = b""
        self.waits_for = ""

    def fileno(self) -> int:
        number: int = self.socket.fileno()
        return number

    def requests(self) -> tuple[list[dict[str, Any]], bool]:
        """(whole requests, whether the other side is still there). Garbage ends the connection."""
        try:
            chunk = self.socket.recv(65536)
        except BlockingIOError:
            return [], True
        except OSError:
            return [], False
        self._partial += chunk
        *lines, self._partial = self._partial.split(b"\n")
        found = []
        try:
            for line in lines:
                value = wire.loads(line.decode())
                if not isinstance(value, dict):
                    raise ValueError("not an object")
                found.append(value)
        except ValueError:
            self.answer({"error": "not a request"})
            return found, False
        return found, bool(chunk) and len(self._partial) <= _LONGEST

    def answer(self, value: dict[str, Any]) -> None:
        """One line; a client that does not read it has lost it."""
        try:
            self.socket.setblocking(True)
            self.socket.settimeout(1.0)
            self.socket.sendall(wire.dumps(value).encode() + b"\n")
            self.socket.setblocking(False)
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()


def accept(server: Any) -> Client | None:
    """The next connection, None when there is none."""
    try:
        fd, _address = server._accept()
    except OSError:
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
    connection.setblocking(False)
    return Client(connection)


class Conversation:
    """The asking side: send one request, read the answers as lines."""

    def __init__(self, connection: Any) -> None:
        self.socket = connection
        self._partial = b""

    def fileno(self) -> int:
        number: int = self.socket.fileno()
        return number

    def ask(self, request: dict[str, Any]) -> None:
        self.socket.sendall(wire.dumps(request).encode() + b"\n")

    def answer(self, timeout: float | None) -> dict[str, Any] | None:
        """The next answer, None at the end of the conversation; TimeoutError after ``timeout`` seconds.

        ValueError for what is no answer.
        """
        self.socket.settimeout(None if timeout is None else min(timeout, LONGEST_WAIT))
        while b"\n" not in self._partial:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not chunk:
                return None
            self._partial += chunk
        line, _, self._partial = self._partial.partition(b"\n")
        value = wire.loads(line.decode())
        if not isinstance(value, dict):
            raise ValueError("not an answer")
        return value

    def close(self) -> None:
        self.socket.close()
