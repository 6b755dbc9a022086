"""safe.toml: where it lies, what it says, and the cached result that spares a warm start its parsing.

The cache lies in ``<state home>/.cache`` (no project's name can begin with a dot), one file a safe.toml, 0600
because targets' environments hold secrets. It serves only while the file's identity, size, times, mode and
owner, the user and ``$HOME``, this version and the schema's are what they were; anything odd about it means it
is passed over and made again. It never makes a load fail. An ``env_file`` is read anew at every start.
"""

from __future__ import annotations

import os
import stat
import time

from safesh import __version__, paths, wire
from safesh.errors import ConfigError, SafeshError, UsageError
from safesh.model import Record, TargetSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE_NAME = "safe.toml"
ADHOC_PROJECT = "default"
_SCHEMA = 3  # raise it whenever the same file may give another result
_KEPT = 64  # cached results


class Config(Record):
    """A validated safe.toml. path: its absolute name; targets: by name, in the file's order."""

    path: str
    project: str
    targets: dict[str, TargetSpec]

    @classmethod
    def _revive(cls, name: str, value: Any) -> Any:
        if name == "targets":
            return {key: TargetSpec.from_dict(item) for key, item in value.items()}
        return value


def find(start: str | None = None, explicit: str | None = None) -> str | None:
    """The configuration file's absolute name, None where there is none.

    explicit: the ``--config`` option; then $SAFESH_CONFIG; else safe.toml is looked for in ``start``
    (default: the working directory) and upward. A file that was named need not exist: ``load`` tells.
    """
    if explicit == "":
        raise UsageError("--config is empty, expected a path", hint="leave it out to look for safe.toml")
    if given := explicit or os.environ.get("SAFESH_CONFIG"):
        given = os.path.expanduser(given)
        return given if os.path.isabs(given) else os.path.join(working_directory(), given)
    folder = os.path.join(working_directory(), start or "") if not start or not os.path.isabs(start) else start
    folder = os.path.abspath(folder)
    while True:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return path
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return None


def load(path: str) -> Config:
    """The validated configuration in the file ``path``.

    ConfigError tells the first problem with its place and the next step; SafeshError that msgspec is missing.
    """
    path = os.path.abspath(path) if os.path.isabs(path) else os.path.join(working_directory(), path)
    try:
        stamp = _stamp(path, os.stat(path))
    except (OSError, ValueError):
        stamp = []
    if stamp and (config := _cached(path, stamp)):
        return config
    return _read(path)


def resolve(config: Config, name: str) -> TargetSpec:
    """The target ready to start: its env_file read, its working directory checked.

    UsageError for an unknown name, with the closest one; ConfigError for what is missing on disk.
    """
    spec = config.targets.get(name)
    if spec is None:
        raise _unknown(name, config)
    place = f"{display(config.path)}: targets.{name}"
    _check_cwd(spec.cwd, f"{place}.cwd")
    env = dict(spec.env)
    if spec.env_file:
        from safesh import _envfile

        found = _envfile.read(spec.env_file, f"{place}.env_file")
        if "SAFESH_RUN_ID" in found:
            raise ConfigError("sets SAFESH_RUN_ID, which only the supervisor sets", place=spec.env_file)
        env = {**found, **env}
    return TargetSpec(**{**spec.__dict__, "env": env})


def fingerprint(spec: TargetSpec) -> dict[str, str]:
    """A digest of every key of a resolved target that a start acts on: what differs later has drifted."""
    return {
        key: _digest(wire.dumps(value))
        for key, value in spec.to_dict().items()
        if key not in ("name", "project", "config", "env_file", "admission")
    }


def _digest(text: str) -> str:
    from _blake2 import blake2b  # the C half of hashlib, which costs 2 ms

    return blake2b(text.encode(), digest_size=6).hexdigest()


def project_of(path: str) -> str:
    """The project's name when the file gives none: its folder's, with what no file name may hold left out."""
    folder = os.path.basename(os.path.dirname(path))
    letters = [letter if letter.isprintable() and not letter.isspace() and letter != "\\" else "-" for letter in folder]
    name = "".join(letters).lstrip(".-").encode()[:80].decode("utf-8", "ignore")
    return name or "default"


def ad_hoc(name: str, command: list[str], project: str | None = None, config: Config | None = None) -> TargetSpec:
    """A target made of a command line alone; it runs in the working directory.

    project: defaults to that of ``config``, the safe.toml found, else to ``default``. Within a safe.toml the
    name of an instance takes that instance's files, so it excludes the instance's targets; a target's own
    name is refused, for the two would share a log.
    """
    paths.check_name(name, "a run")
    if not command or not command[0]:
        raise UsageError("no command given", hint=f"start {name} -- PROGRAM ARG...")
    if any("\0" in word for word in command):
        raise UsageError("the command contains a NUL character, which no argument can hold")
    fields: dict[str, Any] = {}
    if config is not None:
        if name in config.targets:
            raise UsageError(
                f"{name} is a target of {display(config.path)}, whose command is fixed there",
                hint=f"leave out '-- {command[0]} ...', or choose another name",
            )
        for spec in config.targets.values():
            if spec.instance == name:
                fields = {"lock_file": spec.lock_file, "pid_file": spec.pid_file}
        project = project or config.project
    project = paths.check_name(project or ADHOC_PROJECT, "a project")
    cwd = working_directory()
    return TargetSpec(name=name, instance=name, project=project, command=list(command), cwd=cwd, **fields)


