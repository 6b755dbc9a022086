"""What must hold after every step, asked from outside: /proc, flock(2), the files, and what commands said.

Nothing of safesh is imported here. Some states last for moments only (a keeper that ends a tree, a lock just about to
be let go), so ``settle`` waits for a state that may last, for at most ``SETTLE`` seconds.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from faults import processes
from faults.commands import Done
from faults.processes import Process
from faults.world import World

# The longest grace (0.4 s), the kernel's time after SIGKILL, and a machine that is busy with everything else.
SETTLE = 12.0
_SAYS_TRACEBACK = re.compile(r"Traceback \(most recent|supervisor_crashed|\bException in thread|Fatal Python error")
# Exit codes by verb that the manual names, and those of a machine that has none left (71), of state that cannot be used
# (73), of a wrong safe.toml (78). 70, a bug of ours, is never allowed.
_GENERAL = {2, 71, 73, 78}
_START = {0, 1, 75, 126, 127, 3, 129, 130, 137, 143} | _GENERAL  # 3: the crasher's own; the last four: 128+signal
_CODES: dict[str, set[int]] = {
    "start": _START,
    "stop": {0, 1} | _GENERAL,
    "kill-all": {0, 1} | _GENERAL,
    "restart": _START,
    "health": {0, 1, 2, 3},
    "status": {0, 1, 2, 3, 4} | _GENERAL,
    "logs": {0, 1} | _GENERAL,
}


class Knowledge:
    """What the driver has done, as far as a judgement depends on it.

    killed: instance -> the roles that got SIGKILL since it was last seen whole or empty; was_full: the disk was full in
    this world, so a line of events may have been cut; events: the file that was looked through, and how far. lost: the
    state folder was moved away, so there may be holders whose files nobody finds any more; ``lost_now``: it still is.
    """

    def __init__(self) -> None:
        self.killed: dict[str, set[str]] = {}
        self.was_full = False
        self.events = (0, 0)
        self.lost = self.lost_now = False

    def note_kill(self, instance: str, role: str) -> None:
        self.killed.setdefault(instance, set()).add(role)

    def may_be_orphaned(self, instance: str) -> bool:
        """Supervisor and keeper died together: documented to leave a tree without a holder until the next command. One
        of them, and the command that was just about to end the other, amounts to the same."""
        return len(self.killed.get(instance, set())) > 1


def instance_problems(world: World, instance: str, members: list[Process], known: Knowledge) -> list[str]:
    """What is wrong with one instance at this moment, if this moment lasted."""
    supervisors = [one for one in members if one.role == "supervisor" and one.instance == instance]
    keepers = [one for one in members if one.role == "keeper" and one.instance == instance]
    tree = world.of(instance, members)
    problems = []
    lock = world.lock(instance)
    if not known.lost_now and (len(supervisors) > 1 or len(keepers) > 1):
        problems.append(f"{len(supervisors)} supervisors and {len(keepers)} keepers")
    runs = {one.run for one in tree if one.run}
    if len(runs) > 1:
        problems.append(f"processes of {len(runs)} runs at once: {', '.join(sorted(runs))}")
    if keepers and not supervisors and not _is_hindered(keepers[0]):
        problems.append("a keeper without supervisor that does not end")
    if (
        tree
        and not keepers
        and not (supervisors and _is_hindered(supervisors[0]))
        and not known.may_be_orphaned(instance)
    ):
        problems.append("processes without keeper")
    if not known.lost_now and not _is_damaged(world, lock):
        held = world.lock_held(instance)
        if (supervisors or keepers) and not held:
            problems.append("a holder lives and the lock is free")
        if held and not supervisors and not keepers:
            problems.append("the lock is held and no holder lives")
        problems += [f"has the lock's file open: {one}" for one in tree if processes.holds(one.pid, str(lock))]
    if problems:
        problems += [str(one) for one in (*supervisors, *keepers, *tree)]
    return problems


def _is_hindered(holder: Process) -> bool:
    """Stopped, or its system calls fail: it lives, holds the lock, and ends the tree once it can."""
    return holder.stopped or processes.traced_by(holder.pid) > 0


def unguarded(world: World, instance: str) -> list[str]:
    """A tree with a living keeper whose lock somebody else could take: wrong at any moment, however short."""
    members = world.members()
    tree = world.of(instance, members)
    keepers = [one for one in members if one.role == "keeper" and one.instance == instance]
    lock = world.lock(instance)
    if not tree or not keepers or _is_damaged(world, lock) or world.lock_held(instance):
        return []
    still = [one for one in (tree[0], keepers[0]) if processes.alive(one.key)]
    return [f"{instance}: the lock is free while these live: {still[0]}; {still[1]}"] if len(still) == 2 else []


def settle(world: World, known: Knowledge, deadline: float = SETTLE) -> list[str]:
    """Wait until every instance is in a state that may last; what is wrong if that takes longer."""
    until = time.monotonic() + deadline
    pause = 0.004
    rest = list(world.instances)
    while True:
        members = world.members()
        found = {instance: instance_problems(world, instance, members, known) for instance in rest}
        rest = [instance for instance in rest if found[instance]]
        if not rest or time.monotonic() > until:
            break
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)
    for instance in world.instances:
        if instance not in rest:
            _forget(world, known, instance, members)
    return [f"{instance}: {'; '.join(found[instance])}" for instance in rest]


def _forget(world: World, known: Knowledge, instance: str, members: list[Process]) -> None:
    """Kills of old count no more once an instance is whole, or empty."""
    holders = world.holders(instance, members)
    whole = {one.role for one in holders} == {"supervisor", "keeper"} and not any(one.stopped for one in holders)
    if whole or (not holders and not world.of(instance, members)):
        known.killed.pop(instance, None)


def stop_problems(world: World, done: Done, before: Iterable[Process], alone: bool) -> list[str]:
    """Survivors of a stop that said there are none. before: who lived of what it was to end when it began; alone:
    nothing that starts anything was under way meanwhile, so nobody at all may live."""
    if done.code != 0 or done.hung:
        return []
    after = {one.key: one for one in world.members()}
    left = [one for one in before if one.key in after]
    if alone:
        instances = _meant(world, done.argv)
        left += [
            one
            for one in after.values()
            if one.role == "member" and world.instance_of(one) in instances and one not in left
            and _is_meant(one, done.argv)
        ]  # fmt: skip
    return [f"`{' '.join(done.argv)}` said that nobody is left, but: {one}" for one in left]


def meant(world: World, argv: tuple[str, ...], members: list[Process]) -> list[Process]:
    """The trees' members that a stop with these words promises to end."""
    instances = _meant(world, argv)
    return [
        one for one in members if one.role == "member" and world.instance_of(one) in instances and _is_meant(one, argv)
    ]


