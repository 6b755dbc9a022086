"""The results as tables for people, as JSON, and as the generated parts of docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.namespace import ROOT
from faults.part import Figure, Options, Part

DOCUMENT = ROOT / "docs" / "reliability.md"


class Results:
    """One run of the faults."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.broken: dict[str, str] = {}
        self.options: Options | None = None
        self.date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        self.load_before = round(os.getloadavg()[0], 2)
        self.load_after = 0.0
        self.versions = {"safesh": _safesh_version(), "python": platform.python_version()}

    def close(self, parts: list[Part], broken: dict[str, str], options: Options) -> None:
        self.parts, self.broken, self.options = parts, broken, options
        self.load_after = round(os.getloadavg()[0], 2)

    def where(self) -> str:
        """One line about the machine; no name of it."""
        system = f"{platform.system()} {platform.release().partition('-')[0]}"
        return (
            f"{os.cpu_count()} cores, {platform.machine()}, {system}, "
            f"load average {self.load_before} before and {self.load_after} after"
        )

    def plain(self) -> dict[str, Any]:
        """The JSON document, version 1."""
        return {
            "v": 1,
            "date": self.date,
            "machine": {
                "cores": os.cpu_count(),
                "system": platform.system(),
                "kernel": platform.release().partition("-")[0],
                "architecture": platform.machine(),
                "load_before": self.load_before,
                "load_after": self.load_after,
            },
            "versions": self.versions,
            "options": self.options._asdict() if self.options else {},
            "could_not_run": self.broken,
            "parts": [
                {**part._asdict(), "good": part.good, "figures": [figure._asdict() for figure in part.figures]}
                for part in self.parts
            ],
        }


def _safesh_version() -> str:
    version = ROOT / "supervisor" / "safesh" / "__main__.py"
    done = subprocess.run(
        [sys.executable, "-E", "-s", str(version), "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().removeprefix("safesh ") or "unknown"


def _verdict(figure: Figure) -> str:
    return {None: "", True: "kept", False: "MISSED"}[figure.ok]


def table(part: Part) -> str:
    """For the terminal."""
    lines = [f"{part.title}   [{part.seconds:.0f} s]"]
    cells = [(one.what.replace("`", ""), one.measured, one.bar, _verdict(one)) for one in part.figures]
    widths = [max((len(line[column]) for line in cells), default=0) for column in range(4)]
    for line, figure in zip(cells, part.figures, strict=True):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        lines.append(f"  {text}".rstrip())
        if figure.note:
            lines.append(f"      {figure.note}")
    lines += [f"  VIOLATED: {line}" for line in part.failures]
    return "\n".join(lines)


def closing(parts: list[Part], broken: dict[str, str]) -> str:
    """The last lines."""
    lines = [f"FAILED {key}: {why}" for key, why in broken.items()]
    for part in parts:
        lines += [
            f"MISSED {part.key}: {one.what}: {one.measured}, {one.bar}" for one in part.figures if one.ok is False
        ]
        if part.failures:
            lines.append(f"VIOLATED {part.key}: {len(part.failures)}, see above")
    return "\n".join(lines or ["every bar kept, no invariant violated"])


def markdown(part: Part, results: Results) -> str:
    """One generated part, without its first and last line."""
    versions = "; ".join(f"{name} {value}" for name, value in results.versions.items())
    lines = ["", f"Measured {results.date} on {results.where()}. {versions}. {part.seconds:.0f} s.", ""]
    lines += [part.about, "", "| | measured | bar | verdict |", "|---|--:|--:|---|"]
    for one in part.figures:
        what = one.what + (f" ({one.note})" if one.note else "")
        cells = [what, one.measured, one.bar, "**missed**" if one.ok is False else _verdict(one)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if part.failures:
        lines += [
            "",
            f"Violated {len(part.failures)} times:",
            "",
            *[f"- {line.splitlines()[0]}" for line in part.failures],
        ]
    return "\n".join([*lines, ""])


def write(results: Results, document: Path = DOCUMENT) -> str:
    """Replace the generated parts that were run; the rest is written by people."""
    text = document.read_text(encoding="utf-8")
    for part in results.parts:
        first, last = f"<!-- {part.key} figures: begin -->", f"<!-- {part.key} figures: end -->"
        head, begin, rest = text.partition(first)
        _old, end, tail = rest.partition(last)
        if not begin or not end:
            sys.exit(f"{document}: the lines {first} and {last} are missing; next: put them back")
        text = f"{head}{first}\n{markdown(part, results)}\n{last}{tail}"
    document.write_text(text, encoding="utf-8")
    return str(document.relative_to(ROOT))
