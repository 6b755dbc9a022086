"""A plan's state, and what is made of it: tables for every window, forecasts, summaries, timelines."""

from __future__ import annotations

import io
import json
import random
import re
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from safesh import ExecutionMonitor, InvalidCommand, SafeshError
from safesh.plan import summary, table, timeline
from safesh.plan.forecast import Forecast
from safesh.plan.state import ENDED, PlanState, StepState
from safesh.plan.text import Look, clean, width_of

PLAIN = Look()


def quiet(plan_id: str = "p", **options: object) -> ExecutionMonitor:
    return ExecutionMonitor(plan_id, **options)  # type: ignore[arg-type]


def big(count: int = 10_000) -> ExecutionMonitor:
    monitor = quiet("big", description="many")
    for number in range(count):
        monitor.add_step(f"step-{number:05d}", "analysis", "groq", f"what {number} does")
    return monitor


# --- state ------------------------------------------------------------------------------------


def test_totals_follow_every_change_and_survive_a_round_trip(rng: random.Random) -> None:
    monitor = quiet()
    for number in range(60):
        monitor.add_step(f"s{number}")
    for _ in range(600):
        step = monitor.state.steps[f"s{rng.randrange(60)}"]
        if step.status == "running":
            act = rng.randrange(4)
            if act == 0:
                monitor.update_step_progress(
                    step.id, progress=rng.random(), tokens=rng.randrange(99), cost=rng.random()
                )
            elif act == 1:
                monitor.wait_step(step.id, "again")
            else:
                monitor.complete_step(step.id, success=act == 2, tokens=rng.randrange(99), seconds=rng.random())
        elif step.status == "pending" and rng.random() < 0.1:
            monitor.complete_step(step.id, cancelled_because="s0 failed")
        elif rng.random() < 0.5:
            monitor.start_step(step.id)
    state = monitor.state
    told = json.loads(json.dumps(state.to_dict()))
    again = PlanState.from_dict(told)
    assert again.to_dict() == state.to_dict() | {"totals": again.to_dict()["totals"]}
    for name, value in again.totals.to_dict().items():
        assert getattr(state.totals, name) == pytest.approx(value), name
    assert state.totals.done == sum(step.status in ENDED for step in state.steps.values())


@pytest.mark.parametrize(
    "data", [{}, {"v": 2}, {"v": 1, "plan_id": "p"}, {"v": 1, "plan_id": "p", "description": "", "started_at": None,
     "ended_at": None, "steps": {"a": {"status": "odd"}}}],
)  # fmt: skip
def test_a_state_that_no_monitor_wrote_is_a_clear_error(data: dict[str, object]) -> None:
    with pytest.raises(SafeshError, match="plan state"):
        PlanState.from_dict(data)


def test_a_second_attempt_adds_to_what_the_first_has_spent() -> None:
    monitor = quiet()
    monitor.add_step("a")
    monitor.start_step("a")
    monitor.update_step_progress("a", tokens=100, cost=0.5)
    monitor.wait_step("a", "again in 1 s: exit 1", seconds=2.0, return_code=1)
    assert (monitor.state.steps["a"].status, monitor.state.totals.pending) == ("pending", 1)
    monitor.start_step("a")
    monitor.update_step_progress("a", tokens=10, cost=0.25)
    monitor.update_step_progress("a", tokens=30)
    monitor.complete_step("a", seconds=1.0)
    step = monitor.state.steps["a"]
    assert (step.attempt, step.tokens, step.cost, step.seconds) == (2, 130, 0.75, 1.0)
    assert (monitor.state.totals.tokens, monitor.state.totals.step_seconds) == (130, 3.0)
    assert [(one["attempt"], one["status"], one["seconds"]) for one in step.earlier] == [(1, "failed", 2.0)]


