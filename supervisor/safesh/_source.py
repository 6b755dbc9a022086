"""Files that people write (safe.toml, env_file): how they are opened, and when they are trusted.

Whoever can write one of them runs commands as us, so a file that everybody can write is refused.
"""

from __future__ import annotations

import os
import stat

from safesh.errors import ConfigError

_LIMIT = 1 << 20  # bytes; nobody writes a megabyte of targets by hand


def read(path: str, place: str, limit: int = _LIMIT) -> tuple[str, os.stat_result]:
    """The file's text and its fstat(2) from before the reading; ConfigError names ``place`` when it has none.

    limit: bytes; a larger file is refused.
    """
    try:
        # O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, place, error) from None
    try:
        info = os.fstat(fd)
        _check_trust(path, place, info)
        data = bytearray()
        while len(data) <= limit and (chunk := os.read(fd, 1 << 16)):
            data += chunk
    except OSError as error:
        raise _unreadable(path, place, error) from None
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ConfigError(f"is larger than {limit >> 20} MiB", place=place, hint=f"is it the right file? ls -l {path}")
    return _decode(bytes(data), place), info


def _unreadable(path: str, place: str, error: OSError) -> ConfigError:
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return ConfigError("is a symlink to nothing", place=place, hint=f"look at it: ls -l {path}")
        return ConfigError("there is no such file", place=place, hint=f"looked for {path}")
    return ConfigError(f"cannot be read: {reason}", place=place, hint=f"look at it: ls -l {path}")


def _check_trust(path: str, place: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ConfigError("is a folder, not a file", place=place, hint=f"look at it: ls -ld {path}")
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError("is not a regular file", place=place, hint=f"look at it: ls -l {path}")
    if info.st_mode & stat.S_IWOTH:
        raise ConfigError("can be written by everybody, so it is not trusted", place=place, hint=f"chmod o-w {path}")
    user = os.geteuid()
    if info.st_uid in (0, user):
        return
    # Root in a container runs users' checkouts all day; a file that another user left in /tmp is a trap.
    folder = os.stat(os.path.dirname(path) or ".")
    if user != 0 or folder.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"belongs to user {info.st_uid}, neither to you ({user}) nor to root, so it is not trusted",
            place=place,
            hint="take a copy of your own",
        )


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"byte 0x{data[error.start]:02x} is not UTF-8", place=f"{place}:{line}", hint="save the file as UTF-8"
        ) from None
