"""The contract tests' side of helpers/contract_driver.py: a holder on a chosen backend, asked from here."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from helpers.home import SUPERVISOR
from helpers.procs import Spawn, alive, wait_until

DRIVER = Path(__file__).with_name("contract_driver.py")
TARGET = Path(__file__).with_name("contract_target.py")
BACKENDS = ("cgroup", "subreaper", "posix")


class Remote(Exception):
    """The driver could not do what it was asked."""


class Member:
    """One process that a target told of."""

    def __init__(self, told: Mapping[str, int]) -> None:
        self.pid = told["pid"]
        self.start = told["start"]

    @property
    def alive(self) -> bool:
        return alive(self.pid, self.start)

    def __repr__(self) -> str:
        return f"Member(pid={self.pid}, start={self.start})"


class Holder:
    """A driver process: ``with Holder("cgroup") as holder: holder.call("info", pid=1)``."""

    def __init__(self, backend: str, driver: Path = DRIVER) -> None:
        self.backend = backend
        self._spawn = Spawn(
            sys.executable,
            str(driver),
            extra_env={"SAFESH_BACKEND": backend, "PYTHONPATH": f"{SUPERVISOR}{os.pathsep}{DRIVER.parents[1]}"},
        )
        self.run_id = uuid.uuid4().hex
        self.keeper: Member | None = None
        self.main: Member | None = None
        self.group = ""
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.group and os.path.isdir(self.group):
                self._empty_group()
        finally:
            self._spawn.close()

    def _empty_group(self) -> None:
        """A test that failed may leave members in the run's own cgroup; they are in it, so they are ours."""
        try:
            Path(self.group, "cgroup.kill").write_text("1", encoding="ascii")
            wait_until(lambda: "populated 0" in Path(self.group, "cgroup.events").read_text(encoding="ascii"), 5)
        except FileNotFoundError:
            return  # its keeper has just removed it
        for folder, _dirs, _files in os.walk(self.group, topdown=False):
            os.rmdir(folder)

    @property
    def pid(self) -> int:
        return self._spawn.pid

    def send(self, number: int) -> None:
        """Signal the driver itself."""
        self._spawn.send(number)

    def close_input(self) -> int:
        """Let the driver end, as a supervisor does that is told to; its status."""
        self._spawn.close_stdin()
        return self._spawn.wait()

    def wait(self) -> int:
        return self._spawn.wait()

    def call(self, do: str, **arguments: Any) -> Any:
        """What the driver answers; ``deadline``, where it takes one, is its own. :class:`Remote` for an error."""
        self._spawn.write(json.dumps({"do": do, **arguments}) + "\n")
        answer = json.loads(self._spawn.wait_line("^{", arguments.get("deadline", 30.0) + 10).string)
        if "error" in answer:
            raise Remote(answer["error"])
        return answer["is"]

    # ---- a run

    def start(self, *words: str, grace: float = 10.0, scope: str = "main", env: Any = None, **options: Any) -> None:
        """Hold ``contract_target.py WORDS`` and wait until its whole tree is up."""
        self.hold([sys.executable, "-E", "-s", "-S", str(TARGET), *words], grace=grace, scope=scope, env=env, **options)
        ready = json.loads(self.line())
        assert self.main is not None
        assert ready["main"] == {"pid": self.main.pid, "start": self.main.start}
        self.members = {name: Member(told) for name, told in ready["members"].items()}
        for member in self.members.values():
            self._spawn.adopt(member.pid, member.start)

    def hold(
        self, command: list[str], *, grace: float = 10.0, scope: str = "main", env: Any = None, **options: Any
    ) -> Any:
        """Hold a command; the message that it was spawned, or why it was not."""
        stop = {"signal": "SIGTERM", "scope": scope, "grace": grace}
        self.keeper = Member(self.call("hold", command=command, stop=stop, env=env, run_id=self.run_id, **options))
        message = self.event()
        if message["event"] == "spawned":
            self.main = Member(message)
            self.group = message["group"]
        return message

    def line(self, deadline: float = 10.0) -> str:
        line = self.call("line", deadline=deadline)
        assert line is not None, "the target wrote nothing more"
        return str(line)

    def told(self, deadline: float = 10.0) -> dict[str, Any]:
        """The target's next line of JSON."""
        return dict(json.loads(self.line(deadline)))

    def event(self, name: str = "", deadline: float = 20.0) -> dict[str, Any]:
        """The keeper's next message, or the next one called ``name``."""
        while True:
            message = self.call("event", deadline=deadline)
            assert message is not None, f"the keeper said nothing in {deadline:g} s"
            if not name or message["event"] == name:
                return dict(message)
            assert message["event"] not in ("broken", "ended"), f"waiting for {name!r}: {message}"

    def end(self, *, grace: float = 10.0, scope: str = "main", now: bool = False) -> dict[str, Any]:
        """Have the keeper end the tree; the verdict."""
        self.order(grace=grace, scope=scope, now=now)
        return dict(self.event("gone")["verdict"])

    def order(self, *, grace: float = 10.0, scope: str = "main", now: bool = False) -> None:
        self.call("end", policy={"signal": "SIGTERM", "scope": scope, "grace": grace}, now=now)

    def left(self) -> list[str]:
        """Names of those who are still alive."""
        assert self.main is not None
        return [name for name, one in {"main": self.main, **self.members}.items() if one.alive]


def pids(members: list[dict[str, Any]]) -> set[int]:
    """The pids in a verdict's list."""
    return {member["pid"] for member in members}


@cache
def why_not(backend: str) -> str:
    """Why this backend cannot be had here; "" when it can."""
    with Holder(backend) as holder:
        try:
            told = holder.call("hello")
            holder.call("info", pid=holder.pid)
        except Remote as error:
            return f"{backend}: {error}"
        return "" if told["backend"] == backend else f"{backend}: {told['why']}"
