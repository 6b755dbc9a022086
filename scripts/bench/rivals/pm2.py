"""pm2, from npm. docs: https://pm2.keymetrics.io/docs/usage/application-declaration/

vizion (version control) and pmx (its own probes in the program) are off, as its manual has it for speed; -s leaves out
the table behind every command. Its daemon makes itself one: it is ended by `pm2 kill`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.install import from_npm
from bench.rivals.base import Hall, How, Programs, Rival, gone
from bench.stage import Stage


class Room(Hall):
    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        self.home = self.folder / "home"
        self.changes |= {"PM2_HOME": str(self.home), "PM2_DISCRETE_MODE": "1"}
        self.config = self.folder / "ecosystem.config.json"
        apps = []
        for name, command in programs.items():
            kept = f"{how.log}/{name}.log" if how.log else "/dev/null"
            app: dict[str, Any] = {
                "name": name, "script": command[0], "args": command[1:], "interpreter": "none", "exec_mode": "fork",
                "autorestart": how.restart, "vizion": False, "pmx": False, "out_file": kept, "error_file": kept,
            }  # fmt: skip
            if how.grace is not None:
                app["kill_timeout"] = round(how.grace * 1000)
            apps.append(app)
        self.config.write_text(json.dumps({"apps": apps}))

    def control(self, *words: str) -> list[str]:
        return [self.rival.program("pm2"), *words]

    def start(self, name: str) -> list[str]:
        return self.control("start", str(self.config), "--only", name, "-s")

    def status(self, name: str) -> list[str]:
        return self.control("describe", name)

    def stop(self, name: str) -> list[str]:
        return self.control("stop", name, "-s")

    def begin_all(self) -> list[int]:
        self.stage.call(self.control("start", str(self.config), "-s"), **self.changes)
        return self.wait_for(list(self.programs))

    def pids(self) -> list[int]:
        try:
            pid = int((self.home / "pm2.pid").read_text())
        except (OSError, ValueError):
            return []
        return [pid] if Path(f"/proc/{pid}").exists() else []

    def program_pid(self, name: str) -> int | None:
        told = self.ask(*self.control("pid", name)).strip()
        return int(told) if told.isdigit() and told != "0" else None

    def open(self) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.stage.call(self.control("ping"), **self.changes)  # starts the daemon

    def close(self) -> None:
        """`pm2 kill` returns a moment before the daemon has ended."""
        for pid in self.pids():
            self.ask(*self.control("kill"))
            gone(pid, 10.0)


class Pm2(Rival):
    name = "pm2"
    no_wrap = "pm2-runtime ends 12 s after its program (four looks, two seconds apart), with exit status 2"
    runtime: ClassVar[Literal["python", "node", "c"]] = "node"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Pm2:
        folder = from_npm(stage, "pm2", "pm2", install)
        package = json.loads((folder.parent / "pm2" / "package.json").read_text())
        return cls(str(package["version"]), folder)
