"""s6, from Debian: s6-svscan, an s6-supervise a service, s6-svc. docs: https://skarnet.org/software/s6/

`s6-svc -u` (-o: without restarts) tells and doesn't wait; `s6-svc -wd -d` returns by notification, without a poll, when
the service is down. Between two starts of a service s6-supervise waits a second (compiled in).

Its commands execute each other by a path that is compiled in (/usr/bin). Unpacked elsewhere they work only where a
mount namespace of our own lays that folder over /usr/bin (see inside.py), which the machine doesn't see.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from bench.install import from_debian
from bench.rivals.base import Hall, Rival, children
from bench.stage import BenchError, Stage

BUILT_FOR = Path("/usr/bin/s6-supervise")


class S6(Rival):
    name = "s6"

    @classmethod
    def find(cls, stage: Stage, install: bool) -> S6:
        _folder, version = from_debian(stage, "s6", "s6-svscan", install)
        if not BUILT_FOR.exists():
            raise BenchError(
                f"{BUILT_FOR} is compiled in, and nothing can be laid over /usr/bin here (mount namespace)"
            )
        return cls(version)

    def running(self, stage: Stage, programs: dict[str, list[str]], **how: Any) -> Room:
        return Room(self, stage, programs, **how)


class Room(Hall):
    def __init__(
        self,
        rival: Rival,
        stage: Stage,
        programs: dict[str, list[str]],
        *,
        log: str = "",
        restart: bool = False,
        grace: float | None = None,
        alone: bool = False,
    ) -> None:
        super().__init__(rival, stage, programs)
        self.how = "-u" if restart else "-o"
        self.services = self.folder / "scan"
        for name, command in programs.items():
            service = self.services / name
            service.mkdir(parents=True)
            (service / "down").touch()
            self._script(service / "run", f"exec 2>&1\nexec {shlex.join(command)}")
            if grace is not None:  # without it, it never kills
                (service / "timeout-kill").write_text(f"{round(grace * 1000)}\n")
            if log:
                (service / "log").mkdir()
                self._script(service / "log" / "run", f"exec s6-log n20 s10000000 {log}/{name}")
                (Path(log) / name).mkdir(exist_ok=True)

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def start(self, name: str) -> list[str]:
        return ["/usr/bin/s6-svc", self.how, f"{self.services}/{name}"]

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
