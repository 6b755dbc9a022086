"""Processes and trees: exact where the kernel is, complete with the dead, cheap for hundreds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import procs
from helpers.campaign import rounds
from helpers.home import SUPERVISOR, Home, Safe
from helpers.procs import Spawn, wait_until
from safesh import _platform
from safesh._platform import groups
from safesh.metrics.model import MIB, ProcessUsage, TreeUsage
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.sampler import TreeSampler

linux_only = pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="direct reads are Linux's")

CHILDREN = """
import os, resource, signal, sys
signal.alarm(170)
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        total = 0
        for number in range(20000):
            total += number
        os._exit(0)
    os.waitpid(pid, 0)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("used", sum(one.ru_utime + one.ru_stime for one in used), flush=True)
sys.stdin.read()
"""
FORKS = """
import os, signal, sys
signal.alarm(120)
if sys.argv[1]:
    with open(sys.argv[1] + "/cgroup.procs", "w") as file:
        file.write("0")
def fill(mib):
    block = bytearray(mib << 20)
    block[::4096] = b"x" * (len(block) // 4096)
    return block
shared = fill(160)
reading, writing = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(reading)
        own = fill(8)
        shared[:4 << 20:4096] = b"y" * (4 << 8)
        os.write(writing, b".")
        os.close(writing)
        signal.pause()
os.close(writing)
while os.read(reading, 1):
    pass
print("ready", flush=True)
sys.stdin.read()
"""
SPIN = "import time\nprint('ready', flush=True)\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def usage_of(monitor: ResourceMonitor, pid: int, **options: Any) -> ProcessUsage:
    found = monitor.get_process_resources(pid, **options)
    assert found is not None
    return found


# --- one process ---------------------------------------------------------------------------------


def test_the_first_cpu_percent_is_null_and_a_busy_process_then_has_one_core() -> None:
    monitor = ResourceMonitor(gpu=False)
    with Spawn(sys.executable, "-c", SPIN) as spawn:
        spawn.wait_line("ready")
        assert usage_of(monitor, spawn.pid).cpu_percent is None

        def busy() -> bool:
            return 20 < (usage_of(monitor, spawn.pid).cpu_percent or 0) <= 130

        wait_until(busy, deadline=20)


def test_a_process_is_told_as_psutil_tells_it() -> None:
    with Spawn(sys.executable, "-c", FORKS, "") as spawn:
        spawn.wait_line("ready")
        found, other = usage_of(ResourceMonitor(gpu=False), spawn.pid, exact=True), psutil.Process(spawn.pid)
        full = other.memory_full_info()
        assert found.memory_mb == pytest.approx(full.rss / MIB, rel=0.05)
        assert found.pss_mb == pytest.approx(full.pss / MIB, rel=0.05)
        assert found.uss_mb == pytest.approx(full.uss / MIB, rel=0.05)
        assert found.num_threads == other.num_threads()
        assert found.fds == other.num_fds()
        assert found.command == " ".join(other.cmdline())
        assert found.started_at == pytest.approx(other.create_time(), abs=1.5)
        assert found.uid == other.uids().effective
        assert (found.ppid, found.state) == (os.getpid(), "S")


def test_a_process_that_is_gone_is_none_and_no_failure() -> None:
    events: list[str] = []
    child = subprocess.Popen(["sleep", "60"])
    monitor = ResourceMonitor(gpu=False, on_event=lambda name, _facts: events.append(name))
    try:
        assert monitor.get_process_resources(child.pid) is not None
    finally:
        child.kill()
        child.wait()
    assert monitor.get_process_resources(child.pid) is None
    assert monitor.get_tree_resources(child.pid).processes == 0
    assert events == []


def test_a_reused_pid_does_not_inherit_a_rate() -> None:
    monitor = ResourceMonitor(gpu=False)
    usage_of(monitor, os.getpid())
    rates = monitor._single._rates
    (pid, start), rate = rates.popitem()
    rates[(pid, start - 1)] = rate  # whoever had this pid before
    assert usage_of(monitor, os.getpid()).cpu_percent is None


def test_a_table_is_by_pid_with_rates_from_call_to_call_and_asks_no_more_of_the_unwanted() -> None:
    monitor = ResourceMonitor(gpu=False)

    def mine(one: ProcessUsage) -> bool:
        return one.pid == os.getpid() and bool(one.command)

    (first,) = monitor.processes(mine)
    began = time.monotonic()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    (second,) = monitor.processes(mine)
    assert first.cpu_percent is None
    # 0.2 s of a span that is longer the busier the machine is; a tick each of user and system may be missing.
    assert (second.cpu_percent or 0) > 0.8 * 100 * 0.18 / (time.monotonic() - began)
    everybody = [one.pid for one in monitor.processes(details=False)]
    assert everybody == sorted(everybody)
    assert os.getpid() in everybody


# --- trees ---------------------------------------------------------------------------------------


@linux_only
@pytest.mark.pidns
@pytest.mark.timeout(180)
def test_cpu_seconds_of_short_lived_children_are_those_of_rusage() -> None:
    number = rounds(500, 10_000)
    with Spawn(sys.executable, "-c", CHILDREN, str(number)) as spawn:
        used = float(spawn.wait_line(r"used (\S+)", deadline=160)[1])
        found = ResourceMonitor(gpu=False).get_tree_resources(spawn.pid)
    print(f"{number} children: {found.cpu_seconds:.2f} s told, {used:.2f} s used")
    assert found.processes == 1
    # The kernel tells whole ticks (proc_pid_stat(5)): less than one is missing of each of utime, stime, cutime, cstime.
    assert found.cpu_seconds == pytest.approx(used, rel=0.02, abs=0.04)


@linux_only
def test_memory_of_a_fork_heavy_tree_by_pss_is_the_control_groups() -> None:
    above = groups.places("memory")
    if not above:
        pytest.skip("no memory control group")
    folder = Path(above[0].folder) / f"safesh-test-{os.getpid()}-pss"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of our own can be made: {error}")
    try:
        if not (folder / "memory.stat").exists():
            pytest.skip("memory is not enabled for groups of our own")
        with Spawn(sys.executable, "-c", FORKS, str(folder)) as spawn:
            spawn.wait_line("ready")
            told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            tree = ResourceMonitor(gpu=False).get_tree_resources(spawn.pid, exact=True)
            sample = TreeSampler(spawn.pid).sample()
            resident = ResourceMonitor(gpu=False).get_tree_resources(spawn.pid)
        # What processes have mapped: a group's total holds the kernel's own memory and unmapped cache besides.
        names = ("anon", "file_mapped") if above[0].unified else ("total_rss", "total_mapped_file")
        charged = sum(int(told[name]) for name in names) / MIB
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()
    print(f"group {charged:.1f} MiB, PSS {tree.memory_mb:.1f} MiB, resident {resident.memory_mb:.1f} MiB")
    assert tree.processes == 9
    assert tree.memory_mb == pytest.approx(charged, rel=0.05)
    assert resident.memory_mb > 3 * charged, "which is why PSS is needed"
    assert sample is not None
    assert sample.memory_bytes / MIB == pytest.approx(charged, rel=0.05)


def test_a_run_is_found_by_its_record_and_its_end_is_remembered(home: Home, safe: Safe) -> None:
    code = "import os, signal; os.fork(); signal.pause()"
    home.write_config(f"[targets.t]\ncommand = {json.dumps([sys.executable, '-c', code])}\nstop = {{ grace = '1s' }}\n")
    monitor = ResourceMonitor(gpu=False)
    with safe.started("t"):
        (path,) = home.state.rglob("t.json")

        def tree() -> TreeUsage:
            return monitor.get_tree_resources(json.loads(path.read_text()), members=True)

        found = wait_until(lambda: one if (one := tree()).processes == 2 else None)
        run = json.loads(path.read_text())
        assert run["main"]["pid"] in [one.pid for one in found.members]
        assert run["keeper"]["pid"] not in [one.pid for one in found.members]
        assert found.run_id == run["run_id"]
    ended = tree()
    assert (ended.processes, ended.run_id) == (0, run["run_id"])
    assert ended.cpu_seconds > 0
    assert ended.peak_memory_mb is not None


# --- the price -----------------------------------------------------------------------------------


def best(question: Callable[[], object], times: int = 15) -> float:
    """The least seconds of processor that one call took: what others do meanwhile only adds to it."""
    found = []
    for _ in range(times):
        began = time.thread_time()
        question()
        found.append(time.thread_time() - began)
    return min(found)


ASKED = (
    "name", "cmdline", "cpu_times", "memory_info", "num_threads", "status", "num_fds", "io_counters", "uids", "ppid",
    "create_time"
)  # fmt: skip


@linux_only
@pytest.mark.pidns
def test_a_hundred_processes_cost_five_milliseconds_and_a_third_of_psutil() -> None:
    crowd = "import os, signal\nsignal.alarm(120)\nfor _ in range(99):\n if os.fork() == 0: signal.pause()\n"
    with Spawn(sys.executable, "-c", crowd + "print('ready', flush=True)\nsignal.pause()") as spawn:
        spawn.wait_line("ready")
        pids = [one.pid for one in procs.tree_of(spawn.pid)]
        assert len(pids) == 100
        monitor, others = ResourceMonitor(gpu=False), [psutil.Process(pid) for pid in pids]

        def ask_psutil() -> None:
            for one in others:
                with one.oneshot():
                    for name in ASKED:
                        getattr(one, name)()

        sampler = TreeSampler(spawn.pid, exact_every=0)
        assert len(monitor.processes(pids=pids)) == 100
        table, theirs = best(lambda: monitor.processes(pids=pids)), best(ask_psutil)
        sample = best(sampler.sample)
    print(f"table {table * 1e3:.2f} ms, sampler {sample * 1e3:.2f} ms, psutil {theirs * 1e3:.2f} ms")
    assert max(table, sample) <= 0.005
    assert max(table, sample) <= theirs / 3


def test_metrics_load_no_psutil_on_linux() -> None:
    if not _platform.HAS_SUBREAPER:
        pytest.skip("the portable backend needs it")
    code = "import sys, safesh.metrics.monitor as m; m.ResourceMonitor().get_resource_snapshot(); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SUPERVISOR)}
    loaded = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True, timeout=30)
    assert "psutil" not in loaded.split()


def test_the_sampler_loads_nothing_heavy() -> None:
    if not _platform.HAS_SUBREAPER:
        pytest.skip("the portable backend needs psutil")
    code = "import sys, os, safesh.metrics.sampler as s; s.TreeSampler(os.getpid()).sample(); print(*sys.modules)"
    command = [sys.executable, "-E", "-s", "-S", "-c", f"import sys; sys.path.insert(0, {str(SUPERVISOR)!r}); {code}"]
    loaded = subprocess.check_output(command, text=True, timeout=30).split()
    assert not {"typing", "json", "re", "dataclasses", "enum", "signal", "functools", "subprocess"} & set(loaded)
