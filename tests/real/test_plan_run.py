"""``safe.sh run``: options, order, retries, what is kept, resumed and told."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.home import ROOT, Home, Safe
from helpers.plans import FAST, Plans, of_plan, sh
from helpers.procs import alive, wait_until


@pytest.fixture
def plans(home: Home, safe: Safe) -> Plans:
    return Plans(home, safe)


def peak(folder: Path, names: list[str]) -> int:
    """Most at once, by what steps wrote themselves: ``+`` when they began, ``-`` when they ended."""
    most = now = 0
    for line in (folder / "live").read_text().split():
        now += 1 if line[0] == "+" else -1
        most = max(most, now)
    assert now == 0
    assert sorted(line[1:] for line in (folder / "live").read_text().split() if line[0] == "+") == sorted(names)
    return most


def live(name: str, *after: str, seconds: float = 0.15, **more: Any) -> dict[str, Any]:
    text = f"echo +{name} >>live; sleep {seconds}; echo -{name} >>live"
    return sh(name, text, *after, **more)


# --- how it ends ------------------------------------------------------------------------------


def test_all_completed_is_0_and_the_gain_is_told(plans: Plans) -> None:
    plans.write(sh("a", "echo hello"), sh("b", "echo there", "a"))
    done = plans.run("-j2").check(0)
    assert "2/2 completed" in done.out
    assert re.search(r"Gain: [\d.]+ times as fast as one by one", done.out)
    assert plans.output.statuses() == {"a": "completed", "b": "completed"}
    assert plans.output.log("a") == "hello\n"


def test_a_failed_step_is_1_and_the_summary_leads_with_it_and_its_last_lines(plans: Plans) -> None:
    plans.write(sh("ok", "true"), sh("bad", "echo the reason; exit 7"), sh("then", "true", "bad"))
    done = plans.run().check(1)
    summary = done.out[done.out.index("Root failure") :]
    assert summary.startswith("Root failure: bad")
    assert "the reason" in summary
    assert "7" in summary.splitlines()[1]
    assert plans.output.steps()["bad"]["return_code"] == 7
    assert plans.output.steps()["bad"]["last_lines"] == ["the reason"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"depends_on": ["nobody"]}, "steps[0].depends_on[0]"),
        ({"depends_on": ["a"]}, "steps[0].depends_on[0]"),
        ({"timeout": "soon"}, "steps[0].timeout"),
        ({"comand": "x"}, "steps[0].comand"),
        ({"resources": {"groq": 1}}, "steps[0].resources"),
    ],
)
def test_a_wrong_plan_is_78_and_names_the_place(plans: Plans, change: dict[str, Any], place: str) -> None:
    plans.write({**sh("a", "true"), **change})
    done = plans.run().check(78)
    assert place in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not plans.output.path.exists()


def test_a_missing_plan_is_told_with_its_name(plans: Plans) -> None:
    assert "nowhere.json" in plans.run(plan="nowhere.json").check(78).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail-fast", "--keep-going"], "--fail-fast --keep-going"),
        (["--engine", "steam"], "'steam' is no engine"),
        (["--scheduler", "tcp://x"], "--engine dask"),
        (["--progress", "loud"], "'loud' is no way"),
        (["-j", "-3"], "-3"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_command_line_is_2(plans: Plans, words: list[str], told: str) -> None:
    plans.write(sh("a", "true"))
    assert told in plans.run(*words).check(2).err
    assert not plans.output.path.exists()


def test_without_a_plan_it_is_2(plans: Plans) -> None:
    assert "name the plan" in plans.safe("run").check(2).err


def test_a_folder_in_use_is_75_and_names_the_holder(plans: Plans) -> None:
    plans.write(sh("a", "echo up >up; sleep 60"))
    with plans.spawn() as first:
        plans.wait_file("up")
        done = plans.run().check(75)
        assert f"pid {first.pid}" in done.err
        assert alive(first.pid, first.start)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(plans: Plans) -> None:
    plans.write(sh("a", "true"))
    (plans.folder / "file").write_text("")
    done = plans.safe("run", "plan.json", "--output", "file/out").check(73)
    assert len(done.err.strip().splitlines()) <= 2


# --- options ----------------------------------------------------------------------------------


def test_dry_run_shows_the_order_and_runs_nothing(plans: Plans) -> None:
    plans.write(sh("late", "touch ran", "early"), sh("early", "touch ran"))
    done = plans.run("--dry-run").check(0)
    assert done.out.index("early") < done.out.index("late")
    assert "after early" in done.out
    assert not (plans.folder / "ran").exists()
    assert not plans.output.path.exists()


def test_output_is_a_folder_named_output_unless_it_is_given(plans: Plans) -> None:
    plans.write(sh("a", "true"))
    plans.safe("run", "plan.json", "--progress", "quiet").check(0)
    assert (plans.folder / "output" / "result.json").exists()


def test_jobs_are_the_steps_at_once(plans: Plans) -> None:
    names = [f"n{number}" for number in range(6)]
    plans.write(*(live(name) for name in names))
    plans.run("-j3").check(0)
    assert peak(plans.folder, names) == 3
    (plans.folder / "live").unlink()
    plans.run("-j1").check(0)
    assert peak(plans.folder, names) == 1


def test_a_failure_cancels_what_depends_on_it_and_nothing_else(plans: Plans) -> None:
    plans.write(
        sh("bad", "exit 1"),
        sh("child", "true", "bad"),
        sh("grandchild", "true", "child"),
        sh("other", "sleep 0.3"),
        sh("after", "true", "other"),
    )
    done = plans.run("-j2", "--keep-going").check(1)
    assert plans.output.statuses() == {
        "bad": "failed", "child": "cancelled", "grandchild": "cancelled", "other": "completed", "after": "completed",
    }  # fmt: skip
    assert {plans.output.steps()[name]["reason"] for name in ("child", "grandchild")} == {"bad failed"}
    assert "grandchild cancelled because bad failed" in done.out


def test_fail_fast_ends_what_runs_and_starts_nothing_more(plans: Plans) -> None:
    plans.write(
        sh("slow", "echo $$ >slow; trap 'echo asked >asked; exit 0' TERM; sleep 60 & wait"),
        sh("bad", "while test ! -s slow; do sleep 0.05; done; exit 1"),
        sh("more", "touch more"),
        sh("below", "true", "slow"),
    )
    plans.run("-j2", "--fail-fast").check(1)
    assert plans.output.statuses() == {
        "slow": "cancelled", "bad": "failed", "more": "cancelled", "below": "cancelled",
    }, "status 0 of one that was asked to leave does not say that it is done"  # fmt: skip
    assert plans.output.steps()["slow"]["reason"] == "bad failed"
    assert not (plans.folder / "more").exists()
    assert (plans.folder / "asked").exists(), "asked before it was killed"


# --- order ------------------------------------------------------------------------------------


def test_a_provider_has_at_most_its_tokens_at_once_as_the_steps_see_it(plans: Plans) -> None:
    names = [f"n{number}" for number in range(8)]
    plans.write(*(live(name, provider="groq") for name in names), resources={"groq": 2})
    plans.run("-j8").check(0)
    assert peak(plans.folder, names) == 2


def test_named_resources_and_memory_bound_what_runs_together(plans: Plans) -> None:
    names = [f"n{number}" for number in range(5)]
    plans.write(*(live(name, resources={"memory": "400M"}) for name in names), resources={"memory": "1G"})
    plans.run("-j5").check(0)
    assert peak(plans.folder, names) == 2


def test_the_critical_path_goes_first_once_durations_are_known(plans: Plans) -> None:
    plans.write(
        *(sh(f"short{number}", "sleep 0.02") for number in range(4)),
        sh("head", "sleep 0.3"),
        sh("tail", "sleep 0.3", "head"),
    )
    plans.run("-j1").check(0)
    plans.run("-j1").check(0)
    assert plans.output.started()[:2] == ["head", "tail"]
    assert "critical path" in plans.run("--dry-run").check(0).out


def test_a_step_starts_when_its_own_dependencies_are_done_not_when_a_batch_is(plans: Plans) -> None:
    plans.write(
        sh("quick", "true"), sh("slow", "while test ! -e next; do sleep 0.02; done"), sh("n", "touch next", "quick")
    )
    plans.run("-j2", deadline=20).check(0)


# --- a step's environment ---------------------------------------------------------------------


def test_env_cwd_and_names_reach_the_step(plans: Plans) -> None:
    (plans.folder / "sub").mkdir()
    text = 'pwd; echo "$ONE $TWO $SAFESH_STEP $SAFESH_PLAN $SAFESH_ATTEMPT"; echo "$SAFESH_REPORT"; tty; wc -c'
    plans.write(
        sh("a", text, cwd="sub", env={"TWO": "own"}), id="demo", env={"ONE": "plan", "TWO": "plan"}
    )  # fmt: skip
    plans.run().check(0)
    lines = plans.output.log("a").splitlines()
    assert lines[0] == str((plans.folder / "sub").resolve())
    assert lines[1] == "plan own a demo 1"
    assert lines[2] == str(plans.output.path / "reports" / "a.jsonl")
    assert lines[3] == "not a tty"
    assert lines[4].strip() == "0", "standard input is empty"


def test_argument_lists_run_without_a_shell(plans: Plans) -> None:
    plans.write({"id": "a", "command": ["printf", "%s|", "$HOME", "a b", "*"]})
    plans.run().check(0)
    assert plans.output.log("a") == "$HOME|a b|*|"


def test_a_command_that_is_not_there_fails_its_step_and_says_so(plans: Plans) -> None:
    plans.write({"id": "a", "command": ["no-such-command-here"]}, sh("b", "true"))
    done = plans.run().check(1)
    assert "no-such-command-here" in plans.output.steps()["a"]["error"]
    assert plans.output.statuses()["b"] == "completed"
    assert "Traceback" not in done.out


# --- attempts ---------------------------------------------------------------------------------


def test_retries_with_growing_pauses_until_it_works(plans: Plans) -> None:
    backoff = {"initial": "100ms", "factor": 2, "jitter": 0}
    plans.write(sh("a", 'echo "try $SAFESH_ATTEMPT"; test "$SAFESH_ATTEMPT" = 3', retries=3, backoff=backoff))
    plans.run().check(0)
    assert [event["pause"] for event in plans.output.events("step_retry")] == [0.1, 0.2]
    began = [event["at"] for event in plans.output.events("step_started")]
    assert began[1] - began[0] >= 0.09
    assert began[2] - began[1] >= 0.19
    assert plans.output.steps()["a"]["attempt"] == 3
    assert len(plans.output.steps()["a"]["earlier"]) == 2
    assert [line for line in plans.output.log("a").splitlines() if line.startswith("try")] == [
        "try 1",
        "try 2",
        "try 3",
    ]


def test_retries_run_out(plans: Plans) -> None:
    plans.write(sh("a", "exit 5", retries=2, backoff=FAST), sh("b", "true", "a"))
    plans.run().check(1)
    assert plans.output.started() == ["a"] * 3
    assert plans.output.statuses() == {"a": "failed", "b": "cancelled"}


def test_a_waiting_retry_takes_no_slot(plans: Plans) -> None:
    slow = {"initial": "600ms", "factor": 1, "jitter": 0}
    plans.write(sh("a", 'test "$SAFESH_ATTEMPT" = 2', retries=1, backoff=slow), sh("b", "touch b"))
    plans.run("-j1").check(0)
    assert plans.output.started() == ["a", "b", "a"]


def test_a_timeout_ends_the_whole_tree_of_the_step_and_counts_as_an_attempt(plans: Plans) -> None:
    text = "setsid sleep 300 & (trap '' TERM; echo $! >child; sleep 300) & echo $$ >main; wait"
    plans.write(sh("a", text, timeout="300ms", retries=1, backoff=FAST), id="timed")
    plans.run(deadline=40).check(1)
    step = plans.output.steps()["a"]
    assert step["attempt"] == 2
    assert "300" in step["error"] or "0.3" in step["error"]
    assert of_plan("timed") == []


def test_limits_end_a_step_that_takes_too_much(plans: Plans) -> None:
    program = "x = b'x' * (200 << 20)\nimport time\ntime.sleep(60)"
    plans.write({"id": "a", "command": [sys.executable, "-c", program], "limits": {"memory": "60M"}})
    plans.run(deadline=40).check(1)
    assert plans.output.statuses() == {"a": "failed"}
    assert "memory" in plans.output.steps()["a"]["error"]


# --- resume -----------------------------------------------------------------------------------


def chain(plans: Plans, **changes: str) -> None:
    """make -> use -> end, and one apart from them."""
    plans.write(
        sh("make", changes.get("make", "cat in >made"), inputs=["in"], outputs=["made"]),
        sh("use", changes.get("use", "cat made >used"), "make", inputs=["made"], outputs=["used"]),
        sh("end", changes.get("end", "true"), "use"),
        sh("apart", "true", env={"A": changes.get("env", "1")}),
    )


def test_resume_does_only_what_is_not_done(plans: Plans) -> None:
    plans.write(sh("a", "true"), sh("b", "test -e ready", "a"), sh("c", "true", "b"))
    plans.run().check(1)
    (plans.folder / "ready").write_text("")
    done = plans.run("--resume").check(0)
    assert plans.output.statuses() == {"a": "skipped", "b": "completed", "c": "completed"}
    assert "1 skipped" in done.out
    plans.run("--resume").check(0)
    assert set(plans.output.statuses().values()) == {"skipped"}


@pytest.mark.parametrize(
    ("what", "again"),
    [
        ("nothing", []),
        ("input", ["make", "use", "end"]),
        ("output", ["use", "end"]),
        ("command", ["use", "end"]),
        ("env", ["apart"]),
        ("touch", []),
    ],
)
def test_what_changed_and_what_depends_on_it_runs_again_and_nothing_else(
    plans: Plans, what: str, again: list[str]
) -> None:
    (plans.folder / "in").write_text("one")
    chain(plans)
    plans.run("-j1").check(0)
    before = len(plans.output.started())
    if what in ("input", "touch"):
        (plans.folder / "in").write_text("two" if what == "input" else "one")
    elif what == "output":
        (plans.folder / "used").unlink()
    elif what in ("command", "env"):
        chain(plans, **{"use" if what == "command" else "env": "cat made made >used"})
    plans.run("-j1", "--resume").check(0)
    assert plans.output.started()[before:] == again


def test_a_dependency_done_again_in_a_run_that_stopped_then_counts_in_the_next(plans: Plans) -> None:
    """Three runs: all done; the first step again, then stopped; its dependent must not pass for done."""
    (plans.folder / "in").write_text("one")

    def write(gate: str) -> None:
        plans.write(
            sh("first", "cat in >first", inputs=["in"]),
            sh("gate", gate),
            sh("last", "cat first >last", "first", "gate"),
        )

    write("true")
    plans.run("-j1").check(0)
    (plans.folder / "in").write_text("two")
    write("exit 1")
    plans.run("-j1", "--resume").check(1)
    assert plans.output.statuses()["last"] == "cancelled"
    write("true")
    plans.run("-j1", "--resume").check(0)
    assert (plans.folder / "last").read_text() == "two"


def test_the_same_without_a_trace_of_the_dependent_in_between(plans: Plans) -> None:
    """As above, but the runner was killed before it said anything of the dependent."""
    (plans.folder / "in").write_text("one")
    plans.write(sh("first", "cat in >first; touch up", inputs=["in"]), sh("last", "cat first >last", "first"))
    plans.run("-j1").check(0)
    (plans.folder / "in").write_text("two")
    plans.run("-j1", "--resume").check(0)
    path = plans.output.path / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    cut = max(n for n, line in enumerate(lines) if '"step_completed"' in line and '"first"' in line)
    path.write_text("".join(lines[: cut + 1]))
    (plans.folder / "last").write_text("one")
    plans.run("-j1", "--resume").check(0)
    assert (plans.folder / "last").read_text() == "two"


def test_resume_of_another_plan_is_refused(plans: Plans) -> None:
    plans.write(sh("a", "true"), id="one")
    plans.run().check(0)
    plans.write(sh("a", "true"), id="two")
    assert "'one'" in plans.run("--resume").check(78).err
    plans.run().check(0)


def test_resume_in_a_new_folder_is_a_first_run(plans: Plans) -> None:
    plans.write(sh("a", "true"))
    plans.run("--resume").check(0)
    assert plans.output.statuses() == {"a": "completed"}


def test_a_broken_last_line_of_the_events_is_passed_over(plans: Plans) -> None:
    plans.write(sh("a", "true"), sh("b", "true", "a"))
    plans.run().check(0)
    path = plans.output.path / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if '"step_completed"' in line and '"b"' in line)
    path.write_text("".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
    plans.run("--resume").check(0)
    assert plans.output.statuses() == {"a": "skipped", "b": "completed"}
    assert [event["event"] for event in plans.output.events()][-1] == "plan_ended"


def test_an_input_that_cannot_be_read_fails_its_step_though_it_has_retries(plans: Plans) -> None:
    (plans.folder / "loop").symlink_to("loop")
    plans.write(sh("a", "true", inputs=["loop"], retries=3, backoff=FAST), sh("b", "true"))
    plans.run().check(1)
    assert plans.output.statuses() == {"a": "failed", "b": "completed"}
    assert "loop" in plans.output.steps()["a"]["error"]


# --- reports ----------------------------------------------------------------------------------


def test_reports_are_seen_while_the_step_runs(plans: Plans) -> None:
    line = json.dumps({"tokens": 1200, "cost": 0.25, "progress": 0.5, "message": "half way"})
    plans.write(sh("a", f"echo '{line}' >>\"$SAFESH_REPORT\"; while test ! -e go; do sleep 0.05; done"))
    with plans.spawn(progress="json") as running:
        told = json.loads(running.wait_line('"half way"').string)["step"]
        (plans.folder / "go").write_text("")
        assert (told["status"], told["tokens"], told["cost"], told["progress"]) == ("running", 1200, 0.25, 0.5)
        assert running.wait(20) == 0
    assert plans.output.result()["totals"]["tokens"] == 1200


def test_bad_report_lines_are_counted_and_shown_and_never_fatal(plans: Plans) -> None:
    lines = r"""'no json' '{"tokens": -3}' '{"message": "\ud800 half a pair"}' '{"tokens": 5}'"""
    plans.write(sh("a", f"printf '%s\\n' {lines} >>\"$SAFESH_REPORT\""))
    done = plans.run().check(0)
    step = plans.output.steps()["a"]
    assert step["bad_reports"] == 2
    assert step["tokens"] == 5
    assert "Bad report lines: 2" in done.out


def test_tokens_of_every_attempt_are_summed_once(plans: Plans) -> None:
    text = """echo '{"tokens": 100, "cost": 1}' >>"$SAFESH_REPORT"; test "$SAFESH_ATTEMPT" = 3"""
    plans.write(sh("a", text, retries=2, backoff=FAST))
    plans.run().check(0)
    assert plans.output.steps()["a"]["tokens"] == 300
    assert plans.output.result()["totals"]["cost"] == pytest.approx(3)


# --- what is kept -----------------------------------------------------------------------------


def test_result_json_is_the_whole_state_versioned(plans: Plans) -> None:
    plans.write(sh("a", "echo out", type="analysis", provider="p", description="why"), sh("b", "exit 2"), id="demo")
    plans.run().check(1)
    found = plans.output.result()
    assert found["v"] == 1
    assert found["plan_id"] == "demo"
    assert found["started_at"] <= found["ended_at"] <= found["saved_at"] + 1
    assert found["totals"]["steps"] == 2
    assert found["totals"]["completed"] == found["totals"]["failed"] == 1
    step = found["steps"]["a"]
    assert (step["type"], step["provider"], step["description"]) == ("analysis", "p", "why")
    assert step["usage"]["peak_memory_bytes"] > 0
    assert step["seconds"] > 0
    assert step["log"] == str(plans.output.path / "logs" / "a.log")
    assert list(found["steps"]) == ["a", "b"]


def test_events_tell_the_run_in_its_order(plans: Plans) -> None:
    plans.write(sh("a", "true"), sh("b", "exit 1", "a"), sh("c", "true", "b"), id="demo")
    plans.run("-j1").check(1)
    kinds = [(event["event"], event.get("step")) for event in plans.output.events() if event["event"] != "step_runs"]
    assert kinds == [
        ("plan_started", None), ("step_started", "a"), ("step_completed", "a"), ("step_started", "b"),
        ("step_failed", "b"), ("step_cancelled", "c"), ("plan_ended", None),
    ]  # fmt: skip
    assert {event["v"] for event in plans.output.events()} == {1}
    assert plans.output.events("step_completed")[0]["fingerprint"]


def test_the_timeline_is_a_chrome_trace_and_a_page_of_its_own(plans: Plans) -> None:
    plans.write(sh("a", "sleep 0.1"), sh("b", "true", "a"))
    plans.run().check(0)
    trace = json.loads((plans.output.path / "timeline.json").read_text())
    bars = {event["name"]: event for event in trace["traceEvents"] if event["ph"] == "X"}
    assert set(bars) == {"a", "b"}
    assert bars["a"]["dur"] >= 90_000
    assert bars["b"]["ts"] >= bars["a"]["ts"] + bars["a"]["dur"] - 1
    page = (plans.output.path / "timeline.html").read_text()
    assert "<html" in page
    assert "http://" not in page
    assert "<script" not in page


def test_the_output_is_private(plans: Plans) -> None:
    plans.write(sh("a", "echo secret"))
    plans.run().check(0)
    files = [plans.output.path, *plans.output.path.rglob("*")]
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in files if path.stat().st_mode & 0o077} == {}


# --- what is told -----------------------------------------------------------------------------


def test_hooks_are_told_of_the_failed_step_and_of_the_end(plans: Plans) -> None:
    hook = {"command": ["sh", "-c", "cat >>letters; echo >>letters"]}
    plans.write(sh("a", "echo last words; exit 1"), sh("b", "true", "a"), id="demo", notify=hook)
    done = plans.run().check(1)
    letters = [json.loads(line) for line in (plans.folder / "letters").read_text().splitlines() if line.strip()]
    by_event = {letter["event"]: letter for letter in letters}
    assert set(by_event) == {"step_failed", "plan_ended"}, done.err
    assert by_event["step_failed"]["step"] == "a"
    assert by_event["step_failed"]["lines"] == ["last words"]
    assert by_event["plan_ended"]["plan"] == "demo"


def test_a_hook_that_fails_or_hangs_is_told_in_the_events_and_is_no_failure_of_the_plan(plans: Plans) -> None:
    hooks = [
        {"command": ["sh", "-c", "exit 3"], "retries": 0},
        {"command": ["sh", "-c", "sleep 300"], "retries": 0, "timeout": "500ms"},
        {"command": ["no-such-command-here"], "retries": 0},
    ]
    plans.write(sh("a", "true"), id="demo", notify=[{**hook, "on": ["plan_ended"]} for hook in hooks])
    done = plans.run().check(0)
    failed = {event["hook"] for event in plans.output.events("hook_failed")}
    assert failed == {"notify[0].command", "notify[1].command", "notify[2].command"}, done.err
    assert of_plan("demo") == []


def test_json_progress_is_one_object_a_line_and_nothing_else(plans: Plans) -> None:
    plans.write(sh("a", "echo noise; echo noise >&2"), sh("b", "exit 1"))
    done = plans.run(progress="json").check(1)
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [one["event"] for one in told][-1] == "plan_summary"
    assert {one["v"] for one in told} == {1}
    assert told[-1]["root_failure"]["id"] == "b"
    assert done.err == ""


@pytest.mark.parametrize("progress", ["auto", "plain", "quiet"])
def test_no_escapes_where_there_is_no_terminal(plans: Plans, progress: str) -> None:
    plans.write(sh("a", "printf '\\033[31mred\\033[0m\\n'; exit 1"), sh("b", "true"))
    done = plans.run(progress=progress).check(1)
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert "red" in done.out + done.err


def test_quiet_says_nothing_of_success(plans: Plans) -> None:
    plans.write(sh("a", "echo x"))
    done = plans.run(progress="quiet").check(0)
    assert done.out + done.err == ""


def test_a_reader_that_goes_away_does_not_stop_the_plan(plans: Plans) -> None:
    plans.write(*(sh(f"n{number}", "sleep 0.05") for number in range(8)))
    with plans.safe.spawn("run", "plan.json", "--output", str(plans.output.path), "-j1", whole=True) as running:
        running.wait_line("n0")
        running.streams[0].close()
        wait_until(lambda: running.returncode is not None, 20)
    assert set(plans.output.statuses().values()) == {"completed"}


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_toml_and_yaml_plans_run_as_json_ones_do(plans: Plans, suffix: str) -> None:
    text = {
        "toml": '[[steps]]\nid = "a"\ncommand = "echo hi"\n[[steps]]\nid = "b"\ncommand = "true"\ndepends_on = ["a"]\n',
        "yaml": "steps:\n  - id: a\n    command: echo hi\n  - id: b\n    command: 'true'\n    depends_on: [a]\n",
    }[suffix]
    if suffix == "yaml":
        pytest.importorskip("yaml")
    path = plans.folder / f"plan.{suffix}"
    path.write_text(text)
    path.chmod(0o644)
    plans.run(plan=path.name).check(0)
    assert plans.output.log("a") == "hi\n"


def test_the_example_of_the_manual_runs(plans: Plans) -> None:
    for name in ("plan.json", "step.py"):
        shutil.copy(ROOT / "examples" / name, plans.folder / name)
    done = plans.run("-j3").check(0)
    assert "8/8 completed" in done.out
    assert plans.output.result()["totals"]["tokens"] == 9600
    assert plans.output.steps()["test"]["attempt"] == 2
    assert float(re.findall(r"Gain: ([\d.]+)", done.out)[0]) > 1


# --- room for it ------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_is_refused_when_asked_and_nothing_runs(plans: Plans) -> None:
    plans.write(sh("a", "echo ran >ran", resources={"memory": "800T"}), resources={"memory": "900T"})
    refused = plans.run("--if-fits").check(75)
    assert "does not fit now" in refused.err
    assert "memory" in refused.err
    assert not list(plans.folder.rglob("ran"))
    plans.run().check(0)
