"""``kill-all``: end everything that safesh holds or has left behind."""

from __future__ import annotations

from safesh.cli import stop, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: dict[str, Any]) -> int:
    """0 zero survivors, 1 survivors, 2 not confirmed. Never itself, its ancestors, or other users' processes."""
    return stop.end(targets.choose_for_ending(args, []), args, named=[], verb="Kill")
