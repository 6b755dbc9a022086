"""``safe.sh run`` when something is ended: steps, the runner, its guard, the terminal, the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from helpers.home import CLI, SUPERVISOR, Home, Safe
from helpers.plans import FAST, Output, Plans, kill, of_plan, runner_of, sh
from helpers.procs import Spawn, alive, start_of, wait_until

STUBBORN = "trap '' TERM INT HUP; echo $$ >{name}; while :; do sleep 1; done"
POLITE = "trap 'sleep 0.3; echo cleaned >cleaned; exit 0' TERM; echo $$ >{name}; sleep 100 & wait"


@pytest.fixture
def plans(home: Home, safe: Safe) -> Plans:
    return Plans(home, safe)


def nobody(plan: str, deadline: float = 15) -> None:
    wait_until(
        lambda: not of_plan(plan), deadline, f"the end of all steps of {plan}: {[str(one) for one in of_plan(plan)]}"
    )


def pid_in(plans: Plans, name: str) -> tuple[int, int]:
    pid = int(plans.wait_file(name))
    return pid, start_of(pid)


# --- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_a_signal_ends_what_runs_whole_keeps_the_state_and_resume_goes_on(plans: Plans, number: signal.Signals) -> None:
    text = "test -e go || { setsid sleep 300 & " + POLITE.format(name="up") + "; }"
    plans.write(sh("a", "true"), sh("b", text, "a"), sh("c", "true", "b"), id="demo")
    with plans.spawn("-j2") as running:
        plans.wait_file("up")
        running.send(number)
        assert running.wait(20) == 130
        assert of_plan("demo") == []
        assert "Traceback" not in running.err
    assert (plans.folder / "cleaned").exists(), "asked, and given the time to answer"
    assert plans.output.statuses() == {"a": "completed", "b": "cancelled", "c": "cancelled"}
    assert plans.output.steps()["c"]["reason"] == "interrupted"
    (plans.folder / "go").write_text("")
    plans.run("--resume").check(0)
    assert plans.output.statuses() == {"a": "skipped", "b": "completed", "c": "completed"}


def test_a_second_signal_kills_at_once(plans: Plans) -> None:
    plans.write(sh("a", STUBBORN.format(name="up")), id="demo")
    with plans.spawn() as running:
        plans.wait_file("up")
        running.send(signal.SIGINT)
        wait_until(lambda: plans.output.events("interrupted"), 10)
        began = time.monotonic()
        running.send(signal.SIGINT)
        assert running.wait(20) == 130
        assert time.monotonic() - began < 4, "less than the grace of 5 s"
        assert of_plan("demo") == []


def test_one_signal_kills_those_that_do_not_listen_after_the_grace(plans: Plans) -> None:
    plans.write(sh("a", STUBBORN.format(name="up")), id="demo")
    with plans.spawn() as running:
        plans.wait_file("up")
        running.send(signal.SIGINT)
        assert running.wait(30) == 130
        assert of_plan("demo") == []
    assert plans.output.statuses() == {"a": "cancelled"}


def test_interrupted_while_it_starts_many_leaves_none_and_tells_all(plans: Plans) -> None:
    plans.write(*(sh(f"n{number}", "echo up >>up; sleep 100") for number in range(120)), id="demo")
    with plans.spawn("-j60", progress="quiet") as running:
        plans.wait_file("up")
        running.send(signal.SIGINT)
        assert running.wait(30) == 130
        assert of_plan("demo") == []
    assert set(plans.output.statuses().values()) == {"cancelled"}
    ended = [event["step"] for event in plans.output.events("step_cancelled")]
    assert sorted(ended) == sorted(f"n{number}" for number in range(120))


def test_interrupted_in_the_pause_before_a_retry(plans: Plans) -> None:
    plans.write(sh("a", "test -e go", retries=1, backoff={"initial": "60s"}), sh("b", "true", "a"), id="demo")
    with plans.spawn() as running:
        plans.wait_event("step_retry", "a")
        running.send(signal.SIGINT)
        assert running.wait(10) == 130
    assert plans.output.statuses() == {"a": "cancelled", "b": "cancelled"}
    (plans.folder / "go").write_text("")
    plans.run("--resume").check(0)


def test_a_signal_at_any_moment_of_the_start_is_obeyed_without_a_traceback(plans: Plans) -> None:
    plans.write(sh("a", "sleep 100"), sh("b", "true"), id="demo")
    for number in range(12):
        with plans.spawn("-j2") as running:
            try:
                wait_until(lambda: False, 0.04 * number)
            except AssertionError:
                pass
            running.send(signal.SIGINT)
            assert running.wait(15) in (130, -signal.SIGINT)
            running.wait_output(5)
            assert running.err == ""
            assert of_plan("demo") == []


def test_an_interrupt_after_fail_fast_is_an_interrupt(plans: Plans) -> None:
    plans.write(
        sh("a", STUBBORN.format(name="up")), sh("b", "while test ! -s up; do sleep 0.05; done; exit 1"), id="demo"
    )
    with plans.spawn("-j2", "--fail-fast") as running:
        plans.wait_event("step_failed", "b")
        running.send(signal.SIGINT)
        wait_until(lambda: plans.output.events("interrupted"), 10)
        running.send(signal.SIGINT)
        assert running.wait(10) == 130
        assert of_plan("demo") == []


def test_a_step_that_fails_while_it_is_ended_is_not_tried_again(plans: Plans) -> None:
    text = "trap 'exit 9' TERM; echo up >up; sleep 100 & wait"
    plans.write(sh("a", text, retries=5, backoff=FAST), id="demo")
    with plans.spawn() as running:
        plans.wait_file("up")
        running.send(signal.SIGTERM)
        assert running.wait(15) == 130
    assert plans.output.started() == ["a"]


# --- at a terminal ----------------------------------------------------------------------------


@pytest.fixture
def terminal(plans: Plans) -> Iterator[pexpect.spawn]:
    """A shell at a terminal, in the project; what it leaves is ended."""
    env = {**os.environ, "PS1": "$ ", "TERM": "xterm", "LANG": "C.UTF-8"}
    child = pexpect.spawn("bash", ["--norc", "-i"], env=env, encoding="utf-8", timeout=30, dimensions=(30, 100))
    try:
        child.expect_exact("$ ")
        yield child
    finally:
        child.close(force=True)
        for one in of_plan("demo"):
            kill((one.pid, one.start))


def typed(plans: Plans) -> str:
    return " ".join([*CLI, "run", "plan.json", "--output", str(plans.output.path)])


def test_ctrl_c_at_a_terminal_asks_once_and_gives_the_terminal_back(plans: Plans, terminal: pexpect.spawn) -> None:
    plans.write(sh("a", POLITE.format(name="up")), id="demo")
    terminal.sendline(typed(plans))
    plans.wait_file("up")
    terminal.sendcontrol("c")
    terminal.expect_exact("$ ")
    terminal.sendline("echo status $?; stty -a | grep -o '[-]*echo ' | head -1")
    terminal.expect(r"status (\d+)\s")
    assert terminal.match is not None
    assert terminal.match.group(1) == "130"
    assert plans.wait_file("cleaned"), "the keys reach guard and runner: that is still one request"
    assert [event["signal"] for event in plans.output.events("interrupted")] == ["SIGINT"]
    assert of_plan("demo") == []


def test_ctrl_c_twice_at_a_terminal_kills(plans: Plans, terminal: pexpect.spawn) -> None:
    plans.write(sh("a", STUBBORN.format(name="up")), id="demo")
    terminal.sendline(typed(plans))
    plans.wait_file("up")
    terminal.sendcontrol("c")
    wait_until(lambda: plans.output.events("interrupted"), 10)
    began = time.monotonic()
    terminal.sendcontrol("c")
    terminal.expect_exact("$ ")
    assert time.monotonic() - began < 4
    assert of_plan("demo") == []


def test_a_closed_terminal_ends_the_plan(plans: Plans, terminal: pexpect.spawn) -> None:
    plans.write(sh("a", POLITE.format(name="up")), sh("b", "true", "a"), id="demo")
    terminal.sendline(typed(plans))
    plans.wait_file("up")
    terminal.close(force=False)
    nobody("demo")
    wait_until(lambda: plans.output.statuses() == {"a": "cancelled", "b": "cancelled"}, 20)


def test_the_table_is_drawn_at_a_terminal_and_the_summary_follows(plans: Plans, terminal: pexpect.spawn) -> None:
    plans.write(sh("alpha", "sleep 0.3"), sh("beta", "exit 3", "alpha"), id="demo")
    terminal.sendline(typed(plans))
    terminal.expect("Running")
    terminal.expect("Root failure: beta")
    terminal.expect_exact("$ ")


# --- killed -----------------------------------------------------------------------------------


def gated(plans: Plans) -> None:
    """Three long steps until ``go`` is there, one with a daemon and one that hears nothing; then one more."""
    plans.write(
        sh("done", "true"),
        sh("a", "test -e go || { (setsid sleep 300 &) ; echo $$ >a; sleep 300; }", "done"),
        sh("b", "test -e go || { " + STUBBORN.format(name="b") + "; }", "done"),
        sh("c", "test -e go || { echo $$ >c; sleep 300; }", "done"),
        sh("last", "true", "a", "b", "c"),
        id="demo",
    )


def up(plans: Plans) -> None:
    for name in ("a", "b", "c"):
        plans.wait_file(name)
        plans.wait_event("step_runs", name)


def finish(plans: Plans, *more: str) -> None:
    """The next run gets the folder as soon as nobody holds it, and completes."""
    (plans.folder / "go").write_text("")
    limit = time.monotonic() + 20
    while (done := plans.run("-j3", *more)).rc == 75 and time.monotonic() < limit:
        wait_until(lambda: True)
    done.check(0)
    assert set(plans.output.statuses().values()) <= {"completed", "skipped"}
    nobody("demo", 1)


@pytest.mark.parametrize("whom", ["runner", "guard"])
def test_sigkill_of_the_runner_or_its_guard_leaves_no_step_and_resume_completes(plans: Plans, whom: str) -> None:
    gated(plans)
    with plans.spawn("-j3") as guard:
        up(plans)
        runner = runner_of(guard)
        kill((runner.pid, runner.start) if whom == "runner" else (guard.pid, guard.start))
        guard.wait(20)
        nobody("demo")
        wait_until(lambda: not alive(runner.pid, runner.start), 15)
    finish(plans, "--resume")
    assert plans.output.statuses()["done"] == "skipped"


@pytest.mark.parametrize("how", [("--resume",), ()], ids=["resume", "afresh"])
def test_after_sigkill_of_both_the_next_run_ends_what_is_left_first(plans: Plans, how: tuple[str, ...]) -> None:
    gated(plans)
    with plans.spawn("-j3") as guard:
        up(plans)
        runner = runner_of(guard)
        kill((guard.pid, guard.start), (runner.pid, runner.start))
        guard.wait(10)
        finish(plans, *how)
    assert plans.output.statuses()["done"] == ("skipped" if how else "completed")


def test_what_daemonised_or_cleared_its_environment_is_gone_at_the_plans_end(plans: Plans) -> None:
    text = """
        (setsid sleep 300 &)
        (setsid env -i /bin/sh -c 'echo $$ >bare; exec sleep 300' &)
        while test ! -s bare; do sleep 0.02; done
    """
    plans.write(sh("a", text), sh("b", "sleep 0.1", "a"), id="demo")
    with plans.spawn() as running:
        pid, start = pid_in(plans, "bare")
        running.adopt(pid, start)
        assert running.wait(20) == 0
        assert not alive(pid, start)
        assert of_plan("demo") == []


def test_steps_do_not_hold_the_folders_lock_or_anything_else_of_ours(plans: Plans) -> None:
    plans.write({"id": "a", "command": ["ls", "-l", "/proc/self/fd"]})
    plans.run().check(0)
    names = [line.split("-> ", 1) for line in plans.output.log("a").splitlines() if "-> " in line]
    assert sorted(int(left.split()[-1]) for left, _ in names) == [0, 1, 2, 3], "3 is the folder that ls itself reads"


# --- the disk ---------------------------------------------------------------------------------


def test_a_full_disk_ends_the_plan_whole_with_one_line(plans: Plans) -> None:
    """The output folder is a small file system of its own; a step's log fills it."""
    plans.output.path.mkdir()
    plans.write(
        sh("long", "echo $$ >up; exec sleep 300 >/dev/null 2>&1"),
        sh(
            "fill",
            "while test ! -s up; do sleep 0.05; done; head -c 9000000 /dev/zero; exit 1",
            retries=20,
            backoff=FAST,
        ),
        id="demo",
    )
    mount = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=200k none "$0" && exec "$@"',
        str(plans.output.path),
    ]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace here")
    command = [*mount, *CLI, *plans.arguments("-j2")]
    with Spawn(*command, cwd=plans.folder) as running:
        assert running.wait(40) == 73
        running.wait_output(5)
        assert "No space left on device" in running.err
        assert len(running.err.strip().splitlines()) <= 2, running.err
        assert "Traceback" not in running.err + running.out
        assert of_plan("demo") == []


