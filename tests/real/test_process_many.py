"""Very many processes at once: no thread for each, bounded memory, and nobody left."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from helpers import pidns
from helpers.callers import SUPERVISOR, caller, finished, source
from helpers.campaign import rounds
from helpers.procs import spawn

pytestmark = pytest.mark.timeout(240)

MANY = """
import json, resource
count = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(8 * count + 200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
warm = run("true", BACKGROUND).wait(10)
cleanup_finished_processes()
def memory():
    words = open("/proc/self/status").read()
    return int(words.partition("VmRSS:")[2].split()[0]) * 1024
def everybody():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
others = len(everybody())
rss, threads, fds = memory(), threading.active_count(), len(os.listdir("/proc/self/fd"))
began = time.perf_counter()
results = [run(["sh", "-c", f"echo out {n}; echo err {n} >&2; read x; echo got $x; exec sleep 600"], BACKGROUND,
               timeout=3600) for n in range(count)]
started = time.perf_counter()
assert len({one.pid for one in results}) == count
most_threads = threading.active_count()
for n, one in enumerate(results):
    assert communicate_with_process(one.pid, f"{n}\\n", timeout=60, until=f"got {n}\\n") == f"out {n}\\ngot {n}\\n"
read = time.perf_counter()
held, open_fds = memory(), len(os.listdir("/proc/self/fd"))
active = get_active_processes()
assert len(active) == count
looked = time.perf_counter()
verdicts = end_all(grace=5)
ended = time.perf_counter()
assert len(verdicts) == count and all(one.ok for one in verdicts.values())
assert all(one.wait(10).done and one.signal == "SIGTERM" for one in results)
assert [one.stderr for one in results] == [f"err {n}\\n" for n in range(count)]
assert cleanup_finished_processes() == count
del one
results.clear()
until(lambda: len(os.listdir("/proc/self/fd")) == fds, 10)
assert children() == []
assert len(everybody()) == others, "somebody is left"
say(json.dumps({
    "processes": count,
    "start_ms_each": (started - began) / count * 1000,
    "conversation_ms_each": (read - started) / count * 1000,
    "status_ms_all": (looked - read) * 1000,
    "end_s_all": ended - looked,
    "memory_kib_each": (held - rss) / count / 1024,
    "descriptors_each": (open_fds - fds) / count,
    "threads_more": most_threads - threads,
}))
"""


@pytest.mark.skipif(not pidns.unshare()[0], reason="no pid namespace can be made")
def test_a_thousand_processes_are_started_talked_to_and_ended_without_a_survivor() -> None:
    """In a pid namespace of their own, where everybody can be counted. The short form has 150."""
    count = rounds(150, 1000)
    command = [*pidns.unshare()[0], sys.executable, "-c", source(MANY).replace("later(50", "later(200"), str(count)]
    with spawn(*command, extra_env={"PYTHONPATH": SUPERVISOR}) as child:
        told: dict[str, Any] = json.loads(finished(child, seconds=220).splitlines()[-1])
    print(json.dumps(told))
    assert told["threads_more"] == 0
    assert told["memory_kib_each"] < 64
    assert told["descriptors_each"] <= 4.01
    assert told["start_ms_each"] < 50
    assert told["end_s_all"] < 10 + count * 0.02


def test_two_hundred_running_processes_have_no_thread_of_their_own_and_wake_nobody() -> None:
    code = """
    run("true", BACKGROUND).wait(10)
    threads = threading.active_count()
    count = int(sys.argv[1])
    results = [run("sleep 600", BACKGROUND, timeout=3600) for _ in range(count)]
    assert threading.active_count() == threads
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(1.0)
    used = time.process_time() - before
    assert used < 0.01, f"{used} s of CPU in an idle second"
    assert threading.active_count() == threads
    end_all(now=True)
    assert all(one.wait(10).done for one in results)
    say("ok")
    """
    with caller(code, str(rounds(60, 200))) as child:
        assert finished(child).endswith("ok\n")


def test_ten_thousand_short_commands_leave_memory_descriptors_and_threads_as_they_were() -> None:
    code = """
    def memory():
        return int(open("/proc/self/status").read().partition("VmRSS:")[2].split()[0])
    def turn(count):
        for _ in range(count // 20):
            batch = [run("echo x", BACKGROUND, shell=True, timeout=3600) for _ in range(10)]
            for _ in range(10):
                assert run(["echo", "x"], timeout=3600).stdout == "x\\n"
            assert all(one.wait(20).stdout == "x\\n" for one in batch)
            cleanup_finished_processes()
    turn(200)
    rss, fds = memory(), len(os.listdir("/proc/self/fd"))
    turn(int(sys.argv[1]))
    grown = memory() - rss
    until(lambda: len(os.listdir("/proc/self/fd")) <= fds, 5)
    assert children() == []
    say(grown, "KiB more")
    assert grown < 3000, grown
    """
    with caller(code, str(rounds(600, 10_000))) as child:
        finished(child, seconds=200)
