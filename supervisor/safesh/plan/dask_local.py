"""A dask cluster of our own on this machine: a scheduler and some workers, each a process that we hold as any command.

They listen on 127.0.0.1 alone and have no dashboard. Whatever becomes of us, their keepers end them and all below.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from safesh.clock import monotonic
from safesh.core.contain import RUN_ID, new_run_id
from safesh.errors import ResourceError
from safesh.model import StopPolicy
from safesh.plan.dask_worker import distributed
from safesh.process import background
from safesh.process.arguments import Plan
from safesh.process.endings import end_jobs
from safesh.process.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
_FOLDER = "safesh-dask-"
SEATS = 64  # steps of one worker at a time: what a plan may run at once is for its runner to say
_STOP = StopPolicy(signal="SIGTERM", scope="main", grace=1.0)
_PATIENCE = 60.0  # seconds for a process to start and be ready
_MOST_STARTED = 32  # processes in the life of a cluster, those that replace lost ones included


class LocalCluster:
    """The processes; ``address`` is the scheduler's. ResourceError when they do not come up."""

    def __init__(self, workers: int) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._started = 0
        self._closing = False
        self._replaced: set[str] = set()
        self.folder, self._hold = _make_folder()
        try:
            self.address = self._wait(*self._launch("scheduler", "scheduler"))
            waits = [self._add() for _ in range(workers)]
            self.workers = [self._wait(*one) for one in waits]
        except BaseException:
            self.close()
            raise

    def _add(self) -> tuple[str, threading.Event, list[str]]:
        return self._launch(f"worker-{self._started}", "worker", self.address)

    def _launch(self, name: str, role: str, *facts: str) -> tuple[str, threading.Event, list[str]]:
        """Start one; its name, and where its ready line will be."""
        import safesh

        root = os.path.dirname(os.path.dirname(os.path.abspath(safesh.__file__)))
        code = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from safesh.vendor import add_site_packages; add_site_packages(); "
            "from safesh.plan.dask_local import main; main()"
        )
        argv = [sys.executable, "-s", "-c", code, root, role, name, self.folder, *facts]
        run_id = new_run_id()
        env = {os.fsencode(key): os.fsencode(value) for key, value in os.environ.items() if not key.startswith("DASK_")}
        plan = Plan(argv, {**env, RUN_ID.encode(): run_id.encode()}, run_id)
        plan.mode = "background"
        plan.cwd = "/"
        plan.stop = _STOP
        plan.contain = "keeper"
        plan.max_output = 1 << 20
        said: list[str] = []
        ready = threading.Event()

        def hear(line: Any) -> None:
            if not ready.is_set():
                said.append(str(line).strip())
                ready.set()

        plan.on_output = hear
        job = Job(plan)
        with self._lock:
            self._jobs[name] = job
            self._started += 1
        background.run(job)
        job.when_done(ready.set)
        return name, ready, said

    def _wait(self, name: str, ready: threading.Event, said: list[str]) -> str:
        """The address in its ready line."""
        if not ready.wait(_PATIENCE) or not said:
            errors = self._jobs[name].result.stderr.strip().splitlines() or ["it says nothing"]
            raise ResourceError(f"did not start: {errors[-1]}", place=f"the local cluster's {name}")
        return said[0]

    def ended_whole(self, name: str) -> bool:
        """Whether this worker has ended and nobody of its tree is left; False for one that is none of ours."""
        with self._lock:
            job = self._jobs.get(name)
        return job is not None and job.finished_all

    def replace_lost(self) -> None:
        """Start a worker for each that has ended, within reason."""
        with self._lock:
            lost = {name for name, job in self._jobs.items() if job.over and name != "scheduler"} - self._replaced
            self._replaced |= lost
        for _ in lost:
            if self._started < _MOST_STARTED and not self._closing:
                self._add()

    def close(self) -> None:
        """End every process, and return when none is left."""
        self._closing = True
        with self._lock:
            jobs = list(self._jobs.values())
        began = monotonic()
        end_jobs([job for job in jobs if job.pid and not job.over], now=True)
        for job in jobs:
            job.wait(max(0.0, began + 10 - monotonic()))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._hold)


def _make_folder() -> tuple[str, int]:
    """A folder for the workers, and a lock on it; those of runners that were killed are cleared away first."""
    for old in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), _FOLDER + "*")):
        try:
            if os.lstat(old).st_uid != os.getuid():
                continue
            fd = os.open(os.path.join(old, "lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # just being made, or gone by now
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    folder = tempfile.mkdtemp(prefix=_FOLDER)
    hold = os.open(os.path.join(folder, ".lock"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(hold, fcntl.LOCK_EX)
    os.rename(os.path.join(folder, ".lock"), os.path.join(folder, "lock"))  # nobody finds it unlocked
    return folder, hold


# --- in the processes ---------------------------------------------------------------------------


def main() -> None:
    """``scheduler NAME FOLDER`` or ``worker NAME FOLDER SCHEDULER``: serve until ended; one line tells the address."""
    import asyncio
    import logging

    role, name, folder, *facts = sys.argv[1:]
    import dask

    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    make: Callable[..., Any] = _scheduler if role == "scheduler" else _worker
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def serve() -> None:
        server = await make(name, folder, *facts)
        print(server.address, flush=True)
        await server.finished()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass  # who started us ends us


async def _scheduler(_name: str, _folder: str) -> Any:
    return await _without_http(distributed().Scheduler)(host=HOST, port=0, dashboard=False)


async def _worker(name: str, folder: str, scheduler: str) -> Any:
    own = os.path.join(folder, name)
    return await _without_http(distributed().Worker)(
        scheduler, name=name, nthreads=SEATS, host=HOST, local_directory=own, memory_limit=0, dashboard=False
    )


def _without_http(kind: type[Any]) -> type[Any]:
    """The same server without the HTTP port, which dask opens with or without a dashboard."""

    class Quiet(kind):  # type: ignore[misc]
        def start_http_server(self, *_args: Any, **_options: Any) -> None:
            self.http_application = self.http_server = None

    return Quiet
