"""The monitor's promises that need no process: first samples, failing probes, graphics cards, plain data."""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from safesh import _platform
from safesh._platform import groups
from safesh._platform import system as platform
from safesh.metrics import container, gpu
from safesh.metrics import monitor as monitors
from safesh.metrics import system as room
from safesh.metrics.model import MIB, GpuInfo, ProcessUsage, SystemSnapshot, TreeUsage
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.system import Probes, Rate

RATES = ("cpu_percent", "network_rx_bytes_s", "network_tx_bytes_s", "disk_read_bytes_s", "disk_write_bytes_s")


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(room, "monotonic", lambda: self.now)


# --- rates --------------------------------------------------------------------------------------


def test_a_rate_is_unknown_at_first_and_after_a_reset_and_never_zero_by_default() -> None:
    rate = Rate()
    said = [rate.count(now, value) for now, value in [(0, 5), (1, 7), (2, 7), (3, 1), (5, 5)]]
    assert said == [None, [2.0], [0.0], None, [2.0]]


def test_two_looks_in_one_tick_give_the_same_rate() -> None:
    rate = Rate()
    rate.count(0, 0)
    assert rate.count(1, 10) == rate.count(1.001, 5000) == [10.0]
    assert rate.count(2, 20) == [10.0], "the second look has not moved the base"


def test_the_first_snapshot_has_no_rates_and_the_second_has(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ticks = {0: (10.0, 100.0)}
    monkeypatch.setattr(platform, "cpu_times", lambda: ticks)
    monkeypatch.setattr(container, "find_cores", lambda: container.Cores(count=1.0, source="test"))
    monitor = ResourceMonitor(gpu=False)
    first = monitor.get_resource_snapshot()
    assert [getattr(first, name) for name in RATES] == [None] * len(RATES)
    assert not first.failed, "not to know yet is no failure"
    clock.now += 2
    ticks[0] = (10.5, 102.0)
    second = monitor.get_resource_snapshot()
    assert second.cpu_percent == pytest.approx(25.0)
    assert None not in [getattr(second, name) for name in RATES]


def test_under_a_quota_cpu_percent_is_of_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = Clock(monkeypatch), [3.0]
    place = groups.Place("/nowhere", "/box", True)
    monkeypatch.setattr(container, "find_cores", lambda: container.Cores(count=0.5, source="cpu.max", quota=place))
    monkeypatch.setattr(groups, "cpu_seconds", lambda _place: used[0])
    monitor = ResourceMonitor(gpu=False)
    monitor.get_resource_snapshot()
    clock.now += 10
    used[0] += 4.0
    shot = monitor.get_resource_snapshot()
    assert (shot.cpu_percent, shot.sources["cpu_percent"]) == (pytest.approx(80.0), "cgroup v2 /box cpu usage")


def test_processors_that_are_not_ours_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {0: (0.0, 0.0), 1: (0.0, 0.0)}
    monkeypatch.setattr(platform, "cpu_times", lambda: told)
    monkeypatch.setattr(container, "find_cores", lambda: container.Cores(count=1.0, source="set", numbers={1}))
    monitor = ResourceMonitor(gpu=False)
    monitor.get_resource_snapshot()
    told.update({0: (10.0, 10.0), 1: (1.0, 10.0)})
    assert monitor.get_resource_snapshot().cpu_percent == pytest.approx(10.0)


# --- failing probes -----------------------------------------------------------------------------


def test_a_failing_probe_is_a_null_with_its_reason_and_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    monitor = ResourceMonitor(gpu=False, on_event=lambda name, facts: events.append((name, facts)))

    def broken() -> tuple[int, int]:
        raise OSError("gone fishing")

    with monkeypatch.context() as patch:
        patch.setattr(platform, "memory", broken)
        shots = [monitor.get_resource_snapshot() for _ in range(3)]
    assert [shot.memory_percent for shot in shots] == [None] * 3
    assert shots[0].failed == {"memory": "OSError: gone fishing"}
    assert shots[0].disk_percent is not None, "the others still answer"
    assert events == [("probe_failed", {"probe": "memory", "reason": "OSError: gone fishing"})]
    assert monitor.get_resource_snapshot().memory_percent is not None
    assert events[1:] == [("probe_recovered", {"probe": "memory"})]


def test_a_listener_that_fails_does_not_end_who_looks() -> None:
    def listener(_event: str, _facts: dict[str, Any]) -> None:
        raise RuntimeError("the log's disk is full")

    probes = Probes(listener)
    assert probes.ask("one", lambda: 1 // 0) is None
    assert probes.ask("one", lambda: 1) == 1


@pytest.mark.parametrize("name", ["cpu_times", "memory", "swap", "network", "disks", "pressure"])
def test_no_probe_of_the_system_raises(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ValueError("not what was expected")

    monkeypatch.setattr(platform, name, broken)
    shot = ResourceMonitor(disk_path="/nowhere/at/all", gpu=False).get_resource_snapshot()
    assert len(shot.failed) == 2
    assert "/nowhere/at/all" in shot.failed["disk"]
    assert shot.disk_free_gb is None


# --- graphics cards -----------------------------------------------------------------------------


class FakeError(Exception):
    pass


def library(**more: Any) -> ModuleType:
    """A pynvml with one card."""
    fake = ModuleType("pynvml")
    processes = [SimpleNamespace(pid=7, usedGpuMemory=300 * MIB), SimpleNamespace(pid=8, usedGpuMemory=None)]
    answers: dict[str, Any] = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": "card",
        "nvmlDeviceGetName": b"Robot RTX", "nvmlDeviceGetUUID": "GPU-1",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=512 * MIB, total=1024 * MIB),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42), "nvmlDeviceGetPowerUsage": 70_500,
        "nvmlDeviceGetTemperature": 51, "nvmlDeviceGetComputeRunningProcesses": processes,
        "nvmlDeviceGetGraphicsRunningProcesses": processes[:1], **more,
    }  # fmt: skip

    def answering(value: Any) -> Any:
        def answer(*_arguments: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return answer

    for name, value in answers.items():
        setattr(fake, name, answering(value))
    fake.NVMLError, fake.NVML_TEMPERATURE_GPU = FakeError, 0  # type: ignore[attr-defined]
    return fake


def cards(monkeypatch: pytest.MonkeyPatch, fake: ModuleType | None) -> tuple[list[GpuInfo], str]:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gpus = gpu.Gpus()
    found = gpus.look()
    gpus.close()
    return found, gpus.reason


def test_a_card_is_told_with_the_memory_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found, reason = cards(monkeypatch, library())
    assert reason == ""
    assert found == [
        GpuInfo(index=0, name="Robot RTX", uuid="GPU-1", utilization_percent=42.0, memory_used_mb=512.0,
                memory_total_mb=1024.0, temperature_c=51.0, power_w=70.5, processes={7: 300.0, 8: None})
    ]  # fmt: skip


def test_what_a_card_does_not_tell_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {name: FakeError("not supported") for name in vars(library()) if name.startswith("nvmlDeviceGet")}
    keep = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex")
    found, _reason = cards(monkeypatch, library(**{key: one for key, one in silent.items() if key not in keep}))
    assert found == [GpuInfo(index=0, name="card 0")]


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (None, "nvidia-ml-py is not installed"),
        (library(nvmlInit=FakeError("library not found")), "no NVIDIA driver answers: library not found"),
        (library(nvmlDeviceGetCount=0), "the driver knows of no card"),
        (library(nvmlDeviceGetCount=FakeError("driver reloaded")), "the driver no longer answers"),
    ],
)
def test_without_cards_the_list_is_empty_and_the_reason_told(
    fake: ModuleType | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = cards(monkeypatch, fake)
    assert found == []
    assert reason in told


def test_a_snapshot_without_cards_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = ResourceMonitor()
    shot = monitor.get_resource_snapshot()
    assert shot.gpus == []
    assert not shot.failed
    assert "nvidia-ml-py" in monitor.gpu_reason()


def test_the_real_library_has_every_name_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    missing = [name for name in vars(library()) if not name.startswith("__") and not hasattr(real, name)]
    assert missing == []
    found, reason = cards(monkeypatch, real)
    assert found or "driver" in reason


# --- records ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        SystemSnapshot(at=1.0, load=(1.0, 2.0, 3.0), gpus=[GpuInfo(index=0, name="x", processes={3: 1.0})]),
        ProcessUsage(pid=1, start=2, name="x"),
        TreeUsage(run_id="r", members=[ProcessUsage(pid=1, start=2, name="x")]),
    ],
)
def test_records_are_plain_data_for_json(record: SystemSnapshot | ProcessUsage | TreeUsage) -> None:
    data = record.to_dict()
    assert json.loads(json.dumps(data))
    assert all(name in data for name in type(record).__slots__)


