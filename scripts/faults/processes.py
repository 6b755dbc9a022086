"""Who lives in our pid namespace: read from /proc, without a line of safesh's own code."""

from __future__ import annotations

import os
from typing import NamedTuple


class Process(NamedTuple):
    """One process. ``role``: supervisor, keeper, member (of a target), command (safesh's front end), hook or other."""

    pid: int
    ppid: int
    start: int  # clock ticks since boot, proc(5)
    state: str
    comm: str
    argv: tuple[str, ...]
    role: str
    instance: str
    target: str
    run: str

    @property
    def dead(self) -> bool:
        return self.state in "ZX"

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"  # the second: stopped under a tracer

    @property
    def key(self) -> tuple[int, int]:
        return (self.pid, self.start)

    def __str__(self) -> str:
        words = " ".join(self.argv)[:120] or f"[{self.comm}]"
        return f"{self.pid} (parent {self.ppid}, {self.state}, {self.role} {self.instance}/{self.target}): {words}"


def scan() -> dict[int, Process]:
    """Everybody, zombies too."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (one := look(int(name))) is not None:
            found[one.pid] = one
    for one in list(found.values()):
        # Between fork and exec a child of theirs looks like themselves: a probe, a hook, the target's own process.
        above = found.get(one.ppid)
        if above is not None and one.role in ("supervisor", "keeper") and one.role == above.role:
            found[one.pid] = one._replace(role="helper")
    return found


def look(pid: int) -> Process | None:
    """One process, None when there is none."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return None
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    comm = head.partition(b"(")[2].decode("utf-8", "replace")
    argv = tuple(_read(f"/proc/{pid}/cmdline").decode("utf-8", "replace").rstrip("\0").split("\0"))
    environ = _variables(_read(f"/proc/{pid}/environ"))
    target, instance = environ.get("FAULTS_TARGET", ""), environ.get("FAULTS_INSTANCE", "")
    role = "other"
    if comm == "safesh-keeper":
        role, instance = "keeper", argv[-1]
    elif comm == "safesh" or any(word.endswith("/cli/hold.py") for word in argv[:6]):
        # The portable backend gives no process a name; only a keeper stands in the root folder.
        role, instance = "keeper" if _cwd(pid) == "/" else "supervisor", argv[-1]
    elif any(word.endswith("/safesh/__main__.py") for word in argv):
        role = "command"
    elif environ.get("FAULTS_WORLD") == "elsewhere":
        role = "decoy"
    elif "SAFESH_EVENT" in environ:  # a notification's: it has its target's environment, and is not of the run
        role = "hook"
    elif target:
        role = "member"
    elif argv[0] == "sleep" and len(argv) == 2 and "." in argv[1]:
        role, target = "member", f"#{int(argv[1].rpartition('.')[2][-1:] or 0)}"
    return Process(
        pid, int(fields[1]), int(fields[19]), fields[0].decode(), comm, argv, role, instance, target,
        environ.get("SAFESH_RUN_ID", ""),
    )  # fmt: skip


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _variables(data: bytes) -> dict[str, str]:
    found = {}
    for line in data.decode("utf-8", "replace").split("\0"):
        name, equals, value = line.partition("=")
        if equals and name.startswith(("FAULTS_", "SAFESH_")):
            found[name] = value
    return found


def alive(key: tuple[int, int]) -> bool:
    one = look(key[0])
    return one is not None and one.start == key[1] and not one.dead


def traced_by(pid: int) -> int:
    """The pid of its tracer, 0 for none, -1 for a process that has gone."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"TracerPid:"):
            return int(line.split()[1])
    return -1


def holds(pid: int, path: str) -> bool:
    """Whether it has this very file open."""
    try:
        there = os.stat(path)
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                info = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if (info.st_dev, info.st_ino) == (there.st_dev, there.st_ino):
                return True
    except OSError:
        pass
    return False


def stuck(pid: int) -> str:
    """What it waits for, for a report on a hang."""
    told = []
    for name in ("cmdline", "wchan", "syscall", "stack"):
        text = _read(f"/proc/{pid}/{name}").decode("utf-8", "replace").replace("\0", " ").strip()
        told.append(f"{name}: {text[:600] or '-'}")
    return "; ".join(told)