def test_events_that_cannot_be_written_are_told_before_anything_starts(plans: Plans) -> None:
    plans.write(sh("a", "touch ran"))
    (plans.output.path / "events.jsonl.1" / "x").mkdir(parents=True)
    (plans.output.path / "events.jsonl").write_text("")
    done = plans.run().check(73)
    assert "events.jsonl" in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not (plans.folder / "ran").exists()


# --- from a program ---------------------------------------------------------------------------

HEAD = """
import asyncio, json, os, sys
from safesh.plan.orchestrator import Orchestrator
"""


def program(plans: Plans, text: str) -> Spawn:
    path = plans.folder / "program.py"
    path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    return Spawn(sys.executable, str(path), cwd=plans.folder, extra_env={"PYTHONPATH": str(SUPERVISOR)})


def ended_well(running: Spawn, deadline: float = 40) -> str:
    code = running.wait(deadline)
    running.wait_output(5)
    assert code == 0, running.err
    assert "Traceback" not in running.err
    return running.out


def test_execute_plan_is_awaitable_and_gives_every_steps_state(plans: Plans) -> None:
    plans.write(sh("a", "echo hi"), sh("b", "exit 4", "a"), sh("c", "true", "b"))
    text = """
        async def main():
            ticks = 0
            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.01)
            other = asyncio.create_task(tick())
            state = await Orchestrator(jobs=2).execute_plan(plan_path="plan.json", output_dir="out")
            other.cancel()
            print(json.dumps({name: step.status for name, step in state.steps.items()}), ticks > 1)
        asyncio.run(main())
    """
    with program(plans, text) as running:
        assert ended_well(running) == '{"a": "completed", "b": "failed", "c": "cancelled"} True\n'
    assert plans.output.statuses() == {"a": "completed", "b": "failed", "c": "cancelled"}


