"""Where files lie, and the only ways they are opened: private, owned, never through a symlink.

``$SAFESH_HOME``, else ``$XDG_STATE_HOME/safesh``, else ``~/.local/state/safesh``; below it one
folder per project, 0700, its files 0600.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from safesh.errors import StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.model import TargetSpec

_NAME_LIMIT = 80  # a Unix socket's path ends in this name; sun_path holds 108 bytes (unix(7))


def state_home() -> str:
    """The folder of all projects, absolute; it need not exist."""
    home = os.environ.get("SAFESH_HOME")
    if not home:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        home = os.path.join(base, "safesh")
    return os.path.abspath(home)


def check_name(name: str, what: str) -> str:
    """``name`` itself when it can be a file's name in our folder; UsageError otherwise."""
    # isprintable is false for lone surrogates, so what is left can be encoded; a file's name is counted in bytes.
    good = name and name.isprintable() and len(name.encode()) <= _NAME_LIMIT and name[0] not in ".-"
    if not good or any(letter in "/\\\0" or letter.isspace() for letter in name):
        raise UsageError(
            f"{name!r} cannot name {what}",
            hint=f"use 1 to {_NAME_LIMIT} letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return name


def project_dir(project: str) -> str:
    """The project's folder, made when missing, checked to be ours and closed to others."""
    check_name(project, "a project")
    path = os.path.join(make_home(), project)
    try:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        info = os.lstat(path)
    except OSError as error:
        raise _cannot_make(error, path) from None
    _check_folder(path, info)
    return path


def make_home() -> str:
    """The folder of all projects, made when missing; StateError where somebody else could replace what is in it."""
    home = state_home()
    try:
        _check_way(home)
        os.makedirs(home, mode=0o700, exist_ok=True)
        link, info = os.lstat(home), os.stat(home)
    except OSError as error:
        raise _cannot_make(error, home) from None
    for owner in (link.st_uid, info.st_uid):
        if owner not in (0, os.geteuid()):
            raise _is_theirs(home, owner)
    return home


def _check_way(path: str) -> None:
    """Another user's symlink on the way would have us make folders and write where that user likes."""
    above = os.path.dirname(path)
    while above != path:
        try:
            info = os.lstat(above)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISLNK(info.st_mode) and info.st_uid not in (0, os.geteuid()):
                raise _is_theirs(above, info.st_uid)
        path, above = above, os.path.dirname(above)


def _cannot_make(error: OSError, path: str) -> StateError:
    return StateError(
        f"the state folder cannot be made: {error.strerror}",
        place=error.filename or path,
        hint="free the path, or set SAFESH_HOME to a folder of yours",
    )


def _is_theirs(path: str, owner: int) -> StateError:
    return StateError(
        f"belongs to user {owner}, not to you ({os.geteuid()})",
        place=path,
        hint="set SAFESH_HOME to a folder of yours",
    )


def _check_folder(path: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise StateError("is a symlink, which is not trusted", place=path, hint=f"remove it: rm {path}")
    if not stat.S_ISDIR(info.st_mode):
        raise StateError("is not a folder", place=path, hint="move it away, or set SAFESH_HOME")
    if info.st_uid != os.geteuid():
        raise _is_theirs(path, info.st_uid)
    if info.st_mode & 0o077:
        os.chmod(path, 0o700)


class InstancePaths:
    """The files of one instance (and of its targets) in the project's folder."""

    def __init__(self, folder: str, instance: str, lock_file: str = "", pid_file: str = "") -> None:
        self.folder = folder
        self.instance = instance
        base = os.path.join(folder, check_name(instance, "an instance"))
        self.lock = lock_file or base + ".lock"
        self.pid = pid_file or base + ".pid"
        self.record = base + ".json"
        self.socket = base + ".sock"
        self.events = os.path.join(folder, "events.jsonl")

    @classmethod
    def of(cls, spec: TargetSpec) -> InstancePaths:
        """The paths of the instance that ``spec`` runs in."""
        return cls(project_dir(spec.project), spec.instance, spec.lock_file, spec.pid_file)

    def log(self, target: str) -> str:
        return os.path.join(self.folder, check_name(target, "a target") + ".log")


def open_private(path: str, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a regular file that is ours: no symlink followed, not inherited, owner checked.

    StateError names the file when it is anything else; FileNotFoundError passes through.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_use(path, error) from None
    info = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(info.st_mode):
        problem = "is not a regular file"
    elif info.st_uid != os.geteuid():
        problem = f"belongs to user {info.st_uid}, not to you ({os.geteuid()}), so it is not trusted"
    if problem:
        os.close(fd)
        raise StateError(problem, place=path, hint=f"look at it, then remove it: rm {path}")
    return fd


def _cannot_use(path: str, error: OSError) -> StateError:
    if error.errno == errno.ELOOP:
        return StateError("is a symlink, which is not trusted", place=path, hint=f"remove it: rm {path}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError("no space left", place=path, hint="free some space, or set SAFESH_HOME elsewhere")
    return StateError(f"cannot be opened: {error.strerror}", place=path, hint=f"look at it: ls -ld {path}")


def read_private(path: str, limit: int = 4 * 1024 * 1024) -> str | None:
    """The text of one of our files (undecodable bytes replaced), None when there is none."""
    try:
        fd = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        chunks = []
        while limit > 0 and (chunk := os.read(fd, min(limit, 1 << 16))):
            chunks.append(chunk)
            limit -= len(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks).decode("utf-8", "replace")


def write_private(path: str, text: str) -> None:
    """Replace ``path`` atomically: readers see the old text or the new, also after a crash."""
    temporary = f"{path}.{os.getpid()}.tmp"
    data = text.encode()
    try:
        try:
            # A leftover of a crashed writer with our pid. In a folder open to all it may be somebody else's trap.
            if os.lstat(temporary).st_uid == os.geteuid():
                os.unlink(temporary)
            else:
                temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        except FileNotFoundError:
            pass
        fd = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileNotFoundError as error:
        raise StateError("its folder is gone", place=path, hint="start again, which makes it") from error
    except OSError as error:
        raise _cannot_use(path, error) from None
    try:
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        remove(temporary)
        raise _cannot_use(path, error) from None


def check_name_is_ours(path: str) -> None:
    """StateError where ``path``, in a folder that everybody can write, is another user's already: root could replace
    it, and would take it from its owner."""
    try:
        if not os.stat(os.path.dirname(path)).st_mode & stat.S_IWOTH:
            return
        owner = os.lstat(path).st_uid
    except OSError:
        return  # nothing there, or the write tells
    if owner != os.geteuid():
        raise StateError(
            f"belongs to user {owner}, not to you ({os.geteuid()})", place=path, hint="name a file in a folder of yours"
        )


def remove(path: str) -> None:
    """Unlink ``path``; it may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _cannot_use(path, error) from None


def set_aside(path: str, fd: int) -> None:
    """Rename the full file ``path``, which we have open as ``fd``, to ``path``.1, over the one before.

    Not where somebody else is at it or has done it: of two writers that find the same file full, the second would put
    the new one, a line long, in the old one's place.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the descriptor is closed
    except BlockingIOError:
        return
    if os.path.samestat(os.fstat(fd), os.lstat(path)):
        os.replace(path, path + ".1")
