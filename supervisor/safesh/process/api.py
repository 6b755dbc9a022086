"""``execute_command`` and ``CommandExecutor``."""

from __future__ import annotations

import enum
import fcntl
import io
import os
from typing import IO, TYPE_CHECKING, Any, Literal, TypedDict

from safesh.core.contain import RUN_ID, new_run_id
from safesh.process import beginning, blocking, command, registry
from safesh.process.arguments import DEFAULT_MAX_OUTPUT, DEFAULT_STOP, Plan
from safesh.process.command import refuse
from safesh.process.conclusion import conclude_unstarted
from safesh.process.errors import InvalidCommand
from safesh.process.job import Job
from safesh.process.result import ExecutionResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Never, Self, Unpack

    from safesh.model import Limits, StopPolicy, Verdict
    from safesh.process.command import Command
    from safesh.process.monitor import Sample
    from safesh.process.secure_env import SecureEnv


class ExecutionMode(enum.Enum):
    """How a command is run.

    BLOCKING returns when it has ended. The others return at once, and one thread looks after all of them: BACKGROUND
    keeps the output to be read at any time; INTERACTIVE also calls back with each line, and keeps stdin open; MONITORED
    samples what the tree uses as well, and keeps limits.
    """

    BLOCKING = "blocking"
    BACKGROUND = "background"
    INTERACTIVE = "interactive"
    MONITORED = "monitored"


class Options(TypedDict, total=False):
    """The keywords of ``execute_command``, for those who pass them on."""

    timeout: float | str | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | SecureEnv | None
    input_data: str | bytes | bytearray | memoryview | IO[Any] | None
    on_output: Callable[[Any], object] | None
    on_error: Callable[[Any], object] | None
    on_complete: Callable[[ExecutionResult], object] | None
    on_sample: Callable[[Sample], object] | None
    encoding: str | None
    errors: str
    shell: bool
    pty: bool | Literal["raw"]
    max_output: int | str | None
    stop: StopPolicy | str | float | None
    limits: Limits | Mapping[str, Any] | None
    contain: Literal["session", "keeper"]
    logger: Any


def execute_command(
    command: Command,
    mode: ExecutionMode = ExecutionMode.BLOCKING,
    *,
    timeout: float | str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | SecureEnv | None = None,
    input_data: str | bytes | bytearray | memoryview | IO[Any] | None = None,
    on_output: Callable[[Any], object] | None = None,
    on_error: Callable[[Any], object] | None = None,
    on_complete: Callable[[ExecutionResult], object] | None = None,
    on_sample: Callable[[Sample], object] | None = None,
    encoding: str | None = "utf-8",
    errors: str = "replace",
    shell: bool = False,
    pty: bool | Literal["raw"] = False,
    max_output: int | str | None = DEFAULT_MAX_OUTPUT,
    stop: StopPolicy | str | float | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
    contain: Literal["session", "keeper"] = "session",
    logger: Any = None,
    **unknown: Never,
) -> ExecutionResult:
    """Run a command and hold its whole tree; see ``ExecutionMode`` for when this returns.

    command: a list of arguments, or a string that is split as a shell would and run by none; ``shell=True`` has
    /bin/sh run the string. timeout: seconds (or "90s", "2m") after which the whole tree is ended by ``stop`` and the
    result, with what there is of the output, comes back within its grace and a second. stop: a StopPolicy, a signal, or
    the grace in seconds; SIGTERM and 0.5 s unless told. env: the whole environment, or a SecureEnv. input_data: text,
    bytes or an open file; none: BLOCKING gives /dev/null, the others a pipe for ``write_to_process``.
    on_output, on_error: called with each line, without its newline; on_complete: with the result; on_sample: with
    each Sample. None of them runs in the loop's thread, and what they raise is told in ``callback_errors`` and ends
    nothing. encoding: None for bytes. pty: a pseudo-terminal without echo, "raw" for one that changes no byte; stderr
    is then part of stdout. max_output: bytes kept of each stream (the last ones), or "1GB"; None for no bound. limits:
    a Limits or ``{"memory": "512MB", "cpu": 200, "max_runtime": 60, "processes": 50, "interval": 0.5}``. contain:
    "session", or "keeper" for a tree that nobody leaves and that ends with us however we end; it costs a Python start.
    logger: a standard or structlog logger, or a function, that is told of start and end.

    What goes wrong with the command is in the result (``error``, ``check()``); only a call that could never work raises
    (InvalidCommand), and KeyboardInterrupt, once the tree has been ended.
    """
    if unknown:
        _refuse_unknown(unknown)
    return _run(
        command,
        mode,
        {
            "timeout": timeout,
            "cwd": cwd,
            "env": env,
            "input_data": input_data,
            "on_output": on_output,
            "on_error": on_error,
            "on_complete": on_complete,
            "on_sample": on_sample,
            "encoding": encoding,
            "errors": errors,
            "shell": shell,
            "pty": pty,
            "max_output": max_output,
            "stop": stop,
            "limits": limits,
            "contain": contain,
            "logger": logger,
        },
    )