def test_a_cancelled_wait_ends_the_steps_and_keeps_the_state(plans: Plans) -> None:
    plans.write(sh("a", POLITE.format(name="up")), sh("b", "true", "a"), id="demo")
    text = """
        async def main():
            work = asyncio.create_task(Orchestrator().execute_plan(plan_path="plan.json", output_dir="out"))
            while not os.path.exists("up"):
                await asyncio.sleep(0.02)
            work.cancel()
            try:
                await work
            except asyncio.CancelledError:
                print("cancelled", json.load(open("out/result.json"))["steps"]["a"]["status"])
        asyncio.run(main())
    """
    with program(plans, text) as running:
        assert ended_well(running) == "cancelled cancelled\n"
        assert of_plan("demo") == []
    assert (plans.folder / "cleaned").exists()


def test_two_plans_at_once_in_one_program_keep_apart_and_a_shared_folder_is_refused(plans: Plans) -> None:
    meet = "touch {me}; while test ! -e {other}; do sleep 0.02; done"
    plans.write(sh("a", meet.format(me="one", other="two")), sh("b", "true", "a"), name="one.json", id="p1")
    plans.write(sh("a", meet.format(me="two", other="one")), sh("b", "exit 1", "a"), name="two.json", id="p2")
    text = """
        from safesh.errors import AlreadyRunning
        async def main():
            one, two, three = await asyncio.gather(
                Orchestrator().execute_plan("one.json", "out1"),
                Orchestrator().execute_plan("two.json", "out2"),
                Orchestrator().execute_plan("two.json", "out2"),
                return_exceptions=True,
            )
            refused = [one for one in (two, three) if isinstance(one, AlreadyRunning)]
            two = [one for one in (two, three) if one not in refused][0]
            print(len(refused), *(step.status for state in (one, two) for step in state.steps.values()))
            again = await Orchestrator(resume=True).execute_plan("one.json", "out1")
            print(*(step.status for step in again.steps.values()))
        asyncio.run(main())
    """
    with program(plans, text) as running:
        assert ended_well(running) == "1 completed completed completed failed\nskipped skipped\n"


