"""A cgroup v2 group of our own (kernel's admin-guide/cgroup-v2.rst), where one can be made."""

from __future__ import annotations

import errno
import os
import select
import sys

from safesh._platform import linux
from safesh.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

PREFIX = "safesh-"
_SYS_CLONE3 = 435  # one number on every architecture, as for all system calls since Linux 5.1
_CLONE_INTO_CGROUP = 0x200000000  # linux/sched.h


def find_parent() -> tuple[str, str]:
    """(the folder of our own v2 group, ""), or ("", why there is none to build in)."""
    own = ""
    for line in linux._read("/proc/self/cgroup").decode("utf-8", "replace").splitlines():
        if line.startswith("0::"):
            own = line[3:]
    if not own:
        return "", "this process is in no cgroup v2 hierarchy"
    for line in linux._read("/proc/self/mountinfo").decode("utf-8", "replace").splitlines():
        left, dash, right = line.partition(" - ")
        if not dash or right.split(" ", 1)[0] != "cgroup2":
            continue
        fields = left.split(" ")
        root, mount = fields[3], fields[4].replace("\\040", " ")
        # A bind of a part of the hierarchy shows only what lies below its root.
        inside = own if root == "/" else own.removeprefix(root)
        if root != "/" and not own.startswith(root):
            continue
        path = os.path.normpath(mount + inside)
        if ".." in own or not os.path.isdir(path):
            return "", f"our cgroup {own} is not visible under {mount}"
        if not os.access(path, os.W_OK) or not os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
            return "", f"{path} is not writable for us"
        return path, ""
    return "", "no cgroup v2 file system is mounted"


