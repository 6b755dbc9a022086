"""The supervisor's side of the control socket: who asked what, and who waits for which answer."""

from __future__ import annotations

from safesh.core import signals
from safesh.errors import ConfigError
from safesh.model import Hook, Record, TargetSpec
from safesh.supervise import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from collections.abc import Callable
    from typing import Any

_LONGEST_GRACE = 1e9  # seconds
_LARGEST = 1 << 62
_TEMPLATE = TargetSpec(name="", instance="", project="", command=[], cwd="")


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


def grace_of(request: dict[str, Any], usual: float) -> float:
    """The seconds that a request gives a target to end; ``usual`` where it names none that make sense."""
    grace = request.get("grace")
    if isinstance(grace, (int, float)) and not isinstance(grace, bool) and 0 <= grace <= _LONGEST_GRACE:
        return float(grace)  # no NaN, which no deadline ever passes, and no integer that is no float
    return usual


def spec_of(value: Any) -> TargetSpec | None:
    """The target that a request brings; None for anything that is not one in every field."""
    if not isinstance(value, dict):
        return None
    try:
        spec = TargetSpec.from_dict(value)
    except (TypeError, AttributeError, ValueError):
        return None
    if not _fits(spec, _TEMPLATE) or not spec.command or not all(_fits(hook, Hook()) for hook in spec.notify):
        return None
    try:
        for name in (spec.stop.signal, *spec.signals, *spec.signals.values()):
            if name:
                signals.number(name)
    except (ConfigError, ValueError):
        return None
    return spec


def _fits(value: Any, template: Any) -> bool:
    """Whether this is of the template's type, and all that is in it too."""
    if isinstance(template, Record):
        return type(value) is type(template) and all(
            name == "notify" or _fits(getattr(value, name), getattr(template, name)) for name in template.fields()
        )
    if isinstance(template, dict):
        return isinstance(value, dict) and all(isinstance(one, str) for pair in value.items() for one in pair)
    if isinstance(template, list):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if isinstance(template, (bool, str)):
        return type(value) is type(template)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