def test_a_refused_resume_lets_the_folder_go(plans: Plans) -> None:
    plans.write(sh("a", "true"), name="one.json", id="p1")
    plans.write(sh("a", "true"), name="two.json", id="p2")
    text = """
        from safesh.errors import ConfigError
        async def main():
            await Orchestrator().execute_plan("one.json", "out")
            held = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                try:
                    await Orchestrator(resume=True).execute_plan("two.json", "out")
                except ConfigError as error:
                    kept = error  # its traceback keeps what the failed run held
            print(len(os.listdir("/proc/self/fd")) - held)
            print((await Orchestrator(resume=True).execute_plan("one.json", "out")).steps["a"].status)
        asyncio.run(main())
    """
    with program(plans, text) as running:
        assert ended_well(running) == "0\nskipped\n"


def test_a_program_that_is_killed_leaves_no_step(plans: Plans) -> None:
    plans.write(sh("a", "(setsid sleep 300 &); echo $$ >up; sleep 300"), id="demo")
    text = 'asyncio.run(Orchestrator().execute_plan("plan.json", "out"))'
    with program(plans, text) as running:
        plans.wait_file("up")
        running.send(signal.SIGKILL)
        running.wait(10)
        nobody("demo")


def test_ctrl_c_in_a_program_ends_its_plan(plans: Plans) -> None:
    plans.write(sh("a", POLITE.format(name="up")), id="demo")
    text = """
        try:
            asyncio.run(Orchestrator().execute_plan("plan.json", "out"))
        except KeyboardInterrupt:
            print("interrupted")
    """
    with program(plans, text) as running:
        plans.wait_file("up")
        running.send(signal.SIGINT)
        assert ended_well(running) == "interrupted\n"
        assert of_plan("demo") == []
    assert Output(plans.folder / "out").statuses() == {"a": "cancelled"}


