"""Ending a tree: ask, wait, freeze, kill, verify, and say what happened.

Finished means the tree is empty, not that its main process has gone.
"""

from __future__ import annotations

import select

from safesh.clock import monotonic, sleep
from safesh.core import signals
from safesh.core.contain import Tree, describe
from safesh.model import Member, StopPolicy, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection

    from safesh._platform import Handle, Info

    Key = tuple[int, int]  # pid and start

    # wait(handles, deadline): return when one of them has ended, at the deadline (monotonic seconds), or with True
    # when somebody is in a hurry.
    Wait = Callable[[list[Handle], float], bool]
else:
    import _signal

# After SIGKILL the kernel needs moments; a process that is still there then is one it cannot end now.
KILL_SECONDS = 5.0
_FREEZE_SECONDS = 0.5
_STOP_PASSES = 50
# Handles without a descriptor cannot be polled; only the portable backend, and trees of hundreds, have them.
_LOOK_AGAIN = 0.05
_LONGEST_PAUSE = 0.5  # seconds until somebody who could not look tries again
# Beyond that many members their ends are taken in batches: each one costs a question to all the others.
_MANY = 64
_BATCH = 0.01


def wait_plainly(handles: list[Handle], deadline: float) -> bool:
    """A ``Wait`` for callers that hold no children: poll the pidfds, hurry nobody."""
    watch = select.poll()
    blind = register(watch, handles)
    watch.poll(poll_milliseconds(deadline, blind))
    return False


def register(watch: select.poll, handles: list[Handle]) -> bool:
    """Have ``watch`` wake when one of them ends; True when some have no descriptor, so nobody wakes for those."""
    blind = False
    for handle in handles:
        if handle.fileno() >= 0:
            watch.register(handle.fileno(), select.POLLIN)
        else:
            blind = True
    return blind


def poll_milliseconds(deadline: float, blind: bool = False) -> float:
    """What ``poll`` takes to wake at ``deadline``, or soon when some handle cannot be polled."""
    left = max(0.0, deadline - monotonic())
    if blind:
        left = min(left, _LOOK_AGAIN)
    return min(left * 1000 + 1, 2**31 - 1)


class _Ending:
    """One ending: what was tried on whom."""

    def __init__(self, tree: Tree, policy: StopPolicy, wait: Wait) -> None:
        self.tree = tree
        self.policy = policy
        self.wait = wait
        self.asked: dict[tuple[int, int], Member] = {}
        self.killed: dict[tuple[int, int], Member] = {}
        self.denied: dict[tuple[int, int], str] = {}

    def send(self, one: Info, signal: int) -> bool:
        handle = self.tree.handles.get((one.pid, one.start))
        if handle is None:
            return False
        try:
            return handle.send(signal)
        except PermissionError:
            self.denied[(one.pid, one.start)] = "not permitted to signal it (it runs as another user)"
            return False

    def ask(self, one: Info, signal: int, reason: str) -> None:
        key = (one.pid, one.start)
        if key in self.asked:
            return
        line = describe(one, reason)
        if self.send(one, signal):
            self.asked[key] = line
            if one.state == "T":  # a stopped process takes its signal only once it runs again
                self.send(one, _signal.SIGCONT)

    def ask_and_wait(self, mains: Collection[Key], main_of: Callable[[Info], Key | None], deadline: float) -> bool:
        """Ask, then wait for an empty tree; False when the grace is over or somebody hurries."""
        signal = signals.number(self.policy.signal)
        label = signals.name(signal)
        if self.tree.has_nobody():  # the usual end, and a look at all processes is what costs most here
            return True
        # Main processes whose own members are not asked as long as they are there.
        first = set(mains) if self.policy.scope == "main" else set()
        while True:
            looked = monotonic()
            members = self.tree.look()
            # Of many runs each may end at its own time; looking must not become all that we do, nor waiting.
            pause = min(4 * (monotonic() - looked), self.policy.grace / 8) if len(mains) > 1 else 0.0
            if not members:
                if self.tree.is_empty():
                    return True
                if monotonic() >= deadline or self.wait([], min(deadline, monotonic() + _LOOK_AGAIN / 5)):
                    return False
                continue
            # Where the main process has gone, what it left behind gets the same chance in what is left of the grace.
            first &= {(one.pid, one.start) for one in members.values()}
            for one in members.values():
                main = main_of(one)
                if main not in first or main == (one.pid, one.start):
                    self.ask(one, signal, label)
            while handles := self.tree.living():
                # Before the wait: it may have ended already, and then no handle would tell.
                if first and not first <= {(handle.pid, handle.start) for handle in handles}:
                    if pause and self.wait([], min(deadline, looked + pause)):
                        return self.tree.is_empty()
                    break
                if monotonic() >= deadline or self.wait(handles, deadline) or self._batch(handles, deadline):
                    return self.tree.is_empty()
            if monotonic() >= deadline:  # somebody who is never the same for long
                return self.tree.is_empty()

    def kill(self, deadline: float) -> dict[int, Info]:
        """Freeze, kill, wait, look again, until nobody is left or the deadline; the survivors."""
        group = self.tree.group
        while True:
            if group is not None:
                group.freeze(_FREEZE_SECONDS)
            members = self._hold_still(deadline)
            if not members:
                if self.tree.is_empty() or monotonic() >= deadline:
                    break
                self.wait([], monotonic() + _LOOK_AGAIN / 5)
                continue
            for one in members.values():
                key = (one.pid, one.start)
                if key not in self.killed:
                    line = describe(one, "SIGKILL")
                    if self.send(one, _signal.SIGKILL):
                        self.killed[key] = line
                else:
                    self.send(one, _signal.SIGKILL)
            if group is not None:
                group.kill()
            self.tree.signal_groups(_signal.SIGKILL)
            while (handles := self.tree.living()) and monotonic() < deadline:
                self.wait(handles, min(deadline, monotonic() + _FREEZE_SECONDS))
                self._batch(handles, deadline)
            if monotonic() >= deadline:
                break
        if group is not None:
            group.thaw()
        return self.tree.look()

    def _batch(self, handles: list[Handle], deadline: float) -> bool:
        """After an end among many: give others the time to end too; True when somebody hurries."""
        return len(handles) > _MANY and self.wait([], min(deadline, monotonic() + _BATCH))

    def _hold_still(self, deadline: float) -> dict[int, Info]:
        """SIGSTOP until a pass finds no new member, so that nobody forks while the list is worked off.

        Those in the cgroup are frozen already; others may have been moved out of it. A fork that has begun is finished
        despite SIGSTOP (kernel/fork.c: at its end only a fatal signal counts). Such a child comes to the holder as an
        orphan; where there is none, nobody may be killed before a look that began when everybody stood still.
        """
        held = self.tree.root != 0
        frozen = set(self.tree.group.pids()) if self.tree.group is not None else set()
        stopped: set[tuple[int, int]] = set()
        still = False
        members = self.tree.look()
        for _ in range(_STOP_PASSES):
            fresh = [one for one in members.values() if (one.pid, one.start) not in stopped and one.pid not in frozen]
            if monotonic() >= deadline or not members or (not fresh and (held or still)):
                break
            if held and len(members) == 1:
                break  # killed as quickly as stopped
            for one in fresh:
                self.send(one, _signal.SIGSTOP)
            if fresh:
                self.tree.signal_groups(_signal.SIGSTOP)
            stopped |= {(one.pid, one.start) for one in fresh}
            still = not fresh and all(one.state != "R" for one in members.values())
            members = self.tree.look()
        return members

    def verdict(self, survivors: dict[int, Info], seconds: float, why: str = "") -> Verdict:
        """why: the reason told of survivors that have none of their own."""
        left = []
        for one in survivors.values():
            reason = self.denied.get((one.pid, one.start), "")
            if not reason and one.state == "D":
                reason = "in uninterruptible sleep (D): it ends when the kernel's I/O returns"
            left.append(describe(one, reason or why or f"still there {KILL_SECONDS:.0f} s after SIGKILL"))
        if not left:
            self.wait([], monotonic())  # what has ended is collected first
            if not self.tree.is_empty():
                reason = "somebody of the tree is left, never the same for long enough to be signalled"
                left.append(Member(pid=0, start=0, command="?", reason=reason))
        gone = {(one.pid, one.start) for one in survivors.values()}
        return Verdict(
            run_id=self.tree.run_id,
            asked=list(self.asked.values()),
            killed=[line for key, line in self.killed.items() if key not in gone],
            survivors=left,
            seconds=round(seconds, 3),
        )


