"""A terminal without a window: a program below a pseudo terminal, and the screen that it draws (by pyte)."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import pyte

# pyte knows no faint text (SGR 2); it is passed on as this grey of the 256 colours.
_FAINT = ["38", "5", "247"]
_SGR = re.compile(rb"\x1b\[([0-9;]*)m")


class Cell(NamedTuple):
    """One character and how it looks; colours as pyte names them (a name, or six hex digits)."""

    text: str
    front: str
    back: str
    bold: bool


Frame = tuple[tuple[Cell, ...], ...]  # rows of cells


def _grey(match: re.Match[bytes]) -> bytes:
    words = match[1].decode().split(";")
    out: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("38", "48"):
            out += [word, *words[: 2 if words[:1] == ["5"] else 4]]
            del words[: 2 if words[:1] == ["5"] else 4]
        else:
            out += _FAINT if word == "2" else [word]
    return f"\x1b[{';'.join(out)}m".encode()


class Terminal:
    """``command`` in a terminal of ``columns`` by ``rows``, and every picture it has shown, each with its time (s)."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: str, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.frames: list[tuple[float, Frame]] = []
        self._rest = b""
        self._begun = time.monotonic()
        self.pid, self._fd = os.forkpty()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                os.execvpe(command[0], list(command), dict(env))
            finally:
                os._exit(127)
        # The program reads the size when it starts, which is later than this in all but theory; it is told in any case.
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                os.kill(self.pid, signal.SIGKILL)  # our own child, not waited for yet
            except ProcessLookupError:
                pass
            os.waitpid(self.pid, 0)

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def frame(self) -> Frame:
        return tuple(
            tuple(_cell(self.screen.buffer[row][column]) for column in range(self.screen.columns))
            for row in range(self.screen.lines)
        )

    def watch(self, seconds: float, until: Callable[[str], bool] | None = None) -> bool:
        """Take in what is drawn for so long, or until ``until`` says of the screen's text that it is enough."""
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            if until is not None and until(self.text()):
                return True
            if select.select([self._fd], [], [], min(left, 0.05))[0] and not self._take():
                return until is None
        return until is None

    def _take(self) -> bool:
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # EIO: nobody has it open any more (pty(7))
            return False
        data = self._rest + data
        cut = data.rfind(b"\x1b")
        whole = cut < 0 or re.match(rb"\x1b(\[[0-9;?]*[@-~]|[^\[])", data[cut:])
        data, self._rest = (data, b"") if whole else (data[:cut], data[cut:])
        self._stream.feed(_SGR.sub(_grey, data))
        now = self.frame()
        if not self.frames or self.frames[-1][1] != now:
            self.frames.append((time.monotonic() - self._begun, now))
        return True

    def write(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def type(self, text: str, pause: float = 0.06) -> None:
        """As a person does: letter by letter."""
        for letter in text:
            self.write(letter)
            self.watch(pause)


def _cell(char: pyte.screens.Char) -> Cell:
    front, back = (char.bg, char.fg) if char.reverse else (char.fg, char.bg)
    if char.reverse:
        front, back = ("ground" if front == "default" else front), ("text" if back == "default" else back)
    return Cell(char.data or " ", front, back, char.bold)
