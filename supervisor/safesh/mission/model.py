"""``Mission``: what is to be run, checked as it is made."""

from __future__ import annotations

import io
import os
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Never

from safesh import paths
from safesh.errors import UsageError
from safesh.mission.errors import CodeError, InvalidMission
from safesh.process import command
from safesh.process.errors import InvalidCommand
from safesh.vendor import add_site_packages

if TYPE_CHECKING:
    from safesh.model import Limits
    from safesh.process.secure_env import SecureEnv

_MOST_REQUIREMENTS = 1000
_warnings = Lock()  # catch_warnings changes the whole process


class Mission:
    """Python code and what it needs.

    mission_id: its name in logs, in folders and, kept alive, of its instance: it must be able to name a file. code:
    a program's text, run as ``__main__``. requirements: PEP 508 strings; its environment is built from them.
    browser_interaction: the code finds ``browser`` and ``page`` of a Chromium. keep_alive: it goes on as a supervised
    instance when ``execute_mission`` has returned. timeout: seconds (or "2m") after which the whole tree is ended.
    limits, env, cwd: as of ``execute_command``. args: ``sys.argv[1:]``. mission_type: what it is like, for the history.
    file: where the code stands already; tracebacks then name that file.

    InvalidMission names the argument that could never work. Whether the code is Python is told by its run.
    """

    __slots__ = (
        "args", "browser_interaction", "code", "cwd", "env", "file", "keep_alive", "limits", "mission_id",
        "mission_type", "requirements", "timeout"
    )  # fmt: skip

    def __init__(
        self,
        mission_id: str,
        code: str,
        requirements: Sequence[str] = (),
        browser_interaction: bool = False,
        keep_alive: bool = False,
        *,
        timeout: float | str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | SecureEnv | None = None,
        cwd: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        mission_type: str = "",
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.mission_id = _check_id(mission_id)
        self.code = _check_code(code)
        self.requirements = check_requirements(requirements)
        self.browser_interaction = _check_flag("browser_interaction", browser_interaction)
        self.keep_alive = _check_flag("keep_alive", keep_alive)
        self.args = _check_args(args)
        self.mission_type = _check_text("mission_type", mission_type)
        self.env = _check_env(env)
        try:
            self.timeout = command.parse_timeout(timeout)
            self.limits = command.parse_limits(limits)
            self.cwd = command.parse_cwd(cwd)
            self.file = command.parse_cwd(file)
        except InvalidCommand as error:
            _refuse(error.place, error.message, error.hint)

    def check_code(self) -> None:
        """CodeError, naming the line, where the code is no Python of this version."""
        where = f"{self.mission_id}: {self.file or 'code'}"
        with _warnings, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mission itself says them
            try:
                compile(self.code, self.file or "mission.py", "exec", dont_inherit=True)
            except SyntaxError as error:
                line = error.lineno or 0
                text = (error.text or "").strip()
                shown = f": {text if len(text) <= 80 else text[:77] + '...'}" if text else ""
                raise CodeError(
                    f"{type(error).__name__}: {error.msg}{shown}",
                    place=f"{where}, line {line}" if line else where,
                    hint="correct it; nothing was run",
                    line=line,
                ) from None
            except (RecursionError, MemoryError):
                pass  # nested deeper than this stack can hold; its own process says so

    def source(self) -> bytes:
        """The code as a file's content, in the encoding that its first lines name."""
        data = self.code.encode()
        try:
            encoding, _lines = tokenize.detect_encoding(io.BytesIO(data).readline)
            return data if encoding.startswith("utf-8") else self.code.encode(encoding)
        except (SyntaxError, UnicodeEncodeError, LookupError):
            return data  # the interpreter tells what is wrong with it

    def __repr__(self) -> str:
        more = [name for name in ("browser_interaction", "keep_alive") if getattr(self, name)]
        needs = f", requirements={list(self.requirements)!r}" if self.requirements else ""
        flags = "".join(f", {name}=True" for name in more)
        return f"Mission({self.mission_id!r}, {len(self.code)} characters of code{needs}{flags})"


def _refuse(place: str, message: str, hint: str = "") -> Never:
    raise InvalidMission(message, place=place, hint=hint)


def _check_id(name: object) -> str:
    text = _check_text("mission_id", name)
    try:
        return paths.check_name(text, "a mission")
    except UsageError as error:
        _refuse("mission_id", error.message, error.hint)


def _check_text(place: str, text: object) -> str:
    if not isinstance(text, str):
        _refuse(place, f"expected a string, not {type(text).__name__}")
    return text


def _check_code(code: object) -> str:
    text = _check_text("code", code)
    if not text.strip():
        _refuse("code", "is empty", "pass a program's text")
    if (at := text.find("\0")) >= 0:
        _refuse("code", f"holds a NUL character at position {at}; no program can")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse("code", f"cannot be written as UTF-8: {error.reason} at position {error.start}")
    return text


def _check_flag(place: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(place, f"expected True or False, not {value!r}")
    return value


def _check_args(args: object) -> tuple[str, ...]:
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        _refuse("args", f"expected a list of strings, not {type(args).__name__}")
    for at, word in enumerate(args):
        if not isinstance(word, str):
            _refuse(f"args[{at}]", f"expected a string, not {type(word).__name__}", "use str()")
        if "\0" in word:
            _refuse(f"args[{at}]", "holds a NUL character; no argument can")
    return tuple(args)


def _check_env(env: Any) -> Any:
    if env is None or hasattr(env, "build"):
        return env
    try:
        command.build_environment(env, "", "SAFESH_RUN_ID")
    except InvalidCommand as error:
        _refuse(error.place, error.message, error.hint)
    return dict(env)


def check_requirements(requirements: object) -> tuple[str, ...]:
    """The requirements without blanks around them; InvalidMission names the one that is no PEP 508 string."""
    if isinstance(requirements, (str, bytes)) or not isinstance(requirements, Sequence):
        _refuse(
            "requirements",
            f"expected a list of strings, not {type(requirements).__name__}",
            f"write [{requirements!r}]" if isinstance(requirements, str) else "",
        )
    if len(requirements) > _MOST_REQUIREMENTS:
        _refuse("requirements", f"are {len(requirements)}, more than {_MOST_REQUIREMENTS}")
    found: list[str] = []
    for at, one in enumerate(requirements):
        place = f"requirements[{at}]"
        text = _check_text(place, one).strip()
        if not text:
            _refuse(place, "is empty", "name a package, such as 'requests>=2'")
        # An installer reads it from a line of a file: neither an option nor a second line may be smuggled in.
        if not text.isprintable() or text[0] in "-#":
            _refuse(place, f"{one!r} is no requirement", "name a package, such as 'requests>=2'")
        _check_pep508(place, text)
        found.append(text)
    return tuple(found)


def _check_pep508(place: str, text: str) -> None:
    add_site_packages()
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return  # the installer tells, later
    try:
        Requirement(text)
    except InvalidRequirement as error:
        why = str(error).strip().partition("\n")[0]
        _refuse(place, f"{text!r} is no requirement: {why}", "see PEP 508; such as 'requests>=2,<3'")
