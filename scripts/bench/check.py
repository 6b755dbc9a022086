"""Whether every adapter keeps its word: what it says that it starts, tells and ends is so by the kernel's word."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.figures import Row, Section
from bench.rivals.base import Hall, Rival, gone, marked
from bench.stage import Stage

_WORDS = {"safesh": "running", "supervisord": "RUNNING", "circus": "active", "pm2": "online", "runit": "run:",
          "s6": "up (pid", "monit": "OK"}  # fmt: skip


def says_running(hall: Hall, command: list[str]) -> tuple[bool, str]:
    """Whether its status says (monit: within a second or two) that the program runs; and what it says."""
    told = ""

    def says() -> bool:
        nonlocal told
        told = hall.ask(*command)
        return _WORDS[hall.rival.name] in told

    return _wait(says), told


def check(stage: Stage, rivals: Sequence[Rival]) -> Iterator[Section]:
    """A section a rival: it starts two programs, tells their status, stops one, and leaves nobody at its end."""
    return (_check(stage, rival) for rival in rivals)


def _check(stage: Stage, rival: Rival) -> Section:
    programs = {name: ["sleep", f"600.{number}"] for number, name in enumerate(("one", "two"))}
    expected = list(programs.values())
    section = Section(f"check-{rival.name}", rival.name, rival.version)
    with rival.running(stage, programs) as hall:
        pids = hall.begin_all()
        _wait(lambda: [_words(pid) for pid in pids] == expected)  # forked, not executed yet
        words = [_words(pid) for pid in pids]
        _row(section, "runs", words == expected, f"{words}")
        own = hall.pids()
        apart = bool(own) and not set(own) & set(pids)
        _row(section, "supervisor", apart and all(_words(pid) for pid in own), f"{[_words(pid) for pid in own]}")
        if command := hall.status("one"):
            _row(section, "status", *says_running(hall, command))
        hall.end("one")
        ended = gone(pids[0], 10.0)
        # honcho ends all when one ends.
        _row(section, "stops", ended and (rival.name == "honcho" or _words(pids[1]) == expected[1]), f"{pids}")
    left = marked(hall.mark)
    _row(section, "leaves", not left and not hall.cleared, f"{left} {hall.cleared}")
    return section


def _wait(condition: Callable[[], bool], deadline: float = 10.0) -> bool:
    limit = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def _words(pid: int | None) -> list[str]:
    """A process's command line; some look up the program's path by themselves, so that is left out."""
    try:
        words = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []
    return [Path(words[0]).name, *words[1:]] if words else []


def _row(section: Section, key: str, kept: bool, told: str) -> None:
    section.rows.append(
        Row(f"{section.key}.{key}", key, float(kept), "", float(kept), float(kept), absolute=told[:200])
    )
