"""A terminal taken over and given back: keys, resizes, signals, and frames drawn over each other.

However ``top`` ends but by SIGKILL, the terminal is as it was: an exception unwinds through :class:`Terminal`, the
signals that end or suspend us are recorded by their handlers and acted upon by the loop.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from safesh.cli import render
from safesh.clock import LONGEST_WAIT

_HOME, _CLEAR_LINE, _CLEAR_BELOW, _CLEAR = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
# The alternate screen keeps what stood there; no cursor; a line that is too long is cut, not wrapped.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"
_SGR = re.compile(r"\x1b\[[0-9;]*m")
_SEQUENCE = re.compile(r"\x1b(\[[0-9;?<=>]*[ -/]*[@-~]|O[A-Za-z])")
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_ESCAPE_SECONDS = 0.05  # after which an escape alone was the key and not the beginning of a sequence
_NAMES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left", "\x1bOA": "up", "\x1bOB": "down",
    "\x1bOC": "right", "\x1bOD": "left", "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1b[H": "home",
    "\x1b[F": "end", "\x1b[1~": "home", "\x1b[4~": "end", "\x1bOH": "home", "\x1bOF": "end", "\x1bOM": "enter",
    "\n": "enter", "\r": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "clear", "\x0c": "redraw",
}  # fmt: skip


def paint(lines: Sequence[str], columns: int, height: int) -> str:
    """What draws the lines over whatever stands there; too many are cut at the window's end, which is told."""
    room = max(2, height - 1) if height else len(lines)
    if len(lines) > room:
        more = f"{render.glyph('…', '...')} {len(lines) - room + 1} more lines"
        lines = [*lines[: room - 1], render.style(render.cut(more, columns), "dim")]
    return _HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW


def reversed_line(text: str, columns: int) -> str:
    """A whole line in reverse video, its own colours dropped: the two together cannot be read everywhere."""
    plain = _SGR.sub("", text)
    return f"{_REVERSE}{plain}{' ' * max(0, columns - render.width_of(plain))}{_PLAIN}"


def without_colour(text: str) -> str:
    """A styled text without its escapes."""
    return _SGR.sub("", text)


