"""``sample = "2s"``: what a run uses, over time, for ``status`` and the history.

The supervisor only looks (half a percent of a core at most, see ``metrics.sampler``) and remembers. What it saw goes in
batches to a scribe (``scribe.py``), a process of its own, so no lock, fsync or full disk of the history can hold the
loop, or a stop, up. A batch that was not kept goes out again with the next.
"""

from __future__ import annotations

import os
import sys

from safesh import wire
from safesh.clock import monotonic
from safesh.core.contain import INSTANCE, RUN_ID, open_group
from safesh.core.environment import inherited
from safesh.core.spawn import spawn
from safesh.errors import SafeshError
from safesh.metrics.sampler import TreeSampler
from safesh.supervise.scribe import TROUBLES
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.metrics.sampler import Sample
    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor

_SCRIBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scribe.py")
_FIRST, _LONGEST = 5.0, 60.0  # seconds between two batches: who has just started it looks soon, and then less often
_BATCH = 250  # samples: an order that fits into a pipe, where there is no memfd
_MOST = 1500  # that wait: a quarter of a megabyte, 50 minutes at 2 s
_SAVED = 2.0  # seconds between two records saved for a sample
_SHOWN = ("at", "cpu_percent", "cpu_seconds", "memory_bytes", "processes", "threads")


