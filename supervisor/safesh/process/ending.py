"""Ending runs that are contained by their session, one or a thousand at the price of one.

Such a run has no subreaper above it. Its members are its main process, whoever is in a session that the main process
or another member leads, whoever carries the run's id in its environment, all their descendants, and
whoever was seen to be one of these. What is missed is what ``_platform/posix.py`` says: an orphan that left every
session of its run, cleared its environment and lost its parent before anyone looked.

The main processes are children of the caller and are collected by somebody else, before, while or after we end
their runs. As long as one is not collected its number is its own (wait(2)); afterwards the number stays taken as long
as its session or group has anybody (kernel/pid.c). So a session is a run's until its number is seen with
another process. One gap is left: the session empties, the numbers go round, the new owner makes a session of its own
and ends, all before we look. Therefore runs are ended at their end and not hours later.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from safesh import _platform
from safesh._platform import others
from safesh._platform.base import PlainHandle
from safesh.clock import monotonic
from safesh.core.contain import RUN_ID, Tree, ancestors, describe
from safesh.core.kill import end_tree, wait_plainly
from safesh.errors import ResourceError
from safesh.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from safesh._platform import Handle, Info
    from safesh.core.kill import Wait
    from safesh.model import Member, StopPolicy

    Key = tuple[int, int]  # pid and start

_MOST_PIDFDS = 64  # kept open by one ending: the callers of a library need their descriptors themselves
_EXEC_SECONDS = 0.02
_LOOKS = 2  # in a row without a member, before a tree without a subreaper counts as empty


class Mark(NamedTuple):
    """A run by its main process, which leads its session: pid, start (``model.Identity``) and run id.

    Where nobody knows the main process any more, a negative number that no other mark has stands for it: such a run is
    known by its id alone.
    """

    pid: int
    start: int
    run_id: str

    @property
    def key(self) -> Key:
        return self.pid, self.start


class BriefHandle(PlainHandle):
    """Told by pid and start time between signals, and by a pidfd while one is sent: exact, and no descriptor kept."""

    def send(self, signal: int) -> bool:
        if not self.alive():  # a zombie could still be opened, and would take the signal
            return False
        handle = _platform.open_handle(self.pid, self.start)
        if handle is None:
            return False
        try:
            return handle.send(signal)
        finally:
            handle.close()


def picture(pid: int) -> Info | None:
    """One process as ``_platform.info`` tells it, without its owner."""
    return others.pictures((pid,)).get(pid)


def run_id_of(pid: int) -> str | None:
    """The run id in the environment of a process, "" for none there; None when it is gone, closed to us or empty.

    In the middle of an exec a process shows neither words nor environment (fs/exec.c: the new memory is there before
    what is in it). One that is met there is waited for, some milliseconds at most, or it would slip away.
    """
    limit = 0.0
    while (environment := _platform.environ(pid, RUN_ID)) is None:
        if not _platform.HAS_SUBREAPER:  # the portable backend cannot tell such a one from many that are closed to it
            return None
        one = picture(pid)
        if one is None or one.dead or others.is_kernel(pid):
            return None
        if _platform.cmdline(pid):  # past its exec by now; then it has no environment, or had none yet when we looked
            environment = _platform.environ(pid, RUN_ID)
            if environment is None:
                return None
            break
        limit = limit or monotonic() + _EXEC_SECONDS
        if monotonic() >= limit:
            return None
        time.sleep(_EXEC_SECONDS / 40)
    return environment.get(RUN_ID, "")


class LeanTree(Tree):
    """A tree without a holder, for processes with many threads and better uses for their descriptors.

    ``is_empty`` counts the looks that found nobody and asks only for those that are missing.
    """

    _empty = 0
    _pidfds = _MOST_PIDFDS

    def adopt(self, pid: int, start: int, *, leads: bool = False) -> Handle | None:
        if len(self.handles) < self._pidfds or (pid, start) in self.handles:
            return super().adopt(pid, start, leads=leads)
        handle = BriefHandle(pid, start, picture)
        if not handle.alive():
            return None
        self.handles[(pid, start)] = handle
        return handle

    def look(self) -> dict[int, Info]:
        try:
            found = super().look()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            found = self._look_with_less()
        self._empty = 0 if found else self._empty + 1
        return found

    def _look_with_less(self) -> dict[int, Info]:
        """The same, after every descriptor of ours was given back."""
        self._pidfds = 0
        for key, handle in list(self.handles.items()):
            handle.close()
            self.handles[key] = BriefHandle(*key, picture)
        try:
            return super().look()
        except OSError as error:
            raise ResourceError(
                f"{os.strerror(error.errno or errno.EMFILE)}, so the processes to be ended cannot be looked up",
                place="descriptors",
                hint="close some, or raise the limit (ulimit -n)",
            ) from error

    def _same_session(self, everything: dict[int, Info]) -> list[int]:
        """Nobody: which sessions count is the subclasses' matter, on every system."""
        return []

    def is_empty(self) -> bool:
        while self._empty < _LOOKS:
            if self.look():
                return False
        return True


