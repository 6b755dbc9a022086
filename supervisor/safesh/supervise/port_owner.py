"""Whose port is it: an answer on a loopback port is a sign of life only if a member of the run listens there."""

from __future__ import annotations

import os

from safesh import _platform
from safesh.clock import monotonic
from safesh.core.contain import Tree, open_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Probe


def loopback_port(probe: Probe) -> int:
    """The port of a tcp or http probe that asks this machine; 0 for any other."""
    if probe.tcp:
        host, _, port = probe.tcp.rpartition(":")
    elif probe.http:
        place = probe.http.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
        host, colon, port = place.rpartition(":")
        if not colon or not port.isdigit():
            host, port = place, "443" if probe.http.startswith("https") else "80"
    else:
        return 0
    host = host.strip("[]").lower().rstrip(".")
    return int(port) if host in ("localhost", "::1", "") or host.startswith("127.") else 0


_TRUSTED = 60.0  # seconds: a look costs a scan of all processes


class PortOwner:
    """Remembers the member that was seen to listen, for a minute, and as long as it lives."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._owner = (0, 0)
        self._seen = 0.0

    def find_stranger(self, record: dict[str, Any]) -> str:
        """Who serves the port instead of the run, in words; "" when a member does, or nobody can tell."""
        now = monotonic()
        pid, start = self._owner
        if pid and now - self._seen < _TRUSTED and _platform.start_time(pid) == start:
            return ""
        self._owner, stranger = look(self.port, record)
        self._seen = now
        return stranger


def look(port: int, record: dict[str, Any]) -> tuple[tuple[int, int], str]:
    """((pid, start) of the member that listens on ``port``, or zeros; who else does, in words)."""
    nobody = (0, 0)
    wanted = _platform.listeners(port)
    keeper = record["keeper"]
    if not wanted or keeper is None:
        return nobody, ""
    everything = _platform.scan()
    members = Tree(record["run_id"], keeper["pid"], open_group(record["cgroup"]), spare=[keeper["pid"]]).find(
        everything
    )
    for pid, one in members.items():
        theirs = _platform.sockets_of(pid)
        if theirs is None or theirs & wanted:
            return (pid, one.start), ""
    for pid, one in everything.items():
        if pid not in members and pid != os.getpid() and (_platform.sockets_of(pid) or set()) & wanted:
            return nobody, f"pid {pid} ({one.command})"
    return nobody, "another program"
