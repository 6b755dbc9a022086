"""safe.toml's schema, and the walk that checks a file against it, key by key in the file's order.

The msgspec structs below are the schema: types, bounds and, as each field's description, what the person who
wrote something else is told. The walk is our own because msgspec names a place as ``$.targets[...]`` and stops
at a table's end before it tells an unknown key. Imported only where no cached result serves.
"""

from __future__ import annotations

import difflib
import re
import shlex
import signal
import urllib.parse
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from safesh import model, paths
from safesh.clock import parse_duration, parse_size, shown
from safesh.errors import ConfigError, UsageError

_REAL_TIME = 34  # the first real-time signal that glibc and musl leave to programs (signal(7)): SIGRTMIN or later
# What notify.on may name; docs/config.md says when each is told.
EVENTS = ("started", "ready", "unhealthy", "recovered", "restarted", "failed", "limit", "stopped", "strays")
_SHORTEST_SAMPLE, _LONGEST_SAMPLE = 0.1, 3600.0  # seconds
_SHELL_WORDS = frozenset(["|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"])


def parse_text(value: str, place: str) -> str:
    if "\0" in value:
        raise ConfigError("contains a NUL character, which no argument, path or variable can hold", place=place)
    return value


def parse_path(value: str, place: str) -> str:
    if not value:
        raise ConfigError("is empty, expected a path", place=place, hint="leave the key out for its default")
    return parse_text(value, place)


def parse_name(value: str, place: str) -> str:
    try:
        return paths.check_name(value, "an instance" if place.endswith(".instance") else "a project")
    except UsageError as error:
        raise ConfigError(error.message, place=place, hint=error.hint) from None


def parse_match(value: str, place: str) -> str:
    literal = sum(letter not in "*/ \t" for letter in parse_text(value, place))
    if value and literal < 3:
        # Every process it fits counts as a stray of ours, and kill-all ends strays.
        raise ConfigError(
            f"{shown(value)} fits too many processes", place=place, hint="name the program and what tells it apart"
        )
    return value


def parse_command(value: str | list[Any], place: str) -> str | list[str]:
    if isinstance(value, str):
        parse_text(value, place)
        if not value.strip():
            raise ConfigError("is empty", place=place, hint='name a program: command = ["python3", "robot.py"]')
        return value
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise ConfigError(
                f"expected a string, got {kind(item)}", place=f"{place}[{index}]", hint="put it in quotes"
            )
        parse_text(item, f"{place}[{index}]")
    if not value or not value[0]:
        raise ConfigError("names no program", place=place, hint='such as command = ["python3", "robot.py"]')
    return value


def parse_signal(value: str | int, place: str) -> str:
    """The name under which the supervisor knows it: ``SIGTERM`` for 15, ``"term"`` and ``"SIGTERM"``."""
    named: dict[str, int] = {item.name: item.value for item in signal.Signals}
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < 4):
        upper = value.upper()
        upper = upper if upper.startswith("SIG") else "SIG" + upper
        base, plus, offset = upper.partition("+")
        number = named.get(base, 0)
        if plus:
            whole = offset.isascii() and offset.isdigit() and len(offset) < 4
            number = number + int(offset) if base == "SIGRTMIN" and whole else 0
    else:
        number = int(value)
    lowest = named.get("SIGRTMIN", _REAL_TIME)
    if lowest <= number <= named.get("SIGRTMAX", 0):
        return f"SIGRTMIN+{number - lowest}"
    if number in named.values():
        return signal.Signals(number).name
    close = difflib.get_close_matches("SIG" + str(value).upper().removeprefix("SIG"), named, 1) if number == 0 else []
    raise ConfigError(
        f"{shown(value)} is not a signal",
        place=place,
        hint=f'did you mean "{close[0]}"?' if close else "use a name such as SIGTERM or HUP, or a number from 1 to 31",
    )


