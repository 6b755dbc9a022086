"""Runs a plan: what may start is started at once, what ended is told, kept and learnt from.

One thread, one queue: engines, timers and signals put events in, the runner takes them out one by one. Nothing is
decided anywhere else, so what happened can be read off ``events.jsonl`` in its order.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.clock import monotonic, wall
from safesh.core.contain import new_run_id
from safesh.errors import AlreadyRunning, ConfigError, SafeshError, StateError
from safesh.instance import lock as locks
from safesh.model import TargetSpec
from safesh.plan import fingerprint, timeline
from safesh.plan.engine import StepEnd, StepOrder
from safesh.plan.journal import Journal, open_regular
from safesh.plan.report import ReportReader
from safesh.plan.resume import Past
from safesh.plan.schedule import Bounds, Schedule

if TYPE_CHECKING:
    from safesh.plan.engine import Engine
    from safesh.plan.model import PlanSpec, StepSpec
    from safesh.plan.monitor import ExecutionMonitor
    from safesh.plan.state import PlanState

REPORT = "SAFESH_REPORT"
STEP = "SAFESH_STEP"
PLAN = "SAFESH_PLAN"
ATTEMPT = "SAFESH_ATTEMPT"
_TICK = 0.5  # seconds between two looks at the reports of running steps
_SAVE = 2.0  # seconds between two saves of result.json, or twenty times what one takes
_LAST_LINES = 20
_TAIL = 16384


class Options:
    """How a plan is run. jobs: steps at once (0: as many as there are processors); fail_fast: the first failure ends
    everything that runs; resume: leave out what is done; notify: told of ``(event, facts)`` for the plan's hooks."""

    def __init__(
        self,
        *,
        jobs: int = 0,
        fail_fast: bool = False,
        resume: bool = False,
        notify: Callable[[str, dict[str, Any]], object] | None = None,
    ) -> None:
        self.jobs = jobs or _processors()
        self.fail_fast = fail_fast
        self.resume = resume
        self.notify = notify


