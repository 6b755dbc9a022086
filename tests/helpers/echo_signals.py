"""Prints ``ready (pid)``, then the name of every signal it gets, one a line; for tests of forwarding.

    echo_signals.py [--exit-on SIGTERM[:CODE]] [--ignore SIGHUP] [--block SIGUSR1] [--child] [--code N] [--seconds 60]

A real-time signal shows as ``SIGRTMIN+n``; SIGTSTP, SIGTTIN and SIGTTOU are caught, so they do not stop it.
``quit`` or the end of standard input ends it with --code (default 0; ``--stdin ignore`` to not read it), as do
--seconds. ``--child`` keeps a child of the same kind whose lines start with ``child ``; it ends with its parent.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time

UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)


def name_of(number: int) -> str:
    return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number >= signal.SIGRTMIN else signal.Signals(number).name


def number_of(text: str) -> int:
    if text.isdigit():
        return int(text)
    base, _, offset = text.upper().partition("+")
    return int(signal.Signals[base if base.startswith("SIG") else "SIG" + base]) + int(offset or 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Echo signals.")
    parser.add_argument("--exit-on", action="append", default=[], metavar="SIG[:CODE]")
    parser.add_argument("--ignore", action="append", default=[], metavar="SIG", type=number_of)
    parser.add_argument("--block", action="append", default=[], metavar="SIG", type=number_of)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stdin", choices=("read", "ignore"), default="read")
    parser.add_argument("--prefix", default="")
    options = parser.parse_args()

    ends = {}
    for item in options.exit_on:
        name, _, code = item.partition(":")
        ends[number_of(name)] = int(code or 0)

    def say(text: str) -> None:
        os.write(1, f"{options.prefix}{text}\n".encode())

    # The handlers' numbers come back through the wakeup descriptor in the order of arrival, one byte each.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in map(int, signal.valid_signals()):
        if number in options.ignore:
            signal.signal(number, signal.SIG_IGN)
        elif number not in UNCATCHABLE:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, options.block)

    if options.child:
        child_end, _our_end = os.pipe()  # open as long as we live
        pid = os.fork()
        if pid == 0:
            os.dup2(child_end, 0)
            argv = [sys.executable, os.path.abspath(__file__), "--prefix", "child ", "--seconds", str(options.seconds)]
            os.execv(sys.executable, argv)
        os.close(child_end)

    say(f"ready ({os.getpid()})")
    deadline = time.monotonic() + options.seconds
    watched = [reader] if options.stdin == "ignore" else [reader, 0]
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], left)
        if reader in ready:
            for number in os.read(reader, 4096):
                say(name_of(number))
                if number in ends:
                    return ends[number]
        if 0 in ready:
            text = os.read(0, 4096)
            if not text or b"quit" in text:
                return int(options.code)
    return 99


if __name__ == "__main__":
    sys.exit(main())
