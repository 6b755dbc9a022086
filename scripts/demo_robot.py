#!/usr/bin/env python3
"""A demo robot: something worth supervising, and able to misbehave on purpose.

A control loop drives a cart to changing goals, two worker children ("vision" and "planner") live beside
it, ``/health`` answers on loopback and a heartbeat file moves. Standard library only.

Signals: SIGTERM and SIGINT end it cleanly ("bye"), SIGHUP reloads, SIGUSR1 prints a status line.
Children that are made to outlive the robot carry a lifetime, so a demo leaves nothing for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import socket
    import subprocess

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
WORKERS = ("vision", "planner")
LEAK_CEILING = 1 << 30  # bytes; a demo must not bring its machine down
HOP_SECONDS = 0.05
HOP_WIDTH = 16  # at most so many hoppers live at once


def duration(text: str) -> float:
    """Seconds from ``2``, ``2s``, ``500ms``, ``1m``, ``1h``."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    if unit not in DURATIONS or float(number) < 0:
        raise ValueError(text)
    return float(number) * DURATIONS[unit]


def size(text: str) -> int:
    """Bytes from ``1048576``, ``10M``, ``1G`` (powers of 1024)."""
    units = {"K": 10, "M": 20, "G": 30}
    letter = text[-1:].upper()
    return int(float(text[:-1]) * (1 << units[letter])) if letter in units else int(text)


def ending(text: str) -> int:
    """How to crash: an exit code as it is, a signal (``SIGSEGV``, ``KILL``) as a negative number."""
    if text.isdigit() and int(text) < 256:
        return int(text)
    name = text.upper()
    return -int(signal.Signals[name if name.startswith("SIG") else "SIG" + name])


# --- the children -----------------------------------------------------------------------------


def run_worker(name: str) -> int:
    """A worker: some arithmetic ten times a second until its standard input, the robot's lifeline, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the robot ends us in order
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    picture = 1.0
    while True:
        ready, _, _ = select.select([0], [], [], 0.1)
        if ready and not os.read(0, 4096):
            return 0  # the robot is gone, however it went
        for _ in range(100):
            picture = (picture * 1.1) % 7.0


def run_escapee(lifetime: float) -> int:
    """What a daemonised grandchild does: nothing, for ``lifetime`` seconds."""
    os.chdir("/")
    time.sleep(lifetime)
    return 0


def run_hopper(lifetime: float) -> int:
    """A process that is never where it was seen: it forks and exits all the time, and splits on SIGTERM.

    Bounded: at most HOP_WIDTH at once, one hop in HOP_SECONDS each, all over after ``lifetime`` seconds.
    """
    deadline = time.monotonic() + lifetime
    asked = [0]

    def record(*_: object) -> None:
        asked[0] += 1

    signal.signal(signal.SIGTERM, record)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    width = HOP_WIDTH
    while time.monotonic() < deadline:
        time.sleep(HOP_SECONDS)
        if asked[0] and width > 1:
            asked[0] = 0
            half = width // 2
            width = half if os.fork() == 0 else width - half
        if os.fork():
            os._exit(0)
    return 0


def daemonize_grandchild(lifetime: float) -> int:
    """Double fork, new session, no environment, no stdio of ours; the grandchild's pid."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.write(writer, str(os.getpid()).encode())
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                argv = [sys.executable, os.path.abspath(__file__), "--escapee", str(lifetime)]
                os.execve(sys.executable, argv, {})
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        return int(pipe.read())


# --- the robot --------------------------------------------------------------------------------


