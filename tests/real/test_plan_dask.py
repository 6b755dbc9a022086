"""Plans on a dask cluster: contained, live, at most one copy of a step, and nobody left, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")

from helpers import procs
from helpers.campaign import full
from helpers.home import CLI, SUPERVISOR, Home, Result
from helpers.procs import Spawn, wait_until
from safesh.plan.dask_place import Workers
from safesh.plan.model import StepSpec

pytestmark = [pytest.mark.timeout(150)]

GROUPS = Path("/sys/fs/cgroup")
SLOW = 60.0  # for a cluster to come up on a busy machine
LEASE = 3.0
LOST = LEASE + 5 + 2  # and the grace, and the margin

# A plan through the runner; a line when the engine is open, and one with what is left when it is closed.
DRIVER = """
import json, sys, threading
sys.path.insert(0, sys.argv.pop(1))
from safesh.errors import SafeshError
from safesh.plan.dask_engine import DaskEngine
from safesh.plan.load import load_plan
from safesh.plan.monitor import ExecutionMonitor
from safesh.plan.runner import Options, Runner

plan, output, scheduler, lease, jobs = sys.argv[1:]
try:
    engine = DaskEngine(scheduler or None, lease=float(lease))
except SafeshError as error:
    sys.exit(f"{type(error).__name__} {error.exit_code}: {error} ({error.hint})")
print("open", json.dumps(engine.capacity()), flush=True)
try:
    monitor = ExecutionMonitor(progress="quiet")
    state = Runner(load_plan(plan), output, engine, monitor, Options(jobs=int(jobs))).run()
finally:
    engine.close(now=False)
