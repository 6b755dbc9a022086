"""The file system of the state folder: full, without inodes, read-only. Only where the world has one of its own."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from faults.disturbances.stopping import void
from faults.world import World

_FILLER = "filler"
_MOST = 64 << 20  # a tmpfs that takes more is not the small one that was asked for


class Full:
    """No space left, or a page or two: what is written then is cut in the middle, at the end of a page."""

    name = "disk full"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        leave = rng.choice((0, 0, 1, 2)) * os.sysconf("SC_PAGE_SIZE")
        path = world.state / _FILLER
        if not world.mounted or path.exists():
            return None
        try:
            os.truncate(path, max(0, fill(path) - leave))
        except OSError:  # read-only, or not an inode left
            return None
        return lambda: path.unlink(missing_ok=True)


def fill(path: Path) -> int:
    """Fill the file system with this file; its size."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    block = 65536
    try:
        while block:
            try:
                if not os.write(fd, b"x" * block) or os.fstat(fd).st_size > _MOST:
                    break
            except OSError:
                block //= 16
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


class Inodes:
    """Space enough, and no file can be made."""

    name = "disk without inodes"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        leave = rng.choice((0, 0, 1, 2))
        folder = world.state / "fillers"
        if not world.mounted or folder.exists():
            return None
        made: list[Path] = []
        try:
            folder.mkdir(mode=0o700)
            for number in range(2000):
                (folder / str(number)).touch()
                made.append(folder / str(number))
        except OSError:
            pass
        for path in made[:leave]:
            path.unlink()

        def undo() -> None:
            for path in made:
                path.unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()

        return undo


class ReadOnly:
    """Only where nobody has a file open for writing: the kernel remounts nothing under a writer."""

    name = "disk read-only"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        if not world.mounted or not remount(world.state, "ro"):
            return None
        return lambda: void(remount(world.state, "rw"))


def remount(path: Path, how: str) -> bool:
    words = ["mount", "-o", f"remount,{how}", str(path)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).returncode == 0