def end_tree(
    tree: Tree,
    policy: StopPolicy,
    *,
    main: Key | None = None,
    mains: Collection[Key] = (),
    main_of: Callable[[Info], Key | None] | None = None,
    wait: Wait = wait_plainly,
    now: bool = False,
    force: bool = True,
) -> Verdict:
    """End every member of ``tree`` and return the verdict; success means zero survivors.

    main: (pid, start) of the process that ``policy.scope == "main"`` asks first; now: kill without asking; force:
    kill after the grace, else who is still there then is a survivor.
    A tree of several runs names their ``mains``, and ``main_of`` tells which of them a member belongs to.
    Takes at most ``policy.grace`` + ``KILL_SECONDS`` seconds, less when everybody cooperates.
    """
    started = monotonic()
    ending = _Ending(tree, policy, wait)
    if main is not None:
        mains = (main,)
    if main_of is None:

        def main_of(_one: Info) -> Key | None:
            return main

    for one in mains:
        tree.adopt(*one, leads=True)  # a target leads its session
    survivors: dict[int, Info] = {}
    why = ""
    if now or not ending.ask_and_wait(mains, main_of, started + policy.grace):
        if force:
            survivors = ending.kill(monotonic() + KILL_SECONDS)
        else:
            survivors = tree.look()
            label = signals.name(signals.number(policy.signal))
            why = f"still there {policy.grace:g} s after {label}; force=True kills it"
    verdict = ending.verdict(survivors, monotonic() - started, why)
    if verdict.ok:
        tree.remove_group()
    return verdict


def insist(attempt: Callable[[StopPolicy], Verdict], policy: StopPolicy, alone: Callable[[], bool]) -> Verdict:
    """The verdict of ``attempt``, an :func:`end_tree`, again and again where the machine refuses it a look at the tree.

    For a holder: without a descriptor, without memory, with a failing disk it cannot end the tree, and whoever comes
    after it would not even know. attempt: gets the policy with what is left of its grace; alone: False where somebody
    else ends the tree when we give up, and then the error is raised.
    """
    began = monotonic()
    pause = _LOOK_AGAIN
    while True:
        left = max(0.0, policy.grace - (monotonic() - began))
        try:
            return attempt(StopPolicy(signal=policy.signal, scope=policy.scope, grace=left))
        except (OSError, MemoryError):
            if not alone():
                raise
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
