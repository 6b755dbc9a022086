"""The results as a table for people, as JSON, and as the generated part of docs/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

from bench.figures import Row, Section, show
from bench.peers import Peers
from bench.stage import ROOT, SAFE, Stage
from bench.throughput import file_system

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PLANS_BEGIN, PLANS_END = "<!-- plans figures: begin -->", "<!-- plans figures: end -->"
PROCESS_BEGIN, PROCESS_END = "<!-- process figures: begin -->", "<!-- process figures: end -->"
SIDE_BEGIN, SIDE_END = "<!-- side figures: begin -->", "<!-- side figures: end -->"
ESCAPE_BEGIN, ESCAPE_END = "<!-- escape figures: begin -->", "<!-- escape figures: end -->"


class Results:
    """One run of the benchmark."""

    def __init__(self, stage: Stage, peers: Peers, settings: dict[str, Any]) -> None:
        self.sections: list[Section] = []
        self.failures: dict[str, str] = {}
        self.settings = settings
        self.date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        self.versions = {
            "safesh": stage.call([SAFE, "--version"]).strip(),
            "python": stage.call([stage.python, "--version"]).strip(),
            **peers.versions,
        }
        self.missing = peers.missing
        self.machine: dict[str, Any] = {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "kernel": platform.release().partition("-")[0],
            "architecture": platform.machine(),
            "file_system": file_system(str(stage.folder)),
            "load_before": round(os.getloadavg()[0], 2),
        }

    def close(self) -> None:
        """Everything is measured."""
        self.machine["load_after"] = round(os.getloadavg()[0], 2)

    @property
    def short(self) -> list[Row]:
        return [row for section in self.sections for row in section.rows if row.verdict == "short"]

    def plain(self) -> dict[str, Any]:
        """The JSON document, version 1. Ratios without a unit of their own are ``x``."""
        return {
            "v": 1,
            "date": self.date,
            "machine": self.machine,
            "versions": self.versions,
            "missing": self.missing,
            "settings": self.settings,
            "failures": self.failures,
            "sections": [section.plain() for section in self.sections],
        }


def where(results: Results) -> str:
    """One line about the machine; no name of it."""
    machine = results.machine
    return (
        f"{machine['cores']} cores, {machine['architecture']}, {machine['system']} {machine['kernel']}, "
        f"{machine['file_system']}, load average {machine['load_before']} before and {machine['load_after']} after"
    )


def table(section: Section) -> str:
    """For the terminal."""
    base = section.base.replace("`", "")
    lines = [f"{section.title}   [{'1 = ' if _is_ratio(section) else ''}{base}]"]
    cells = [_cells(row) for row in section.rows]
    widths = [max(len(line[column]) for line in cells) for column in range(5)] if cells else []
    for line, row in zip(cells, section.rows, strict=True):
        mark = "*" if row.ours else " "
        best = "best" if row in section.best() else ""
        text = "  ".join(
            cell.ljust(width) if number in (0, 3) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append(
            f"  {mark} {text}  {row.verdict.upper() if row.verdict == 'short' else row.verdict} {best}".rstrip()
        )
        if row.note:
            lines.append(f"      {row.note}")
    lines += [f"    not measured: {line}" for line in section.missing]
    return "\n".join(lines)


def _is_ratio(section: Section) -> bool:
    return any(row.unit == "x" for row in section.rows)


def _cells(row: Row) -> list[str]:
    return [row.what.replace("`", ""), row.measured, row.spread, row.promise, row.absolute]


def closing(results: Results) -> str:
    """The last lines: what is short, what failed."""
    lines = []
    for key, reason in results.failures.items():
        lines.append(f"FAILED {key}: {reason}")
    for row in results.short:
        lines.append(f"SHORT  {row.key}: {row.measured}, promised {row.promise}")
    promised = sum(1 for section in results.sections for row in section.rows if row.verdict)
    if promised and not results.short:
        lines.append(f"all {promised} promises kept")
    cores = results.machine["cores"] or 1
    if max(results.machine["load_before"], results.machine["load_after"]) > cores + 1:
        lines.append("the machine was busy: believe the order of magnitude, and run it again")
    return "\n".join(lines)


def parts(results: Results) -> list[tuple[str, str, list[Section]]]:
    """The generated parts of docs/benchmarks.md that this run has figures for: first line, last line, sections."""
    places = {"process": (PROCESS_BEGIN, PROCESS_END), "plans": (PLANS_BEGIN, PLANS_END),
              "side": (SIDE_BEGIN, SIDE_END), "escape": (ESCAPE_BEGIN, ESCAPE_END), "": (BEGIN, END)}  # fmt: skip
    found: dict[str, list[Section]] = {}
    for section in results.sections:
        kind = section.key.partition("-")[0]
        found.setdefault(kind if kind in places else "", []).append(section)
    return [(*places[kind], found[kind]) for kind in ("", "process", "plans", "side", "escape") if kind in found]


def markdown(results: Results, begin: str, end: str, sections: list[Section]) -> str:
    """One of them."""
    versions = "; ".join(value if name in value.lower() else f"{name} {value}"
                         for name, value in results.versions.items())  # fmt: skip
    lines = [begin, "", f"Measured {results.date} on {where(results)}.", f"Versions: {versions}."]
    for section in sections:
        base = f"1 = {section.base}." if _is_ratio(section) else f"{section.base}."
        lines += ["", f"### {section.title}", "", base[0].upper() + base[1:], ""]
        lines += ["| | measured | half of the rounds lay in | promised | verdict | in plain units |"]
        lines += ["|---|--:|--:|--:|---|--:|"]
        best = section.best()
        for row in section.rows:
            what = f"**{row.what}**" if row.ours else row.what
            what += f" ({row.note})" if row.note else ""
            verdict = "**short**" if row.verdict == "short" else row.verdict
            verdict = ", ".join(word for word in (verdict, "**best**" if row in best else "") if word)
            lines.append(f"| {what} | {row.measured} | {row.spread} | {row.promise} | {verdict} | {row.absolute} |")
        lines += ["", *[f"Not measured: {line}." for line in section.missing]] if section.missing else []
    lines += [*_limits(sections), "", *_ahead(sections)]
    missed = [row for section in sections for row in section.rows if row.verdict == "short"]
    short = [f"`{row.key}` ({row.measured}, promised {row.promise})" for row in missed]
    if any(row.bar is not None for section in sections for row in section.rows):
        lines += ["", f"Short of its promise: {', '.join(short)}." if short else "No promise is missed."]
    return "\n".join((*lines, "", end))


def _limits(sections: list[Section]) -> list[str]:
    """What nobody can undercut, and how far from it we are; nothing where no limit was measured."""
    found = [(section, *pair) for section in sections for pair in section.limits()]
    if not found:
        return []
    lines = ["", "### The limits, and our distance to them", ""]
    lines += ["| | what nobody can undercut | that takes | we take | distance |", "|---|---|--:|--:|--:|"]
    for section, limit, ours in found:
        larger, smaller = (limit, ours) if section.most else (ours, limit)
        factor = show(larger.value / smaller.value, "x") if smaller.value else "" if larger.value else "none"
        cells = (limit.absolute or limit.measured, ours.absolute or ours.measured)
        what = limit.what.replace(" (the limit)", "")
        lines.append(f"| {section.title} | {what} | {cells[0]} | {cells[1]} | {factor} |")
    return lines


def _ahead(sections: list[Section]) -> list[str]:
    """A list for whoever reads nothing else."""
    if not any(ours and others for section in sections for ours, others in section.contests()):
        return []
    told = [
        f"- {section.title}: {', '.join(f'{row.by} {row.measured}' for row in rows)}"
        for section in sections
        if (rows := section.ahead())
    ]
    return ["Rows where a peer is ahead of us:", "", *told] if told else ["Rows where a peer is ahead of us: none."]


def write(results: Results, document: Path = DOCUMENT) -> None:
    """Replace the generated parts that were measured; the rest is written by people."""
    text = document.read_text(encoding="utf-8")
    for first, last, sections in parts(results):
        head, begin, rest = text.partition(first)
        _old, end, tail = rest.partition(last)
        if not begin or not end:
            sys.exit(f"{document}: the lines {first} and {last} are missing; next: put them back")
        text = head + markdown(results, first, last, sections) + tail
    document.write_text(text, encoding="utf-8")