class RunsTree(LeanTree):
    """The members of many runs, each told apart by the run that it belongs to."""

    def __init__(self, marks: Iterable[Mark], *, only_ours: bool = False) -> None:
        """only_ours: nobody of another user's is a member but below one of ours: what we know of the runs is old."""
        super().__init__()
        self._only_ours = only_ours
        self.owner: dict[Key, Key] = {}  # member -> main of its run, for everybody ever seen
        self.ended: dict[Key, float] = {}  # main -> when its run was first seen empty
        self.find_more = self._find
        self._mains: list[Key] = []
        self._led: dict[int, tuple[int, Key]] = {}  # leader's pid -> its start, main of its run
        self._ids: dict[str, Key] = {}
        self._environments: dict[Key, str] = {}
        for mark in marks:
            self._mains.append(mark.key)
            self.owner[mark.key] = mark.key
            # Session 0 is that of everybody whose leader is in another pid namespace, 1 that of this one's init.
            if mark.pid > 1:
                self._led[mark.pid] = (mark.start, mark.key)
            if mark.run_id:
                self._ids[mark.run_id] = mark.key
        # A descendant is no older than its main process; start times that follow a clock on the wall prove nothing.
        self._oldest = min(start for _pid, start in self._mains) if _platform.HAS_SUBREAPER else 0

    def look(self) -> dict[int, Info]:
        found = super().look()
        now = monotonic()
        here = {self.main_of(one) for one in found.values()}
        for main in self._mains:
            if main in here:
                self.ended.pop(main, None)
            else:
                self.ended.setdefault(main, now)
        return found

    def main_of(self, one: Info | Member) -> Key | None:
        return self.owner.get((one.pid, one.start))

    def _find(self, everything: dict[int, Info]) -> list[int]:
        never = ancestors(everything) | self.spare
        for leader, (start, _main) in list(self._led.items()):
            there = everything.get(leader)
            if there is not None and there.start != start:
                del self._led[leader]  # the number has passed on, so the session had nobody left
        children: dict[int, list[Info]] = {}
        seeds = []
        for one in everything.values():
            children.setdefault(one.ppid, []).append(one)
            if (one.pid, one.start) in self.owner:
                seeds.append(one)
            elif one.sid in self._led and one.pid not in never:
                self._count_in(one, self._led[one.sid][1])
                seeds.append(one)
        self._spread(seeds, children, never)
        if self._ids:
            seeds = [one for one in everything.values() if one.pid not in never and self._carries_id(one)]
            self._spread(seeds, children, never)
        found = [one.pid for one in everything.values() if not one.dead and (one.pid, one.start) in self.owner]
        return [pid for pid in found if _is_ours(pid)] if self._only_ours else found

    def _carries_id(self, one: Info) -> bool:
        """Count in whoever carries an id of ours and is not counted yet."""
        key = (one.pid, one.start)
        if one.start < self._oldest or one.dead or key in self.owner:
            return False
        run_id = self._environments.get(key)
        if run_id is None:
            run_id = run_id_of(one.pid)
            if run_id is not None:
                self._environments[key] = run_id
        main = self._ids.get(run_id or "")
        if main is None:
            return False
        self._count_in(one, main)
        return True

    def _count_in(self, one: Info, main: Key) -> None:
        self.owner[(one.pid, one.start)] = main
        if one.sid == one.pid and one.pid not in self._led:
            self._led[one.pid] = (one.start, main)

    def _spread(self, seeds: list[Info], children: dict[int, list[Info]], never: Collection[int]) -> None:
        """Count in the descendants of those that are; a run inside of another keeps its own."""
        while seeds:
            parent = seeds.pop()
            main = self.owner[(parent.pid, parent.start)]
            for child in children.get(parent.pid, ()):
                if (child.pid, child.start) not in self.owner and child.pid not in never:
                    self._count_in(child, main)
                    seeds.append(child)