threads = [one.name for one in threading.enumerate()]
print("done", json.dumps({"steps": state.to_dict()["steps"], "threads": threads}), flush=True)
"""

# A step of which there may be one: it and a descendant that got away hold a lock; whoever finds it taken says so.
ALONE = """
import fcntl, os, signal, subprocess, sys, time
lock = open("alone.lock", "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    open("twice", "a").close()
    sys.exit(9)
with open("copies", "a+") as file:
    file.write(f"{os.getpid()} {os.environ['SAFESH_RUN_ID']}\\n")
    file.seek(0)
    copies = len(file.readlines())
print("copy", copies, flush=True)
if copies == 1:
    os.set_inheritable(lock.fileno(), True)
    code = "import os, signal, time; os.setsid(); signal.signal(15, signal.SIG_IGN); time.sleep(100)"
    subprocess.Popen([sys.executable, "-c", code], close_fds=False)
    time.sleep(100)
"""


def write_plan(home: Home, *steps: dict[str, Any], **more: Any) -> Path:
    (home.project / "alone.py").write_text(ALONE, encoding="utf-8")
    path = home.project / "plan.json"
    path.write_text(json.dumps({"id": "p", "steps": list(steps), **more}), encoding="utf-8")
    return path


def shell(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "command": text, "shell": True, **more}


def alone(name: str = "alone", **more: Any) -> dict[str, Any]:
    return {"id": name, "command": [sys.executable, "alone.py"], **more}


class Drive(Spawn):
    """A plan through the runner in a process of its own."""

    def __init__(self, home: Home, plan: Path, scheduler: str = "", *, lease: float = LEASE, jobs: int = 4) -> None:
        self.output = home.project / "out"
        super().__init__(
            *(sys.executable, "-c", DRIVER, str(SUPERVISOR), plan, self.output, scheduler, str(lease), str(jobs)),
            cwd=home.project,
        )

    def opened(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(self.wait_line(r"^open (.*)", SLOW)[1])
        return found

    def done(self, deadline: float = SLOW) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.wait_line(r"^done (.*)", deadline)[1])
        assert self.wait(SLOW) == 0
        return found

    def log(self, step: str) -> str:
        path = self.output / "logs" / f"{step}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.output / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [one for one in map(json.loads, lines) if one["event"] == kind]


def copies(home: Home) -> list[tuple[int, str]]:
    """(pid, run id) of each copy of the step that has started."""
    path = home.project / "copies"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def first_copy(home: Home) -> tuple[int, str]:
    wait_until(lambda: copies(home), SLOW, "the step runs")
    return copies(home)[0]


def ancestor(pid: int, word: str) -> procs.Process:
    """The nearest process above with the argument ``word``."""
    found = procs.look(pid)
    while found is not None and found.pid > 1:
        if word in procs.argv(found.pid):
            return found
        found = procs.look(found.ppid)
    raise AssertionError(f"nobody above {pid} has {word!r}")


def nobody_left(*run_ids: str) -> None:
    for run_id in run_ids:
        wait_until(lambda run_id=run_id: not procs.marked("SAFESH_RUN_ID", run_id), 10, f"the end of run {run_id}")
        wait_until(lambda run_id=run_id: not list(GROUPS.rglob(f"safesh-{run_id}")), 10, f"the end of {run_id}'s group")


def never_two(home: Home, most: int = 2) -> None:
    assert not (home.project / "twice").exists(), "two copies of the step lived at the same time"
    assert len(copies(home)) == most


class Server(Spawn):
    """``dask scheduler`` or ``dask worker`` as people start them."""

    def __init__(self, kind: str, *arguments: str, prefix: tuple[str, ...] = (), code: str = "") -> None:
        run = f"{code}\nfrom distributed.cli.dask_{kind} import main; main()"
        words = (*prefix, sys.executable, "-c", run, *arguments, "--no-dashboard")
        super().__init__(*words, extra_env={"PYTHONPATH": str(SUPERVISOR)})

    def address(self) -> str:
        return self.wait_line(r"Scheduler at:\s+(tcp://\S+)", SLOW, "err")[1]

    def registered(self) -> None:
        self.wait_line(r"Registered to:", SLOW, "err")


def start_worker(
    stack: ExitStack, address: str, name: str, *arguments: str, code: str = "", nanny: bool = False
) -> Server:
    words = (address, "--nanny" if nanny else "--no-nanny", "--host", "127.0.0.1", "--name", name, *arguments)
    worker = stack.enter_context(Server("worker", *words, code=code))
    worker.registered()
    return worker


@contextmanager
def cluster(home: Home, *resources: str, nanny: bool = False) -> Iterator[tuple[str, list[Server]]]:
    """A scheduler on the loopback and a worker for each; their address, and the workers."""
    with ExitStack() as stack:
        local = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        scheduler = stack.enter_context(Server("scheduler", *local))
        address = scheduler.address()
        workers = []
        for number, told in enumerate(resources):
            options = ["--nthreads", "4", "--local-directory", str(home.path)]
            options += ["--resources", told] if told else []
            workers.append(start_worker(stack, address, f"w{number}", *options, nanny=nanny))
        yield address, workers


def listening(pids: set[int]) -> set[str]:
    """Local addresses that any of these processes listens at, as the kernel's tables have them (proc_net(5))."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].rpartition(":")[0])
    return found


# --- a cluster of our own ---------------------------------------------------------------------


def test_a_plan_runs_on_processes_of_our_own_with_logs_and_reports_and_leaves_nothing(home: Home) -> None:
    report = 'echo \'{"tokens": 7, "message": "hi"}\' >> "$SAFESH_REPORT"'
    plan = write_plan(
        home,
        shell("a", f"echo out; echo err >&2; {report}"),
        shell("b", "echo b > b.txt; ps -o pid= -p $PPID", depends_on=["a"]),
        shell("c", "exit 3", depends_on=["a"], resources={"gpu": 1}),
        shell("d", "true", depends_on=["c"]),
        resources={"gpu": 1},
    )
    with Drive(home, plan) as drive:
        drive.opened()
        seen = {one.pid for one in procs.tree_of(drive.pid)}
        assert listening(seen) == {"0100007F"}  # 127.0.0.1, and nobody listens elsewhere
        done = drive.done()
        steps = done["steps"]
        told = {one["id"]: one for one in (steps.values() if isinstance(steps, dict) else steps)}
        assert {name: one["status"] for name, one in told.items()} == {
            "a": "completed", "b": "completed", "c": "failed", "d": "cancelled"
        }  # fmt: skip
        assert told["a"]["tokens"] == 7
        assert told["a"]["message"] == "hi"
        assert told["a"]["usage"]["peak_memory_bytes"] > 0
        assert told["c"]["return_code"] == 3
        assert drive.log("a") == "out\nerr\n"
        assert (home.project / "b.txt").exists()
        # The process API's own threads stay; none of dask's does, nor of the engine.
        assert set(done["threads"]) <= {"MainThread", "safesh-loop", "safesh-callbacks", "safesh-endings"}
        assert not drive.members()


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="frozen", marks=full)],
)
def test_a_worker_lost_in_the_middle_of_a_step_has_it_run_again_elsewhere_and_never_twice(
    home: Home, how: signal.Signals
) -> None:
    with Drive(home, write_plan(home, alone())) as drive:
        drive.opened()
        pid, run_id = first_copy(home)
        wait_until(lambda: "copy 1\n" in drive.log("alone"))
        worker = ancestor(pid, "worker")
        assert procs.send(worker.pid, worker.start, how)
        done = drive.done(LOST + SLOW)
        if how == signal.SIGSTOP:
            assert not procs.alive(worker.pid, worker.start)  # the cluster was ended, frozen or not
        assert next(iter(done["steps"].values()))["status"] == "completed"
        never_two(home)
        assert drive.events("step_retry")[0]["lost"] is True
        assert "copy 1" in drive.log("alone")
        nobody_left(run_id, copies(home)[1][1])
        assert not drive.members()


