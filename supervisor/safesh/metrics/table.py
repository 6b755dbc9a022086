"""Tables of processes as data: which are shown, in what order, and how much each stands out.

What shows them (scripts/monitor_processes.py, ``safe.sh top``, a dashboard) has only to draw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safesh import _platform
from safesh._platform import others
from safesh.clock import format_size, monotonic, wall
from safesh.metrics.model import GIB, MIB, Plain, ProcessUsage, SystemSnapshot
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.system import Rate

Level = Literal["hot", "warm", "calm", "unknown"]
Sort = Literal["cpu", "memory", "time", "pid", "name"]

HOT, WARM = 50.0, 20.0  # percent of a core
# Beside the colour, for eyes and terminals that do not tell it.
MARKS: dict[Level, str] = {"hot": "!!", "warm": "!", "calm": "", "unknown": ""}

_PYTHON = re.compile(r"(python|pypy)[\d.]*(-?(dbg|debug|intel64|freethreaded)|[dmtuw]{1,2})?(\.exe)?", re.IGNORECASE)
_WITH_VALUE = frozenset("WX")  # options of python that take the next word where nothing stands behind the letter


def level(cpu_percent: float | None) -> Level:
    """How much a share of CPU (100: one core) stands out."""
    if cpu_percent is None:
        return "unknown"
    return "hot" if cpu_percent > HOT else "warm" if cpu_percent > WARM else "calm"


class Pattern:
    """Picks processes by pid, name and command line: a regular expression, upper and lower case alike."""

    def __init__(self, text: str, *, literal: bool = False) -> None:
        """literal: the text itself is looked for. ValueError, telling where, for what is no regular expression."""
        self.text = text
        try:
            self._search = re.compile(re.escape(text) if literal else text, re.IGNORECASE).search
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None

    def matches(self, usage: ProcessUsage) -> bool:
        return self._search(f"{usage.pid} {usage.command}") is not None or self._search(usage.name) is not None


def typed_pattern(text: str) -> Pattern | None:
    """What somebody is typing: the text itself until it is an expression; None for nothing."""
    try:
        return Pattern(text) if text else None
    except ValueError:
        return Pattern(text, literal=True)


# --- Python processes ------------------------------------------------------------------------------


def is_python(name: str, argv: Sequence[str]) -> bool:
    """Whether an interpreter of Python runs there, by its own name or by the word it was called with."""
    called = os.path.basename(argv[0]) if argv else ""
    return _PYTHON.fullmatch(called) is not None or _PYTHON.fullmatch(name) is not None


def script_of(argv: Sequence[str]) -> tuple[str, list[str]]:
    """(what Python runs, its arguments): ``worker.py``, ``-m http.server``, ``-c``, or "" for a prompt.

    Read as python(1) reads its command line: short options may stand together, and -c and -m end them.
    """
    index = 1
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "-" or not word.startswith("-"):
            return os.path.basename(word) or word, list(argv[index:])
        if word.startswith("--"):
            index += word == "--check-hash-based-pycs"
            continue
        for place, letter in enumerate(word[1:], start=2):
            rest = word[place:]
            if letter in "cm":
                value, after = (rest, index) if rest else (argv[index] if index < len(argv) else "", index + 1)
                first = value.strip().splitlines()[0].strip() if value.strip() else ""
                return f"-{letter} {first}".strip(), list(argv[after:])
            if letter in _WITH_VALUE:
                index += not rest
                break
    return "", []


def is_streamlit(argv: Sequence[str]) -> bool:
    """Whether it is Streamlit's server."""
    script = script_of(argv)[0]
    return script in ("streamlit", "-m streamlit", "-m streamlit.web.cli") or (
        bool(argv) and os.path.basename(argv[0]) == "streamlit"
    )


@dataclass(slots=True, kw_only=True)
class Row(Plain):
    """One line of the table. script: what runs, with its arguments; status: the state in words."""

    usage: ProcessUsage
    script: str
    status: str
    level: Level

    def to_dict(self) -> dict[str, Any]:
        usage = self.usage.to_dict()
        return {"pid": usage.pop("pid"), "script": self.script, "status": self.status, "level": self.level, **usage}


@dataclass(slots=True, kw_only=True)
class Picture(Plain):
    """The whole table at one moment. closed: processes of others whose command line we may not see, so that nobody
    knows what they run; unlisted: the system does not even tell how many others there are."""

    at: float
    system: SystemSnapshot
    rows: list[Row] = field(default_factory=list)
    closed: int = 0
    unlisted: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "v": 1,
            "at": round(self.at, 3),
            "system": self.system.to_dict(),
            "processes": [row.to_dict() for row in self.rows],
            "closed": self.closed,
            "unlisted": self.unlisted,
        }


