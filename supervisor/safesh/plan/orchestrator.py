"""Plans from a program: ``await Orchestrator().execute_plan(plan_path=…, output_dir=…)``."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

from safesh.plan import past_times
from safesh.plan.load import load_plan
from safesh.plan.local import LocalEngine
from safesh.plan.monitor import ExecutionMonitor
from safesh.plan.notify import Notifier
from safesh.plan.runner import Options, Runner

if TYPE_CHECKING:
    from safesh.plan.engine import Engine
    from safesh.plan.monitor import Progress
    from safesh.plan.state import PlanState


class Orchestrator:
    """Runs plans inside of a program.

    jobs: steps at once (0: one a processor); fail_fast: the first failure ends everything; resume: leave out what is
    done; progress: as for ``ExecutionMonitor``; engine: another place to run steps, which is the caller's to
    close. Steps are held by keepers, so that none survives this program, however it ends.
    """

    def __init__(
        self,
        *,
        jobs: int = 0,
        fail_fast: bool = False,
        resume: bool = False,
        progress: Progress = "quiet",
        engine: Engine | None = None,
    ) -> None:
        self.jobs = jobs
        self.fail_fast = fail_fast
        self.resume = resume
        self.progress = progress
        self.engine = engine

    async def execute_plan(self, plan_path: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> PlanState:
        """Run the plan to its end; every step's state, which output_dir/result.json holds too.

        A cancelled wait ends what runs, keeps the state for a resume, and goes on. ConfigError for a plan that is
        wrong, AlreadyRunning for a folder in use, StateError for one that cannot be written.
        """
        runner = self._make(os.fspath(plan_path), os.fspath(output_dir))
        running = asyncio.get_running_loop()
        future: asyncio.Future[PlanState] = running.create_future()

        def settle(state: PlanState | None, error: BaseException | None) -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                elif state is not None:
                    future.set_result(state)

        def work() -> None:
            state, failure = None, None
            try:
                state = self._run(runner)
            except BaseException as error:
                failure = error
            try:
                running.call_soon_threadsafe(settle, state, failure)
            except RuntimeError:
                pass  # the event loop was closed meanwhile

        threading.Thread(target=work, name="safesh-plan", daemon=True).start()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            runner.interrupt()
            while not future.done():
                try:
                    await asyncio.shield(future)
                except asyncio.CancelledError:
                    runner.interrupt()
                except Exception:
                    break
            raise

    def _make(self, path: str, output: str) -> Runner:
        plan = load_plan(path)
        expected = past_times.load(plan)
        engine: Any = self.engine or LocalEngine(contain="keeper")
        monitor = ExecutionMonitor(plan.id, plan.description, progress=self.progress, history=expected.get)
        notifier = Notifier(plan, os.path.abspath(output)) if plan.notify else None
        options = Options(jobs=self.jobs, fail_fast=self.fail_fast, resume=self.resume, notify=notifier)
        return Runner(plan, output, engine, monitor, options, expected)

    def _run(self, runner: Runner) -> PlanState:
        try:
            state = runner.run()
        finally:
            if self.engine is None:
                runner.engine.close(now=False)
        past_times.save(runner.plan, state)
        if isinstance(runner.options.notify, Notifier):
            runner.options.notify.close()
        return state
