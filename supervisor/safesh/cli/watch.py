"""``status --watch``: look, show, wait; again on every interval and on every resize.

Plain cursor movement, no alternate screen and no hidden cursor: whatever ends us, even SIGKILL, the terminal
is left as it was found.
"""

from __future__ import annotations

import os
import select
import sys

from safesh.cli import render, status
from safesh.clock import LONGEST_WAIT, format_duration, format_time, monotonic, wall
from safesh.errors import SafeshError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import TracebackType
    from typing import Any, Self
else:
    import _signal

_HOME, _CLEAR, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


def run(args: dict[str, Any]) -> int:
    """Show the instances again and again; 0 once Ctrl-C ends it.

    A terminal is redrawn in place. Through a pipe: a block a look, with its time, or with ``--json`` one line a look.
    """
    redraw = render.wants_cursor(sys.stdout) and not args["json"]
    sampler = Sampler()
    try:
        with _Resizes() as resizes:
            if redraw:
                _write(_CLEAR)
            while True:
                due = monotonic() + args["interval"]
                text = _Frame(args, sampler)
                _write(text.screen() if redraw else text.block())
                while (left := due - monotonic()) > 0:
                    if resizes.wait(left) and redraw:
                        _write(_CLEAR + text.screen())  # what was seen, in the new shape: no new sample
    except KeyboardInterrupt:
        if redraw:
            _write("\n")
        return 0


class _Frame:
    """One look, kept so that it can be drawn again in another width."""

    def __init__(self, args: dict[str, Any], sampler: Sampler) -> None:
        self._args = args
        self._at = wall()
        self._trouble: SafeshError | None = None
        self._reports: list[status.Report] = []
        try:
            self._reports = status.look_at(args)
        except SafeshError as error:
            if sampler.looks == 0:  # a wrong name ends it; safe.toml being edited later does not
                raise
            self._trouble = error
        self._cpu = sampler.percents(self._reports)

    def block(self) -> str:
        if self._trouble is not None and self._args["json"]:
            sys.stderr.write(render.problem(self._trouble) + "\n")
            return ""
        if self._args["json"]:
            return status.document(self._reports, self._cpu, indent=0) + "\n"
        return f"{format_time(self._at)}\n{self._page(0)}\n\n"

    def screen(self) -> str:
        """All of a terminal: as many lines as fit, each cleared to its end, and nothing left below."""
        columns, height = render.window()
        title = f"{format_time(self._at)}  every {format_duration(self._args['interval'])}  Ctrl-C ends this"
        lines = [render.style(render.cut(title, columns), "dim") if columns else title]
        lines += self._page(columns).split("\n")
        room = max(2, height - 1)
        if height and len(lines) > room:
            more = f"{render.glyph('…', '...')} {len(lines) - room + 1} more lines"
            lines = [*lines[: room - 1], render.style(more, "dim")]
        return _HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW

    def _page(self, width: int) -> str:
        if self._trouble is not None:
            return render.problem(self._trouble, sys.stdout)
        return status.page(self._reports, self._cpu, width)


class Sampler:
    """CPU shares between looks, by (pid, start)."""

    def __init__(self) -> None:
        self.looks = 0
        self._before: dict[tuple[int, int], float] = {}
        self._at = 0.0

    def percents(self, reports: list[status.Report]) -> status.Percents:
        """Percent since the look before; processes not seen then are left out."""
        now = monotonic()
        used = {
            (member.pid, member.start): member.cpu_seconds
            for report in reports
            for member in (*report.view.tree, *report.view.strays)
        }
        passed = now - self._at
        shares = {
            key: max(0.0, 100.0 * (seconds - self._before[key]) / passed)
            for key, seconds in used.items()
            if key in self._before and passed > 0
        }
        self._before, self._at = used, now
        self.looks += 1
        return shares


class _Resizes:
    """SIGWINCH as something to wait for, so that none is lost between two waits."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)
        self._old_fd = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = _signal.signal(_signal.SIGWINCH, lambda _number, _frame: None)
        return self

    def wait(self, seconds: float) -> bool:
        """True on a resize, False when the time is over (or another signal came)."""
        ready, _, _ = select.select([self._read], [], [], min(seconds, LONGEST_WAIT))
        return bool(ready) and bytes([_signal.SIGWINCH]) in os.read(self._read, 4096)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _signal.signal(_signal.SIGWINCH, self._old)
        _signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)


def _write(text: str) -> None:
    if sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()
