"""The engine that runs steps on the workers of a dask.distributed cluster (extra ``cluster``).

What a step takes is asked of dask: its *seat* (``dask_worker``) is a task with the step's resources. Where that task
runs, the step is started, once, by a process beside the worker (``dask_host``) that holds it under a lease. Its
output and reports come back while it runs, pulled by us, so that a flood waits on the worker and not in
anybody's memory.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from safesh.errors import ConfigError, SafeshError
from safesh.plan.dask_host import GRACE
from safesh.plan.engine import StepEnd

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from safesh.plan.dask_cluster import Cluster
    from safesh.plan.dask_local import LocalCluster
    from safesh.plan.engine import OnEnd, OnStart, StepOrder

LEASE = 10.0
_THREAD = "safesh-dask"
_WORKERS = 2
_CONNECT = 5.0  # seconds for the scheduler to answer
_CLOSING = 30.0  # seconds beyond lease and grace that ending everything may take


class ClusterError(SafeshError):
    """The dask cluster cannot be reached, or cannot run steps (EX_UNAVAILABLE)."""

    exit_code = 69


def _not_ours(record: logging.LogRecord) -> bool:
    """Dask prints to stderr, through a live table, what the ends of our steps tell anyway."""
    return record.threadName != _THREAD


class DaskEngine:
    """Steps as seats on a dask cluster; see ``engine.Engine`` for the contract.

    scheduler: ``tcp://host:port`` (or tls://) of a cluster that is there, None for one of our own with ``workers``
    processes on this machine. lease: seconds without a word from us after which a worker's machine ends our steps; a
    lost worker's steps are told of as lost when that and the grace are over, at once where we know that it has
    ended whole. Raises ClusterError (or ConfigError, for a missing extra or an address that is none) before anything
    is started.
    """

    name = "dask"

    def __init__(self, scheduler: str | None = None, *, workers: int = _WORKERS, lease: float = LEASE) -> None:
        try:
            importlib.import_module("distributed")
        except ImportError:
            raise ConfigError(
                "needs dask.distributed, which is not installed",
                place="--engine dask",
                hint="pip install 'safesh[cluster]'",
            ) from None
        from safesh.plan.dask_cluster import Cluster

        if scheduler is not None and "://" not in scheduler:
            raise ConfigError(
                f"{scheduler!r} is no scheduler's address", place="--scheduler", hint="such as tcp://10.0.0.5:8786"
            )
        self._lease = lease
        self._local: LocalCluster | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._muted = logging.getLogger("distributed").handlers[:]
        for handler in self._muted:
            handler.addFilter(_not_ours)
        try:
            if scheduler is None:
                from safesh.plan.dask_local import LocalCluster

                self._local = LocalCluster(workers)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._serve, name=_THREAD, daemon=True)
            self._thread.start()
            address = scheduler or (self._local.address if self._local is not None else "")
            self._cluster: Cluster = Cluster(address, self._local, lease)
            self._call(self._cluster.open(_CONNECT), _CONNECT * 4)
        except BaseException:
            self._stop()
            raise
        atexit.register(self.close, True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _stop(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(5.0)
        if self._local is not None:
            self._local.close()
        for handler in self._muted:
            handler.removeFilter(_not_ours)

    def start(self, order: StepOrder, on_start: OnStart, on_end: OnEnd) -> None:
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(self._cluster.start, order, on_start, on_end)
                return
        on_end(StepEnd(step_id=order.step.id, attempt=order.attempt, error="the dask engine is closed"))

    def cancel(self, step_id: str, now: bool) -> None:
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(self._cluster.cancel, step_id, now)

    def close(self, now: bool) -> None:
        """May be called twice, and is at the program's exit."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        try:
            self._call(self._cluster.close(now), self._lease + GRACE + _CLOSING)
        except TimeoutError:
            if self._local is None:
                raise ClusterError(
                    "steps there could not be ended in time; their leases end them", place=self._cluster.address
                ) from None
        finally:
            self._stop()

    def capacity(self) -> dict[str, float]:
        """A cluster of our own has what this machine has. Else the sums of what workers were started with
        (``--resources``), their threads where none of them says ``cpu``, and their memory limits likewise."""
        if self._local is not None:
            from safesh.plan.local import LocalEngine

            return LocalEngine().capacity()
        return self._cluster.capacity()
