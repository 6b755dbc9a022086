"""events.jsonl: one line an event, for people, live views and notifications."""

from __future__ import annotations

import os

from safesh import wire
from safesh.clock import wall
from safesh.errors import SafeshError
from safesh.paths import open_private, set_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT = 5 * 1024 * 1024  # bytes; beyond it one older file of that size is kept


class EventLog:
    """Appends to the project's event log. Losing an event never disturbs a run; losses are counted."""

    def __init__(self, path: str, instance: str) -> None:
        self.path = path
        self.instance = instance
        self.lost = 0
        self._torn = False

    def write(self, event: str, target: str, run_id: str, **details: Any) -> None:
        """One event; several writers may append at once, each line in one write(2)."""
        line = {"v": 1, "at": round(wall(), 3), "instance": self.instance, "target": target, "run_id": run_id}
        data = (wire.dumps({**line, "event": event, **details}) + "\n").encode()
        if self._torn:
            data = b"\n" + data
        if self.lost:
            data += (wire.dumps({**line, "event": "events_lost", "count": self.lost}) + "\n").encode()
        try:
            fd = open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                if os.fstat(fd).st_size > _LIMIT:
                    set_aside(self.path, fd)
                written = os.write(fd, data)
            finally:
                os.close(fd)
        except (OSError, SafeshError):
            written = 0
        if written == len(data):
            self.lost, self._torn = 0, False
        else:
            self.lost += 1
            self._torn = self._torn or written > 0  # the disk took a part of the line
