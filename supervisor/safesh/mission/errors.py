"""Errors of missions: each tells what, where and what to do next (see ``safesh.errors``)."""

from __future__ import annotations

from safesh.errors import SafeshError


class MissionError(SafeshError):
    """Anything that keeps a mission from running."""


class InvalidMission(MissionError, ValueError):
    """An argument that could never work; ``place`` names it. Told before anything is done."""

    exit_code = 2


class CodeError(MissionError):
    """The code is no Python. line: where, counted from 1, 0 when nobody knows."""

    def __init__(self, message: str, *, place: str = "", hint: str = "", line: int = 0) -> None:
        super().__init__(message, place=place, hint=hint)
        self.line = line


class MissionRefused(MissionError):
    """The machine is too full for it now (EX_TEMPFAIL)."""

    exit_code = 75


class EnvironmentFailed(MissionError):
    """Its environment cannot be built (EX_UNAVAILABLE). offline: the index could not be reached."""

    exit_code = 69

    def __init__(self, message: str, *, place: str = "", hint: str = "", offline: bool = False) -> None:
        super().__init__(message, place=place, hint=hint)
        self.offline = offline


class BrowserMissing(MissionError):
    """Playwright or a Chromium is not installed, or cannot be started (EX_UNAVAILABLE)."""

    exit_code = 69
