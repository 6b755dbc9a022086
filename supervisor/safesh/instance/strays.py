"""Strays: processes of an instance that no live supervisor holds.

They carry the instance's mark in their environment, or stand in its record, or sit in its cgroup, or match a
target's ``match`` pattern because somebody started a copy by hand. And a supervisor whose lock and record somebody has
removed, or moved away with their folder: it would start again what is ended beside it.
"""

from __future__ import annotations

import os

from safesh import _platform
from safesh.core.contain import HOLDER, INSTANCE, RUN_ID, Tree, ancestors, describe, group_path, open_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from safesh._platform import Info
    from safesh.model import Member

HOLDS = "holds it, though its lock and record are gone"


def mark(folder: str, instance: str) -> str:
    """The value of SAFESH_INSTANCE in the environment of an instance's processes."""
    return os.path.join(folder, instance)


def matches(argv: list[str], pattern: str) -> bool:
    """Whether the pattern's words stand one after the other among ``argv``.

    ``*`` in a word stands for any run of characters; a word without a slash also matches a path's last part.
    """
    wanted = pattern.split()
    if not wanted:
        return False
    for first in range(len(argv) - len(wanted) + 1):
        if all(_fits(word, glob) for word, glob in zip(argv[first:], wanted, strict=False)):
            return True
    return False


def _fits(word: str, glob: str) -> bool:
    return _glob(word, glob) or ("/" not in glob and "/" in word and _glob(os.path.basename(word), glob))


def _glob(word: str, glob: str) -> bool:
    head, *middle = glob.split("*")
    if not middle:
        return word == glob
    if not word.startswith(head):
        return False
    at = len(head)
    *middle, tail = middle
    for piece in middle:
        at = word.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return word.endswith(tail) and len(word) - len(tail) >= at


class Finder:
    """Finds one instance's strays in a scan of all processes."""

    def __init__(
        self, folder: str, instance: str, record: dict[str, Any] | None, patterns: Iterable[tuple[str, str]]
    ) -> None:
        """patterns: (target's name, its ``match``) for every target of the instance."""
        self.mark = mark(folder, instance)
        self.patterns = [(name, pattern) for name, pattern in patterns if pattern]
        main = (record or {}).get("main")
        self.lost: list[Info] = []  # holders that the last look found beside ``held``
        self._lock = f"/{instance}.lock"
        self.main = main if main and main.get("boot") == _platform.boot_id() else None
        self.group = open_group((record or {}).get("cgroup") or group_path((record or {}).get("run_id", "")))

    def find(self, everything: dict[int, Info], held: Iterable[int] = ()) -> dict[int, str]:
        """pid -> why it is a stray. held: pids that a live supervisor or keeper accounts for."""
        found = self._find(everything, held)
        if found and self.group is None and self._find_group(found):
            found = self._find(everything, held)
        return found

    def _find_group(self, found: Iterable[int]) -> bool:
        """Where the record is damaged, a stray's own run id leads to the cgroup with the others of its run."""
        for pid in found:
            environment = _platform.environ(pid, self.mark)
            if environment is not None and environment.get(INSTANCE) == self.mark:
                self.group = open_group(group_path(environment.get(RUN_ID, "")))
                if self.group is not None:
                    return True
        return False

    def _find(self, everything: dict[int, Info], held: Iterable[int]) -> dict[int, str]:
        uid = os.geteuid()
        out = ancestors(everything) | set(held) | {os.getpid()}
        found: dict[int, str] = {}
        holding: dict[int, Info] = {}
        in_group = set(self.group.pids()) if self.group is not None else set()
        for pid, one in everything.items():
            if pid in out or one.dead:
                continue
            reason = self._reason(pid, one, in_group)
            if reason and _owner(pid) == uid:
                if reason != HOLDS:
                    found[pid] = reason
                elif self._has_lock(pid):
                    holding[pid] = one
        # Whoever is below a holder is its keeper, or has not executed its program yet.
        above = {*held, *holding}
        self.lost = [one for one in holding.values() if one.ppid not in above]
        return found

    def _has_lock(self, pid: int) -> bool:
        """A holder that has let go of its lock is on its way out, and nobody's any more."""
        return any(path.endswith(self._lock) for path in _platform.open_paths(pid) or ())

    def _reason(self, pid: int, one: Info, in_group: set[int]) -> str:
        if self.main is not None and self.main["pid"] == pid and self.main["start"] == one.start:
            return "main process of a run whose supervisor is gone"
        if pid in in_group:
            return "left in the run's cgroup"
        environment = _platform.environ(pid, self.mark) or {}
        if environment.get(HOLDER) == self.mark:
            return HOLDS
        if environment.get(INSTANCE) == self.mark:
            return f"left of run {environment.get(RUN_ID, '?')}"
        if self.patterns:
            argv = _platform.cmdline(pid)
            for name, pattern in self.patterns:
                if argv and matches(argv, pattern):
                    return f"started by hand (matches target {name})"
        return ""

    def tree(self, held: Iterable[int] = ()) -> Tree:
        """The strays as a tree that can be ended; ``held`` and everything below stays out of it."""
        out = list(held)
        self.find(_platform.scan(), out)  # which may find the group
        tree = Tree(group=self.group, spare=out)
        tree.find_more = lambda everything: self.find(everything, out)
        return tree

    def remove_group(self) -> None:
        """Remove the empty cgroup of a run whose keeper could not."""
        if self.group is not None and self.group.remove():
            self.group = None

    def members(self, everything: dict[int, Info], held: Iterable[int] = ()) -> list[Member]:
        found = self.find(everything, held)
        found |= {one.pid: HOLDS for one in self.lost}
        return [describe(everything[pid], reason) for pid, reason in sorted(found.items())]


def _owner(pid: int) -> int:
    info = _platform.info(pid)
    return info.uid if info is not None else -1
