"""Where missions keep their files: below ``<state home>/.missions``, private like all of ours.

Whatever is used is held by a lock of the kernel's, so what a killed program left behind is told from what is in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from typing import Self

from safesh import paths
from safesh.clock import monotonic
from safesh.errors import StateError

NAME = ".missions"  # no project's name begins with a dot
_PAUSE = 0.05  # seconds between two tries for a lock that somebody has
_TEMPORARY = "temporary"  # in a run's folder: the name of its folder below the system's temporary one
_TEMPORARY_NAME = re.compile(r"safesh-[0-9a-f]{12}")


def folder(*names: str) -> str:
    """A folder of ours, made when missing. StateError when it cannot be made, or is not ours alone."""
    path = os.path.join(paths.make_home(), NAME)
    try:
        _make(path)
        for name in names:
            path = os.path.join(path, name)
            _make(path)
    except OSError as error:
        raise StateError(
            f"cannot be made: {error.strerror}",
            place=path,
            hint="free the path, or set SAFESH_HOME to a folder of yours",
        ) from None
    return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise StateError("is no folder of yours, so it is not trusted", place=path, hint=f"look at it: ls -ld {path}")
    if info.st_mode & 0o077:
        os.chmod(path, 0o700)


class Held:
    """A lock that we have, until ``release`` or our end."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self, *, forget: bool = False) -> None:
        """forget: remove the file too; only for one that we have for ourselves."""
        if self._fd >= 0:
            if forget:
                paths.remove(self.path)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


def try_hold(path: str, *, shared: bool = False) -> Held | None:
    """The lock of this name, None while somebody has it. StateError when the file cannot be used."""
    while True:
        try:
            fd = paths.open_private(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            raise StateError("its folder is gone", place=path, hint="try again, which makes it") from None
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            here, there = os.fstat(fd), os.lstat(path)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return Held(path, fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass  # removed between our open and our lock: that file guards no name
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def hold(path: str, patience: float, stop: Callable[[], None], *, shared: bool = False) -> Held | None:
    """The lock as soon as nobody else has it, None after ``patience`` seconds. stop: called at each try; may raise."""
    deadline = monotonic() + patience
    while (held := try_hold(path, shared=shared)) is None:
        stop()
        if monotonic() >= deadline:
            return None
        time.sleep(_PAUSE)
    return held


def write(path: str, data: bytes) -> None:
    """A new private file. StateError when there is no room for it."""
    try:
        fd = paths.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as error:
        raise StateError(f"cannot be written: {error.strerror}", place=path, hint="free some space") from None


class RunFolder:
    """A folder for one run, removed at its end, by ``sweep`` at the latest."""

    def __init__(self, name: str) -> None:
        """Make one. name: what it is for; a random part is added."""
        runs = folder("runs")
        self.path = os.path.join(runs, f"{name}-{secrets.token_hex(6)}")
        held = try_hold(self.path + ".lock")  # first the lock: a folder without one is nobody's
        assert held is not None, "nobody else knows the name"
        self._held = held
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            held.release(forget=True)
            raise StateError(f"cannot be made: {error.strerror}", place=self.path, hint="free some space") from None

    def file(self, name: str, data: bytes) -> str:
        path = os.path.join(self.path, name)
        write(path, data)
        return path

    def temporary(self) -> str:
        """A private folder with a short name (a socket's path has 108 bytes, unix(7)), removed with this one."""
        name = os.path.join(tempfile.gettempdir(), f"safesh-{secrets.token_hex(6)}")
        self.file(_TEMPORARY, name.encode())  # told before it is there, so that it is never forgotten
        os.mkdir(name, 0o700)
        return name

    def close(self) -> None:
        _remove_run(self.path)
        self._held.release(forget=True)


def sweep() -> int:
    """Remove the folders of runs whose program was killed; how many."""
    runs = folder("runs")
    count = 0
    for entry in os.listdir(runs):
        if not entry.endswith(".lock"):
            continue
        held = try_hold(os.path.join(runs, entry))
        if held is not None:
            _remove_run(os.path.join(runs, entry.removesuffix(".lock")))
            held.release(forget=True)
            count += 1
    return count


def _remove_run(path: str) -> None:
    temporary = paths.read_private(os.path.join(path, _TEMPORARY))
    # Half a name, as a full disk or a crash leaves it, may be that of a folder that is not ours.
    if temporary and os.path.isabs(temporary) and _TEMPORARY_NAME.fullmatch(os.path.basename(temporary)):
        remove_tree(temporary)
    remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a folder of ours with all that is in it; what cannot be removed stays."""
    try:
        if os.lstat(path).st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)
    except FileNotFoundError:
        pass
