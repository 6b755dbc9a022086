"""What runs inside a dask worker: seats, and the link to the process that holds a runner's steps there.

A *seat* is the dask task of a step. It takes a thread and the resources that the scheduler gave it, tells the runner
where it sits, and runs nothing: the step starts when the runner sends its order to this worker, once. So dask may run a
seat again after a lost worker, as it likes to; nobody is started by that.

Functions here are called by the runner's client by name, in the worker's event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import sys
import tempfile
from typing import Any

from safesh.clock import monotonic
from safesh.plan.dask_host import ALIVE, ENDED, HEAD

TOPIC = "safesh-seats"
PROTOCOL = 1
_UNCLAIMED = 30.0  # seconds that a seat waits for an order
_LOOK = 1.0  # seconds between two looks whether dask has given a seat up
_MOST = 1 << 20  # bytes of one answer
_LEAVING = 5.0
_KEPT = 60.0  # seconds that the last words of an ended host are kept for a runner that may be gone

_seats: dict[str, asyncio.Future[None]] = {}
_hosts: dict[str, _Host] = {}
_sequence = 0


def distributed() -> Any:
    """The library, an extra; its own types are partial."""
    return importlib.import_module("distributed")


def hello() -> dict[str, Any]:
    """Who we are, for a runner that has just connected."""
    import safesh

    return {"protocol": PROTOCOL, "safesh": safesh.__version__, "distributed": distributed().__version__}


async def sit(session: str, key: str) -> None:
    """The task: hold a thread and resources until the step has ended here or was never wanted."""
    worker = distributed().get_worker()
    seat = _seats[key] = asyncio.get_running_loop().create_future()
    try:
        told = {"session": session, "key": key, "worker": worker.address, "ticket": monotonic(), "protocol": PROTOCOL}
        worker.log_event(TOPIC, told)
        began = monotonic()
        while not seat.done():
            await asyncio.wait([seat], timeout=_LOOK)
            host = next((one for one in _hosts.values() if key in one.numbers), None)
            task = worker.state.tasks.get(key)
            if task is None or task.state in ("cancelled", "resumed", "released", "forgotten"):
                if host is not None:  # the runner has gone, says the scheduler, which need not wait for the lease
                    host.tell({"ticket": None, "do": [["drop", host.numbers[key]]]})
            elif host is not None or monotonic() - began < _UNCLAIMED:
                continue
            if host is None:
                return
    finally:
        if _seats.get(key) is seat:
            del _seats[key]


def vacate(key: str) -> None:
    """End a seat, if it is here."""
    seat = _seats.get(key)
    if seat is not None and not seat.done():
        seat.set_result(None)


class _Host:
    """The process beside us that holds one runner's steps."""

    def __init__(self, name: str, folder: str, lease: float) -> None:
        self.name = name
        self.folder = folder
        self.lease = lease
        self.numbers: dict[str, int] = {}  # of the orders given, by seat
        self.keys: dict[int, str] = {}
        self.buffer = bytearray()
        self.cut = 0  # bytes of whole frames at the buffer's start
        self.sent = (0, b"", False)  # the answer that nobody has confirmed yet
        self.unanswered: float | None = None  # since when it has said nothing, though it was asked
        self.over = False
        self.pulling = asyncio.Lock()
        self.process: asyncio.subprocess.Process
        self.watcher: asyncio.Task[None]

    async def start(self, place: str) -> None:
        import safesh

        root = os.path.dirname(os.path.dirname(os.path.abspath(safesh.__file__)))
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from safesh.plan.dask_host import main; main()"
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-E", "-s", "-S", "-c", code, root, place, str(self.lease), self.folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MOST,
            cwd="/",
            start_new_session=True,
        )
        self.watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self.process.wait()
        self.over = True
        for key in list(self.numbers):
            vacate(key)
        shutil.rmtree(self.folder, ignore_errors=True)
        asyncio.get_running_loop().call_later(_KEPT, self._forget)

    def _forget(self) -> None:
        if _hosts.get(self.name) is self:
            del _hosts[self.name]

    def tell(self, message: dict[str, Any]) -> None:
        pipe = self.process.stdin
        if pipe is None or self.over or pipe.is_closing():
            return
        if "do" in message or pipe.transport.get_write_buffer_size() < 1 << 16:  # renewals may be left out
            pipe.write(json.dumps(message).encode() + b"\n")
            self.unanswered = self.unanswered or monotonic()

    async def read(self, wait: float) -> None:
        """More frames, if there are any in time; an end of file leaves ``over`` to the watcher."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(wait):
                while not self.cut and not self.over:
                    data = await self.process.stdout.read(_MOST)
                    if not data:
                        await asyncio.shield(self.watcher)
                    self._note(data)
        except TimeoutError:
            if self.unanswered is not None and monotonic() - self.unanswered > self.lease and not self.over:
                self.process.kill()  # frozen: nobody obeys, and nobody sees to the lease; the steps' keepers end them

    def _note(self, data: bytes) -> None:
        self.unanswered = None
        self.buffer += data
        while len(self.buffer) - self.cut >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self.buffer, self.cut)
            if len(self.buffer) - self.cut - HEAD.size < length:
                break
            if kind == ALIVE:
                del self.buffer[self.cut : self.cut + HEAD.size]
                continue
            self.cut += HEAD.size + length
            if kind == ENDED:
                key = self.keys.pop(number, "")
                self.numbers.pop(key, None)
                vacate(key)

    def take(self) -> bytes:
        frames = bytes(self.buffer[: self.cut])
        del self.buffer[: self.cut]
        self.cut = 0
        return frames


_starting: asyncio.Lock | None = None


async def tell(
    name: str, lease: float, ticket: float, do: list[list[Any]], key: str = "", dask_worker: Any = None
) -> bool:
    """Pass orders on to the runner's host, which is started when there is something to start. False: there is none."""
    global _starting
    _starting = _starting or asyncio.Lock()
    starts = [one for one in do if one[0] == "start"]
    async with _starting:
        host = _hosts.get(name)
        if host is None or host.over:
            if not starts or ticket + lease < monotonic():
                return False
            # Dask clears its folder up after a worker that was killed.
            host = _Host(name, tempfile.mkdtemp(prefix="safesh-", dir=dask_worker.local_directory), lease)
            await host.start(dask_worker.address)
            _hosts[name] = host
    for one in starts:
        host.numbers[key], host.keys[one[1]] = one[1], key
    host.tell({"ticket": ticket, "do": do})
    return True


