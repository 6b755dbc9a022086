"""A run's tree as seen from the process that holds it, on every backend.

A holder (keeper, or the supervisor once its keeper is gone) is a subreaper, so whatever its
descendants do, fork twice, change session, clear their environment, they stay its descendants
(prctl(2), PR_SET_CHILD_SUBREAPER). A cgroup of the run's own adds those that root could move elsewhere and
a kill that no fork outruns. The portable backend has neither: it knows sessions, run ids and what it has seen.
"""

from __future__ import annotations

import os
import time

from safesh import _platform
from safesh.clock import wall
from safesh.model import Member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safesh._platform import Backend, Handle, Info
    from safesh._platform.cgroup import Group

RUN_ID = "SAFESH_RUN_ID"
INSTANCE = "SAFESH_INSTANCE"
HOLDER = "SAFESH_HOLDER"  # the same in the environment of supervisor and keeper, which no process of the tree inherits

# pidfds kept open at once; members beyond that are told by pid and start time, checked at each signal.
_MOST_HANDLES = min(400, max(0, os.sysconf("SC_OPEN_MAX")) // 2)


def new_run_id() -> str:
    """Sorts by time, unique by chance: ``20261121T140309-9f86d081``."""
    global _stamp
    second = int(wall())
    if _stamp[0] != second:
        _stamp = (second, time.strftime("%Y%m%dT%H%M%S-", time.gmtime(second)))
    return _stamp[1] + os.urandom(4).hex()


_stamp = (0, "")


def choose_backend() -> tuple[Backend, str]:
    """(backend, why not a better one) for runs started by this process."""
    forced = _platform.forced_backend()
    if forced == "posix" or not _platform.HAS_SUBREAPER:
        return "posix", "SAFESH_BACKEND=posix" if forced else "this system has no subreapers"
    if forced == "subreaper":
        return "subreaper", "SAFESH_BACKEND=subreaper"
    from safesh._platform import cgroup

    parent, why = cgroup.find_parent()
    if parent:
        return "cgroup", ""
    return "subreaper", why


def make_group(name: str) -> Group | None:
    """A cgroup for a run, None where the backend has none."""
    if _platform.forced_backend() in ("posix", "subreaper") or not _platform.HAS_SUBREAPER:
        return None
    from safesh._platform.cgroup import Group

    return Group.create(name)


def group_path(run_id: str) -> str:
    """Where a run's cgroup is, had nobody lived to report it; "" where the backend has none."""
    if not run_id or choose_backend()[0] != "cgroup":
        return ""
    from safesh._platform import cgroup

    return os.path.join(cgroup.find_parent()[0], cgroup.PREFIX + run_id)


def open_group(path: str) -> Group | None:
    """The group that a record names, when it is one of ours and still there."""
    if not path or not os.path.isdir(path):
        return None
    from safesh._platform.cgroup import PREFIX, Group

    return Group(path) if os.path.basename(path).startswith(PREFIX) else None


class Tree:
    """The living members of one run. ``root``: the holder's own pid, or 0 for strays that nobody holds."""

    def __init__(self, run_id: str = "", root: int = 0, group: Group | None = None, spare: Iterable[int] = ()) -> None:
        self.run_id = run_id
        self.root = root
        self.group = group
        # Children of the holder that are not the run's: a log compressor, say. And never ourselves.
        self.spare = {os.getpid(), *spare}
        self.handles: dict[tuple[int, int], Handle] = {}
        # A mark (``HOLDER``) by which a holder that is not this process tells its own helpers from members.
        self.helpers = ""
        self.find_more: Callable[[dict[int, Info]], Iterable[int]] | None = None
        self.on_remove: Callable[[Group], None] | None = None  # told before its group goes
        self._sessions: dict[int, int] = {}  # leader's pid -> its start
        self._groups: set[int] = set()

    def adopt(self, pid: int, start: int, *, leads: bool = False) -> Handle | None:
        """Count this process in, for as long as it lives; its handle, or None when it is gone.

        leads: it is known to lead a session, which is the tree's also after its leader's end.
        """
        if leads:
            self._sessions[pid] = start
        key = (pid, start)
        handle = self.handles.get(key)
        if handle is None:
            if len(self.handles) < _MOST_HANDLES:
                handle = _platform.open_handle(pid, start)
            else:
                handle = _platform.plain_handle(pid, start)
            if handle is not None:
                self.handles[key] = handle
        return handle

    def find(self, everything: dict[int, Info]) -> dict[int, Info]:
        """The living members in a scan, without opening handles."""
        seeds = [pid for pid, start in self.handles if pid in everything and everything[pid].start == start]
        if self.root:
            seeds.append(self.root)
        if self.group is not None:
            seeds += self.group.pids()
        if self.find_more is not None:
            seeds += self.find_more(everything)
        if not _platform.HAS_SUBREAPER:
            seeds += self._same_session(everything)
        return self._descend(everything, seeds)

    def look(self) -> dict[int, Info]:
        """The living members now, each with an open handle in ``handles``; zombies are not among them."""
        everything = _platform.scan()
        found = self.find(everything)
        self._groups = _own_groups(everything, found)
        for pid in list(found):
            if self.adopt(pid, found[pid].start) is None:
                del found[pid]
        here = {(one.pid, one.start) for one in found.values()}
        for key in [key for key in self.handles if key not in here]:
            if not self.handles[key].alive():  # what the scan could not read is still ours
                self.handles.pop(key).close()
        return found

    def signal_groups(self, signal: int) -> None:
        """Signal the process groups in which the last look found members only.

        A member that forks and exits without end is gone before a signal to its pid arrives. One to its group meets
        parent and child alike: the kernel lets no fork slip through in between (kernel/fork.c, copy_process).
        """
        for group in self._groups:
            try:
                os.killpg(group, signal)
            except (ProcessLookupError, PermissionError):
                pass

    def _descend(self, everything: dict[int, Info], seeds: list[int]) -> dict[int, Info]:
        children: dict[int, list[int]] = {}
        for one in everything.values():
            children.setdefault(one.ppid, []).append(one.pid)
        found: dict[int, Info] = {}
        seen = ancestors(everything) - {self.root}  # the root may be pid 1: an init ends its own
        while seeds:
            pid = seeds.pop()
            if pid in seen:
                continue
            seen.add(pid)
            if pid != self.root and (pid in self.spare or self._is_helper(pid)):
                continue
            # Below a zombie there is nothing: its children have been re-parented already.
            seeds += children.get(pid, ())
            member = everything.get(pid)
            if member is not None and pid != self.root and not member.dead:
                found[pid] = member
        return found

    def _is_helper(self, pid: int) -> bool:
        """Whether somebody else's holder has it for itself: a notification under way, or a fork before its exec."""
        return bool(self.helpers) and (_platform.environ(pid, self.helpers) or {}).get(HOLDER) == self.helpers

    def _same_session(self, everything: dict[int, Info]) -> list[int]:
        """Portable: orphans show by the session of a member seen before, or by the run id in their environment."""
        for pid, start in self.handles:
            known = everything.get(pid)
            # Only sessions that a member leads: a target's, or one that a member made.
            if known is not None and known.start == start and known.sid == pid:
                self._sessions[pid] = start
        for pid, start in list(self._sessions.items()):
            # Its number has passed on, which the kernel allows once a session has nobody left.
            if pid in everything and everything[pid].start != start:
                del self._sessions[pid]
        ours = [one.pid for one in everything.values() if one.sid in self._sessions]
        if self.run_id:
            for one in everything.values():
                if one.pid not in self.spare and (_platform.environ(one.pid, RUN_ID) or {}).get(RUN_ID) == self.run_id:
                    ours.append(one.pid)
        return ours

    def is_empty(self) -> bool:
        """Whether nobody is left, asked of the kernel and not of a scan.

        A scan of /proc is no snapshot: a process whose parent ends while we read can be missed. But every
        orphan of ours becomes the holder's child, so a holder without any child has no tree (wait(2), ECHILD).
        """
        if self._is_populated():
            return False
        if not self._is_held_by_us():
            return not self.look() and not self.look()
        if self._is_childless():
            return True
        # Children of ours that are not the run's hide the kernel's answer.
        if not self.spare - {self.root}:
            return False
        return not any(one.ppid == self.root and one.pid not in self.spare for one in _platform.scan().values())

    def has_nobody(self) -> bool:
        """Whether the kernel says so at once, without a look at any process; False: it cannot tell, or somebody is."""
        return self._is_held_by_us() and not self._is_populated() and self._is_childless()

    def _is_populated(self) -> bool:
        return self.group is not None and self.group.populated()

    def _is_held_by_us(self) -> bool:
        """Whether every orphan of the tree becomes our child."""
        return self.root == os.getpid() and _platform.HAS_SUBREAPER

    def _is_childless(self) -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def living(self) -> list[Handle]:
        """Handles whose process has not ended, without looking for new members."""
        return [handle for handle in self.handles.values() if handle.alive()]

    def remove_group(self) -> None:
        """Remove the run's cgroup once it is empty; a kept one is found again by the run's record."""
        if self.group is not None:
            if self.on_remove is not None:
                self.on_remove(self.group)
            if self.group.remove():
                self.group = None

    def close(self) -> None:
        for handle in self.handles.values():
            handle.close()
        self.handles.clear()


def _own_groups(everything: dict[int, Info], members: dict[int, Info]) -> set[int]:
    """Process groups of sessions that hold members and nobody else: only members can fork or move into those."""
    sessions = {one.sid for one in members.values()} - {0, os.getsid(0)}
    for one in everything.values():
        if one.sid in sessions and one.pid not in members and not one.dead:
            sessions.discard(one.sid)
    # 0 stands for a group outside of our pid namespace, 1 for that of its init.
    return {one.pgid for one in members.values() if one.sid in sessions and one.pgid > 1} - {os.getpgrp()}


def ancestors(everything: dict[int, Info]) -> set[int]:
    """Pids that no ending of ours may ever touch: 0, 1, the kernel's own, and everything above us."""
    found = {0, 1, 2} if 2 in everything and everything[2].ppid == 0 else {0, 1}
    pid = os.getppid()
    while pid in everything and pid not in found:
        found.add(pid)
        pid = everything[pid].ppid
    return found


def describe(one: Info, reason: str = "") -> Member:
    """A member for verdicts and lists, with its full command line where it can be read."""
    full = _platform.info(one.pid)
    if full is None or full.start != one.start:
        full = one
    words = _platform.cmdline(one.pid)
    return Member(
        pid=full.pid,
        start=full.start,
        ppid=full.ppid,
        command=" ".join(words) if words else f"[{full.command}]",
        state=full.state,
        uid=full.uid,
        started_at=full.started_at,
        cpu_seconds=full.cpu_seconds,
        memory_bytes=full.memory_bytes,
        reason=reason,
    )
