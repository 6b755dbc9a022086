"""One world of the campaign: does what the plan says, looks at the invariants after each step, keeps the evidence."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from faults import invariants, plan, processes, recovery
from faults.commands import Command
from faults.invariants import Knowledge
from faults.plan import Action, Step
from faults.processes import Process
from faults.world import Disturbance, World

_SHOWN = 10  # of the last actions, with their outputs, in a report
_LOSES = ("state folder moved away", "state folder a symlink")
_PATIENCE = 2.0  # seconds, then a start may be waiting for somebody who was stopped
_STARTERS = ("start", "restart", "health")


class Failure(NamedTuple):
    """A violated invariant. step: its number in the world, from 0; story: the last actions and what was said."""

    seed: int
    step: int
    backend: str
    problems: list[str]
    story: list[str]
    evidence: str


class UnderWay(NamedTuple):
    """A command of this step, whom it promises to end, and whether it began starved (``output_problems``)."""

    command: Command
    action: Action
    before: list[Process]
    starved: bool = False


class Undo(NamedTuple):
    """What undoes a disturbance, and the step after which that is done."""

    name: str
    last: int
    undo: Callable[[], None]


class Driver:
    """Runs one world. main: another ``__main__.py`` of safesh, for proofs that breaking it is noticed."""

    def __init__(
        self,
        seed: int,
        disturbances: Sequence[Disturbance],
        backends: tuple[str, ...] = plan.BACKENDS,
        main: str | None = None,
    ) -> None:
        self.seed = seed
        self.disturbances = disturbances
        self.plan = plan.world(seed, backends)
        self.main = main
        self.known = Knowledge()
        self.story: list[str] = []
        self.undo: list[Undo] = []
        self.foreground: list[Command] = []
        self.killed_commands: set[int] = set()
        self.counts: dict[str, int] = {}
        self.seen: list[str] = []  # what was wrong while the actions went on
        self.world: World

    def run(self, steps: int = plan.STEPS) -> tuple[int, Failure | None]:
        """(steps done, the failure that ended it)."""
        with World(self.plan.backend, self.plan.size_kib, main=self.main) as world:
            self.world = world
            try:
                return self._run(steps)
            finally:
                self.clear()

    def _run(self, steps: int) -> tuple[int, Failure | None]:
        names = list(self.world.names)
        instance = {name: self.world.instance(name) for name in names}
        for number in range(steps):
            one = plan.step(self.seed, number, names, instance, len(self.disturbances))
            self.tell(f"-- step {number}: {one}")
            try:
                problems = self.step(one, last=number == steps - 1)
            except Exception as error:  # a mistake of the campaign's own is a failure like any other
                problems = [f"the driver: {error!r}", traceback.format_exc()]
            if problems:
                story = self.story[-_SHOWN:]
                return number, Failure(self.seed, number, self.plan.backend, problems, story, self.keep())
        return steps, None

    def clear(self) -> None:
        """Undo, so that nothing outlives the world; take away what a world that failed has left of cgroups."""
        self.undo_until(float("inf"))
        self.world.end_everybody()
        self.remove_groups()

    def remove_groups(self) -> None:
        folder = self.world.cgroup
        for path in folder.glob("safesh-*") if folder is not None and folder.name.startswith("faults-") else []:
            for inner, _folders, _files in os.walk(path, topdown=False):
                os.rmdir(inner)

    def tell(self, line: str) -> None:
        self.story.append(line)
        del self.story[:-400]

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- a step

    def step(self, one: Step, last: bool) -> list[str]:
        problems = []
        if one.config:
            self.configure(one)
        if one.ensure:
            first = self.world.begin("start", "--detach", one.target)
            problems += self.judge(UnderWay(first, _ENSURE, [], self.starved), alone=True)
        problems += self.act(one)
        if one.config and one.config[0] == "break":
            self.world.write_config()
        problems += self.settle()
        self.undo_until(one.number)
        if (one.recover or last) and not problems:
            problems += recovery.recover(self, one.number)
        problems += invariants.file_problems(self.world, self.known)
        return problems

    def settle(self) -> list[str]:
        # A start in the foreground may still wait for the lock: it becomes a holder, or it ends.
        self.world.wait(lambda: all(one.poll() or self._holds(one) for one in self.foreground), invariants.SETTLE)
        found = invariants.settle(self.world, self.known)
        problems = []
        for command in [one for one in self.foreground if one.poll()]:
            self.foreground.remove(command)
            self.world.commands.remove(command)
            done = command.wait()
            self.tell(f"ended: {done}")
            problems += invariants.output_problems(
                done, killed=done.code < 0 or command.child.pid in self.killed_commands
            )
        return found + problems

    def _holds(self, command: Command) -> bool:
        one = processes.look(command.child.pid)
        return one is not None and (one.role == "supervisor" or one.stopped)

    def configure(self, one: Step) -> None:
        world, rng = self.world, random.Random(f"config {self.seed} {one.number}")
        if one.config[0] == "edit":
            plan.edit(world.targets[one.config[1]], one.config[2], rng)
            world.write_config()
            return
        data = plan.broken(world.config.read_text(), one.config[1], rng)
        if data is None:
            world.config.unlink()
            return
        world.config.write_bytes(data)
        world.config.chmod(0o666 if one.config[1] == "open-to-all" else 0o644)

    def act(self, one: Step) -> list[str]:
        """All actions at their time, then the end of each command."""
        begin = time.monotonic()
        running: list[UnderWay] = []
        for action in one.actions:
            time.sleep(max(0.0, begin + action.at - time.monotonic()))
            if action.kind == "command":
                members = self.world.members() if action.words[0] in ("stop", "kill-all") else []
                before = invariants.meant(self.world, action.words, members)
                command = self.world.begin(*action.words, script=action.draw < 0.05 and self.main is None)
                running.append(UnderWay(command, action, before, self.starved))
                self.count(action.words[0])
            elif action.kind == "foreground":
                command = self.world.begin(*action.words)
                self.foreground.append(command)
                self.count("start in the foreground")
            elif action.kind == "signal":
                self.signal(action, [one.command for one in running])
            elif action.kind == "alive":
                self.world.alive.touch() if action.words[0] == "on" else self.world.alive.unlink(missing_ok=True)
            elif action.kind == "disturb":
                self.disturb(action, one.number)
        problems, self.seen = self.seen, []
        starters = [one for one in running if one.action.words[0] in _STARTERS or "--replace" in one.action.words]
        lone = not starters and not any(action.kind == "foreground" for action in one.actions)
        for way in sorted(running, key=lambda way: way.action.words[0] not in ("stop", "kill-all")):
            problems += self.judge(way, alone=lone)
        return problems

    def judge(self, way: UnderWay, alone: bool) -> list[str]:
        """Wait for a command's end; what is wrong with it."""
        if way.action.words[0] in _STARTERS and not self.world.wait(way.command.poll, _PATIENCE):
            self.thaw()
        done = way.command.wait()
        self.world.commands.remove(way.command)
        self.tell(f"{way.action.at:.3f} {done}")
        killed = way.command.child.pid in self.killed_commands
        problems = invariants.output_problems(done, killed, way.starved)
        if done.argv[0] in ("stop", "kill-all"):
            problems += invariants.stop_problems(self.world, done, way.before, alone)
        if done.argv[0] == "exec" and not killed and not done.hung and not way.starved:
            expected = plan.EXEC_STATUS[self.plan.backend == "posix"]
            if done.code != expected:
                problems.append(f"exec returned {done.code}, not {expected}: {done.err}")
        return problems

    def thaw(self) -> None:
        """A start waits for a supervisor or keeper as long as somebody has stopped it; whoever did that lets it go on.
        (A stop does not wait: it wakes them by itself, and is never helped.)"""
        for one in self.world.members():
            if one.stopped:
                _send(one, signal.SIGCONT)
                self.tell(f"goes on: {one}")

    # ---- what goes wrong

    def signal(self, action: Action, commands: list[Command]) -> None:
        """Choose among those who are there now, as the draw says."""
        name, role, instance = action.words
        number = signal.Signals[f"SIG{name}"]
        if role == "command":
            self._kill_command(commands, action.draw)
            return
        members = self.world.members()
        tree = self.world.of(instance, members)
        holders = self.world.holders(instance, members)
        chosen: list[Process] = []
        if role in ("supervisor", "keeper"):
            chosen = [one for one in holders if one.role == role]
        elif role == "both":
            chosen = holders
        elif role == "members":
            chosen = tree
        elif role == "main":
            keepers = {one.pid for one in holders if one.role == "keeper"}
            chosen = [one for one in tree if one.ppid in keepers and one.target][:1]
        elif tree:
            chosen = [sorted(tree)[int(action.draw * len(tree))]]
        if role == "both":  # neither may notice the other's end first
            for one in chosen:
                _send(one, signal.SIGSTOP)
        for one in chosen:
            if number == signal.SIGKILL and one.role in ("supervisor", "keeper"):
                # Of two, one is a keeper that has not yet taken its name.
                for each in ("supervisor", "keeper") if len(chosen) > 1 else (one.role,):
                    self.known.note_kill(instance, each)
            _send(one, number)
        if number == signal.SIGKILL:  # until they are dead they look as whole as ever
            self.world.wait(lambda: not any(processes.alive(one.key) for one in chosen), 1, 0.0005)
            self.seen += invariants.unguarded(self.world, instance)
        self.tell(
            f"{action.at:.3f} {name} to {role} of {instance}: {', '.join(str(one.pid) for one in chosen) or 'nobody'}"
        )
        if chosen:
            self.count(f"SIG{name} to {role}")

    def _kill_command(self, commands: list[Command], draw: float) -> None:
        # Not exec: it is an init without a holder, and what it leaves when it is killed is nobody's.
        there = [one for one in commands if not one.poll() and one.argv[0] != "exec"]
        if not there:
            return
        one = there[int(draw * len(there))]
        self.killed_commands.add(one.child.pid)
        for instance in self.world.instances:
            self.known.note_kill(instance, "command")
        one.child.kill()
        self.tell(f"KILL to the command {' '.join(one.argv)}")
        self.count("SIGKILL to command")

    def disturb(self, action: Action, step: int) -> None:
        number = int(action.words[0])
        one = self.disturbances[number]
        undo = one.apply(self.world, random.Random(f"disturb {self.seed} {step} {number}"))
        self.tell(f"disturbance: {one.name}")
        self.count(one.name)
        self.known.was_full |= "disk" in one.name
        if one.name in _LOSES and undo is not None:
            self.known.lost = self.known.lost_now = True
        if undo is not None:
            self.undo.append(Undo(one.name, step + int(action.draw * 3), undo))

    def undo_until(self, step: float) -> None:
        """Undo what has lasted long enough, and before it whatever came after it: one may stand on the other."""
        first = next((place for place, one in enumerate(self.undo) if one.last <= step), len(self.undo))
        while len(self.undo) > first:
            one = self.undo.pop()
            one.undo()
            self.tell(f"undone: {one.name}")
            if one.name in _LOSES:
                self.dismiss()

    def dismiss(self) -> None:
        """Holders whose lock's file is not the one in the state folder: they get a SIGTERM, and have to end by it, with
        their trees. (Commands find them by their mark; what is under their name now may be another's.)"""
        world, members = self.world, self.world.members()
        holders = world.holders("", members)
        lost = [one for one in holders if not processes.holds(one.pid, str(world.lock(one.instance)))]
        for one in lost:
            _send(one, signal.SIGTERM)
        for one in holders:  # a record of theirs may have been overwritten: nobody knows any more who has to be woken
            _send(one, signal.SIGCONT)
        if not world.wait(lambda: not any(processes.alive(one.key) for one in lost), invariants.SETTLE):
            self.seen += [f"SIGTERM did not end it: {one}" for one in lost if processes.alive(one.key)]
        self.known.lost_now = False

    @property
    def starved(self) -> bool:
        return bool(self.world.prefix)

    # ---- evidence

    def keep(self) -> str:
        """A folder with the state, the processes and the story, outside of the world."""
        folder = Path(tempfile.mkdtemp(prefix="safesh-faults-evidence-"))
        try:
            shutil.copytree(self.world.folder, folder / "world", symlinks=True, ignore_dangling_symlinks=True,
                            ignore=shutil.ignore_patterns("*.sock"))  # fmt: skip
        except (OSError, shutil.Error) as error:
            (folder / "not-copied").write_text(str(error))
        everybody = [f"{one}\n    {processes.stuck(one.pid)}" for one in processes.scan().values()]
        (folder / "processes").write_text("\n".join(everybody))
        (folder / "story").write_text("\n".join(self.story))
        return str(folder)


_ENSURE = Action(0.0, "command", ("start",))


def _send(one: Process, number: signal.Signals) -> None:
    """Only to the very process that was chosen. (Only this namespace's pids exist here.)"""
    if not processes.alive(one.key):
        return
    try:
        os.kill(one.pid, number)
    except ProcessLookupError:
        pass