def test_a_runner_that_is_killed_takes_its_own_cluster_along(home: Home) -> None:
    with Drive(home, write_plan(home, alone())) as drive:
        drive.opened()
        _, run_id = first_copy(home)
        (folder,) = {words[words.index("worker") + 2] for words in workers_of(drive)}
        drive.send(signal.SIGKILL)
        drive.wait()
        nobody_left(run_id)
        wait_until(lambda: not drive.members(), 15)
    assert os.path.isdir(folder)
    plan = write_plan(home, shell("next", "true"))
    with Drive(home, plan) as drive:
        drive.done()
    assert not os.path.exists(folder), "the next cluster clears away what the killed one left"


def workers_of(drive: Drive) -> list[list[str]]:
    """The command lines of its own cluster's workers."""
    found = [procs.argv(one.pid) for one in procs.tree_of(drive.pid)]
    return [words for words in found if "worker" in words]


# --- a cluster that is there --------------------------------------------------------------------


def test_output_and_reports_come_while_the_step_runs(home: Home) -> None:
    step = (
        'echo first; echo \'{"progress": 0.5}\' >> "$SAFESH_REPORT"; until test -e go; do sleep 0.05; done; echo last'
    )
    with cluster(home, "") as (address, _), Drive(home, write_plan(home, shell("live", step)), address) as drive:
        drive.opened()
        wait_until(lambda: drive.log("live") == "first\n", SLOW)
        report = drive.output / "reports" / "live.jsonl"
        wait_until(lambda: "0.5" in report.read_text(encoding="utf-8"))
        (home.project / "go").touch()
        drive.done()
        assert drive.log("live") == "first\nlast\n"


@full
def test_a_flood_arrives_whole_and_waits_at_its_source(home: Home) -> None:
    size = 64 << 20
    step = f"head -c {size} /dev/zero; until test -e go; do sleep 0.05; done"
    with cluster(home, "") as (address, workers), Drive(home, write_plan(home, shell("flood", step)), address) as drive:
        drive.opened()
        log = drive.output / "logs" / "flood.log"
        wait_until(lambda: log.exists() and log.stat().st_size == size, SLOW)
        for pid in (workers[0].pid, drive.pid, ancestor_host(workers[0])):
            assert peak_memory(pid) < 200 << 20
        (home.project / "go").touch()
        drive.done()
        assert log.stat().st_size == size


def ancestor_host(worker: Server) -> int:
    return next(one.pid for one in procs.tree_of(worker.pid) if "dask_host" in " ".join(procs.argv(one.pid)))


def peak_memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def test_resources_are_those_that_workers_were_started_with(home: Home) -> None:
    where = "ps -o args= -p $PPID >/dev/null; cat /proc/$PPID/environ >/dev/null; echo $PPID"
    plan = write_plan(
        home,
        shell("free", where),
        shell("card", where, resources={"gpu": 1}),
        shell("two", where, resources={"gpu": 2}, depends_on=["card"]),
        resources={"gpu": 2},
    )
    with cluster(home, "", "gpu=1 groq=2") as (address, _), Drive(home, plan, address) as drive:
        capacity = drive.opened()
        assert (capacity["gpu"], capacity["groq"], capacity["cpu"]) == (1, 2, 8)
        done = drive.done()
        two = done["steps"]["two"] if isinstance(done["steps"], dict) else done["steps"][2]
        assert two["status"] == "failed"
        assert "gpu=2" in two["error"]
        assert "w1 (tcp://" in two["error"]