_KNOWN = frozenset(Options.__annotations__)
_PLAIN_MODE = ExecutionMode.BLOCKING
_CALLBACKS = ("on_output", "on_error", "on_complete", "on_sample")


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name not in _KNOWN:
            import difflib

            close = difflib.get_close_matches(name, _KNOWN, 1)
            refuse(name, "is no argument of execute_command", f"did you mean {close[0]}?" if close else "")


def make_plan(command_: Command, mode: ExecutionMode, options: Mapping[str, Any]) -> Plan:
    """Everything checked; InvalidCommand tells the argument that could never work."""
    if not isinstance(mode, ExecutionMode):
        refuse("mode", f"expected an ExecutionMode, not {mode!r}", "such as ExecutionMode.BLOCKING")
    get = options.get
    shell = get("shell", False)
    if not isinstance(shell, bool):
        refuse("shell", f"expected True or False, not {shell!r}")
    argv = command.parse_command(command_, shell)
    run_id = new_run_id()
    env = get("env")
    redact = None
    if env is not None and hasattr(env, "build"):
        redact = env.redact
        env = env.build()
    plan = Plan(argv, command.build_environment(env, run_id, RUN_ID), run_id)
    plan.mode = mode.value
    if redact is not None:
        plan.redact = redact
    if (timeout := get("timeout")) is not None:
        plan.timeout = command.parse_timeout(timeout)
    if (cwd := get("cwd")) is not None:
        plan.cwd = command.parse_cwd(cwd)
    plan.encoding = get("encoding", "utf-8")
    plan.errors = get("errors", "replace")
    if plan.encoding != "utf-8" or plan.errors != "replace":
        command.check_encoding(plan.encoding, plan.errors)
    for name in _CALLBACKS:
        callback = get(name)
        if callback is not None:
            if not callable(callback):
                refuse(name, f"expected something to call, not {type(callback).__name__}")
            setattr(plan, name, callback)
    pty = get("pty", False)
    if not isinstance(pty, bool) and pty != "raw":
        refuse("pty", f"expected True, False or 'raw', not {pty!r}")
    plan.pty = pty
    max_output = get("max_output", DEFAULT_MAX_OUTPUT)
    if max_output is not DEFAULT_MAX_OUTPUT:
        plan.max_output = command.parse_max_output(max_output)
    if (stop := get("stop")) is not None:
        plan.stop = command.parse_stop(stop, DEFAULT_STOP)
    plan.limits = command.parse_limits(get("limits"))
    plan.contain = get("contain", "session")
    if plan.contain not in ("session", "keeper"):
        refuse("contain", f"expected 'session' or 'keeper', not {plan.contain!r}")
    _set_input(plan, mode, get("input_data"))
    logger = get("logger")
    if logger is not None:
        from safesh.process.logs import adapt

        plan.logger = adapt(logger).with_redactor(plan.redact)
    return plan


def _set_input(plan: Plan, mode: ExecutionMode, data: object) -> None:
    if data is None:
        plan.keep_stdin = mode is not ExecutionMode.BLOCKING
        return
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        plan.input = command.as_bytes(data, plan.encoding, "input_data")
        plan.keep_stdin = mode is ExecutionMode.INTERACTIVE
        return
    read = getattr(data, "read", None)
    if read is None:
        refuse("input_data", f"expected text, bytes or an open file, not {type(data).__name__}")
    try:
        fd = _descriptor(data)
        if fd < 0:  # in memory, or unpacked as it is read: its content, from where it stands
            plan.input = command.as_bytes(read(), plan.encoding, "input_data")
            plan.keep_stdin = mode is ExecutionMode.INTERACTIVE
            return
        readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidCommand):
            raise
        refuse("input_data", f"is a file that cannot be read from: {error}")
    if not readable:
        refuse("input_data", "is a file that was opened for writing", "open it for reading")
    if plan.pty:
        refuse("input_data", "a file cannot be the input of a terminal", "pass its content")
    plan.stdin_file = fd