def parse_signals(value: dict[str, Any], place: str) -> dict[str, str]:
    rewritten: dict[str, str] = {}
    for key, item in value.items():
        here = f"{place}.{bare(key)}"
        received = parse_signal(key, here)
        if received in ("SIGKILL", "SIGSTOP", "SIGCHLD"):
            raise ConfigError(f"{received} is never sent on, so it cannot be rewritten", place=here)
        if received in rewritten:
            raise ConfigError(f"{received} is rewritten twice", place=here, hint="keep one of the two")
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise ConfigError(f"expected a signal, or 0 to drop it, got {kind(item)}", place=here)
        rewritten[received] = "" if item in ("", "0", 0) else parse_signal(item, here)
    return rewritten


def parse_env(value: dict[str, Any], place: str) -> dict[str, str]:
    env: dict[str, str] = {}
    for key, item in value.items():
        here = f"{place}.{bare(key)}"
        if not key or "=" in key or "\0" in key:
            raise ConfigError(f"{shown(key)} cannot name a variable", place=here)
        if key == "SAFESH_RUN_ID":
            raise ConfigError("is how a tree's members are known; only the supervisor sets it", place=here)
        if isinstance(item, bool):
            env[key] = "true" if item else "false"
        elif isinstance(item, (str, int, float)):
            try:
                env[key] = parse_text(str(item), here)
            except ValueError:  # int_max_str_digits, reached by a hexadecimal number
                raise ConfigError("the number is too large", place=here, hint="put it in quotes") from None
        else:
            raise ConfigError(f"expected a string, a number or a boolean, got {kind(item)}", place=here)
    return env


def _field(
    expected: str, parse: Callable[..., Any] | None = None, ge: float | None = None, le: float | None = None
) -> Meta:
    return Meta(description=expected, extra={"parse": parse}, ge=ge, le=le)


Text = Annotated[str, _field("a string", parse_text)]
Path = Annotated[str, _field("a path, in quotes", parse_path)]
Name = Annotated[str, _field("a name, in quotes", parse_name)]
Bool = Annotated[bool, _field("true or false")]
Duration = Annotated[int | float | str, _field('a duration such as 5, "1.5s" or "10m"', parse_duration)]
Size = Annotated[int | str, _field('a size in bytes, or text such as "10M"', parse_size)]
Signal = Annotated[int | str, _field('a signal such as "SIGTERM" or 15', parse_signal)]
Count = Annotated[int, _field("a whole number, 0 to 1000000", ge=0, le=1_000_000)]


class Backoff(msgspec.Struct, frozen=True):
    initial: Duration = model.Backoff.initial
    factor: Annotated[float, _field("a number, 1 to 1000", ge=1, le=1000)] = model.Backoff.factor
    max: Duration = model.Backoff.max
    jitter: Annotated[float, _field("a number, 0 to 1", ge=0, le=1)] = model.Backoff.jitter


class StartLimit(msgspec.Struct, frozen=True):
    count: Count = model.StartLimit.count
    window: Duration = model.StartLimit.window


class Stop(msgspec.Struct, frozen=True):
    signal: Signal = model.StopPolicy.signal
    scope: Annotated[Literal["main", "tree"], _field('"main" or "tree"')] = model.StopPolicy.scope
    grace: Duration = model.StopPolicy.grace


class Log(msgspec.Struct, frozen=True):
    size: Size = model.LogPolicy.size
    keep: Count = model.LogPolicy.keep
    compress: Bool = model.LogPolicy.compress
    timestamps: Bool = model.LogPolicy.timestamps


def parse_url(value: str, place: str) -> str:
    parts = urllib.parse.urlsplit(parse_text(value, place))
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in value):
        raise ConfigError(f"{shown(value)} is no http URL", place=place, hint='such as "http://127.0.0.1:8080/health"')
    return value


def parse_statuses(value: str | int, place: str) -> str:
    for part in str(value).split(","):
        low, dash, high = part.strip().partition("-")
        ends = [low, high] if dash else [low]
        if not all(end.isascii() and end.isdigit() and 100 <= int(end) <= 599 for end in ends) or (
            dash and int(low) > int(high)
        ):
            raise ConfigError(
                f"{shown(value)} is no list of HTTP statuses", place=place, hint='such as 200 or "200-299,401"'
            )
    return str(value).replace(" ", "")


