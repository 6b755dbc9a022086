"""What promtool check metrics would say of a text, and a little more. Our own: promtool is not everywhere."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)")
# Units that are none of the base units (Prometheus, "Metric and label naming").
_NOT_BASE = {
    "milliseconds", "ms", "minutes", "hours", "days", "kilobytes", "megabytes", "mb", "mib", "kib", "gb", "percent",
    "percents", "bits", "celsius_degrees",
}  # fmt: skip


def lint(text: str, format: str) -> list[str]:
    """One line for each complaint. format: ``prometheus`` or ``openmetrics``."""
    found: list[str] = []
    helped: set[str] = set()
    typed: dict[str, str] = {}
    series: set[str] = set()
    order: list[str] = []
    if not text.endswith("\n"):
        found.append("the last line is not ended")
    lines = text.split("\n")[:-1]
    if format == "openmetrics":
        if lines[-1] != "# EOF":
            found.append("no # EOF at the end")
        lines = lines[:-1]
    for line in lines:
        if line.startswith("# HELP "):
            name, _, words = line[7:].partition(" ")
            if name in helped:
                found.append(f"{name}: two HELP lines")
            if not words:
                found.append(f"{name}: no help text")
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            if name in typed:
                found.append(f"{name}: two TYPE lines")
            typed[name] = kind
            continue
        if line.startswith("# UNIT ") and format == "openmetrics":
            name, unit = line[7:].split(" ")
            if not name.endswith(f"_{unit}"):
                found.append(f"{name}: does not end with its unit {unit}")
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            found.append(f"neither a comment nor a sample: {line!r}")
            continue
        sample, labels, value = match[1], match[2] or "", match[3]
        family = sample.removesuffix("_total") if format == "openmetrics" and sample not in typed else sample
        if family not in typed or family not in helped:
            found.append(f"{sample}: no TYPE or no HELP before it")
        counter = typed.get(family) == "counter"
        if counter != sample.endswith("_total"):
            found.append(f"{sample}: _total is for counters, and for all of them")
        if counter and float(value) < 0:
            found.append(f"{sample}: a counter below zero")
        if _NOT_BASE & set(sample.split("_")):
            found.append(f"{sample}: not in a base unit")
        if re.search(r'\b(pid|run_id)="', labels):
            found.append(f"{sample}: a label without bounds")
        if sample + labels in series:
            found.append(f"{sample}{labels}: twice")
        series.add(sample + labels)
        if family in order and order[-1] != family:
            found.append(f"{family}: its samples do not stand together")
        if family not in order:
            order.append(family)
    return found
