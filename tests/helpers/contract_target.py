"""A tree whose members are asked for by name.

    contract_target.py [--main polite|stubborn|slow] [--exit CODE] MEMBER...

Members: child grandchild group daemon stubborn stopped zombie threads forker polite cleared cleared-orphan subgroup.
Once all are up the first line of output is ``{"main": {"pid", "start"}, "members": {NAME: {"pid", "start"}}}``; who is
asked and says so (polite, slow, forker) writes ``{"asked": NAME, "at": SECONDS}``, who leaves after that
``{"left": NAME, "at": SECONDS}``. With --exit main ends by itself with that code. Every member ends after 60 s.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any

SECONDS = 60.0


def start_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def say(**message: Any) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def limit() -> None:
    """An alarm is not inherited by a fork, so every member sets its own."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)


def report(fd: int, name: str) -> None:
    os.write(fd, f"{name} {os.getpid()} {start_of(os.getpid())}\n".encode())


def wait_for_ever() -> None:
    while True:
        signal.pause()


def leave_when_asked(name: str, delay: float = 0.0) -> None:
    """On TERM: say so, and go ``delay`` seconds later."""

    def asked(*_: object) -> None:
        say(asked=name, at=time.monotonic())
        time.sleep(delay)
        say(left=name, at=time.monotonic())
        os._exit(0)

    signal.signal(signal.SIGTERM, asked)


def fork_when_asked(generations: int) -> None:
    """On TERM: leave the rest to a child that does the same, and go on."""

    def asked(*_: object) -> None:
        if generations and os.fork() == 0:
            limit()
            fork_when_asked(generations - 1)
            wait_for_ever()

    signal.signal(signal.SIGTERM, asked)


def exec_without_environment(fd: int, name: str) -> None:
    """Go on as another program, so that the environment is gone for whoever looks."""
    os.set_inheritable(fd, True)
    os.execve(sys.executable, [sys.executable, "-I", "-S", os.path.abspath(__file__), "--bare", str(fd), name], {})


def end_leader(fd: int, name: str) -> None:
    """End the first thread alone; another goes on."""
    threading.Thread(target=time.sleep, args=(SECONDS,)).start()
    report(fd, name)
    number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
    ctypes.CDLL(None).syscall(number, 0)  # exit(2), not exit_group(2)


def make_subgroup(fd: int, name: str) -> None:
    """A cgroup below our own, and in it."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        own = next(line[3:].strip() for line in file if line.startswith("0::"))
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        mount = next(line.split()[4] for line in file if " - cgroup2 " in line)
    path = f"{mount}{own}/inner"
    os.mkdir(path)
    with open(f"{path}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write("0")
    report(fd, name)


def become(name: str, fd: int) -> None:
    limit()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if name in ("daemon", "cleared", "cleared-orphan", "grandchild"):
        if name in ("daemon", "cleared"):
            os.setsid()
        if os.fork():
            if name == "grandchild":
                wait_for_ever()
            os._exit(0)
        limit()
        if name.startswith("cleared"):
            exec_without_environment(fd, name)
    if name == "group":
        os.setpgid(0, 0)
    if name == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if name == "polite":
        leave_when_asked(name)
    if name == "forker":
        fork_when_asked(8)
    if name == "subgroup":
        make_subgroup(fd, name)
        wait_for_ever()
    if name == "threads":
        end_leader(fd, name)
    report(fd, name)
    if name == "zombie":
        os._exit(0)
    if name == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    wait_for_ever()


def build(names: list[str]) -> dict[str, dict[str, int]]:
    reader, writer = os.pipe()
    for name in names:
        if os.fork() == 0:
            try:
                os.close(reader)
                become(name, writer)
            finally:
                os._exit(70)
    told = b""
    until = time.monotonic() + 10
    while told.count(b"\n") < len(names):
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        chunk = os.read(reader, 4096) if ready else b""
        if not chunk:
            raise RuntimeError(f"not all of {names} came up: {told!r}")
        told += chunk
    os.close(reader)
    os.close(writer)
    lines = (line.split() for line in told.decode().splitlines())
    return {name: {"pid": int(pid), "start": int(start)} for name, pid, start in lines}


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--bare"]:
        limit()
        report(int(words[1]), words[2])
        os.close(int(words[1]))
        wait_for_ever()
    limit()
    kind, code = "", -1
    while words and words[0].startswith("--"):
        if words[0] == "--main":
            kind = words[1]
        else:
            code = int(words[1])
        del words[:2]
    members = build(words)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif kind:
        leave_when_asked("main", 0.4 if kind == "slow" else 0.0)
    say(main={"pid": os.getpid(), "start": start_of(os.getpid())}, members=members)
    if code >= 0:
        return code
    wait_for_ever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
