"""The runner's end of a dask cluster: seats are asked for, orders given, output pulled, lost places waited out.

Everything here happens in one event loop, a thread's own. At most one live copy of a step: it is told of as lost only
when its machine must have ended it: when the lease of the newest ticket we gave back, the grace and a margin are
over, or when a worker of our own has ended with its whole tree.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import TYPE_CHECKING, Any

import safesh
from safesh import _platform, wire
from safesh.clock import monotonic
from safesh.plan import dask_worker
from safesh.plan.dask_engine import ClusterError
from safesh.plan.dask_host import ENDED, GRACE, HEAD, OUTPUT, REPORT, STARTED
from safesh.plan.dask_place import Workers
from safesh.plan.engine import StepEnd
from safesh.plan.journal import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from safesh.plan.dask_local import LocalCluster
    from safesh.plan.engine import OnEnd, OnStart, StepOrder

_MARGIN = 2.0  # seconds beyond lease and grace until the last process of a killed tree is gone
_PULL = 1.0  # seconds that a pull waits for news
_ANSWER = 5.0  # seconds for an answer beyond that
_LOOK = 1.0  # seconds between two looks at the workers
_UNPLACED = 10.0  # seconds that a step waits for a worker that could take it, where there is none
_MOST_LOST = 4  # places that one step may lose until it counts as what ends them


class _Run:
    """One order, from its start to its end."""

    def __init__(self, number: int, order: StepOrder, on_start: OnStart, on_end: OnEnd) -> None:
        self.number = number
        self.order = order
        self.on_start = on_start
        self.on_end = on_end
        self.key = ""
        self.seat: Any = None  # dask's future
        self.wanted: list[str] | None = None  # the workers it may sit on
        self.link: _Link | None = None  # where it was ordered to start
        self.ordered = False  # its place has its order
        self.started = False
        self.ask: bool | None = None  # to be ended; the value: at once
        self.unplaced: float | None = None  # since when no worker could take it
        self.files: dict[bytes, int] = {}
        self.trouble = ""  # what kept its output from being written
        self.began = monotonic()

    def open(self, lost: int) -> None:
        """OSError where its files cannot be written. lost: places that it lost before, whose log stays."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        first = os.O_TRUNC if self.order.attempt == 1 and not lost else 0
        self.files[OUTPUT] = open_regular(self.order.log, flags | first)
        self.files[REPORT] = open_regular(self.order.report, flags)
        if lost:
            self.write(OUTPUT, b"\n--- again, for its worker was lost ---\n")

    def write(self, kind: bytes, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self.files[kind], data) :]
        except OSError as error:
            path = self.order.log if kind == OUTPUT else self.order.report
            self.trouble = self.trouble or f"its output cannot be written: {error.strerror} ({path})"

    def close(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        self.files.clear()


class _Link:
    """One worker, as far as our steps sit there."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name  # of the host beside it
        self.ticket = 0.0  # of that machine's clock
        self.ticket_at = 0.0  # when it came, by ours
        self.safe_at = 0.0  # when the lease of all that we have sent is over
        self.runs: dict[int, _Run] = {}
        self.idle_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self.dead = False  # nothing more is sent there

    def hold(self, ticket: float) -> None:
        if ticket > self.ticket:
            self.ticket, self.ticket_at = ticket, monotonic()


class Cluster:
    """address: of the scheduler; local: its processes, where they are ours."""

    def __init__(self, address: str, local: LocalCluster | None, lease: float) -> None:
        self.address = address
        self.local = local
        self.lease = lease
        self.session = uuid.uuid4().hex
        self.workers = Workers(address, local=local is not None)
        self.runs: dict[str, _Run] = {}  # by step
        self.seats: dict[str, _Run] = {}  # by key
        self.links: dict[str, _Link] = {}
        self.lost: dict[str, int] = {}  # how often, by step
        self.number = 0
        self.client: Any = None
        self.looker: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.unreachable: float | None = None  # since when the scheduler is silent

    # --- opening and closing ------------------------------------------------------------------

    async def open(self, seconds: float) -> None:
        """ClusterError in one line when it cannot be used."""
        try:
            async with asyncio.timeout(seconds + 1):
                self.client = await dask_worker.distributed().Client(
                    self.address, asynchronous=True, timeout=seconds, set_as_default=False, name="safesh"
                )
        except ImportError as error:
            raise ClusterError(_first_line(error), place=self.address, hint="the same versions everywhere") from None
        except (OSError, ValueError, TimeoutError) as error:
            why = "it does not answer" if isinstance(error, (OSError, TimeoutError)) else _first_line(error)
            raise ClusterError(
                f"no dask scheduler is to be reached there within {seconds:g} s: {why}",
                place=self.address,
                hint="start one with `dask scheduler`, or leave --scheduler out for a cluster of its own",
            ) from None
        try:
            self.client.subscribe_topic(dask_worker.TOPIC, self._seated)
            await self._look(_ANSWER)
            if not self.workers.known:
                raise ClusterError("has no worker", place=self.address, hint=f"start some: dask worker {self.address}")
            await self._check_versions()
        except BaseException:
            await self._hang_up()
            raise
        self.looker = asyncio.create_task(self._keep_looking())

    async def _check_versions(self) -> None:
        """Everybody has our safesh and our distributed; who has not is named."""
        answers = await self._ask(list(self.workers.known), dask_worker.hello, seconds=_ANSWER)
        ours = {
            "protocol": dask_worker.PROTOCOL,
            "safesh": safesh.__version__,
            "distributed": dask_worker.distributed().__version__,
        }
        for address, answer in answers.items():
            where = self.workers.name(address)
            if isinstance(answer, ImportError):
                raise ClusterError(
                    f"has no safesh: {_first_line(answer)}",
                    place=f"worker {where}",
                    hint=f"pip install 'safesh[cluster]=={safesh.__version__}' there",
                )
            if isinstance(answer, Exception):
                raise ClusterError(f"does not answer: {_first_line(answer)}", place=f"worker {where}")
            for name in ("distributed", "safesh", "protocol"):
                if answer.get(name) != ours[name]:
                    raise ClusterError(
                        f"has {name} {answer.get(name)}, and here is {ours[name]}",
                        place=f"worker {where}",
                        hint="the same versions everywhere",
                    )

    async def close(self, now: bool) -> None:
        """End all steps, and give everything back."""
        try:
            for name in list(self.runs):
                self.cancel(name, now)
            while self.runs:
                await asyncio.sleep(0.02)
            if self.looker is not None:
                self.looker.cancel()
            await asyncio.gather(*map(self._say_bye, self.links.values()), return_exceptions=True)
        finally:
            await self._hang_up()

    async def _say_bye(self, link: _Link) -> None:
        await self._ask([link.address], dask_worker.leave, link.name, seconds=_ANSWER)

    async def _hang_up(self) -> None:
        for task in [*self.tasks, *(link.task for link in self.links.values() if link.task is not None)]:
            task.cancel()
        if self.client is not None:
            try:
                async with asyncio.timeout(_ANSWER):
                    await self.client.close()
            except (OSError, TimeoutError):
                pass

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _ask(
        self, addresses: list[str], function: Callable[..., Any], *facts: Any, seconds: float, **more: Any
    ) -> dict[str, Any]:
        """Run a function in workers; by address what it gave, or the exception."""
        async with asyncio.timeout(seconds):
            found: dict[str, Any] = await self.client.run(
                function, *facts, workers=addresses, on_error="return", **more
            )
            return found

    # --- the workers --------------------------------------------------------------------------

    def capacity(self) -> dict[str, float]:
        return self.workers.capacity()

    async def _look(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            told = await self.client.scheduler.identity(n_workers=-1)
        self.workers.update(told["workers"], monotonic(), self.lease)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                if self.local is not None:
                    await asyncio.to_thread(self.local.replace_lost)
                await self._look(_ANSWER)
                self.unreachable = None
            except Exception:  # of many kinds, once the client has given up
                self.unreachable = self.unreachable or monotonic()
            for link in list(self.links.values()):
                if link.runs and self._is_lost(link):
                    if link.task is not None:
                        link.task.cancel()
                    self._lose(link)
            for run in list(self.seats.values()):
                if run.link is None:
                    self._look_after(run)

    def _look_after(self, run: _Run) -> None:
        """A seat that nobody has taken yet: whether anybody could."""
        if self.unreachable is not None:
            if monotonic() - self.unreachable > self.lease:
                self._finish(run, self._failed(run, f"the scheduler at {self.address} does not answer any more"))
            return
        asked, wanted, why = self.workers.place(run.order.step)
        if why:
            self._unplaced(run, why)
            return
        run.unplaced = None
        if wanted != run.wanted and self.workers.silent:  # it may be sitting with one that is silent
            self._leave_seat(run)
            self._take_seat(run, asked, wanted)

    def _unplaced(self, run: _Run, why: str) -> None:
        now = monotonic()
        run.unplaced = run.unplaced or now
        if now - run.unplaced > _UNPLACED:
            self._finish(run, self._failed(run, why))

    # --- steps --------------------------------------------------------------------------------

    def start(self, order: StepOrder, on_start: OnStart, on_end: OnEnd) -> None:
        self.number += 1
        run = _Run(self.number, order, on_start, on_end)
        if order.step.id in self.runs:
            on_end(self._failed(run, "it runs already"))
            return
        self.runs[order.step.id] = run
        try:
            run.open(self.lost.get(order.step.id, 0))
        except OSError as error:
            self._finish(run, self._failed(run, f"its log cannot be written: {error.strerror} ({order.log})"))
            return
        asked, wanted, why = self.workers.place(order.step)
        if why and self.workers.known and not self.workers.silent:
            self._finish(run, self._failed(run, why))
            return
        self._take_seat(run, asked, wanted)

    def _take_seat(self, run: _Run, asked: dict[str, float], wanted: list[str] | None) -> None:
        self.number += 1
        run.key = f"safesh-{self.session}-{self.number}"
        run.wanted = wanted
        self.seats[run.key] = run
        try:
            run.seat = self.client.submit(
                dask_worker.sit,
                self.session,
                run.key,
                key=run.key,
                resources=asked or None,
                workers=wanted,
                allow_other_workers=False,
                retries=0,
                pure=False,
            )
        except Exception as error:  # dask's own kinds, of which the client's being closed is one
            self._finish(run, self._failed(run, f"the scheduler at {self.address} is gone: {_first_line(error)}"))
            return
        self._later(self._watch(run, run.key, run.seat))

    def _leave_seat(self, run: _Run) -> None:
        self.seats.pop(run.key, None)
        seat, run.seat = run.seat, None
        if seat is not None:
            try:
                seat.release()
            except Exception:
                pass

    async def _watch(self, run: _Run, key: str, seat: Any) -> None:
        """A seat that ends before we gave its order could not be had."""
        why = "nobody gave it an order in time"
        try:
            # Not awaited as it is: its result, which is none, would be fetched from the worker.
            error = await seat.exception()
            if seat.cancelled():
                why = f"the scheduler at {self.address} has given its task up"
            elif error is not None:
                why = f"dask could not run its task: {type(error).__name__}: {_first_line(error)}"
        except asyncio.CancelledError:
            why = f"the scheduler at {self.address} has given its task up"
        if self.seats.get(key) is run and run.link is None:
            self._finish(run, self._failed(run, why))

    async def _seated(self, event: tuple[float, dict[str, Any]]) -> None:
        """Somebody sits, says the scheduler; an order is given to the first that does."""
        told = event[1]
        if told["session"] != self.session:
            return
        address, key = told["worker"], told["key"]
        run = self.seats.get(key)
        if run is None or run.link is not None:
            if run is None or (run.link is not None and run.link.address != address):
                self._later(self._vacate(address, key))
            return
        if told["protocol"] != dask_worker.PROTOCOL:
            self._later(self._vacate(address, key))
            why = f"worker {self.workers.name(address)} has another safesh; the same version is needed everywhere"
            self._finish(run, self._failed(run, why))
            return
        link = self.links.get(address)
        if link is None:
            link = self.links[address] = _Link(address, f"{self.session}/{self.number}")
        link.hold(told["ticket"])
        link.runs[run.number] = run
        run.link = link
        self._later(self._order(run, link))
        if link.task is None or link.task.done():
            link.task = asyncio.create_task(self._follow(link))

    async def _vacate(self, address: str, key: str) -> None:
        try:
            await self._ask([address], dask_worker.vacate, key, seconds=_ANSWER)
        except Exception:
            pass

    async def _order(self, run: _Run, link: _Link) -> None:
        await self._insist(run, link, ["start", run.number, run.order.to_dict()], lambda: run.started)

    async def _insist(self, run: _Run, link: _Link, do: list[Any], obeyed: Callable[[], bool]) -> None:
        """Send it until it has come through, the run is over, or its place is lost. It is obeyed once."""
        while not link.dead and run.number in link.runs and not obeyed():
            try:
                self._lend(link)
                answers = await self._ask(
                    [link.address], dask_worker.tell, link.name, self.lease, link.ticket, [do], run.key, seconds=_ANSWER
                )
                if answers.get(link.address) is True:
                    run.ordered = True
                    return
            except Exception:
                pass
            await asyncio.sleep(0.2)

    def _lend(self, link: _Link) -> None:
        """Our ticket goes out: from when it came, it is good for a lease."""
        link.safe_at = max(link.safe_at, link.ticket_at + self.lease)

    async def _follow(self, link: _Link) -> None:
        """Pull what happens at a worker as long as steps of ours sit there, and some seconds more."""
        confirmed = 0
        link.idle_at = monotonic()
        while link.runs or monotonic() - link.idle_at < self.lease / 2:
            self._lend(link)
            ordered = any(run.ordered for run in link.runs.values())
            try:
                answers = await self._ask(
                    [link.address], dask_worker.pull, link.name, link.ticket, confirmed, _PULL, seconds=_PULL + _ANSWER
                )
                answer = answers[link.address]
                if isinstance(answer, Exception):
                    raise answer
            except Exception:  # of many kinds; ``_keep_looking`` decides when it has lasted too long
                await asyncio.sleep(0.1)
                continue
            link.hold(answer["ticket"])
            confirmed = answer["seq"]
            self._take(link, answer["frames"])
            if answer["gone"] and (ordered or answer["seq"]) and link.runs:
                # The process beside the worker has ended; where it was killed, keepers are ending the steps.
                link.dead = True
                self.links.pop(link.address, None)
                await asyncio.sleep(max(0.0, link.safe_at - monotonic()) + GRACE + _MARGIN)
                self._lose(link)
                return
            if answer["gone"]:
                await asyncio.sleep(0.01)  # not there yet, or not any more
            if link.runs:
                link.idle_at = monotonic()
        if self.links.get(link.address) is link and not link.runs:
            del self.links[link.address]

    def _is_lost(self, link: _Link) -> bool:
        if self.local is not None and self.local.ended_whole(self.workers.own_name(link.address)):
            return True
        return monotonic() > link.safe_at + GRACE + _MARGIN

    def _lose(self, link: _Link) -> None:
        link.dead = True
        if self.links.get(link.address) is link:
            del self.links[link.address]
        if link.address in self.workers.known:
            self.workers.silent.add(link.address)
        for run in list(link.runs.values()):
            name = run.order.step.id
            self.lost[name] = self.lost.get(name, 0) + 1
            where = self.workers.name(link.address)
            end = self._failed(run, f"its worker {where} was lost")
            if self.unreachable is not None:
                end.error = f"the scheduler at {self.address} does not answer any more"
            elif self.lost[name] >= _MOST_LOST:
                end.error += f", and {_MOST_LOST - 1} before it: it may be what ends them"
            else:
                end.lost = run.ask is None
            self._finish(run, end)

    def _take(self, link: _Link, frames: bytes) -> None:
        at = 0
        while at < len(frames):
            kind, number, length = HEAD.unpack_from(frames, at)
            at += HEAD.size + length
            run = link.runs.get(number)
            if run is None:
                continue
            data = frames[at - length : at]
            if kind in (OUTPUT, REPORT):
                run.write(kind, data)
            elif kind == STARTED:
                run.started = True
                told = wire.loads(data.decode())
                here = told["boot"] == _platform.boot_id()  # a pid of another machine means nothing on this one
                run.on_start(run.order.step.id, told["pid"] if here else 0, run.order.run_id)
            elif kind == ENDED:
                end = StepEnd.from_dict(wire.loads(data.decode()))
                if run.trouble and end.ok:
                    end.error = run.trouble
                self._finish(run, end)

    # --- ends ---------------------------------------------------------------------------------

    def cancel(self, step_id: str, now: bool) -> None:
        run = self.runs.get(step_id)
        if run is None:
            return
        if run.link is None:
            self._finish(run, self._failed(run, "it was cancelled before a worker had started it"))
            return
        if run.ask is None or (now and not run.ask):
            run.ask = now
            self._later(self._insist(run, run.link, ["cancel", run.number, now], lambda: False))

    def _failed(self, run: _Run, error: str) -> StepEnd:
        seconds = monotonic() - run.began if run.started else 0.0
        return StepEnd(step_id=run.order.step.id, attempt=run.order.attempt, error=error, seconds=seconds)

    def _finish(self, run: _Run, end: StepEnd) -> None:
        """The one way out of an order."""
        if self.runs.get(run.order.step.id) is not run:
            return
        del self.runs[run.order.step.id]
        if run.link is not None:
            run.link.runs.pop(run.number, None)
        self._leave_seat(run)
        run.close()
        run.on_end(end)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
