"""A block of lines kept at the bottom of a terminal, and what others print kept above it.

Plain cursor movement, no alternate screen, no hidden cursor, no handler of any signal: whatever ends the program, even
SIGKILL, the terminal is left usable, the last block on it and the cursor below.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import IO, Any

_CLEAR_LINE, _CLEAR_BELOW, _CLEAR_ALL = "\x1b[K", "\x1b[J", "\x1b[H\x1b[2J"
_CALM = 0.05  # seconds between two drawings that prints cause; a flood of prints is followed by one


class Screen:
    """Draws blocks to a terminal. Any thread may draw, and any may print meanwhile."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._fd = descriptor(stream)
        self._lock = threading.RLock()
        self._lines: list[str] = []
        self._drawn = 0  # lines of the block that stand above the cursor
        self._size = (0, 0)
        self._prints: list[_Prints] = []
        self._handlers: list[tuple[Any, IO[str], _Prints]] = []
        self._at = 0.0
        self._late = False
        self.dead = False  # the terminal is gone

    # ---- what others print

    def catch_prints(self) -> None:
        """From here on ``sys.stdout`` and ``sys.stderr``, where they are this terminal, print above the block; so do
        the handlers that logging's root already has for them."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and self._is_same_terminal(stream):
                prints = _Prints(self, stream, name)
                setattr(sys, name, prints)
                self._prints.append(prints)
        logging = sys.modules.get("logging")  # a program that has not imported it has no handlers
        for handler in logging.getLogger().handlers if logging is not None else ():
            for prints in self._prints:
                if hasattr(handler, "setStream") and handler.stream is prints.stream:
                    handler.setStream(prints)
                    self._handlers.append((handler, prints.stream, prints))
                    break

    def release_prints(self) -> None:
        """Put back what ``catch_prints`` replaced, unless somebody else has replaced it since."""
        for handler, stream, prints in self._handlers:
            if handler.stream is prints:
                handler.setStream(stream)
        self._handlers.clear()
        for prints in self._prints:
            prints.finish()
            if getattr(sys, prints.name) is prints:
                setattr(sys, prints.name, prints.stream)
        self._prints.clear()

    def _is_same_terminal(self, stream: IO[str]) -> bool:
        other = descriptor(stream)
        if self._fd < 0 or other < 0:
            return False
        try:
            return os.isatty(other) and os.fstat(other).st_rdev == os.fstat(self._fd).st_rdev
        except OSError:
            return False

    def above(self, stream: IO[str], text: str) -> None:
        """``text``, whole lines, to ``stream``, above the block."""
        with self._lock:
            if self._drawn:
                self._put(f"\r\x1b[{self._drawn}A{_CLEAR_BELOW}")
                self._drawn = 0
            stream.write(text)
            stream.flush()
            if time.monotonic() - self._at >= _CALM:
                self._redraw()
            else:
                self._late = True  # the next regular drawing brings the block back

    # ---- the block

    def size(self) -> tuple[int, int]:
        """(columns, lines), asked anew each time: a resize needs no signal."""
        try:
            found = os.get_terminal_size(self._fd)
        except (OSError, ValueError):  # a table was asked for where there is no terminal
            import shutil

            found = shutil.get_terminal_size()
        return max(1, found.columns), max(2, found.lines)

    def draw(self, lines: Iterable[str], *, anew: bool = False) -> None:
        """Replace the block. anew: below whatever is there now, for the cursor may not be where we left it."""
        with self._lock:
            self._lines = list(lines)
            if anew:
                self._drawn = 0
            self._redraw()

    @property
    def is_late(self) -> bool:
        """Whether the block is missing, because prints came too fast."""
        return self._late

    def _redraw(self) -> None:
        if self._is_in_background():
            self._drawn = 0
            return
        columns, rows = size = self.size()
        start = f"\r\x1b[{self._drawn}A" if self._drawn else "\r"
        if self._drawn and (columns < self._size[0] or rows <= self._drawn):
            start = _CLEAR_ALL  # the old block was wrapped or pushed up, and nobody can say where it is
        lines = self._lines[: rows - 1]
        self._put(start + "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines) + _CLEAR_BELOW)
        self._drawn, self._size, self._at, self._late = len(lines), size, time.monotonic(), False

    def _is_in_background(self) -> bool:
        """Whether a shell has the terminal: it would be drawn over."""
        if self._fd < 0:
            return False
        try:
            return os.tcgetpgrp(self._fd) not in (os.getpgrp(), 0)
        except OSError:  # not our controlling terminal: nobody else's either
            return False

    def _put(self, text: str) -> None:
        if not self.dead:
            self.dead = not put(self.stream, text)


class _Prints(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr``: whole lines go above the block, half a line waits for its end."""

    def __init__(self, screen: Screen, stream: IO[str], name: str) -> None:
        self._screen = screen
        self.stream: Any = stream  # whatever a text stream has
        self.name = name
        self._held = ""
        self._done = False
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._done or os.getpid() != self._pid:  # somebody kept a reference, or has forked
            return int(self.stream.write(text))
        with self._screen._lock:
            whole, newline, self._held = (self._held + text).rpartition("\n")
            if newline:
                self._screen.above(self.stream, whole + newline)
        return len(text)

    def flush(self) -> None:
        """What is half a line is shown as a whole one: a prompt must be seen."""
        if os.getpid() == self._pid:
            with self._screen._lock:
                if self._held:
                    text, self._held = self._held, ""
                    self._screen.above(self.stream, text + "\n")
        self.stream.flush()

    def finish(self) -> None:
        with self._screen._lock:
            self._done = True
            text, self._held = self._held, ""
        if text:
            self.stream.write(text)

    def isatty(self) -> bool:
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self.stream, "encoding", None) or "utf-8")

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self.stream, "errors", None)

    @property
    def buffer(self) -> Any:
        return self.stream.buffer

    def reconfigure(self, **options: Any) -> None:
        self.stream.reconfigure(**options)


def descriptor(stream: IO[str]) -> int:
    """The stream's descriptor, -1 for one that has none (a StringIO, a closed file)."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def is_terminal(stream: IO[str]) -> bool:
    """Whether the cursor may be moved there: a terminal that is not dumb."""
    try:
        return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")
    except (OSError, ValueError, AttributeError):
        return False


def put(stream: IO[str], text: str) -> bool:
    """Write all of ``text`` now; False when nobody takes it any more. Raises nothing.

    A descriptor is written to directly: a thread that were blocked inside the stream's own buffer would make
    Python's end a fatal error.
    """
    fd = descriptor(stream)
    try:
        stream.flush()
        if fd < 0:
            stream.write(text)
            stream.flush()
            return True
        data = memoryview(text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:  # somebody made it non-blocking
                time.sleep(0.01)
        return True
    except (OSError, ValueError):
        return False
