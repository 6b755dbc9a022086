"""tini and dumb-init, from Debian: an init around one command, nothing else. Nothing to set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from bench.install import from_debian
from bench.rivals.base import How, Programs, Rival, Wrapping
from bench.stage import Stage


class Room(Wrapping):
    def __init__(self, rival: Small, stage: Stage, programs: Programs, how: How) -> None:
        """No restarts, no grace, no log of theirs: what the program prints goes into a file by itself."""
        super().__init__(rival, stage, programs, how)
        self.small = rival

    def start(self, name: str) -> list[str]:
        command, _changes = self.small.wrap(self.stage, self.programs[name])
        return ["/bin/sh", "-c", 'exec "$@" >"$0"', f"{self.how.log}/{name}.log", *command] if self.how.log else command


class Small(Rival):
    kind: ClassVar[Literal["daemon", "wrapper"]] = "wrapper"
    words: ClassVar[tuple[str, ...]]
    room = Room

    def __init__(self, version: str, folder: Path | None = None) -> None:
        super().__init__(version, folder)
        self._path = self.program(self.name)  # looked up once: PATH is no part of what is compared

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Small:
        folder, version = from_debian(stage, cls.name, cls.name, install)
        return cls(version, folder)

    def wrap(self, stage: Stage, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        return [self._path, *self.words, "--", *command], self.changes


class Tini(Small):
    name = "tini"
    words = ("-s",)  # a subreaper, for it isn't the first process here


class DumbInit(Small):
    name = "dumb-init"
    words = ()
