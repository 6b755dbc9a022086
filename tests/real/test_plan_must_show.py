"""What plans are measured by: the gain on real work, the price of a step, and the same result whatever is killed."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from helpers import packages
from helpers.campaign import FULL, rounds
from helpers.home import Home, Safe
from helpers.plans import Plans, kill, of_plan, outcome, overlaps, products, random_plan, sh
from helpers.procs import Spawn, alive, scan, wait_until


@pytest.fixture
def plans(home: Home, safe: Safe) -> Plans:
    return Plans(home, safe)


# 1: the gain ----------------------------------------------------------------------------------


def compiler() -> str:
    """A C compiler that works here, or "" for Python's own."""
    found = shutil.which("cc")
    if found and subprocess.run(
        [found, "-x", "c", "-", "-o", "/dev/null"], input=b"int main(void) { return 0; }", capture_output=True
    ).returncode:  # fmt: skip
        return ""
    return found or ""


def longest_chain(steps: list[dict[str, Any]], seconds: dict[str, float]) -> float:
    """Written apart from the scheduler's own."""
    ends: dict[str, float] = {}
    for step in steps:  # in an order in which dependencies come first
        ends[step["id"]] = seconds[step["id"]] + max((ends[one] for one in step["depends_on"]), default=0.0)
    return max(ends.values())


