"""The exporter's text: right in both formats by their own readers, whatever stands in a label, and free of lint."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from helpers.home import ROOT
from helpers.promlint import lint
from safesh.metrics.collect import DEAD, Collector, Floors, Seen
from safesh.metrics.exposition import CATALOG, FORMATS, INSTANCE, Format, Series, number, render
from safesh.metrics.model import GpuInfo, SystemSnapshot, TreeUsage
from safesh.model import STATES

READERS = {"prometheus": read_prometheus, "openmetrics": read_openmetrics}
LABELS = {"project": "p", INSTANCE: "robot", "target": "headless"}
NAME = re.compile(r"safesh_[a-z0-9_]+")

RECORD: dict[str, Any] = {
    "state": "running", "target": "headless", "restarts": 2, "log_lost_bytes": 7, "started_at": 1.7e9 + 0.123,
    "health": {"status": "healthy"}, "run_id": "r", "main": {"pid": 12345, "start": 1, "boot": "b"},
}  # fmt: skip


class FakeMonitor:
    """Answers what it is told to."""

    def __init__(self, usage: TreeUsage | None = None, system: SystemSnapshot | None = None) -> None:
        self.usage = usage
        self.system = system

    def get_resource_snapshot(self) -> SystemSnapshot:
        if self.system is None:
            raise OSError("no system today")
        return self.system

    def get_tree_resources(self, _run: dict[str, Any], /) -> TreeUsage:
        if self.usage is None:
            raise OSError("no tree today")
        return self.usage


def usage(**more: Any) -> TreeUsage:
    told: dict[str, Any] = {
        "processes": 3, "cpu_seconds": 1.5, "memory_mb": 2.0, "peak_memory_mb": 3.0, "threads": 4, "fds": 5,
        "read_bytes": 6, "write_bytes": 7, "sources": {"peak_memory_mb": "cgroup v2 memory.peak"},
    }  # fmt: skip
    return TreeUsage(**{**told, **more})


def system() -> SystemSnapshot:
    return SystemSnapshot(
        at=1.0, cpu_percent=12.5, cpus=1.5, memory_total_mb=100.0, memory_available_mb=50.0, swap_used_mb=0.0,
        disk_percent=40.0, disk_free_gb=2.0, load=(0.1, 0.2, 0.3),
        pressure={"cpu": {"some_avg10": 1.0}, "memory": {"some_avg10": 0.0, "full_avg10": 0.0}},
        gpus=[GpuInfo(index=0, name="card", utilization_percent=50.0, memory_used_mb=1.0, memory_total_mb=2.0)],
    )  # fmt: skip


def seen(**more: Any) -> Seen:
    told: dict[str, Any] = {
        "project": "p", "instance": "robot", "target": "headless", "code": 0, "record": RECORD, "held": True,
        "main_alive": True, "uptime": 12.5,
    }  # fmt: skip
    return Seen(**{**told, **more})


def scrape(*found: Seen, monitor: FakeMonitor | None = None) -> Series:
    return Collector(lambda: (list(found), False, 0), monitor or FakeMonitor(usage(), system())).scrape()


def values(series: Series) -> dict[str, float]:
    """Metric -> value of its only series; a state's by ``metric/state``."""
    return {
        name + (f"/{labels['state']}" if "state" in labels else ""): value
        for name, labels, value in ((family.name, labels, value) for family, rows in series for labels, value in rows)
    }


def parsed(text: str, format: Format) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in READERS[format](text)
        for sample in family.samples
    }


# --- the formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_scrape_is_read_back_by_the_formats_own_reader(format: Format) -> None:
    series = scrape(seen(log=str(ROOT / "README.md")))
    found = parsed(render(series, format), format)
    assert {name for name, _labels in found} == set(CATALOG)  # every metric there is
    for family, rows in series:
        for labels, value in rows:
            assert found[family.name, tuple(sorted(labels.items()))] == value


@pytest.mark.parametrize("format", FORMATS)
def test_types_and_help_are_those_of_the_catalog(format: Format) -> None:
    for family in READERS[format](render(scrape(seen()), format)):
        ours = CATALOG.get(family.name) or CATALOG[family.name + "_total"]
        assert (family.type, family.documentation) == (ours.kind, ours.help)
        if format == "openmetrics":
            assert family.unit == ours.unit


