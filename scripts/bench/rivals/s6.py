"""s6, from Debian: s6-svscan, an s6-supervise a service, s6-svc. docs: https://skarnet.org/software/s6/

`s6-svc -u` (-o: without restarts) tells and doesn't wait; `s6-svc -wd -d` returns by notification, without a poll, when
the service is down. Between two starts of a service s6-supervise waits a second (compiled in).

Its commands execute each other by a path that is compiled in (/usr/bin). Unpacked elsewhere they work only where a
mount namespace of our own lays that folder over /usr/bin (see inside.py), which the machine doesn't see.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.install import from_debian
from bench.rivals.base import Hall, How, Programs, Rival, children
from bench.stage import BenchError, Stage

BUILT_FOR = Path("/usr/bin/s6-supervise")


class Room(Hall):
    def __init__(self, rival: Rival, stage: Stage, programs: Programs, how: How) -> None:
        super().__init__(rival, stage, programs, how)
        self.up = "-u" if how.restart else "-o"
        self.services = self.folder / "scan"
        for name, command in programs.items():
            service = self.services / name
            service.mkdir(parents=True)
            (service / "down").touch()
            self._script(service / "run", f"exec 2>&1\nexec {shlex.join(command)}")
            if how.grace is not None:  # without it, it never kills
                (service / "timeout-kill").write_text(f"{round(how.grace * 1000)}\n")
            if how.log:
                (service / "log").mkdir()
                self._script(service / "log" / "run", f"exec s6-log n20 s10000000 {how.log}/{name}")
                (Path(how.log) / name).mkdir(exist_ok=True)

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def start(self, name: str) -> list[str]:
        return ["/usr/bin/s6-svc", self.up, f"{self.services}/{name}"]

    def status(self, name: str) -> list[str]:
        return ["/usr/bin/s6-svstat", f"{self.services}/{name}"]

    def stop(self, name: str) -> list[str]:
        return ["/usr/bin/s6-svc", "-wd", "-d", f"{self.services}/{name}"]

    def pids(self) -> list[int]:
        """s6-svscan, its s6-supervise and s6-log."""
        scan = self.children[""].pid
        each = children(scan)
        programs = {self.program_pid(name) for name in self.programs}
        return [scan, *each, *(pid for one in each for pid in children(one) if pid not in programs)]

    def program_pid(self, name: str) -> int | None:
        told = self.ask("/usr/bin/s6-svstat", "-o", "pid", f"{self.services}/{name}").strip()
        return int(told) if told.isdigit() else None

    def open(self) -> None:
        def ready() -> bool:
            for name in self.programs:
                self.stage.call(["/usr/bin/s6-svstat", f"{self.services}/{name}"], **self.changes)
            return True

        self.daemon(["/usr/bin/s6-svscan", str(self.services)], ready)


class S6(Rival):
    name = "s6"
    room = Room

    @classmethod
    def find(cls, stage: Stage, install: bool) -> S6:
        _folder, version = from_debian(stage, "s6", "s6-svscan", install)
        if not BUILT_FOR.exists():
            raise BenchError(
                f"{BUILT_FOR} is compiled in, and nothing can be laid over /usr/bin here (mount namespace)"
            )
        return cls(version)
