"""The time before every line of a log, for who asks for it."""

from __future__ import annotations

import time

from safesh.clock import wall


class Stamper:
    """Puts ``2026-11-21T14:03:09.123 `` (local time) before every line, however the lines come in pieces."""

    def __init__(self, at_start: bool) -> None:
        """at_start: the file is empty or ends with a whole line."""
        self.at_start = True
        self._lead = b"" if at_start else b"\n"  # the last run ended within a line
        self._second = -1
        self._text = ""

    def stamp(self, data: bytes) -> bytes:
        """``data`` as it belongs in the log. All lines of one piece get one time."""
        if not data:
            return data
        now = wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))
        mark = f"{self._text}.{int(now * 1000) % 1000:03d} ".encode()
        stamped = self._lead + (mark if self.at_start else b"")
        stamped += data[:-1].replace(b"\n", b"\n" + mark) + data[-1:]
        self._lead = b""
        self.at_start = data.endswith(b"\n")
        return stamped
