"""uv, or venv and pip: requirements resolved to an exact list, and environments built from one."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from safesh import wire
from safesh.clock import format_duration
from safesh.mission.errors import EnvironmentFailed
from safesh.vendor import add_site_packages

if TYPE_CHECKING:
    from safesh.mission.control import Control
    from safesh.process.result import ExecutionResult

Wish = Literal["auto", "uv", "pip"]

# An installer told these would put packages elsewhere than into the environment that is built.
_MISLEADING = {
    "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_REPORT", "PIP_DRY_RUN", "PIP_REQUIREMENT",
    "PIP_REQUIRE_VIRTUALENV", "PIP_IGNORE_INSTALLED", "PIP_NO_DEPS", "PIP_LOG", "PIP_QUIET", "PIP_VERBOSE",
    "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "UV_TARGET", "UV_PREFIX", "UV_BREAK_SYSTEM_PACKAGES",
    "UV_NO_DEPS", "UV_WORKING_DIRECTORY", "UV_PROJECT", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME",
}  # fmt: skip
_UNREACHABLE = (
    "name resolution", "dns error", "name or service not known", "nodename nor servname", "connection refused",
    "network is unreachable", "no route to host", "failed to establish a new connection", "newconnectionerror",
    "connection timed out", "connecttimeout", "connection reset", "error sending request", "tcp connect error",
    "network connectivity is disabled", "because the network", "max retries exceeded", "cannot connect to proxy",
    "proxyerror", "operation timed out", "failed to fetch",
)  # fmt: skip
_OFFLINE_HINT = (
    "run it once while the index can be reached: its environment is then kept; or have the wheels in a folder:"
    " UV_FIND_LINKS=DIR UV_OFFLINE=1, or PIP_FIND_LINKS=DIR PIP_NO_INDEX=1"
)
_WRONG_HINT = "correct the requirements, or name the index that has them: UV_INDEX_URL, PIP_INDEX_URL"
_ASIDE = ("WARNING", "warning", "Looking in", "hint:")
_OLDEST_PIP = (22, 3)  # --python
_MOST_SAID = 400  # characters of an installer's words in a message


class Installer(Protocol):
    """name: ``uv`` or ``pip``. Both raise EnvironmentFailed."""

    name: str

    def resolve(self, requirements: str, folder: str, control: Control) -> list[str]:
        """The exact list that the lines of ``requirements`` mean, dependencies included. folder: for its own files."""

    def build(self, path: str, resolved: Sequence[str], folder: str, control: Control) -> None:
        """An environment at ``path`` with exactly ``resolved`` in it."""


def find(wish: Wish, timeout: float) -> Installer:
    """The installer wished for; ``auto`` takes uv where it is."""
    if wish != "pip":
        beside = os.path.join(os.path.dirname(sys.executable), "uv")
        program = shutil.which("uv") or (beside if os.access(beside, os.X_OK) else None)
        if program is not None:
            return Uv(program, timeout)
        if wish == "uv":
            raise EnvironmentFailed("uv is not installed", place="installer", hint="pip install uv, or take pip")
    return Pip(timeout)


def python_of(path: str) -> str:
    """The interpreter of the environment at ``path``."""
    return os.path.join(path, "bin", "python")


class _Tool:
    name = ""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def _run(self, doing: str, command: Sequence[str], folder: str, control: Control) -> ExecutionResult:
        env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        env |= {"NO_COLOR": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_INPUT": "1"}
        env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off", "PYTHONUTF8": "1"}
        env.setdefault("PIP_RETRIES", "1")
        env.setdefault("UV_HTTP_RETRIES", "1")
        # In a folder of ours: a project's file around the caller is no business of this environment.
        result = control.run(command, cwd=folder, env=env, timeout=self.timeout, max_output="1M", stop=2.0)
        if not result.success:
            raise self._explain(doing, result)
        return result

    def _explain(self, doing: str, result: ExecutionResult) -> EnvironmentFailed:
        said = f"{result.stderr}\n{result.stdout}"
        if result.timed_out:
            return EnvironmentFailed(
                f"{doing} took longer than {format_duration(self.timeout)}", place=self.name, hint=_OFFLINE_HINT
            )
        low = said.lower()
        offline = any(word in low for word in _UNREACHABLE)
        reason = summarize(said) or str(result.error)
        return EnvironmentFailed(
            f"{doing} failed{', for the index cannot be reached' if offline else ''}: {reason}",
            place=self.name,
            hint=_OFFLINE_HINT if offline else _WRONG_HINT,
            offline=offline,
        )


def summarize(said: str) -> str:
    """What matters of an installer's output, in one line."""
    lines = [re.sub(r"^[^\w'\"(\[]+", "", line).strip() for line in said.splitlines()]  # uv draws a tree
    told = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    told = told or [
        line for line in lines if line and not line.startswith(("WARNING", "warning", "Looking in", "hint:"))
    ]
    text = " ".join(dict.fromkeys(told))
    return text if len(text) <= _MOST_SAID else text[: _MOST_SAID - 3] + "..."


