"""A process tree whose members try to get away; the main process alone cooperates.

    escape_tree.py [--members ignorer,daemon,group,forker] [--seconds 120] [--hop 0.01] [--chains 2]

main     exits 0 on SIGTERM, at once, without a look at its children
ignorer  a child that ignores SIGTERM, SIGINT and SIGHUP
daemon   a grandchild: forked twice, its own session, no environment, no stdio of ours, in ``/``
group    a child that leads its own process group
forker   a child whose descendants fork and exit without end (``chains`` of them, one hop in ``hop``
         seconds), each chain also forking sleepers, ten at most, when SIGTERM, SIGINT or SIGHUP reaches it

Once all are up it prints one line of JSON: ``{"main": {"pid", "start"}, "members": {NAME: {"pid", "start"}}}``
(the forker's pid is the first of its chain and gone soon). Every member ends by itself after ``seconds``
(alarm(2)), so a failed test leaves nothing for ever. Runs only inside a test's own pid namespace.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time

import nsguard  # type: ignore[import-not-found]  # beside this file

MEMBERS = ("ignorer", "daemon", "group", "forker")
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SLEEPERS = 10  # a chain's


def start_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def end_at(deadline: float) -> None:
    """An alarm is not inherited by a fork, so every member sets its own."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.monotonic()))


def report(fd: int, name: str) -> None:
    """Tell main that this member is as it should be. Short writes to a pipe are whole (pipe(7))."""
    os.write(fd, f"{name} {os.getpid()} {start_of(os.getpid())}\n".encode())
    os.close(fd)


def wait_for_ever() -> None:
    while True:
        signal.pause()


def be_ignorer(fd: int, deadline: float) -> None:
    end_at(deadline)
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    report(fd, "ignorer")
    wait_for_ever()


def be_group(fd: int, deadline: float) -> None:
    end_at(deadline)
    os.setpgid(0, 0)
    report(fd, "group")
    wait_for_ever()


def be_daemon(fd: int, deadline: float) -> None:
    """In the child: fork again and go on as another program, so the environment is really gone."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.set_inheritable(fd, True)
    left = deadline - time.monotonic()
    argv = [sys.executable, "-E", "-s", "-S", os.path.abspath(__file__), "--daemon", str(fd), str(left)]
    os.execve(sys.executable, argv, {})


def be_forker(fd: int, deadline: float, hop: float, chains: int) -> None:
    asked = [0]

    def record(*_: object) -> None:
        asked[0] += 1

    for number in ASKING:
        signal.signal(number, record)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end_at(deadline)
    report(fd, "forker")
    for _ in range(chains - 1):
        if os.fork() == 0:
            end_at(deadline)
            break
    sleepers = SLEEPERS
    while time.monotonic() < deadline:
        time.sleep(hop)
        if asked[0] and sleepers:
            asked[0] = 0
            sleepers -= 1
            if os.fork() == 0:
                be_sleeper(deadline)
        if os.fork():
            os._exit(0)
        end_at(deadline)
    os._exit(0)


def be_sleeper(deadline: float) -> None:
    end_at(deadline)
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    wait_for_ever()


def build(options: argparse.Namespace, deadline: float) -> dict[str, dict[str, int]]:
    """Fork the members and wait until each has told that it is up."""
    reader, writer = os.pipe()
    for name in options.members:
        if os.fork() == 0:
            try:
                os.close(reader)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if name == "forker":
                    be_forker(writer, deadline, options.hop, options.chains)
                else:
                    {"ignorer": be_ignorer, "daemon": be_daemon, "group": be_group}[name](writer, deadline)
            finally:
                os._exit(70)
    os.close(writer)
    told = b""
    limit = time.monotonic() + 10
    while told.count(b"\n") < len(options.members):
        ready, _, _ = select.select([reader], [], [], max(0.0, limit - time.monotonic()))
        chunk = os.read(reader, 4096) if ready else b""
        if not chunk:
            raise RuntimeError(f"not all of {options.members} came up: {told!r}")
        told += chunk
    os.close(reader)
    lines = (line.split() for line in told.decode().splitlines())
    return {name: {"pid": int(pid), "start": int(start)} for name, pid, start in lines}


def main() -> int:
    if sys.argv[1:2] == ["--daemon"]:  # without an environment, so without a word on the namespace
        end_at(time.monotonic() + float(sys.argv[3]))
        report(int(sys.argv[2]), "daemon")
        wait_for_ever()
    nsguard.require_pidns()
    parser = argparse.ArgumentParser(description="A tree that tries to get away.")
    parser.add_argument("--members", type=lambda text: text.split(","), default=list(MEMBERS))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--hop", type=float, default=0.01)
    parser.add_argument("--chains", type=int, default=2)
    options = parser.parse_args()
    if unknown := set(options.members) - set(MEMBERS):
        parser.error(f"--members: no such member: {' '.join(sorted(unknown))}")
    if not 1 <= options.chains <= 4 or options.hop < 0.001:
        parser.error("use 1 to 4 --chains and a --hop of 0.001 s or more")  # at most about 50 processes

    deadline = time.monotonic() + options.seconds
    end_at(deadline)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    members = build(options, deadline)
    ready = {"main": {"pid": os.getpid(), "start": start_of(os.getpid())}, "members": members}
    os.write(1, json.dumps(ready).encode() + b"\n")
    wait_for_ever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
