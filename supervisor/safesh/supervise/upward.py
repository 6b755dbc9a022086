"""Readiness told to whoever supervises us: systemd's READY=1 (sd_notify(3)), for units of ``Type=notify``."""

from __future__ import annotations

import os

from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
else:
    import _socket


class Upward(Watcher):
    """Passes ``ready`` on to the socket in our own $NOTIFY_SOCKET; the target never gets that variable from us."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET")

    def on_event(self, event: str) -> None:
        if event == "ready":
            self._send(b"READY=1")

    def _send(self, message: bytes) -> None:
        address = os.fsencode(self._address)
        if address[:1] == b"@":
            address = b"\0" + address[1:]  # the abstract namespace, unix(7)
        sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(message)
        except OSError:
            pass  # nobody listens; being ready does not depend on who hears of it
        finally:
            sender.close()
