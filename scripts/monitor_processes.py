#!/usr/bin/env python3
"""Watch the system and its Python processes: ``python scripts/monitor_processes.py --help``.

A thin script over ``safesh.metrics``; ``safe.sh top`` is the view of what safesh itself runs.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _become_own_python(why: str) -> None:
    """Run again with the checkout's virtual environment; end with one line where there is none, or it is this one."""
    python = os.path.join(os.environ.get("SAFESH_VENV") or os.path.join(ROOT, ".venv"), "bin", "python")
    if os.path.exists(python) and os.environ.get("SAFESH_MONITOR_AGAIN") != python:
        os.environ["SAFESH_MONITOR_AGAIN"] = python  # so that an environment that lacks it too is told, not repeated
        os.execv(python, [python, os.path.realpath(__file__), *sys.argv[1:]])
    sys.stderr.write(f"monitor_processes: {why}\n  next: {os.path.join(ROOT, 'bin', 'safe.sh')} doctor\n")
    sys.exit(69)  # EX_UNAVAILABLE


if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this by hand may have an older one first
    _become_own_python("this needs Python 3.11 or later, and this is " + sys.version.split()[0])

sys.path.insert(0, os.path.join(ROOT, "supervisor"))

from safesh.errors import SafeshError  # noqa: E402

try:
    from safesh._platform import info as _info

    _info(os.getpid())  # the portable half needs psutil, which it loads when it is asked
except (ImportError, SafeshError) as error:
    _become_own_python(str(error))
os.environ.pop("SAFESH_MONITOR_AGAIN", None)

import argparse  # noqa: E402

from safesh.cli import render  # noqa: E402
from safesh.cli.top_screen import Wakeups, paint  # noqa: E402
from safesh.clock import format_duration, format_time, monotonic, parse_duration  # noqa: E402
from safesh.errors import UsageError  # noqa: E402
from safesh.metrics.jsonlog import JsonFile  # noqa: E402
from safesh.metrics.monitor import ResourceMonitor  # noqa: E402
from safesh.metrics.table import MARKS, Level, Pattern, Picture, PythonTable, system_facts  # noqa: E402
from safesh.wire import dumps  # noqa: E402

SHORTEST = 0.1  # seconds
STYLES: dict[Level, str] = {"hot": "bad", "warm": "warn", "calm": "good"}
WIDEST = 48  # columns of a script's name through a pipe, beyond which it is no longer filled up


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message} (see --help)")


def seconds(text: str) -> float:
    try:
        value = parse_duration(text)
    except SafeshError:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 5, 1.5s or 2m") from None
    if value < SHORTEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too short to measure in; use {SHORTEST}s or more")
    return value


def pattern(text: str) -> Pattern:
    try:
        return Pattern(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="monitor_processes.py",
        allow_abbrev=False,
        description="The system and its Python processes, again and again until Ctrl-C. Marks: !! over 50 % of a core, "
        "! over 20 %. CPU is the share since the look before, so the first look has none.",
    )
    parser.add_argument("--interval", type=seconds, metavar="T", help="time between two looks (default 2s)")
    parser.add_argument(
        "--output", metavar="FILE", help="append each look as one JSON object a line; - is stdout, then without a table"
    )
    parser.add_argument(
        "--once", action="store_true", help="one look; with --interval two, so that CPU is known, and the second shown"
    )
    parser.add_argument(
        "--filter", type=pattern, metavar="PATTERN", help="only those whose pid, name or command line matches (regex)"
    )
    parser.add_argument("--all", action="store_true", help="not only Python processes, and Streamlit too")
    return parser.parse_args(argv)