@full
@pytest.mark.parametrize(
    ("how", "nanny"),
    [(signal.SIGKILL, False), (signal.SIGSTOP, False), (signal.SIGKILL, True)],
    ids=["killed", "frozen", "its nanny killed"],
)
def test_a_worker_of_others_lost_in_the_middle_never_runs_a_second_copy_even_when_it_comes_back(
    home: Home, how: signal.Signals, nanny: bool
) -> None:
    with ExitStack() as stack:
        address, workers = stack.enter_context(cluster(home, "", "", nanny=nanny))
        drive = stack.enter_context(Drive(home, write_plan(home, alone()), address))
        drive.opened()
        pid, run_id = first_copy(home)
        members = {one.pid: worker for worker in workers for one in procs.tree_of(worker.pid)}
        lost = members[pid]
        lost.send(how)
        # Before another copy may start, the first one has been ended by its machine alone.
        wait_until(lambda: not procs.marked("SAFESH_RUN_ID", run_id), LEASE + 5)
        assert len(copies(home)) == 1
        done = drive.done(LOST + SLOW)
        if how == signal.SIGSTOP:
            lost.send(signal.SIGCONT)  # what was on its way to it comes too late
        assert next(iter(done["steps"].values()))["status"] == "completed"
        never_two(home)
        nobody_left(run_id, copies(home)[1][1])


@full
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_when_the_process_beside_a_worker_is_lost_the_keepers_end_the_step_and_it_runs_again(
    home: Home, how: signal.Signals
) -> None:
    with cluster(home, "") as (address, workers), Drive(home, write_plan(home, alone()), address) as drive:
        drive.opened()
        _, run_id = first_copy(home)
        host = ancestor_host(workers[0])
        assert procs.send(host, procs.start_of(host), how)
        done = drive.done(LOST + SLOW)
        assert next(iter(done["steps"].values()))["status"] == "completed"
        never_two(home)
        nobody_left(run_id)


def test_a_killed_runner_leaves_no_step_beyond_the_lease_and_the_workers_stay(home: Home) -> None:
    with cluster(home, "") as (address, workers), Drive(home, write_plan(home, alone()), address) as drive:
        drive.opened()
        _, run_id = first_copy(home)
        killed_at = time.monotonic()
        drive.send(signal.SIGKILL)
        wait_until(lambda: not procs.marked("SAFESH_RUN_ID", run_id), LEASE + 3)
        assert time.monotonic() - killed_at < LEASE + 3
        assert workers[0].alive()
        wait_until(lambda: len(procs.tree_of(workers[0].pid)) == 1, LEASE + 10, "its host has ended too")


@full
def test_a_frozen_runner_loses_its_lease(home: Home) -> None:
    with cluster(home, "") as (address, _), Drive(home, write_plan(home, alone()), address) as drive:
        drive.opened()
        _, run_id = first_copy(home)
        drive.send(signal.SIGSTOP)
        wait_until(lambda: not procs.marked("SAFESH_RUN_ID", run_id), LEASE + 5)
        drive.send(signal.SIGCONT)
        done = drive.done(LOST + SLOW)
        assert next(iter(done["steps"].values()))["status"] == "completed"
        never_two(home)


@full
def test_a_scheduler_that_is_killed_ends_the_steps_and_the_plan_says_so(home: Home) -> None:
    with ExitStack() as stack:
        local = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        scheduler = stack.enter_context(Server("scheduler", *local))
        address = scheduler.address()
        start_worker(stack, address, "w", "--nthreads", "1")
        plan = write_plan(home, alone(), shell("waits", "true"))
        drive = stack.enter_context(Drive(home, plan, address))
        drive.opened()
        _, run_id = first_copy(home)
        scheduler.send(signal.SIGKILL)
        nobody_left(run_id)
        steps = drive.done(LOST + SLOW)["steps"]
        assert [one["status"] for one in steps.values()] == ["failed", "failed"]
        assert f"the scheduler at {address} does not answer any more" in steps["alone"]["error"]
        assert f"the scheduler at {address}" in steps["waits"]["error"]
        assert "distributed" not in drive.err  # what it logs would run through a live table
        never_two(home, 1)


