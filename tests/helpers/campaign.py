"""How often a race is run: a quick number in every test run, the full one with ``SAFESH_CAMPAIGN=full`` (make faults)."""

from __future__ import annotations

import os


def rounds(quick: int, full: int) -> int:
    """Rounds of this run."""
    return full if os.environ.get("SAFESH_CAMPAIGN") == "full" else quick