class PythonTable:
    """Python's processes (``everything``: all but the kernel's threads), ourselves and Streamlit left out."""

    def __init__(
        self, monitor: ResourceMonitor, *, everything: bool = False, pattern: Pattern | None = None, sort: Sort = "cpu"
    ) -> None:
        self._monitor = monitor
        self._everything = everything
        self._pattern = pattern
        self._sort = sort
        self._silent: dict[tuple[int, int], bool] = {}  # who has no command line -> whether it is the kernel's
        self._closed = 0

    def look(self) -> Picture:
        """Now. CPU is the share since the last look, None in the first one."""
        self._closed = 0
        before, self._silent = self._silent, {}
        known: set[int] = set()

        def wanted(one: ProcessUsage) -> bool:
            known.add(one.pid)
            if one.pid == os.getpid():
                return False
            if one.command == f"[{one.name}]" and one.state not in "ZX":
                key = (one.pid, one.start)
                self._silent[key] = kernel = before[key] if key in before else others.is_kernel(one.pid)
                if kernel:
                    return False
                # Where it is Linux that tells, what is closed is not even here, and nothing said is said by itself.
                self._closed += not _platform.HAS_SUBREAPER and one.uid not in (-1, os.geteuid())
            if not self._everything and not _runs_python(one):
                return False
            return self._pattern is None or self._pattern.matches(one)

        rows = [_row(one) for one in self._monitor.processes(wanted)]
        rows.sort(key=lambda row: sort_key(row.usage, self._sort))
        hidden = others.hidden(known)
        return Picture(
            at=wall(),
            system=self._monitor.get_resource_snapshot(),
            rows=rows,
            closed=self._closed + (hidden or 0),
            unlisted=hidden is None,
        )


def _runs_python(one: ProcessUsage) -> bool:
    told = f"{one.name} {one.command}".lower()
    if "python" not in told and "pypy" not in told:  # so that most are not asked for their words again
        return False
    argv = _platform.cmdline(one.pid)
    return is_python(one.name, argv) and not is_streamlit(argv)


def _row(one: ProcessUsage) -> Row:
    argv = _platform.cmdline(one.pid)
    script = one.command
    if argv and is_python(one.name, argv):
        name, rest = script_of(argv)
        script = " ".join([name or f"{os.path.basename(argv[0])} (interactive)", *rest])
    return Row(
        usage=one,
        script=script,
        status=others.STATE_WORDS.get(one.state, one.state or "?"),
        level=level(one.cpu_percent),
    )


# --- order and trees -------------------------------------------------------------------------------


def sort_key(one: ProcessUsage, by: Sort, cpu: float | None = None, memory: float | None = None) -> tuple[Any, ...]:
    """The most first; by pid and name: the least. cpu, memory: of what counts instead of the process alone."""
    if by == "cpu":
        share = one.cpu_percent if cpu is None else cpu
        return 0.0 if share is None else -share, -one.memory_mb, one.pid
    if by == "memory":
        return -(one.memory_mb if memory is None else memory), one.pid
    if by == "time":
        return -one.runtime_seconds, one.pid
    return (one.name.lower(), one.pid) if by == "name" else (one.pid,)


@dataclass(slots=True)
class Node:
    """A process in its tree. cpu, memory_mb: of it and everybody below; size: how many these are."""

    usage: ProcessUsage
    children: list[Node] = field(default_factory=list)
    cpu: float | None = None
    memory_mb: float = 0.0
    size: int = 1
    kept: bool = True


@dataclass(slots=True)
class Line:
    """A node where it is drawn. path: for each level below the root whether the branch is the last of its siblings;
    folded: how many below it are not drawn."""

    node: Node
    path: tuple[bool, ...]
    folded: int = 0


def grow(members: Iterable[ProcessUsage]) -> list[Node]:
    """The trees that these processes make by parentage, each process once, roots first found first."""
    nodes = {one.pid: Node(one) for one in members}
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.usage.ppid)
        # A parent is older than its child; a younger one has got the number since.
        if parent is None or parent is node or parent.usage.start > node.usage.start:
            roots.append(node)
        else:
            parent.children.append(node)
    seen = _down(roots)
    if len(seen) < len(nodes):  # a circle, possible only when numbers were given anew between two reads
        found = {id(node) for node in seen}
        for node in nodes.values():
            if id(node) not in found:
                node.children = []
                roots.append(node)
    for node in reversed(_down(roots)):  # children before their parents
        node.cpu = _sum([node.usage.cpu_percent, *(child.cpu for child in node.children)])
        node.memory_mb = node.usage.memory_mb + sum(child.memory_mb for child in node.children)
        node.size = 1 + sum(child.size for child in node.children)
    return roots


