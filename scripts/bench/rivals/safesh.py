"""Ours, in the same form as the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from bench.loner import loner
from bench.rivals.base import Hall, How, Programs, Rival
from bench.stage import SAFE, Stage


class Room(Hall):
    """A project of its own: its safe.toml is found by SAFESH_CONFIG. There is no daemon before the first start."""

    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        config = self.folder / "safe.toml"
        text = f"project = {json.dumps(self.folder.name)}\n"
        for name, command in programs.items():
            text += f"[targets.{name}]\ncommand = {json.dumps(command)}\n"
            text += 'restart = "always"\n' if how.restart else ""
            text += f'stop = {{ grace = "{how.grace:g}s" }}\n' if how.grace is not None else ""
        config.write_text(text)
        config.chmod(0o644)
        self.changes |= {"SAFESH_CONFIG": str(config)}
        if how.log:
            self.changes["SAFESH_HOME"] = how.log
        self.safe = [SAFE]
        if how.alone:
            mine = loner(stage, self.folder.name)
            self.changes |= mine.changes
            self.safe = [mine.python, *stage.direct[1:]]

    def start(self, name: str) -> list[str]:
        return [*self.safe, "start", "--detach", name]

    def status(self, name: str) -> list[str]:
        return [*self.safe, "status", name]

    def stop(self, name: str) -> list[str]:
        return [*self.safe, "stop", name, "--force"]

    def _running(self, name: str) -> dict[str, Any]:
        """What status says of a program that runs; {} where it doesn't."""
        told = self.ask(*self.safe, "status", "--json", name)
        instance: dict[str, Any] = json.loads(told)["instances"][0] if told else {}
        return instance

    def pids(self) -> list[int]:
        """The supervisors and the keepers: a pair an instance."""
        found = [instance["record"] for name in self.programs if (instance := self._running(name))]
        return [int(record[role]["pid"]) for record in found for role in ("supervisor", "keeper")]

    def program_pid(self, name: str) -> int | None:
        return self._running(name).get("pid")

    def open(self) -> None:
        self.ask(*self.safe, "status")  # the configuration's cache is warm, as it usually is

    def close(self) -> None:
        super().close()
        self.ask(*self.safe, "stop", "--force", "--now")


class Safesh(Rival):
    name = "safesh"
    runtime: ClassVar[Literal["python", "node", "c"]] = "python"
    ours = True
    room = Room

    @classmethod
    def find(cls, stage: Stage, _install: bool) -> Safesh:
        return cls(stage.call([SAFE, "--version"]).split()[-1])

    def wrap(self, stage: Stage, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        return [SAFE, "exec", "--", *command], {}