def test_a_run_in_a_control_group_is_told_by_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(
        path="/cg/safesh-abc", cpu_seconds=lambda: 12.5, memory_bytes=lambda: 64 * MIB, ceiling=lambda _name: 100 * MIB
    )
    monkeypatch.setattr(monitors, "open_group", lambda path: told if path == told.path else None)
    me = {"pid": os.getpid(), "start": _platform.start_time(os.getpid()), "boot": _platform.boot_id()}
    run = {"run_id": "abc", "keeper": None, "main": me, "cgroup": told.path}
    usage = ResourceMonitor(gpu=False).get_tree_resources(run)
    assert (usage.cpu_seconds, usage.memory_mb, usage.peak_memory_mb) == (12.5, 64.0, 100.0)
    assert [usage.sources[name].split()[-1] for name in ("cpu_seconds", "peak_memory_mb")] == [
        "cpu.stat",
        "memory.peak",
    ]
    assert usage.processes >= 1


def test_a_run_that_is_over_tells_what_its_record_kept() -> None:
    end = {"user_seconds": 1.5, "system_seconds": 0.5, "peak_memory_bytes": 64 * MIB}
    gone = {"pid": 1, "start": 0, "boot": "another"}
    run = {"run_id": "abc", "keeper": gone, "main": gone, "cgroup": "", "last_exit": end}
    usage = ResourceMonitor(gpu=False).get_tree_resources(run)
    assert (usage.run_id, usage.processes, usage.cpu_seconds, usage.peak_memory_mb) == ("abc", 0, 2.0, 64.0)


@pytest.mark.parametrize("run", [{}, {"keeper": 5, "main": "x"}, {"main": {"pid": "a"}}, 2**22 + 1, 0, -3])
def test_a_run_that_cannot_be_found_is_an_empty_tree(run: Any) -> None:
    assert ResourceMonitor(gpu=False).get_tree_resources(run).processes == 0
