"""Circus, from PyPI. docs: https://circus.readthedocs.io/en/latest/configuration/

Its endpoints are unix sockets (ipc://), faster than its default, TCP; no statistics process (statsd), no warmup delay.
`circusctl stop` answers before anything has ended; --waiting is its way to say when it has.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar, Literal

from bench.install import FOLDER, from_pypi
from bench.loner import loner
from bench.rivals.base import Hall, How, Programs, Rival
from bench.stage import Stage


class Room(Hall):
    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        self.endpoint = f"ipc://{self.folder}/e"
        self.config = str(self.folder / "ini")
        text = f"[circus]\nendpoint = {self.endpoint}\npubsub_endpoint = ipc://{self.folder}/p\nstatsd = False\n"
        for name, command in programs.items():
            text += (
                f"[watcher:{name}]\ncmd = {shlex.join(command)}\nautostart = False\nrespawn = {how.restart}\n"
                "copy_env = True\nwarmup_delay = 0\nmax_retry = -1\n"
            )
            text += f"graceful_timeout = {how.grace:g}\n" if how.grace is not None else ""
            for stream in ("stdout", "stderr"):
                kept = f"FileStream\n{stream}_stream.filename = {how.log}/{name}.{stream}"
                text += f"{stream}_stream.class = {kept}\n" if how.log else f"close_child_{stream} = True\n"
        Path(self.config).write_text(text)
        self.executable = [rival.program("circusd")]
        if how.alone:
            mine = loner(stage, self.folder.name)
            modules = str(next((FOLDER / "lib").glob("python*/site-packages")))
            self.own = {**mine.changes, "PYTHONPATH": modules}
            self.executable = [mine.python, "-m", "circus.circusd"]

    def control(self, *words: str) -> list[str]:
        return [self.rival.program("circusctl"), "--endpoint", self.endpoint, *words]

    def start(self, name: str) -> list[str]:
        return self.control("start", name)

    def status(self, name: str) -> list[str]:
        return self.control("status", name)

    def stop(self, name: str) -> list[str]:
        return self.control("stop", name, "--waiting")

    def pids(self) -> list[int]:
        return [self.children[""].pid]

    def program_pid(self, name: str) -> int | None:
        told = self.ask(*self.control("list", name)).strip()
        return int(told) if told.isdigit() else None

    def open(self) -> None:
        self.daemon([*self.executable, self.config], lambda: self.stage.call(self.control("list"), **self.changes))


class Circus(Rival):
    name = "circus"
    runtime: ClassVar[Literal["python", "node", "c"]] = "python"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Circus:
        folder = from_pypi(stage, "circus", "circusctl", install)
        return cls(stage.call([f"{folder}/circusd", "--version"]).strip(), folder)