class Uv(_Tool):
    name = "uv"

    def __init__(self, program: str, timeout: float) -> None:
        super().__init__(timeout)
        self.program = program

    def resolve(self, requirements: str, folder: str, control: Control) -> list[str]:
        path = _note(folder, "requirements.in", requirements)
        command = [
            self.program,
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--python",
            sys.executable,
        ]
        result = self._run("resolving the requirements", [*command, path], folder, control)
        lines = (line.strip() for line in result.stdout.splitlines())
        return sorted(line for line in lines if line and line[0] not in "#-")

    def build(self, path: str, resolved: Sequence[str], folder: str, control: Control) -> None:
        venv = [self.program, "venv", "--quiet", "--no-project", "--python", sys.executable, path]
        self._run("making the environment", venv, folder, control)
        if resolved:
            listed = _note(folder, "resolved.txt", "\n".join(resolved))
            command = [self.program, "pip", "install", "--quiet", "--no-deps", "--python", python_of(path)]
            self._run("installing", [*command, "-r", listed], folder, control)


class Pip(_Tool):
    name = "pip"

    def resolve(self, requirements: str, folder: str, control: Control) -> list[str]:
        path = _note(folder, "requirements.in", requirements)
        report = os.path.join(folder, "report.json")
        command = [*self._pip(folder, control), "install", "--dry-run", "--ignore-installed", "--quiet"]
        self._run("resolving the requirements", [*command, "--report", report, "-r", path], folder, control)
        try:
            with open(report, encoding="utf-8") as file:
                return sorted(_exact(one) for one in wire.loads(file.read())["install"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFailed(f"its report cannot be read: {error!r}", place="pip") from None

    def build(self, path: str, resolved: Sequence[str], folder: str, control: Control) -> None:
        self._venv(["--without-pip", path], folder, control)
        if resolved:
            listed = _note(folder, "resolved.txt", "\n".join(resolved))
            pip = [*self._pip(folder, control), "--python", python_of(path)]
            self._run("installing", [*pip, "install", "--quiet", "--no-deps", "-r", listed], folder, control)

    def _venv(self, words: Sequence[str], folder: str, control: Control) -> None:
        try:
            command = [sys.executable, "-I", "-m", "venv", *words]
            self._run("making the environment", command, folder, control)
        except EnvironmentFailed as error:
            if "ensurepip" in error.message or "No module named venv" in error.message:
                error.hint = "install uv, or what venv lacks: apt install python3-venv"
            raise

    def _pip(self, folder: str, control: Control) -> list[str]:
        """The current interpreter's pip where it is new enough; else that of a throw-away environment."""
        if _has_pip():
            return [sys.executable, "-I", "-m", "pip"]
        seed = os.path.join(folder, "seed")
        if not os.path.exists(python_of(seed)):
            self._venv([seed], folder, control)
        return [python_of(seed), "-I", "-m", "pip"]


def _has_pip() -> bool:
    add_site_packages()
    from importlib.metadata import PackageNotFoundError, version

    try:
        numbers = tuple(int(word) for word in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:
        return False
    return numbers >= _OLDEST_PIP


def _exact(one: dict[str, dict[str, str]]) -> str:
    """One entry of pip's installation report as a requirement that means exactly it."""
    name, version = one["metadata"]["name"], one["metadata"]["version"]
    return f"{name} @ {one['download_info']['url']}" if one.get("is_direct") else f"{name}=={version}"


def _note(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return path
