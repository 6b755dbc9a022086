"""An instance's log and events, as text and rows."""

from __future__ import annotations

import re
import shlex
from typing import Any

from safesh import wire
from safesh.clock import format_time
from safesh.core import logtail
from safesh.dashboard import search
from safesh.paths import read_private

_TAIL = 1 << 20  # bytes of the events that are looked at
_ESCAPES = dict.fromkeys((*range(9), *range(11, 32), 127, *range(0x80, 0xA0)), "")
_TOLD = ("v", "at", "event", "target", "instance", "run_id")


def events(path: str, instance: str, most: int = 100) -> list[dict[str, Any]]:
    """The newest events of an instance, newest first. StateError for a file that is not to be trusted."""
    found = []
    for line in reversed(_last_text(path).splitlines()):
        try:
            event = wire.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("instance") == instance and isinstance(event.get("at"), (int, float)):
            found.append(event)
            if len(found) == most:
                break
    return found


def _last_text(path: str) -> str:
    return (read_private(path, 6 << 20) or "")[-_TAIL:]


def event_rows(path: str, instance: str) -> list[dict[str, Any]]:
    """A row an event."""
    return [
        {
            "At": format_time(one["at"]),
            "Event": str(one.get("event")),
            "Target": str(one.get("target") or ""),
            "Details": ", ".join(
                f"{name}: {_shown(name, value)}"
                for name, value in one.items()
                if name not in _TOLD and value not in (None, "", [], {})
            ),
        }
        for one in events(path, instance)
    ]


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        if all(isinstance(one, str) for one in value):
            return shlex.join(value)
        return "; ".join(_shown(name, one) for one in value)
    if isinstance(value, dict):
        if "pid" in value and "command" in value:
            return f"{value['pid']} {value['command']}"
        told = {key: one for key, one in value.items() if key not in _TOLD and one not in (None, "", [], {}, False)}
        return " ".join(f"{key}={_shown(key, one)}" for key, one in told.items())
    text = str(value)
    # Its last line tells what went wrong; all of it stands in events.jsonl.
    return text.strip().rpartition("\n")[2] if name == "traceback" else text


def log_tail(path: str, lines: int, text: str = "") -> list[str]:
    """The last lines of a log, over its rotated parts; with ``text`` those of them that have it.

    SearchTooLong for an expression that does not come to an end.
    """
    told = [_plain(line) for line in logtail.last_lines(path, lines)]
    return [told[number] for number in search.matches(text, told)]


def _plain(line: str) -> str:
    """Without colours and cursor movements (ECMA-48), and without any other control character."""
    if "\x1b" in line:
        line = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])", "", line)
    return line.translate(_ESCAPES)
