"""Processes of a neighbour that look like ours: run ids, marks, command lines, groups, and pids that were ours.

The neighbour's have another user; some of these are played with processes of our own user too, which the kernel would
let us signal: there only who they are (pid and start time) tells them apart.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.neighbours_stage import TARGET, THEIRS, Decoy, Stage, Unfit, processes, wait_for

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_SPARE = 40  # pids that may be taken by others while we aim at one


def _all_verbs(stage: Stage) -> None:
    """Everything of ours that signals somebody."""
    stage.safe("status", "t")
    stage.safe("restart", "t", "--force")
    stage.safe("stop", "t", "--force", "--now")
    stage.safe("kill-all", "--force", "--now")
    stage.safe("doctor")


def _crash(stage: Stage, record: dict[str, Any], *roles: str) -> None:
    """End these processes of ours by force, as they must not end: SIGKILL, the keeper stopped first."""
    if "keeper" in roles:
        os.kill(record["keeper"]["pid"], signal.SIGSTOP)
    for role in roles:
        with suppress(ProcessLookupError):
            os.kill(record[role]["pid"], signal.SIGKILL)
    for role in roles:
        wait_for(lambda role=role: not _lives(record[role]))  # type: ignore[misc]


def _lives(identity: dict[str, Any]) -> bool:
    try:
        with open(f"/proc/{identity['pid']}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(words[19]) == identity["start"] and words[0] not in (b"Z", b"X")


# ---- likeness


def run_ids_that_are_ours(stage: Stage, backends: Sequence[str] = ("", "subreaper")) -> None:
    """Their processes carry our run id and our instance's mark; none of our verbs signals them."""
    for backend in backends:
        stage.environment = {"SAFESH_BACKEND": backend} if backend else {}
        stage.start().check(0)
        run_id = stage.record()["run_id"]
        mark = str(stage.home / "default" / "t")
        stage.decoy(env={"SAFESH_RUN_ID": run_id, "SAFESH_INSTANCE": mark, "SAFESH_HOME": str(stage.home)})
        stage.decoy(*TARGET, env={"SAFESH_RUN_ID": run_id, "SAFESH_INSTANCE": mark})
        record = stage.record()
        stage.check()
        stage.safe("stop", "t", "--force").check(0)
        stage.check()
        stage.start().check(0)
        record = stage.record()
        stage.decoy(env={"SAFESH_RUN_ID": record["run_id"], "SAFESH_INSTANCE": mark})
        _crash(stage, record, "supervisor", "keeper")  # the target is a stray now; so would theirs be, were they ours
        shown = stage.safe("status", "t").check(2)
        for decoy in stage.decoys:
            assert f" {decoy.pid} " not in shown.out, f"theirs is shown as ours: {shown.out}"
        stage.safe("start", "t", "--replace", "--force", "--detach", "--", *TARGET)
        stage.check()
        _all_verbs(stage)
        stage.check()
        assert not stage.instances()


def patterns_that_match(stage: Stage) -> None:
    """``match`` fits their process word for word: it is not a stray of ours, neither shown nor ended."""
    stage.configure('[targets.t]\ncommand = ["sleep", "987654"]\nmatch = "sleep 987654"\nstop = { grace = "1s" }\n')
    decoy = stage.decoy(*TARGET)
    words = next(words for pid, words in processes() if pid == decoy.pid)
    assert words[-2:] == [*TARGET], words
    shown = stage.safe("status", "t")
    assert str(decoy.pid) not in shown.out, shown
    stage.safe("start", "t", "--detach").check(0)  # no stray stands in its way
    _all_verbs(stage)
    stage.safe("start", "t", "--replace", "--force", "--detach")
    _all_verbs(stage)
    stage.check()
    assert not stage.instances()