def parse_pattern(value: str, place: str) -> str:
    try:
        re.compile(parse_text(value, place))
    except re.error as error:
        raise ConfigError(f"{shown(value)} is no regular expression: {error}", place=place) from None
    return value


def parse_address(value: str | int, place: str) -> str:
    host, colon, port = str(value).rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536) or (colon and not host):
        raise ConfigError(f"{shown(value)} is no HOST:PORT", place=place, hint='such as "127.0.0.1:5432" or 5432')
    return f"{host or '127.0.0.1'}:{int(port)}"


def parse_argv(value: str | list[Any], place: str) -> list[str]:
    return split(parse_command(value, place), False, place)


def parse_names(value: list[Any], place: str) -> list[str]:
    for index, item in enumerate(value):
        if not isinstance(item, str) or not item:
            raise ConfigError(f"expected a name, got {kind(item)}", place=f"{place}[{index}]", hint="put it in quotes")
    return [*dict.fromkeys(value)]


def parse_events(value: list[Any], place: str, known: tuple[str, ...] = EVENTS) -> list[str]:
    for index, item in enumerate(parse_names(value, place)):
        if item not in known:
            close = difflib.get_close_matches(item, known, 1)
            raise ConfigError(
                f"{shown(item)} is no event",
                place=f"{place}[{index}]",
                hint=(f'did you mean "{close[0]}"? ' if close else "") + f"events: {', '.join(known)}",
            )
    return parse_names(value, place)


def parse_hooks(
    value: list[Any] | dict[str, Any], place: str, struct: type[msgspec.Struct] | None = None
) -> list[dict[str, Any]]:
    hooks = []
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        here = f"{place}[{index}]" if isinstance(value, list) else place
        hook = walk(item, struct or Hook, here)
        if not hook.get("command") and not hook.get("urls"):
            raise ConfigError("tells nobody", place=here, hint='add command = ["PROGRAM"] or urls = ["..."]')
        hooks.append(hook)
    return hooks