# --- where a step may sit ---------------------------------------------------------------------


def worker(name: str, threads: int = 2, memory: int = 0, beat: float = 1.0, **resources: float) -> dict[str, Any]:
    return {
        "name": name, "nthreads": threads, "memory_limit": memory, "last_seen": beat, "resources": resources
    }  # fmt: skip


def step(**resources: float) -> StepSpec:
    return StepSpec(id="s", command=["true"], cwd="/", resources=resources)


def test_declared_resources_are_asked_of_dask_and_sizes_only_rule_out_what_is_too_small() -> None:
    known = Workers("tcp://s", local=False)
    assert known.place(step())[2] == "no worker is left at tcp://s"
    known.update({"a": worker("A", threads=1, memory=100), "b": worker("B", threads=8, groq=2)}, 0.0, 9.0)
    assert known.place(step()) == ({}, None, "")
    assert known.place(step(groq=1)) == ({"groq": 1}, None, "")
    assert known.place(step(other=1)) == ({}, None, "")  # a token of the plan's alone
    assert known.place(step(cpu=4)) == ({}, ["b"], "")
    assert known.place(step(memory=200)) == ({}, ["b"], "")  # who has no limit may be large enough
    asked, _, why = known.place(step(gpu=1, groq=3))
    assert not asked
    assert (
        why == "no worker has gpu=1 (none of them has any) and groq=3 (the most is 2, of B (b)); there are A (a), B (b)"
    )
    assert known.capacity() == {"groq": 2, "cpu": 9, "memory": 100}
    known.update({"a": worker("A")}, 1.0, 9.0)
    assert "no worker has groq=1" in known.place(step(groq=1))[2]  # not forgotten with the worker that had it
    assert Workers("tcp://s", local=True).place(step(gpu=1))[2]


@full
def test_a_worker_without_a_heartbeat_is_given_nothing_until_it_has_one() -> None:
    known = Workers("tcp://s", local=False)
    for now in (0.0, 10.0):
        known.update({"a": worker("A", beat=1.0), "b": worker("B", beat=now)}, now, 9.0)
    assert known.place(step()) == ({}, ["b"], "")
    known.update({"a": worker("A", beat=2.0), "b": worker("B", beat=11.0)}, 11.0, 9.0)
    assert known.place(step()) == ({}, None, "")


# --- what is refused --------------------------------------------------------------------------


def refusal(home: Home, address: str) -> str:
    with Drive(home, write_plan(home, shell("a", "true")), address) as drive:
        assert drive.wait(SLOW) == 1
        assert "Traceback" not in drive.err
        lines = [line for line in drive.err.splitlines() if not line.startswith(" ")]
        assert len(lines) == 1, drive.err
        return lines[0]


def test_a_scheduler_that_is_not_there_is_told_in_one_line_within_seconds(home: Home) -> None:
    began = time.monotonic()
    told = refusal(home, "tcp://127.0.0.1:9")
    assert told.startswith("ClusterError 69: tcp://127.0.0.1:9: no dask scheduler is to be reached there within 5 s")
    assert time.monotonic() - began < 15
    assert refusal(home, "127.0.0.1:9").startswith("ConfigError 78: --scheduler: '127.0.0.1:9' is no scheduler")


@full
def test_a_cluster_without_workers_and_one_of_another_version_are_refused_by_name(home: Home) -> None:
    with cluster(home) as (address, _), ExitStack() as stack:
        assert "has no worker" in refusal(home, address)
        start_worker(stack, address, "old", code="import safesh; safesh.__version__ = '0.0.1'")
        told = refusal(home, address)
        assert "worker old (tcp://127.0.0.1:" in told
        assert "has safesh 0.0.1" in told


