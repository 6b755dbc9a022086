"""Parts that start foreign supervisors, in a pid and mount namespace of their own: nothing outlives them.

Outside, :func:`sections` starts ``python -m bench.inside PART SETTINGS`` and passes on what it says, a JSON object a
line. Where no namespace can be had, the part runs without one: every adapter ends what it has started by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NoReturn

from bench import check, escape, side, side_idle, side_load
from bench.figures import Section
from bench.install import DEBIAN, LIBRARIES, SYSTEM_LIBRARIES
from bench.rivals import find
from bench.rivals.base import Rival
from bench.rivals.s6 import BUILT_FOR
from bench.stage import ROOT, BenchError, Stage

OUTER = "BENCH_OUTER_NAMESPACE"
_BASE = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount")


@cache
def unshare() -> tuple[str, ...]:
    """The command before another that gives it a pid and a mount namespace; () where there is no such thing."""
    for more in ((), ("--user", "--map-root-user")):
        command = ("unshare", *more, *_BASE)
        try:
            done = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ()
        if done.returncode == 0:
            return command
    return ()


def enclosed() -> bool:
    """Whether this process is in a pid namespace that was made for it."""
    return os.environ.get(OUTER, "") not in ("", os.readlink("/proc/self/ns/pid"))


# ---- outside


def sections(stage: Stage, part: str, settings: dict[str, Any], told: dict[str, Any]) -> Iterator[Section]:
    """What a part measures, as it comes. told: takes ``versions`` and ``missing`` of the rivals."""
    environment = {**os.environ, "TMPDIR": str(stage.folder), "PYTHONPATH": str(ROOT / "scripts")}
    environment[OUTER] = os.readlink("/proc/self/ns/pid") if unshare() else ""
    child = subprocess.Popen(
        [*unshare(), stage.python, "-m", "bench.inside", part, json.dumps(settings)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            message = json.loads(line)
            if "section" in message:
                yield Section.of(message["section"])
            else:
                told |= message
        if child.wait():
            raise BenchError(told.pop("failed", f"{part}: exit status {child.returncode}"))
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asked, it ends what it has started; unshare doesn't listen, but what it runs does, or goes with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:  # so the group is still its own
            os.killpg(child.pid, number)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                continue
    if child.stdout is not None:
        child.stdout.close()


# ---- inside


def main(argv: list[str]) -> int:
    part, settings = argv[0], json.loads(argv[1])
    if os.getpid() == 1:
        _reap_below()
    signal.signal(signal.SIGTERM, _leave)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _lay_over()
    with Stage() as stage:
        wanted = settings.pop("rivals", None)
        rivals, missing = find(stage, settings.pop("install", False), wanted)
        _tell({"versions": {rival.name: rival.version for rival in rivals}, "missing": missing})
        try:
            for section in _measure(part, stage, rivals, settings):
                section.missing += [f"{name}: {why}" for name, why in missing.items()]
                _tell({"section": section.plain()})
        except BenchError as error:
            _tell({"failed": str(error)})
            return 1
    return 0


def _measure(part: str, stage: Stage, rivals: list[Rival], settings: dict[str, Any]) -> Iterable[Section]:
    if part == "side":
        load, seconds, counts = settings.pop("load"), settings.pop("idle"), settings.pop("counts")
        yield from side.side(stage, rivals, **settings)
        yield from side_idle.idle(stage, rivals, seconds, counts)
        if load is not None:
            yield from side_load.load(stage, rivals, **load)
    elif part == "escape":
        yield from escape.escape(stage, rivals, **settings)
    elif part == "check":
        yield from check.check(stage, rivals)
    else:
        raise BenchError(f"{part!r} is no part")


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _reap_below() -> None:
    """The first process of a namespace collects orphans; so this one does nothing else, and its child works."""
    worker = os.fork()
    if worker == 0:
        return
    signal.signal(signal.SIGTERM, lambda *_: None)  # the worker, of the same group, got it too and ends by itself
    while True:
        pid, status = os.wait()
        if pid == worker:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _lay_over() -> None:
    """Show what was unpacked from Debian in its own places, to this namespace alone (see rivals/s6.py)."""
    commands = DEBIAN / "usr" / "bin"
    if not enclosed() or BUILT_FOR.exists() or not (commands / BUILT_FOR.name).exists():
        return
    for upper, lower in ((commands, BUILT_FOR.parent), (LIBRARIES, SYSTEM_LIBRARIES)):
        if upper.is_dir():
            overlay = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={upper}:{lower}", str(lower)]
            subprocess.run(overlay, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
