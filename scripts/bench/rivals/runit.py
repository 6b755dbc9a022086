"""runit, from Debian: runsvdir, a runsv a service, sv. docs: sv(8), runsv(8)

`sv up` and `sv once` tell runsv and don't wait. `sv stop` waits, and looks every 0.42 s (compiled in) whether the
service is down. Between two starts of a service runsv sleeps a second where it ran for less than one (compiled in).
"""

from __future__ import annotations

import shlex
import signal
import time
from typing import Any

from bench.install import from_debian, library_path
from bench.rivals.base import Hall, How, Programs, Rival, children, gone
from bench.stage import Stage


class Room(Hall):
    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        self.once = not how.restart
        self.services = self.folder / "sv"
        self.sv = rival.program("sv")
        self.changes["PATH"] = f"{rival.folder}:{stage.environment()['PATH']}" if rival.folder else ""
        if not rival.folder:
            del self.changes["PATH"]
        for name, command in programs.items():
            service = self.services / name
            service.mkdir(parents=True)
            (service / "down").touch()
            self._script(service / "run", f"exec 2>&1\nexec {shlex.join(command)}")
            if how.log:
                (service / "log").mkdir()
                self._script(service / "log" / "run", f"mkdir -p {how.log}/{name}\nexec svlogd {how.log}/{name}")

    @staticmethod
    def _script(path: Any, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def start(self, name: str) -> list[str]:
        return [self.sv, "once" if self.once else "up", f"{self.services}/{name}"]

    def status(self, name: str) -> list[str]:
        return [self.sv, "status", f"{self.services}/{name}"]

    def stop(self, name: str) -> list[str]:
        """By itself `sv stop` never kills; with a grace it is force-stop."""
        if self.how.grace is None:
            return [self.sv, "stop", f"{self.services}/{name}"]
        return [self.sv, "-w", str(max(1, round(self.how.grace))), "force-stop", f"{self.services}/{name}"]

    def pids(self) -> list[int]:
        """runsvdir, its runsv and their svlogd."""
        directory = self.children[""].pid
        each = children(directory)
        programs = {self.program_pid(name) for name in self.programs}
        return [directory, *each, *(pid for one in each for pid in children(one) if pid not in programs)]

    def program_pid(self, name: str) -> int | None:
        try:
            told = (self.services / name / "supervise" / "pid").read_text().strip()
        except OSError:
            return None
        return int(told) if told else None

    def open(self) -> None:
        def ready() -> bool:
            return all((self.services / name / "supervise" / "ok").exists() for name in self.programs)

        self.daemon([self.rival.program("runsvdir"), str(self.services)], ready)

    def close(self) -> None:
        """SIGHUP: runsvdir tells every runsv to end its service and itself (runsvdir(8))."""
        daemon = self.children.pop("", None)
        if daemon is None:
            return
        each = children(daemon.pid)
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGHUP)
        limit = time.monotonic() + 5.0
        for pid in each:
            gone(pid, max(0.0, limit - time.monotonic()))
        self.stage.end(daemon)


class Runit(Rival):
    name = "runit"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> Runit:
        folder, version = from_debian(stage, "runit", "runsvdir", install)
        return cls(version, folder)

    @property
    def changes(self) -> dict[str, str]:
        return library_path()