def test_a_skipped_step_tells_what_it_took_before_without_counting_its_seconds_now() -> None:
    monitor = quiet()
    monitor.add_step("a")
    monitor.skip_step("a", "done before", seconds=5.0, tokens=7)
    step, totals = monitor.state.steps["a"], monitor.state.totals
    assert (step.status, step.reason, step.seconds) == ("skipped", "done before", 5.0)
    assert (totals.skipped, totals.tokens, totals.step_seconds) == (1, 7, 0.0)
    assert PlanState.from_dict(monitor.state.to_dict()).totals.step_seconds == 0.0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.add_step("a"), "added before"),
        (lambda m: m.add_step(""), "step_id: is empty"),
        (lambda m: m.add_step("b", type=3), "type: 3 is not text"),
        (lambda m: m.start_step("aa"), "no step 'aa'"),
        (lambda m: m.start_step(None), "no step None"),
        (lambda m: m.complete_step("done"), "ended already: completed"),
        (lambda m: m.skip_step("runs", "x"), "is running"),
        (lambda m: m.start_step("runs"), "running already"),
        (lambda m: m.wait_step("a", "x"), "does not run"),
        (lambda m: m.update_step_progress("runs", progress=1.5), "progress: 1.5 is not a share"),
        (lambda m: m.update_step_progress("runs", tokens="many"), "tokens: 'many'"),
        (lambda m: m.complete_step("runs", cost=float("nan")), "cost: nan"),
        (lambda m: m.complete_step("runs", error=3), "error: 3 is not text"),
        (lambda m: ExecutionMonitor("p", progress="loud"), "progress: 'loud' is none of auto"),
        (lambda m: ExecutionMonitor(3), "plan_id: 3"),
    ],
)
def test_a_wrong_call_is_refused_by_name_and_changes_nothing(call: object, told: str) -> None:
    monitor = quiet()
    for name in ("a", "runs", "done"):
        monitor.add_step(name)
    monitor.start_step("runs")
    monitor.start_step("done")
    monitor.complete_step("done")
    before = monitor.state.to_dict()
    with pytest.raises(InvalidCommand, match=re.escape(told)):
        call(monitor)  # type: ignore[operator]
    assert monitor.state.to_dict() == before


def test_a_misspelt_step_is_told_its_neighbour() -> None:
    monitor = quiet()
    monitor.add_step("compile")
    with pytest.raises(InvalidCommand) as caught:
        monitor.start_step("compil")
    assert caught.value.hint == "did you mean compile?"