async def pull(name: str, ticket: float, confirmed: int, wait: float) -> dict[str, Any]:
    """What has happened, as frames; waits for something at most ``wait`` seconds. Renews the lease by ``ticket``.

    confirmed: the number of the last answer that came through; another one is given again.
    """
    global _sequence
    host = _hosts.get(name)
    if host is None:
        return {"seq": 0, "frames": b"", "gone": True, "ticket": monotonic()}
    host.tell({"ticket": ticket})
    async with host.pulling:
        if host.sent[0] == confirmed:
            host.sent = (0, b"", False)
        if not host.sent[0]:
            if not host.cut:
                await host.read(wait)
            _sequence += 1
            frames = host.take()
            host.sent = (_sequence, frames, host.over and not frames)
            if host.sent[2]:
                _hosts.pop(name, None)
    seq, frames, gone = host.sent
    return {"seq": seq, "frames": frames, "gone": gone, "ticket": monotonic()}


async def leave(name: str) -> None:
    """The runner wants nothing more of us: end what is left."""
    host = _hosts.pop(name, None)
    if host is not None:
        host.tell({"ticket": None, "do": [["bye"]]})
        try:
            async with asyncio.timeout(_LEAVING):
                await asyncio.shield(host.watcher)
        except TimeoutError:
            pass  # its lease ends it
