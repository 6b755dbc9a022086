"""A program that says ``ready PID`` and then the number of every signal it receives, one a line.

Run as a file. Everything is blocked and fetched, so nothing is lost, nothing acts on it and the order is the
kernel's. Options: ``--from`` adds the sender's pid to each line; ``--exit-on N`` exits N after the line;
``--child`` forks a second one first (it says ``child PID``, and ``child N`` for a signal).
"""

from __future__ import annotations

import os
import signal
import sys


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def main() -> None:
    words = sys.argv[1:]
    with_sender = "--from" in words
    last = int(words[words.index("--exit-on") + 1]) if "--exit-on" in words else 0
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    prefix = ""
    if "--child" in words:
        reading, writing = os.pipe()
        if os.fork() == 0:
            prefix = "child "
            say(f"child {os.getpid()}")
            os.close(reading)
            os.close(writing)
        else:
            os.close(writing)
            os.read(reading, 1)  # the child speaks first
    if not prefix:
        say(f"ready {os.getpid()}")
    while True:
        info = signal.sigwaitinfo(signal.valid_signals())
        say(f"{prefix}{info.si_signo}" + (f" from {info.si_pid}" if with_sender else ""))
        if info.si_signo == last:
            os._exit(last)


if __name__ == "__main__":
    main()
