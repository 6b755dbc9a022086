"""Environments, kept and shared: one for each exact list of packages and each Python.

Two steps, both remembered. What requirements mean is resolved, and kept in ``resolved/``, for a day: so an upgrade
arrives, and a machine without a network goes on with what it knows. What a list needs is built once, below its lock,
in its final place (a virtual environment cannot be moved), and counts only when its marker has been written, last.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from safesh import paths, wire
from safesh.clock import format_duration, monotonic, wall
from safesh.errors import SafeshError
from safesh.mission import installer as installers
from safesh.mission import store
from safesh.mission.errors import EnvironmentFailed
from safesh.mission.installer import python_of
from safesh.mission.result import EnvironmentInfo

if TYPE_CHECKING:
    from safesh.mission.control import Control
    from safesh.mission.installer import Wish
    from safesh.mission.store import Held

_FRESH = 86400.0  # seconds for which a resolved list is taken as it is
_TRY_AGAIN = 600.0  # seconds after a failed attempt to resolve it anew
_BUILD_SECONDS = 900.0  # for one step of an installer
_MARKER = "safesh.json"
_KEPT = 32


class Environment:
    """A built environment that we use: it is not pruned before ``release``."""

    def __init__(self, info: EnvironmentInfo, key: str, held: Held) -> None:
        self.info = info
        self.key = key
        self._held = held

    def release(self) -> None:
        self._held.release()


class Environments:
    """The environments of this user."""

    def __init__(
        self, *, installer: Wish = "auto", keep: int = _KEPT, fresh: float = _FRESH, timeout: float = _BUILD_SECONDS
    ) -> None:
        """keep: how many stay when a new one has been built; fresh: seconds for which a resolved list is trusted;
        timeout: seconds for one step of the installer."""
        self.installer = installer
        self.keep = keep
        self.fresh = fresh
        self.timeout = timeout

    def prepare(self, requirements: Sequence[str], control: Control) -> Environment:
        """The environment of these requirements, built where there is none; EnvironmentFailed when it cannot be."""
        began = monotonic()
        tool = installers.find(self.installer, self.timeout)
        info = EnvironmentInfo(path="", python="", requirements=list(requirements), installer=tool.name)
        info.resolved = self._resolve(requirements, tool, control, info)
        found = self._open(tool, control, info)
        info.seconds = round(monotonic() - began, 3)
        return found

    # --- what requirements mean ---------------------------------------------------------------

    def _resolve(
        self, requirements: Sequence[str], tool: installers.Installer, control: Control, info: EnvironmentInfo
    ) -> list[str]:
        path = os.path.join(store.folder("resolved"), _request_key(requirements) + ".json")
        with self._hold(path.removesuffix(".json") + ".lock", control):
            known = _read(path, "resolved")
            now = wall()
            if known is not None and (
                0 <= now - known.get("at", 0.0) < self.fresh or 0 <= now - known.get("tried", 0.0) < _TRY_AGAIN
            ):
                info.note = str(known.get("note") or "")
                return list(known["resolved"])
            try:
                folder = store.RunFolder("resolve")
                try:
                    resolved = tool.resolve("\n".join(requirements), folder.path, control)
                finally:
                    folder.close()
            except EnvironmentFailed as error:
                if known is None:
                    raise
                age = format_duration(max(0.0, now - known.get("at", 0.0)))
                info.note = f"as resolved {age} ago; not anew: {error}"
                paths.write_private(path, wire.dumps({**known, "tried": now, "note": info.note}))
                return list(known["resolved"])
            record = {"v": 1, "requirements": list(requirements), "resolved": resolved, "at": now}
            paths.write_private(path, wire.dumps(record))
            return resolved

    # --- what a list needs --------------------------------------------------------------------

    def _open(self, tool: installers.Installer, control: Control, info: EnvironmentInfo) -> Environment:
        key = _environment_key(info.resolved)
        path = os.path.join(store.folder("environments"), key)
        info.path, info.python = path, python_of(path)
        while True:
            held = self._hold(path + ".lock", control, shared=True)
            if _is_ready(path):
                try:
                    os.utime(os.path.join(path, _MARKER))  # the last to be pruned
                except OSError:
                    pass  # a full or read-only disk
                return Environment(info, key, held)
            held.release()
            with self._hold(path + ".lock", control):
                if not _is_ready(path):
                    self._build(path, tool, control, info)
                    info.cached = False
            if not info.cached:
                self.prune(keep=self.keep, spare=(key,))

    def _build(self, path: str, tool: installers.Installer, control: Control, info: EnvironmentInfo) -> None:
        began = monotonic()
        store.remove_tree(path)  # what a killed build left
        folder = store.RunFolder("build")
        try:
            tool.build(path, info.resolved, folder.path, control)
            marker = {"v": 1, "resolved": info.resolved, "installer": tool.name, "at": wall()}
            marker["seconds"] = round(monotonic() - began, 3)
            paths.write_private(os.path.join(path, _MARKER), wire.dumps(marker))
        except BaseException:
            store.remove_tree(path)
            raise
        finally:
            folder.close()

    def _hold(self, path: str, control: Control, *, shared: bool = False) -> Held:
        patience = 3 * self.timeout + 60
        held = store.hold(path, patience, control.check, shared=shared)
        if held is None:
            raise EnvironmentFailed(
                f"somebody has been building it for {format_duration(patience)}",
                place=path,
                hint=f"find out who: fuser -v {path}",
            )
        return held

    # --- less of them -------------------------------------------------------------------------

    def prune(self, *, keep: int | None = None, older_than: float = 0.0, spare: Iterable[str] = ()) -> list[str]:
        """Remove environments, the longest unused first; the paths of those removed.

        keep: how many stay (None: as the constructor says); older_than: seconds for which one must have been unused
        besides; spare: keys that stay. What a mission uses, also one kept alive, and what was half made by a killed
        build and is being made anew, is left alone.
        """
        from safesh.mission import kept

        root = store.folder("environments")
        names = {entry.removesuffix(".lock") for entry in os.listdir(root)}
        used = {name: _used_at(os.path.join(root, name)) for name in names}
        oldest_first = sorted(names, key=lambda name: used[name])
        most = self.keep if keep is None else keep
        spared = {*spare, *kept.environments_in_use()}
        removed = []
        left = len(names)
        for name in oldest_first:
            ready = used[name] > 0.0
            if name in spared or (ready and (left <= most or wall() - used[name] < older_than)):
                continue
            path = os.path.join(root, name)
            held = store.try_hold(path + ".lock")
            if held is None:
                continue  # in use
            if os.path.lexists(path):
                removed.append(path)
            store.remove_tree(path)
            held.release(forget=True)
            left -= 1
        self._forget_resolved()
        return removed

    def _forget_resolved(self) -> None:
        """What is known of lists whose environment is gone helps nobody."""
        root = store.folder("resolved")
        for entry in os.listdir(root):
            path = os.path.join(root, entry)
            if entry.endswith(".lock"):
                if not os.path.exists(path.removesuffix(".lock") + ".json"):
                    held = store.try_hold(path)
                    if held is not None:
                        held.release(forget=True)
                continue
            known = _read(path, "resolved")
            built = known is not None and os.path.exists(
                os.path.join(store.folder("environments"), _environment_key(known["resolved"]))
            )
            if not built and (known is None or wall() - known.get("at", 0.0) > self.fresh):
                paths.remove(path)


def _read(path: str, need: str) -> dict[str, Any] | None:
    """A file of ours, None where it is not there or not whole."""
    try:
        text = paths.read_private(path)
        data = wire.loads(text) if text else None
    except (ValueError, SafeshError):
        return None
    if not isinstance(data, dict) or data.get("v") != 1 or not isinstance(data.get(need), list):
        return None
    return data


def _is_ready(path: str) -> bool:
    """Whether a whole environment is there, with an interpreter: that of an uninstalled Python leads nowhere."""
    return _read(os.path.join(path, _MARKER), "resolved") is not None and os.access(python_of(path), os.X_OK)


def _used_at(path: str) -> float:
    """Wall time; 0.0 for one that is not whole."""
    try:
        return os.stat(os.path.join(path, _MARKER)).st_mtime
    except OSError:
        return 0.0


def _python() -> list[str]:
    """What tells one Python from another; an environment has links into the one that it was made with."""
    base = getattr(sys, "_base_executable", "") or sys.executable
    version = ".".join(map(str, sys.version_info))
    return [sys.implementation.name, version, sysconfig.get_platform(), os.path.realpath(base)]


def _request_key(requirements: Sequence[str]) -> str:
    """What resolving depends on, as a file's name: an index or wheels elsewhere may mean another list."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("PIP_", "UV_")))
    return _digest(["request", *_python(), *sorted(requirements), *_local_files(requirements), *settings])


def _local_files(requirements: Iterable[str]) -> list[str]:
    """What tells the content of the files that are named (``x @ file:///x.whl``) from a later one."""
    found = []
    for one in sorted(requirements):
        local = re.search(r"@\s*file://(?:localhost)?(/[^\s;#]*)", one)
        if local is not None:
            try:
                info = os.stat(local[1])
                found.append(f"{info.st_mtime_ns} {info.st_size}")
            except OSError:
                found.append("missing")
    return found


def _environment_key(resolved: Sequence[str]) -> str:
    return _digest(["environment", *_python(), *sorted(resolved), *_local_files(resolved)])


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
