"""Where everything happens: a home of its own, an environment of its own, and an end for all that was started."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
SAFE = str(ROOT / "bin" / "safe.sh")
SOURCE = ROOT / "supervisor"
DEADLINE = 60.0  # seconds for any one thing but a log's flood


class BenchError(Exception):
    """Something that was to be measured did not work; its message is for people."""


class Stage:
    """A context manager. Commands get only what :meth:`environment` says, so that two runs compare.

    folder: temporary, gone at the end; python: what ``bin/safe.sh`` executes; direct: ``bin/safe.sh``'s last line
    without bash.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="safesh-bench-"))
        venv = Path(os.environ.get("SAFESH_VENV") or ROOT / ".venv")
        self.python = str(venv / "bin" / "python")
        self.main = str(SOURCE / "safesh" / "__main__.py")
        self.direct = [self.python, "-E", "-s", "-S", self.main]
        self.project = self.folder / "project"
        self.project.mkdir()
        self.config = self.project / "safe.toml"
        self._targets: dict[str, Sequence[str]] = {}
        self._started: list[str] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self.spawned = 0.0  # when the last one was, by time.perf_counter()
        self._errors = (self.folder / "stderr").open("w+b")

    def __enter__(self) -> Self:
        self._before = os.getcwd()
        os.chdir(self.project)  # posix_spawn(3) cannot
        self.call([SAFE, "--version"])  # makes the virtual environment where there is none
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
        try:
            for name in list(self._started):
                self.stop(name)
            for child in self._children:
                self.end(child)
        finally:
            self._errors.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, **changes: str) -> dict[str, str]:
        """No PYTHON* and no SAFESH_* but the home; PYTHONDONTWRITEBYTECODE would time the compiler."""
        keep = {name: os.environ[name] for name in ("PATH", "SAFESH_VENV") if name in os.environ}
        mine = {"HOME": str(self.folder), "SAFESH_HOME": str(self.folder / "state"), "LANG": "C.UTF-8"}
        return {**keep, **mine, **changes}

    def target(self, name: str, command: Sequence[str]) -> None:
        """Add a target to the project's safe.toml."""
        self._targets[name] = command
        lines = [f"[targets.{one}]\ncommand = {json.dumps(list(words))}\n" for one, words in self._targets.items()]
        self.config.write_text("".join(lines))
        self.config.chmod(0o644)

    # ---- commands that end

    def spawn(self, command: Sequence[str], **changes: str) -> int:
        """The pid of a child whose status the caller collects with :meth:`ended`; nothing is between it and now but
        posix_spawn(3)."""
        self._errors.seek(0)
        self._errors.truncate()
        environment = self.environment(**changes)
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._errors.fileno(), 2),
        ]
        # A child begins with the dispositions of a shell's, not with Python's.
        self.spawned = time.perf_counter()
        return os.posix_spawn(program, list(command), environment, file_actions=actions, setsigdef=[signal.SIGPIPE])

    def ended(self, pid: int, command: Sequence[str]) -> float:
        """Seconds since it was spawned, as soon as its status is collected. BenchError unless it is 0."""
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seconds = time.perf_counter() - self.spawned
        if status:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise BenchError(f"{' '.join(command)}: exit status {status}: {said or 'said nothing'}")
        return seconds

    def time(self, command: Sequence[str], **changes: str) -> float:
        """Seconds from before the fork until the exit status was collected. BenchError unless it is 0."""
        return self.ended(self.spawn(command, **changes), command)

    def call(self, command: Sequence[str], deadline: float = DEADLINE, /, **changes: str) -> str:
        """Run a command that is not timed; its stdout. BenchError when it fails."""
        try:
            done = subprocess.run(
                command,
                env=self.environment(**changes),
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=deadline,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{' '.join(command)}: {error}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise BenchError(f"{' '.join(command)}: exit status {done.returncode}: {said[-2000:]}")
        return done.stdout.decode(errors="replace")

    # ---- commands that stay

    def begin(self, command: Sequence[str], **changes: str) -> subprocess.Popen[bytes]:
        """Start a child that stays until :meth:`end` or the end of the stage; silent, in a session of its own."""
        child = subprocess.Popen(
            command,
            env=self.environment(**changes),
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def end(self, child: subprocess.Popen[bytes], deadline: float = 15.0) -> None:
        """SIGTERM, a while to obey, SIGKILL; never to a pid that was collected (Popen sees to that)."""
        child.terminate()
        try:
            child.wait(deadline)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child in self._children:
            self._children.remove(child)

    def starts(self, name: str) -> None:
        """Say that an instance of this name is about to be started detached: it is stopped at the end at the latest."""
        if name not in self._started:
            self._started.append(name)

    def stop(self, name: str) -> None:
        """End an instance that we started, whatever its state."""
        if name in self._started:
            self._started.remove(name)
            self.call([*self.direct, "stop", name, "--force", "--now"], DEADLINE)

    @contextmanager
    def running(self, name: str, command: Sequence[str], via: Sequence[str] = (), **changes: str) -> Iterator[Any]:
        """A target, detached, for the length of a ``with`` block; gives its status as plain data."""
        safe = list(via) or self.direct
        self.target(name, command)
        self.starts(name)
        try:
            self.call([*safe, "start", "--detach", name], DEADLINE, **changes)
            yield json.loads(self.call([*safe, "status", "--json", name], DEADLINE, **changes))["instances"][0]
        finally:
            self.stop(name)


class Bell:
    """A fifo on which something that was started tells that it runs, with one line."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.path = str(stage.folder / name)
        os.mkfifo(self.path, 0o600)
        # Open for both, so that there is always a reader for the ringer and never an end of file for us (fifo(7)).
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch = select.poll()
        self._watch.register(self._fd, select.POLLIN)

    def wait(self, deadline: float = DEADLINE) -> str:
        """The next line. BenchError after ``deadline`` seconds."""
        if not self._watch.poll(deadline * 1000):
            raise BenchError(f"nothing rang {self.path} within {deadline:g} s")
        return os.read(self._fd, 4096).decode().strip()

    def close(self) -> None:
        os.close(self._fd)
        os.unlink(self.path)
