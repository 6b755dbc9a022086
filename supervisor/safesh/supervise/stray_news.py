"""News of strays: a ``start`` finds them and is refused, so there is no supervisor that could tell it."""

from __future__ import annotations

import os

from safesh import wire
from safesh.clock import wall
from safesh.errors import SafeshError
from safesh.paths import open_private
from safesh.supervise.events import EventLog
from safesh.supervise.letters import LONGEST_TEXT, write_letter
from safesh.supervise.recipients import recipients_of, send_courier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import TargetSpec
    from safesh.paths import InstancePaths

_TAIL = 1 << 16


def tell_strays(spec: TargetSpec, paths: InstancePaths, run_id: str, message: str) -> None:
    """``start`` was refused because of strays: an event, and a courier to each hook that wants to know.

    Whoever starts again every minute (cron) is no reason to tell again: the event log knows when it was last told.
    """
    log = EventLog(paths.events, spec.instance)
    now = wall()
    past = _told_before(paths.events, spec.instance, message)
    told = [
        place
        for place, hook in enumerate(spec.notify)
        if (not hook.on or "strays" in hook.on) and not (place in past and 0 <= now - past[place] < hook.every)
    ]
    log.write("strays", spec.name, run_id, message=message[:LONGEST_TEXT], told=told)
    record: dict[str, Any] = {"project": spec.project, "instance": spec.instance, "target": spec.name, "run_id": run_id}
    record |= {"state": "idle", "main": None, "restarts": 0, "last_exit": None}
    for place in told:
        for recipient in recipients_of(spec, place):
            try:
                send_courier(recipient.order(log, [write_letter("strays", message, record)]))
            except (SafeshError, OSError, ValueError) as error:
                log.write("hook_failed", spec.name, run_id, hook=recipient.label, reason=str(error), attempts=0)


def _told_before(path: str, instance: str, message: str) -> dict[int, float]:
    """Index of a hook -> wall time at which it was last told of these strays, as far as the log's end goes back."""
    try:
        fd = open_private(path, os.O_RDONLY)
    except (OSError, SafeshError):
        return {}
    try:
        data = os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL))
    except OSError:
        return {}
    finally:
        os.close(fd)
    found: dict[int, float] = {}
    for line in data.split(b"\n"):
        if b'"strays"' not in line:
            continue
        try:
            event = wire.loads(line.decode())
            named = (event["event"], event["instance"], event["message"])
            if named == ("strays", instance, message[:LONGEST_TEXT]):
                found |= {int(place): float(event["at"]) for place in event["told"]}
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # cut off, damaged, or somebody else's
    return found
