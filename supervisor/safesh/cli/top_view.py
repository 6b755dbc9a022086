"""``top`` on a terminal: what is selected, folded, searched for, asked; and how a frame of it is drawn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safesh.cli import render, top
from safesh.cli.top_draw import HELP, KEYS, LAYOUTS, WIDTHS, cells_of, fill, fold_mark, short_command, title
from safesh.cli.top_end import EndInstance, EndProcess, Question, Worker, is_yes
from safesh.cli.top_screen import Terminal, reversed_line
from safesh.clock import format_duration, monotonic
from safesh.errors import SafeshError
from safesh.metrics.model import ProcessUsage
from safesh.metrics.table import Level, Line, Pattern, Sort, arrange, grow, level, system_facts, typed_pattern

if TYPE_CHECKING:
    from safesh.cli.top import Look, Picture, Seen

    Key = tuple[str, int, int]  # the instance's record; pid and start, 0 for the instance itself

_STYLES: dict[Level, str] = {"hot": "bad", "warm": "warn", "calm": "good"}
_SOON = 0.3  # seconds after an ending in which people expect to see what came of it


@dataclass(slots=True)
class Row:
    """One line of the list. usage: None for an instance's own."""

    key: Key
    seen: Seen
    usage: ProcessUsage | None
    cells: dict[str, str]
    text: str
    level: Level
    foldable: bool


def run(look: Look, interval: float, args: dict[str, Any]) -> int:
    """The loop; 0, or 128+N when signal N ended it."""
    with Terminal() as terminal:
        worker = Worker(terminal.wakeups.wake)
        view = View(look, interval, args, worker.call)
        view.refresh()
        terminal.show(view.frame(*render.window()), anew=True)
        while not terminal.ended_by:
            keys, anew = terminal.wait(view.due - monotonic())
            for key in keys:
                if not view.press(key):
                    terminal.ended_by = -1
                    break
                if view.asks:
                    terminal.forget_keys()
                    view.asks = False
                    break
            news = worker.news()
            if news:
                view.tell(news)
            if monotonic() >= view.due:
                view.refresh()
            terminal.show(view.frame(*render.window()), anew=anew)
        view.drop_question()
    worker.finish()
    for text in worker.news():
        render.say(render.clean(text))
    return 128 + terminal.ended_by if terminal.ended_by > 2 or terminal.ended_by == 1 else 0


