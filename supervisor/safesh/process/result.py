"""What a command did."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from safesh.process.errors import CommandFailed
from safesh.process.output import collected, decode, is_truncated, show, size_of, tail

if TYPE_CHECKING:
    from typing import Self

    from safesh.errors import SafeshError
    from safesh.model import Member, Verdict
    from safesh.process.job import Job
    from safesh.process.monitor import Sample


class Usage:
    """What the whole tree used, dead children included.

    cpu_seconds is user_seconds + system_seconds. peak_memory_bytes: of the cgroup where there is one; else the largest
    resident size of any one process (getrusage(2)), or of a sampled moment's sum. ``peak_memory_floor_bytes``: the
    kernel counts the copy of the caller that a child is until its exec, so a peak below this cannot be told from it.
    read_bytes and write_bytes: storage, as proc_pid_io(5) counts. None stands for what nobody could tell: the figures
    of a process whose status somebody else collected, say.

    In a session run an orphan that was not waited for is missing; a keeper's figures miss nobody.
    """

    __slots__ = (
        "cpu_seconds", "peak_memory_bytes", "peak_memory_floor_bytes", "read_bytes", "system_seconds", "user_seconds",
        "write_bytes"
    )  # fmt: skip

    def __init__(
        self,
        user_seconds: float | None = None,
        system_seconds: float | None = None,
        peak_memory_bytes: int | None = None,
        read_bytes: int | None = None,
        write_bytes: int | None = None,
        peak_memory_floor_bytes: int = 0,
    ) -> None:
        self.user_seconds = user_seconds
        self.system_seconds = system_seconds
        both = user_seconds is not None and system_seconds is not None
        self.cpu_seconds = round((user_seconds or 0.0) + (system_seconds or 0.0), 6) if both else None
        self.peak_memory_bytes = peak_memory_bytes
        self.read_bytes = read_bytes
        self.write_bytes = write_bytes
        self.peak_memory_floor_bytes = peak_memory_floor_bytes

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return "Usage(" + ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__) + ")"


_SHOWN = 200  # characters of output in a repr


class ExecutionResult:
    """One command and how it went; of a background command, a view that fills in when it ends.

    return_code: the exit status, -N for a signal N as subprocess gives it, None while it runs or when it never ran.
    signal: the signal's name or "". stdout, stderr: what was kept of the output, as text, or as bytes when ``encoding``
    is None. truncated: the oldest output was let go because of ``max_output``. timed_out: the deadline ended it.
    started_at: wall time; execution_time: seconds. leftovers: the verdict over what the main process left behind, None
    when that was nothing. verdict: that of the ending (timeout, limit, terminate_process ...), None for a natural end.
    pipe_holders: who had the output open when the deadline came or draining ended. samples: those of MONITORED.
    callback_errors: what callbacks raised; it ended nothing.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.command: list[str] = job.shown
        self.run_id: str = job.run_id
        self.pid: int | None = None
        self.return_code: int | None = None
        self.signal: str = ""
        self.started_at: float = job.started_at
        self.execution_time: float | None = None
        self.timed_out: bool = False
        self._error: SafeshError | None = None
        self.usage: Usage = Usage()
        self.leftovers: Verdict | None = None
        self.verdict: Verdict | None = None
        self.pipe_holders: list[Member] = []
        self.callback_errors: list[BaseException] = []
        self._text: dict[str, tuple[int, Any]] = {}

    def apart(self) -> ExecutionResult:
        """What it tells without its output: for those that know the job, which must not hold its own holder."""
        twin = copy.copy(self)
        del twin._job
        return twin

    @property
    def success(self) -> bool:
        """It ended, with status 0, in time and within its limits."""
        return self.return_code == 0 and self._error is None

    @property
    def error(self) -> SafeshError | None:
        """Why it is no success, typed; None for a success, and while it runs."""
        if self._error is None and self.return_code not in (0, None) and self.done:
            self._error = failure(self)
        return self._error

    @property
    def done(self) -> bool:
        """Whether it has ended (or never started) and all of its output is here."""
        return self._job.over

    @property
    def truncated(self) -> bool:
        return is_truncated(self._job)

    @property
    def samples(self) -> list[Sample]:
        return self._job.samples

    @property
    def stdout(self) -> Any:
        """``str``, or ``bytes`` where ``encoding`` is None."""
        return self._read("stdout")

    @property
    def stderr(self) -> Any:
        return self._read("stderr")

    @property
    def stdout_bytes(self) -> bytes:
        return collected(self._job, "stdout")

    @property
    def stderr_bytes(self) -> bytes:
        return collected(self._job, "stderr")

    def _read(self, stream: str) -> Any:
        job = self._job
        size = size_of(job, stream)
        known = self._text.get(stream)
        if known is not None and known[0] == size:
            return known[1]
        data = collected(job, stream)
        found: Any = data if job.encoding is None else decode(job, data)
        self._text[stream] = (size, found)
        return found

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it has ended, at most ``timeout`` seconds; the result itself, ``done`` or not."""
        self._job.wait(timeout)
        return self

    def check(self) -> Self:
        """The result itself; raises ``error`` (CommandFailed for a code other than 0) when it is no success."""
        if self.error is not None:
            raise self.error
        return self

    def to_dict(self, *, output: bool = True) -> dict[str, Any]:
        """Plain data with secrets redacted; ``output=False`` leaves stdout and stderr out."""
        redact = self._job.redact
        found: dict[str, Any] = {
            "success": self.success,
            "return_code": self.return_code,
            "signal": self.signal,
            "pid": self.pid,
            "run_id": self.run_id,
            "command": [redact(word) for word in self.command],
            "started_at": self.started_at,
            "execution_time": self.execution_time,
            "timed_out": self.timed_out,
            "truncated": self.truncated,
            "error": redact(str(self.error)) if self.error is not None else None,
            "error_type": type(self.error).__name__ if self.error is not None else None,
            "usage": self.usage.to_dict(),
            "leftovers": self.leftovers.to_dict() if self.leftovers is not None else None,
            "verdict": self.verdict.to_dict() if self.verdict is not None else None,
            "pipe_holders": [one.to_dict() for one in self.pipe_holders],
        }
        if output:
            for stream in ("stdout", "stderr"):
                found[stream] = redact(show(self._job, collected(self._job, stream)))
        return found

    def __repr__(self) -> str:
        redact = self._job.redact
        parts = [f"command={[redact(word) for word in self.command]!r}", f"pid={self.pid}"]
        if not self.done:
            parts.append("running")
        else:
            parts.append(f"return_code={self.return_code}")
            if self.signal:
                parts.append(f"signal={self.signal}")
            if self.execution_time is not None:
                parts.append(f"execution_time={self.execution_time:.3f}")
        if self.timed_out:
            parts.append("timed_out=True")
        if self.error is not None:
            parts.append(f"error={type(self.error).__name__}({redact(str(self.error))!r})")
        for stream in ("stdout", "stderr"):
            data = tail(self._job, stream, 4 * _SHOWN)
            if data:
                text = redact(show(self._job, data))
                parts.append(f"{stream}={text if len(text) <= _SHOWN else '...' + text[-_SHOWN:]!r}")
        return f"ExecutionResult({', '.join(parts)})"


def failure(result: ExecutionResult) -> CommandFailed:
    """The error of a command that ended by itself with something other than 0; the last line of stderr says why."""
    job = result._job
    how = f"killed by {result.signal}" if result.signal else f"exited with code {result.return_code}"
    last = show(job, tail(job, "stderr", 400)).strip().rpartition("\n")[2]
    error = CommandFailed(job.redact(f"{how}: {last}" if last else how), place=result.command[0], result=result)
    if result.return_code is not None:
        error.exit_code = 128 - result.return_code if result.return_code < 0 else result.return_code
    return error
