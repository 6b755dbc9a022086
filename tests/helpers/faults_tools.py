"""What the fault tests share: small targets, looks at what a run leaves in writing, other users, tiny disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import CLI, Home, Result
from helpers.procs import Process, Spawn, wait_until

NOBODY = 65534
SLEEPER = "echo up; exec sleep 600"


# --- targets ----------------------------------------------------------------------------------


def table(command: str | list[str], name: str = "t", more: str = "", grace: str = "0.5s") -> str:
    """One target of a safe.toml; a string is the shell's."""
    shell = "shell = true\n" if isinstance(command, str) else ""
    stop = f'stop = {{ grace = "{grace}" }}\n' if grace else ""
    return f"[targets.{name}]\ncommand = {json.dumps(command)}\n{shell}{stop}{more}\n"


def write_target(
    home: Home, command: str | list[str] = SLEEPER, name: str = "t", more: str = "", **options: str
) -> None:
    """A safe.toml with this target alone."""
    home.write_config(table(command, name, more, **options))


def run(*words: str, env: Mapping[str, str] | None = None, deadline: float = 30, cwd: str | None = None) -> Result:
    """Any command to its end, the command line behind ``prlimit`` or ``setpriv`` say."""
    with Spawn(*words, extra_env=env, cwd=cwd, stdin=subprocess.DEVNULL, whole=False) as child:
        code = child.wait(deadline)
        child.wait_output(5)
        return Result(child.command, code, child.out, child.err)


# --- what was said ----------------------------------------------------------------------------


def one_line(result: Result, *texts: str, hint: bool = False) -> str:
    """The problem: one line, a hint below it (must there be one?), no traceback; each of ``texts`` is in it."""
    lines = result.err.splitlines()
    assert "Traceback" not in result.err, result
    assert lines, f"nothing was said: {result}"
    assert lines[0].startswith("safesh: "), result
    assert "a bug in" not in result.err, result
    assert "Error:" not in lines[0], f"an exception's name: {result}"
    assert len(lines) == 2 or (len(lines) == 1 and not hint), f"one line and a hint: {result}"
    for text in texts:
        assert text in result.err, f"no {text!r}: {result}"
    return result.err


# --- what is in writing -----------------------------------------------------------------------


def record_of(home: Home, name: str = "t") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.state_file(f"{name}.json").read_text())
    return found


def wait_record(home: Home, deadline: float = 10, name: str = "t", **fields: Any) -> dict[str, Any]:
    """The record, once these fields have these values."""

    def found() -> dict[str, Any] | None:
        try:
            now = record_of(home, name)
        except (FileNotFoundError, ValueError):
            return None
        return now if all(now[key] == value for key, value in fields.items()) else None

    got = wait_until(found, deadline, f"a record with {fields}")
    assert got is not None
    return got


def events_of(home: Home, kind: str = "") -> list[dict[str, Any]]:
    """The project's events, those of one kind where one is named."""
    try:
        lines = home.state_file("events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [one for one in map(json.loads, lines) if kind in ("", one["event"])]


def wait_log(home: Home, text: str, name: str = "t", deadline: float = 10) -> str:
    """The log, once ``text`` is in it."""
    path = home.state_file(f"{name}.log")
    wait_until(lambda: path.exists() and text in path.read_text(errors="replace"), deadline, f"{text!r} in the log")
    return path.read_text(errors="replace")


# --- who is there -----------------------------------------------------------------------------


def members(home: Home, name: str = "t", project: str = "") -> list[Process]:
    """Living processes that carry the mark of the project's instance ``name``."""
    return procs.marked("SAFESH_INSTANCE", str(home.state / (project or home.project.name) / name))


def kill(identity: Mapping[str, Any], number: int = signal.SIGKILL) -> None:
    """Signal a process that a record of this test names."""
    procs.send(identity["pid"], identity["start"], number)


def wait_gone(identity: Mapping[str, Any], deadline: float = 5) -> None:
    wait_until(lambda: not procs.alive(identity["pid"], identity["start"]), deadline, f"{identity} is gone")


@contextmanager
def hand_started(*words: str, **options: Any) -> Iterator[Spawn]:
    """A process that safesh did not start, ended (by us) at the end."""
    with Spawn(*words, stdin=subprocess.DEVNULL, **options) as child:
        yield child


# --- other users, small disks ---------------------------------------------------------------------


_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def as_nobody() -> list[str]:
    """The words that run what follows them as another user without any privilege; skips where that is impossible."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user, with setpriv")
    return list(_NOBODY)


def nobodys_cli() -> list[str]:
    """Our command line for another user, who may need another Python; ad hoc runs only, it may lack our libraries."""
    as_nobody()
    found = _nobodys_python()
    if not found:
        pytest.skip("another user can run no Python that is new enough")
    return [found, *CLI[1:]]


@cache
def _nobodys_python() -> str:
    for python in dict.fromkeys((sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3")):
        words = [*_NOBODY, "env", python, *CLI[1:], "--version"]
        done = subprocess.run(words, capture_output=True, timeout=30, check=False, cwd="/")
        if done.returncode == 0:
            return python
    return ""


def lend_state(home: Home) -> None:
    """Make the state folder another user's."""
    home.path.parent.chmod(0o755)
    home.state.mkdir(mode=0o700)
    give_away(home.state)


def give_away(path: Path, user: int = NOBODY) -> None:
    """Make a file another user's; skips where we may not."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, user, user, follow_symlinks=False)


@contextmanager
def tiny_disk(path: Path, kibibytes: int) -> Iterator[None]:
    """A file system of its own at ``path``, so small that it is soon full."""
    path.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=700", "safesh-test", str(path)],
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], timeout=10, check=True)


def fill(path: Path, leave: int = 0) -> None:
    """Fill the file system with the file ``path``, all but about ``leave`` bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
        if leave:
            file.truncate(max(0, file.tell() - leave))
