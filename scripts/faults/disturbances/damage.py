"""State files damaged: their content, their kind, their owner, their mode. Drawn: which file, which part of it."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from faults.world import World

NOBODY = 65534
# In the same file, as a faulty disk or a careless hand would, or a new file in its place.
HUGE = 32 << 20  # sparse: it costs no space


class Damaged:
    """One state file, drawn by kind first, so that each kind gets its turn."""

    def __init__(self, what: str, spoil: Callable[[Path, World, random.Random], None]) -> None:
        self.name = f"state file {what}"
        self.spoil = spoil

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        path = choose(world, rng)
        if path is not None:
            world.damaged.add(str(path))
            try:
                self.spoil(path, world, rng)
            except OSError:
                return None  # it has just gone, or a full disk takes only a part of the damage
        return None  # the next start has to do with it, or to name it


def kind_of(path: Path) -> str:
    """Which of our state files it is: what stands after the instance's name."""
    if path.parent.name == ".cache":
        return "cache"
    name = path.name.rstrip("0123456789")  # headless.log.000001
    return name if name.startswith(("events", "history")) else name[name.find(".") :]


def choose(world: World, rng: random.Random) -> Path | None:
    """A file of the state folder, whatever it is by now; None when there is none."""
    kinds: dict[str, list[Path]] = {}
    for folder in (world.files, world.state / ".cache"):
        if folder.is_dir() and not folder.is_symlink():
            for path in sorted(folder.iterdir()):
                if not path.name.endswith(".tmp"):
                    kinds.setdefault(kind_of(path), []).append(path)
    draws = rng.random(), rng.random()
    if not kinds:
        return None
    kind = sorted(kinds)[int(draws[0] * len(kinds))]
    return kinds[kind][int(draws[1] * len(kinds[kind]))]


def write(path: Path, data: bytes, rng: random.Random) -> None:
    """New content: in place, so that whoever has it open sees it too, or by another file under the same name."""
    info = os.lstat(path)
    if stat.S_ISREG(info.st_mode) and rng.random() < 0.6:
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(data)
        return
    clear(path)
    path.write_bytes(data)
    path.chmod(0o600)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def content(path: Path) -> bytes:
    """What is in it, where something is; sockets and pipes have nothing."""
    return path.read_bytes()[: 1 << 20] if stat.S_ISREG(os.lstat(path).st_mode) else b"{}"


def bits(path: Path, _world: World, rng: random.Random) -> None:
    data = bytearray(content(path) or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    write(path, bytes(data), rng)


def cut(path: Path, _world: World, rng: random.Random) -> None:
    data = content(path)
    write(path, data[: int(rng.random() * len(data))], rng)


def empty(path: Path, _world: World, rng: random.Random) -> None:
    write(path, b"", rng)


def garbage(path: Path, _world: World, rng: random.Random) -> None:
    random_bytes = rng.randbytes(rng.randrange(1, 3000))
    write(path, rng.choice((random_bytes, b"\0" * 512, b"[" * 50_000, b"null\n", b"-1\n")), rng)


def huge(path: Path, _world: World, rng: random.Random) -> None:
    write(path, content(path), rng)
    os.truncate(path, HUGE)


def symlink(path: Path, world: World, rng: random.Random) -> None:
    """To a bystander's file, to nothing, or to itself."""
    target = rng.choice((world.outside / "precious", world.outside / "missing", path))
    clear(path)
    path.symlink_to(target)


def folder(path: Path, _world: World, rng: random.Random) -> None:
    clear(path)
    path.mkdir(mode=0o700)
    if rng.random() < 0.5:
        (path / "inside").touch()


def fifo(path: Path, _world: World, _rng: random.Random) -> None:
    clear(path)
    os.mkfifo(path, 0o600)


def foreign(path: Path, _world: World, _rng: random.Random) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def mode(path: Path, _world: World, rng: random.Random) -> None:
    if not path.is_symlink():
        path.chmod(rng.choice((0o000, 0o400, 0o666, 0o777, 0o4755)))


def gone(path: Path, _world: World, _rng: random.Random) -> None:
    clear(path)


KINDS: dict[str, Callable[[Path, World, random.Random], None]] = {
    "with bits flipped": bits,
    "cut": cut,
    "emptied": empty,
    "of garbage": garbage,
    "grown huge": huge,
    "a symlink": symlink,
    "a folder": folder,
    "a pipe": fifo,
    "of another user": foreign,
    "of a wrong mode": mode,
    "removed": gone,
}


class FolderDamaged:
    """The project's folder itself; undone, for a folder that is not ours is refused, as it should be."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.name = f"state folder {what}"

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None:
        path, aside = world.files, world.state / "aside"
        if not path.is_dir() or path.is_symlink() or aside.exists() or aside.is_symlink():
            return None
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return None
        if self.what == "open to all":
            path.chmod(0o777)
            return None  # it is ours to close again
        if self.what == "of another user":
            os.chown(path, NOBODY, NOBODY)
            return lambda: os.chown(path, 0, 0) if path.exists() else None
        path.rename(aside)
        if self.what == "a symlink":
            # Not to a bystander's: who may replace this one is ourselves, and whoever runs follows (reliability.md).
            elsewhere = world.folder / "elsewhere"
            elsewhere.mkdir(mode=0o700, exist_ok=True)
            try:
                path.symlink_to(rng.choice((aside, elsewhere)))
            except OSError:  # not an inode left
                aside.rename(path)
                return None
        # Whoever holds a lock holds it there, and not what is made under its name now.
        world.damaged |= {str(world.lock(instance)) for instance in world.instances}

        def undo() -> None:
            if path.is_symlink():
                path.unlink()
            if path.exists():  # made anew meanwhile: what runs now has its files there
                shutil.rmtree(aside)
            else:
                aside.rename(path)

        return undo


FOLDER_KINDS = ("open to all", "of another user", "a symlink", "moved away")
