"""The sampler on real trees: what it sees, what it costs, and when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import pidns
from helpers.campaign import rounds
from helpers.home import SUPERVISOR
from helpers.procs import Spawn, wait_until
from safesh import _platform
from safesh.metrics.sampler import Sample, TreeSampler

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
MIB = 1 << 20

TREE = """
import os, signal, sys
signal.alarm(120)
for _ in range(9):
    if os.fork() == 0:
        signal.pause()
print("ready", flush=True)
sys.stdin.read()
"""
BURNER = """
import os, signal, time
signal.alarm(120)
block = bytearray(32 * 1024 * 1024)
print("ready", flush=True)
until = time.monotonic() + 60
while time.monotonic() < until:
    pass
"""
DOUBLE_FORK = """
import os, signal, sys, time
signal.alarm(120)
def burn():
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            burn()
        os._exit(0)
    os.waitpid(pid, 0)
print("ready", flush=True)
sys.stdin.read()
"""
KEEPER = f"""
import os, sys
sys.path.insert(0, {str(SUPERVISOR)!r})
from safesh import _platform
_platform.become_subreaper()
pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", sys.argv[1]])
reaped = 0
while reaped < 5:
    if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        os.sched_yield()
        continue
    os.waitpid(-1, 0)
    reaped += 1
print("reaped", flush=True)
sys.stdin.read()
"""


def take(sampler: TreeSampler) -> Sample:
    found = sampler.sample()
    assert found is not None
    return found


def test_a_sample_counts_the_tree_and_nobody_else() -> None:
    with Spawn(sys.executable, "-c", TREE) as spawn:
        spawn.wait_line("ready")
        found = take(TreeSampler(spawn.pid))
        assert (found.processes, found.threads, found.cpu_percent) == (10, 10, None)
        assert found.fds is not None
        assert found.fds >= 30
        assert found.read_bytes is not None


def test_cpu_and_memory_of_a_busy_process_are_seen() -> None:
    with Spawn(sys.executable, "-c", BURNER) as spawn:
        spawn.wait_line("ready")
        sampler = TreeSampler(spawn.pid, interval=0.5)
        take(sampler)

        def busy() -> bool:
            found = take(sampler)
            return found.cpu_percent is not None and 20 < found.cpu_percent <= 115 and found.memory_bytes >= 32 * MIB

        wait_until(busy, deadline=20)


@pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="orphans stay with nobody here")
def test_orphans_that_a_keeper_has_waited_for_are_counted() -> None:
    with Spawn(sys.executable, "-c", KEEPER, DOUBLE_FORK) as spawn:
        spawn.wait_line("reaped", deadline=30)
        found = take(TreeSampler(spawn.pid, keeper=True))
        assert found.processes == 1, "the keeper is none of its tree"
        assert found.cpu_seconds >= 0.45


def test_sampling_ends_with_the_tree() -> None:
    with Spawn(sys.executable, "-c", TREE) as spawn:
        spawn.wait_line("ready")
        sampler = TreeSampler(spawn.pid, interval=0.05)
        samples = sampler.samples(threading.Event().wait)
        assert next(samples).processes == 10
    assert list(samples) == []
    assert sampler.sample() is None


def test_sampling_ends_when_it_is_told_to() -> None:
    told = threading.Event()
    told.set()
    assert len(list(TreeSampler(os.getpid(), interval=60).samples(told.wait))) == 1


def test_another_process_with_the_same_pid_is_not_the_tree() -> None:
    sampler = TreeSampler(os.getpid())
    sampler._tree.start = 1
    assert sampler.sample() is None


def test_the_sampler_keeps_to_half_a_percent_of_a_core() -> None:
    stop = threading.Event()
    with Spawn(sys.executable, "-c", TREE) as spawn:
        spawn.wait_line("ready")
        sampler = TreeSampler(spawn.pid, interval=0.01)  # far more often than the budget allows
        take(sampler)  # what is only loaded once
        began, spent = time.monotonic(), time.thread_time()
        count = 0
        for _sample in sampler.samples(stop.wait):
            count += 1
            if time.monotonic() - began > rounds(4, 20):
                break
        share = (time.thread_time() - spent) / (time.monotonic() - began)
    print(f"{100 * share:.3f} % of a core, {count} samples, one each {sampler.interval:.3f} s")
    assert share <= 0.005


@pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="the portable backend finds a tree by looking at everybody")
@pytest.mark.timeout(120)
def test_the_cost_of_a_tree_does_not_grow_with_the_crowd_around_it() -> None:
    command, why = pidns.unshare()
    if not command:
        pytest.skip(f"no pid namespace ({why})")
    crowd = rounds(300, 2000)
    script = [sys.executable, str(HELPERS / "crowd.py"), str(crowd)]
    environment = {**os.environ, "PYTHONPATH": str(SUPERVISOR)}
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"{found['alone'] * 1e6:.0f} us alone, {found['crowded'] * 1e6:.0f} us among {crowd} others")
    assert found["crowded"] < 1.5 * found["alone"]