class Health:
    """The HTTP endpoint, served from the robot's own loop: a robot that hangs does not answer."""

    LINGER = 5.0  # seconds a client may take for its request
    MOST = 32  # connections at once

    def __init__(self, port: int) -> None:
        import socket

        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(("127.0.0.1", port))
            self.socket.listen(16)
        except OSError:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self._clients: dict[int, tuple[socket.socket, bytearray, float]] = {}

    def descriptors(self) -> list[int]:
        return [self.socket.fileno(), *self._clients]

    def serve(self, fd: int, now: float, status: dict[str, object]) -> None:
        """Act on a readable descriptor of ours; others are passed over."""
        if fd == self.socket.fileno():
            try:
                client, _ = self.socket.accept()
            except OSError:
                return  # the client went away first
            client.setblocking(False)
            if len(self._clients) >= self.MOST:
                client.close()
            else:
                self._clients[client.fileno()] = (client, bytearray(), now + self.LINGER)
        elif fd in self._clients:
            client, request, _ = self._clients[fd]
            try:
                data = client.recv(4096)
                request += data
                if data and b"\r\n\r\n" not in request and len(request) < 16384:
                    return
                if data:
                    client.send(answer(bytes(request), status))
            except BlockingIOError:
                return
            except OSError:
                pass
            self._drop(fd)

    def drop_slow(self, now: float) -> None:
        for fd in [fd for fd, (_, _, deadline) in self._clients.items() if deadline < now]:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        self._clients.pop(fd)[0].close()

    def close(self) -> None:
        for fd in list(self._clients):
            self._drop(fd)
        self.socket.close()


def answer(request: bytes, status: dict[str, object]) -> bytes:
    """The whole HTTP answer to one request."""
    import json

    words = request.split(b"\r\n", 1)[0].split(b" ")
    verb, path = words[0], words[1].split(b"?")[0] if len(words) > 1 else b""
    body: object = status
    code = "200 OK" if status["status"] == "ok" else "503 Service Unavailable"
    if path != b"/health":
        code, body = "404 Not Found", {"error": "only /health is here"}
    elif verb not in (b"GET", b"HEAD"):
        code, body = "405 Method Not Allowed", {"error": "use GET"}
    text = (json.dumps(body) + "\n").encode()
    fields = ("Content-Type: application/json", f"Content-Length: {len(text)}", "Connection: close", "", "")
    return f"HTTP/1.1 {code}\r\n".encode() + "\r\n".join(fields).encode() + (b"" if verb == b"HEAD" else text)


def start_child(*arguments: str) -> subprocess.Popen[bytes]:
    """This file again, as a child whose standard input is a pipe that ends with us."""
    import subprocess

    return subprocess.Popen([sys.executable, "-E", "-s", os.path.abspath(__file__), *arguments], stdin=subprocess.PIPE)