def working_directory() -> str:
    """getcwd(3); UsageError where the folder was removed under us."""
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working directory cannot be used: {error.strerror}", hint="go to a folder that exists: cd ~"
        ) from None


def display(path: str) -> str:
    """The file's name as messages give it: short when it lies in the working directory."""
    folder, name = os.path.split(path)
    try:
        return name if folder == os.getcwd() else path
    except OSError:
        return path


def _read(path: str) -> Config:
    from safesh import _source, vendor

    text, info = _source.read(path, display(path))
    vendor.add_site_packages()
    try:
        from safesh import _targets
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "msgspec":
            raise
        raise SafeshError(
            "reading safe.toml needs the library msgspec, which is not installed",
            place=display(path),
            hint="install safesh with its dependencies: pip install msgspec",
        ) from None
    config = _targets.build(text, path)
    _keep(config, _stamp(path, info), info)
    return config


def _check_cwd(path: str, place: str) -> None:
    try:
        info = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", place=place, hint=f"make it: mkdir -p {path}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise ConfigError(f"{path} is not a folder", place=place, hint="name a folder")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{path}: you may not enter it", place=place, hint=f"look at it: ls -ld {path}")


def _unknown(name: str, config: Config) -> UsageError:
    import difflib

    close = difflib.get_close_matches(name, config.targets, 1, 0.5)
    question = f"did you mean {close[0]}? " if close else ""
    return UsageError(
        f"no target {name!r}", place=display(config.path), hint=f"{question}targets: {', '.join(config.targets)}"
    )


def _stamp(path: str, info: os.stat_result) -> list[Any]:
    """All that a cached result depends on."""
    times = [info.st_size, info.st_mtime_ns, info.st_ctime_ns]
    identity = [info.st_dev, info.st_ino, info.st_mode, info.st_uid]
    return [_SCHEMA, __version__, path, *identity, *times, os.geteuid(), os.environ.get("HOME")]


def _cache_file(path: str) -> str:
    # The name's end is enough: two files that share it take turns, for the stamp holds the whole name.
    name = os.fsencode(path.replace("%", "%25").replace("/", "%"))[-200:]
    return os.path.join(paths.state_home(), ".cache", os.fsdecode(name) + ".json")


def _cached(path: str, stamp: list[Any]) -> Config | None:
    try:
        head, _, body = (paths.read_private(_cache_file(path)) or "").partition("\n")
        if wire.loads(head) != [_digest(body), stamp]:
            return None
        return Config.from_dict(wire.loads(body))
    except (SafeshError, OSError, ValueError, TypeError, AttributeError):
        return None


def _keep(config: Config, stamp: list[Any], info: os.stat_result) -> None:
    """Write the cache, unless the file may still change under the same stamp.

    A file changed twice within one tick of its filesystem's clock keeps its times, so a result this young is
    not kept: 20 ms covers the kernel's tick, 2 s the filesystems that store whole (or even) seconds. A time in
    the future, from a clock set back, counts as young.
    """
    newest = max(info.st_mtime_ns, info.st_ctime_ns)
    coarse = info.st_mtime_ns % 1_000_000_000 == 0 and info.st_ctime_ns % 1_000_000_000 == 0
    if time.time_ns() - newest < (2_000_000_000 if coarse else 20_000_000):
        return
    file = _cache_file(config.path)
    try:
        if _stamp(config.path, os.stat(config.path)) != stamp:
            return  # it changed while it was read
        folder = os.path.dirname(file)
        paths.make_home()
        if not os.path.lexists(folder):
            os.mkdir(folder, 0o700)
        owner = os.lstat(folder)
        if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.geteuid() or owner.st_mode & 0o077:
            return
        body = wire.dumps(config)
        paths.write_private(file, wire.dumps([_digest(body), stamp]) + "\n" + body)
        _prune(folder)
    except (SafeshError, OSError, ValueError):
        return


def _prune(folder: str) -> None:
    """Keep the newest results only; a leftover of a crashed writer goes the same way."""
    names = os.listdir(folder)
    if len(names) > _KEPT:
        names.sort(key=lambda name: os.lstat(os.path.join(folder, name)).st_mtime_ns)
        for name in names[: len(names) - _KEPT]:
            paths.remove(os.path.join(folder, name))
