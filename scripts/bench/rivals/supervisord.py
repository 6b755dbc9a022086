"""Supervisor, from PyPI. docs: http://supervisord.org/configuration.html

startsecs=0: `supervisorctl start` answers as soon as the program is executed, not a second later. autostart=false
and no eventlisteners; the control socket is a unix one, the fastest that it has.
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
        self.config = str(self.folder / "conf")
        text = (
            f"[unix_http_server]\nfile={self.folder}/sock\n[supervisord]\nnodaemon=true\n"
            f"logfile={self.folder}/log\npidfile={self.folder}/pid\nchildlogdir={self.folder}\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{self.folder}/sock\n"
        )
        for name, command in programs.items():
            words = shlex.join(command).replace("%", "%%")  # its own interpolation
            kept = f"{how.log}/{name}.log" if how.log else "/dev/null\nstdout_logfile_maxbytes=0"
            text += (
                f"[program:{name}]\ncommand={words}\nautostart=false\nautorestart={str(how.restart).lower()}\n"
                f"startsecs=0\nredirect_stderr=true\nstdout_logfile={kept}\n"
            )
            text += f"stopwaitsecs={max(1, round(how.grace))}\n" if how.grace is not None else ""
        Path(self.config).write_text(text)
        self.executable = [rival.program("supervisord")]
        if how.alone:
            mine = loner(stage, self.folder.name)
            modules = str(next((FOLDER / "lib").glob("python*/site-packages")))
            self.own = {**mine.changes, "PYTHONPATH": modules}
            self.executable = [mine.python, "-m", "supervisor.supervisord"]

    def control(self, *words: str) -> list[str]:
        return [self.rival.program("supervisorctl"), "-c", self.config, *words]

    def start(self, name: str) -> list[str]:
        return self.control("start", name)

    def status(self, name: str) -> list[str]:
        return self.control("status", name)

    def stop(self, name: str) -> list[str]:
        return self.control("stop", name)

    def pids(self) -> list[int]:
        return [self.children[""].pid]

    def program_pid(self, name: str) -> int | None:
        told = self.ask(*self.control("pid", name)).strip()
        return int(told) if told.isdigit() and told != "0" else None

    def open(self) -> None:
        ready = self.control("pid")
        self.daemon([*self.executable, "-c", self.config], lambda: self.stage.call(ready, **self.changes))


class Supervisord(Rival):
    name = "supervisord"
    runtime: ClassVar[Literal["python", "node", "c"]] = "python"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Supervisord:
        folder = from_pypi(stage, "supervisor", "supervisorctl", install)
        return cls(stage.call([f"{folder}/supervisord", "--version"]).strip(), folder)
