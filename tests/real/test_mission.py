"""Missions run: contained, timed, measured, told of; and nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import commands, procs
from helpers.home import SUPERVISOR, Home, Safe
from safesh.errors import AlreadyRunning
from safesh.metrics.admission import Thresholds
from safesh.metrics.history import History
from safesh.metrics.jsonlog import ResourceLog
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.sampler import TreeSampler
from safesh.mission import store
from safesh.mission.errors import CodeError, MissionRefused
from safesh.mission.model import Mission
from safesh.mission.runner import TaskRunner
from safesh.process.errors import CommandFailed, CommandTimeout, LimitExceeded
from safesh.process.secure_env import SecureEnv

NO_ROOM = Thresholds(cpu=1000.0, memory=0.001, disk=1000.0)
ROOM = Thresholds(cpu=1000.0, memory=1000.0, disk=1000.0)


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


@pytest.fixture
def runner(home: Home) -> Iterator[TaskRunner]:
    with TaskRunner("lab-3", log=str(home.path / "log.jsonl"), thresholds=False, interval=0.1) as one:
        yield one


def lines(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.path / "log.jsonl").read_text().splitlines()]


def nothing_stays() -> None:
    assert os.listdir(store.folder("runs")) == []


# --- what a result tells ----------------------------------------------------------------------


def test_a_mission_runs_and_its_result_tells_all_of_it(runner: TaskRunner) -> None:
    code = "import sys\nprint('out', *sys.argv[1:])\nprint('err', file=sys.stderr)\nx = sum(range(10**6))"
    result = runner.execute_mission(Mission("fit", code, args=["a", "b"]), "today")
    assert result.success, result
    assert (result.mission_id, result.session_id, result.device_id) == ("fit", "today", "lab-3")
    assert (result.stdout, result.stderr, result.return_code) == ("out a b\n", "err\n", 0)
    assert result.error is None
    assert result.reason == ""
    assert result.execution_time is not None
    assert 0 < result.execution_time < 20
    assert result.usage.cpu_seconds is not None
    assert result.resources_initial is not None
    assert result.resources_initial["memory_percent"] > 0
    assert result.resources_final is not None
    assert result.run_id
    assert result.environment is not None
    assert result.environment.python == sys.executable
    json.dumps(result.to_dict())
    nothing_stays()


def test_a_failure_is_typed_and_its_last_words_are_the_reason(runner: TaskRunner) -> None:
    result = runner.execute_mission(Mission("fit", "print('so far')\n1 / 0"), "s")
    assert not result.success
    assert isinstance(result.error, CommandFailed)
    assert (result.return_code, result.stdout) == (1, "so far\n")
    assert result.reason == "fit: exited with code 1: ZeroDivisionError: division by zero"
    assert "1 / 0" in result.stderr  # the traceback has the code's own lines
    with pytest.raises(CommandFailed):
        result.check()


def test_code_that_is_no_python_is_a_result_and_never_a_traceback(runner: TaskRunner) -> None:
    result = runner.execute_mission(Mission("fit", "def f(:\n    pass"), "s")
    assert isinstance(result.error, CodeError)
    assert "line 1" in result.reason
    assert result.return_code is None


def test_a_mission_sees_neither_our_folder_nor_our_pythonpath(
    runner: TaskRunner, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.project / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.setenv("PYTHONPATH", str(home.project))
    code = "import json, os, sys\nprint(json.dumps([os.environ.get('PYTHONPATH'), sys.stdout.encoding]))"
    result = runner.execute_mission(Mission("fit", code, env={**os.environ, "LC_ALL": "C"}), "s")
    assert result.success, result
    assert json.loads(result.stdout)[1] == "utf-8"
    assert json.loads(runner.execute_mission(Mission("fit", code), "s").stdout)[0] is None


def test_a_mission_that_reads_gets_the_end_of_file(runner: TaskRunner) -> None:
    result = runner.execute_mission(Mission("fit", "import sys\nprint(repr(sys.stdin.read()))", timeout=20), "s")
    assert result.stdout == "''\n"


def test_children_of_a_mission_may_import_it_again(runner: TaskRunner) -> None:
    code = (
        "import multiprocessing\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(double, [1, 2]))\n"
    )
    result = runner.execute_mission(Mission("fit", code, timeout=60), "s")
    assert result.stdout == "[2, 4]\n", result


# --- its end ----------------------------------------------------------------------------------


def test_the_timeout_ends_the_whole_tree_and_the_output_so_far_is_there(runner: TaskRunner, home: Home) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(child.pid)\n"
        "time.sleep(60)\n"
    )
    result = runner.execute_mission(Mission("fit", code, timeout=1.5), "s")
    assert isinstance(result.error, CommandTimeout)
    assert result.timed_out
    assert procs.look(int(result.stdout)) is None
    nothing_stays()


def test_what_a_mission_leaves_behind_is_ended_with_it(runner: TaskRunner) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True,\n"
        "                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid)\n"
    )
    result = runner.execute_mission(Mission("fit", code), "s")
    assert result.success
    assert procs.look(int(result.stdout)) is None
    assert any("left behind" in one for one in result.notes)


def test_a_limit_ends_it_and_is_named(runner: TaskRunner) -> None:
    result = runner.execute_mission(
        Mission("fit", "import time\ntime.sleep(60)", limits={"max_runtime": 0.5, "interval": 0.1}), "s"
    )
    assert isinstance(result.error, LimitExceeded)
    assert result.error.name == "max_runtime"


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from safesh import Mission, TaskRunner
code = "import subprocess, sys, time, os\\n" \\
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\\n" \\
    "open('pids', 'w').write(f'{os.getpid()} {child.pid} ')\\n" \\
    "open('ready', 'w').close()\\ntime.sleep(60)\\n"
TaskRunner("d", thresholds=False).execute_mission(Mission("fit", code), "s")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_nothing_survives_its_caller(home: Home, number: int) -> None:
    with procs.spawn(sys.executable, "-c", CALLER, str(SUPERVISOR)) as caller:
        procs.wait_until(lambda: (home.project / "ready").exists(), 20)
        pids = [int(word) for word in (home.project / "pids").read_text().split()]
        started = [(pid, procs.start_of(pid)) for pid in pids]
        caller.send(number)
        caller.wait()
        procs.wait_until(lambda: not any(procs.alive(*one) for one in started), 10)
        procs.wait_until(lambda: not caller.members(), 10)  # its keeper is the last to go
    # What the killed one left in the state folder goes with the next mission.
    TaskRunner("d", thresholds=False, log=False).execute_mission(Mission("next", "pass"), "s")
    nothing_stays()


def test_a_cancelled_wait_ends_the_mission_first(home: Home, runner: TaskRunner) -> None:
    code = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nos.rename('pid', 'ready')\ntime.sleep(60)"

    async def main() -> None:
        task = asyncio.ensure_future(runner.aexecute_mission(Mission("fit", code), "s"))
        while not (home.project / "ready").exists():
            assert not task.done(), task.result()
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert procs.look(int((home.project / "ready").read_text())) is None

    asyncio.run(asyncio.wait_for(main(), 40))
    nothing_stays()


def test_many_missions_at_once_from_one_event_loop(runner: TaskRunner) -> None:
    async def main() -> list[Any]:
        many = [runner.aexecute_mission(Mission(f"m{n}", f"print({n})"), "s") for n in range(8)]
        return await asyncio.gather(*many)

    found = asyncio.run(asyncio.wait_for(main(), 60))
    assert [one.stdout for one in found] == [f"{n}\n" for n in range(8)]


# --- what is written down ---------------------------------------------------------------------


def test_the_log_has_the_system_before_and_after_and_the_tree_between(runner: TaskRunner, home: Home) -> None:
    result = runner.execute_mission(Mission("fit", "import time\ntime.sleep(0.6)"), "today")
    found = lines(home)
    messages = [one["message"] for one in found]
    assert messages[0] == "resources_initial"
    assert messages[-1] == "resources_final"
    assert messages.count("process_resources") >= 2
    for one in found:
        assert (one["mission_id"], one["device_id"], one["session_id"]) == ("fit", "lab-3", "today")
        assert one["run_id"] == result.run_id
    assert found[0]["memory_percent"] > 0
    assert found[1]["processes"] == 1
    assert found[-1]["success"] is True
    assert found[-1]["usage"]["cpu_seconds"] == result.usage.cpu_seconds


def test_the_history_is_told_of_runs_and_foretells_from_them(home: Home) -> None:
    path = home.path / "history.db"
    with TaskRunner("d", log=False, thresholds=ROOM, history=path) as runner:
        for _ in range(3):
            assert runner.execute_mission(Mission("fit", "x = bytearray(30_000_000)", mission_type="fits"), "s").success
        _may, why = runner.should_execute_mission(Mission("fit", "pass"))
    assert "p95 of 3 past runs of fit" in why
    with History(str(path)) as history:
        assert len(history.peaks(mission_type="fits")) == 3


def test_a_failing_sampler_snapshot_log_and_history_fail_no_mission(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: object, **_more: object) -> Any:
        raise RuntimeError("broken on purpose")

    for kind, name in (
        (TreeSampler, "sample"),
        (ResourceMonitor, "get_resource_snapshot"),
        (ResourceLog, "write"),
        (History, "add_run"),
        (History, "peaks"),
    ):
        monkeypatch.setattr(kind, name, fail)
    with TaskRunner("d", thresholds=ROOM, interval=0.1, history=home.path / "history.db") as runner:
        result = runner.execute_mission(Mission("fit", "import time\ntime.sleep(0.5)\nprint('done')"), "s")
    assert result.success, result
    assert result.stdout == "done\n"
    assert result.resources_initial is None
    assert result.admission.startswith("not judged")
    kinds = {one.partition(":")[0] for one in result.notes}
    assert {"sampler", "snapshot", "log", "history"} <= kinds


def test_a_sampler_that_cannot_be_made_fails_no_mission(runner: TaskRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: object, **_more: object) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(TreeSampler, "__init__", fail)
    result = runner.execute_mission(Mission("fit", "print('done')"), "s")
    assert result.success, result
    assert any("broken on purpose" in one for one in result.notes)


@pytest.mark.parametrize("place", ["folder", "symlink"])
def test_a_log_that_cannot_be_opened_fails_no_mission(home: Home, place: str) -> None:
    path = home.path / "log"
    if place == "folder":
        path.mkdir()
    else:
        path.symlink_to(home.path / "elsewhere")
    with TaskRunner("d", log=path, thresholds=False) as runner:
        result = runner.execute_mission(Mission("fit", "print(1)"), "s")
    assert result.success
    assert any(one.startswith("log:") for one in result.notes)


def test_secrets_are_in_nothing_that_is_told(home: Home, runner: TaskRunner) -> None:
    env = SecureEnv(values={"TOKEN": "swordfish-77"}, secrets=["TOKEN"])
    code = "import os, sys\nt = os.environ['TOKEN']\nprint(t, len(t))\nraise ValueError(t)"
    result = runner.execute_mission(Mission("fit", code, env=env), "s")
    assert result.stdout == "*** 12\n"
    assert "***" in result.reason
    told = json.dumps(result.to_dict()) + repr(result) + str(result.error) + (home.path / "log.jsonl").read_text()
    assert "swordfish" not in told


# --- admission --------------------------------------------------------------------------------


def test_a_full_machine_refuses_and_the_reason_is_in_the_result(home: Home) -> None:
    with TaskRunner("d", log=False, thresholds=NO_ROOM) as runner:
        may, why = runner.should_execute_mission(Mission("fit", "open('ran', 'w')"))
        result = runner.execute_mission(Mission("fit", "open('ran', 'w')"), "s")
    assert not may
    assert "memory is at" in why
    assert isinstance(result.error, MissionRefused)
    assert result.error.exit_code == 75
    assert "memory is at" in result.reason
    assert not (home.project / "ran").exists()


def test_a_mission_waits_for_room_and_then_runs(home: Home) -> None:
    with TaskRunner("d", log=False, thresholds=NO_ROOM, queue=30) as runner:
        results: list[Any] = []
        work = threading.Thread(target=lambda: results.append(runner.execute_mission(Mission("fit", "pass"), "s")))
        work.start()
        try:
            work.join(0.8)
            assert work.is_alive()
        finally:
            runner.thresholds = ROOM
            work.join(30)
    assert results[0].success, results
    assert results[0].admission


def test_a_mission_that_waited_in_vain_says_how_long(home: Home) -> None:
    with TaskRunner("d", log=False, thresholds=NO_ROOM, queue=0.5) as runner:
        began = time.monotonic()
        result = runner.execute_mission(Mission("fit", "pass"), "s")
    assert isinstance(result.error, MissionRefused)
    assert "waited" in result.reason
    assert 0.5 <= time.monotonic() - began < 10


# --- kept alive -------------------------------------------------------------------------------


def test_a_mission_kept_alive_is_an_instance_of_the_command_line(runner: TaskRunner, home: Home, safe: Safe) -> None:
    code = "import os, time\nprint('up', os.environ['COLOUR'], os.environ.get('HOME'))\ntime.sleep(60)"
    mission = Mission("watch", code, keep_alive=True, env={"COLOUR": "green", "PATH": os.environ["PATH"]})
    try:
        result = runner.execute_mission(mission, "s")
        assert result.success, result
        assert result.return_code is None
        assert result.instance is not None
        assert result.instance["stop"] == "safe.sh stop watch"
        assert "running" in safe("status", "watch").check(0).out
        procs.wait_until(lambda: "up green None" in safe("logs", "watch").check().out, 10)
        again = runner.execute_mission(mission, "s")
        assert isinstance(again.error, AlreadyRunning)
        assert safe("status", "watch").check(0)
        assert lines(home)[0]["message"] == "resources_initial"
    finally:
        stopped = safe("stop", "watch", "--force").check(0)
    assert "nobody is left" in stopped.out
    assert procs.look(result.instance["pid"]) is None
    # Its place is free again, and only the code of the last one stays.
    try:
        assert runner.execute_mission(mission, "s").success
        assert len(os.listdir(store.folder("kept", "watch"))) == 1
    finally:
        safe("stop", "watch", "--force", "--now").check(0)


def test_a_mission_kept_alive_may_be_given_a_time(runner: TaskRunner, safe: Safe) -> None:
    mission = Mission("watch", "import time\ntime.sleep(60)", keep_alive=True, timeout=1)
    try:
        assert runner.execute_mission(mission, "s").success
        procs.wait_until(lambda: safe("status", "watch").rc == 3, 20)
    finally:
        safe("stop", "watch", "--force", "--now")


def test_a_mission_kept_alive_inherits_nothing_but_its_environment(
    runner: TaskRunner, home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_FOR_IT", "swordfish")
    env = SecureEnv(allow=["PATH"])
    code = "import os, time\nprint('told', dict(os.environ))\ntime.sleep(60)"
    mission = Mission("watch", code, keep_alive=True, env=env)
    try:
        result = runner.execute_mission(mission, "s")
        assert result.success, result
        procs.wait_until(lambda: "told" in safe("logs", "watch").check().out, 10)
        assert "swordfish" not in safe("logs", "watch").out
    finally:
        safe("stop", "watch", "--force", "--now")


# --- the command line -------------------------------------------------------------------------


def write(home: Home, name: str, text: str) -> Path:
    path = home.project / name
    path.write_text(text)
    return path


def test_the_command_streams_and_exits_as_the_mission_does(home: Home, safe: Safe) -> None:
    write(home, "fit.py", "import sys\nprint(sys.argv[1:], sys.stdin.read())\nprint('e', file=sys.stderr)\nsys.exit(7)")
    result = safe("mission", "fit.py", "--anyway", "--", "-x", "y", input="typed").check(7)
    assert result.out == "['-x', 'y'] typed\n"
    assert result.err == "e\n"


def test_output_is_shown_as_it_comes(home: Home, safe: Safe) -> None:
    write(home, "fit.py", "import time\nprint('now')\ntime.sleep(60)")
    with safe.spawn("mission", "fit.py", "--anyway", whole=True) as child:
        child.close_stdin()
        child.wait_line("now", 15)
        child.send(signal.SIGTERM)
        assert child.wait() == 143
    nothing_stays()


def test_a_reader_that_leaves_ends_the_mission(home: Home, safe: Safe) -> None:
    write(home, "fit.py", "import time\nwhile True:\n    print('more' * 100)\n    time.sleep(0.01)\n")
    reading, writing = os.pipe()
    try:
        with safe.spawn("mission", "fit.py", "--anyway", stdout=writing, whole=True) as child:
            os.close(writing)
            child.close_stdin()
            assert os.read(reading, 4)
            os.close(reading)
            reading = -1
            assert child.wait(20) == 141
    finally:
        if reading >= 0:
            os.close(reading)


def test_the_result_as_json_is_all_that_is_printed(home: Home, safe: Safe) -> None:
    write(home, "fit.py", "print('hi')\nraise SystemExit(3)")
    result = safe("mission", "fit.py", "--anyway", "--json", "--id", "other").check(3)
    data = result.json()
    assert data["v"] == 1
    assert (data["mission_id"], data["stdout"], data["return_code"]) == ("other", "hi\n", 3)
    assert result.err == ""


def test_problems_are_told_in_a_line_with_their_exit_status(home: Home, safe: Safe) -> None:
    write(home, "bad.py", "x = (\n")
    assert "line 1: SyntaxError" in safe("mission", "bad.py", "--anyway").check(1).err
    assert "name the file" in safe("mission").check(2).err
    assert "cannot be read" in safe("mission", "none.py").check(2).err
    write(home, "slow.py", "import time\ntime.sleep(60)")
    assert "did not end within 0.5 s" in safe("mission", "slow.py", "--anyway", "--timeout", "500ms").check(124).err
    write(home, "dead.py", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert "SIGKILL" in safe("mission", "dead.py", "--anyway").check(137).err
    assert "one of them" in safe("mission", "slow.py", "--anyway", "--queue", "1s").check(2).err


def test_no_room_is_75_with_the_reason(home: Home, safe: Safe) -> None:
    write(home, "fit.py", "open('ran', 'w')")
    # A file system of which the threshold leaves nothing is not to be had here: the runner is asked directly.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from safesh.metrics import admission; "
        "admission.Thresholds.__init__.__defaults__ = (1000.0, 0.001, 1000.0); "
        "from safesh.cli import main; sys.exit(main.main(['mission', 'fit.py']))"
    )
    with procs.spawn(sys.executable, "-c", code, str(SUPERVISOR)) as child:
        child.close_stdin()
        assert child.wait(20) == 75
        assert "memory is at" in child.err
        assert "--queue" in child.err
    assert not (home.project / "ran").exists()


def test_the_command_leaves_a_mission_running_and_stop_ends_it(home: Home, safe: Safe) -> None:
    write(home, "watch.py", "import time\nprint('up')\ntime.sleep(60)")
    try:
        result = safe("mission", "watch.py", "--anyway", "--keep-alive").check(0)
        assert "safe.sh stop watch" in result.out
        assert "already running" in safe("mission", "watch.py", "--anyway", "--keep-alive").check(75).err
    finally:
        safe("stop", "watch", "--force").check(0)