def _named(argv: tuple[str, ...]) -> list[str]:
    return [word for word in argv[1:] if not word.startswith("-") and not word[0].isdigit()]


def _meant(world: World, argv: tuple[str, ...]) -> set[str]:
    names = _named(argv)
    return {world.instance(name) for name in names if name in world.targets} if names else set(world.instances)


def _is_meant(one: Process, argv: tuple[str, ...]) -> bool:
    """A target's name means no other target that shares its instance."""
    names = _named(argv)
    return not names or one.target in names or one.target.startswith("#")


def output_problems(done: Done, killed: bool, starved: bool = False) -> list[str]:
    """What a command may not say or return. killed: we have signalled it; starved: it began with so few descriptors or
    processes that Python itself, or the shell before it, may not have come to our first line."""
    problems = []
    said = f"`{' '.join(done.argv)}`"
    if done.hung:
        problems.append(f"{said} did not end: {done.hung}")
    if starved:
        return problems
    for text in (done.out, done.err):
        if _SAYS_TRACEBACK.search(text) and done.argv[0] != "logs":
            problems.append(f"{said} shows a traceback: {text.strip()[-1500:]}")
    if killed or done.hung:
        return problems
    if done.argv[0] in _CODES and done.code not in _CODES[done.argv[0]]:
        problems.append(f"{said} returned {done.code}: {done.err.strip()[-600:] or done.out.strip()[-600:]}")
    if "--json" in done.argv and (done.code == 0 or done.out):
        try:
            json.loads(done.out)
        except ValueError:
            problems.append(f"{said} printed no JSON: {done.out[:300]!r}")
    silent = done.code not in (0, 1, 2, 3, 4) and not done.err.strip()
    foreground = done.argv[0] == "start" and "--detach" not in done.argv  # its code is the target's
    if silent and not foreground and done.argv[0] not in ("exec", "health", "status"):
        problems.append(f"{said} failed with {done.code} and without a word")
    return problems


def file_problems(world: World, known: Knowledge) -> list[str]:
    """State files, logs, bystanders."""
    problems = []
    double = world.claims / "double"
    if double.exists():
        problems.append(f"two at once: {double.read_text().strip()}")
        double.unlink()
    for decoy in world.decoys:
        if decoy.poll() is not None:
            problems.append(f"a bystander was ended: pid {decoy.pid}, {decoy.returncode}")
    now = world.snapshot()
    if now != world.untouched:
        changed = sorted(key for key in {*now, *world.untouched} if now.get(key) != world.untouched.get(key))
        problems.append(f"changed outside of our folders: {', '.join(changed)}")
        world.untouched = now
    if world.files.is_dir() and not world.files.is_symlink():
        for path in sorted(world.files.iterdir()):
            problems += _problems_of_file(world, path, known)
    return problems


def _problems_of_file(world: World, path: Path, known: Knowledge) -> list[str]:
    if _is_damaged(world, path) or path.is_symlink() or not path.is_file():
        return []
    try:
        info = path.stat()
        if path.suffix == ".json":
            if not isinstance(json.loads(path.read_bytes()), dict):
                return [f"{path.name}: no JSON object"]
        elif path.name == "events.jsonl":
            return _problems_of_events(path, known)
        elif path.suffix == ".log":
            text = path.read_bytes()[-65536:].decode("utf-8", "replace")
            if _SAYS_TRACEBACK.search(text):
                return [f"{path.name}: a traceback in a log: {text[-1500:]}"]
        elif path.suffix == ".pid" and not path.read_text().strip().isdigit():
            return [f"{path.name}: no pid: {path.read_text()[:40]!r}"]
        if info.st_mode & 0o077:
            return [f"{path.name}: open to others: {info.st_mode & 0o777:o}"]
    except FileNotFoundError:
        pass
    except ValueError as error:
        return [f"{path.name} ({info.st_size} bytes): {error}"]
    return []


def _problems_of_events(path: Path, known: Knowledge) -> list[str]:
    data, inode = path.read_bytes(), path.stat().st_ino
    begin = known.events[1] if known.events[0] == inode and len(data) >= known.events[1] else 0
    fresh = data[begin:]
    known.events = (inode, len(data) - len(fresh.rpartition(b"\n")[2]))
    problems = []
    for line in fresh.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            if not known.was_full:
                problems.append(f"events.jsonl: no JSON: {line[:200]!r}")
            continue
        if "traceback" in event:
            problems.append(f"events.jsonl: {event.get('event')}: {event['traceback']}")
    return problems


def _is_damaged(world: World, path: Path) -> bool:
    """A rotated log is what its log was."""
    log = str(path).partition(".log.")[0] + ".log"
    return str(path) in world.damaged or log in world.damaged or not os.path.lexists(path)