class Runner:
    """One run of one plan in one output folder."""

    def __init__(
        self,
        plan: PlanSpec,
        output: str,
        engine: Engine,
        monitor: ExecutionMonitor,
        options: Options,
        expected: Mapping[str, float] | None = None,
        lock: locks.Lock | None = None,
    ) -> None:
        """expected: seconds that steps are known to take; lock: the folder's, where somebody above holds it too."""
        self.plan = plan
        self.output = os.path.abspath(output)
        self.engine = engine
        self.monitor = monitor
        self.options = options
        self.expected = dict(expected or {})
        self.steps = {step.id: step for step in plan.steps}
        self.interrupted = 0  # a signal's number; -1: a failure ends the rest
        self._asked = False
        self._why = "interrupted"
        self.failed: list[str] = []
        self._events: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._timers: list[tuple[float, str]] = []  # when to try a failed step again
        self._attempts: dict[str, int] = {}
        self._prints: dict[str, str] = {}
        self._ran: set[str] = set()  # started in this run, so what depends on them runs again too
        self._told_to_end: set[str] = set()
        self._reports: dict[str, ReportReader] = {}
        self._saved_at = 0.0
        self._save_cost = 0.0
        self._env = {**os.environ, **plan.env}
        self._lock = lock
        self._journal: Journal | None = None
        self._past: Past | None = None
        self._schedule = self._make_schedule()

    def bounds(self, seconds: Mapping[str, float]) -> Bounds:
        """What no order of starts could have beaten, from the steps' measured seconds."""
        return self._schedule.bounds(seconds)

    def files(self) -> dict[str, str]:
        """What a reader of the results wants: name -> path."""
        return {"results": self.path("result.json"), "logs": self.path("logs"), "timeline": self.path("timeline.html")}

    def path(self, *names: str) -> str:
        return os.path.join(self.output, *names)

    def _make_schedule(self) -> Schedule:
        wanted = {name for step in self.plan.steps for name in step.resources}
        capacities = dict(self.plan.resources)
        if wanted - set(capacities):
            have = self.engine.capacity()
            for name in wanted - set(capacities):
                if name not in have:
                    raise ConfigError(
                        f"nobody has any of the resource {name!r}",
                        place=self.plan.path or self.plan.id,
                        hint=f'say how much there is: "resources": {{"{name}": 1}}',
                    )
                capacities[name] = have[name]
        return Schedule(self.plan.steps, capacities, self.options.jobs, self.expected)

    # --- the run ------------------------------------------------------------------------------

    def run(self) -> PlanState:
        """Run it to its end; the state of every step. AlreadyRunning, StateError or ConfigError before anything
        starts."""
        restore = self._catch_signals()
        try:
            self._open()
        except BaseException:
            restore()
            self._let_go()
            raise
        for step in self.plan.steps:
            self.monitor.add_step(step.id, type=step.type, provider=step.provider, description=step.description)
        self.monitor.start_monitoring()
        try:
            self._write("plan_started", plan=self.plan.id, steps=len(self.steps), jobs=self.options.jobs)
            self._loop()
            self._write("plan_ended", interrupted=bool(self.interrupted), failed=self.failed)
            self._tell("plan_ended", message=self._in_short(), state="failed" if self._unfinished() else "finished")
        except BaseException:
            self.engine.close(now=True)
            raise
        finally:
            restore()  # a reader that takes nothing any more is given up with one more Ctrl-C
            try:
                self.monitor.stop_monitoring()
            finally:
                restore = self._catch_signals()  # but what is kept is kept whole
                try:
                    self._close()
                finally:
                    restore()
        return self.monitor.state

    def _open(self) -> None:
        if self._lock is None:
            self._lock = hold_folder(self.output)
        try:
            for folder in ("logs", "reports"):
                os.makedirs(self.path(folder), mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateError(
                f"cannot be made: {error.strerror}", place=self.output, hint="choose another --output"
            ) from None
        events = self.path("events.jsonl")
        past = Past(events)
        if self.options.resume and past.plan_id and past.plan_id != self.plan.id:
            raise ConfigError(
                f"holds a run of another plan, {past.plan_id!r}",
                place=self.output,
                hint="choose another --output, or leave out --resume to start afresh",
            )
        # Without --resume too: no step may run twice at once.
        left = past.end_strays()
        if left is not None and not left.ok:
            pids = ", ".join(str(one.pid) for one in left.survivors)
            raise StateError(f"steps of the run before still live and cannot be ended: {pids}", place=self.output)
        if self.options.resume:
            self._past = past
        else:
            _move_aside(events)
        self._journal = Journal.open(events)

    def _close(self) -> None:
        try:
            self._save(force=True)
            timeline.write(self.monitor.state, self.output)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for reader in self._reports.values():
            reader.close()
        self._reports.clear()
        if self._journal is not None:
            self._journal.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _catch_signals(self) -> Callable[[], None]:
        """Ctrl-C and its like are events too; only the main thread of a program may say so."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None

        def note(number: int, _frame: object) -> None:
            self._events.put(("signal", number))

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def interrupt(self) -> None:
        """As Ctrl-C does: end what runs and keep the state; a second time kills. From any thread."""
        self._events.put(("signal", signal.SIGINT))

    def _loop(self) -> None:
        self._start_ready()
        while not self._schedule.done:
            try:
                self._handle(*self._events.get(timeout=self._patience()))
                while True:
                    self._handle(*self._events.get_nowait())
            except Empty:
                pass
            now = monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._schedule.retry(heapq.heappop(self._timers)[1])
            self._start_ready()
            self._read_reports()
            self._save()

    def _patience(self) -> float | None:
        waits = [self._timers[0][0] - monotonic()] if self._timers else []
        if self._schedule.running:
            waits.append(_TICK)
        return max(0.0, min(waits)) if waits else None

    def _handle(self, kind: str, *facts: Any) -> None:
        if kind == "ended":
            self._ended(facts[0])
        elif kind == "started":
            step, pid, run_id = facts
            start = _platform.start_time(pid)
            if start is not None:
                self._write("step_runs", step=step, pid=pid, start=start, boot=_platform.boot_id(), run_id=run_id)
            self.monitor.note_process(step, pid, run_id)
        elif kind == "signal":
            self._interrupted(facts[0])

    def _unfinished(self) -> int:
        return sum(one.status not in ("completed", "skipped") for one in self.monitor.state.steps.values())

    def _in_short(self) -> str:
        left = self._unfinished()
        done = f"{len(self.steps) - left} of {len(self.steps)} steps completed"
        return f"{done}; first to fail: {self.failed[0]}" if self.failed else done

    # --- steps --------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        while not self.interrupted:
            ready = self._schedule.take()
            if not ready:
                return
            for name in ready:
                self._start(self.steps[name])
                self._take_waiting()

    def _take_waiting(self) -> None:
        """What has happened meanwhile, so that starting many does not keep ended ones waiting."""
        try:
            while True:
                self._handle(*self._events.get_nowait())
        except Empty:
            pass

    def _start(self, step: StepSpec) -> None:
        name = step.id
        self._schedule.started(name)
        if self.interrupted:
            self._events.put(("ended", StepEnd(step_id=name, attempt=0, error="interrupted")))
            return
        try:
            self._prints[name] = printed = fingerprint.fingerprint(self.plan, step)
        except SafeshError as error:
            self._events.put(("ended", StepEnd(step_id=name, attempt=1, error=str(error))))
            return
        past = self._past
        if past is not None and not self._ran.intersection(step.depends_on) and past.is_done(step, printed):
            self._skip(step, past.done[name])
            return
        self._ran.add(name)
        attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
        order = StepOrder(
            plan_id=self.plan.id,
            step=step,
            attempt=attempt,
            env={
                **self._env,
                **step.env,
                REPORT: self.path("reports", name + ".jsonl"),
                STEP: name,
                PLAN: self.plan.id,
                ATTEMPT: str(attempt),
            },
            log=self.path("logs", name + ".log"),
            report=self.path("reports", name + ".jsonl"),
            run_id=new_run_id(),
        )
        _remove(order.report)  # an attempt's numbers are its own: the monitor sums them up
        self._reports[name] = ReportReader(order.report)
        self._write("step_started", step=name, attempt=attempt, run_id=order.run_id)
        self.monitor.start_step(name, attempt=attempt, log=order.log)
        put = self._events.put
        self.engine.start(
            order,
            lambda step, pid, run_id: put(("started", step, pid, run_id)),
            lambda end: put(("ended", end)),
        )

    def _skip(self, step: StepSpec, event: dict[str, Any]) -> None:
        """Done by an earlier run, from the very same things."""
        self.monitor.skip_step(
            step.id,
            "done before",
            seconds=float(event.get("seconds") or 0.0),
            tokens=event.get("tokens"),
            cost=event.get("cost"),
        )
        self._schedule.ended(step.id, True)

    def _ended(self, end: StepEnd) -> None:
        name = end.step_id
        step = self.steps[name]
        self._read_report(name, final=True)
        reader = self._reports.pop(name, None)
        if reader is not None:
            reader.close()
        state = self.monitor.state.steps[name]
        if end.ok and not self._was_ended(end):
            self._write(
                "step_completed",
                step=name,
                attempt=end.attempt,
                fingerprint=self._prints[name],
                seconds=round(end.seconds, 6),
                tokens=state.tokens,
                cost=state.cost,
                usage=end.usage,
            )
            self.monitor.complete_step(name, success=True, seconds=end.seconds, usage=end.usage, return_code=0)
            self._schedule.ended(name, True)
            return
        if self.interrupted or end.attempt == 0:
            self._cancel_one(name, self._why)
            for other, _reason in self._schedule.ended(name, False):
                self._cancel_one(other, self._why)
            return
        error = end.error or "it ended in an unknown way"
        # One that never came to run, for its inputs cannot be read, would not the next time either.
        began = state.status == "running"
        if began and (end.lost or end.attempt <= step.retries):
            self._retry(step, end, error)
            return
        lines = _last_lines(self.path("logs", name + ".log")) if began else []
        self.failed.append(name)
        self._write(
            "step_failed", step=name, attempt=end.attempt, error=error, return_code=end.return_code, signal=end.signal
        )
        self.monitor.complete_step(
            name,
            success=False,
            error=error,
            seconds=end.seconds,
            usage=end.usage,
            return_code=end.return_code,
            signal=end.signal,
            last_lines=lines,
        )
        self._tell("step_failed", step=name, error=error, lines=lines)
        for other, reason in self._schedule.ended(name, False):
            self._cancel_one(other, reason)
        if self.options.fail_fast:
            self._end_all(f"{name} failed")

    def _was_ended(self, end: StepEnd) -> bool:
        """Whether it left because we asked it to: with status 0 too it may be half done."""
        verdict = end.verdict or {}
        return end.step_id in self._told_to_end and bool(verdict.get("asked") or verdict.get("killed"))

    def _retry(self, step: StepSpec, end: StepEnd, error: str) -> None:
        """Again after a pause, longer each time; a place that was lost costs no attempt."""
        if end.lost:
            self._attempts[step.id] -= 1
        backoff = step.backoff
        pause = min(backoff.max, backoff.initial * min(backoff.factor, 1e6) ** min(end.attempt - 1, 50))
        pause *= 1 + backoff.jitter * random.uniform(-1, 1)
        self._write("step_retry", step=step.id, attempt=end.attempt, error=error, pause=round(pause, 3), lost=end.lost)
        self.monitor.wait_step(
            step.id,
            f"again in {pause:.1f} s: {error}",
            seconds=end.seconds,
            error=error,
            return_code=end.return_code,
            signal=end.signal,
        )
        self._schedule.pause(step.id)
        heapq.heappush(self._timers, (monotonic() + (0.0 if end.lost else pause), step.id))

    def _cancel_one(self, name: str, reason: str) -> None:
        reason = reason.removeprefix("cancelled because ")
        self._write("step_cancelled", step=name, reason=reason)
        self.monitor.complete_step(name, success=False, cancelled_because=reason)

    # --- ending early -------------------------------------------------------------------------

    def _interrupted(self, number: int) -> None:
        if self.interrupted <= 0:
            self.interrupted = number
        again, self._asked = self._asked, True
        self._write("interrupted", signal=signal.Signals(number).name)
        self._end_all("interrupted", now=again)

    def _end_all(self, reason: str, *, now: bool = False) -> None:
        """Nothing new is started; what runs is ended, and told of when it has."""
        self.interrupted = self.interrupted or -1
        self._timers.clear()
        self._why = reason
        for name, _reason in self._schedule.cancel_all(reason):
            self._cancel_one(name, reason)
        for name in list(self._schedule.running):
            self._told_to_end.add(name)
            self.engine.cancel(name, now)

    # --- what is told and kept ----------------------------------------------------------------

    def _read_reports(self) -> None:
        for name in list(self._schedule.running):
            self._read_report(name)

    def _read_report(self, name: str, *, final: bool = False) -> None:
        reader = self._reports.get(name)
        if reader is None:
            return
        bad = reader.bad
        told = reader.read(final=final)
        if told or reader.bad != bad:
            self.monitor.update_step_progress(name, **told, bad_reports=reader.bad, bad_report=reader.reason)

    def _write(self, event: str, **facts: Any) -> None:
        if self._journal is not None:
            self._journal.write(event, **facts)

    def _tell(self, event: str, **facts: Any) -> None:
        if self.options.notify is not None:
            self.options.notify(event, {"plan": self.plan.id, **facts})

    def _save(self, *, force: bool = False) -> None:
        """result.json, replaced atomically; at most a twentieth of the time goes into it."""
        began = monotonic()
        if not force and began - self._saved_at < max(_SAVE, 20 * self._save_cost):
            return
        state = self.monitor.state.to_dict()
        path = self.path("result.json")
        temporary = f"{path}.new"  # nobody else writes here: the folder is ours
        try:
            # backslashreplace: half a surrogate pair becomes what JSON calls it.
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace", opener=_private) as file:
                # Not json.dump, which leaves the C encoder aside and takes eight times as long.
                file.write(json.dumps({"v": 1, "saved_at": round(wall(), 3), **state}, ensure_ascii=False))
            os.replace(temporary, path)
        except OSError as error:
            _remove(temporary)
            if force:
                raise StateError(f"cannot be written: {error.strerror}", place=path, hint="free some space") from None
        self._saved_at = monotonic()
        self._save_cost = self._saved_at - began


def hold_folder(output: str) -> locks.Lock:
    """The lock of an output folder; AlreadyRunning names who holds it."""
    path = os.path.join(output, ".lock")
    try:
        os.makedirs(output, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot be made: {error.strerror}", place=output, hint="choose another --output") from None
    held = locks.try_acquire(path)
    if held is None:
        holder = locks.read_holder(path) or {}
        raise AlreadyRunning(
            f"is in use by another run of a plan (pid {holder.get('pid', '?')})",
            place=output,
            hint="wait for it, stop it with Ctrl-C there, or choose another --output",
        )
    held.describe(TargetSpec(name="plan", instance="plan", project="", command=sys.argv, cwd=output))
    return held


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _move_aside(path: str) -> None:
    try:
        os.replace(path, path + ".1")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateError(
            f"cannot be moved aside: {error.strerror}", place=path, hint="choose another --output"
        ) from None


def _processors() -> int:
    """Those that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not there; or it cannot be removed, and then a reader of it says what it finds


def _last_lines(path: str) -> list[str]:
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-_LAST_LINES:]