def _descriptor(file: Any) -> int:
    """-1 for a file object that has none. OSError, ValueError: it is closed, or broken."""
    try:
        fd = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return -1
    return fd if isinstance(fd, int) else -1


def _run(command_: Command, mode: ExecutionMode, options: Mapping[str, Any]) -> ExecutionResult:
    job = begin(command_, mode, options)
    if mode is _PLAIN_MODE and not job.over:
        from safesh.process import background

        background.wait(job)
    return _given(job, mode)


def _given(job: Job, mode: ExecutionMode) -> ExecutionResult:
    result = job.give()
    if mode is _PLAIN_MODE:
        registry.forget(job)
        job.let_go()
    return result


def begin(
    command_: Command,
    mode: ExecutionMode,
    options: Mapping[str, Any],
    *,
    here: bool = True,
    take: Callable[[str, Sequence[Any]], None] | None = None,
    is_full: Callable[[], bool] | None = None,
) -> Job:
    """Start a job; a plain blocking one is over when this returns, unless it must not be driven ``here``.

    take: gets the lines in the loop's own thread, instead of callbacks; is_full: whether it has enough for now.
    """
    plan = make_plan(command_, mode, options)
    job = Job(plan)
    job.take, job.is_full = take, is_full
    if here and mode is _PLAIN_MODE and plan.limits is None and plan.contain == "session" and plan.on_sample is None:
        _run_here(job)
    else:
        from safesh.process import background

        background.run(job)
    return job


def _run_here(job: Job) -> None:
    try:
        if beginning.begin(job):
            registry.add(job)
            if job.plan.logger is not None:
                job.tell("process_started", command=job.shown, mode=job.plan.mode)
            blocking.drive(job)
        else:
            conclude_unstarted(job)
    except BaseException:
        if not job.over:  # interrupted before anybody looked after it
            beginning.abandon(job)
        raise
    finally:
        registry.settle(job, keep=False)
        job.finish()
    if job.plan.on_complete is not None:
        job.call(job.plan.on_complete, job.result)


class CommandExecutor:
    """``execute_command`` with defaults of one's own; as a context manager it ends what it started and still runs.

    ::

        with CommandExecutor(cwd="work", timeout="10m", logger=log) as run:
            run("make")
            server = run.execute("./server", ExecutionMode.BACKGROUND)
    """

    def __init__(self, **defaults: Unpack[Options]) -> None:
        _refuse_unknown(defaults)
        self.defaults = defaults
        self._started: dict[int, Job] = {}

    def execute(
        self, command: Command, mode: ExecutionMode = ExecutionMode.BLOCKING, **options: Unpack[Options]
    ) -> ExecutionResult:
        """``execute_command`` with the defaults under ``options``; an environment given here replaces the default
        one."""
        _refuse_unknown(options)
        both = {**self.defaults, **options}
        if mode is _PLAIN_MODE:
            return _run(command, mode, both)
        job = begin(command, mode, both)
        self._keep(job)
        return job.give()

    __call__ = execute

    async def aexecute(
        self, command: Command, mode: ExecutionMode = ExecutionMode.BLOCKING, **options: Unpack[Options]
    ) -> ExecutionResult:
        """``aexecute_command`` with the defaults under ``options``."""
        from safesh.process.aio import arun

        _refuse_unknown(options)
        return await arun(command, mode, {**self.defaults, **options}, self._keep)

    def _keep(self, job: Job) -> None:
        if not job.over:
            key = id(job)
            self._started[key] = job
            job.when_done(lambda: self._started.pop(key, None))  # type: ignore[arg-type]

    @property
    def running(self) -> list[ExecutionResult]:
        """What it started and has not ended."""
        return [job.result for job in list(self._started.values()) if not job.over]

    def close(self, *, now: bool = False) -> dict[int, Verdict]:
        """End all that it started and that still runs, together; a verdict for each, by pid. now: without asking."""
        from safesh.process.endings import end_jobs

        return end_jobs([job for job in list(self._started.values()) if not job.over], now=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