class Page:
    """A look as lines. width 0: no limit."""

    def __init__(self, picture: Picture, interval: float, searched: Pattern | None) -> None:
        self.picture = picture
        self.interval = interval
        self.searched = searched

    def lines(self, width: int, *, live: bool = False) -> list[str]:
        ending = f"  every {format_duration(self.interval)}  Ctrl-C ends this" if live else ""
        lines = [self._fit(format_time(self.picture.at) + ending, width, "dim")]
        lines += self._system(width)
        lines.append("")
        lines += self._table(width)
        lines += [self._fit(note, width, "hint") for note in self._notes()]
        return lines

    def _fit(self, text: str, width: int, look: str = "") -> str:
        text = render.cut(text, width) if width else text
        return render.style(text, look) if look else text

    def _system(self, width: int) -> list[str]:
        """Each label with as many of its facts to a line as fit."""
        facts = system_facts(self.picture.system)
        room = max(len(label) for label, _parts in facts)
        lines = []
        for label, parts in facts:
            text = label.ljust(room)
            for number, part in enumerate(map(render.clean, parts)):
                if number and width and render.width_of(text) + len(part) + 2 > width:
                    lines.append(text)
                    text = " " * room
                text += "  " + part
            lines.append(text)
        return [self._fit(line, width) for line in lines]

    def _table(self, width: int) -> list[str]:
        right = ["CPU %  ", "Memory (MB)", "Runtime", "Status"]
        short = 0 < width < 72
        if short:
            right = ["CPU %  ", "MB"] if width < 56 else ["CPU %  ", "MB", "Runtime"]
        rows = []
        for row in self.picture.rows:
            usage = row.usage
            cpu = "-" if usage.cpu_percent is None else f"{usage.cpu_percent:.1f}"
            memory = f"{usage.memory_mb:.0f}" if short else f"{usage.memory_mb:.1f}"
            cells = [f"{cpu} {MARKS[row.level]:2}", memory, format_duration(usage.runtime_seconds), row.status]
            rows.append((str(usage.pid), render.clean(row.script), cells[: len(right)], row.level))
        sizes = [max([len(title), *(len(cells[at]) for _, _, cells, _ in rows)]) for at, title in enumerate(right)]
        pids = max([3, *(len(pid) for pid, _, _, _ in rows)])
        names = max([6, *(render.width_of(script) for _, script, _, _ in rows)])
        names = min(names, max(8, width - pids - sum(sizes) - 2 * len(sizes) - 2)) if width else min(names, WIDEST)

        def line(pid: str, script: str, cells: list[str]) -> str:
            script = render.cut(script, names) if width else script
            script += " " * (names - render.width_of(script))
            filled = [
                cell.ljust(size) if title == "Status" else cell.rjust(size)
                for cell, size, title in zip(cells, sizes, right, strict=True)
            ]
            return self._fit("  ".join([pid.rjust(pids), script, *filled]).rstrip(), width)

        lines = [render.style(line("PID", "Script", right), "head")]
        for pid, script, cells, level in rows:
            text = line(pid, script, cells)
            lines.append(render.style(text, STYLES[level]) if level in STYLES else text)
        return lines

    def _notes(self) -> list[str]:
        picture, notes = self.picture, []
        if not picture.rows:
            notes.append(f"no process matches {self.searched.text!r}" if self.searched else "no other process is there")
        if picture.closed:
            notes.append(
                f"{render.plural(picture.closed, 'process')} of other users not judged: their command lines are closed "
                "to us (see all of them as root)"
            )
        if picture.unlisted:
            notes.append("processes of other users are hidden from us (hidepid, see proc(5)); see all of them as root")
        return notes


def watch(options: argparse.Namespace) -> None:
    interval = options.interval or 2.0
    file = JsonFile(options.output, size=0) if options.output not in (None, "-") else None
    plain = options.output == "-"
    live = render.wants_cursor(sys.stdout) and not options.once and not plain
    table = PythonTable(ResourceMonitor(), everything=options.all, pattern=options.filter)
    if options.once and options.interval is not None:
        due = monotonic() + interval
        table.look()
        with Wakeups() as wakeups:
            while (left := due - monotonic()) > 0:
                wakeups.resized(left)
    lost = False
    with Wakeups() as wakeups:
        while True:
            due = monotonic() + interval
            picture = table.look()
            page = Page(picture, interval, options.filter)
            if file is not None and not file.write(dumps(picture.to_dict())) and not lost:
                lost = True  # told once; what is lost later is told in the file itself
                sys.stderr.write(f"monitor_processes: {options.output}: a line could not be written; see: df -h\n")
            if plain:
                print(dumps(picture.to_dict()), flush=True)
            elif live:
                sys.stdout.write(paint(page.lines(render.window()[0], live=True), *render.window()))
                sys.stdout.flush()
            else:
                print("\n".join(page.lines(render.window()[0])) + ("" if options.once else "\n"), flush=True)
            if options.once:
                return
            while (left := due - monotonic()) > 0:
                if wakeups.resized(left) and live:
                    columns, height = render.window()
                    sys.stdout.write("\x1b[2J" + paint(page.lines(columns, live=True), columns, height))
                    sys.stdout.flush()


def main(argv: list[str]) -> int:
    """0, also when Ctrl-C ended it; 2 for a wrong line; 73 where the file cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        watch(parse(argv))
    except KeyboardInterrupt:
        if render.wants_cursor(sys.stdout):
            sys.stdout.write("\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more; nor shall Python complain at its end
    except SafeshError as error:
        sys.stderr.write(render.problem(error).replace("safesh:", "monitor_processes:", 1) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