class Robot:
    """The cart, its children and its switches. ``run()`` returns the exit code."""

    GOALS = (8.0, 3.0, 9.5, 0.0)

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.ticks = 0
        self.place = 0.0
        self.reloads = 0
        self.degraded = ""
        self.muted = False
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.ballast: list[bytearray] = []
        self.signals: list[int] = []
        self.health: Health | None = None

    # what it tells

    def say(self, text: str) -> None:
        """One line on standard output; a reader that went away silences the robot but never ends it."""
        if not self.muted:
            try:
                os.write(1, text.encode() + b"\n")
            except BlockingIOError:
                pass
            except OSError:
                self.muted = True

    @property
    def goal(self) -> float:
        return self.GOALS[int((time.monotonic() - self.started) / 5) % len(self.GOALS)]

    def status(self) -> dict[str, object]:
        return {
            "status": "degraded" if self.degraded else "ok",
            "reason": self.degraded,
            "pid": os.getpid(),
            "mode": self.options.mode,
            "uptime_seconds": round(time.monotonic() - self.started, 3),
            "ticks": self.ticks,
            "place": round(self.place, 2),
            "goal": self.goal,
            "reloads": self.reloads,
            "leaked_bytes": sum(map(len, self.ballast)),
            "workers": {name: child.pid for name, child in self.workers.items()},
        }

    def tell_status(self) -> None:
        now = self.status()
        self.say(
            f"status: {now['status']}, tick {self.ticks}, place {self.place:.1f} of goal {self.goal:.1f}, "
            f"leaked {now['leaked_bytes']} bytes, workers {' '.join(self.workers) or 'none'}"
        )

    def draw(self) -> None:
        """The gui: one line, redrawn in place on a terminal."""
        track = ["-"] * 41
        track[min(40, int(self.goal * 4))] = "|"
        track[max(0, min(40, int(self.place * 4)))] = "o"
        view = f"[{''.join(track)}] tick {self.ticks}"
        if not self.muted and os.isatty(1):
            os.write(1, b"\r" + view.encode() + b" ")
        else:
            self.say(view)

    def beat(self) -> None:
        """Replace the heartbeat file as a whole: a reader never sees half of it."""
        path = self.options.heartbeat
        if not path:
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "w", encoding="ascii") as file:
                file.write(f'{{"pid": {os.getpid()}, "at": {time.time():.3f}, "ticks": {self.ticks}}}\n')
            os.replace(temporary, path)
        except OSError as error:
            self.say(f"heartbeat: {error.strerror}: {path}")

    # its life

    def run(self) -> int:
        options = self.options
        wake, wake_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_end, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self.signals.append(received))
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)

        if options.port is not None:
            try:
                self.health = Health(options.port)
            except OSError as error:
                self.say(f"health: 127.0.0.1:{options.port}: {error.strerror}; use --port 0 for any free one")
                return 1
        for name in WORKERS:
            self.workers[name] = start_child("--worker", name)
        if options.daemonize_grandchild:
            self.say(f"grandchild {daemonize_grandchild(options.escapee_lifetime)} daemonised")
        if options.fork_while_killed:
            start_child("--hopper", str(options.escapee_lifetime))
        self.beat()
        where = f"health http://127.0.0.1:{self.health.port}/health" if self.health else "no health endpoint"
        self.say(f"robot ready: pid {os.getpid()}, {options.mode}, {options.rate:g} Hz, {where}")
        if options.close_stdio:
            self.muted = True  # the numbers 0, 1 and 2 may soon belong to somebody else
            for fd in (0, 1, 2):
                os.close(fd)
        code: int = self.loop(wake)
        self.end_workers()
        if self.health:
            self.health.close()
        if options.heartbeat:
            with contextlib.suppress(OSError):
                os.unlink(options.heartbeat)
        self.say("bye")
        return code

    def loop(self, wake: int) -> int:
        options = self.options
        period = 1 / options.rate
        tick_at = self.started
        due = {"beat": self.started + 1, "status": self.started + options.status_every, "draw": self.started}
        while True:
            watched = [wake, *(self.health.descriptors() if self.health else [])]
            ready, _, _ = select.select(watched, [], [], max(0.0, tick_at - time.monotonic()))
            now = time.monotonic()
            for fd in ready:
                if fd == wake:
                    os.read(wake, 4096)
                elif self.health:
                    self.health.serve(fd, now, self.status())
            while self.signals:
                if self.obey(self.signals.pop(0)):
                    return int(options.exit_code)
            if now < tick_at:
                continue
            # A late tick is not caught up: after a stop (SIGSTOP, suspend) that would be a burst.
            tick_at = max(tick_at + period, now)
            self.ticks += 1
            self.place += (self.goal - self.place) * min(1.0, 2 * period)
            if options.leak and sum(map(len, self.ballast)) < LEAK_CEILING:
                self.ballast.append(bytearray(os.urandom(64)) * max(1, int(options.leak * period) // 64))
            if now >= due["beat"]:
                due["beat"] = now + 1
                self.beat()
                if self.health:
                    self.health.drop_slow(now)
            if options.mode == "gui" and now >= due["draw"]:
                due["draw"] = now + 0.5
                self.draw()
            if now >= due["status"]:
                due["status"] = now + options.status_every
                self.tell_status()
            age = now - self.started
            if options.crash_after is not None and age >= options.crash_after:
                self.crash()
            if options.hang is not None and age >= options.hang:
                self.say("hanging: no tick, no answer, no heartbeat, no reaction")
                while True:
                    signal.pause()
            if options.run_for is not None and age >= options.run_for:
                self.say("done")
                return int(options.exit_code)

    def obey(self, number: int) -> bool:
        """React to one signal; True when the robot shall end."""
        if number in (signal.SIGTERM, signal.SIGINT):
            name = signal.Signals(number).name
            if number == signal.SIGTERM and self.options.ignore_term:
                self.say(f"{name} ignored")
                return False
            self.say(f"{name}: stopping")
            return True
        if number == signal.SIGHUP:
            self.reloads += 1
            self.say(f"reloaded {self.reloads}")
        elif number == signal.SIGUSR1:
            self.tell_status()
        elif number == signal.SIGCHLD:
            for name, child in list(self.workers.items()):
                if child.poll() is not None:
                    del self.workers[name]
                    self.degraded = f"worker {name} ended with {child.returncode}"
                    self.say(self.degraded)
        return False

    def end_workers(self) -> None:
        import subprocess

        for child in self.workers.values():
            if child.stdin:
                child.stdin.close()
            child.terminate()
        for child in self.workers.values():
            try:
                child.wait(2)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def crash(self) -> None:
        """End at once, workers and files left as they are."""
        how = self.options.crash_with
        self.say(f"crashing with {signal.Signals(-how).name if how < 0 else how}")
        if how < 0:
            if -how not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(-how, signal.SIG_DFL)
            os.kill(os.getpid(), -how)
        os._exit(abs(how))


# --- the command line -------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(description="A demo robot that can misbehave on purpose.", allow_abbrev=False)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--headless", dest="mode", action="store_const", const="headless", help="no view (default)")
    mode.add_argument("--gui", dest="mode", action="store_const", const="gui", help="draw a tiny text view")
    parser.set_defaults(mode="headless")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="control loop rate (default 10)")
    parser.add_argument("--status-every", type=duration, default=5.0, metavar="T", help="status line period (5s)")
    parser.add_argument("--port", type=int, metavar="N", help="serve http://127.0.0.1:N/health; 0: any free port")
    parser.add_argument("--heartbeat", metavar="PATH", help="replace this file every second")
    parser.add_argument("--run-for", type=duration, metavar="T", help="end by itself, cleanly")
    parser.add_argument("--exit-code", type=int, default=0, metavar="N", help="exit code of a clean end")
    worse = parser.add_argument_group("misbehaviour")
    worse.add_argument("--ignore-term", action="store_true", help="go on after SIGTERM")
    worse.add_argument("--daemonize-grandchild", action="store_true", help="leave a grandchild in its own session")
    worse.add_argument("--fork-while-killed", action="store_true", help="keep a child that forks and exits on and on")
    worse.add_argument("--escapee-lifetime", type=duration, default=600.0, metavar="T", help="of those two (10m)")
    worse.add_argument("--leak", type=size, default=0, metavar="SIZE", help="lose so much memory a second, up to 1G")
    worse.add_argument("--crash-after", type=duration, metavar="T", help="end abruptly")
    worse.add_argument("--crash-with", type=ending, default=1, metavar="HOW", help="exit code or signal (default 1)")
    worse.add_argument("--hang", type=duration, nargs="?", const=0.0, metavar="AFTER", help="stop doing anything")
    worse.add_argument("--close-stdio", action="store_true", help="close descriptors 0, 1 and 2 once ready")
    options = parser.parse_args(arguments)
    if not 0 < options.rate <= 1000:
        parser.error("--rate: use more than 0 and at most 1000 Hz")
    if options.port is not None and not 0 <= options.port < 65536:
        parser.error("--port: use 0 to 65535")
    return options


def main(arguments: list[str]) -> int:
    # Started without stdio, the first pipe would become standard output and get the robot's chatter.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if arguments[:1] == ["--worker"]:
        return run_worker(arguments[1])
    if arguments[:1] == ["--escapee"]:
        return run_escapee(float(arguments[1]))
    if arguments[:1] == ["--hopper"]:
        return run_hopper(float(arguments[1]))
    return Robot(parse(arguments)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
