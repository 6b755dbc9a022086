"""What a command is to be: a call's arguments once they are checked, before anything is started.

Apart from the job that comes of it, so that whoever has commands of another kind (the steps of a plan) can describe one
without the loop.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safesh.model import StopPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from safesh.model import Limits
    from safesh.process.logs import EventLogger
    from safesh.process.monitor import Sample
    from safesh.process.result import ExecutionResult

DEFAULT_STOP = StopPolicy(signal="SIGTERM", scope="main", grace=0.5)
DEFAULT_MAX_OUTPUT = 1 << 28  # bytes of each stream


def _as_it_is(text: str) -> str:
    return text


class Plan:
    """A call's arguments, checked; see ``api.execute_command`` for what each means."""

    __slots__ = (
        "argv", "contain", "cwd", "encoding", "env", "errors", "input", "keep_stdin", "limits", "logger", "max_output",
        "mode", "on_complete", "on_error", "on_output", "on_sample", "output_fd", "pty", "redact", "run_id", "shown",
        "stdin_file", "stop", "timeout"
    )  # fmt: skip

    def __init__(self, argv: list[str], env: Mapping[bytes, bytes], run_id: str) -> None:
        self.argv = argv
        self.shown = argv
        self.env = env
        self.run_id = run_id
        self.mode = "blocking"
        self.cwd: str | None = None
        self.timeout: float | None = None
        self.input: bytes | memoryview | None = None
        self.keep_stdin = False  # a pipe that stays open for write_to_process
        self.output_fd = -1  # a descriptor that takes stdout and stderr, instead of pipes
        self.stdin_file = -1  # a descriptor that becomes the child's stdin as it is
        self.on_output: Callable[[Any], object] | None = None
        self.on_error: Callable[[Any], object] | None = None
        self.on_complete: Callable[[ExecutionResult], object] | None = None
        self.on_sample: Callable[[Sample], object] | None = None
        self.encoding: str | None = "utf-8"
        self.errors = "replace"
        self.pty: bool | str = False
        self.max_output: int | None = DEFAULT_MAX_OUTPUT
        self.stop = DEFAULT_STOP
        self.limits: Limits | None = None
        self.contain = "session"
        self.redact: Callable[[str], str] = _as_it_is
        self.logger: EventLogger | None = None

    def text_env(self) -> dict[str, str]:
        return {os.fsdecode(name): os.fsdecode(value) for name, value in self.env.items()}
