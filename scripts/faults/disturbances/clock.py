"""The wall clock stepped, as seen by whatever begins from now on (libfaketime); commands whose monotonic clock is
another one (a time namespace, time_namespaces(7)). The machine's own clock is never set.

The supervisors that have begun under the library see each later step as well, at once: it reads a file at every look.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from faults.disturbances.limits import prefixed
from faults.namespace import ROOT
from faults.world import World

_OWN = ROOT / ".venv-faults" / "debian"  # where ``install`` unpacks the library
_PATTERN = "usr/lib/*/faketime/libfaketime.so.1"
_HOUR = 3600
_STEPS = {
    "ahead": (5, _HOUR, 5 * _HOUR, 400 * 24 * _HOUR),
    "back": (-5, -_HOUR, -5 * _HOUR, -400 * 24 * _HOUR),
}


class Stepped:
    """The wall clock, hours ahead or back."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.name = f"clock {where}"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        seconds = rng.choice(_STEPS[self.where])
        found = library()
        if not found or not _own_shared_memory():
            return None
        step(world, seconds)
        world.environ |= {
            "LD_PRELOAD": found,
            "FAKETIME_TIMESTAMP_FILE": str(world.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

        def undo() -> None:
            step(world, 0)  # those who began under it go on with the true time
            for name in [name for name in world.environ if name == "LD_PRELOAD" or name.startswith("FAKETIME")]:
                del world.environ[name]

        return undo


def step(world: World, seconds: int) -> None:
    """Set the difference to the true time for all that began under the library."""
    new = world.folder / "clock.new"
    new.write_text(f"{seconds:+d}s\n")
    new.rename(world.folder / "clock")


class Monotonic:
    """Commands with another monotonic clock than the supervisors: no time of one may be told to the other."""

    name = "monotonic clock of commands elsewhere"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        seconds = rng.choice((-60, _HOUR, 400 * 24 * _HOUR))
        if not time_namespaces():
            return None
        return prefixed(world, "unshare", "--time", f"--monotonic={seconds}", "--")


@cache
def library() -> str:
    """libfaketime, of the machine or of our own folder; "" where there is none."""
    for top in (Path("/"), _OWN):
        for path in sorted(top.glob(_PATTERN)):
            if _preloads(str(path)):
                return str(path)
    return ""


def _preloads(path: str) -> bool:
    environ = {"PATH": os.environ["PATH"], "LD_PRELOAD": path, "FAKETIME": "@2001-01-02 03:04:05", "TZ": "UTC"}
    done = subprocess.run(["date", "+%Y"], env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    return done.stdout.strip() == b"2001" and not done.stderr


def install() -> str:
    """Get the library by Debian's package into our own folder, unless there is one; why not, or "". Nothing of the
    system is changed, and it needs no root."""
    if library():
        return ""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "no libfaketime, and no apt-get to get it with"
    _OWN.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["apt-get", "download", "libfaketime"], cwd=_OWN, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )
    for package in _OWN.glob("libfaketime_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(_OWN)], stdin=subprocess.DEVNULL, timeout=60, check=True)
        package.unlink()
    library.cache_clear()
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "" if library() else f"libfaketime cannot be had: {said[-1] if said else 'no package of that name'}"


@cache
def time_namespaces() -> bool:
    words = ["unshare", "--time", "--monotonic=60", "--", "true"]
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@cache
def _own_shared_memory() -> bool:
    """The library leaves files of killed processes in /dev/shm: in this mount namespace that is a folder of ours."""
    before = os.stat("/dev/shm")
    words = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", "/dev/shm"]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    return os.stat("/dev/shm").st_dev != before.st_dev
