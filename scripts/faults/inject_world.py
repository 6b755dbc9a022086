"""One scenario with one process traced: to record what it calls, or to have one of its calls go wrong, and then to look
at everything that was promised.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import NamedTuple, Self

from faults import invariants, processes
from faults.commands import Command, Done
from faults.disturbances import calls, stopping
from faults.inject_cases import SCENARIOS, Case
from faults.invariants import Knowledge
from faults.namespace import ROOT
from faults.world import World

MAIN = ROOT / "scripts" / "faults" / "traced" / "safesh" / "__main__.py"
_WAIT = 0.15  # in which a target says something, crashes, or is looked at
_DEADLINE = 25.0
_LOADING = re.compile(r"importlib|ImportError|ModuleNotFoundError|cannot be loaded|init_|Fatal Python error")


class Outcome(NamedTuple):
    """happened: the call came about, and the fault with it; answers: what each command of the scenario returned;
    gave_up: the supervisor could not go on, said so, and its keeper ended the tree."""

    happened: bool
    gave_up: bool
    problems: list[str]
    answers: list[int]
    story: list[str]


class Tracer:
    """Waits beside the scenario for the process of a role to begin, and attaches strace to it."""

    def __init__(self, world: World, role: str, injections: list[str], *, yes: bool = False) -> None:
        self.world = world
        self.folder = world.folder / "trace"
        self.folder.mkdir(exist_ok=True)
        self.role = role
        self.injections = injections
        self.output = self.folder / f"{role}.calls"
        self.more = ("-q", "-s40", "-y") if yes else ("-q", "-s40", f"-etrace={injections[0].partition(':')[0]}")
        self.strace: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self._go = self.folder / f"{role}.go"
        os.mkfifo(self._go)
        (self.folder / f"{role}.want").touch()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self.world.environ["FAULTS_TRACE"] = str(self.folder)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        told = self.folder / f"{self.role}.pid"
        while not told.exists():
            if self._over.wait(0.001):
                return
        self.pid = int(told.read_text())
        self.strace = calls.attach(self.world, self.pid, self.injections, str(self.output), self.more)
        # Also where it could not be attached: nobody may wait for ever. A reader is there, or it has gone.
        until = time.monotonic() + 5
        while time.monotonic() < until and not self._over.is_set():
            with suppress(OSError):
                os.close(os.open(self._go, os.O_WRONLY | os.O_NONBLOCK))
                return
            if processes.traced_by(self.pid) < 0:
                return
            time.sleep(0.001)

    def close(self) -> None:
        """No more than that: whom it traced goes on by itself."""
        for name in ("want", "new"):
            (self.folder / f"{self.role}.{name}").unlink(missing_ok=True)
        self._over.set()
        self._thread.join()
        if self.strace is not None:
            calls.detach(self.world, self.strace)
            self.strace = None
        self.world.environ.pop("FAULTS_TRACE", None)

    def lines(self) -> list[str]:
        return self.output.read_text(errors="replace").splitlines() if self.output.exists() else []


class Player:
    """Plays a scenario."""

    def __init__(self, world: World, scenario: str, traced: str, case: Case | None = None) -> None:
        """traced: the role that something befalls; case: what does."""
        self.world = world
        self.target, _backend, self.steps = SCENARIOS[scenario]
        self.known = Knowledge()
        self.traced = traced
        self.killed = case is not None and case.how == "signal=KILL"
        # What befalls the loading of code, now or later.
        self.loads = case is not None and (case.loads or (case.call in ("mmap", "openat") and case.how.endswith("+")))
        self.mute = case is not None and case.call == "write" and case.how.endswith("+")
        self.problems: list[str] = []
        self.answers: list[int] = []
        self.story: list[str] = []

    def play(self) -> None:
        if self.killed and self.traced in ("supervisor", "keeper"):
            self.known.note_kill(self.world.instance(self.target), self.traced)
        if self.killed and self.traced in ("stop", "start2", "restart"):
            self.known.note_kill(self.world.instance(self.target), "command")
        lasting: list[tuple[str, Command]] = []
        for step in self.steps:
            role, colon, words = step.partition(":")
            if step == "wait":
                time.sleep(_WAIT)
            elif not colon:
                self._kill(step.partition(" ")[2])
            elif role.endswith("&"):
                lasting.append((role[:-1], self._begin(role[:-1], words.replace("T", self.target).split())))
            else:
                self._command(role, words.replace("T", self.target).split())

        for role, command in lasting:
            if not command.poll() and self.answers[-1]:  # what was to end it could not
                self._end(self.world.begin("stop", "--force", self.target))
            done = self._end(command)
            self.answers.append(done.code)
            self._judge(done, (self.killed and role == self.traced) or done.code < 0)

    def _begin(self, role: str, words: list[str]) -> Command:
        """A start in the foreground, and its target runs, or it has ended."""
        command = self.world.begin(*words, FAULTS_ROLE=role)
        self.world.wait(lambda: command.poll() or bool(self.world.of(self.world.instance(self.target))), 5)
        return command

    def _command(self, role: str, words: list[str]) -> None:
        world = self.world
        before = invariants.meant(world, tuple(words), world.members()) if words[0] == "stop" else []
        command = world.begin(*words, FAULTS_ROLE=role)
        done = self._end(command)
        self.answers.append(done.code)
        killed = self.killed and role == self.traced
        self._judge(done, killed)
        if words[0] == "stop" and not killed:
            self.problems += invariants.stop_problems(world, done, before, alone=True)

    def _end(self, command: Command) -> Done:
        done = command.wait(_DEADLINE)
        self.world.commands.remove(command)
        self.story.append(str(done))
        return done

    def _judge(self, done: Done, killed: bool) -> None:
        found = invariants.output_problems(done, killed)
        if self.loads and not done.hung:
            # Python itself could not be loaded, and said so in its own way.
            found = [one for one in found if not (_LOADING.search(one) or "returned" in one or "without a word" in one)]
        if self.mute:
            # Nowhere to say anything, and 120 is Python's own word for an output that it could not get rid of.
            found = [one for one in found if not ("without a word" in one or "returned 120" in one)]
        self.problems += found

    def _kill(self, whom: str) -> None:
        instance = self.world.instance(self.target)
        chosen = [one for one in self.world.holders(instance) if whom in ("both", one.role)]
        for one in chosen if whom == "both" else []:  # neither may notice the other's end first
            stopping.send(one, signal.SIGSTOP)
        for one in chosen:
            self.known.note_kill(instance, one.role)
            stopping.send(one, signal.SIGKILL)
        self.story.append(f"killed: {', '.join(str(one) for one in chosen) or 'nobody'}")
        self.world.wait(lambda: not any(processes.alive(one.key) for one in chosen), 5)

    def look(self) -> None:
        """The invariants of a world that is left alone."""
        self.problems += invariants.settle(self.world, self.known)
        self.problems += self._files()

    def _files(self) -> list[str]:
        found = invariants.file_problems(self.world, self.known)
        return [one for one in found if not (self.loads and _LOADING.search(one))]

    def gave_up(self) -> bool:
        found = []
        with suppress(OSError):
            lines = (self.world.files / "events.jsonl").read_text(errors="replace").splitlines()
            found = [line for line in lines if '"supervisor_failed"' in line]
        self.story += found
        return bool(found)

    def recover(self) -> None:
        """With nothing in the way: all can be ended, and started."""
        world = self.world
        self._must("kill-all", "--force")
        self._nobody("kill-all")
        self.known.killed.clear()
        self._must("start", "--detach", self.target)
        self.problems += invariants.settle(world, self.known)
        if self.target != "crasher":
            self._must("status", self.target)
        self._must("stop", "--force", self.target)
        self._nobody("stop")
        self.problems += self._files()

    def _must(self, *words: str) -> None:
        done = self._end(self.world.begin(*words))
        found = invariants.output_problems(done, killed=False)
        if done.code and not found:
            found.append(f"afterwards, with nothing in its way: {done}")
        self.problems += found

    def _nobody(self, after: str) -> None:
        world = self.world
        if not world.wait(lambda: not world.members(), 5):
            self.problems += [f"left after {after}: {one}" for one in world.members()]
        self.problems += [f"the lock of {name} is held by nobody" for name in world.instances if world.lock_held(name)]


def make_world(scenario: str) -> World:
    target, backend, _steps = SCENARIOS[scenario]
    return World(backend, names=(target,), main=str(MAIN))


def record(scenario: str, role: str) -> list[str]:
    """What strace writes about a clean run's process of that role."""
    with make_world(scenario) as world:
        with Tracer(world, role, [], yes=True) as tracer:
            player = Player(world, scenario, role)
            player.play()
            player.look()
        if player.problems:
            raise RuntimeError(f"{scenario}, without any fault: {player.problems}, {player.story}")
        return tracer.lines()


def play(case: Case) -> Outcome:
    with make_world(case.scenario) as world:
        player = Player(world, case.scenario, case.role, case)
        with Tracer(world, case.role, [case.strace]) as tracer:
            player.play()
            player.look()
        happened = any(_tells(line, case) for line in tracer.lines())
        gave_up = player.gave_up()
        player.recover()
        return Outcome(happened, gave_up, player.problems, player.answers, player.story)


def _tells(line: str, case: Case) -> bool:
    return "(INJECTED)" in line or "(DELAYED)" in line or (case.how == "signal=KILL" and "killed by SIGKILL" in line)
