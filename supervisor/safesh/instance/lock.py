"""The instance's lock: held for life, never unlinked, and it says who holds it.

The protocol is filelock's on Unix: flock(2) on a file that stays (unlinking it would split
waiters over two inodes), so programs that use that library on the same path exclude us and are excluded. The library
itself is not imported here: that would cost a start more than everything else it does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from safesh import _platform, wire
from safesh.clock import monotonic, sleep, wall
from safesh.errors import StateError
from safesh.paths import open_private, read_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    from safesh.model import TargetSpec

_HELD = (errno.EAGAIN, errno.EACCES)
_LONGEST_COMMAND = 2000


class Lock:
    """A held lock. It lives as long as any process has the descriptor open (flock(2))."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def describe(self, spec: TargetSpec) -> None:
        """Write into the file who holds it: this process. A long command line is cut: it is for people."""
        line = wire.dumps({**own_identity(), "target": spec.name, "command": _cut(spec.command), "since": wall()})
        self._write(line + "\n")

    def _write(self, text: str) -> None:
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, text.encode(), 0)
        except OSError:
            pass  # a full disk: the lock itself needs no byte, only its explanation does

    def release(self) -> None:
        """Empty the explanation, then let go; other holders of the descriptor keep the lock."""
        self._write("")
        fd, self.fd = self.fd, -1
        os.close(fd)


def _cut(command: list[str]) -> list[str]:
    """The words up to ``_LONGEST_COMMAND`` characters, so that a reader gets the whole line."""
    found: list[str] = []
    room = _LONGEST_COMMAND
    for word in command:
        if len(word) > room:
            return [*found, word[:room] + "..."]
        found.append(word)
        room -= len(word) + 1
    return found


def own_identity() -> dict[str, Any]:
    """This process's identity as plain data."""
    pid = os.getpid()
    return {"pid": pid, "start": _platform.start_time(pid) or 0, "boot": _platform.boot_id()}


def is_identity(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is an identity in form (``model.Identity``); what a damaged file says need not be one."""
    if not isinstance(value, dict):
        return False
    pid, start = value.get("pid"), value.get("start")
    if type(pid) is not int or type(start) is not int:  # True is an int too, and no pid
        return False
    return 0 < pid < 1 << 31 and 0 <= start < 1 << 63 and isinstance(value.get("boot"), str)


def is_alive(identity: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether the process of a stored identity lives (zombies do not). False for malformed ones."""
    if not is_identity(identity):
        return False
    if identity.get("boot") != _platform.boot_id():
        return False
    info = _platform.info(identity["pid"])
    return info is not None and info.start == identity.get("start") and not info.dead


def is_elsewhere(identity: dict[str, Any] | None) -> bool:
    """Whether an identity was taken on this boot but in another pid namespace (a container)."""
    if not identity or not isinstance(identity.get("boot"), str):
        return False
    own, other = _platform.boot_id(), str(identity["boot"])
    return own != other and own.partition("/")[0] == other.partition("/")[0]


def try_acquire(path: str) -> Lock | None:
    """The lock, or None when somebody holds it. StateError when the file cannot be used."""
    shared = _check_folder(path)
    while True:
        try:
            fd = open_private(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            raise StateError(
                "its folder does not exist", place=path, hint=f"make it: mkdir -p {os.path.dirname(path)}"
            ) from None
        try:
            if shared and os.fstat(fd).st_nlink > 1:
                # Where others may link to our files (proc_sys_fs(5), protected_hardlinks): we write into it.
                os.close(fd)
                raise StateError("is a second name of another file", place=path, hint=f"look at it: ls -li {path}")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have unlinked the file between our open and our lock: that inode guards no name.
            here, there = os.fstat(fd), os.stat(path, follow_symlinks=False)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return Lock(path, fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(fd)
            if error.errno in _HELD:
                return None
            raise StateError(
                f"cannot be locked: {error.strerror}", place=path, hint="set SAFESH_HOME to a local file system"
            ) from None
        os.close(fd)


def renew(lock: Lock) -> Lock | None:
    """The same lock while its file is there, else one on the file that is in its place now; None when another holds it.

    A supervisor asks between two runs: somebody who has removed the file, or the whole folder, and started again may
    hold an instance beside ours. StateError when there is no file to be locked.
    """
    try:
        if os.path.samestat(os.fstat(lock.fd), os.lstat(lock.path)):
            return lock
    except FileNotFoundError:
        pass
    other = try_acquire(lock.path)
    if other is not None:
        lock.release()
    return other


def _check_folder(path: str) -> bool:
    """Whoever may replace the file could let a second instance in; StateError where others may.

    Whether everybody may make files there.
    """
    try:
        info = os.stat(os.path.dirname(path))
    except OSError:
        return False  # the open tells
    open_to_all = info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX
    if info.st_uid not in (0, os.geteuid()) or open_to_all:
        raise StateError(
            "lies in a folder where others could replace it, so it guards nothing",
            place=path,
            hint="name a lock_file in a folder of yours, or leave it out",
        )
    return bool(info.st_mode & stat.S_IWOTH)


def acquire(path: str, patience: float) -> tuple[Lock | None, dict[str, Any] | None]:
    """(the lock, None), or (None, its living holder as far as it is known).

    Contention with a holder that is known to live is final at once. Otherwise the holder is just
    starting, just ending, or a reader probing for microseconds: that is waited out for ``patience`` seconds.
    """
    deadline = monotonic() + patience
    wait = 0.001
    while True:
        lock = try_acquire(path)
        if lock is not None:
            return lock, None
        holder = read_holder(path)
        if is_alive(holder) or is_elsewhere(holder) or monotonic() >= deadline:
            return None, holder
        sleep(wait)
        wait = min(wait * 1.5, 0.05)


def read_holder(path: str) -> dict[str, Any] | None:
    """What the lock file says about its holder; None when it says nothing readable."""
    try:
        text = read_private(path, 1 << 16)
        value = wire.loads(text) if text else None
    except ValueError:
        return None
    return _checked(value)


def _checked(value: Any) -> dict[str, Any] | None:
    """The parts of a holder's line that are what they should be; None without an identity."""
    if not is_identity(value):
        return None
    found = {key: value[key] for key in ("pid", "start", "boot")}
    if isinstance(value.get("target"), str):
        found["target"] = value["target"]
    command = value.get("command")
    if isinstance(command, list) and all(isinstance(word, str) for word in command):
        found["command"] = command
    since = value.get("since")
    if isinstance(since, (int, float)) and 0 <= since < 1e11:  # a clock's reading, and no NaN
        found["since"] = float(since)
    return found


def is_held(path: str) -> bool:
    """Whether somebody holds the lock now. Asks with a shared lock for an instant, which starters wait out."""
    try:
        fd = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        raise StateError(f"cannot be asked: {error.strerror}", place=path) from None
    finally:
        os.close(fd)
    return False