def _limit(unit: str, read: Callable[[Any, str], float]) -> Callable[[Any, str], dict[str, Any]]:
    """A limit is its value alone, or a table of ``most``, ``for`` and ``action``."""

    def parse(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {"most": _positive(read(value, place), value, place)}
        table = walk(value, LimitTable, place)
        if "most" not in table:
            raise ConfigError("has no most", place=place, hint=f"add most = {unit}")
        found = {"most": _positive(read(table["most"], f"{place}.most"), table["most"], f"{place}.most")}
        if "for" in table:
            found["lasting"] = table["for"]
        if "action" in table:
            found["action"] = table["action"]
        return found

    return parse


def _positive(most: float, value: Any, place: str) -> float:
    if most <= 0:
        raise ConfigError(f"{shown(value)} leaves room for nothing", place=place, hint="leave the key out for no limit")
    return most


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ConfigError(f"expected a number, got {kind(value)}: {shown(value)}", place=place)
    return value


Url = Annotated[str, _field("a URL, in quotes", parse_url)]
Statuses = Annotated[int | str, _field('an HTTP status, or text such as "200-299,401"', parse_statuses)]
Pattern = Annotated[str, _field("a regular expression, in quotes", parse_pattern)]
Address = Annotated[int | str, _field('"HOST:PORT", or a port', parse_address)]
Argv = Annotated[str | list[Any], _field("a list of strings, or one string", parse_argv)]
Names = Annotated[list[Any], _field("a list of names", parse_names)]
Number = Annotated[int, _field("a whole number, 1 to 1000", ge=1, le=1000)]


class Ready(msgspec.Struct, frozen=True):
    http: Url = ""
    status: Statuses = model.Ready.status
    body: Pattern = ""
    tcp: Address = ""
    command: Argv = msgspec.field(default_factory=list)
    heartbeat: Path = ""
    max_age: Duration = model.Ready.max_age
    log: Pattern = ""
    notify: Bool = False
    interval: Duration = model.Ready.interval
    timeout: Duration = model.Ready.timeout
    within: Duration = model.Ready.within


class Health(msgspec.Struct, frozen=True):
    http: Url = ""
    status: Statuses = model.Health.status
    body: Pattern = ""
    tcp: Address = ""
    command: Argv = msgspec.field(default_factory=list)
    heartbeat: Path = ""
    max_age: Duration = model.Health.max_age
    notify: Bool = False
    interval: Duration = model.Health.interval
    timeout: Duration = model.Health.timeout
    retries: Number = model.Health.retries
    start_period: Duration = model.Health.start_period
    on_unhealthy: Annotated[Literal["restart", "stop", "notify"], _field('"restart", "stop" or "notify"')] = (
        model.Health.on_unhealthy
    )


Action = Annotated[Literal["warn", "stop", "restart"], _field('"warn", "stop" or "restart"')]


class LimitTable(msgspec.Struct, frozen=True, rename={"lasting": "for"}):
    most: Annotated[Any, _field("the limit")] = 0
    lasting: Duration = model.Limit.lasting
    action: Action = model.Limit.action


class Limits(msgspec.Struct, frozen=True):
    memory: Annotated[Any, _field("a size, or a table", _limit('"512M"', parse_size))] = 0
    cpu: Annotated[Any, _field("percent of one core, or a table", _limit("90", _number))] = 0
    max_runtime: Annotated[Any, _field("a duration, or a table", _limit('"2h"', parse_duration))] = 0
    processes: Annotated[Any, _field("a number, or a table", _limit("100", _number))] = 0
    open_files: Annotated[Any, _field("a number, or a table", _limit("1000", _number))] = 0
    log_growth: Annotated[Any, _field("a size a minute, or a table", _limit('"10M"', parse_size))] = 0
    interval: Duration = model.Limits.interval
    action: Action = model.Limit.action


class Hook(msgspec.Struct, frozen=True):
    on: Annotated[list[Any], _field("a list of events", parse_events)] = msgspec.field(default_factory=list)
    command: Argv = msgspec.field(default_factory=list)
    urls: Names = msgspec.field(default_factory=list)
    timeout: Duration = model.Hook.timeout
    retries: Count = model.Hook.retries
    every: Duration = model.Hook.every


def parse_sample(value: Any, place: str) -> float:
    seconds = parse_duration(value, place)
    if 0 < seconds < _SHORTEST_SAMPLE or seconds > _LONGEST_SAMPLE:
        raise ConfigError(
            f"{shown(value)} is no time between two samples: from 0.1s to 1h",
            place=place,
            hint='such as "2s"; 0, or leave it out, for none',
        )
    return seconds


Percent = Annotated[float, _field("a percentage, 1 to 100", ge=1, le=100)]


class Admission(msgspec.Struct, frozen=True):
    cpu: Percent = model.Admission.cpu
    memory: Percent = model.Admission.memory
    disk: Percent = model.Admission.disk
    needs_cpu: Annotated[Any, _field("percent of one core", _number)] = model.Admission.needs_cpu
    needs_memory: Size = model.Admission.needs_memory
    needs_disk: Size = model.Admission.needs_disk


class Target(msgspec.Struct, kw_only=True):
    command: Annotated[str | list[Any], _field("a list of strings, or one string", parse_command)]
    shell: Bool = False
    cwd: Path = "."
    env: Annotated[dict[str, Any], _field("a table of variables", parse_env)] = {}
    env_file: Path = ""
    instance: Name = ""
    match: Annotated[str, _field("a string", parse_match)] = ""
    restart: Annotated[Literal["no", "on-failure", "always"], _field('"no", "on-failure" or "always"')] = (
        model.TargetSpec.restart
    )
    backoff: Backoff = Backoff()
    start_limit: StartLimit = StartLimit()
    stop: Stop = Stop()
    signals: Annotated[dict[str, Any], _field("a table of signals", parse_signals)] = {}
    log: Log = Log()
    lock_file: Path = ""
    pid_file: Path = ""
    ready: Ready = Ready()
    health: Health = Health()
    limits: Limits = Limits()
    notify: Annotated[list[Any] | dict[str, Any], _field("a list of tables", parse_hooks)] = msgspec.field(
        default_factory=list
    )
    depends_on: Names = msgspec.field(default_factory=list)
    tty: Bool = False
    sample: Annotated[int | float | str, _field('a duration such as "2s", or 0', parse_sample)] = 0
    admission: Admission = Admission()


class File(msgspec.Struct):
    """The whole file. ``defaults`` has a target's keys, each of them optional."""

    targets: dict[str, Target]
    project: Name = ""
    defaults: dict[str, Any] = {}


def walk(table: Any, struct: type[msgspec.Struct], place: str) -> dict[str, Any]:
    """The table's values, checked and parsed, in the file's order; absent keys stay absent.

    place: what the keys' own places begin with, such as ``safe.toml: `` or ``safe.toml: targets.gui``.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"expected a table, got {kind(table)}", place=place.removesuffix(": "))
    known = _known(struct)
    values: dict[str, Any] = {}
    for key, value in table.items():
        here = place + bare(key) if place.endswith(": ") else f"{place}.{bare(key)}"
        if key not in known:
            raise ConfigError("unknown key", place=here, hint=_suggestion(key, known))
        values[key] = _convert(value, known[key], here)
    return values


@cache
def _known(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The struct's keys with their types; msgspec evaluates every annotation anew, 0.2 ms a table."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _convert(value: Any, hint: Any, place: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return walk(value, hint, place)
    meta = next((item for item in get_args(hint)[1:] if isinstance(item, Meta)), None)
    if meta is None:  # targets, defaults: walked by their owner
        return value
    try:
        value = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        got = kind(value) if isinstance(value, (dict, list)) else f"{kind(value)}: {shown(value)}"
        raise ConfigError(f"expected {meta.description}, got {got}", place=place) from None
    parse = (meta.extra or {}).get("parse")
    return parse(value, place) if parse else value


def split(command: str | list[str], shell: bool, place: str) -> list[str]:
    """The argv that a ``command`` stands for."""
    if shell:
        if not isinstance(command, str):
            raise ConfigError("expected a string, since shell = true; got a list", place=place)
        return ["/bin/sh", "-c", command]
    if isinstance(command, list):
        return command
    try:
        words = shlex.split(command)
    except ValueError as error:
        reason = str(error)[:1].lower() + str(error)[1:]
        raise ConfigError(f"{shown(command)}: {reason}", place=place, hint="close the quote, or write a list") from None
    if special := next((word for word in words if word in _SHELL_WORDS), ""):
        raise ConfigError(
            f"{special!r} means something to a shell only, and no shell runs it",
            place=place,
            hint="set shell = true, or write the command as a list",
        )
    if not words or not words[0]:
        raise ConfigError("names no program", place=place, hint='such as command = ["python3", "robot.py"]')
    return words


def bare(key: str) -> str:
    """The key as TOML writes it: in quotes unless it is letters, digits, ``_`` and ``-`` only."""
    if key and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in key):
        return key
    return shown(key).replace("'", '"') if '"' not in key else shown(key)


def kind(value: Any) -> str:
    """The value's type in TOML's words."""
    words = ((bool, "a boolean"), (int, "a whole number"), (float, "a number"), (str, "a string"), (list, "a list"))
    if value is None:  # JSON's and YAML's null
        return "nothing"
    for cls, word in (*words, (dict, "a table")):
        if isinstance(value, cls):
            return word
    return "a date or time"


def _suggestion(key: str, known: dict[str, Any]) -> str:
    paths_to = {name: name for name in known}
    for name, hint in known.items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            for field in msgspec.structs.fields(hint):
                paths_to.setdefault(field.name, f"{name}.{field.name}")
    close = difflib.get_close_matches(key.lower().replace("-", "_"), paths_to, 1)
    question = f'did you mean "{paths_to[close[0]]}"? ' if close else ""
    return f"{question}known here: {', '.join(known)}"


def keys(struct: type[msgspec.Struct] = Target, prefix: str = "") -> dict[str, Any]:
    """Every key below ``struct`` in dotted form, with its default; what docs/config.md is held against."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        name = prefix + field.encode_name
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found.update(keys(field.type, name + "."))
        else:
            default = None if field.required else field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            found[name] = default
    return found
