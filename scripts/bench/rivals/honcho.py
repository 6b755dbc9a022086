"""Honcho, from PyPI. docs: https://honcho.readthedocs.io/en/latest/

It has no daemon and no commands to it: `honcho start` stays in the foreground with every program of its Procfile and
ends all of them when one ends. A wrapper here: a honcho a program, but where ten are wanted at once (begin_all).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from bench.install import FOLDER, from_pypi
from bench.loner import loner
from bench.rivals.base import How, Programs, Rival, Wrapping, below
from bench.stage import DEADLINE, BenchError, Stage

_ALL = "*"


class Room(Wrapping):
    between = 1

    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        """It has neither restarts nor a grace of ours (its own: 5 s), and prints what the programs print."""
        super().__init__(rival, stage, programs, how)
        self.procfile = self.folder / "Procfile"
        # `exec`: it hands a line to a shell.
        self.procfile.write_text("".join(f"{name}: exec {shlex.join(words)}\n" for name, words in programs.items()))
        self.executable = [rival.program("honcho")]
        if how.alone:
            mine = loner(stage, self.folder.name)
            modules = str(next((FOLDER / "lib").glob("python*/site-packages")))
            self.own = {**mine.changes, "PYTHONPATH": modules}
            self.executable = [mine.python, "-m", "honcho"]

    def start(self, name: str) -> list[str]:
        command = [*self.executable, "-f", str(self.procfile), "start", *([name] if name else [])]
        return self._into(f"{self.how.log}/{name}.log", command) if self.how.log else command

    @staticmethod
    def _into(file: str, command: list[str]) -> list[str]:
        return ["/bin/sh", "-c", 'exec "$@" >"$0"', file, *command]

    def begin(self, name: str, deadline: float = DEADLINE) -> int:
        return self._begin(name, [name])[0]

    def begin_all(self) -> list[int]:
        """One honcho for all of them."""
        return self._begin(_ALL, list(self.programs))

    def _begin(self, key: str, names: list[str]) -> list[int]:
        """And wait until it says that it has started them: SIGTERM before that would find it deaf for good."""
        told = Path(f"{self.how.log or self.folder}/{key}.log")
        command = self.start(key if key in self.programs else "")
        wrapped = command if self.how.log and key != _ALL else self._into(str(told), command)
        self.children[key] = self.stage.begin(wrapped, **self.changes, **self.own)
        limit = time.monotonic() + DEADLINE
        while not told.exists() or told.read_text().count(" started (pid=") < len(names):
            if time.monotonic() > limit:
                raise BenchError(f"honcho: {', '.join(names)} did not start within {DEADLINE:g} s")
            time.sleep(0.02)
        return self.wait_for(names)

    def end(self, name: str, deadline: float = DEADLINE) -> None:
        """One ends: all end."""
        super().end(_ALL if _ALL in self.children else name, deadline)

    def program_pid(self, name: str) -> int | None:
        """It starts them in the order of the Procfile, each by a process of its own."""
        everybody = self.children.get(_ALL)
        if everybody is None:
            return super().program_pid(name)
        found = below(everybody.pid, self.between + 1)
        return found[list(self.programs).index(name)] if len(found) == len(self.programs) else None


class Honcho(Rival):
    name = "honcho"
    kind: ClassVar[Literal["daemon", "wrapper"]] = "wrapper"
    runtime: ClassVar[Literal["python", "node", "c"]] = "python"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Honcho:
        folder = from_pypi(stage, "honcho", "honcho", install)
        return cls(stage.call([f"{folder}/honcho", "version"]).split()[-1], folder)

    def wrap(self, stage: Stage, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        return [self.program("honcho"), "run", *command], {}
