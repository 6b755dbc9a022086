"""The snapshot against the real system, and inside of real limits: control groups and rlimits."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.home import SUPERVISOR
from safesh import _platform
from safesh._platform import groups
from safesh.metrics.model import MIB, SystemSnapshot
from safesh.metrics.monitor import ResourceMonitor

NOT_MEASURED = ("at", "sources", "failed", "gpus")
TELL = """
import json, os, sys, time
group = sys.argv[1]
if group:
    with open(group + "/cgroup.procs", "w") as file:
        file.write("0")
from safesh.metrics.monitor import ResourceMonitor
monitor = ResourceMonitor(gpu=False)
shots = [monitor.get_resource_snapshot()]
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    pass
shots.append(monitor.get_resource_snapshot())
print(json.dumps([[one.to_dict() for one in shots], monitor.get_process_limits(os.getpid())]))
"""


def tell(group: str = "", spin: float = 0.0, wrap: tuple[str, ...] = (), **environment: str) -> tuple[Any, Any]:
    """Two snapshots of a process of its own, and its limits."""
    command = [*wrap, sys.executable, "-c", TELL, group, str(spin)]
    env = {**os.environ, "PYTHONPATH": str(SUPERVISOR), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shots, limits = json.loads(done.stdout)
    return shots, limits


@contextlib.contextmanager
def group(controller: str, **settings: str) -> Iterator[str]:
    """A control group below our own with this controller, of either version; skips where none can be made."""
    above = groups.places(controller)
    if not above:
        pytest.skip(f"no control group with {controller} here")
    path = Path(above[0].folder) / f"safesh-test-{os.getpid()}-{controller}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of our own can be made: {error}")
    try:
        for name, value in settings.items():
            file = path / name.replace("__", ".")
            if not file.exists():
                pytest.skip(f"{controller} is not enabled for groups of our own ({file.name} is missing)")
            file.write_text(value)
        yield str(path)
    finally:
        path.rmdir()


def limit_file(controller: str, unified: str, old: str) -> str:
    above = groups.places(controller)
    return unified if above and above[0].unified else old


# --- the numbers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shots() -> list[SystemSnapshot]:
    monitor = ResourceMonitor(gpu=False)
    first = monitor.get_resource_snapshot()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return [first, monitor.get_resource_snapshot()]


def test_the_first_cpu_sample_is_null_and_the_second_sees_work(shots: list[SystemSnapshot]) -> None:
    assert shots[0].cpu_percent is None
    assert shots[1].cpu_percent is not None
    assert 100 / (os.cpu_count() or 1) * 0.5 < shots[1].cpu_percent <= 100


def test_every_number_names_its_source_and_nothing_failed(shots: list[SystemSnapshot]) -> None:
    for shot in shots:
        told = {name for name, value in shot.to_dict().items() if name not in NOT_MEASURED and value is not None}
        assert told == set(shot.sources)
        assert not shot.failed


def test_memory_and_disk_agree_with_others(shots: list[SystemSnapshot]) -> None:
    shot = shots[1]
    disk, memory = shutil.disk_usage("/"), psutil.virtual_memory()
    assert shot.disk_free_gb == pytest.approx(disk.free / 1024**3, rel=0.05)
    assert shot.disk_percent == pytest.approx(psutil.disk_usage("/").percent, abs=2)
    if shot.sources["memory_total_mb"] == "/proc/meminfo":
        assert shot.memory_total_mb == pytest.approx(memory.total / MIB)
        assert shot.memory_available_mb == pytest.approx(memory.available / MIB, rel=0.1)


def test_network_and_disk_bytes_are_those_that_psutil_counts() -> None:
    if not psutil.net_io_counters(pernic=True):
        pytest.skip("no network device")
    from safesh._platform import system

    received, _sent, source = system.network()
    named = source[source.index("(") + 1 : -1].split(", ")
    counted = sum(one.bytes_recv for name, one in psutil.net_io_counters(pernic=True).items() if name in named)
    assert received == pytest.approx(counted, rel=0.02, abs=1 << 20)
    told = psutil.disk_io_counters()
    if told is not None and told.read_bytes:
        assert system.disks()[0] == pytest.approx(told.read_bytes, rel=0.05)


# --- limits --------------------------------------------------------------------------------------


def test_in_a_memory_group_the_group_is_told_and_not_the_host() -> None:
    name = limit_file("memory", "memory__max", "memory__limit_in_bytes")
    with group("memory", **{name: str(256 * MIB)}) as path:
        shots, limits = tell(path)
    shot = shots[1]
    assert shot["memory_total_mb"] == 256
    assert shot["memory_available_mb"] <= 256
    assert shot["sources"]["memory_total_mb"].endswith(name.replace("__", "."))
    assert os.path.basename(path) in shot["sources"]["memory_total_mb"]
    assert limits["memory_mb"]["limit"] == 256


def test_under_a_cpu_quota_the_quota_is_told_and_the_percent_is_of_it() -> None:
    above = groups.places("cpu")
    if above and above[0].unified:
        settings = {"cpu__max": "30000 100000"}
    else:
        settings = {"cpu__cfs_period_us": "100000", "cpu__cfs_quota_us": "30000"}
    with group("cpu", **settings) as path:
        shots, limits = tell(path, spin=1.0)
    assert shots[1]["cpus"] == pytest.approx(0.3)
    assert "cgroup v" in shots[1]["sources"]["cpus"]
    assert limits["cpus"]["limit"] == pytest.approx(0.3)
    if "cgroup" in shots[1]["sources"].get("cpu_percent", ""):
        assert shots[1]["cpu_percent"] > 60, "it took all it was given"


def test_in_a_cpuset_its_processors_are_told() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("only one processor")
    one = str(min(allowed))
    with group("cpuset") as path:
        mems = Path(path, "cpuset.mems")
        if not mems.exists():
            pytest.skip("cpuset is not enabled for groups of our own")
        mems.write_text("0")
        Path(path, "cpuset.cpus").write_text(one)
        shots, _limits = tell(path)
    assert shots[1]["cpus"] == 1
    assert "cpuset" in shots[1]["sources"]["cpus"]


@pytest.mark.parametrize("backend", ["", "posix"])
def test_an_rlimit_and_an_affinity_are_told(backend: str) -> None:
    if not shutil.which("prlimit") or not shutil.which("taskset"):
        pytest.skip("util-linux is missing")
    wrap = ("prlimit", f"--as={4 * 1024 * MIB}", "--nofile=123", "taskset", "-c", str(min(os.sched_getaffinity(0))))
    shots, limits = tell(wrap=wrap, SAFESH_BACKEND=backend)
    if psutil.virtual_memory().total > 4 * 1024 * MIB:
        assert (shots[1]["memory_total_mb"], shots[1]["sources"]["memory_total_mb"]) == (4096, "RLIMIT_AS")
        assert 0 < shots[1]["memory_available_mb"] < 4096
    assert shots[1]["cpus"] == 1
    assert limits["open_files"] == {"limit": 123, "source": "RLIMIT_NOFILE"}


def test_another_process_is_told_its_own_limits() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (77, 77))
            assert ResourceMonitor(gpu=False).get_process_limits(child.pid)["open_files"]["limit"] == 77
        finally:
            child.kill()
    assert ResourceMonitor(gpu=False).get_process_limits(child.pid) == {}


# --- the portable backend ------------------------------------------------------------------------


@pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="this is the portable backend already")
def test_the_portable_backend_tells_the_same_memory_and_disk() -> None:
    mine = ResourceMonitor(gpu=False).get_resource_snapshot()
    shots, _limits = tell(spin=0.2, SAFESH_BACKEND="posix")
    other = shots[1]
    assert other["failed"] == {}
    assert other["sources"]["cpu_percent"] == "psutil"
    assert other["cpu_percent"] is not None
    assert other["memory_total_mb"] == mine.memory_total_mb
    assert other["disk_free_gb"] == pytest.approx(mine.disk_free_gb, rel=0.05)
