"""The nouns every room shares: target, identity, exit, verdict, states.

Plain classes on purpose: the long-lived processes load this module, and ``dataclasses``,
``enum`` and ``typing`` would cost each of them 16, 6 and 10 ms and a megabyte.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Literal, Self, dataclass_transform

    State = Literal["idle", "starting", "running", "unhealthy", "stopping", "backoff", "finished", "failed"]
    RestartPolicy = Literal["no", "on-failure", "always"]
    StopScope = Literal["main", "tree"]
    LimitAction = Literal["warn", "stop", "restart"]
    UnhealthyAction = Literal["restart", "stop", "notify"]
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True)
class Record:
    """Base of all nouns: keyword construction, equality, ``to_dict`` and a forgiving ``from_dict``.

    Annotated class attributes are the fields; an attribute with a value is a default.
    """

    if TYPE_CHECKING:
        _names: ClassVar[tuple[str, ...]]
    else:

        def __init__(self, **fields):
            names = self.fields()
            for name in fields:
                if name not in names:
                    raise TypeError(f"{type(self).__name__} has no field {name!r}")
            own = self.__dict__
            for name in names:
                if name in fields:
                    own[name] = fields[name]
                elif hasattr(type(self), name):
                    value = getattr(type(self), name)
                    if isinstance(value, (list, dict)):  # no two records share a default
                        value = value.copy()
                    elif isinstance(value, Record):
                        value = type(value)(**value.__dict__)
                    own[name] = value
                else:
                    raise TypeError(f"{type(self).__name__} needs {name!r}")

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The fields' names, those of base classes first."""
        names: tuple[str, ...] | None = cls.__dict__.get("_names")
        if names is None:
            found: dict[str, None] = {}
            for base in reversed(cls.__mro__):
                if issubclass(base, Record):
                    found |= dict.fromkeys(base.__annotations__)
            names = cls._names = tuple(found)
        return names

    def to_dict(self) -> dict[str, Any]:
        """Plain data, nested records included."""
        return {name: _plain(self.__dict__[name]) for name in self.fields()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A record from what ``to_dict`` gave; unknown keys of a newer version are passed over."""
        names = cls.fields()
        return cls(**{name: cls._revive(name, data[name]) for name in data if name in names})

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        default = getattr(cls, name, None)
        if isinstance(value, dict) and isinstance(default, Record):
            return type(default).from_dict(value)
        return value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.fields())
        return f"{type(self).__name__}({inside})"


_ATOMS = {str, int, float, bool, type(None)}


def _plain(value: Any) -> Any:
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Identity(Record):
    """Which process, for certain.

    pid: as seen from our pid namespace; start: the kernel's start time (Linux: clock ticks since
    boot, proc_pid_stat(5) field 22; elsewhere microseconds since the epoch); boot: the kernel's boot id
    and the pid namespace, so neither a reboot nor another container's numbers are mistaken for ours.
    """

    pid: int
    start: int
    boot: str


class StopPolicy(Record):
    """How a tree is asked to end. grace: seconds between asking and killing."""

    signal: str = "SIGTERM"
    scope: StopScope = "main"
    grace: float = 10.0


class Backoff(Record):
    """Seconds before a restart: ``initial * factor**n`` up to ``max``, give or take ``jitter`` (a share, 0 to 1)."""

    initial: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.1


class StartLimit(Record):
    """At most ``count`` starts in ``window`` seconds; count 0 means no limit."""

    count: int = 5
    window: float = 60.0


class LogPolicy(Record):
    """size: bytes after which the log is rotated (0: never); keep: rotated files kept (0: none is
    removed); compress: gzip them; timestamps: stamp every line (bytes are then copied, not spliced)."""

    size: int = 10 * 1024 * 1024
    keep: int = 5
    compress: bool = False
    timestamps: bool = False


class Probe(Record):
    """How to see that a target serves; at most one kind is set, none means no probe.

    http: URL; status: accepted codes and ranges, ``200-299,401``; body: a regular expression that the first 64 KiB
    of the answer must contain; tcp: ``host:port`` that accepts a connection; command: argv that exits 0;
    heartbeat: an absolute path whose file is touched by the run at least every ``max_age`` seconds; log: a regular
    expression that a line of the run's output must contain; notify: systemd's sd_notify(3) protocol.
    interval: seconds between two tries; timeout: seconds for one.
    """

    http: str = ""
    status: str = "200-399"
    body: str = ""
    tcp: str = ""
    command: list[str] = []
    heartbeat: str = ""
    max_age: float = 30.0
    log: str = ""
    notify: bool = False
    interval: float = 1.0
    timeout: float = 5.0

    @property
    def kind(self) -> str:
        """``http``, ``tcp``, ``command``, ``heartbeat``, ``log``, ``notify``, or "" for none."""
        for name in PROBE_KINDS:
            if getattr(self, name):
                return name
        return ""


PROBE_KINDS = ("http", "tcp", "command", "heartbeat", "log", "notify")


class Ready(Probe):
    """Readiness. within: seconds after which a target that is not ready has failed."""

    interval: float = 0.5
    within: float = 60.0


class Health(Probe):
    """Health, in Docker's words. retries: failures in a row that make it unhealthy; start_period: seconds after
    readiness in which failures do not count; on_unhealthy: what is done then."""

    interval: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    on_unhealthy: UnhealthyAction = "restart"


class Limit(Record):
    """A ceiling. most: in the limit's own unit, 0 for none; lasting: seconds it must be passed without a break."""

    most: float = 0.0
    lasting: float = 0.0
    action: LimitAction = "restart"


