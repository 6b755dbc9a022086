"""The supervisor's side of the control socket: who asked what, and who waits for which answer."""

from __future__ import annotations

from safesh.supervise import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from collections.abc import Callable
    from typing import Any


class Desk:
    """Takes requests and remembers who waits for an answer."""

    def __init__(self, path: str, serve: Callable[[control.Client, dict[str, Any]], None]) -> None:
        """serve(client, request) answers one request or refuses it. StateError when there can be no socket."""
        self._server: _socket.socket = control.listen(path)
        self._serve = serve
        self._clients: dict[int, control.Client] = {}

    def readers(self) -> dict[int, Callable[[], None]]:
        """What to poll, and what to call when it is readable."""
        found: dict[int, Callable[[], None]] = {self._server.fileno(): self._accept}
        for fd in self._clients:
            found[fd] = lambda fd=fd: self._listen(fd)  # type: ignore[misc]
        return found

    def _accept(self) -> None:
        client = control.accept(self._server)
        if client is not None:
            self._clients[client.fileno()] = client

    def _listen(self, fd: int) -> None:
        client = self._clients.get(fd)
        if client is None:
            return
        requests, more = client.requests()
        for request in requests:
            self._serve(client, request)
        if not more:
            del self._clients[fd]
            client.close()

    def answer(self, waited_for: str, answer: dict[str, Any]) -> None:
        """Those who waited for this (``restart``, ``ready``) have it."""
        for client in self._clients.values():
            if client.waits_for == waited_for:
                client.answer(answer)
                client.waits_for = ""

    def close(self) -> list[control.Client]:
        """Stop listening; whoever is still connected, for the last answer."""
        self._server.close()
        clients, self._clients = list(self._clients.values()), {}
        return clients
