"""``TaskRunner``: missions let in, given their environment, run whole, measured, and told of."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from safesh.clock import format_duration, monotonic, wall
from safesh.errors import ResourceError, SafeshError
from safesh.mission import launching, store
from safesh.mission.control import CalledOff, Control
from safesh.mission.environment import Environments
from safesh.mission.errors import InvalidMission, MissionRefused
from safesh.mission.launching import Launch
from safesh.mission.model import Mission
from safesh.mission.recorder import Machine, Recorder, default_log
from safesh.mission.result import MissionResult
from safesh.model import Limits

if TYPE_CHECKING:
    from safesh.metrics.admission import Thresholds
    from safesh.metrics.history import History
    from safesh.metrics.jsonlog import ResourceLog
    from safesh.mission.environment import Environment
    from safesh.mission.installer import Wish
    from safesh.process.result import ExecutionResult

_ASK_EVERY = 1.0  # seconds between two looks of one that waits for room
_HOW_TO_WAIT = "wait for room with queue=SECONDS, or let it in all the same with thresholds=False"


class TaskRunner:
    """Runs missions, several at once where several threads or tasks ask for that.

    ::

        with TaskRunner("lab-3", queue=600) as runner:
            result = runner.execute_mission(Mission("fit", code, ["numpy"]), session_id="today")
    """

    def __init__(
        self,
        device_id: str,
        *,
        log: Any = None,
        thresholds: Thresholds | Literal[False] | None = None,
        queue: float | None = None,
        history: History | str | os.PathLike[str] | None = None,
        interval: float = 1.0,
        installer: Wish = "auto",
        environments: Environments | None = None,
        on_output: Callable[[str], object] | None = None,
        on_error: Callable[[str], object] | None = None,
        stdin: IO[Any] | None = None,
        max_output: int | str | None = "256M",
    ) -> None:
        """device_id: which machine or robot, for the log. log: the path of a JSON log, or a ``logging`` or structlog
        logger; ``missions.jsonl`` in the state folder unless told, False for none. thresholds: what may be in use for a
        mission to be let in; False lets all in. queue: seconds to wait for room; None refuses at once. history: a
        ``History`` or a path of one, of which past peaks foretell what a mission needs and which is told of runs.
        interval: seconds between two samples, where the mission's limits say nothing. installer: ``uv``, ``pip``, or
        ``auto``. environments: where more is to be said of them. on_output, on_error: called with each line, as it
        is. stdin: an open file for the missions to read; none unless told. max_output: bytes kept of each stream."""
        _check_name("device_id", device_id)
        _check_queue(queue)
        self.device_id = device_id
        self.queue = queue
        self.thresholds = thresholds
        self.interval = interval
        self.environments = environments if environments is not None else Environments(installer=installer)
        self._on_output, self._on_error = on_output, on_error
        self._stdin = stdin
        self._max_output = max_output
        self._machine = Machine()
        self._wanted_log = log
        self._log: ResourceLog | None = None
        self._wanted_history = history
        self._history: History | None = None
        self._opening = threading.Lock()

    # --- the calls ----------------------------------------------------------------------------

    def execute_mission(self, mission: Mission, session_id: str = "") -> MissionResult:
        """Run a mission to its end (kept alive: until it runs) and tell how it went.

        Whatever keeps it from running is in the result. Only KeyboardInterrupt is raised, once its tree has been
        ended, and InvalidMission for something that is no Mission.
        """
        return self.run(mission, session_id, Control())

    async def aexecute_mission(self, mission: Mission, session_id: str = "") -> MissionResult:
        """``execute_mission`` for asyncio; a cancelled wait ends the mission whole before the cancellation goes on."""
        import asyncio

        control = Control()
        work = _in_thread(lambda: self.run(mission, session_id, control))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            ending = _in_thread(control.cancel)
            while not (work.done() and ending.done()):
                try:
                    await asyncio.wait([work, ending])
                except asyncio.CancelledError:
                    continue  # asked again; nothing of it may stay
            work.exception()  # CalledOff, and nobody else's business
            raise

    def should_execute_mission(self, mission: Mission) -> tuple[bool, str]:
        """(whether there is room for it now, why) by the thresholds and what its like took before."""
        _check_mission(mission)
        recorder = self._recorder(mission, "")
        may, why, _snapshot = self._judge(mission, recorder, Control())
        return may, why

    def prune_environments(self, keep: int | None = None, older_than: float | None = None) -> list[str]:
        """Remove kept environments that nobody uses, the longest unused first; the paths of those removed.

        keep: how many stay; older_than: only those unused for so many seconds. Without either all of them go.
        """
        return self.environments.prune(keep=keep if keep is not None else 0, older_than=older_than or 0.0)

    def close(self) -> None:
        """Close what it opened."""
        self._machine.close()
        with self._opening:
            if self._log is not None and self._log is not self._wanted_log:
                self._log.close()
            if self._history is not None and self._history is not self._wanted_history:
                self._history.close()
            self._log = self._history = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # --- one mission --------------------------------------------------------------------------

    def run(self, mission: Mission, session_id: str, control: Control) -> MissionResult:
        """``execute_mission`` with somebody who may call it off, which raises CalledOff."""
        _check_mission(mission)
        result = MissionResult(mission.mission_id, session_id, self.device_id)
        recorder = self._recorder(mission, session_id)
        redact: Callable[[str], str] = getattr(mission.env, "redact", str)
        try:
            self._run(mission, result, recorder, control)
        except (CalledOff, InvalidMission):
            raise
        except SafeshError as error:
            result.fail(error)
        except OSError as error:
            place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else mission.mission_id
            result.fail(ResourceError(f"cannot be run: {error.strerror or error}", place=place, hint="see: ulimit -a"))
        _redact(result, redact)
        if result.resources_final is None and result.error is not None:
            refused = isinstance(result.error, MissionRefused)
            word = "mission_refused" if refused else "mission_failed"
            recorder.write(word, level="warning" if refused else "error", reason=result.reason)
        result.notes += [redact(one) for one in recorder.problems]
        return result

    def _run(self, mission: Mission, result: MissionResult, recorder: Recorder, control: Control) -> None:
        mission.check_code()
        snapshot = self._admit(mission, result, recorder, control)
        environment: Environment | None = None
        recorder.attempt("sweep", store.sweep)
        try:
            if mission.requirements:
                needed = launching.requirements_of(mission)
                environment = self.environments.prepare(needed, control)
                result.environment = environment.info
            else:
                result.environment = launching.current_interpreter()
            if snapshot is None:
                snapshot = recorder.attempt("snapshot", lambda: self._machine.look(None))
            result.resources_initial = snapshot
            with Launch(mission, result.environment) as launch:
                if mission.keep_alive:
                    key = environment.key if environment is not None else ""
                    result.instance = launch.keep(environment=key, interval=self.interval)
                    result.run_id = result.instance["run_id"]
                    recorder.on_run(result.run_id, snapshot)
                    result.success = True
                else:
                    self._watch(mission, result, recorder, control, launch)
        finally:
            if environment is not None:
                environment.release()

    def _watch(
        self, mission: Mission, result: MissionResult, recorder: Recorder, control: Control, launch: Launch
    ) -> None:
        started_at = wall()

        def begun(running: ExecutionResult) -> None:
            recorder.on_run(running.run_id, result.resources_initial)

        outcome = control.run(
            launch.command,
            begun,
            env=launch.env,
            cwd=mission.cwd,
            timeout=mission.timeout,
            limits=mission.limits or Limits(interval=self.interval),
            input_data=self._stdin if self._stdin is not None else b"",
            on_output=self._on_output,
            on_error=self._on_error,
            on_sample=recorder.on_sample,
            logger=recorder.on_event,
            max_output=self._max_output,
        )
        _take_over(result, outcome)
        for error in outcome.callback_errors:
            recorder.tell("callback", f"callback: {type(error).__name__}: {error}")
        problem = launch.problem()
        if problem is not None:
            result.fail(problem)
        elif outcome.error is not None:
            error = outcome.error
            error.place = mission.mission_id
            result.fail(error)
        result.resources_final = recorder.attempt("snapshot", lambda: self._machine.look(None))
        recorder.write(
            "resources_final",
            **{
                **(result.resources_final or {}),
                "success": result.success,
                "return_code": result.return_code,
                "execution_time": result.execution_time,
                "usage": result.usage,
            },
        )
        recorder.note_run(result, mission.mission_type, started_at, outcome.samples)

    # --- whether it may start -----------------------------------------------------------------

    def _admit(
        self, mission: Mission, result: MissionResult, recorder: Recorder, control: Control
    ) -> dict[str, Any] | None:
        """The snapshot that let it in; MissionRefused where there is no room within the time it may wait."""
        if self.thresholds is False:
            result.admission = "not asked"
            return None
        began = monotonic()
        while True:
            control.check()
            may, why, snapshot = self._judge(mission, recorder, control)
            waited = monotonic() - began
            if may:
                result.admission = why + (f"; waited {format_duration(waited)}" if waited > _ASK_EVERY else "")
                return snapshot
            if self.queue is None or waited >= self.queue:
                result.admission = why
                more = f"; waited {format_duration(waited)}" if self.queue else ""
                raise MissionRefused(f"no room for it now: {why}{more}", place=mission.mission_id, hint=_HOW_TO_WAIT)
            control.sleep(min(_ASK_EVERY, self.queue - waited))

    def _judge(self, mission: Mission, recorder: Recorder, control: Control) -> tuple[bool, str, dict[str, Any] | None]:
        snapshot = recorder.attempt("snapshot", lambda: self._machine.look(control.sleep))
        control.check()
        if snapshot is None:
            return True, "not judged: the system cannot be looked at", None
        needs = {"target": mission.mission_id, "mission_type": mission.mission_type or None}

        def judge(history: History | None) -> tuple[bool, str]:
            from safesh.metrics.admission import should_execute

            return should_execute(needs, snapshot=snapshot, history=history, thresholds=self.thresholds or None)

        answer = recorder.attempt("history", lambda: judge(recorder.history))
        if answer is None:
            answer = recorder.attempt("admission", lambda: judge(None))
        may, why = answer if answer is not None else (True, "not judged")
        return may, why, snapshot

    # --- what is opened when it is first needed -----------------------------------------------

    def _recorder(self, mission: Mission, session_id: str) -> Recorder:
        return Recorder(
            self._open_log,
            self._open_history,
            mission_id=mission.mission_id,
            device_id=self.device_id,
            session_id=session_id or None,
        )

    def _open_log(self) -> ResourceLog | None:
        wanted = self._wanted_log
        if wanted is False:
            return None
        with self._opening:
            if self._log is None:
                from safesh.metrics.jsonlog import ResourceLog

                if isinstance(wanted, ResourceLog):
                    self._log = wanted
                elif wanted is None or isinstance(wanted, (str, os.PathLike)):
                    self._log = ResourceLog(os.fspath(wanted) if wanted is not None else default_log())
                else:
                    self._log = ResourceLog(logger=wanted)
            return self._log

    def _open_history(self) -> History | None:
        wanted = self._wanted_history
        if wanted is None:
            return None
        with self._opening:
            if self._history is None:
                if isinstance(wanted, (str, os.PathLike)):
                    from safesh.metrics.history import History

                    self._history = History(os.fspath(wanted))
                else:
                    self._history = wanted
            return self._history


def _check_name(place: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidMission(f"expected a name, not {name!r}", place=place, hint="such as 'lab-3'")


def _check_queue(seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise InvalidMission(
            f"expected seconds of 0 or more, not {seconds!r}", place="queue", hint="None refuses at once"
        )


def _check_mission(mission: object) -> None:
    if not isinstance(mission, Mission):
        raise InvalidMission(f"expected a Mission, not {type(mission).__name__}", place="mission")


def _take_over(result: MissionResult, outcome: ExecutionResult) -> None:
    result.run_id = outcome.run_id
    result.return_code, result.signal = outcome.return_code, outcome.signal
    result.stdout, result.stderr = outcome.stdout, outcome.stderr
    result.truncated, result.timed_out = outcome.truncated, outcome.timed_out
    result.execution_time = outcome.execution_time
    result.usage = outcome.usage
    result.success = outcome.success
    if outcome.leftovers is not None:
        count = len(outcome.leftovers.asked)
        result.notes.append(f"{count} process{'es' if count != 1 else ''} that it left behind ended with it")


def _redact(result: MissionResult, redact: Callable[[str], str]) -> None:
    if redact is str:
        return
    result.stdout, result.stderr = redact(result.stdout), redact(result.stderr)
    result.admission = redact(result.admission)
    if result.environment is not None:
        result.environment.note = redact(result.environment.note)
    error = result.error
    if error is not None:
        error.message, error.place, error.hint = redact(error.message), redact(error.place), redact(error.hint)
        error.args = (error.message,)
        error.log = [redact(line) for line in error.log]
        result.reason = str(error)


def _in_thread(call: Callable[[], Any]) -> Any:
    """A future of what ``call`` gives, in a thread of its own: a pool's could all be waiting for missions."""
    import asyncio

    running = asyncio.get_running_loop()
    future: asyncio.Future[Any] = running.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def work() -> None:
        value, problem = None, None
        try:
            value = call()
        except BaseException as error:
            problem = error
        try:
            running.call_soon_threadsafe(settle, value, problem)
        except RuntimeError:
            pass  # the event loop was closed meanwhile

    threading.Thread(target=work, name="safesh mission", daemon=True).start()
    return future