@full
def test_a_working_directory_that_a_worker_lacks_is_told_plainly(home: Home) -> None:
    plan = write_plan(home, shell("a", "true", cwd=str(home.project / "not there")))
    with cluster(home, "") as (address, _), Drive(home, plan, address) as drive:
        done = drive.done()
        error = next(iter(done["steps"].values()))["error"]
        assert "not there does not exist on tcp://127.0.0.1:" in error
        assert "the same path on every worker (a shared folder)" in error


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own", [pytest.param(True, id="own cluster"), pytest.param(False, id="a scheduler", marks=full)]
)
def test_safe_sh_run_with_dask_completes_and_ctrl_c_ends_the_trees(home: Home, own: bool) -> None:
    with ExitStack() as stack:
        where: list[str] = []
        if not own:
            address, _ = stack.enter_context(cluster(home, ""))
            where = ["--scheduler", address]
        command = ["run", "plan.json", "--output", "out", "--engine", "dask", *where, "--progress", "plain"]
        write_plan(home, shell("a", "echo a"), shell("b", "echo b", depends_on=["a"]))
        with Spawn(*CLI, *command, cwd=home.project) as run:
            rc = run.wait(SLOW)
            result = Result(run.command, rc, run.out, run.err).check()
            assert "completed" in result.out.lower()
            wait_until(lambda: not run.members(), 15)
        write_plan(home, alone())
        with Spawn(*CLI, *command, cwd=home.project) as run:
            _, run_id = first_copy(home)
            os.killpg(run.pid, signal.SIGINT)  # as a terminal would: the whole group
            assert run.wait(SLOW) == 130
            assert not procs.marked("SAFESH_RUN_ID", run_id)
            wait_until(lambda: not run.members(), 15)


# --- two machines -----------------------------------------------------------------------------

NETWORKS = """
set -e
ip link set lo up
unshare --net sleep 1000 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add here type veth peer name there netns $other
ip addr add 10.213.7.1/24 dev here
ip link set here up
nsenter --net=/proc/$other/ns/net sh -c 'ip link set lo up; ip addr add 10.213.7.2/24 dev there; ip link set there up'
echo "ready $other"
read wait
"""


@pytest.fixture
def networks() -> Iterator[tuple[list[str], list[str], Spawn]]:
    """Prefixes that run a command in one of two network namespaces joined by a cable; and who holds them."""
    with Spawn("unshare", "--net", "sh", "-c", NETWORKS) as holder:
        try:
            other = holder.wait_line(r"^ready (\d+)", 10)[1]
        except AssertionError:
            pytest.skip("this machine has no network namespaces with veth")
        inside = [f"nsenter --net=/proc/{pid}/ns/net".split() for pid in (holder.pid, other)]
        yield inside[0], inside[1], holder


def test_across_two_network_namespaces_and_a_cable_that_is_cut(
    home: Home, networks: tuple[list[str], list[str], Spawn]
) -> None:
    here, there, _ = networks
    with ExitStack() as stack:
        listen = ("--host", "10.213.7.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        address = stack.enter_context(Server("scheduler", *listen, prefix=tuple(here))).address()
        far = stack.enter_context(
            Server("worker", address, "--no-nanny", "--name", "far", "--nthreads", "2", "--host", "10.213.7.2",
                   prefix=tuple(there))
        )  # fmt: skip
        far.registered()
        plan = write_plan(home, shell("hello", "cat /proc/net/fib_trie"), alone(depends_on=["hello"]))
        words = (*here, sys.executable, "-c", DRIVER, str(SUPERVISOR), plan, home.project / "out", address)
        drive = stack.enter_context(Spawn(*map(str, words), str(LEASE), "2", cwd=home.project))
        drive.wait_line("^open", SLOW)
        _, run_id = first_copy(home)
        log = home.project / "out" / "logs"
        assert "10.213.7.2" in (log / "hello.log").read_text(encoding="utf-8")
        wait_until(lambda: "copy 1" in (log / "alone.log").read_text(encoding="utf-8"))
        near = stack.enter_context(
            Server("worker", address, "--no-nanny", "--name", "near", "--nthreads", "2", "--host", "10.213.7.1",
                   prefix=tuple(here))
        )  # fmt: skip
        near.registered()
        cut = stack.enter_context(Spawn(*here, "ip", "link", "set", "here", "down"))
        assert cut.wait() == 0
        # The far machine, alone, ends its copy; only then may another one start.
        wait_until(lambda: not procs.marked("SAFESH_RUN_ID", run_id), LEASE + 5)
        assert len(copies(home)) == 1
        drive.wait_line("^done", LOST + SLOW)
        never_two(home)
        nobody_left(run_id, copies(home)[1][1])
