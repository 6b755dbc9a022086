"""How ``top`` draws: columns for every width, cells, and the page of its keys."""

from __future__ import annotations

import os

from safesh.cli import render, top
from safesh.clock import format_duration, format_size
from safesh.metrics.model import MIB, ProcessUsage
from safesh.metrics.table import MARKS, Sort, level

# (columns from which on, what is shown). The command is always there and gets the rest.
LAYOUTS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (112, ("PID", "CPU%", "MEMORY", "READ", "WRITE", "S", "THR", "RUNTIME")),
    (76, ("PID", "CPU%", "MEMORY", "I/O", "S", "THR", "RUNTIME")),
    (56, ("PID", "CPU%", "MEMORY", "S", "RUNTIME")),
    (0, ("PID", "CPU%", "MEMORY")),
)
WIDTHS = {"PID": 7, "CPU%": 7, "MEMORY": 8, "READ": 10, "WRITE": 10, "I/O": 10, "S": 1, "THR": 3, "RUNTIME": 7}
KEYS = "c m t p n sort  / filter  space fold  s stop  k kill  h help  q quit"
HELP = """\
Any key goes back.

  up, down, PgUp, PgDn, Home, End   select
  c m t p n    sort by CPU, memory, run time, pid, name
  /            filter by pid, name or command line (a regular
               expression); Enter keeps it, Esc drops it
  space        fold or unfold what is below the selected line
  left, right  fold, unfold
  s            stop: a process gets its stop signal, an instance
               is stopped whole, as `stop` does
  k            kill: the same at once, with SIGKILL
  r            look again now
  q, Ctrl-C    quit;  Ctrl-Z suspends

CPU% is the share of one core since the look before: over 50 red
and !!, over 20 yellow and !. Of what is folded, and of instances,
everything below is counted."""


def cells_of(
    pid: str,
    cpu: float | None,
    memory_mb: float,
    io: tuple[float | None, float | None],
    state: str,
    threads: int,
    runtime: float | None,
) -> dict[str, str]:
    read, write = io
    both = None if read is None or write is None else read + write
    return {
        "PID": pid,
        "CPU%": top.percent(cpu) + f" {MARKS[level(cpu)]:2}"[1:],
        "MEMORY": format_size(memory_mb * MIB),
        "READ": top.rate(read),
        "WRITE": top.rate(write),
        "I/O": top.rate(both),
        "S": state,
        "THR": str(threads),
        "RUNTIME": "-" if runtime is None else format_duration(runtime),
    }


def short_command(one: ProcessUsage) -> str:
    """The command line without the folder of its program: that is what room is rarest for."""
    first, space, rest = one.command.partition(" ")
    return render.clean(f"{os.path.basename(first) or first}{space}{rest}" if first.startswith("/") else one.command)


def fill(name: str, cell: str) -> str:
    return render.cut(cell, WIDTHS[name]).rjust(WIDTHS[name])


def title(layout: tuple[str, ...], by: Sort) -> str:
    sorted_by = {"cpu": "CPU%", "memory": "MEMORY", "time": "RUNTIME", "pid": "PID", "name": "COMMAND"}[by]
    names = []
    for name in (*layout, "COMMAND"):
        mark = "*" if name == sorted_by else ""
        # A column as wide as its title has no room for the mark; the title gives way.
        width = WIDTHS.get(name, 0)
        title = f"{name[: width - len(mark)] if width else name}{mark}"
        names.append((title + "  ").rjust(width) if name == "CPU%" else title.rjust(width))
    return " " + " ".join(names)


def fold_mark(folded: bool, foldable: bool) -> str:
    if not foldable:
        return ""
    return render.glyph("▸ ", "+ ") if folded else render.glyph("▾ ", "- ")
