"""A program whose processes try to outlive it: ``escapees.py READY [deaf]``. For the escape test.

main      exits 0 at SIGTERM or SIGINT, at once, without a look at its children; deaf: ignores them
plain     a child that does nothing special
ignorer   a child that ignores SIGTERM
nested    a child of a child; ignores SIGTERM, SIGINT and SIGHUP (its parent is as plain as plain)
group     a child that leads its own process group
session   a child that leads its own session
daemon    a grandchild: forked twice, a session of its own, no environment, no descriptor open, in ``/``
forker    a child that forks another one when it is asked to end, and only then ends

Each is called ``esc-KIND`` (proc(5), comm), by which an observer tells them apart: a name survives fork(2), and the
environment, which some supervisors look at, does not tell. When all of them are up, main appends its pid to READY, so
READY has a line for every start. Each member ends by itself after SECONDS, and the forker forks HEIRS times at most.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable

KINDS = ("plain", "ignorer", "nested", "group", "session", "daemon", "forker")
PREFIX = "esc-"
SECONDS = 240
HEIRS = 20
_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def call(name: str) -> None:
    with open("/proc/self/comm", "w") as file:
        file.write(PREFIX + name)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)  # not inherited by fork(2)


def stay() -> None:
    while True:
        signal.pause()


def ignore(*numbers: int) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def be_plain() -> None:
    pass


def be_ignorer() -> None:
    ignore(signal.SIGTERM)


def be_nested() -> None:
    if os.fork():
        call("plain")
        stay()
    call("nested")
    ignore(*_ASKING)


def be_group() -> None:
    os.setpgid(0, 0)


def be_session() -> None:
    os.setsid()


def be_daemon(told: int) -> None:
    """Goes on as another program, so that the environment is gone from /proc too."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.set_inheritable(told, True)
    argv = [sys.executable, "-E", "-s", "-S", os.path.abspath(__file__), "--daemon", str(told)]
    os.execve(sys.executable, argv, {})


def be_forker() -> None:
    heirs = [HEIRS]

    def fork(*_: object) -> None:
        heirs[0] -= 1
        if heirs[0] < 0 or os.fork():
            os._exit(0)
        call("forker")

    for number in _ASKING:
        signal.signal(number, fork)


_BEINGS: dict[str, Callable[[], None]] = {
    "plain": be_plain,
    "ignorer": be_ignorer,
    "nested": be_nested,
    "group": be_group,
    "session": be_session,
    "forker": be_forker,
}


def member(kind: str, told: int) -> None:
    for number in _ASKING:
        signal.signal(number, signal.SIG_DFL)
    call(kind)
    if kind == "daemon":
        be_daemon(told)
    _BEINGS[kind]()
    os.write(told, b".")
    os.close(told)
    stay()


def main(ready: str, deaf: bool) -> None:
    call("main")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if deaf else lambda *_: os._exit(0))
    reader, writer = os.pipe()
    for kind in KINDS:
        if os.fork() == 0:
            try:
                os.close(reader)
                member(kind, writer)
            finally:
                os._exit(70)
    os.close(writer)
    told = 0
    limit = time.monotonic() + 30
    while told < len(KINDS):
        if not select.select([reader], [], [], max(0.0, limit - time.monotonic()))[0]:
            sys.exit("not all of them came up")
        told += len(os.read(reader, 4096))
    os.close(reader)
    file = os.open(ready, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{os.getpid()}\n".encode())
    os.close(file)
    stay()


if __name__ == "__main__":
    if sys.argv[1] == "--daemon":
        call("daemon")
        os.write(int(sys.argv[2]), b".")
        os.closerange(0, 256)
        stay()
    main(sys.argv[1], sys.argv[2:] == ["deaf"])
