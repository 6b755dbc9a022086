"""From a mission to a command line: its code in a file, its interpreter, its environment, its browser."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from safesh import wire
from safesh.core.environment import inherited
from safesh.errors import SafeshError
from safesh.mission import browser_boot, kept, store
from safesh.mission.errors import BrowserMissing
from safesh.mission.result import EnvironmentInfo
from safesh.vendor import add_site_packages

if TYPE_CHECKING:
    from safesh.mission.model import Mission

# -I: neither the caller's PYTHON* variables, nor the working directory, nor ~/.local change what is imported. -u: what
# is printed is there at once, also of a run that is killed. utf8: -I switches off what saves the C locale (PEP 538).
_FLAGS = ("-I", "-u", "-X", "utf8")
_OF_A_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")


class RedactedEnv:
    """An environment with what redacts its secrets, as ``execute_command`` takes a SecureEnv."""

    def __init__(self, variables: Mapping[str, str], redact: Callable[[str], str]) -> None:
        self._variables = variables
        self.redact = redact

    def build(self) -> dict[str, str]:
        return dict(self._variables)


class Launch:
    """What it takes to start a mission, removed when it is left; what is kept alive stays."""

    def __init__(self, mission: Mission, info: EnvironmentInfo) -> None:
        self.mission = mission
        self.info = info
        self.variables = _variables(mission, info)
        redact = getattr(mission.env, "redact", None)
        self.env: Any = self.variables if redact is None else RedactedEnv(self.variables, redact)
        self.command: list[str] = []
        self._run: store.RunFolder | None = None
        self._folder = ""
        self._ready = ""
        self._keeps = False

    def __enter__(self) -> Self:
        try:
            if self.mission.keep_alive:
                self._folder = kept.make_folder(self.mission.mission_id)
            else:
                self._run = store.RunFolder(self.mission.mission_id)
                self._folder = self._run.path
            self.command = self._write()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._run is not None:
            self._run.close()
        elif self._folder and not self._keeps:
            store.remove_tree(self._folder)

    def _write(self) -> list[str]:
        mission = self.mission
        path = mission.file
        if path is None:
            path = os.path.join(self._folder, "mission.py")
            store.write(path, mission.source())
        python = [self.info.python, *_FLAGS]
        if not mission.browser_interaction:
            return [*python, path, *mission.args]
        if mission.keep_alive:
            self._ready = os.path.join(self._folder, "ready")
        spec = {
            "code": path,
            "temporary": self._temporary(),
            "chromium": os.environ.get("SAFESH_CHROMIUM", ""),
            "problem": os.path.join(self._folder, "problem.json"),
            "ready": self._ready,
        }
        order = os.path.join(self._folder, "browser.json")
        store.write(order, wire.dumps(spec).encode())
        return [*python, os.path.abspath(browser_boot.__file__), order, *mission.args]

    def _temporary(self) -> str:
        if self._run is not None:
            return self._run.temporary()
        path = os.path.join(self._folder, "tmp")
        os.mkdir(path, 0o700)
        return path

    def keep(self, *, environment: str, interval: float) -> dict[str, Any]:
        """Start it as an instance; see ``kept.start``."""
        mission = self.mission
        try:
            found = kept.start(
                mission.mission_id,
                self.command,
                self._folder,
                env=self.variables,
                cwd=os.path.abspath(mission.cwd or os.getcwd()),
                limits=mission.limits,
                timeout=mission.timeout,
                environment=environment,
                ready=self._ready,
                interval=interval,
            )
        except SafeshError:
            problem = self.problem()
            if problem is not None:
                raise problem from None
            raise
        self._keeps = True
        return found

    def problem(self) -> BrowserMissing | None:
        """Why there was no browser."""
        if not self.mission.browser_interaction:
            return None
        try:
            with open(os.path.join(self._folder, "problem.json"), encoding="utf-8") as file:
                said = wire.loads(file.read())
        except (OSError, ValueError):
            return None
        python = self.info.python
        if said["missing"] == "playwright":
            return BrowserMissing(
                f"browser_interaction needs Playwright, which {python} cannot import: {said['message']}",
                place=self.mission.mission_id,
                hint=f"{python} -m pip install 'safesh[browser]', or name playwright in the requirements",
            )
        return BrowserMissing(
            f"no Chromium could be started: {said['message']}",
            place=self.mission.mission_id,
            hint=f"{python} -m playwright install chromium, or apt install chromium, or SAFESH_CHROMIUM=/path/to/it",
        )


def current_interpreter() -> EnvironmentInfo:
    """What a mission without requirements runs in: our own Python, with what is installed there."""
    return EnvironmentInfo(path=sys.prefix, python=sys.executable)


def requirements_of(mission: Mission) -> list[str]:
    """The mission's requirements; with a browser Playwright is one of them, in our own version where we have one."""
    names = {re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0].lower() for one in mission.requirements}
    if not mission.browser_interaction or "playwright" in names:
        return list(mission.requirements)
    add_site_packages()
    from importlib.metadata import PackageNotFoundError, version

    try:
        wanted = f"playwright=={version('playwright')}"
    except PackageNotFoundError:
        wanted = "playwright"
    return [*mission.requirements, wanted]


def _variables(mission: Mission, info: EnvironmentInfo) -> dict[str, str]:
    """The mission's whole environment."""
    given: Any = mission.env
    if given is None:
        found = inherited()
        for name in _OF_A_PYTHON:
            found.pop(name, None)  # the caller's Python's, and not the mission's
    else:
        found = dict(given.build() if hasattr(given, "build") else given)
    if info.installer:
        found["VIRTUAL_ENV"] = info.path
        found["PATH"] = os.path.join(info.path, "bin") + os.pathsep + found.get("PATH", os.defpath)
    return found
