"""The process beside a dask worker that holds the steps of one runner there, and its lease on them.

It is no part of the worker: a worker that is killed, stopped or busy with another's code keeps nobody from ending a
step in time. Orders come as JSON lines on stdin, what happens goes out as frames on stdout; the end of either ends
every step, and so does a lease that nobody renews. Should this process itself be killed, the steps' keepers end them.

The lease: every message brings back a *ticket*, the time on this machine's clock at which we last told the runner
something. What is older than the lease is not obeyed, however late the network delivers it; and when the newest
ticket is older, the runner may already have started the steps elsewhere, so they end here.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import threading
from collections import deque
from typing import Any, NoReturn

from safesh import _platform, wire
from safesh.clock import monotonic
from safesh.plan.engine import StepEnd, StepOrder
from safesh.plan.local import STOP, LocalEngine
from safesh.process import loop

HEAD = struct.Struct(">cII")  # kind, the order's number, bytes that follow
STARTED, OUTPUT, REPORT, ENDED, ALIVE = b"s", b"o", b"r", b"e", b"a"
CHUNK = 1 << 16
_MOST_WAITING = 1 << 20  # bytes not taken by the worker; beyond, steps that write wait
_LOOK = 0.25  # seconds between two looks at a report file
_DRAIN = 0.5  # seconds for output that somebody outside the ended tree still holds open


def frame(kind: bytes, number: int, data: bytes) -> bytes:
    return HEAD.pack(kind, number, len(data)) + data


class _Step:
    def __init__(self, number: int, order: StepOrder, folder: str) -> None:
        self.number = number
        self.name = order.step.id
        self.order = order
        self.report_at = 0
        self.report_looked = 0.0
        self.end: StepEnd | None = None
        self.ended_at = 0.0
        self.ask: bool | None = None  # to be ended; the value: at once
        self.started = False
        self.dropped = False  # it was ended because its place was
        log, self.report = (os.path.join(folder, f"{number}.{kind}") for kind in ("log", "report"))
        order.log, order.report = log, self.report
        order.env = {**order.env, "SAFESH_REPORT": self.report}
        # A pipe with a name, so that the local engine writes to it as to any log: a full pipe makes the step wait.
        os.mkfifo(log, 0o600)
        self.fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        for path in (self.order.log, self.report):
            try:
                os.unlink(path)
            except OSError:
                pass


class Host:
    """One thread and one poll(2); steps are started and ended by the process API's own threads."""

    def __init__(self, place: str, lease: float, folder: str) -> None:
        self.place = place
        self.lease = lease
        self.folder = folder
        self.expires = monotonic() + lease
        self.engine = LocalEngine(contain="keeper", into_pipes=True)
        self.steps: dict[int, _Step] = {}
        self.seen: set[int] = set()  # one order is obeyed once, however often it is sent
        self.rest = b""
        self.waiting: deque[bytes] = deque()
        self.size = 0
        self.news: deque[tuple[str, _Step, Any]] = deque()
        self.lock = threading.Lock()
        self.wake_read, self.wake_write = os.pipe()
        for fd in (0, 1, self.wake_read, self.wake_write):
            os.set_blocking(fd, False)

    def run(self) -> NoReturn:
        while monotonic() < self.expires and self._turn():
            pass
        # The steps' trees first; what is being started at this moment ends with us, by its keeper's lifeline.
        self.engine.close(now=True)
        os._exit(0)

    def _turn(self) -> bool:
        """Wait and do what there is to do; False when the other side has gone."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        poll.register(1, select.POLLOUT if self.waiting else 0)  # 0: its end is told all the same
        full = self.size >= _MOST_WAITING
        by_fd = {} if full else {step.fd: step for step in self.steps.values() if step.fd >= 0 and self._reads(step)}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        patience = self.expires - monotonic()
        if self.steps and not full:
            patience = min(patience, _LOOK)
        for fd, events in poll.poll(max(0.0, patience) * 1000 + 1):
            if fd == 0 and not self._hear():
                return False
            if fd == 1 and (events & (select.POLLERR | select.POLLHUP) or not self._flush()):
                return False
            if fd == self.wake_read:
                os.read(self.wake_read, CHUNK)
            if fd in by_fd:
                self._take_output(by_fd[fd])
        self._take_news()
        for step in list(self.steps.values()):
            if self.size < _MOST_WAITING:
                self._look_after(step)
        return True

    def _reads(self, step: _Step) -> bool:
        # Before the step has opened it, and after its end, the pipe is at its end all the time.
        return step.started and step.end is None

    # --- the other side -----------------------------------------------------------------------

    def _hear(self) -> bool:
        try:
            data = os.read(0, 1 << 20)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self.rest = (self.rest + data).split(b"\n")
        return all([self._obey(wire.loads(line.decode())) for line in lines])

    def _obey(self, message: dict[str, Any]) -> bool:
        ticket = message["ticket"]
        fresh = ticket is not None and ticket + self.lease > monotonic()
        if fresh:
            self.expires = max(self.expires, ticket + self.lease)
        if not self.waiting:  # whatever comes out tells as much
            self._tell(ALIVE, 0, b"")
        for verb, *facts in message.get("do", ()):
            if verb == "bye":
                return False
            if verb == "cancel":
                self._cancel(*facts)
            elif verb == "drop":
                self._drop(*facts)
            elif verb == "start" and facts[0] not in self.seen:
                self.seen.add(facts[0])
                self._start(facts[0], StepOrder.from_dict(facts[1]), fresh)
        return True

    def _tell(self, kind: bytes, number: int, data: bytes) -> None:
        self.waiting.append(frame(kind, number, data))
        self.size += len(self.waiting[-1])
        self._flush()

    def _flush(self) -> bool:
        try:
            while self.waiting:
                written = os.write(1, self.waiting[0])
                self.size -= written
                if written == len(self.waiting[0]):
                    self.waiting.popleft()
                else:
                    self.waiting[0] = self.waiting[0][written:]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    # --- steps --------------------------------------------------------------------------------

    def _start(self, number: int, order: StepOrder, fresh: bool) -> None:
        refusal = ""
        if not fresh:
            refusal = f"its start came to {self.place} too late"
        elif not os.path.isdir(order.step.cwd):
            refusal = (
                f"its working directory {order.step.cwd} does not exist on {self.place}: "
                "a plan's folder must have the same path on every worker (a shared folder)"
            )
        else:
            try:
                step = _Step(number, order, self.folder)
            except OSError as error:
                refusal = f"no room for its output on {self.place}: {error.strerror} ({self.folder})"
        if refusal:
            end = StepEnd(step_id=order.step.id, attempt=order.attempt, error=refusal, lost=not fresh)
            self._tell(ENDED, number, wire.dumps(end.to_dict()).encode())
            return
        self.steps[number] = step
        loop.get().endings.submit(lambda: self._begin(step))

    def _begin(self, step: _Step) -> None:
        """In a thread of the pool: a keeper's start takes its time, and the lease is looked at meanwhile."""
        try:
            self.engine.start(
                step.order,
                lambda _name, pid, _run_id: self._post("started", step, pid),
                lambda end: self._post("ended", step, end),
            )
        except BaseException as error:
            end = StepEnd(step_id=step.name, attempt=step.order.attempt, error=f"{type(error).__name__}: {error}")
            self._post("ended", step, end)

    def _post(self, what: str, step: _Step, facts: Any) -> None:
        self.news.append((what, step, facts))
        try:
            os.write(self.wake_write, b"!")
        except BlockingIOError:
            pass

    def _take_news(self) -> None:
        while self.news:
            what, step, facts = self.news.popleft()
            if what == "started":
                step.started = True
                told = {"pid": facts, "boot": _platform.boot_id()}
                self._tell(STARTED, step.number, wire.dumps(told).encode())
                if step.ask is not None:
                    self.engine.cancel(step.name, step.ask)
            elif step.end is None:
                step.end, step.ended_at = facts, monotonic()
                if step.dropped and not facts.ok:
                    facts.lost, facts.error = True, f"dask has taken its place on {self.place} away"

    def _cancel(self, number: int, now: bool) -> None:
        step = self.steps.get(number)
        if step is not None:
            step.ask = now or bool(step.ask)
            if step.started:
                self.engine.cancel(step.name, step.ask)

    def _drop(self, number: int) -> None:
        step = self.steps.get(number)
        if step is not None and not step.dropped:
            step.dropped = True
            self._cancel(number, True)

    def _take_output(self, step: _Step) -> bool:
        """Whether there may be more now."""
        try:
            data = os.read(step.fd, CHUNK)
        except BlockingIOError:
            return False
        if data:
            self._tell(OUTPUT, step.number, data)
            return True
        os.close(step.fd)  # everybody has closed it; a step without output lives on
        step.fd = -1
        return False

    def _look_after(self, step: _Step) -> None:
        now = monotonic()
        if step.end is None:
            if now - step.report_looked >= _LOOK:
                step.report_looked = now
                self._take_report(step)
            return
        while step.fd >= 0 and self._take_output(step):
            if self.size >= _MOST_WAITING:
                return
        if step.fd >= 0 and now - step.ended_at < _DRAIN:
            return
        if self._take_report(step):
            return
        self._tell(ENDED, step.number, wire.dumps(step.end.to_dict()).encode())
        step.close()
        del self.steps[step.number]

    def _take_report(self, step: _Step) -> bool:
        """What was added since; whether there may be more, which waits until there is room."""
        try:
            fd = os.open(step.report, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            return False
        try:
            while self.size < _MOST_WAITING:
                data = os.pread(fd, CHUNK, step.report_at)
                if not data:
                    return False
                step.report_at += len(data)
                self._tell(REPORT, step.number, data)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


def main() -> NoReturn:
    """``place lease folder``: the worker's address, seconds, a folder of our own on this machine."""
    from safesh.vendor import add_site_packages

    add_site_packages()
    place, lease, folder = sys.argv[1:4]
    Host(place, float(lease), folder).run()


GRACE = STOP.grace
