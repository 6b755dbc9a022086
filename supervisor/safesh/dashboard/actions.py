"""What the buttons do: the command line's own verbs, as argument lists, never through a shell.

A page lists who would end and asks; what ends them is the code that ``safe.sh stop`` runs, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from safesh import wire
from safesh.cli import targets, top
from safesh.dashboard import data
from safesh.dashboard.settings import TOKEN, Settings
from safesh.errors import UsageError

Verb = Literal["start", "stop", "restart", "kill-all"]
_ENTRY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__main__.py")
_LONGEST = 600.0  # seconds; a verb has deadlines of its own, which depend on what safe.toml says


class Outcome(NamedTuple):
    """How a verb ended. ok: as asked; text: what it said, in a few lines."""

    ok: bool
    text: str


def command(settings: Settings, verb: Verb, name: str = "", config: str = "") -> list[str]:
    """The argument list. name: the target or instance, for all but kill-all; config: where it comes from.

    UsageError for what could not be a name: it would be read as an option.
    """
    if (verb == "kill-all") == bool(name) or name.startswith("-") or "\0" in name:
        raise UsageError(f"{name!r} cannot be meant", place=verb)
    words = [sys.executable, "-E", "-s", "-S", _ENTRY, verb]
    chosen = config or settings.config
    if chosen:
        words += ["--config", chosen]
    words += ["--detach", "--json"] if verb == "start" else ["--force", "--json"]
    return words + ([name] if name else [])


def act(settings: Settings, token: str, verb: Verb, name: str = "", config: str = "") -> Outcome:
    """Do it and tell how it went. UsageError where actions are not allowed."""
    if not settings.allows(token):
        raise UsageError("this dashboard is read-only" if settings.read_only else "the token is missing or wrong")
    environment = {key: value for key, value in os.environ.items() if key != TOKEN}
    try:
        done = subprocess.run(
            command(settings, verb, name, config),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=_LONGEST,
            start_new_session=True,  # Ctrl-C on the dashboard must not cut a stop short
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(False, f"{verb} did not come back within {_LONGEST:.0f} s; see what runs")
    return Outcome(done.returncode == 0, told(done.stdout) or done.stderr.strip() or f"exit status {done.returncode}")


def told(text: str) -> str:
    """A verb's JSON in a few words, "" where there is nothing to tell."""
    try:
        found = wire.loads(text)
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    lines = [_verdict(one) for one in found.get("verdicts", [])]
    lines += [f"{name}: not running" for name in found.get("not_running", [])]
    for one in found.get("targets", [found] if "pid" in found else []):
        lines.append(f"{one.get('target')}: {one.get('error') or 'runs, pid ' + str(one.get('pid'))}")
    return "\n".join(lines)


def _verdict(one: dict[str, Any]) -> str:
    name = one.get("target") or one.get("instance")
    if one.get("ok"):
        asked, killed = len(one.get("asked") or []), len(one.get("killed") or [])
        return f"{name}: nobody is left ({asked} asked, {killed} killed, {one.get('seconds') or 0:.1f} s)"
    return f"{name}: {len(one.get('survivors') or [])} survived"


def config_of(seen: top.Seen) -> str:
    """The safe.toml that an instance comes from, "" for an ad hoc run."""
    if seen.chosen.specs:
        return seen.chosen.specs[0].config
    found = seen.chosen.config or seen.record.get("config") or ""
    return found if os.path.isfile(found) else ""


def ended_with(seen: top.Seen, everybody: Sequence[top.Seen]) -> list[top.Seen]:
    """Whom ``stop`` ends: it, and those whose targets depend on it, where they run."""
    users = targets.users_of({"config": config_of(seen) or None}, [seen.chosen])
    records = {one.paths.record for one in users}
    return [seen, *(one for one in everybody if one.key in records and one.members)]


def startable(seen: top.Seen) -> list[str]:
    """The targets that may be started in an instance; none of an ad hoc run, whose command only its start knew."""
    return [spec.name for spec in seen.chosen.specs]


def victims(instances: Sequence[top.Seen]) -> list[dict[str, Any]]:
    """Who would end: pid, age, CPU, memory and command of each."""
    rows = []
    for seen in instances:
        for one in sorted(seen.members, key=lambda member: member.pid):
            row = data.member_row(one)
            del row["Threads"]
            rows.append({"Instance": seen.name, **row})
    return rows
