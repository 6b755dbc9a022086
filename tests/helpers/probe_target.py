"""A target that shows readiness and health as told: ``probe_target.py [--after S] [--fork] STEP...``.

Steps, in order: ``say:TEXT`` prints a line; ``notify:TEXT`` (``|`` separates lines) sends it to $NOTIFY_SOCKET with
PyPI's sdnotify; ``fork-notify:TEXT`` does it from a grandchild that stays; ``file:PATH`` touches a file;
``listen:PORT`` listens; ``wait:SECONDS``; ``wait-file:PATH``; ``exit:CODE``; ``beat:PATH`` touches it ten times a
second from now on; ``watchdog`` says WATCHDOG=1 five times a second until the file ``hang`` is there; ``fds:TEXT``
sends TEXT with descriptors and waits until the other side has closed them. Then it waits for its end.
"""

from __future__ import annotations

import array
import os
import socket
import sys
import threading
import time
from pathlib import Path

_keep: list[object] = []


def notify(text: str) -> None:
    import sdnotify

    sdnotify.SystemdNotifier(debug=True).notify(text.replace("|", "\n"))


def address() -> str:
    name = os.environ["NOTIFY_SOCKET"]
    return "\0" + name[1:] if name.startswith("@") else name


def send_with_descriptors(text: str) -> None:
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing] * 8))
        out.sendmsg([text.encode()], [rights], 0, address())
    os.close(writing)
    os.read(reading, 1)  # the end of the file, once nobody has the other end any more
    os.close(reading)
    print("descriptors closed", flush=True)


def every(seconds: float, call: object, until: str = "") -> None:
    def run() -> None:
        while not (until and os.path.exists(until)):
            call()  # type: ignore[operator]
            time.sleep(seconds)

    threading.Thread(target=run, daemon=True).start()


def step(what: str) -> None:
    name, _, text = what.partition(":")
    if name == "say":
        print(text, flush=True)
    elif name == "notify":
        notify(text)
    elif name == "fork-notify":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                notify(text)
                time.sleep(300)
            os._exit(0)
    elif name == "file":
        Path(text).touch()
    elif name == "listen":
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(text)))
        server.listen()
        _keep.append(server)
    elif name == "wait":
        time.sleep(float(text))
    elif name == "wait-file":
        while not os.path.exists(text):
            time.sleep(0.02)
    elif name == "beat":
        every(0.1, Path(text).touch, "hang")
    elif name == "watchdog":
        every(0.2, lambda: notify("WATCHDOG=1"), "hang")
    elif name == "fds":
        send_with_descriptors(text)
    elif name == "exit":
        sys.stdout.flush()
        os._exit(int(text))
    else:
        raise SystemExit(f"unknown step {what!r}")


if __name__ == "__main__":
    for word in sys.argv[1:]:
        step(word)
    while True:
        time.sleep(3600)
