"""The exporter's words: what is measured, under which name, and the two text formats that carry it.

``prometheus`` is text format 0.0.4, the only one that node_exporter's textfile collector reads whole; ``openmetrics``
is 1.0. Only gauges and counters are used, for states too: one ``stateset`` or ``info``, and that collector refuses the
file. So both formats hold the same series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

Format = Literal["prometheus", "openmetrics"]
Kind = Literal["gauge", "counter"]

FORMATS: tuple[Format, ...] = ("prometheus", "openmetrics")
# Not ``instance``: Prometheus gives every series a label of that name, the address it scraped, and would rename ours.
INSTANCE = "safesh_instance"
OF_INSTANCE = ("project", INSTANCE, "target")


class Family:
    """One metric. name: as its series are called, ``_total`` included; unit: the base unit that its name ends with,
    "" for a plain number; labels: their names."""

    __slots__ = ("help", "kind", "labels", "name", "unit")

    def __init__(self, name: str, kind: Kind, unit: str, help: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.kind: Kind = kind
        self.unit = unit
        self.help = help
        self.labels = labels

    @property
    def stem(self) -> str:
        """OpenMetrics' name of the family: a counter's without ``_total``."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


def _of_instances() -> Iterator[Family]:
    def row(name: str, kind: Kind, unit: str, help: str, *more: str) -> Family:
        return Family(name, kind, unit, help, (*OF_INSTANCE, *more))

    yield row("safesh_instance_up", "gauge", "", "1 while the main process lives, 0 otherwise.")
    yield row("safesh_instance_state", "gauge", "", "1 for the state it is in, 0 for the others.", "state")
    yield row("safesh_instance_healthy", "gauge", "", "1 when its last checks succeeded. Only where health is probed.")
    yield row(
        "safesh_instance_start_time_seconds", "gauge", "seconds", "When this run began, in seconds since the epoch."
    )
    yield row("safesh_instance_uptime_seconds", "gauge", "seconds", "How long the main process has lived.")
    yield row("safesh_instance_restarts_total", "counter", "", "Restarts since the supervisor took the instance.")
    yield row("safesh_instance_processes", "gauge", "", "Living processes of the tree.")
    yield row("safesh_instance_threads", "gauge", "", "Threads of the tree.")
    yield row("safesh_instance_open_fds", "gauge", "", "Open file descriptors of the tree.")
    yield row(
        "safesh_instance_cpu_seconds_total",
        "counter",
        "seconds",
        "User and system time of this run, ended children included.",
    )
    yield row("safesh_instance_memory_bytes", "gauge", "bytes", "Memory of the tree.")
    yield row(
        "safesh_instance_peak_memory_bytes",
        "gauge",
        "bytes",
        "The most that the tree has held, where the kernel keeps it.",
    )
    yield row("safesh_instance_read_bytes_total", "counter", "bytes", "Read from disks by this run.")
    yield row("safesh_instance_written_bytes_total", "counter", "bytes", "Written to disks by this run.")
    yield row("safesh_instance_log_size_bytes", "gauge", "bytes", "The log on the disk, rotated parts included.")
    yield row(
        "safesh_instance_log_lost_bytes_total", "counter", "bytes", "Output that could not be written to the log."
    )
    yield row("safesh_instance_problems", "gauge", "", "Problems that safe.sh status would tell.")
    yield row("safesh_strays", "gauge", "", "Processes of the instance that no supervisor holds.")
    yield row("safesh_record_errors", "gauge", "", "1 where the status record cannot be used.")


