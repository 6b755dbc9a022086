"""``logs``: the last lines of targets' logs, and with ``-f`` what is added, over rotations and restarts.

The bytes are shown as the target wrote them, its own colours and cursor movements included, as ``cat`` would.
"""

from __future__ import annotations

import os
import select
import sys

from safesh import paths
from safesh.cli import render
from safesh.cli.targets import AD_HOC, open_config
from safesh.core import logtail
from safesh.core.rotation import scan_parts
from safesh.errors import SafeshError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config

_LOOK_EVERY = 100  # milliseconds between two looks of -f: this process is short-lived and somebody watches it
_HELD_AT_MOST = 1 << 20  # bytes of an unfinished line that wait for their end
_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13


class NoLog(SafeshError):
    """The target is known, but has not written a log."""


def run(args: dict[str, Any]) -> int:
    """Show the logs asked for. args: targets, follow, lines (0: all of them), path; 0, or 130 after Ctrl-C."""
    found = find_logs(open_config(args), args["targets"])
    if args["path"]:
        render.say("\n".join(path for _name, path in found))
        return 0
    try:
        return _show(found, args["lines"] or logtail.ALL, bool(args["follow"]))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return _BROKEN_PIPE


def find_logs(config: Config | None, names: list[str]) -> list[tuple[str, str]]:
    """(target, path of its log) for each name, or for every target that has a log where none is named.

    UsageError for a name that nobody knows, NoLog where no target has one. A named target's log may be missing.
    """
    if names:
        return [(name, _find_log(config, name)) for name in dict.fromkeys(names)]
    if config is not None:
        folder = paths.project_dir(config.project)
        known = {name: _log_of(folder, name) for name in config.targets}
    else:
        folder = paths.project_dir(AD_HOC)
        stems = sorted(entry.removesuffix(".log") for entry in os.listdir(folder) if entry.endswith(".log"))
        known = {name: os.path.join(folder, name + ".log") for name in stems}
    found = [(name, path) for name, path in known.items() if _exists(path)]
    if not found:
        raise NoLog("no target has written a log yet", place=folder, hint="start one: safe.sh start TARGET")
    return found


def _find_log(config: Config | None, name: str) -> str:
    if config is not None:
        path = _log_of(paths.project_dir(config.project), name)
        if name in config.targets or _exists(path):
            return path
    path = _log_of(paths.project_dir(AD_HOC), name)
    if _exists(path):
        return path
    if config is not None:
        from safesh import config as configs

        configs.resolve(config, name)  # raises, with the closest name
    raise UsageError(
        f"nothing named {name!r} has been started here",
        hint="see what there is: safe.sh status; or go where its safe.toml is",
    )


def _log_of(folder: str, target: str) -> str:
    return paths.InstancePaths(folder, target).log(target)


def _exists(path: str) -> bool:
    """Whether there is a log, be it only rotated parts."""
    return os.path.lexists(path) or bool(scan_parts(path))


class _Stream:
    """One target's log on its way to stdout."""

    def __init__(self, name: str, path: str, lines: int, prefix: bytes, live: bool) -> None:
        self.name = name
        self.path = path
        self.prefix = prefix
        self.follower = logtail.Follower(path, lines, live=live)
        self._held = b""  # an unfinished line: another target's must not end it

    def read(self) -> bytes:
        """What there is to show now, b"" when nothing."""
        chunk = self.follower.read()
        for first, last in self.follower.missed:
            parts = f"part {first:06d}" if first == last else f"parts {first:06d} to {last:06d}"
            _say_aside(f"{self.path}: {parts} rotated away before we could read: raise log.keep or log.size")
        self.follower.missed.clear()
        if not self.prefix or not chunk:
            return chunk
        lines = (self._held + chunk).split(b"\n")
        self._held = lines.pop()
        if len(self._held) > _HELD_AT_MOST:
            lines.append(self._held)
            self._held = b""
        # Something was read: an empty answer would say otherwise.
        return b"".join(self.prefix + line + b"\n" for line in lines) or self.read()

    def rest(self) -> bytes:
        """The unfinished line at the end, finished."""
        held, self._held = self._held, b""
        return self.prefix + held + b"\n" if held else b""


def _show(found: list[tuple[str, str]], lines: int, follow: bool) -> int:
    width = max(len(name) for name, _path in found)
    streams: list[_Stream] = []
    try:
        for name, path in found:
            prefix = f"{name:<{width}} | ".encode() if len(found) > 1 else b""
            streams.append(_Stream(name, path, lines, prefix, follow))
        missing = [stream for stream in streams if not stream.follower.found]
        if missing and not follow:
            raise NoLog(
                "has no log yet",
                place=", ".join(stream.name for stream in missing),
                hint=f"start it: safe.sh start {missing[0].name}; or wait for it: safe.sh logs -f {missing[0].name}",
            )
        for stream in missing:
            _say_aside(f"{stream.name}: no log yet, waiting for {stream.path}")
        watch = select.poll()
        watch.register(1, 0)  # no events but errors: the reader of our pipe, or our terminal, has gone
        while True:
            moved = False
            for stream in streams:
                while chunk := stream.read():
                    moved = True
                    _write(chunk)
                if not follow:
                    _write(stream.rest())
            if not follow:
                return 0
            if not moved and watch.poll(_LOOK_EVERY):
                raise BrokenPipeError
    finally:
        for stream in streams:
            stream.follower.close()


def _write(data: bytes) -> None:
    """All of it to stdout, unbuffered: a follower must show a line when it comes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:  # somebody shares our stdout and set O_NONBLOCK
            watch = select.poll()
            watch.register(1, select.POLLOUT)
            watch.poll()


def _say_aside(text: str) -> None:
    try:
        print(f"{render.program()}: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def _forget_stdout() -> None:
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
