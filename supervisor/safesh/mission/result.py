"""What became of a mission."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from safesh.process.result import Usage

if TYPE_CHECKING:
    from safesh.errors import SafeshError

_SHOWN = 200  # characters of output in a repr


@dataclass(slots=True, kw_only=True)
class EnvironmentInfo:
    """The environment that a mission ran in.

    path: its folder; python: its interpreter; requirements: as asked for; resolved: what that means, exactly; seconds:
    what resolving and building (or waiting for another's build) took; cached: it was there already; installer: ``uv``
    or ``pip``, "" for the current interpreter; note: what was not as it should be, such as an index out of reach.
    """

    path: str
    python: str
    requirements: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cached: bool = True
    installer: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class MissionResult:
    """One mission and how it went.

    success: it ended with status 0, in time and within its limits, or, kept alive, it runs. return_code: as of
    subprocess, None where it never ran or runs still. stdout, stderr: its text. error: why it is no success, typed;
    reason: the same in one line, or the reason for which it was refused. admission: why it was let in. execution_time:
    seconds of its run, the environment's not counted in. usage: of the whole tree. resources_initial, resources_final:
    the system before and after (``SystemSnapshot.to_dict()``), None where nobody could look. environment: None where it
    did not come to that. instance: of one kept alive: ``name``, ``pid``, ``run_id``, ``log`` and the command lines
    ``status``, ``logs`` and ``stop``. notes: what went wrong beside it (monitoring, cleaning up) and did it no harm.

    All texts are redacted where ``env`` is a SecureEnv.
    """

    def __init__(self, mission_id: str, session_id: str, device_id: str) -> None:
        self.mission_id = mission_id
        self.session_id = session_id
        self.device_id = device_id
        self.success = False
        self.run_id = ""
        self.return_code: int | None = None
        self.signal = ""
        self.stdout = ""
        self.stderr = ""
        self.truncated = False
        self.timed_out = False
        self.error: SafeshError | None = None
        self.reason = ""
        self.admission = ""
        self.execution_time: float | None = None
        self.usage = Usage()
        self.resources_initial: dict[str, Any] | None = None
        self.resources_final: dict[str, Any] | None = None
        self.environment: EnvironmentInfo | None = None
        self.instance: dict[str, Any] | None = None
        self.notes: list[str] = []

    def check(self) -> Self:
        """The result itself; raises ``error`` when it is no success."""
        if self.error is not None:
            raise self.error
        return self

    def fail(self, error: SafeshError) -> None:
        """Take the error in as the reason."""
        self.success = False
        self.error = error
        self.reason = str(error)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        names = (
            "success", "mission_id", "session_id", "device_id", "run_id", "return_code", "signal", "stdout", "stderr",
            "truncated", "timed_out", "reason", "admission", "execution_time", "resources_initial", "resources_final",
            "instance", "notes"
        )  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["error"] = str(self.error) if self.error is not None else None
        found["error_type"] = type(self.error).__name__ if self.error is not None else None
        found["hint"] = self.error.hint if self.error is not None else ""
        found["usage"] = self.usage.to_dict()
        found["environment"] = self.environment.to_dict() if self.environment is not None else None
        return found

    def __repr__(self) -> str:
        parts = [f"mission_id={self.mission_id!r}", f"success={self.success}", f"return_code={self.return_code}"]
        if self.execution_time is not None:
            parts.append(f"execution_time={self.execution_time:.3f}")
        if self.error is not None:
            parts.append(f"error={type(self.error).__name__}({self.reason!r})")
        if self.instance is not None:
            parts.append(f"instance={self.instance['name']!r}")
        for name in ("stdout", "stderr"):
            text = getattr(self, name)
            if text:
                parts.append(f"{name}={text if len(text) <= _SHOWN else '...' + text[-_SHOWN:]!r}")
        return f"MissionResult({', '.join(parts)})"
