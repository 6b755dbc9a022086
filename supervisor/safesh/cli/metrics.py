"""``metrics``: what runs and what it uses, for Prometheus: printed, written to a file, or served.

Text format 0.0.4 is the default because that is what node_exporter's textfile collector reads; of OpenMetrics it would
take the counters for untyped. A Prometheus that scrapes ``--listen`` says itself which of the two it wants.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.cli import render, targets
from safesh.clock import monotonic, wall
from safesh.errors import ConfigError, StateError, UsageError
from safesh.instance import record as records
from safesh.instance import view as views
from safesh.metrics import exposition
from safesh.metrics.collect import Collector, Seen
from safesh.metrics.monitor import ResourceMonitor
from safesh.paths import state_home

if TYPE_CHECKING:
    from safesh.cli.targets import Chosen
    from safesh.config import Config

_MODE = 0o644  # node_exporter is another user


def run(args: dict[str, Any]) -> int:
    """Print, write or serve; 0, also when a signal ended the serving."""
    listen, output, chosen = args["listen"], args["output"], args["format"]
    if listen is not None:
        for name, value in (("--output", output), ("--format", chosen)):
            if value is not None:
                raise UsageError(
                    f"{name} does not go with --listen",
                    place="metrics",
                    hint="leave it out: who scrapes says which format it wants",
                )
        return _serve(args)
    if chosen not in (None, *exposition.FORMATS):
        raise UsageError(f"{chosen!r} is no format", place="--format", hint=f"use {' or '.join(exposition.FORMATS)}")
    file = _check_output(output) if output is not None else ""
    collector = Collector(_Look(args), _monitor())
    collector.prime()
    if file:
        collector.floors.learn(_read(file))
    # The system's share of CPU is counted between two looks.
    time.sleep(max(0.0, collector.settled_at - monotonic()))
    text = exposition.render(collector.scrape(), chosen or "prometheus")
    if file:
        _write(file, text)
    else:
        sys.stdout.buffer.write(text.encode())  # UTF-8 by both formats, whatever the locale
    return 0


def _monitor() -> ResourceMonitor:
    home = state_home()
    while not os.path.isdir(home):
        home = os.path.dirname(home)
    return ResourceMonitor(disk_path=home)


def _serve(args: dict[str, Any]) -> int:
    from safesh.metrics import server

    host, port = server.parse_address(args["listen"])
    collector = Collector(_Look(args), _monitor())
    endpoint = server.Endpoint(collector, host, port)
    if not server.is_loopback(endpoint.host):
        _say_aside(f"{endpoint.host} can be reached from other machines, without a password")
    collector.prime()
    endpoint.serve(lambda url: _say_aside(f"metrics at {url} (Ctrl-C ends)"))
    return 0


def _say_aside(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{render.program()}: {text}\n")
        sys.stderr.flush()


# --- looking ---------------------------------------------------------------------------------------


class _Look:
    """The instances that ``status`` would show, at every call. A safe.toml that breaks later keeps its last sense."""

    def __init__(self, args: dict[str, Any]) -> None:
        """ConfigError when safe.toml is wrong now."""
        self._args = args
        self._config: Config | None = targets.open_config(args)

    def __call__(self) -> tuple[list[Seen], bool, int]:
        misread = False
        try:
            self._config = targets.open_config(self._args)
        except (ConfigError, UsageError, OSError):
            misread = True
        found, failed = [], 0
        for one in targets.list_instances(self._config):
            try:
                found.append(_look_at(one))
            except Exception:  # one instance that cannot be looked at must not hide the others
                failed += 1
        return found, misread, failed


def _look_at(one: Chosen) -> Seen:
    view = views.look(one.paths, one.specs, tree=False)
    _record, problem = records.read_record(one.paths)
    record = view.record
    holder = (view.holder or {}) if view.lock == "held" else {}
    target = record["target"] if record is not None else holder.get("target")
    if not isinstance(target, str) or not target:
        target = one.specs[0].name if len(one.specs) == 1 else one.target
    log = record["log"] if record is not None else one.paths.log(one.specs[0].name) if len(one.specs) == 1 else ""
    return Seen(
        project=os.path.basename(one.paths.folder),
        instance=one.paths.instance,
        target=target,
        code=view.code,
        record=record,
        damaged=bool(problem),
        held=view.supervisor_alive or view.keeper_alive,
        main_alive=view.main_alive,
        ending=view.keeper_alive and not view.supervisor_alive,
        uptime=_uptime(record) if record is not None and view.main_alive else None,
        strays=len(view.strays),
        problems=len(view.problems),
        log=log,
    )


def _uptime(record: dict[str, Any]) -> float | None:
    """Seconds the main process has lived, by the kernel's word: the record's clock may have been set since."""
    main = record["main"]
    info = _platform.info(main["pid"]) if main else None
    if info is None or info.start != main["start"]:
        return None
    return round(max(0.0, wall() - (info.started_at or record["started_at"])), 3)


# --- the file --------------------------------------------------------------------------------------


def _check_output(path: str) -> str:
    """The file's absolute name. UsageError where writing it would replace something that is no plain file."""
    path = os.path.abspath(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(path)):
            return path
        folder = os.path.dirname(path)
        raise UsageError("its folder does not exist", place=path, hint=f"make it: mkdir -p {folder}") from None
    except OSError as error:
        raise StateError(
            f"cannot be written: {error.strerror}", place=path, hint=f"look at it: ls -ld {path}"
        ) from None
    if not stat.S_ISREG(mode):
        raise UsageError(
            "is no plain file, and would be replaced by one",
            place=path,
            hint="name a file; leave --output out for stdout",
        )
    return path


def _read(path: str) -> str:
    """What the last run wrote, "" where nothing can be read: counters then begin where they are now."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(16 << 20)
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """Replace it by rename(2): the collector, which reads ``*.prom``, sees the old text or the new."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = False
    try:
        try:
            os.unlink(temporary)  # of a killed run that had our pid
        except FileNotFoundError:
            pass
        with open(os.open(temporary, flags, _MODE), "w", encoding="utf-8") as file:
            made = True
            os.fchmod(file.fileno(), _MODE)  # whatever the umask
            file.write(text)
        os.rename(temporary, path)
        made = False
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StateError(f"cannot be written: {reason}", place=path, hint=f"look at it: ls -ld {folder}") from None
    finally:
        if made:
            try:
                os.unlink(temporary)
            except OSError:
                pass
