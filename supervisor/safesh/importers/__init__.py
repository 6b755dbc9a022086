"""Other programs' descriptions of what to run, as the targets of a safe.toml.

One module a format (``procfile``, ``supervisord``, ``systemd``): each reads a file into a :class:`Plan`. Nothing is
dropped in silence: what a plan's targets do not say stands in its notes, with the line it comes from.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from safesh import _source, paths, vendor
from safesh.errors import ConfigError, UsageError
from safesh.model import Record


class Origin(Record):
    """Where a construct stands. file: as messages name it; line: counted from 1; text: what stands there."""

    file: str
    line: int
    text: str


class Note(Record):
    """A construct that was not translated, or not wholly, and why. target: whom it concerns, "" for the file."""

    file: str
    line: int
    text: str
    reason: str
    target: str = ""

    def __str__(self) -> str:
        text = self.text if len(self.text) <= 70 else self.text[:67] + "..."
        return f"{self.file}:{self.line}: {text}: {self.reason}"


class Target(Record):
    """One table ``[targets.NAME]``. values: by dotted key, ``env`` as one table; comments: stand above it."""

    name: str
    origin: Origin
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    comments: list[str] = []

    def set(self, key: str, value: Any, origin: Origin | None = None) -> None:
        self.values[key] = value
        self.origins[key] = origin or self.origin


class Plan(Record):
    """What a file describes. source: its name in messages; defaults: the table of that name; private: others may
    not read the source, so they shall not read what is made of it."""

    source: str
    kind: str
    targets: list[Target] = []
    notes: list[Note] = []
    defaults: dict[str, Any] = {}
    comments: list[str] = []
    private: bool = False

    def note(self, origin: Origin, reason: str, target: str = "") -> None:
        """Say that ``origin`` was not translated; the same is said once."""
        note = Note(file=origin.file, line=origin.line, text=_one_line(origin.text), reason=reason, target=target)
        if not any((one.file, one.line, one.reason) == (note.file, note.line, note.reason) for one in self.notes):
            self.notes.append(note)

    def offer(self, target: Target, feature: str, value: Any, origin: Origin) -> None:
        """Set what safe.toml may not have a key for yet (see FEATURES), or say so."""
        key, reason = FEATURES[feature]
        if schema_has(key) and not problem_of(key, value):
            target.set(key, value, origin)
        else:
            self.note(origin, reason, target.name)

    def add(self, target: Target) -> None:
        """Take the target in, without whatever safe.toml would refuse."""
        for name, item in list(target.values.get("env", {}).items()):
            if problem := problem_of("env", {name: item}):
                self.note(target.origins["env"], f"safe.toml refuses the variable {name}: {problem}", target.name)
                del target.values["env"][name]
        for key in list(target.values):
            if problem := problem_of(key, target.values[key]):
                self.note(target.origins[key], f"safe.toml refuses it as {key}: {problem}", target.name)
                del target.values[key]
        if "command" in target.values:
            self.targets.append(target)


# What the formats can say and safe.toml cannot, or could not when this was written: its key once it has one, and
# what is said meanwhile. A key that the schema has, and that takes the value, is written (Plan.offer): so this
# table is all that has to change.
FEATURES: dict[str, tuple[str, str]] = {
    "memory": ("limits.memory", "safe.toml has no memory limit"),
    "max runtime": ("limits.max_runtime", "safe.toml has no longest runtime; exec --timeout has"),
    "processes": ("limits.processes", "safe.toml has no limit of processes"),
    "cpu": ("limits.cpu", "safe.toml has no CPU limit"),
    "notify": ("ready.notify", "safe.toml knows no readiness by sd_notify: the target counts as running at once"),
    "watchdog": ("health.notify", "safe.toml knows no sd_notify watchdog"),
    "user": ("user", "a target runs as whoever starts it: sudo -u USER safe.sh start NAME"),
    "umask": ("umask", "safe.toml has no umask; the starter's is inherited"),
    "nice": ("nice", "safe.toml has no nice value; put nice -n N in front of the command"),
    "ok exits": ("ok_exit", "only exit status 0 counts as success"),
}


def schema_has(key: str) -> bool:
    """Whether a target of safe.toml has this dotted key, a table's name included."""
    return key in schema_keys() or any(known.startswith(key + ".") for known in schema_keys())


def schema_keys() -> dict[str, Any]:
    """Every dotted key of a target, in the schema's order, with its default."""
    return _schema().keys()  # type: ignore[no-any-return]


