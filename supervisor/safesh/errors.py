"""Errors: each one owns its exit code, its place and the next thing to do.

Only ``cli/`` prints them; everything below raises them.
"""

from __future__ import annotations


class SafeshError(Exception):
    """A problem told in one line.

    message: what is wrong and what was expected; place: the file, key or process it concerns;
    hint: the next command or edit; log: what the process in question said last, line by line.
    ``str()`` gives ``place: message`` alone.
    """

    exit_code = 1

    def __init__(self, message: str, *, place: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint
        self.log: list[str] = []

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class UsageError(SafeshError):
    """The command line asks for something that does not exist, or lacks a confirmation."""

    exit_code = 2


class ConfigError(SafeshError):
    """safe.toml, an env_file or an environment variable of ours is wrong (EX_CONFIG)."""

    exit_code = 78


class AlreadyRunning(SafeshError):
    """The instance is held by somebody else (EX_TEMPFAIL)."""

    exit_code = 75


class CommandNotFound(SafeshError):
    """The target's program does not exist (the shell's 127)."""

    exit_code = 127


class CommandNotExecutable(SafeshError):
    """The target's program exists but cannot be executed (the shell's 126)."""

    exit_code = 126


class ArgumentsTooLong(CommandNotExecutable):
    """Arguments and environment exceed what execve(2) takes (the shell's 126)."""


class StateError(SafeshError):
    """A state file or folder of ours cannot be used or trusted: corrupt, foreign, a symlink, full."""

    exit_code = 73


class ResourceError(SafeshError):
    """The system has none left: descriptors, processes, memory, disk (EX_OSERR)."""

    exit_code = 71


def is_unloadable(error: BaseException) -> bool:
    """Whether a library that is there could not be loaded: no memory, no descriptor (dlopen(3)). No bug of ours."""
    return isinstance(error, ImportError) and bool(error.path) and "cannot import name" not in str(error)
