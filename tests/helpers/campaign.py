"""How often a race is run: a quick number in every test run, the full one in ``make faults`` (SAFESH_CAMPAIGN=full)."""

from __future__ import annotations

import os

# Read at import: a test's ``home`` takes every variable of ours out of the environment.
FULL = os.environ.get("SAFESH_CAMPAIGN") == "full"


def rounds(quick: int, full: int) -> int:
    """Rounds of this run."""
    return full if FULL else quick
