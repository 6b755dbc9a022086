"""What is measured: rounds in turn, their medians and spread, and the rows of the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

Samples = dict[str, list[float]]
Step = Callable[[], dict[str, float]]


def interleave(steps: Sequence[Step], rounds: int, warm_up: int = 1) -> Samples:
    """Run all steps in every round and collect what each returns by name, the first ``warm_up`` rounds left out.

    Whoever else uses the machine disturbs neighbours of one round alike; each round begins with another step, so
    that nobody always runs after the same one.
    """
    samples: Samples = {}
    for number in range(warm_up + rounds):
        turn = number % len(steps)
        for step in (*steps[turn:], *steps[:turn]):
            for name, value in step().items():
                if number >= warm_up:
                    samples.setdefault(name, []).append(value)
    return samples


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One quotient a round."""
    return [one / other for one, other in zip(over, under, strict=True)]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    key: stable name in the JSON; value, low, high: median and quartiles of the rounds in ``unit``; bar: the promise,
    at most (or at least) this much; aim: what we would like; absolute: the same in plain units; ours: of safesh;
    by: the contestant; a section's rows with one compete with each other, those of one contest; limit: what nobody can
    undercut.
    """

    key: str
    what: str
    value: float
    unit: str
    low: float
    high: float
    absolute: str = ""
    ours: bool = False
    bar: float | None = None
    at_least: bool = False
    aim: float | None = None
    note: str = ""
    by: str = ""
    contest: str = ""
    limit: bool = False

    @property
    def verdict(self) -> str:
        """``ok``, ``short``, or "" where nothing is promised."""
        if self.bar is None:
            return ""
        kept = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "ok" if kept else "short"

    @property
    def measured(self) -> str:
        return show(self.value, self.unit)

    @property
    def spread(self) -> str:
        if self.low == self.high:
            return ""
        return f"{show(self.low, '')} to {show(self.high, '')}"

    @property
    def promise(self) -> str:
        if self.bar is None:
            return ""
        text = f"{'≥' if self.at_least else '≤'} {show(self.bar, self.unit)}"
        return f"{text} (aim {show(self.aim, '')})" if self.aim is not None else text

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


@dataclass
class Section:
    """A group of rows with one base. missing: rivals that were not there, and why; most: the most wins."""

    key: str
    title: str
    base: str
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    most: bool = False

    def contests(self) -> list[tuple[list[Row], list[Row]]]:
        """(our rows, the rivals'), a contest each."""
        names = dict.fromkeys(row.contest for row in self.rows if row.by)
        rows = [[row for row in self.rows if row.by and not row.limit and row.contest == name] for name in names]
        return [([row for row in group if row.ours], [row for row in group if not row.ours]) for group in rows]

    def best(self) -> list[Row]:
        """The rows that nobody betters, of each contest in which we and a rival take part."""
        found: list[Row] = []
        for ours, others in self.contests():
            if ours and others:
                value = (max if self.most else min)(row.value for row in (*ours, *others))
                found += [row for row in (*ours, *others) if row.value == value]
        return found

    def ahead(self) -> list[Row]:
        """The rivals' rows that are better than our best one."""
        found: list[Row] = []
        for ours, others in self.contests():
            if ours:
                mine = (max if self.most else min)(row.value for row in ours)
                found += [row for row in others if (row.value > mine if self.most else row.value < mine)]
        return found

    def limits(self) -> list[tuple[Row, Row]]:
        """(the limit, our row) of everything that has one and is measured in the same unit."""
        ours = next((row for row in self.rows if row.ours and row.by), None)
        ours = ours or next((row for row in self.rows if row.ours), None)
        limits = [row for row in self.rows if row.limit]
        return [(row, ours) for row in limits if ours is not None and row.unit == ours.unit]

    def plain(self) -> dict[str, Any]:
        best = self.best()
        rows = [{**row.plain(), "best": row in best} for row in self.rows]
        return {
            "key": self.key,
            "title": self.title,
            "base": self.base,
            "rows": rows,
            "missing": self.missing,
            "most": self.most,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """The reverse of :meth:`plain`."""
        known = {one.name for one in fields(Row)}
        rows = [Row(**{name: value for name, value in row.items() if name in known}) for row in plain["rows"]]
        return cls(**{**plain, "rows": rows})


def show(value: float, unit: str) -> str:
    """Three significant digits at most, the unit behind: ``2.31 x``, ``0.94 x``, ``8.4 MiB``, ``0``."""
    if value == 0 or abs(value) >= 100 or (value == int(value) and abs(value) >= 1):
        text = f"{value:.0f}"
    elif abs(value) >= 10:
        text = f"{value:.1f}"
    elif abs(value) < 0.01:
        text = f"{value:.2g}"
    else:
        text = f"{value:.2f}"
    return f"{text} {unit}".rstrip()


def ratio_row(key: str, what: str, samples: Samples, name: str, base: str, **more: Any) -> Row:
    """How many times ``base`` the series ``name`` takes; both in seconds."""
    low, middle, high = quartiles(ratios(samples[name], samples[base]))
    seconds = quartiles(samples[name])[1]
    return Row(key, what, middle, "x", low, high, absolute=f"{show(seconds * 1000, 'ms')}", **more)


def extra_row(key: str, what: str, samples: Samples, name: str, base: str, **more: Any) -> Row:
    """By how many milliseconds the series ``name`` takes longer than ``base``, round by round; negative: less."""
    extra = [(one - other) * 1000 for one, other in zip(samples[name], samples[base], strict=True)]
    low, middle, high = quartiles(extra)
    factor = quartiles(ratios(samples[name], samples[base]))[1]
    return Row(key, what, middle, "ms", low, high, absolute=f"{show(factor, 'x')}", **more)