class Group:
    """One cgroup, ours alone, and whatever its members made below it."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str) -> Group | None:
        """A new group under our own, or None where none can be made that kills and freezes (Linux 5.14)."""
        parent, _why = find_parent()
        if not parent:
            return None
        path = os.path.join(parent, PREFIX + name)
        try:
            os.mkdir(path, 0o755)
        except OSError:
            return None
        group = cls(path)
        if not os.path.exists(os.path.join(path, "cgroup.kill")):
            group.remove()
            return None
        return group

    def fork(self) -> int:
        """fork(2) whose child begins its life in the group: CLONE_INTO_CGROUP of clone3(2), Linux 5.7.

        A process moved in later, as :meth:`join` does, waits until every processor has passed a grace period of RCU:
        10 to 20 ms, as much as a whole Python takes to start. Where clone3 is refused (seccomp) or
        ``_ctypes`` is missing, that is what is done; a child that cannot join lives outside of the group.

        For single-threaded callers only, and for a child that soon execs: Python's own at-fork handlers do not run.
        """
        pid = -1
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                words = (_CLONE_INTO_CGROUP, 0, 0, 0, _signal.SIGCHLD, 0, 0, 0, 0, 0, folder)
                arguments = b"".join(word.to_bytes(8, sys.byteorder) for word in words)
                pid = linux._call("syscall", _SYS_CLONE3, arguments, len(arguments))
            finally:
                os.close(folder)
        except (ImportError, AttributeError, TypeError, OSError):
            pass
        if pid >= 0:
            return pid
        pid = os.fork()
        if pid == 0:
            try:
                self.join()
            except OSError:
                pass
        return pid

    def join(self) -> None:
        """Move the calling process in; call it between fork and exec."""
        self._write(self.path, "cgroup.procs", b"0")

    def _write(self, folder: str, name: str, data: bytes) -> None:
        fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def _folders(self) -> list[str]:
        """This group and those below it, the deepest first."""
        return [folder for folder, _dirs, _files in os.walk(self.path, topdown=False)]

    def pids(self) -> list[int]:
        """Members, zombies not counted."""
        found: list[int] = []
        for folder in self._folders():
            found += (int(word) for word in linux._read(os.path.join(folder, "cgroup.procs")).split() if word != b"0")
        return found

    def populated(self) -> bool:
        return b"populated 1" in linux._read(os.path.join(self.path, "cgroup.events"))

    def oom_kills(self) -> int:
        """The ``oom_kill`` line of memory.events; 0 where the memory controller is not enabled."""
        for line in linux._read(os.path.join(self.path, "memory.events")).splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def ran_out(self) -> bool:
        """Whether a kill was for this group's own ``memory.max``, not for a limit above it or the machine's end."""
        events = linux._read(os.path.join(self.path, "memory.events")).splitlines()
        return any(line.startswith(b"oom ") and line != b"oom 0" for line in events)

    def set_ceiling(self, name: str, value: int) -> bool:
        """Write an interface file such as ``memory.max``; False where its controller is not enabled for the group."""
        try:
            self._write(self.path, name, b"%d" % value)
        except OSError:
            return False
        return True

    def ceiling(self, name: str) -> int | None:
        """What stands in such a file; None for ``max``, and where there is none."""
        text = linux._read(os.path.join(self.path, name)).strip()
        return int(text) if text.isdigit() else None

    def cpu_seconds(self) -> float | None:
        """User and system time of all who are or were in the group (cpu.stat, there without any controller)."""
        for line in linux._read(os.path.join(self.path, "cpu.stat")).splitlines():
            if line.startswith(b"usage_usec "):
                return int(line.split()[1]) / 1e6
        return None

    def cpu_times(self) -> tuple[float, float] | None:
        """(user, system) seconds of the same."""
        told = dict(line.split() for line in linux._read(os.path.join(self.path, "cpu.stat")).splitlines())
        if b"user_usec" not in told or b"system_usec" not in told:
            return None
        return int(told[b"user_usec"]) / 1e6, int(told[b"system_usec"]) / 1e6

    def memory_bytes(self) -> int | None:
        """What the group holds, page cache left out: the kernel takes that back by itself. None without controller."""
        current = self.ceiling("memory.current")
        if current is None:
            return None
        held = {}
        for line in linux._read(os.path.join(self.path, "memory.stat")).splitlines():
            name, _, number = line.partition(b" ")
            if name in (b"file", b"shmem"):  # the first includes the second
                held[name] = int(number)
        return max(0, current - held.get(b"file", 0) + held.get(b"shmem", 0))

    def freeze(self, timeout: float) -> bool:
        """Stop every member, new ones too; True once the kernel says all are (within ``timeout`` seconds), and where
        the group is gone."""
        try:
            self._write(self.path, "cgroup.freeze", b"1")
            fd = os.open(os.path.join(self.path, "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            watch = select.poll()
            watch.register(fd, select.POLLPRI)  # "a file modified event is generated on state change"
            deadline = monotonic() + timeout
            while b"frozen 1" not in os.pread(fd, 4096, 0):
                left = deadline - monotonic()
                if left <= 0 or not watch.poll(left * 1000):
                    return b"frozen 1" in os.pread(fd, 4096, 0)
            return True
        except OSError as error:
            if error.errno != errno.ENODEV:  # removed under us, by its run's keeper: nobody is in it
                raise
            return True
        finally:
            os.close(fd)

    def thaw(self) -> None:
        try:
            self._write(self.path, "cgroup.freeze", b"0")
        except OSError:
            pass

    def kill(self) -> bool:
        """SIGKILL to every member at once, safe against forks (cgroup.kill)."""
        try:
            self._write(self.path, "cgroup.kill", b"1")
        except OSError:
            return False
        return True

    def remove(self) -> bool:
        """Remove the folders; False while something is left in them."""
        # Where no folder can be listed (no descriptor left), this one at least can be removed.
        return all([_remove(folder) for folder in self._folders() or [self.path]])


def _remove(folder: str, *, again: bool = True) -> bool:
    """Remove a group; False while something is left in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # A keeper that was killed with the rest of the tree has left its run's group inside ours.
        try:
            inner = [one.path for one in os.scandir(folder) if one.is_dir()] if again else []
        except FileNotFoundError:  # somebody else's removal was quicker
            return True
        return bool(inner) and all([_remove(path) for path in inner]) and _remove(folder, again=False)
    return True