def plans_that_were_ours(stage: Stage) -> None:
    """A plan's journal tells of steps that never ended; who has their numbers or ids now is not ended by --resume."""
    folder = stage.own / "out"
    folder.mkdir()
    plan = stage.own / "plan.json"
    plan.write_text(json.dumps({"id": "p", "steps": [{"id": "a", "command": ["true"]}]}))
    own = stage.decoy(uid=stage.uid)  # of our own user: the kernel would let us
    theirs = stage.decoy(env={"SAFESH_RUN_ID": "20261121T140309-9f86d081"})
    boot = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    lines = []
    for number, (pid, start) in enumerate(
        ((own.pid, 1), (theirs.pid, _start_of(theirs.pid)), (1, _start_of(1)), (0, 0))
    ):
        event = {"v": 1, "at": 1.5, "event": "step_started", "step": f"s{number}", "pid": pid, "start": start}
        lines.append(json.dumps({**event, "boot": boot, "run_id": "20261121T140309-9f86d081"}))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    for path in (plan, folder, folder / "events.jsonl"):
        os.chown(path, stage.uid, stage.uid)
    done = stage.safe("run", str(plan), "--output", str(folder), "--resume")
    if "msgspec" in done.err:
        raise Unfit("the Python that another user can run has no msgspec")
    stage.check()
    assert done.code in (0, 1, 73, 75), done


def _start_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def groups_that_are_called_ours(stage: Stage) -> None:
    """Control groups of theirs beside ours, with our prefix and our run id: nobody in them is killed or frozen."""
    if stage.uid != 0:
        raise Unfit("another user of ours has no control group to build in")
    root = _own_group()
    parent = root / f"sfn-{os.getpid()}"
    parent.mkdir()
    groups = [parent]
    decoys = [stage.decoy() for _ in range(2)]
    try:
        for name in ("safesh-20261121T140309-9f86d081", "safesh-x"):
            groups.append(parent / name)
            groups[-1].mkdir()
            os.chown(groups[-1], THEIRS, THEIRS)
        (groups[1] / "cgroup.procs").write_text(str(decoys[0].pid))
        (groups[2] / "cgroup.procs").write_text(str(decoys[1].pid))
        os.chown(parent, THEIRS, THEIRS)
        before = (root / "cgroup.procs").read_text()
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        try:
            stage.start().check(0)
        finally:
            (root / "cgroup.procs").write_text(str(os.getpid()))
        assert before
        record = stage.record()
        if record["cgroup"]:
            assert Path(record["cgroup"]).parent == parent

            def move_in() -> None:
                for name in ("cgroup.procs", "cgroup.kill", "cgroup.freeze"):
                    try:
                        (Path(record["cgroup"]) / name).write_text("1" if "procs" not in name else str(os.getpid()))
                    except PermissionError:
                        continue
                    raise AssertionError(f"they may write {name} of our group")

            stage.as_them(move_in)
        stage.check()
        _crash(stage, record, "supervisor", "keeper")
        stage.safe("status", "t").check(2)
        _all_verbs(stage)
        stage.check()
        assert not stage.instances()
    finally:
        stage.close()
        for path in reversed(groups):
            wait_for(lambda path=path: _removed(path))  # type: ignore[misc]


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = line[3:]
            for mounted in Path("/proc/self/mountinfo").read_text().splitlines():
                left, _, right = mounted.partition(" - ")
                if right.startswith("cgroup2 "):
                    path = Path(left.split()[4] + own)
                    if os.access(path / "cgroup.procs", os.W_OK):
                        return path
    raise Unfit("no control group to build in")


def _removed(path: Path) -> bool:
    for below in sorted(path.glob("*/"), reverse=True):
        with suppress(OSError):
            below.rmdir()
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# ---- pids that were ours


def _become(stage: Stage, pid: int, uid: int) -> Decoy | None:
    """A decoy with just this pid, None where somebody else got it; ns_last_pid makes the kernel count on from there."""
    try:
        _LAST_PID.write_text(str(pid - 1))
    except OSError as error:
        raise Unfit(f"pids cannot be chosen here: {error}") from None
    decoy = Decoy(uid)
    if decoy.pid == pid:
        stage.decoys.append(decoy)
        return decoy
    decoy.close()
    return None