def problem_of(key: str, value: Any) -> str:
    """Why safe.toml would refuse this value, "" when it takes it."""
    schema = _schema()
    table = value
    for part in reversed(key.split(".")):
        table = {part: table}
    try:
        values = schema.walk(table, schema.Target, "target")
        if key == "command":
            schema.split(values["command"], not isinstance(value, list), "command")
    except ConfigError as error:
        return error.message
    return ""


def _schema() -> Any:
    vendor.add_site_packages()
    from safesh import _schema as schema

    return schema


def name_for(raw: str, taken: list[Target]) -> str:
    """A target's name as near to ``raw`` as a file's name can be, and free."""
    name = re.sub(r"[^\w.@+-]+", "-", raw).lstrip(".-").encode()[:70].decode("utf-8", "ignore").rstrip("-") or "target"
    try:
        paths.check_name(name, "a target")
    except UsageError:
        name = "target"
    names = {one.name for one in taken}
    free, number = name, 1
    while free in names:
        number += 1
        free = f"{name}-{number}"
    return free


def duration(seconds: float) -> str:
    """As safe.toml writes it: ``90s``, ``100ms``, ``0.0005s``."""
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    thousandths = seconds * 1000
    return f"{round(thousandths)}ms" if abs(thousandths - round(thousandths)) < 1e-6 else f"{seconds:.6f}s"


def size(count: int) -> int | str:
    """As safe.toml writes it: ``"50M"``; a plain number where no unit fits."""
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{letter}"
    return count


def near(path: str, folder: str) -> str:
    """``path`` from ``folder`` when it lies in it, else absolute: so a checkout can be moved."""
    path, folder = os.path.normpath(path), os.path.normpath(folder)
    if path == folder:
        return "."
    inside = path.startswith(folder.rstrip("/") + "/")
    return os.path.relpath(path, folder) if inside else path


def shown_path(path: str) -> str:
    """A file's name in messages: from the working directory when it lies below it."""
    try:
        return near(path, os.getcwd())
    except OSError:
        return path


def find(folder: str) -> tuple[str | None, list[str]]:
    """The file to translate when none was named, and others that could have been meant.

    A Procfile comes first, then supervisord.conf where supervisord looks for it (its folder and etc/ in it), then
    the only ``*.service``.
    """
    found = [name for name in ("Procfile", "supervisord.conf", "etc/supervisord.conf") if _is_file(folder, name)]
    try:
        units = sorted(name for name in os.listdir(folder) if name.endswith(".service") and _is_file(folder, name))
    except OSError:
        units = []
    if not found and len(units) != 1:
        return None, units
    first, *rest = [*found, *units]
    return os.path.join(folder, first), rest


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def read(path: str, folder: str) -> Plan:
    """The plan of the file ``path`` (absolute), for a safe.toml in ``folder``.

    ConfigError when it cannot be read or trusted, or is of no known format.
    """
    from safesh.importers import procfile, supervisord, systemd

    real = systemd.template_of(path)
    text, private = read_file(real)
    name = os.path.basename(path)
    if name.endswith(".service") or re.search(r"^\s*\[Service\]", text, re.M):
        plan = systemd.plan(text, path, real, folder)
    elif re.search(r"^\[(program:|fcgi-program:|eventlistener:|supervisord\]|include\]|group:)", text, re.M):
        plan = supervisord.plan(text, path, folder)
    elif name.lower().startswith("procfile") or name.lower().endswith("procfile") or procfile.looks_like_one(text):
        plan = procfile.plan(text, path, folder)
    else:
        raise ConfigError(
            "is no Procfile, supervisord.conf or systemd unit",
            place=shown_path(path),
            hint="name one of these with --from, or start from a commented file: safe.sh init --print",
        )
    plan.private = plan.private or private
    plan.notes.sort(key=lambda note: (note.file != plan.source, note.file, note.line))
    return plan


def read_file(path: str) -> tuple[str, bool]:
    """The text of a file that people write, and whether it is hidden from others; ConfigError names it."""
    text, info = _source.read(path, shown_path(path))
    return text.replace("\r\n", "\n"), not info.st_mode & stat.S_IROTH


def _one_line(text: str) -> str:
    """A construct's text for a message, a secret's value left out: the result is often readable by everybody."""
    secret = r"(?i)([\w-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key)[\w-]*\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
    return re.sub(secret, r"\1***", " ".join(text.split()))