def _down(roots: list[Node]) -> list[Node]:
    """Every node, parents before children; without recursion, for a chain may be longer than Python's stack."""
    found: list[Node] = []
    stack = list(roots)
    while stack:
        node = stack.pop()
        found.append(node)
        stack += node.children
    return found


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def arrange(
    roots: list[Node],
    by: Sort,
    *,
    folded: Collection[tuple[int, int]] = (),
    keep: Callable[[ProcessUsage], bool] | None = None,
) -> list[Line]:
    """The lines of a tree from top to bottom. Siblings stand in order, by what they and everybody below use.

    folded: (pid, start) of those below which nothing is drawn; keep: draws only those it says true of, and their
    ancestors, folded or not.
    """
    for node in reversed(_down(roots)):
        node.kept = keep is None or keep(node.usage) or any(child.kept for child in node.children)
    lines: list[Line] = []
    stack: list[tuple[Node, tuple[bool, ...]]] = [(node, ()) for node in reversed(_in_order(roots, by))]
    while stack:
        node, path = stack.pop()
        is_folded = keep is None and (node.usage.pid, node.usage.start) in folded and bool(node.children)
        lines.append(Line(node, path, node.size - 1 if is_folded else 0))
        if not is_folded:
            below = list(reversed(_in_order(node.children, by)))
            stack += [(child, (*path, number == 0)) for number, child in enumerate(below)]
    return lines


def _in_order(nodes: list[Node], by: Sort) -> list[Node]:
    return sorted(
        (node for node in nodes if node.kept), key=lambda one: sort_key(one.usage, by, one.cpu, one.memory_mb)
    )


class IoRates:
    """Bytes a second (read, written) of processes from look to look, by pid and start."""

    def __init__(self) -> None:
        self._rates: dict[tuple[int, int], Rate] = {}

    def count(self, members: Iterable[ProcessUsage]) -> dict[tuple[int, int], tuple[float, float]]:
        """Of those that were there in the look before, and whose counters are open to us."""
        now = monotonic()
        before, self._rates = self._rates, {}
        found = {}
        for one in members:
            if one.read_bytes is None or one.write_bytes is None:
                continue
            key = (one.pid, one.start)
            self._rates[key] = rate = before.get(key) or Rate()
            told = rate.count(now, one.read_bytes, one.write_bytes)
            if told is not None:
                found[key] = (told[0], told[1])
        return found


# --- the system ------------------------------------------------------------------------------------


def system_facts(shot: SystemSnapshot) -> list[tuple[str, list[str]]]:
    """(label, facts) in the order of their weight; what is not known is absent, a first CPU sample is ``-``."""
    cores = f"{shot.cpus:g} core{'' if shot.cpus == 1 else 's'}"
    rows = [("CPU", [f"{_percent(shot.cpu_percent)} of {cores}"])]
    if shot.load is not None:
        rows[0][1].append("load " + " ".join(f"{one:.2f}" for one in shot.load))
    memory = [f"{_percent(shot.memory_percent)} used"]
    if shot.memory_available_mb is not None and shot.memory_total_mb is not None:
        total = format_size(shot.memory_total_mb * MIB)
        memory.append(f"{format_size(shot.memory_available_mb * MIB)} of {total} available")
    if shot.swap_percent is not None:
        memory.append(f"swap {_percent(shot.swap_percent)}")
    rows.append(("RAM", memory))
    disk = [f"{_percent(shot.disk_percent)} used"]
    if shot.disk_free_gb is not None:
        disk.append(f"{format_size(shot.disk_free_gb * GIB)} free")
    disk += _pair("read", shot.disk_read_bytes_s, "written", shot.disk_write_bytes_s)
    rows.append(("Disk", disk))
    network = _pair("received", shot.network_rx_bytes_s, "sent", shot.network_tx_bytes_s)
    rows.append(("Network", network or ["-"]))
    if shot.pressure:
        told = [f"{kind} {one['some_avg10']:.0f}%" for kind, one in shot.pressure.items() if "some_avg10" in one]
        rows.append(("Pressure", told))
    for card in shot.gpus:
        facts = [card.name, _percent(card.utilization_percent)]
        if card.memory_used_mb is not None and card.memory_total_mb is not None:
            facts.append(f"{format_size(card.memory_used_mb * MIB)} of {format_size(card.memory_total_mb * MIB)}")
        if card.temperature_c is not None:
            facts.append(f"{card.temperature_c:.0f} °C")
        rows.append((f"GPU {card.index}", facts))
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _pair(one: str, first: float | None, other: str, second: float | None) -> list[str]:
    rates = [(name, rate) for name, rate in ((one, first), (other, second)) if rate is not None]
    return [f"{name} {format_size(rate)}/s" for name, rate in rates]