@pytest.mark.parametrize("format", FORMATS)
def test_the_text_is_free_of_lint(format: Format) -> None:
    assert lint(render(scrape(seen(), seen(instance="other", target="gui")), format), format) == []


def test_openmetrics_ends_with_its_mark_and_the_older_format_has_none() -> None:
    assert render(scrape(), "openmetrics").endswith("\n# EOF\n")
    assert "EOF" not in render(scrape(), "prometheus")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=[])), st.floats())
def test_any_label_and_any_number_survive_both_formats(text: str, value: float) -> None:
    series = Series()
    series.add("safesh_strays", {**LABELS, "target": text}, value)
    expected = text.encode("utf-8", "backslashreplace").decode()
    for format in FORMATS:
        (((name, labels), found),) = parsed(render(series, format), format).items()
        assert name == "safesh_strays"
        assert dict(labels)["target"] == expected
        assert found == value or (math.isnan(found) and math.isnan(value))


@pytest.mark.parametrize(
    ("text", "written"),
    [('a"b', r"a\"b"), ("a\\b", r"a\\b"), ("a\nb", r"a\nb"), ("a\udc80b", r"a\\udc80b"), ("ä€", "ä€"), ("", "")],
)
def test_labels_are_escaped(text: str, written: str) -> None:
    series = Series()
    series.add("safesh_strays", {**LABELS, "target": text}, 0)
    assert f'target="{written}"' in render(series, "prometheus")
    render(series, "prometheus").encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e3, "1000"),
        (0.5, "0.5"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_are_written_as_go_reads_them(value: float, text: str) -> None:
    assert number(value) == text


def test_a_series_told_twice_is_written_once() -> None:
    text = render(scrape(seen(), seen()), "prometheus")
    assert lint(text, "prometheus") == []


# --- what is told ---------------------------------------------------------------------------------


def test_units_are_base_units() -> None:
    found = values(scrape(seen()))
    assert found["safesh_instance_memory_bytes"] == 2 * 1024**2
    assert found["safesh_instance_peak_memory_bytes"] == 3 * 1024**2
    assert found["safesh_system_disk_free_bytes"] == 2 * 1024**3
    assert found["safesh_system_cpu_usage_ratio"] == 0.125


@pytest.mark.parametrize(
    ("code", "state", "expected"),
    [(0, "running", "running"), (0, "backoff", "backoff"), (3, "failed", "failed"), (3, "running", "idle"),
     (1, "running", DEAD), (2, "running", DEAD), (0, None, "starting"), (3, None, "idle")],
)  # fmt: skip
def test_exactly_one_state_is_1(code: int, state: str | None, expected: str) -> None:
    record = None if state is None else {**RECORD, "state": state}
    found = values(scrape(seen(code=code, record=record)))
    states = {name: found[f"safesh_instance_state/{name}"] for name in (*STATES, DEAD)}
    assert [name for name, value in states.items() if value] == [expected]


def test_a_damaged_record_leaves_gaps_and_is_counted() -> None:
    found = values(scrape(seen(record=None, damaged=True)))
    assert found["safesh_record_errors"] == 1
    assert found["safesh_scrape_errors"] == 0
    assert not {"safesh_instance_up", "safesh_instance_restarts_total", "safesh_instance_processes"} & set(found)
    assert not any(name.startswith("safesh_instance_state") for name in found)


def test_a_tree_or_system_that_cannot_be_measured_is_counted_and_absent() -> None:
    found = values(scrape(seen(), monitor=FakeMonitor()))
    assert found["safesh_scrape_errors"] == 2
    assert found["safesh_instance_up"] == 1
    assert "safesh_instance_cpu_seconds_total" not in found
    assert not any(name.startswith("safesh_system") for name in found)


def test_what_is_not_known_is_absent_and_not_zero() -> None:
    monitor = FakeMonitor(usage(fds=None, read_bytes=None, peak_memory_mb=None), SystemSnapshot(at=1.0))
    found = values(scrape(seen(), monitor=monitor))
    for name in (
        "instance_open_fds",
        "instance_read_bytes_total",
        "instance_peak_memory_bytes",
        "system_cpu_usage_ratio",
    ):
        assert f"safesh_{name}" not in found
    assert found["safesh_instance_written_bytes_total"] == 7


def test_the_most_that_was_seen_is_not_told_as_the_peak() -> None:
    monitor = FakeMonitor(usage(sources={"peak_memory_mb": "the most seen in 1 look"}), system())
    assert "safesh_instance_peak_memory_bytes" not in values(scrape(seen(), monitor=monitor))


def test_without_any_instance_the_scrape_is_whole() -> None:
    found = values(scrape())
    assert found["safesh_instances"] == 0
    assert found["safesh_scrape_errors"] == 0


def test_a_look_that_raises_is_counted() -> None:
    def look() -> tuple[list[Seen], bool, int]:
        raise RuntimeError("a bug")

    assert values(Collector(look, FakeMonitor(system=system())).scrape())["safesh_scrape_errors"] == 1


def test_no_label_holds_a_pid_or_a_run_id() -> None:
    for family in CATALOG.values():
        assert not {"pid", "run", "run_id"} & set(family.labels)
    assert "12345" not in render(scrape(seen()), "prometheus")


# --- counters ------------------------------------------------------------------------------------


def test_a_counter_never_falls_within_a_run_and_begins_anew_with_the_next() -> None:
    monitor = FakeMonitor(usage(cpu_seconds=5.0), system())
    one = [seen()]
    collector = Collector(lambda: (one, False, 0), monitor)
    cpu = "safesh_instance_cpu_seconds_total"
    told = []
    for seconds in (5.0, 3.0, 6.0):
        monitor.usage = usage(cpu_seconds=seconds)
        told.append(values(collector.scrape())[cpu])
    assert told == [5.0, 5.0, 6.0]
    one[0] = seen(record={**RECORD, "started_at": RECORD["started_at"] + 60})
    monitor.usage = usage(cpu_seconds=0.5)
    assert values(collector.scrape())[cpu] == 0.5


def test_the_next_command_learns_from_the_file_what_a_counter_was() -> None:
    before = render(scrape(seen(), monitor=FakeMonitor(usage(cpu_seconds=9.0), system())), "prometheus")
    for text, expected in ((before, 9.0), ("", 1.5), ("rubbish{\x00} x\nsafesh_instance_cpu_seconds_total{a} y", 1.5)):
        collector = Collector(lambda: ([seen()], False, 0), FakeMonitor(usage(), system()))
        collector.floors.learn(text)
        assert values(collector.scrape())["safesh_instance_cpu_seconds_total"] == expected


def test_floors_of_instances_that_are_gone_are_forgotten() -> None:
    floors = Floors()
    floors.raise_to("{a}", 1.0, "x", 5.0)
    floors.raise_to("{b}", 1.0, "x", 5.0)
    floors.forget_others(["{b}"])
    assert floors.raise_to("{a}", 1.0, "x", 1.0) == 1.0
    assert floors.raise_to("{b}", 1.0, "x", 1.0) == 5.0


# --- the catalog, the page and the dashboard ------------------------------------------------------


def test_names_follow_the_conventions() -> None:
    for family in CATALOG.values():
        assert re.fullmatch(r"safesh_[a-z][a-z0-9_]*", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        if family.unit:
            assert family.stem.endswith(f"_{family.unit}")
        assert "\\" not in family.help and "\n" not in family.help and family.help.endswith(".")


def test_the_dashboard_asks_for_exported_names_and_labels_only() -> None:
    board = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]
    asked += [one["expr"] for one in board["annotations"]["list"]]
    assert len(asked) > 20
    used = set()
    for expression in asked:
        names = set(NAME.findall(expression)) - {INSTANCE}
        assert names, expression
        assert names <= set(CATALOG), expression
        used |= names
        for name, selector in re.findall(r"(safesh_[a-z0-9_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=~?", selector)) <= set(CATALOG[name].labels), expression
    assert len(used) >= len(CATALOG) - 3  # nearly all of them are worth a picture
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_page_lists_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(safesh_\w+)` \| (\w+) \|", page, re.M)
    assert rows == [(family.name, family.kind) for family in CATALOG.values()]
    alerts = page.partition("## Dashboard")[2]
    assert set(NAME.findall(alerts)) <= set(CATALOG)