@pytest.mark.timeout(600)
def test_a_real_plan_of_37_steps_gains_what_its_critical_path_allows(
    plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve packages are written, built and tested, each with those it depends on; -j2 against -j1."""
    steps = packages.plan(12, seed=4, compiler=compiler(), python=sys.executable, files=rounds(1, 6))
    assert len(steps) >= 30
    elapsed: dict[int, float] = {}
    told = ""
    for jobs in (1, 2):
        for old in plans.folder.glob("p[0-9][0-9]"):
            shutil.rmtree(old)
        plans.write(*steps, id="packages")
        told = plans.run(f"-j{jobs}", deadline=300).check(0).out
        result = plans.output.result()
        assert result["totals"]["completed"] == len(steps)
        assert plans.output.log("all").split()[::2] == [f"p{number:02}" for number in range(12)]
        elapsed[jobs] = result["ended_at"] - result["started_at"]
    seconds = {name: step["seconds"] for name, step in result["steps"].items()}
    work, chain = sum(seconds.values()), longest_chain(steps, seconds)
    bound = min(2.0, work / chain)
    found = re.search(r"Gain: ([\d.]+) times as fast as one by one", told)
    assert found is not None, told
    gain = float(found.group(1))
    with capsys.disabled():
        print(
            f"\n  {len(steps)} steps: -j1 {elapsed[1]:.2f} s, -j2 {elapsed[2]:.2f} s "
            f"({elapsed[1] / elapsed[2]:.2f} x); "
            f"printed gain {gain:.2f} of at most {bound:.2f} ({100 * gain / bound:.0f} %); "
            f"critical path {chain:.2f} s of {work:.2f} s"
        )
    assert gain == pytest.approx(work / elapsed[2], abs=0.01), "what is printed is what was measured"
    assert gain <= bound + 0.01, "nothing beats the bound"
    least = re.search(r"Bound: no schedule needs less than .*; (\d+) % of that speed", told)
    assert least is not None, told
    assert int(least.group(1)) == pytest.approx(100 * max(chain, work / 2) / elapsed[2], abs=2)
    if FULL:
        assert gain >= 0.9 * bound
    # The steps' own marks: no dependency was still running when a step began.
    began = {event["step"]: event["at"] for event in plans.output.events("step_started")}
    ended = {event["step"]: event["at"] for event in plans.output.events("step_completed")}
    for step in steps:
        assert all(ended[one] <= began[step["id"]] for one in step["depends_on"])


# 2: the price of a step -----------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_true_step_costs_at_most_4_ms_and_ten_times_as_many_ten_times_as_much(
    plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = (1, rounds(100, 1000), rounds(400, 10_000))
    seconds: dict[int, float] = {}
    for count in counts:
        plans.write(*({"id": f"s{number}", "command": ["true"]} for number in range(count)), name=f"{count}.json")
        began = time.monotonic()
        plans.run("-j2", plan=f"{count}.json", progress="quiet", deadline=200).check(0)
        seconds[count] = time.monotonic() - began
        assert plans.output.result()["totals"]["completed"] == count
    each = {count: 1000 * (seconds[count] - seconds[1]) / (count - 1) for count in counts[1:]}
    told = ", ".join(f"{count} steps: {cost:.2f} ms a step" for count, cost in each.items())
    with capsys.disabled():
        print(f"\n  {told}; {each[counts[2]] / each[counts[1]]:.2f} x")
    assert all(cost > 0 for cost in each.values())
    if FULL:
        assert each[counts[1]] <= 4
        assert each[counts[2]] <= 1.5 * each[counts[1]]


# 3: the same result whatever is killed -----------------------------------------------------------


def strangers(known: set[tuple[int, int]]) -> list[str]:
    return [str(one) for one in scan().values() if (one.pid, one.start) not in known and not one.dead]


def disturb(plans: Plans, rng: random.Random, guard: Spawn, most: float) -> str:
    """Let it run for a while, then kill somebody; who that was, and "" when it had ended before."""
    whom = rng.choices(("runner", "guard", "both", "interrupt", "step"), (4, 4, 3, 1, 1))[0]
    limit = time.monotonic() + rng.uniform(0.0, most)
    try:
        wait_until(lambda: guard.returncode is not None, max(0.01, limit - time.monotonic()))
        return ""
    except AssertionError:
        pass
    below = [one for one in scan().values() if one.ppid == guard.pid and "__main__.py run" in one.command]
    runner = [(one.pid, one.start) for one in below]
    if whom == "interrupt":
        guard.send(rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
    elif whom == "step":
        kill(*((one.pid, one.start) for one in of_plan("dag")[:1]))
        return "step" + disturb(plans, rng, guard, most)
    elif whom == "runner" and runner:
        kill(*runner)
    elif whom == "both":
        both = [(guard.pid, guard.start), *runner]
        rng.shuffle(both)
        kill(*both)
    else:  # the runner is not there yet
        whom = "guard"
        kill((guard.pid, guard.start))
    guard.wait(30)
    if whom != "both":
        wait_until(lambda: not of_plan("dag"), 30, "the end of all steps")
        wait_until(lambda: not any(alive(*one) for one in runner), 30, "the end of the runner")
    return whom


@pytest.mark.pidns
@pytest.mark.timeout(240 if not FULL else 2400)
def test_a_random_graph_ends_in_the_same_result_whatever_fails_and_is_killed(
    plans: Plans, rng: random.Random, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps fail by their content and attempt; runner, guard, both or a step get SIGKILL, again and again, and the plan
    is resumed. Each step holds a lock and tells when another copy of it has it."""
    count, disturbances = rounds(150, 5000), rounds(8, 60)
    known = {(one.pid, one.start) for one in scan().values()}
    quiet = plans.folder / "undisturbed"
    steps = random_plan(rng, count, quiet)
    plans.write(*steps, id="dag", env={"W": str(quiet)})
    began = time.monotonic()
    plans.run("-j4", progress="quiet", deadline=600)
    alone = time.monotonic() - began
    expected, made = outcome(plans.output.steps()), products(quiet)
    assert not (quiet / "twice").exists()
    assert of_plan("dag") == []

    loud = plans.folder / "disturbed"
    for folder in ("locks", "made"):
        (loud / folder).mkdir(parents=True)
    plans.write(*steps, id="dag", env={"W": str(loud)})
    plans.output.path = plans.folder / "out2"
    done: list[str] = []
    runs = 0
    # Most of the kills fall into the work, some into starting and ending; together they let most of the work be done.
    most = 0.5 + 1.5 * alone / disturbances
    while True:
        runs += 1
        with plans.spawn("-j4", "--resume", progress="quiet") as guard:
            if len(done) < disturbances:
                whom = disturb(plans, rng, guard, most)
                done += [whom] if whom else []
            if guard.returncode is None or whom in ("", "step"):
                assert guard.wait(600) in (0, 1), f"seed {seed}: {guard.err}"
                assert "Traceback" not in guard.err, guard.err
                break
            assert "Traceback" not in guard.err, guard.err
            # What a killed pair has left is the next run's to end, not this block's.
            guard._whole = False
        assert runs < disturbances * 4
    whole = "".join(done)
    told = {whom: whole.count(whom) for whom in ("runner", "guard", "both", "interrupt", "step") if whom in whole}
    with capsys.disabled():
        print(f"\n  {count} steps, --seed={seed}: {alone:.1f} s undisturbed; {runs} runs, {told}")
    assert not (loud / "twice").exists(), f"seed {seed}: {(loud / 'twice').read_text()}"
    assert overlaps(plans.output.events()) == {}
    final = outcome(plans.output.steps())
    assert final == expected, f"seed {seed}: {[name for name in final if final[name] != expected[name]][:10]}"
    assert products(loud) == made, f"seed {seed}"
    wait_until(lambda: not strangers(known), 10, f"seed {seed}: nobody left: {strangers(known)}")


def test_the_graphs_of_one_seed_are_the_same(plans: Plans) -> None:
    one, two = (random_plan(random.Random(7), 50, plans.folder / name) for name in ("a", "b"))
    assert one == two
    assert {step["type"] for step in one} > {"good"}


def test_a_second_copy_of_a_step_would_be_told(plans: Plans) -> None:
    """The lock that the graph's steps take does tell: two steps that take the same one."""
    steps = random_plan(random.Random(1), 2, plans.folder)
    text = steps[0]["command"].replace('exec 9>"$W/locks/$SAFESH_STEP"', 'exec 9>"$W/locks/same"')
    holds = text.replace("\ncat", "\ntouch held; while test ! -e twice; do sleep 0.02; done\ncat", 1)
    waits = "while test ! -e held; do sleep 0.02; done\n" + text
    plans.write(sh("s00000", holds), sh("s00001", waits), env={"W": str(plans.folder)})
    plans.run("-j2").check(1)
    assert plans.output.steps()["s00001"]["return_code"] == 99
