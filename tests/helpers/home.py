"""A home of its own for every test, and the command line run in it (a pytest plugin).

Fixtures: ``home`` (HOME, SAFESH_HOME and a project as the working directory, all new, short paths because a
Unix socket's may have 108 bytes, unix(7)), ``write_config`` and ``safe``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from helpers.procs import Spawn

ROOT = Path(__file__).resolve().parents[2]
SUPERVISOR = ROOT / "supervisor"
ROBOT = ROOT / "scripts" / "demo_robot.py"
CLI = (sys.executable, "-E", "-s", "-S", str(SUPERVISOR / "safesh" / "__main__.py"))
WRAPPER = (str(ROOT / "bin" / "safe.sh"),)
_KEEP = "SAFESH_TEST_"  # the only variables of ours that a test inherits


class Home(NamedTuple):
    """Where a test lives. path: HOME; state: SAFESH_HOME; project: the working directory."""

    path: Path
    state: Path
    project: Path

    def write_config(self, text: str) -> Path:
        """The project's safe.toml; its path."""
        file = self.project / "safe.toml"
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)
        return file

    def state_file(self, name: str) -> Path:
        """A state file of the project, ``headless.pid`` for instance, where safe.toml names no other project."""
        return self.state / self.project.name / name


class Result(NamedTuple):
    """How a command ended: exit status (a signal as a negative number) and its whole output."""

    command: list[str]
    rc: int
    out: str
    err: str

    def check(self, rc: int = 0) -> Self:
        """Itself when the exit status is ``rc``, else an AssertionError with everything it said."""
        assert self.rc == rc, f"status {self.rc}, expected {rc}: {self}"
        assert "Traceback" not in self.err, f"a traceback: {self}"
        return self

    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"{' '.join(self.command)}\n--- stdout\n{self.out}--- stderr\n{self.err}---"


class Safe:
    """Runs ``safe.sh``'s Python (or, with ``wrapper=True``, bin/safe.sh itself) in the test's home."""

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        input: str | None = None,
        deadline: float = 30,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        wrapper: bool = False,
    ) -> Result:
        """Run to the end and to the end of both outputs: who detaches must let go of them. ``env`` is added."""
        with self.spawn(
            *arguments, env=env, cwd=cwd, wrapper=wrapper, stdin=subprocess.DEVNULL if input is None else None
        ) as child:
            if input is not None:
                child.write(input)
                child.close_stdin()
            rc = child.wait(deadline)
            child.wait_output(5)
            return Result(child.command, rc, child.out, child.err)

    def spawn(
        self,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        wrapper: bool = False,
        whole: bool = False,
        **options: Any,
    ) -> Spawn:
        """The command as a :class:`Spawn`, for what runs on (``start`` in the foreground, ``logs -f``).

        What it leaves behind stays (``start --detach``), unless ``whole`` is set.
        """
        if options.get("stdin") is None:
            options["stdin"] = subprocess.PIPE
        words = [*(WRAPPER if wrapper else CLI), *(os.fspath(word) for word in arguments)]
        return Spawn(*words, extra_env=env, whole=whole, **options)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[Result]:
        """``start --detach ARGUMENTS`` for the length of a ``with`` block, ``stop --force --now`` after it."""
        try:
            yield self("start", "--detach", *arguments).check()
        finally:
            # One name, whatever options and ad hoc command stood around it.
            names = [word for word in arguments[: _index(arguments, "--")] if not word.startswith("-")]
            self("stop", "--force", "--now", *names[-1:])


def _index(words: tuple[str, ...], word: str) -> int:
    return words.index(word) if word in words else len(words)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """See the module; the environment is free of SAFESH_* and XDG_* settings."""
    base = Path(tempfile.mkdtemp(prefix="sft-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    try:
        made = Home(base / "home", base / "state", base / "proj")
        made.path.mkdir()
        made.project.mkdir()
        for name in list(os.environ):
            if (name.startswith("SAFESH_") and not name.startswith(_KEEP)) or name.startswith("XDG_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(made.path))
        monkeypatch.setenv("SAFESH_HOME", str(made.state))
        with monkeypatch.context() as here:
            here.chdir(made.project)
            yield made
    finally:
        shutil.rmtree(base, ignore_errors=True)
        if base.exists():
            _LEFT.append(base)


_LEFT: list[Path] = []


def pytest_unconfigure() -> None:
    """By now the leaked processes that still wrote into their homes have been ended."""
    for base in _LEFT:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def write_config(home: Home) -> Any:
    """``write_config(text)`` writes the project's safe.toml and gives its path."""
    return home.write_config


@pytest.fixture
def safe(home: Home) -> Safe:
    """``safe("status", "--json")``: see :class:`Safe`."""
    return Safe()