def test_many_threads_at_once_lose_nothing() -> None:
    monitor = quiet()
    for number in range(8 * 50):
        monitor.add_step(f"s{number}")

    def work(first: int) -> None:
        for number in range(first, first + 50):
            monitor.start_step(f"s{number}")
            monitor.update_step_progress(f"s{number}", tokens=1)
            monitor.complete_step(f"s{number}", tokens=3, cost=0.5)

    threads = [threading.Thread(target=work, args=(50 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    totals = monitor.state.totals
    assert (totals.completed, totals.running, totals.tokens, totals.cost) == (400, 0, 1200, 200.0)


# --- the table --------------------------------------------------------------------------------


def shown(monitor: ExecutionMonitor, width: int, height: int, **options: object) -> list[str]:
    look = options.pop("look", PLAIN)
    lines = table.compose(monitor.state, now=monitor.now(), width=width, height=height, look=look, **options)  # type: ignore[arg-type]
    assert len(lines) < height
    for line in lines:
        assert width_of(re.sub(r"\x1b\[[\d;]*m", "", line)) <= width, line
    return lines


def mixed() -> ExecutionMonitor:
    monitor = quiet("demo", description="Build it all")
    for name in ("fetch", "compile", "link", "test", "pack"):
        monitor.add_step(name, "analysis", "groq", f"to {name}")
    monitor.start_step("fetch")
    monitor.complete_step("fetch", tokens=1200, cost=0.01, seconds=1.25)
    monitor.start_step("compile")
    monitor.complete_step("compile", success=False, error="exit status 2\nmore", seconds=0.5)
    monitor.complete_step("link", cancelled_because="compile failed")
    monitor.start_step("test")
    monitor.update_step_progress("test", progress=0.456, message="half\x1b[31m of it")
    return monitor


def test_the_table_has_all_columns_statuses_and_totals() -> None:
    text = "\n".join(shown(mixed(), 140, 30, left=75.0))
    for word in ("Plan: demo", "Progress: 3/5 (60 %)", "Completed: 1", "Failed: 1", "Elapsed: ", "Left: about 1m 15s",
                 "Total tokens: 1,200", "Total cost: $0.0100"):  # fmt: skip
        assert word in text
    lines = text.splitlines()
    heading = next(line for line in lines if line.startswith("Step"))
    assert heading.split() == list(table.HEADERS)
    rows = {line.split()[0]: line for line in lines[lines.index(heading) + 1 :]}
    assert "✓ Completed" in rows["fetch"] and "1.2s" in rows["fetch"] and "to fetch" in rows["fetch"]
    assert "✗ Failed" in rows["compile"] and "exit status 2" in rows["compile"] and "more" not in rows["compile"]
    assert "cancelled because compile failed" in rows["link"]
    assert "⟳ Running 45 %" in rows["test"] and "half\\x1b[31m of it" in rows["test"]
    assert "○ Pending" in rows["pack"]


def test_an_ascii_terminal_gets_ascii_and_no_colour_no_escape() -> None:
    assert "".join(shown(mixed(), 100, 30, look=Look(fancy=False))).isascii()
    assert "\x1b" not in "".join(shown(mixed(), 100, 30))
    colours = re.findall(r"\x1b\[([\d;]*)m", "".join(shown(mixed(), 100, 30, look=Look(colour=True))))
    # Neither black, white nor a background, which would be lost on a dark or on a light terminal.
    assert colours and set(";".join(colours).split(";")) <= {"0", "1", "2", "31", "32", "33", "36"}


@pytest.mark.parametrize("width", [*range(1, 60, 3), 80, 132, 400])
@pytest.mark.parametrize("height", [2, 3, 5, 8, 24])
def test_every_window_is_kept_to(width: int, height: int) -> None:
    monitor = mixed()
    monitor.add_step("日本語の長い名前のステップ" * 5, "x" * 90, "y" * 90, "説明" * 90)
    shown(monitor, width, height)
    shown(big(200), width, height)


def test_forty_columns_show_step_status_and_time() -> None:
    lines = shown(mixed(), 40, 24)
    heading = next(line for line in lines if line.startswith("Step"))
    assert {"Step", "Status", "Time"} <= set(heading.split())
    assert any(line.startswith("compile") and "✗ Failed" in line for line in lines)


def test_of_ten_thousand_steps_what_matters_is_shown_and_the_rest_counted() -> None:
    monitor = big()
    names = list(monitor.state.steps)
    for name in names[:5000]:
        monitor.start_step(name)
        monitor.complete_step(name, success=name != "step-01234")
    for name in names[6000:6003]:
        monitor.start_step(name)
    lines = shown(monitor, 100, 24)
    text = "\n".join(lines)
    assert "step-01234" in text and text.count("⟳ Running") == 3 and "step-05000" in text
    rows = [line for line in lines if line.startswith("step-")]
    assert rows == sorted(rows)
    hidden = re.search(r"… and ([\d,]+) more: (.*)", text)
    assert hidden and int(hidden[1].replace(",", "")) == 10_000 - len(rows)
    assert sum(int(part.split()[0].replace(",", "")) for part in hidden[2].split(", ")) == 10_000 - len(rows)


@pytest.mark.parametrize("running", [0, 3, 40])
@pytest.mark.parametrize("failed", [0, 1, 40])
@pytest.mark.parametrize("ended", [0, 40])
def test_rows_are_never_wasted(running: int, failed: int, ended: int) -> None:
    monitor = big(130)
    names = iter(list(monitor.state.steps))
    for count, act in ((failed, False), (ended, True), (running, None)):
        for _ in range(count):
            name = next(names)
            monitor.start_step(name)
            if act is not None:
                monitor.complete_step(name, success=act)
    for room in (1, 2, 7, 20, 129):
        rows = table.choose(monitor.state, room)
        assert len(rows) == room == len({step.id for step in rows})
        if failed and room > 1:
            assert any(step.status == "failed" for step in rows)
        if running and room > 1:
            assert any(step.status == "running" for step in rows)


def test_a_redraw_of_ten_thousand_steps_costs_no_more_than_one_of_fifty() -> None:
    def cost(monitor: ExecutionMonitor) -> float:
        best = 9.0
        for _ in range(20):
            began = time.process_time()
            for _ in range(5):
                shown(monitor, 120, 40)
            best = min(best, (time.process_time() - began) / 5)
        return best

    small, large = cost(big(50)), cost(big())
    assert large < 3 * small + 0.001
    assert large < 0.02


# --- time left --------------------------------------------------------------------------------


def test_time_left_comes_from_history_and_from_how_many_run_at_once() -> None:
    monitor = quiet(history=lambda _step: 10.0)
    for number in range(4):
        monitor.add_step(f"s{number}")
    state, forecast = monitor.state, monitor._forecast
    state.started_at = 0.0
    assert forecast.left(state, 0.0) == 40.0
    for name in ("s0", "s1"):
        monitor.start_step(name)
        state.steps[name].started_at = 0.0
    assert forecast.left(state, 5.0) == pytest.approx(15.0)  # two at once: (5 + 5 + 10 + 10) / 2
    monitor.complete_step("s0", seconds=10.0)
    monitor.complete_step("s1", seconds=10.0)
    assert forecast.left(state, 10.0) == pytest.approx(10.0)
    for name in ("s2", "s3"):
        monitor.complete_step(name, cancelled_because="x")
    assert forecast.left(state, 10.0) == 0.0


def test_unknown_steps_are_taken_for_average_ones_and_nothing_known_is_not_told() -> None:
    monitor = quiet()
    for number in range(3):
        monitor.add_step(f"s{number}")
    monitor.state.started_at = 0.0
    assert monitor._forecast.left(monitor.state, 0.0) is None
    monitor.start_step("s0")
    monitor.complete_step("s0", seconds=4.0)
    assert monitor._forecast.left(monitor.state, 4.0) == pytest.approx(8.0)


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, "soon", ZeroDivisionError])
def test_a_history_that_answers_nonsense_harms_nothing(answer: object) -> None:
    def history(_step: str) -> float:
        if isinstance(answer, type):
            raise answer
        return answer  # type: ignore[return-value]

    forecast = Forecast(history)
    state = PlanState()
    state.add(StepState(id="a"))
    forecast.added("a")
    assert forecast.left(state, 0.0) is None


# --- summary ----------------------------------------------------------------------------------


def finished() -> ExecutionMonitor:
    monitor = mixed()
    monitor.complete_step("test", success=False, error="later failure", seconds=1.0)
    monitor.state.steps["compile"].ended_at = 10.0
    monitor.state.started_at, monitor.state.ended_at = 9.0, 10.0
    return monitor


def test_the_summary_leads_with_the_root_failure_and_its_last_lines(tmp_path: Path) -> None:
    monitor = finished()
    log = tmp_path / "compile.log"
    told = b"".join(b"line %d\n" % number for number in range(50))
    log.write_bytes(told + b"50%\r100%\r\n\x1b[31mred\x1b[0m \xff\n\n")
    monitor.state.steps["compile"].log = str(log)
    lines = summary.compose(monitor.state, monitor.now(), look=PLAIN, least=0.8, files={"Result": "out/result.json"})
    text = "\n".join(lines)
    assert lines[1].startswith("✗ Root failure: compile")
    assert lines[2].strip() == "exit status 2"
    assert [line[4:] for line in lines if line.startswith("  │")] == [
        *[f"line {number}" for number in range(42, 50)], "100%", "red \ufffd"
    ]  # fmt: skip
    assert "1 step cancelled: link" in text
    assert "✗ test: later failure" in text
    assert text.index("Root failure") < text.index("Also failed") < text.index("Plan demo: 1/5 completed")
    assert "Total: 1,200 tokens, $0.0100" in text
    assert "Gain: 2.75 times as fast as one by one (2.8s of steps in 1.0s)" in text
    assert "less than 0.8s; 80 % of that speed" in text
    assert lines[-1] == "Result: out/result.json"


def test_the_summary_as_json_says_the_same() -> None:
    monitor = finished()
    told = json.loads(summary.as_json(monitor.state, 10.0, least=0.5, files={"result": "r"}))
    assert (told["v"], told["event"], told["root_failure"]["id"]) == (1, "plan_summary", "compile")
    assert (told["gain"], told["bound"], told["files"]) == (2.75, 0.5, {"result": "r"})


@pytest.mark.parametrize("log", ["", "/nowhere/at/all", "/", "/dev/null", "a\0b"])
def test_a_log_that_cannot_be_read_has_no_last_lines(log: str) -> None:
    assert summary.tail(log) == []


def test_the_summary_of_a_plan_without_steps_is_one_line() -> None:
    state = PlanState("none")
    assert summary.compose(state, 0.0, look=PLAIN)[-1] == "✓ Plan none: 0/0 completed in 0.0s"


def test_what_steps_say_cannot_speak_to_the_terminal() -> None:
    monitor = quiet("evil\x1b]0;x\x07", description="\x9b31m")
    monitor.add_step("a\nb", "\x1b[2J", "\u202e", "\ud800")
    monitor.start_step("a\nb")
    monitor.complete_step("a\nb", success=False, error="\x1b[2J\x07", last_lines=["\x1b[H"])
    text = "".join([*shown(monitor, 200, 20), *summary.compose(monitor.state, 1.0, look=PLAIN)])
    assert text.isprintable()
    text.encode("utf-8")
    assert clean("a\tb\udcff") == "a\\tb\\xff"


# --- timeline ---------------------------------------------------------------------------------


def at(monitor: ExecutionMonitor, name: str, start: float, seconds: float, success: bool = True) -> None:
    """A step that ran ``start`` seconds after the plan's beginning."""
    if name not in monitor.state.steps:
        monitor.add_step(name)
    monitor.start_step(name)
    monitor.complete_step(name, success=success, seconds=seconds)
    step = monitor.state.steps[name]
    step.started_at, step.ended_at = 100.0 + start, 100.0 + start + seconds
    monitor.state.started_at = 100.0


class Page(HTMLParser):
    """What there is in a page; checks that every tag is closed and nothing is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.blocks: list[dict[str, str | None]] = []
        self.rows = 0
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe") and not {"src", "href", "onclick"} & set(told)
        if tag != "meta":
            self.open.append(tag)
        if tag == "i" and "style" in told:
            self.blocks.append(told)
        self.rows += tag == "div" and told.get("class") == "n"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_chrome_trace_places_each_attempt_in_a_lane_of_its_own() -> None:
    monitor = quiet("p")
    at(monitor, "a", 0.0, 2.0)
    at(monitor, "b", 1.0, 2.0)
    at(monitor, "c", 2.0, 1.0)
    told = json.loads(json.dumps(timeline.chrome_trace(monitor.state), allow_nan=False))
    events = {event["name"]: event for event in told["traceEvents"] if event["ph"] == "X"}
    assert {name: (one["ts"], one["dur"], one["tid"]) for name, one in events.items()} == {
        "a": (0.0, 2e6, 1), "b": (1e6, 2e6, 2), "c": (2e6, 1e6, 1)
    }  # fmt: skip
    names = {event["args"]["name"] for event in told["traceEvents"] if event["ph"] == "M"}
    assert names == {"p", "lane 1", "lane 2"}


def test_an_earlier_attempt_is_in_the_timeline_too() -> None:
    monitor = quiet("p")
    monitor.add_step("a")
    monitor.start_step("a")
    monitor.wait_step("a", "again")
    monitor.start_step("a")
    monitor.complete_step("a")
    assert [(bar.attempt, bar.status) for bar in timeline.bars(monitor.state)] == [(1, "failed"), (2, "completed")]


def test_the_page_needs_nothing_else_and_escapes_what_it_shows() -> None:
    monitor = quiet("<b>&", description='"quoted" <script>')
    at(monitor, "<script>alert(1)</script>", 0.0, 1.0)
    at(monitor, "slow", 0.0, 3.0, success=False)
    text = timeline.html_page(monitor.state)
    page = Page(text)
    assert "<script" not in text and "http" not in text and "prefers-color-scheme: dark" in text
    assert {one["class"] for one in page.blocks} == {"completed", "failed"}
    assert "slow: failed, 3.0s" in (page.blocks[1]["title"] or "") + (page.blocks[0]["title"] or "")


def test_the_page_of_ten_thousand_steps_stays_small_and_counts_them_all(tmp_path: Path) -> None:
    monitor = quiet("big")
    for number in range(10_000):
        at(monitor, f"s{number}", number // 4 * 0.01, 0.009, success=number != 5000)
    written = timeline.write(monitor.state, str(tmp_path))
    text = Path(written["timeline"]).read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 2_000_000 and page.rows <= 1 + timeline.LANES
    counted = sum(int(found[1]) if (found := re.match(r"(\d+) steps", str(one["title"]))) else 1 for one in page.blocks)
    assert counted == 10_000
    assert any(one["class"] == "failed" for one in page.blocks)
    events = json.loads(Path(written["trace"]).read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 10_000


def test_a_plan_that_has_not_run_has_a_page_too() -> None:
    monitor = quiet()
    monitor.add_step("a")
    assert "nothing has run" in Page(timeline.html_page(monitor.state)).words
    assert timeline.bars(PlanState()) == []


def test_ten_thousand_at_once_share_rows() -> None:
    monitor = quiet()
    for number in range(1000):
        at(monitor, f"s{number}", 0.0, 1.0)
    assert Page(timeline.html_page(monitor.state)).rows <= 1 + timeline.LANES


# --- lines ------------------------------------------------------------------------------------


def told_by(mode: str, act: object) -> str:
    output = io.StringIO()
    monitor = ExecutionMonitor("p", "about it", progress=mode, output=output)  # type: ignore[arg-type]
    monitor.add_step("a", "analysis", "groq", "first")
    monitor.add_step("b")
    with monitor:
        act(monitor)  # type: ignore[operator]
    return output.getvalue()


def some_work(monitor: ExecutionMonitor) -> None:
    monitor.start_step("a", pid=7)
    monitor.update_step_progress("a", progress=0.5, tokens=10, message="half\nway")
    monitor.complete_step("a", success=False, error="exit status 3", cost=0.1, seconds=2.0)
    monitor.complete_step("b", cancelled_because="a failed")


def test_plain_is_one_line_for_each_change_without_escapes() -> None:
    text = told_by("auto", some_work)
    assert "\x1b" not in text
    assert text.splitlines()[:-1] == [
        "Plan p: 2 steps: about it",
        "[0/2] ⟳ a running",
        "[0/2] ⟳ a running: 50 %, 10 tokens, half",
        "[1/2] ✗ a failed in 2.0s, 10 tokens, $0.1000: exit status 3",
        "[2/2] ⊘ b cancelled because a failed",
    ]
    assert text.splitlines()[-1].startswith("Plan p: 2/2 done, 0 completed, 1 failed in")


def test_json_is_one_versioned_object_for_each_change() -> None:
    told = [json.loads(line) for line in told_by("json", some_work).splitlines()]
    assert {one["v"] for one in told} == {1} and {one["plan"] for one in told} == {"p"}
    assert [one["event"] for one in told] == [
        "plan_started", "step_started", "step_updated", "step_ended", "step_ended", "plan_ended"
    ]  # fmt: skip
    assert told[1]["step"]["pid"] == 7
    assert (told[3]["step"]["status"], told[3]["step"]["error"], told[3]["step"]["tokens"]) == (
        "failed", "exit status 3", 10
    )  # fmt: skip
    assert told[-1]["totals"]["failed"] == 1


def test_quiet_tells_failures_alone() -> None:
    text = told_by("quiet", some_work)
    assert text.splitlines() == ["[1/2] ✗ a failed in 2.0s, 10 tokens, $0.1000: exit status 3"]
    assert told_by("quiet", lambda monitor: monitor.complete_step("a")) == ""


def test_a_flood_of_numbers_is_one_plain_line_in_two_seconds_and_the_end_has_the_last() -> None:
    def flood(monitor: ExecutionMonitor) -> None:
        monitor.start_step("a")
        for number in range(5000):
            monitor.update_step_progress("a", tokens=number)
        monitor.complete_step("a")

    lines = told_by("plain", flood).splitlines()
    assert len(lines) <= 6
    assert "4,999 tokens" in lines[-2]


def test_the_final_summary_stops_the_monitoring_and_follows_it() -> None:
    output = io.StringIO()
    monitor = ExecutionMonitor("p", output=output)
    monitor.start_monitoring()
    monitor.add_step("a")
    monitor.start_step("a")
    monitor.complete_step("a")
    monitor.print_final_summary(files={"Log": "a.log"})
    lines = output.getvalue().splitlines()
    assert lines[-1] == "Log: a.log" and any(line.startswith("✓ Plan p: 1/1 completed in") for line in lines)
    assert monitor.state.ended_at is not None


def test_an_output_that_nobody_reads_any_more_fails_nothing() -> None:
    output = io.StringIO()
    monitor = ExecutionMonitor("p", progress="plain", output=output)
    monitor.add_step("a")
    with monitor:
        output.close()
        monitor.start_step("a")
        monitor.complete_step("a")
    monitor.print_final_summary()
    assert monitor.state.totals.completed == 1


def test_starting_and_stopping_again_is_nothing() -> None:
    monitor = ExecutionMonitor("p", output=io.StringIO())
    monitor.stop_monitoring()
    for _ in range(3):
        monitor.start_monitoring()
        monitor.start_monitoring()
        monitor.stop_monitoring()
        monitor.stop_monitoring()
