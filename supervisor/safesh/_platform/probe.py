"""Facts about the system that only ``doctor`` asks for. Nothing here changes anything.

Everything answers on every platform: None, "" or nothing where the system does not tell.
"""

from __future__ import annotations

import os
import sys

from safesh._platform.cgroup import PREFIX, find_parent
from safesh._platform.linux import _read

IS_LINUX = sys.platform == "linux"
MOUNT = "mount -t proc proc /proc"
_NO_LIMIT = 1 << 60  # version 1 of cgroups says 2**63 less a page for "max"


def kernel() -> str:
    """``Linux 6.1.0``."""
    one = os.uname()
    return f"{one.sysname} {one.release}"


def parse_mounts(text: str) -> list[tuple[str, str, str, str]]:
    """(mount point, type, options of the file system, root in it) for every line of proc_pid_mountinfo(5)."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, more = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6 and len(more) >= 3:
            found.append((_plain(fields[4]), more[0], more[2], _plain(fields[3])))
    return found


def _plain(text: str) -> str:
    """A path whose blanks and backslashes are written in octal."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in rest)


def mounts() -> list[tuple[str, str, str, str]]:
    """See ``parse_mounts``; empty where nobody tells."""
    return parse_mounts(_read("/proc/self/mountinfo").decode("utf-8", "surrogateescape")) if IS_LINUX else []


def file_system(path: str, known: list[tuple[str, str, str, str]] | None = None) -> tuple[str, str]:
    """(type, mount point) of the file system that an existing path lies on; ("", "") where nobody tells."""
    path = os.path.realpath(path)
    best = ("", "")
    for point, kind, _options, _root in mounts() if known is None else known:
        # Of two mounts on one point the later hides the earlier.
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[1]):
            best = (kind, point)
    return best


def children_listed() -> bool | None:
    """Whether a process's children can be read from /proc (CONFIG_PROC_CHILDREN)."""
    return os.path.exists("/proc/thread-self/children") if IS_LINUX else None


def processes_visible() -> bool | None:
    """Whether /proc is there and shows this process."""
    return bool(_read("/proc/self/stat")) if IS_LINUX else None


def boot_time() -> float | None:
    """Wall time of the boot as the kernel counts it now (proc_stat(5), btime)."""
    for line in _read("/proc/stat").splitlines() if IS_LINUX else []:
        if line.startswith(b"btime "):
            return float(line.split()[1])
    return None


def tasks_of(uid: int) -> int | None:
    """How many threads a user has, which is what RLIMIT_NPROC counts (getrlimit(2)); None where nobody tells."""
    if not IS_LINUX:
        return None
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return total


def own_groups(controller: str) -> list[str]:
    """Folders of the control groups that hold us, the innermost first; either version of cgroups."""
    wanted = ""
    unified = False
    for line in _read("/proc/self/cgroup").decode("utf-8", "replace").splitlines() if IS_LINUX else []:
        number, names, path = [*line.split(":", 2), "", ""][:3]
        if controller in names.split(","):
            wanted, unified = path, False
            break
        if number == "0" and not names:
            wanted, unified = path, True
    if not wanted:
        return []
    for point, kind, options, root in mounts():
        fits = kind == "cgroup2" if unified else kind == "cgroup" and controller in options.split(",")
        if fits and (root == "/" or wanted == root or wanted.startswith(root + "/")):
            inside = wanted if root == "/" else wanted.removeprefix(root)
            folder = os.path.normpath(point + inside)
            found = [folder]
            while folder != point and folder != "/":
                folder = os.path.dirname(folder)
                found.append(folder)
            return [one for one in found if os.path.isdir(one)]
    return []


def ceilings(controller: str) -> list[tuple[str, int, int]]:
    """(control group, most, in use) for each group above us that sets a limit. controller: "pids" or "memory"."""
    files = {"pids": ("pids.max", "pids.current"), "memory": ("memory.max", "memory.current")}[controller]
    old = {"pids": files, "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}[controller]
    found = []
    for folder in own_groups(controller):
        for most, used in {files, old}:
            limit = _number(os.path.join(folder, most))
            if limit is not None and limit < _NO_LIMIT:
                found.append((folder, limit, _number(os.path.join(folder, used)) or 0))
    return found


def _number(path: str) -> int | None:
    word = _read(path).strip()
    return int(word) if word.isdigit() else None


def group_parent() -> tuple[str, str]:
    """(the folder where runs' control groups are made, ""), or ("", why there is none)."""
    return find_parent() if IS_LINUX else ("", "this system has no control groups")


def can_kill_groups(parent: str) -> bool | None:
    """Whether the kernel has cgroup.kill (5.14); None where none can be looked at: the outermost has no such file."""
    folders = [parent]
    try:
        folders += [os.path.join(parent, name) for name in os.listdir(parent)]
    except OSError:
        pass
    groups = [folder for folder in folders if os.path.exists(os.path.join(folder, "cgroup.freeze"))]
    if groups:
        return any(os.path.exists(os.path.join(folder, "cgroup.kill")) for folder in groups)
    return None


def controllers(parent: str) -> list[str]:
    """What limits a group made there could be given by the kernel."""
    return _read(os.path.join(parent, "cgroup.controllers")).decode().split()


def run_groups(parent: str) -> list[tuple[str, bool]]:
    """(folder, whether anybody is in it) of each control group of a run of ours, whoever's it is."""
    found = []
    for name in sorted(os.listdir(parent)) if parent else []:
        if name.startswith(PREFIX):
            path = os.path.join(parent, name)
            events = _read(os.path.join(path, "cgroup.events"))
            if events:  # gone meanwhile
                found.append((path, b"populated 1" in events))
    return found


def group_members(path: str) -> list[int]:
    """Pids in one control group and those below it."""
    from safesh._platform.cgroup import Group

    return Group(path).pids()