def _of_system() -> Iterator[Family]:
    yield Family("safesh_system_cpu_usage_ratio", "gauge", "ratio", "Share of the usable cores in use, 0 to 1.")
    yield Family("safesh_system_cpus", "gauge", "", "Usable cores, by the machine and by every limit above us.")
    yield Family(
        "safesh_system_memory_total_bytes", "gauge", "bytes", "Memory of the machine, or the limit that holds us."
    )
    yield Family("safesh_system_memory_available_bytes", "gauge", "bytes", "Memory that is left.")
    yield Family("safesh_system_swap_used_bytes", "gauge", "bytes", "Swap in use.")
    yield Family("safesh_system_disk_used_ratio", "gauge", "ratio", "Share of the state folder's disk in use, 0 to 1.")
    yield Family("safesh_system_disk_free_bytes", "gauge", "bytes", "Left on the state folder's disk.")
    for minutes in (1, 5, 15):
        yield Family(f"safesh_system_load{minutes}", "gauge", "", f"Load average of {minutes} min.")
    yield Family(
        "safesh_system_pressure_ratio",
        "gauge",
        "ratio",
        "Share of the last 10 s in which some, or all, tasks waited for the resource.",
        ("resource", "kind"),
    )
    gpu = ("gpu", "name")
    yield Family(
        "safesh_gpu_utilization_ratio", "gauge", "ratio", "Share of time in which the card was busy, 0 to 1.", gpu
    )
    yield Family("safesh_gpu_memory_used_bytes", "gauge", "bytes", "Memory of the card in use.", gpu)
    yield Family("safesh_gpu_memory_total_bytes", "gauge", "bytes", "Memory of the card.", gpu)


def _of_exporter() -> Iterator[Family]:
    yield Family("safesh_build_info", "gauge", "", "1; its labels tell what runs.", ("version", "python"))
    yield Family("safesh_instances", "gauge", "", "Instances that were looked at.")
    yield Family("safesh_config_errors", "gauge", "", "1 when safe.toml could not be read; the last good one is used.")
    yield Family(
        "safesh_scrape_errors", "gauge", "", "Looks that failed in this scrape; what they would tell is absent."
    )
    yield Family("safesh_scrape_duration_seconds", "gauge", "seconds", "How long this scrape took.")


CATALOG: dict[str, Family] = {one.name: one for one in (*_of_instances(), *_of_system(), *_of_exporter())}


class Series:
    """The samples of one scrape, in the catalog's order, each series once."""

    def __init__(self) -> None:
        self._found: dict[str, dict[tuple[str, ...], float]] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float | None) -> None:
        """A sample of a family of the catalog; nothing where nobody knows (None). The first of a series counts."""
        if value is None:
            return
        family = CATALOG[name]
        key = tuple(clean(labels[label]) for label in family.labels)
        self._found.setdefault(name, {}).setdefault(key, float(value))

    def __iter__(self) -> Iterator[tuple[Family, list[tuple[dict[str, str], float]]]]:
        for name, family in CATALOG.items():
            if samples := self._found.get(name):
                yield family, [(dict(zip(family.labels, key, strict=True)), value) for key, value in samples.items()]


def clean(text: str) -> str:
    """``text`` as UTF-8 can say it: bytes of another encoding (lone surrogates, to Python) become ``\\udc80``."""
    return text.encode("utf-8", "backslashreplace").decode()


def escape(text: str) -> str:
    """A label's value between its quotes, alike in both formats."""
    return clean(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number(value: float) -> str:
    """As Go's and OpenMetrics' readers take it; whole numbers without a fraction."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(value)


def labels_text(labels: Mapping[str, str]) -> str:
    """``{a="b",c="d"}``, "" without labels."""
    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in labels.items()) + "}" if labels else ""


def render(series: Iterable[tuple[Family, list[tuple[dict[str, str], float]]]], format: Format) -> str:
    """The whole text, its last line ended."""
    lines = []
    strict = format == "openmetrics"
    for family, samples in series:
        name = family.stem if strict else family.name
        lines.append(f"# HELP {name} {family.help}")  # ours hold neither a backslash nor a line break
        lines.append(f"# TYPE {name} {family.kind}")
        if strict and family.unit:
            lines.append(f"# UNIT {name} {family.unit}")
        lines += [f"{family.name}{labels_text(labels)} {number(value)}" for labels, value in samples]
    if strict:
        lines.append("# EOF")
    return "".join(line + "\n" for line in lines)