def _is_ours(pid: int) -> bool:
    """Whether it runs as our user; root could signal anybody."""
    one = _platform.info(pid)
    return one is not None and one.uid == os.geteuid()


def end_runs(
    marks: Sequence[Mark],
    policy: StopPolicy,
    *,
    now: bool = False,
    force: bool = True,
    only_ours: bool = False,
    wait: Wait = wait_plainly,
) -> dict[int, Verdict]:
    """End the trees of these runs, all at once, and tell for each (by its main pid) what happened.

    now: kill without asking; force: False lists who is left after the grace and kills nobody; only_ours: see RunsTree.
    Nobody is collected here: a zombie is as gone as it gets. May be called from any thread, also for runs that another
    thread is ending.
    Takes at most ``policy.grace`` + ``core.kill.KILL_SECONDS`` seconds.

    Raises ConfigError for a signal that there is none of, ResourceError without a descriptor to look with.
    """
    if not marks:
        return {}
    if any(mark.pid in (0, 1) for mark in marks):
        # Session 0 is the kernel's, and that of whoever came from outside our pid namespace; 1 is init's.
        raise ValueError("no run is led by process 0 or 1")
    started = monotonic()
    tree = RunsTree(marks, only_ours=only_ours)
    try:
        whole = end_tree(
            tree, policy, mains=[mark.key for mark in marks], main_of=tree.main_of, wait=wait, now=now, force=force
        )  # fmt: skip
    finally:
        tree.close()
    verdicts = {}
    by_main: dict[Key, Verdict] = {}
    for mark in marks:
        seconds = tree.ended.get(mark.key, monotonic()) - started
        verdict = Verdict(run_id=mark.run_id, seconds=round(seconds, 3))
        verdicts[mark.pid] = by_main[mark.key] = verdict
    for name in ("asked", "killed", "survivors"):
        for member in getattr(whole, name):
            main = tree.main_of(member)
            if main is not None:
                getattr(by_main[main], name).append(member)
            else:  # "somebody is left": whose, only the run can tell that was not seen empty
                for key in [key for key in by_main if key not in tree.ended] or by_main:
                    getattr(by_main[key], name).append(member)
    return verdicts


def anybody_left(session: int) -> bool:
    """Whether the group of a run's collected main process has members; one system call (kill(2), signal 0).

    False means: none in the group. Who moved to another group or session is not in it (``leftovers`` finds those).
    True may be wrong: the number can have passed to another group since the leader was collected, and zombies count. It
    does no harm, for nobody is signalled on this answer: ``end_runs`` then looks for itself and finds nobody.
    """
    if session <= 1:  # to kill(2) those mean our own group, and everybody
        return False
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def leftovers(mark: Mark) -> list[Info]:
    """Who is left of a run whose main process has just ended, in its session or with its id; without parentage.

    Where nothing was started since the main process, which the kernel's last pid tells, this costs one small read, and
    else a look at the younger ones: for a run that took moments. After longer ones (see ``others.born_since``), and
    where numbers tell nothing, it goes through all processes.
    """
    younger = others.born_since(mark.pid)
    found = _platform.scan() if younger is None else others.pictures([mark.pid, *younger]) if younger else {}
    there = found.get(mark.pid)
    led = mark.pid > 1 and (there is None or there.start == mark.start)
    left = []
    for one in found.values():
        if one.dead or one.pid in (mark.pid, os.getpid()) or (_platform.HAS_SUBREAPER and one.start < mark.start):
            continue
        if (led and one.sid == mark.pid) or (mark.run_id and run_id_of(one.pid) == mark.run_id):
            left.append(one)
    return left


def holders_of(fd: int, exclude: Collection[int] = ()) -> list[Member]:
    """Who has the other end of this pipe, FIFO or pty's master open, so that it does not end.

    Told of processes whose descriptors are open to us: our user's, or everybody's for root. A pipe's other end is
    who can write to it where we read, and the other way round. Of sockets and files nobody is told, and nothing at
    all on systems without /proc. exclude: pids left out; we ourselves are not.
    """
    import fcntl

    link = others.other_end(fd)
    if not link:
        return []
    way = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    writing = {os.O_RDONLY: True, os.O_WRONLY: False}.get(way)
    found = [pid for pid in others.openers(link, writing=writing) if pid not in exclude]
    return [describe(one, f"has {link} open") for pid, one in others.pictures(found).items() if not one.dead]