class View:
    """The list, and what a key does to it. ``due``: when to look again; ``asks``: a question has just been put."""

    def __init__(
        self, look: Look, interval: float, args: dict[str, Any], call: Callable[[Callable[[], str]], None]
    ) -> None:
        self._look = look
        self._interval = interval
        self._args = args
        self._call = call
        self._picture: Picture | None = None
        self._rows: list[Row] = []
        self._selected: Key | None = None
        self._index = 0
        self._first = 0
        self._height = 1
        self._sort: Sort = "cpu"
        self._pattern: Pattern | None = None
        self._typing: str | None = None
        self._folded: set[Key] = set()
        self._question: Question | None = None
        self._answer = ""
        self._help = False
        self._message = ""
        self._cost: tuple[float, float] = (monotonic(), time.process_time())
        self.due = 0.0
        self.asks = False

    # ---- looking

    def refresh(self) -> None:
        """Look, and see to it that the selection stays with what was selected."""
        self.due = monotonic() + self._interval
        self._picture = self._look.look()
        self._arrange()

    def tell(self, news: list[str]) -> None:
        """Something has ended, or could not be."""
        self._message = "; ".join(news)
        self._look.forget_strays()
        self.due = min(self.due, monotonic())

    def _arrange(self) -> None:
        picture = self._picture
        if picture is None:
            return
        pattern = self._pattern
        self._rows = []
        for seen in picture.seen:
            lines = self._lines(seen, pattern)
            named = pattern is None or pattern.text.lower() in seen.name.lower()
            if pattern is not None and named and not lines:
                lines = self._lines(seen, None)
            if not (named or lines):
                continue
            self._rows.append(self._instance_row(seen))
            if (seen.key, 0, 0) not in self._folded or pattern is not None:
                self._rows += [self._process_row(seen, line, picture) for line in lines]
        keys = [row.key for row in self._rows]
        if self._selected in keys:
            self._index = keys.index(self._selected)
        self._index = max(0, min(self._index, len(keys) - 1))
        self._selected = keys[self._index] if keys else None

    def _lines(self, seen: Seen, pattern: Pattern | None) -> list[Line]:
        folded = {(pid, start) for record, pid, start in self._folded if record == seen.key}
        keep = None if pattern is None else pattern.matches
        return arrange(grow(seen.members), self._sort, folded=folded, keep=keep)

    def _instance_row(self, seen: Seen) -> Row:
        usage, io = seen.usage, seen.io or (None, None)
        key = (seen.key, 0, 0)
        cells = cells_of("-", usage.cpu_percent, usage.memory_mb, io, "-", usage.threads, seen.uptime)
        if not seen.members:
            cells = dict.fromkeys(cells, "-") | {"CPU%": cells["CPU%"]}
        return Row(
            key,
            seen,
            None,
            cells,
            f"{fold_mark(key in self._folded, bool(seen.members))}{render.clean(seen.name)}  {seen.command}",
            level(usage.cpu_percent),
            bool(seen.members),
        )

    def _process_row(self, seen: Seen, line: Line, picture: Picture) -> Row:
        one = line.node.usage
        cpu, memory = (line.node.cpu, line.node.memory_mb) if line.folded else (one.cpu_percent, one.memory_mb)
        io = picture.rates.get((one.pid, one.start), (None, None))
        count = f"[+{line.folded}] " if line.folded else ""
        stray = "(stray) " if (one.pid, one.start) in seen.strays else ""
        return Row(
            (seen.key, one.pid, one.start),
            seen,
            one,
            cells_of(str(one.pid), cpu, memory, io, one.state or "?", one.num_threads, one.runtime_seconds),
            f"  {top.branch(line)}{count}{stray}{short_command(one)}",
            level(cpu),
            bool(line.node.children),
        )

    # ---- keys

    def press(self, key: str) -> bool:
        """False when it was the last one."""
        if self._question is not None:
            self._press_in_question(key)
        elif self._typing is not None:
            self._press_in_filter(key)
        elif self._help:
            self._help = False
            return key not in ("q", "\x03")
        else:
            return self._press_in_list(key)
        return True

    def _press_in_list(self, key: str) -> bool:
        self._message = ""
        if key == "q":
            return False
        if key in top.SORT_NAMES:
            self._sort = top.SORT_NAMES[key]
            self._arrange()
        elif key in ("up", "down", "page up", "page down", "home", "end"):
            self._move(key)
        elif key in (" ", "enter", "left", "right"):
            self._fold(key)
        elif key == "/":
            self._typing = self._pattern.text if self._pattern else ""
        elif key == "escape":
            self._pattern = None
            self._arrange()
        elif key in ("s", "k"):
            self._ask(kill=key == "k")
        elif key in ("h", "?"):
            self._help = True
        elif key == "r":
            self.due = 0.0
        return True

    def _move(self, key: str) -> None:
        page = max(1, self._height - 1)
        last = len(self._rows) - 1
        step = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -last - 1, "end": last + 1}[key]
        self._index = max(0, min(self._index + step, last))
        self._selected = self._rows[self._index].key if self._rows else None

    def _fold(self, key: str) -> None:
        if not self._rows:
            return
        row = self._rows[self._index]
        fold = {"left": True, "right": False}.get(key, row.key not in self._folded)
        if fold and row.foldable:
            self._folded.add(row.key)
        else:
            self._folded.discard(row.key)
        self._arrange()

    def _press_in_filter(self, key: str) -> None:
        text = self._typing or ""
        if key in ("enter", "escape"):
            self._typing = None
            if key == "escape":
                self._pattern = None
        elif key in ("up", "down", "page up", "page down"):
            self._move(key)
            return
        else:
            self._typing = text = _edit(text, key)
            self._pattern = typed_pattern(text)
        self._arrange()

    def _ask(self, *, kill: bool) -> None:
        if not self._rows:
            return
        row = self._rows[self._index]
        self._answer = ""
        try:
            if row.usage is None:
                self._question = EndInstance(row.seen, self._args, kill)
            else:
                self._question = EndProcess(row.seen, row.usage, kill)
            self.asks = True
        except SafeshError as error:
            self._message = str(error)

    def _press_in_question(self, key: str) -> None:
        question = self._question
        if key not in ("enter", "escape") or question is None:
            self._answer = _edit(self._answer, key)
            return
        try:
            self._message = question.act(self._call) if key == "enter" and is_yes(self._answer) else "nothing was ended"
        except SafeshError as error:
            self._message = str(error)
        self.drop_question()
        self.due = min(self.due, monotonic() + _SOON)

    def drop_question(self) -> None:
        """Let go of whom it holds."""
        if self._question is not None:
            self._question.close()
            self._question = None

    # ---- drawing

    def frame(self, columns: int, height: int) -> list[str]:
        """The lines of a screen of this size."""
        columns, height = columns or 80, height or 24
        if self._help:
            return self._help_lines(columns, height)
        if self._question is not None:
            return self._question_lines(self._question, columns, height)
        lines = self._header(columns, height)
        layout = next(shown for least, shown in LAYOUTS if columns >= least)
        lines.append(render.style(render.cut(title(layout, self._sort), columns), "head"))
        self._height = max(1, height - len(lines) - 1)
        # Scrolled as little as shows the selection.
        self._first = max(min(self._first, self._index), self._index - self._height + 1)
        self._first = max(0, min(self._first, len(self._rows) - self._height))
        shown = self._rows[self._first : self._first + self._height]
        lines += [self._line(row, layout, columns, row.key == self._selected) for row in shown]
        if not self._rows:
            lines += self._empty(columns)
        lines = lines[: max(0, height - 1)]
        lines += [""] * (height - 1 - len(lines))
        return [*lines, self._footer(columns, len(shown))]

    def _header(self, columns: int, height: int) -> list[str]:
        picture = self._picture
        if picture is None or height < 5:
            return []
        facts, system = dict(system_facts(picture.system)), picture.system
        parts = [time.strftime("%H:%M:%S", time.localtime(picture.at))]
        parts += [f"CPU {top.percent(system.cpu_percent)}%" if system.cpu_percent is not None else "CPU -"]
        parts += [f"RAM {facts['RAM'][0].removesuffix(' used')}", *facts["CPU"][1:], *facts["RAM"][1:]]
        parts += [f"disk {facts['Disk'][0].removesuffix(' used')}", f"every {format_duration(self._interval)}"]
        text = parts[0]
        for part in parts[1:]:  # whole facts, the weightier ones first
            if len(text) + 2 + len(part) <= columns:
                text += "  " + part
        lines = [render.style(render.cut(text, columns), "dim")]
        if picture.trouble:
            lines.append(render.style(render.cut(render.clean(picture.trouble), columns), "warn"))
        return lines

    def _line(self, row: Row, layout: tuple[str, ...], columns: int, selected: bool) -> str:
        cells = [fill(name, row.cells[name]) for name in layout]
        before = (">" if selected else " ") + " ".join(cells) + " "
        text = render.cut(before + row.text, columns)
        if selected:
            return reversed_line(text, columns)
        at = 1 + sum(WIDTHS[name] + 1 for name in layout[: layout.index("CPU%")])
        end, last = at + WIDTHS["CPU%"], len(before)
        cpu, said = text[at:end], text[last:]
        if row.level in _STYLES:
            cpu = render.style(cpu, _STYLES[row.level])
        if row.usage is None:
            said = render.style(said, "name" if row.seen.members else "dim")
        return text[:at] + cpu + text[end:last] + said

    def _footer(self, columns: int, shown: int) -> str:
        if self._typing is not None:
            return render.cut(f"filter: {self._typing}{render.glyph('▏', '_')}", columns)
        if self._message:
            return render.style(render.cut(render.clean(self._message), columns), "hint")
        text = KEYS if columns >= len(KEYS) else "s stop k kill / filter h help q quit"
        if self._pattern is not None:
            text = f"filter: {self._pattern.text} (Esc drops it)  {text}"
        elif shown < len(self._rows) and columns >= len(text) + 14:
            text = f"{text}  {self._index + 1}/{len(self._rows)}"
        return render.style(render.cut(render.clean(text), columns), "dim")

    def _empty(self, columns: int) -> list[str]:
        if self._pattern is not None:
            return [render.cut(f" nothing matches {render.clean(self._pattern.text)!r}", columns)]
        return [render.cut(f" {line.strip()}", columns) for line in top.nothing_here().split("\n")]

    def _question_lines(self, question: Question, columns: int, height: int) -> list[str]:
        listed = question.lines(columns)
        room = max(0, height - 2)
        if len(listed) > room:
            more = f"{render.glyph('…', '...')} {len(listed) - room + 1} more lines"
            listed = [*listed[: max(0, room - 1)], more][:room]
        asked = f"{question.text} [y/N] {self._answer}{render.glyph('▏', '_')}"
        return [*listed, "", render.style(render.cut(asked, columns), "head")]

    def _help_lines(self, columns: int, height: int) -> list[str]:
        begun, used = self._cost
        share = 100.0 * (time.process_time() - used) / max(0.001, monotonic() - begun)
        lines = [*HELP.split("\n"), "", f"top itself (pid {os.getpid()}): {share:.2f}% CPU"]
        return [render.cut(line, columns) for line in lines[:height]]


def _edit(text: str, key: str) -> str:
    if key == "backspace":
        return text[:-1]
    if key == "clear":
        return ""
    return text + key if len(key) == 1 and key.isprintable() and len(text) < 200 else text
