"""Monit, from Debian. docs: monit(1)

It watches pid files: a program is started and stopped by a script of ours, as its manual's example has it, and a look
every second (`set daemon 1`) is the quickest that it can be told. Its http server listens on a unix socket. `monit
start` and `monit stop` wake the daemon and don't wait for it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.install import from_debian, library_path
from bench.rivals.base import MARK, Hall, How, Programs, Rival
from bench.stage import Stage


class Room(Hall):
    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        """It has no grace: it runs the stop program, and that is that."""
        super().__init__(rival, stage, programs, how)
        self.monit = rival.program("monit")
        self.config = self.folder / "conf"
        text = f"set daemon 1\nset httpd unixsocket {self.folder}/sock allow bench:bench\n"
        text += "".join(f"set {what}file {self.folder}/{what}\n" for what in ("log", "pid", "id", "state"))
        for name, command in programs.items():
            script = self.folder / f"{name}.sh"
            pid, kept = f"{self.folder}/{name}.pid", f"{how.log}/{name}.log" if how.log else "/dev/null"
            script.write_text(
                f"#!/bin/sh\ncase $1 in\n"
                # It gives programs an environment with PATH alone.
                f"  start) {MARK}={self.mark} HOME={stage.folder} {shlex.join(command)} </dev/null >{kept} 2>&1 &\n"
                f"    echo $! >{pid} ;;\n  stop) kill $(cat {pid}) ;;\nesac\n"
            )
            script.chmod(0o755)
            mode = "active" if how.restart else "passive"
            text += (
                f'check process {name} with pidfile {pid}\n  start program = "{script} start"\n'
                f'  stop program = "{script} stop"\n  onreboot nostart\n  mode {mode}\n'
            )
        self.config.write_text(text)
        self.config.chmod(0o600)

    def control(self, *words: str) -> list[str]:
        return [self.monit, "-c", str(self.config), *words]

    def start(self, name: str) -> list[str]:
        return self.control("start", name)

    def status(self, name: str) -> list[str]:
        return self.control("status", name)

    def stop(self, name: str) -> list[str]:
        return self.control("stop", name)

    def pids(self) -> list[int]:
        return [self.children[""].pid]

    def program_pid(self, name: str) -> int | None:
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if Path(f"/proc/{pid}/exe").exists() else None  # a zombie has none

    def open(self) -> None:
        def ready() -> object:
            return self.stage.call(self.control("summary"), **self.changes)

        self.daemon(self.control("-I"), ready)

    def close(self) -> None:
        for name in self.programs if "" in self.children else ():
            if self.program_pid(name):
                self.ask(*self.stop(name))
        super().close()


class Monit(Rival):
    name = "monit"
    waits = False
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Monit:
        folder, version = from_debian(stage, "monit", "monit", install)
        return cls(version, folder)

    @property
    def changes(self) -> dict[str, str]:
        return library_path()
