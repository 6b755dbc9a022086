"""``ExecutionMonitor``: who does which step of a plan, how far it is and what it costs, seen live.

It runs nothing itself: a runner, or any program with threads or asyncio, tells it what happens.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal, Self

from safesh.clock import monotonic, shown, wall
from safesh.plan import report, summary
from safesh.plan.display import Shower, Table
from safesh.plan.forecast import Forecast, History
from safesh.plan.lines import Lines
from safesh.plan.screen import Screen, is_terminal, put
from safesh.plan.state import MOST_EARLIER, PlanState, StepState, StepStatus
from safesh.plan.text import Look
from safesh.process.errors import InvalidCommand

Progress = Literal["auto", "tty", "plain", "json", "quiet"]

_MODES = ("auto", "tty", "plain", "json", "quiet")


class ExecutionMonitor:
    """Shows the steps of a plan: a live table on a terminal, else one line for each change.

    plan_id, description: shown above it. progress: ``tty`` draws the table, ``plain`` writes lines, ``json`` one object
    a line, ``quiet`` nothing but what failed; ``auto`` takes ``tty`` on a terminal and ``plain`` elsewhere. output: a
    text stream, by default ``sys.stdout`` (``sys.stderr`` for ``quiet``) as it is when monitoring starts. history: step
    id -> seconds that it is expected to take, or None; the time that is left is told from it. colour: False
    for none; NO_COLOR says the same.

    Every method may be called from any thread and from coroutines; none waits for the output. ``with monitor:`` starts
    and stops it. Wrong arguments raise InvalidCommand (a ValueError), which names them.
    """

    def __init__(
        self,
        plan_id: str = "",
        description: str = "",
        *,
        progress: Progress = "auto",
        output: IO[str] | None = None,
        history: History | None = None,
        colour: bool = True,
    ) -> None:
        _check_text("plan_id", plan_id)
        _check_text("description", description)
        if progress not in _MODES:
            raise InvalidCommand(f"{shown(progress)} is none of {', '.join(_MODES)}", place="progress")
        self.state = PlanState(plan_id, description)
        self._progress = progress
        self._output = output
        self._colour = colour
        self._lock = threading.RLock()
        self._forecast = Forecast(history)
        self._clock = wall() - monotonic()  # wall time that no clock step moves while we look
        self._shower: Shower | None = None
        self._pid = 0

    def __repr__(self) -> str:
        totals = self.state.totals
        return f"<ExecutionMonitor {self.state.plan_id!r}: {totals.done}/{totals.steps} steps>"

    def __enter__(self) -> Self:
        self.start_monitoring()
        return self

    def __exit__(self, *_problem: object) -> None:
        self.stop_monitoring()

    # ---- what happens to steps

    def add_step(self, step_id: str, type: str = "", provider: str = "", description: str = "") -> None:
        """One more step, pending, behind the others. type, provider: any words."""
        for name, value in (("step_id", step_id), ("type", type), ("provider", provider), ("description", description)):
            _check_text(name, value)
        self.restore_step(StepState(id=step_id, type=type, provider=provider, description=description))

    def restore_step(self, step: StepState) -> None:
        """A step as an earlier run left it; it is ours from now on."""
        if not step.id:
            raise InvalidCommand("is empty", place="step_id")
        with self._lock:
            if step.id in self.state.steps:
                raise InvalidCommand(f"step {shown(step.id)} was added before", place="step_id")
            self.state.add(step)
            if step.status == "pending":
                self._forecast.added(step.id)
            self._changed("step_added", step)

    def start_step(
        self, step_id: str, *, attempt: int | None = None, pid: int | None = None, run_id: str = "", log: str = ""
    ) -> None:
        """A step runs now, for the first time or once more. attempt: counted here unless it is given; log: its log's
        path; pid, run_id: of its tree, where there is one."""
        with self._lock:
            step = self._step(step_id)
            if step.status == "running":
                raise InvalidCommand(f"step {shown(step_id)} is running already", place="step_id")
            if step.attempt:
                self._remember(step)
            if step.status == "pending":
                self._forecast.left_waiting(step_id)
            now = self.now()
            step.attempt = attempt if attempt is not None else step.attempt + 1
            step.started_at, step.ended_at, step.seconds = now, None, 0.0
            step.progress, step.message, step.reason, step.error = None, "", "", ""
            step.return_code, step.signal, step.pid, step.run_id = None, "", pid, run_id
            step.log, step.last_lines, step.usage = log or step.log, [], {}
            if self.state.started_at is None:
                self.state.started_at = now
            self.state.move(step, "running")
            self._changed("step_started", step)

    def update_step_progress(
        self,
        step_id: str,
        progress: float | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        message: str | None = None,
        *,
        pid: int | None = None,
        run_id: str | None = None,
        bad_reports: int | None = None,
        bad_report: str = "",
    ) -> None:
        """How far a step is. progress: 0 to 1; tokens, cost: used by this attempt so far, not since the last call;
        bad_reports: lines of its report file that made no sense so far, bad_report: why the last one did not. None
        leaves a value as it was. A step that does not run any more takes numbers that come late."""
        given = {"tokens": tokens, "cost": cost, "progress": progress, "message": message}
        told = {name: report.check_one(name, value) for name, value in given.items() if value is not None}
        with self._lock:
            step = self._step(step_id)
            news = told.get("message", step.message) != step.message
            before = (step.tokens, step.cost, step.progress, step.bad_reports)
            self.state.spend(step, told.get("tokens"), told.get("cost"))
            step.progress = told.get("progress", step.progress)
            step.message = told.get("message", step.message)
            step.pid = step.pid if pid is None else pid
            step.run_id = step.run_id if run_id is None else run_id
            if bad_reports is not None and bad_reports != step.bad_reports:
                self.state.totals.bad_reports += bad_reports - step.bad_reports
                step.bad_reports, step.bad_report = bad_reports, bad_report
            if news or before != (step.tokens, step.cost, step.progress, step.bad_reports):
                self._changed("step_updated", step, news=news)

    def note_process(self, step_id: str, pid: int, run_id: str = "") -> None:
        """Which process a running step is, once it is known."""
        self.update_step_progress(step_id, pid=pid, run_id=run_id)

    def complete_step(
        self,
        step_id: str,
        success: bool = True,
        error: str | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        cancelled_because: str | None = None,
        *,
        seconds: float | None = None,
        return_code: int | None = None,
        signal: str = "",
        usage: Mapping[str, Any] | None = None,
        last_lines: Sequence[str] = (),
    ) -> None:
        """A step has ended: completed, failed (``success=False``; error: why), or cancelled with a reason, often
        ``X failed``. It need not have run.

        tokens, cost: of its last attempt; seconds: that took, where somebody has measured it better than we;
        last_lines: of its log, for the summary, which reads the log where none are given.
        """
        if error is not None:
            _check_text("error", error)
        if cancelled_because is not None:
            _check_text("cancelled_because", cancelled_because)
        spent = _spent(tokens, cost)
        with self._lock:
            step = self._open_step(step_id)
            self.state.spend(step, spent.get("tokens"), spent.get("cost"))
            self._end_attempt(step, seconds)
            status: StepStatus = "completed" if success else "failed"
            if cancelled_because is not None:
                status, step.reason = "cancelled", cancelled_because
            step.error = (error or "failed") if status == "failed" else error or ""
            step.return_code, step.signal = return_code, signal
            step.usage, step.last_lines = dict(usage or {}), list(last_lines)
            if status == "completed" and step.progress is not None:
                step.progress = 1.0
            if status != "cancelled":
                self._forecast.ended(step.seconds)
            self.state.move(step, status)
            self._changed("step_ended", step)

    def skip_step(
        self,
        step_id: str,
        reason: str,
        *,
        seconds: float = 0.0,
        tokens: int | None = None,
        cost: float | None = None,
    ) -> None:
        """A pending step need not run, for it was done before; seconds, tokens, cost: what it took then. The seconds
        are no part of this run's sum."""
        _check_text("reason", reason)
        spent = _spent(tokens, cost)
        with self._lock:
            step = self._open_step(step_id)
            if step.status == "running":
                raise InvalidCommand(f"step {shown(step_id)} is running", place="step_id")
            self.state.spend(step, spent.get("tokens"), spent.get("cost"))
            self._end_attempt(step, None)
            step.seconds, step.reason = seconds, reason
            self.state.move(step, "skipped")
            self._changed("step_ended", step)

    def wait_step(
        self,
        step_id: str,
        reason: str,
        *,
        seconds: float | None = None,
        error: str = "",
        return_code: int | None = None,
        signal: str = "",
    ) -> None:
        """A running step's attempt is over and it waits for the next one: it is pending again. reason: one line."""
        _check_text("reason", reason)
        with self._lock:
            step = self._open_step(step_id)
            if step.status != "running":
                raise InvalidCommand(f"step {shown(step_id)} does not run", place="step_id")
            self._end_attempt(step, seconds)
            step.reason, step.error = reason, error or reason
            step.return_code, step.signal = return_code, signal
            self.state.move(step, "pending")
            self._forecast.added(step_id)
            self._changed("step_waits", step)

    def _open_step(self, step_id: str) -> StepState:
        step = self._step(step_id)
        if step.ended:
            raise InvalidCommand(f"step {shown(step_id)} has ended already: {step.status}", place="step_id")
        return step

    def _end_attempt(self, step: StepState, seconds: float | None) -> None:
        step.ended_at = self.now()
        if step.status == "running" and step.started_at is not None:
            step.seconds = max(0.0, step.ended_at - step.started_at if seconds is None else seconds)
            self.state.totals.step_seconds += step.seconds
        elif step.status == "pending":
            self._forecast.left_waiting(step.id)
        step.pid = None

    def _remember(self, step: StepState) -> None:
        """The attempt that is over becomes an earlier one."""
        fields = ("attempt", "status", "started_at", "seconds", "error", "return_code", "signal")
        earlier = {name: getattr(step, name) for name in fields}
        if step.status == "pending":
            earlier["status"] = "failed"  # it waits because it has
        step.earlier = [*step.earlier, earlier][-MOST_EARLIER:]
        step.spent_seconds += step.seconds
        step.spent_tokens, step.spent_cost = step.tokens, step.cost

    def _step(self, step_id: object) -> StepState:
        step = self.state.steps.get(step_id) if isinstance(step_id, str) else None
        if step is None:
            import difflib

            near = difflib.get_close_matches(str(step_id), self.state.steps, 1)
            hint = f"did you mean {near[0]}?" if near else "add it first: add_step(...)"
            raise InvalidCommand(f"there is no step {shown(step_id)}", place="step_id", hint=hint)
        return step

    def now(self) -> float:
        """Wall seconds by the run's clock."""
        return self._clock + monotonic()

    # ---- showing it

    def start_monitoring(self) -> None:
        """Begin to show it. Nothing happens when it is shown already."""
        with self._lock:
            if self._shower is not None:
                return
            output = self._stream()
            if self.state.started_at is None:
                self.state.started_at = self.now()
            self.state.ended_at = None
            self._pid = os.getpid()
            if output is None:
                return
            mode = self._progress
            if mode == "auto":
                mode = "tty" if is_terminal(output) else "plain"
            display: Lines | Table
            if mode == "tty":
                display = Table(Screen(output), self.state, self.now, self._forecast.left, colour=self._colour)
            else:
                display = Lines(mode, output, self.state, self.now)
            display.plan_changed("plan_started")
            self._shower = Shower(display, self._lock)
            self._shower.start()
        atexit.register(self.stop_monitoring)

    def stop_monitoring(self) -> None:
        """Show the last state, and give back what was taken: standard streams, logging's handlers, the thread. The
        table stays on the screen. Nothing happens when it is not shown."""
        if self._pid and os.getpid() != self._pid:
            return  # a fork of the program that shows it: the thread is not here, and may have held the lock
        with self._lock:
            shower = self._shower
            if self.state.started_at is not None and self.state.ended_at is None:
                self.state.ended_at = self.now()
            if shower is None or shower.is_here():
                return
            self._shower = None
            shower.display.plan_changed("plan_ended")
        atexit.unregister(self.stop_monitoring)
        shower.stop()

    def print_final_summary(self, *, least: float | None = None, files: Mapping[str, str] | None = None) -> None:
        """Stop, and tell how the plan went: the root failure first, with the last lines of its log; totals; what was
        gained against running the steps one by one. least: seconds below which no schedule could have come;
        files: what -> path, of the results. In ``json`` it is one more object, in ``quiet`` only failures are told."""
        self.stop_monitoring()
        output = self._stream()
        if output is None:
            return
        with self._lock:
            if self._progress == "json":
                told = summary.as_json(self.state, self.now(), least=least, files=files or {})
            elif self._progress == "quiet" and not self.state.totals.failed:
                return
            else:
                cursor = is_terminal(output)
                look = Look.of(output, cursor=cursor, colour=self._colour)
                width = Screen(output).size()[0] if cursor else 0
                told = "\n".join(
                    summary.compose(self.state, self.now(), look=look, width=width, least=least, files=files or {})
                )
        put(output, told + "\n")

    def _stream(self) -> IO[str] | None:
        """Where it is shown; None in a program without standard streams."""
        if self._output is not None:
            return self._output
        found: IO[str] | None = sys.stderr if self._progress == "quiet" else sys.stdout
        return found

    def _changed(self, event: str, step: StepState, *, news: bool = True) -> None:
        shower = self._shower
        if shower is not None:
            shower.display.step_changed(event, step, news=news)
            shower.wake()


def _spent(tokens: int | None, cost: float | None) -> dict[str, Any]:
    given = {"tokens": tokens, "cost": cost}
    return {name: report.check_one(name, value) for name, value in given.items() if value is not None}


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidCommand(f"{shown(value)} is not text", place=name)
