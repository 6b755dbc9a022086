"""Errors of the process API: each tells what, where and what to do next (see ``safesh.errors``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesh.errors import SafeshError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safesh.model import Member
    from safesh.process.result import ExecutionResult


class ProcessError(SafeshError):
    """Anything that a call of the process API can end with."""


class InvalidCommand(ProcessError, ValueError):
    """A command or an argument of the call that could never work; told before anything is started."""

    exit_code = 2


class CommandTimeout(ProcessError, TimeoutError):
    """The deadline came. timeout: seconds allowed; holders: who still had the output open when draining ended."""

    exit_code = 124  # timeout(1)

    def __init__(self, message: str, *, place: str = "", timeout: float = 0.0, holders: Sequence[Member] = ()) -> None:
        super().__init__(message, place=place, hint="give it a longer timeout, or look at what it waits for")
        self.timeout = timeout
        self.holders = list(holders)


class CommandFailed(ProcessError):
    """Raised by ``ExecutionResult.check()``: the command ended with a code other than 0. result: all of it."""

    def __init__(self, message: str, *, place: str = "", result: ExecutionResult) -> None:
        super().__init__(message, place=place)
        self.result = result


class LimitExceeded(ProcessError):
    """A limit ended the run. name: which; used, most: in the limit's own unit."""

    def __init__(self, message: str, *, place: str = "", name: str, used: float, most: float) -> None:
        super().__init__(message, place=place)
        self.name = name
        self.used = used
        self.most = most


class StatusLost(ProcessError):
    """Somebody else in this process collected the exit status (SIGCHLD ignored, or ``waitpid(-1)``)."""


class StdinClosed(ProcessError):
    """Written to a process whose standard input is closed, or was never a pipe."""


class NotManaged(ProcessError):
    """Asked of a process that this API did not start something that only its starter can do."""


class NoSuchProcess(ProcessError, LookupError):
    """There is no process with this pid (any more)."""


class Refused(ProcessError):
    """Not signalled, ever: ourselves, those above us, pid 1, the kernel's own threads."""


class UndecodableOutput(ProcessError, ValueError):
    """With ``errors="strict"``: the output is not in the encoding that was named; ``stdout_bytes`` has the bytes."""
