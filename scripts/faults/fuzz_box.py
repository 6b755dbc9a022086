"""Where hostile bytes are read: a home of its own, a guard at the system's calls, and what counts as a clear error."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safesh.cli import main as cli_main
from safesh.cli import render
from safesh.errors import SafeshError

_BUG = cli_main.EX_SOFTWARE
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events (https://docs.python.org/3/library/audit_events.html) by what their arguments name.
_ONE_PATH = ("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.utime", "shutil.rmtree")
_TWO_PATHS = ("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile")
_NEVER = (
    "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
    "os.killpg", "signal.pthread_kill", "socket.connect", "socket.bind",
)  # fmt: skip


class Violation(AssertionError):
    """A property that does not hold; the message says which."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Violation(what)


class Box:
    """A home, a state folder and a project below ``path``; ``note`` remembers what a guard saw."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.project = path / "proj"
        self.folder = self.state / "proj"
        self.seen: list[str] = []
        for folder in (path / "home", self.state, self.project, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)

    def write(self, name: str, data: bytes) -> str:
        """``name`` below the box, replaced, 0600; its absolute path."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as out:
            out.write(data)
        return str(file)

    def state_file(self, name: str, data: bytes) -> str:
        return self.write(f"state/proj/{name}", data)

    def empty(self, folder: str) -> Path:
        """A new empty folder of this name."""
        path = self.path / folder
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    # ---- what is expected

    def refused(self, error: SafeshError, *names: str, longest: int = 2000) -> None:
        """The one clear error: a line that names the place, a hint below, nothing that a terminal would obey."""
        require(error.message, "an error without a message")
        require(not names or any(name in error.place for name in names), f"no place of {names} in {error.place!r}")
        told = render.problem(error).split("\n")
        require(1 <= len(told) <= 2 + len(error.log), f"an error of {len(told)} lines: {told}")
        for line in told:
            require(line.isprintable(), f"an error that speaks to the terminal: {line!r}")
            require(len(line) < longest, f"an error of {len(line)} characters")

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Our command line within this process: (status, stdout, stderr), neither a bug nor an escape among them."""
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli_main.main(list(argv))
        except SystemExit as done:
            raise Violation(f"{argv} left by SystemExit({done.code!r})") from done
        told = out.getvalue(), err.getvalue()
        require(code != _BUG and "a bug in" not in told[1] and "Traceback" not in told[1], f"{argv}: {told[1]}")
        for line in "".join(told).split("\n"):
            require(line.isprintable(), f"{argv} speaks to the terminal: {line!r}")
        return code, *told


@contextlib.contextmanager
def box() -> Iterator[Box]:
    """A new box: its HOME and SAFESH_HOME are in force, its project is the working directory."""
    before, here = dict(os.environ), os.getcwd()
    path = Path(tempfile.mkdtemp(prefix="safesh-fuzz-"))
    try:
        made = Box(path)
        for name in list(os.environ):
            if name.startswith(("SAFESH_", "XDG_")) and not name.startswith("SAFESH_TEST_"):
                del os.environ[name]
        os.environ |= {"HOME": str(path / "home"), "SAFESH_HOME": str(made.state), "TERM": "dumb", "COLUMNS": "100"}
        os.chdir(made.project)
        yield made
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(path, ignore_errors=True)


class Guard:
    """Notes every file written outside the box, every process started and every signal sent while ``on``.

    An audit hook cannot be taken back, so this is for processes of our own alone. pidfd_send_signal(2) raises no audit
    event; it is replaced.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)
        import _signal

        real: Callable[..., None] = _signal.pidfd_send_signal

        def send(fd: int, number: int, *more: Any) -> None:
            if self.on:
                self.seen.append(f"signal {number} by pidfd")
                return
            real(fd, number, *more)

        _signal.pidfd_send_signal = send

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            if isinstance(args[2], int) and args[2] & _WRITES:
                self._path(event, args[0])
        elif event in _ONE_PATH:
            self._path(event, args[0])
        elif event in _TWO_PATHS:
            self._path(event, args[0])
            self._path(event, args[1])
        elif event in _NEVER and not (event == "os.kill" and args[1] == 0):
            self.seen.append(f"{event} {str(args)[:200]}")

    def _path(self, event: str, path: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor: its open was seen
        whole = os.path.abspath(os.path.join(os.getcwd(), os.fsdecode(path)))
        if whole != os.devnull and not whole.startswith((self.root + "/", "/proc/self/")) and whole != self.root:
            self.seen.append(f"{event} {whole}")

    def take(self) -> list[str]:
        seen, self.seen = self.seen, []
        return seen
