"""``help``: the page of a command, or the list of all of them."""

from __future__ import annotations

from safesh.cli import manual, render
from safesh.cli.grammar import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: dict[str, Any]) -> int:
    """Print it; UsageError (exit 2) where there is no such command."""
    name = args["target"]
    if name is not None and name not in VERBS:
        raise manual.unknown_verb(name)
    render.say((manual.page(VERBS[name]) if name else manual.overview()).rstrip("\n"))
    return 0