class Wakeups:
    """Signals (SIGWINCH, and ``numbers``) as something to wait for, so that none is lost between two waits."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = (signal.SIGWINCH, *numbers)
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            os.set_blocking(fd, False)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            self._old[number] = signal.signal(number, _record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        """From another thread: end the wait under way."""
        try:
            os.write(self._write, b"\0")
        except OSError:  # full: it wakes anyhow; closed: nobody waits any more
            pass

    def read(self) -> list[int]:
        """Signals that have come since."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def resized(self, seconds: float) -> bool:
        """Wait; True on a resize, False when the time is over or something else came."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        return bool(ready) and signal.SIGWINCH in self.read()


def _record(_number: int, _frame: FrameType | None) -> None:
    """The byte in the pipe tells everything."""


class Terminal:
    """The terminal, ours for the length of a ``with`` block. ``ended_by``: the signal that wants us to end, or 0."""

    def __init__(self) -> None:
        self.ended_by = 0
        self.wakeups = Wakeups(*_ENDS, signal.SIGTSTP, signal.SIGCONT)
        self._in = sys.stdin.fileno()
        self._held = b""
        self._saved: list[Any] = []

    def __enter__(self) -> Self:
        self._saved = termios.tcgetattr(self._in)
        self.wakeups.__enter__()
        try:
            self._take()
        except BaseException:
            self._give_back()
            self.wakeups.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._give_back()
        finally:
            self.wakeups.__exit__(kind, error, trace)

    def _take(self) -> None:
        raw = [*self._saved[:6], list(self._saved[6])]
        # Ctrl-C and Ctrl-Z stay signals. Ctrl-S would let a frame, and with it us, wait for Ctrl-Q.
        raw[0] &= ~(termios.IXON | termios.INLCR | termios.IGNCR)
        raw[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._in, termios.TCSANOW, raw)
        self._write(_ENTER + _CLEAR)

    def _give_back(self) -> None:
        try:
            self._write(_LEAVE)
        except OSError:  # it has been hung up
            pass
        try:
            termios.tcsetattr(self._in, termios.TCSANOW, self._saved)
        except termios.error:
            pass

    def show(self, lines: Sequence[str], *, anew: bool = False) -> None:
        """Draw a frame; ``anew``: nothing of what stands there may be left (after a resize)."""
        height = render.window()[1]
        self._write((_CLEAR if anew else "") + _frame(lines[:height] if height else lines))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def forget_keys(self) -> None:
        """Drop what was typed before a question could be seen: no paste may answer it."""
        self._held = b""
        termios.tcflush(self._in, termios.TCIFLUSH)

    def wait(self, seconds: float) -> tuple[list[str], bool]:
        """(keys that were pressed, whether all has to be drawn anew). ``ended_by`` may be set after it."""
        ready, _, _ = select.select([self._in, self.wakeups], [], [], min(max(0.0, seconds), LONGEST_WAIT))
        anew = False
        if self.wakeups in ready:
            anew = self._heed(self.wakeups.read())
        return (self._keys() if self._in in ready and not self.ended_by else []), anew

    def _heed(self, numbers: list[int]) -> bool:
        anew = signal.SIGWINCH in numbers
        self.ended_by = next((number for number in numbers if number in _ENDS), self.ended_by)
        if signal.SIGTSTP in numbers and not self.ended_by:
            self._suspend()
            return True
        if signal.SIGCONT in numbers and not self.ended_by:
            self._take()  # a shell has had the terminal meanwhile; in the background this stops us (SIGTTOU)
            return True
        return anew

    def _suspend(self) -> None:
        """As the kernel would have: our shell sees us stopped, and the terminal is its own."""
        self._give_back()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)  # returns once somebody has continued us
        finally:
            signal.signal(signal.SIGTSTP, before)
        self._take()

    def _keys(self) -> list[str]:
        try:
            data = os.read(self._in, 4096)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            self.ended_by = self.ended_by or signal.SIGHUP
            return []
        held = self._held + data
        while held.endswith(b"\x1b") or (b"\x1b" in held[-8:] and not _complete(held)):
            if not select.select([self._in], [], [], _ESCAPE_SECONDS)[0]:
                break
            more = os.read(self._in, 4096)
            if not more:
                break
            held += more
        text = held.decode("utf-8", "ignore")
        cut = _unfinished(held)
        self._held = held[len(held) - cut :] if cut else b""
        return split_keys(text)


def _frame(lines: Sequence[str]) -> str:
    """Without a line break after the last line, which would scroll."""
    return _HOME + f"{_CLEAR_LINE}\r\n".join(lines) + _CLEAR_LINE + _CLEAR_BELOW


def _complete(held: bytes) -> bool:
    return _SEQUENCE.match(held[held.rindex(b"\x1b") :].decode("latin-1")) is not None


def _unfinished(held: bytes) -> int:
    """How many bytes at the end begin a letter in UTF-8 that is not whole yet."""
    for back in range(1, min(4, len(held) + 1)):
        byte = held[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < wanted else 0
        if byte < 0x80:
            return 0
    return 0


def split_keys(text: str) -> list[str]:
    """What was pressed: letters as they are, other keys by name; sequences that nobody knows are passed over."""
    keys = []
    index = 0
    while index < len(text):
        letter = text[index]
        if letter != "\x1b":
            keys.append(_NAMES.get(letter) or letter)
            index += 1
            continue
        match = _SEQUENCE.match(text, index)
        if match is None:  # the key, also where a letter follows at once
            keys.append("escape")
            index += 1
            continue
        if match[0] in _NAMES:
            keys.append(_NAMES[match[0]])
        index = match.end()
    return keys