def test_reader_that_takes_nothing_does_not_hold_up_the_steps(plans: Plans) -> None:
    """Its lines wait; steps go on, and Ctrl-C ends it."""
    names = [f"n{number}" for number in range(40)]
    plans.write(*(sh(name, f"echo {'x' * 50} >>all") for name in names), id="demo")
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        try:
            while True:
                os.write(write, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(write, True)
        with plans.spawn("-j2", stdout=write) as running:
            wait_until(lambda: len(plans.output.events("step_completed")) == len(names), 30)
            wait_until(lambda: plans.output.events("plan_ended"), 30)
            os.read(read, 1 << 16)
            assert running.wait(20) == 0
    finally:
        os.close(read)
        os.close(write)


def test_the_lock_is_held_until_both_are_gone(plans: Plans) -> None:
    """The guard is killed; while the runner still ends its steps nobody else gets the folder."""
    text = "trap 'while test ! -e let; do sleep 0.05; done; exit 0' TERM; echo up >up; sleep 100 & wait"
    plans.write(sh("a", text), id="demo")
    with plans.spawn() as guard:
        plans.wait_file("up")
        runner = runner_of(guard)
        kill((guard.pid, guard.start))
        guard.wait(10)
        wait_until(lambda: plans.output.events("interrupted"), 10)
        plans.run("--resume").check(75)
        (plans.folder / "let").write_text("")
        wait_until(lambda: not alive(runner.pid, runner.start), 15)
        nobody("demo")


def test_nothing_is_left_beside_the_named_files(plans: Plans) -> None:
    plans.write(sh("a", "true"))
    plans.run().check(0)
    plans.run().check(0)
    names = {str(Path(path).relative_to(plans.output.path)) for path in plans.output.path.rglob("*")}
    assert names == {
        ".lock", "events.jsonl", "events.jsonl.1", "logs", "logs/a.log", "reports", "result.json", "timeline.html",
        "timeline.json",
    }  # fmt: skip
