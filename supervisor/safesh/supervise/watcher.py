"""What the supervisor's loop looks after besides its target: probes, limits, hooks, each in a file of its own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Watcher:
    """One such thing. It never blocks, never signals the target itself, and wakes the loop only when it must.

    due: monotonic seconds at which :meth:`tick` is to be called, None for never.
    """

    due: float | None = None

    def readers(self) -> dict[int, tuple[int, Callable[[], None]]]:
        """Descriptors to poll: fd -> (poll's event mask, what to call when one of them is there)."""
        return {}

    def tick(self) -> None:
        """The time in ``due`` has come."""

    def children(self) -> list[int]:
        """Pids of children of the supervisor that belong to this watcher, not to the tree."""
        return []

    def reaped(self, pid: int, status: int) -> bool:
        """A child has ended with this wait status and was collected; True when it was this watcher's."""
        return False

    def on_event(self, event: str) -> None:
        """The supervisor's state machine was fed this event."""

    def on_output(self) -> None:
        """The run has written something, which stands in the log now."""

    def totals(self, run_id: str) -> dict[str, Any]:
        """What it has seen of this run, which is over, and the kernel does not count."""
        return {}

    def close(self) -> None:
        """Let go of descriptors and end children; called once."""

    def leave(self) -> None:
        """After ``close``, the instance's: the lock is free and everybody has an answer. Never slow."""
