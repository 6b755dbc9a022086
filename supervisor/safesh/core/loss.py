"""An episode in which a log could not be written."""

from __future__ import annotations

from safesh.clock import format_time, wall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Loss:
    """reason: why; bytes: how many are lost; since, until: when (wall time); retry_at: next attempt (monotonic)."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.bytes = 0
        self.since = self.until = wall()
        self.retry_at = 0.0

    def count(self, lost: int) -> None:
        if lost:
            self.bytes += lost
            self.until = wall()

    def note(self) -> bytes:
        """The line that the log goes on with."""
        return (
            f"[safesh: {self.bytes} bytes lost from {format_time(self.since)} "
            f"to {format_time(self.until)}: {self.reason}]\n"
        ).encode("utf-8", "surrogateescape")

    def fields(self) -> dict[str, Any]:
        """For the event that tells its end."""
        return {"reason": self.reason, "bytes": self.bytes, "since": self.since, "until": self.until}
