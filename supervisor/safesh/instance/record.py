"""The status record and the pid file: written whole, read with suspicion."""

from __future__ import annotations

import os

from safesh import wire
from safesh.errors import StateError
from safesh.instance.lock import is_identity
from safesh.model import STATES, ExitInfo, Member, Verdict
from safesh.paths import check_name_is_ours, read_private, remove, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Record
    from safesh.paths import InstancePaths

VERSION = 1
_TOO_LARGE = 1 << 60  # more than any clock's reading, count or size of ours

_SHAPE: dict[str, tuple[type, ...]] = {
    "v": (int,),
    "project": (str,),
    "instance": (str,),
    "target": (str,),
    "state": (str,),
    "config": (str,),
    "mode": (str,),
    "backend": (str,),
    "cgroup": (str,),
    "run_id": (str,),
    "supervisor": (dict,),
    "keeper": (dict, type(None)),
    "main": (dict, type(None)),
    "command": (list,),
    "cwd": (str,),
    "log": (str,),
    "log_lost_bytes": (int,),
    "grace": (int, float),
    "supervised_since": (int, float),
    "since": (int, float),
    "started_at": (int, float),
    "restarts": (int,),
    "next_start_at": (int, float, type(None)),
    "last_exit": (dict, type(None)),
    "last_verdict": (dict, type(None)),
    "message": (str,),
}


def write_record(paths: InstancePaths, record: dict[str, Any]) -> None:
    """Replace the record. StateError when it cannot be written."""
    write_text(paths, text_of(record))


def text_of(record: dict[str, Any]) -> str:
    """What stands in the record's file: a line for each field."""
    lines = [f' "{name}": {wire.dumps(value)}' for name, value in {"v": VERSION, **record}.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_text(paths: InstancePaths, text: str) -> None:
    """Replace the record by this text. StateError when it cannot be written."""
    write_private(paths.record, text)


def read_record(paths: InstancePaths) -> tuple[dict[str, Any] | None, str]:
    """(the record, ""), (None, "") when there is none, (None, what is wrong with it and what to do)."""
    try:
        text = read_private(paths.record)
        if text is None:
            return None, ""
        value = wire.loads(text)
        wrong = _check(value)
    except ValueError as error:
        wrong = str(error)
    except StateError as error:
        return None, f"{error} ({error.hint})"
    if wrong:
        return None, f"{paths.record} is damaged ({wrong}) and is not used; the next start replaces it"
    return value, ""


def _check(value: Any) -> str:
    if not isinstance(value, dict):
        return "not a JSON object"
    if value.get("v") != VERSION:
        return f"version {value.get('v')!r}, expected {VERSION}"
    for key, types in _SHAPE.items():
        if key not in value:
            return f"{key!r} is missing"
        if not isinstance(value[key], types) or isinstance(value[key], bool):
            return f"{key!r} is {type(value[key]).__name__}"
        if isinstance(value[key], (int, float)) and not 0 <= value[key] < _TOO_LARGE:  # false for NaN too
            return f"{key!r} is out of range"
    if value["state"] not in STATES:
        return f"unknown state {value['state']!r}"
    for key in ("supervisor", "keeper", "main"):
        if value[key] is not None and not is_identity(value[key]):
            return f"{key!r} is no identity"
    if not all(isinstance(word, str) for word in value["command"]):
        return "'command' is not a list of words"
    for key in ("lock_file", "pid_file"):
        if not isinstance(value.get(key, ""), str):
            return f"{key!r} is no path"
    if problem := _check_watched(value):
        return problem
    if not isinstance(value.get("ended_by", ""), str):
        return "'ended_by' is no text"
    if value["last_exit"] is not None and not _fits(value["last_exit"], ExitInfo):
        return "'last_exit' is no exit"
    verdict = value["last_verdict"]
    if verdict is not None and not (_fits(verdict, Verdict) and _is_verdict(verdict)):
        return "'last_verdict' is no verdict"
    return ""


def _check_watched(value: dict[str, Any]) -> str:
    """The keys that a run has only where it was configured so."""
    health = value.get("health", {"status": ""})
    if not isinstance(health, dict) or not isinstance(health.get("status"), str):
        return "'health' is no health"
    if not isinstance(health.get("message") or "", str):
        return "'health' has a message that is no text"
    for key in ("failures", "since", "checked_at"):
        if not _is_figure(key, health.get(key)):
            return f"'health' has no {key} but {type(health[key]).__name__}"
    notify = value.get("notify", {})
    if not isinstance(notify, dict) or not isinstance(notify.get("status", ""), str):
        return "'notify' is no notification"
    for key in ("usage", "sample"):
        found = value.get(key, {})
        if not isinstance(found, dict) or not all(_is_figure(name, one) for name, one in found.items()):
            return f"{key!r} is no {key}"
    offset = value.get("log_offset", 0)
    if type(offset) is not int or not 0 <= offset < _TOO_LARGE:
        return "'log_offset' is no offset"
    return ""


def _is_figure(name: str, value: Any) -> bool:
    """Of what was used: a number, or the word beside it; null where nobody knows."""
    if name in ("run_id", "peak_memory_of"):
        return value is None or isinstance(value, str)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and 0 <= value < _TOO_LARGE)


def _fits(value: Any, kind: type[Record]) -> bool:
    """Whether ``kind.from_dict`` and whoever reads its answer can work with this."""
    if not isinstance(value, dict):
        return False
    for name in kind.fields():
        default = getattr(kind, name, None)
        found = value.get(name, default)
        if isinstance(default, (bool, str, list)):
            good = type(found) is type(default)
        elif isinstance(found, (int, float)) and not isinstance(found, bool):
            good = -1 <= found < _TOO_LARGE
        else:  # a pid or start time that is missing, too
            good = False
        if not good:
            return False
    return True


def _is_verdict(value: dict[str, Any]) -> bool:
    lines = [line for key in ("asked", "killed", "survivors") for line in value.get(key, [])]
    return all(_fits(line, Member) for line in lines)


def write_pid(paths: InstancePaths, pid: int) -> None:
    """A plain pid file: the number and a newline. StateError where another user holds the name in a shared folder."""
    check_name_is_ours(paths.pid)
    write_private(paths.pid, f"{pid}\n")


def read_pid(paths: InstancePaths) -> tuple[int | None, str]:
    """(pid, ""), (None, "") when there is no file, (None, problem). The number alone proves nothing."""
    try:
        text = read_private(paths.pid, 64)
    except StateError as error:
        return None, f"{error} ({error.hint})"
    if text is None:
        return None, ""
    word = text.strip()
    if not (word.isascii() and word.isdigit() and 0 < int(word) < 1 << 31):
        return None, f"{paths.pid} holds {text[:20]!r}, not a pid, and is not used; the next start replaces it"
    return int(word), ""


def remove_pid(paths: InstancePaths, pid: int) -> None:
    """Remove the pid file if it is still ours."""
    if read_pid(paths)[0] == pid:
        remove(paths.pid)


def pid_file_exists(paths: InstancePaths) -> bool:
    return os.path.lexists(paths.pid)
