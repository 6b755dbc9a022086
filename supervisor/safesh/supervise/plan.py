"""What ``start`` hands to the supervisor it becomes; apart from it, so that the front end need not import it."""

from __future__ import annotations

from safesh.model import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Plan(Record):
    """Descriptors are -1 where there is none.

    stdin: the target's standard input; echo: where a foreground start repeats the target's output; terminal: the
    one whose end is ours; tty: the one that the target gets whole (``tty = true``); notify: where a detached start
    waits for one JSON line; hup_ends: SIGHUP ends the tree (foreground, not under nohup) instead of being sent on.
    """

    spec: dict[str, Any]
    folder: str
    mode: str
    lock: int
    stdin: int = -1
    echo: int = -1
    terminal: int = -1
    tty: int = -1
    notify: int = -1
    hup_ends: bool = False
