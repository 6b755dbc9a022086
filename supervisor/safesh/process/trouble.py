"""What becomes of an error that nobody asked for: it is told, and never ends the thread or the commands of others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def attempt(call: Callable[[], object]) -> None:
    """Do what must not keep the rest from being done."""
    try:
        call()
    except Exception:
        report()


def report() -> None:
    """The error that is being handled, on stderr."""
    import traceback

    try:
        traceback.print_exc(file=sys.stderr)
    except Exception:
        pass  # nowhere to tell it; the loop goes on