class Sampling(Watcher):
    """Samples every run of one supervisor whose target asks for it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._journal = supervisor.journal
        self._sampler: TreeSampler | None = None
        self._run: tuple[str, str] = ("", "")  # run id, target
        self._peak = 0
        self._processes = 0
        self._failing = False
        self._saved = 0.0
        self._waiting: list[str] = []  # lines of a scribe's order
        self._sent = 0  # of those, with the scribe that is on its way
        self._scribe = 0
        self._before = ""  # the last line that was kept: rates go on from it
        self._pause = _FIRST
        self._send_at: float | None = None
        self._told: set[str] = set()
        self._lost = 0

    # ---- looking

    def on_event(self, event: str) -> None:
        run = self._supervisor.run
        if run is not None and run.run_id == self._run[0] and not self._wanted(run):
            self._end()
        elif run is not None and run.run_id != self._run[0] and self._wanted(run):
            self._end()
            self._begin(run)

    def _wanted(self, run: LiveRun) -> bool:
        """A run that is being ended is left alone."""
        supervisor = self._supervisor
        lives = run.main is not None and run.keeper is not None and run.exit is None
        return lives and supervisor.intent == "" and supervisor.state in ("starting", "running", "unhealthy")

    def _begin(self, run: LiveRun) -> None:
        spec = self._supervisor.spec
        if not spec.sample or run.keeper is None or run.main is None:  # a restart has brought another spec
            return
        self._run = (run.run_id, spec.name)
        self._peak = self._processes = 0
        self._sampler = TreeSampler(
            run.keeper.pid,
            keeper=True,
            main=(run.main.pid, run.main.start),
            group=open_group(self._supervisor.record["cgroup"]),
            interval=spec.sample,
        )
        if self._send_at is None:
            self._pause = _FIRST
            self._send_at = monotonic() + self._pause
        self._plan()

    def _end(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
            self._peak = self._sampler.peak_memory_bytes
            self._sampler = None
        self._plan()

    def _plan(self) -> None:
        dues = [self._sampler.due] if self._sampler is not None else []
        if self._send_at is not None and self._waiting and not self._scribe:
            dues.append(self._send_at)
        self.due = min(dues, default=None)

    def tick(self) -> None:
        now = monotonic()
        if self._sampler is not None and now >= self._sampler.due:
            self._look(self._sampler)
        if self._send_at is not None and now >= self._send_at and self._waiting and not self._scribe:
            self._send()
        self._plan()

    def _look(self, sampler: TreeSampler) -> None:
        found = sampler.sample()
        if found is None:  # the keeper is gone, which the loop is about to hear
            self._end()
            return
        if bool(found.failed) != self._failing:
            self._failing = bool(found.failed)
            name = "probe_failed" if found.failed else "probe_recovered"
            self._journal.event(name, probe="tree", **({"reason": found.failed} if found.failed else {}))
        if found.failed:
            return
        self._processes = max(self._processes, found.processes)
        self._keep(found)
        self._show(found)

    def _keep(self, found: Sample) -> None:
        run_id, target = self._run
        numbers = {name: value for name, value in found.to_dict().items() if name != "failed"}
        self._waiting.append(wire.dumps({"run_id": run_id, "target": target, "sample": numbers}))
        if len(self._waiting) > _MOST:
            # The oldest go first; those that a scribe has in hand may be lost twice over, which costs nothing.
            del self._waiting[0]
            self._sent = max(0, self._sent - 1)
            self._lost += 1

    def _show(self, found: Sample) -> None:
        record = self._journal.record
        record["sample"] = {"run_id": self._run[0], **{name: getattr(found, name) for name in _SHOWN}}
        if (percent := record["sample"]["cpu_percent"]) is not None:
            record["sample"]["cpu_percent"] = round(max(0.0, percent), 1)
        if abs(found.at - self._saved) >= _SAVED:
            self._saved = found.at
            self._journal.save()

    def totals(self, run_id: str) -> dict[str, Any]:
        self._end()
        if run_id != self._run[0] or not self._processes:
            return {}
        return {"peak_memory_bytes": self._peak, "max_processes": self._processes}

    # ---- handing over

    def _send(self) -> None:
        """Give the oldest samples to a scribe. Want of processes is trouble like any other: they wait."""
        batch = self._waiting[:_BATCH]
        try:
            self._scribe = self._start_scribe(batch)
            self._sent = len(batch)
        except (SafeshError, OSError) as error:
            self._trouble("history_failed", f"no process to write it: {error}")
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._pause = min(2 * self._pause, _LONGEST)
        self._send_at = monotonic() + self._pause

    def _start_scribe(self, batch: list[str]) -> int:
        journal = self._journal
        head = {
            "folder": journal.paths.folder,
            "events": journal.log.path,
            "instance": journal.log.instance,
            "target": self._run[1],
            "told": sorted(self._told),
        }
        lines = [wire.dumps(head), *([self._before] if self._before else []), *batch]
        reading = _carry(("\n".join(lines) + "\n").encode())
        null = -1
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            words = [sys.executable, "-E", "-s", "-S", _SCRIBE]
            env = {name: value for name, value in inherited().items() if name not in (INSTANCE, RUN_ID)}
            return spawn(words, cwd="/", env=env, stdio=(reading, null, null))
        finally:
            os.close(reading)
            if null >= 0:
                os.close(null)

    def children(self) -> list[int]:
        return [self._scribe] if self._scribe else []

    def reaped(self, pid: int, status: int) -> bool:
        if pid != self._scribe:
            return False
        self._scribe = 0
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            if self._sent:
                self._before = self._waiting[self._sent - 1]
            del self._waiting[: self._sent]
            self._told.clear()
            if self._lost:
                self._journal.event("samples_lost", count=self._lost)
                self._lost = 0
            if len(self._waiting) >= _BATCH:  # a backlog
                self._send_at = monotonic()
        elif code in TROUBLES:
            self._told.add(TROUBLES[code])  # the scribe has told it
        else:
            self._trouble("history_failed", f"its writer ended with wait status {status}")
        self._sent = 0
        self._plan()
        return True

    def _trouble(self, event: str, message: str) -> None:
        if event not in self._told:
            self._told.add(event)
            self._journal.event(event, message=message)

    def close(self) -> None:
        self._end()
        self.due = None

    def leave(self) -> None:
        """The rest, once everybody has been answered. What a scribe has in hand goes again: kept twice, it is once."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            try:
                self._start_scribe(batch)
            except (SafeshError, OSError) as error:
                lost = len(batch) + len(self._waiting)
                self._journal.event("samples_lost", count=lost, message=f"no process to write them: {error}")
                return
            self._before = batch[-1]


def _carry(data: bytes) -> int:
    """A descriptor to read it from."""
    try:
        fd = os.memfd_create("safesh-samples")
    except (AttributeError, OSError):
        reading, writing = os.pipe()
        try:
            os.set_blocking(writing, False)
            if os.write(writing, data) != len(data):
                raise OSError("a pipe takes less than a batch")
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return reading
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
