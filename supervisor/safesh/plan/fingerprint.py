"""What a step is made from, as one digest: a resumed run does a step again when it differs.

In it: the command (a shell's text included), the working directory, the plan's and the step's environment, and the
contents of the inputs. Not in it: who the runner is, the machine, times, modes and owners of files.
"""

from __future__ import annotations

import glob
import os
import stat
from hashlib import sha256
from typing import TYPE_CHECKING

from safesh.errors import ConfigError
from safesh.plan.model import PlanSpec, StepSpec

if TYPE_CHECKING:
    from hashlib import _Hash

_VERSION = "safesh step 1"  # raise it when the same step may give another digest
_CHUNK = 1 << 18
_GONE = (FileNotFoundError, NotADirectoryError)


def fingerprint(plan: PlanSpec, step: StepSpec) -> str:
    """64 hexadecimal digits of sha256. Inputs are read now, so it is taken when the step's dependencies are done.

    A glob stands for what it finds, sorted; a folder for the names and contents of all below it, hidden ones included;
    a symlink for what it leads to. What is missing, and a glob that finds nothing, count as such. A device, socket or
    named pipe counts by its kind and is never opened. ConfigError names the step and the input that cannot be read.
    """
    digest = sha256()
    _add(digest, _VERSION, "command", *step.command)
    _add(digest, "cwd", step.cwd)
    env = {**plan.env, **step.env}
    _add(digest, "env", *(text for name in sorted(env) for text in (name, env[name])))
    for pattern in step.inputs:
        _add(digest, "input", pattern)
        try:
            for path in _found(pattern):
                _add_path(digest, path)
        except OSError as error:
            path = str(error.filename or pattern)
            path = path if len(path) <= 300 else f"{path[:150]}...{path[-100:]}"
            raise ConfigError(
                f"the input {path} cannot be read: {error.strerror or type(error).__name__}",
                place=f"step {step.id}",
                hint=f"look at it: ls -ld {path}",
            ) from None
    return digest.hexdigest()


def _found(pattern: str) -> list[str]:
    # A file whose own name looks like a pattern is meant itself.
    if not glob.has_magic(pattern) or os.path.lexists(pattern):
        return [pattern]
    return sorted(glob.glob(pattern, recursive=True))


def _add(digest: _Hash, *parts: str) -> None:
    """Each part with its length, and how many there are: no two lists of parts are the same bytes."""
    digest.update(b"%d:" % len(parts))
    for part in parts:
        data = os.fsencode(part)
        digest.update(b"%d:" % len(data) + data)


def _add_path(digest: _Hash, top: str) -> None:
    """The path and all below it, each folder before its contents; no recursion, for folders may be nested deeply."""
    todo: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(top, top, ())]
    while todo:
        # name: what the digest calls it; above: the folders on the way to it, for a symlink may lead back to one
        path, name, above = todo.pop()
        try:
            info = os.stat(path)
        except _GONE:
            _add(digest, "missing", name, os.readlink(path) if os.path.islink(path) else "")
            continue
        except OSError as error:
            error.filename = path
            raise
        if stat.S_ISREG(info.st_mode):
            _add_file(digest, path, name)
        elif not stat.S_ISDIR(info.st_mode):
            _add(digest, "special", name, str(stat.S_IFMT(info.st_mode)))
        elif (own := (info.st_dev, info.st_ino)) in above:
            _add(digest, "circle", name, str(above.index(own)))
        else:
            names = sorted(os.listdir(path))
            _add(digest, "folder", name, *names)
            todo += [(os.path.join(path, below), below, (*above, own)) for below in reversed(names)]


def _add_file(digest: _Hash, path: str, name: str) -> None:
    """The file's bytes as a digest of their own, so its end needs no length told before."""
    content = sha256()
    try:
        # O_NONBLOCK: it may have become a named pipe since we looked.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except _GONE:
        _add(digest, "missing", name, "")
        return
    try:
        while chunk := os.read(fd, _CHUNK):
            content.update(chunk)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
    _add(digest, "file", name, content.hexdigest())