def _take(stage: Stage, pid: int, uid: int) -> bool:
    return any(_become(stage, pid, uid) is not None for _ in range(_SPARE))


def pids_that_were_ours(stage: Stage) -> None:
    """Supervisor, keeper and target die; others get their very pids at once: nobody of them ever hears from us."""
    for uid in (stage.uid, THEIRS):
        for what in (("supervisor", "keeper", "main"), ("supervisor",), ("keeper",)):
            stage.start().check(0)
            record = stage.record()
            _crash(stage, record, *what)
            taken = [role for role in what if _take(stage, record[role]["pid"], uid)]
            assert taken, "not one pid could be taken again"
            _all_verbs(stage)
            stage.check()
            stage.start().check(0, 75)
            stage.safe("stop", "t", "--force", "--now").check(0)
            stage.check()
            for decoy in stage.decoys:
                decoy.close()
            stage.decoys.clear()
            stage.end()
            assert not stage.instances()


def pids_in_old_pid_files(stage: Stage) -> None:
    """The pid file, the lock file and the record name pids that others have by now."""
    stage.start().check(0)
    record = stage.record()
    files = {name: stage.file(name).read_bytes() for name in ("t.pid", "t.lock", "t.json")}
    stage.safe("stop", "t", "--force").check(0)
    for name, data in files.items():
        stage.file(name).write_bytes(data)
    for role in ("supervisor", "keeper", "main"):
        _take(stage, record[role]["pid"], stage.uid)
    shown = stage.safe("status", "t").check(1, 3)
    assert "runs" not in shown.out
    _all_verbs(stage)
    stage.check()
    stage.start().check(0)
    stage.safe("stop", "t", "--force").check(0)
    stage.check()


_API = """
import sys
sys.path.insert(0, {code!r})
from safesh import execute_command, ExecutionMode, interrupt_process, send_signal_to_process, end_all
from safesh import get_process_status, terminate_managed_process
from safesh.errors import SafeshError
result = execute_command(["sleep", "0.1"], mode=ExecutionMode.BACKGROUND)
result.wait(10)
print(result.pid, flush=True)
sys.stdin.readline()
def term(pid): send_signal_to_process(pid, "SIGTERM")
def end(pid): end_all([pid], now=True)
def managed(pid): terminate_managed_process(pid, force=True)
for call in (interrupt_process, term, end, get_process_status, managed):
    try:
        call(result.pid)
    except (SafeshError, ValueError) as error:
        print(type(error).__name__, file=sys.stderr)
print("done", flush=True)
"""


def pids_of_the_python_api(stage: Stage) -> None:
    """A command of the Python API has ended and its pid has passed on: what is for commands of ours reaches nobody."""
    code = _API.format(code=str(stage.base / "code"))
    child = subprocess.Popen(
        [stage.python, "-I", "-c", code], user=stage.uid, group=stage.uid, extra_groups=[], cwd="/", text=True,
        env={"HOME": str(stage.own), "SAFESH_HOME": str(stage.home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        first = child.stdout.readline()
        assert first.strip().isdigit(), child.stderr.read()
        assert _take(stage, int(first), THEIRS), "the pid could not be taken again"
        out, err = child.communicate("\n", timeout=60)
        assert "done" in out, err
        assert "Traceback" not in err, err
    finally:
        child.kill()
        child.wait()
    stage.check()


SCENARIOS: tuple[Callable[[Stage], None], ...] = (
    run_ids_that_are_ours, patterns_that_match, plans_that_were_ours, groups_that_are_called_ours, pids_that_were_ours,
    pids_in_old_pid_files, pids_of_the_python_api,
)  # fmt: skip