class Limits(Record):
    """What a tree may use. memory: bytes (PSS, or the cgroup's); cpu: percent of one core; max_runtime: seconds;
    processes: members; open_files: descriptors of one member; log_growth: bytes a minute.
    interval: seconds between two samples, where the kernel does not watch by itself."""

    memory: Limit = Limit()
    cpu: Limit = Limit()
    max_runtime: Limit = Limit()
    processes: Limit = Limit()
    open_files: Limit = Limit()
    log_growth: Limit = Limit()
    interval: float = 2.0


class Hook(Record):
    """Who is told of events. on: names of events (empty: all that are told); command: argv, the event as JSON on
    its standard input and in SAFESH_* variables; urls: for apprise; timeout: seconds for one attempt; retries: more
    attempts after a failed one; every: seconds in which the same event is told once."""

    on: list[str] = []
    command: list[str] = []
    urls: list[str] = []
    timeout: float = 10.0
    retries: int = 2
    every: float = 60.0


class Admission(Record):
    """What the system must have left for a start. cpu, memory, disk: percent that may be in use then; needs_cpu:
    percent of one core; needs_memory, needs_disk: bytes; asked: every start looks, not only one with --if-fits."""

    cpu: float = 90.0
    memory: float = 90.0
    disk: float = 95.0
    needs_cpu: float = 0
    needs_memory: int = 0
    needs_disk: int = 0
    asked: bool = False


class TargetSpec(Record):
    """A target ready to start: everything resolved, nothing left to look up.

    command: argv; cwd, lock_file, pid_file, env_file: absolute; env: what is added to the supervisor's
    environment (values win), that of env_file included once ``config.resolve`` gave the record;
    match: an argv pattern (words, ``*`` stands for any run of characters in a word) that tells a copy started by hand;
    signals: received name -> sent name, "" drops it; config: the file it came from ("" for ad hoc).
    sample: seconds between two samples for the history, 0 for none.
    """

    name: str
    instance: str
    project: str
    command: list[str]
    cwd: str
    config: str = ""
    env: dict[str, str] = {}
    env_file: str = ""
    match: str = ""
    restart: RestartPolicy = "no"
    backoff: Backoff = Backoff()
    start_limit: StartLimit = StartLimit()
    stop: StopPolicy = StopPolicy()
    signals: dict[str, str] = {}
    log: LogPolicy = LogPolicy()
    lock_file: str = ""
    pid_file: str = ""
    ready: Ready = Ready()
    health: Health = Health()
    limits: Limits = Limits()
    notify: list[Hook] = []
    depends_on: list[str] = []
    tty: bool = False
    sample: float = 0.0
    admission: Admission = Admission()

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        if name == "notify":
            return [Hook.from_dict(item) for item in value]
        return super()._revive(name, value)


class ExitInfo(Record):
    """How a target's main process ended.

    code: exit status or -1; signal: name or ""; core: it dumped core; cause: one line for people;
    at: wall time; the rest: rusage of the process and its waited-for children, seconds and bytes.
    """

    code: int = -1
    signal: str = ""
    core: bool = False
    cause: str = ""
    at: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def ok(self) -> bool:
        return self.code == 0


class Member(Record):
    """One process of a tree, or one line of a verdict.

    cpu_seconds: user + system so far; memory_bytes: resident; started_at: wall time; reason: why it
    was signalled, or why it is still there; state: the kernel's letter (R S D T Z ...).
    """

    pid: int
    start: int
    ppid: int = 0
    command: str = ""
    state: str = ""
    uid: int = -1
    started_at: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    reason: str = ""


class Verdict(Record):
    """What a stop did: who was asked, who had to be killed, who survived and why.

    run_id: the tree's run; seconds: from the first ask to the answer. ``ok`` means zero survivors.
    """

    target: str = ""
    run_id: str = ""
    asked: list[Member] = []
    killed: list[Member] = []
    survivors: list[Member] = []
    seconds: float = 0.0
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        return not self.survivors

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        if name in ("asked", "killed", "survivors"):
            return [Member.from_dict(item) for item in value]
        return value


STATES: tuple[State, ...] = (
    "idle",
    "starting",
    "running",
    "unhealthy",
    "stopping",
    "backoff",
    "finished",
    "failed",
)

# States in which the instance's lock is held and the tree may have members.
LIVE_STATES = ("starting", "running", "unhealthy", "stopping", "backoff")
