"""A scribe: puts a batch of samples into the project's history, and is gone by its deadline.

Executed as a file by ``sampling`` in a session of its own, its order on standard input: SQLite, its locks and its fsync
never come near a supervisor, and it needs none. The order is a JSON object a line: first ``{"folder", "events",
"instance", "target", "told"}``, then ``{"run_id", "target", "sample"}`` each. Trouble that was told of already
(``told``, the names of events) is not told again; the exit status says what it was.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh import wire
from safesh.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any
else:
    import _signal

KEPT = 0
# Exit statuses: why nothing was kept.
TROUBLES = {3: "history_locked", 4: "history_full", 5: "history_failed", 6: "history_refused"}
_DEADLINE = 30  # seconds
_PATIENCE = 5.0  # seconds for somebody else's lock: nobody waits for us
_NICE = 5


def write(lines: list[str]) -> int:
    """Keep the batch; the exit status."""
    order = wire.loads(lines[0])
    trouble = ""

    def tell(event: str, details: dict[str, Any]) -> None:
        nonlocal trouble
        if event != "history_rebuilt":
            trouble = event
        if event not in order["told"]:
            from safesh.supervise.events import EventLog

            run_id = wire.loads(lines[-1]).get("run_id", "")
            EventLog(order["events"], order["instance"]).write(event, order["target"], run_id, **details)

    path = os.path.join(order["folder"], "history.db")
    try:
        from safesh.metrics.history import History

        with History(path, on_event=tell, patience=_PATIENCE) as history:
            batches: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for line in lines[1:]:
                row = wire.loads(line)
                batches.setdefault((row["run_id"], row["target"]), []).append(row["sample"])
            for (run_id, target), samples in batches.items():
                history.add_samples(run_id, target, samples)
            kept = history.flush()
            history.take_spool()
        if kept:
            return KEPT
    except StateError as error:
        tell("history_refused", {"path": path, "message": error.message})
    except ImportError as error:
        tell("history_failed", {"path": path, "message": f"this Python cannot open it: {error}"})
    return next((code for code, name in TROUBLES.items() if name == trouble), 5)


if __name__ == "__main__":
    _signal.alarm(_DEADLINE)  # a folder on a dead file system
    os.nice(_NICE)
    data = b""
    while chunk := os.read(0, 1 << 16):
        data += chunk
    os._exit(write(data.decode().splitlines()))
