"""The dashboard's parts that need no browser and no Streamlit: settings, actions' argument lists, rows, plans, CSV."""

from __future__ import annotations

import csv
import hmac
import io
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies
from hypothesis import settings as settings_of_hypothesis

from helpers.campaign import rounds
from helpers.home import ROOT, SUPERVISOR, Home, Safe
from safesh.cli import dashboard as command
from safesh.cli.dashboard import StreamlitMissing
from safesh.cli.grammar import VERBS, parse
from safesh.dashboard import actions, data, logs, past, planfolders, search, settings
from safesh.dashboard.settings import TOKEN, Settings
from safesh.errors import StateError, UsageError
from safesh.metrics.model import ProcessUsage
from safesh.metrics.table import Row, level
from safesh.plan.state import PlanState, StepState

# --- settings ---------------------------------------------------------------------------------


def test_the_words_of_the_command_line_are_read() -> None:
    found = settings.read(["--read-only", "--config", "/a/safe.toml", "--plan", "/p", "--plan", "/q"], {TOKEN: "t"})
    assert found == Settings("/a/safe.toml", ("/p", "/q"), True, "t")
    with pytest.raises(UsageError):
        settings.read(["--reed-only"], {})
    with pytest.raises(UsageError):
        settings.read(["--config"], {})


@pytest.mark.parametrize(
    ("chosen", "told", "admitted", "allowed"),
    [
        (Settings(), "", True, True),
        (Settings(token="secret"), "", False, False),
        (Settings(token="secret"), "secre", False, False),
        (Settings(token="secret"), "sécret\udc80", False, False),
        (Settings(token="secret"), " secret\n", True, True),
        (Settings(token="secret", read_only=True), "secret", True, False),
        (Settings(token="secret", read_only=True), "", False, False),
        (Settings(read_only=True), "", True, False),
    ],
)
def test_who_may_look_and_who_may_act(chosen: Settings, told: str, admitted: bool, allowed: bool) -> None:
    assert chosen.admits(told) is admitted
    assert chosen.allows(told) is allowed


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        asked.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert not Settings(token="secret").admits("secret")  # nobody but hmac was asked
    assert asked == [(b"secret", b"secret")]


@pytest.mark.parametrize(
    ("address", "token", "is_made"),
    [("127.0.0.1", "", False), ("::1", "", False), ("localhost", "", False), ("127.8.8.8", "", False),
     ("0.0.0.0", "", True), (None, "", True), ("192.168.0.7", "", True), ("example.org", "", True),
     ("0.0.0.0", "t", False)],
)  # fmt: skip
def test_what_others_can_reach_gets_a_token(address: str | None, token: str, is_made: bool) -> None:
    told = settings.check_exposure(Settings(token=token), address)
    assert (told.token != token) is is_made
    assert len(told.token) >= 32 or not is_made


@pytest.mark.parametrize(
    ("host", "served"),
    [("127.0.0.1:8501", True), ("localhost:1", True), ("LOCALHOST", True), ("[::1]:8501", True), ("127.1.2.3", True),
     ("", True), ("evil.example:8501", False), ("localhost.evil.example", False), ("0.0.0.0:8501", False),
     ("192.168.0.7:8501", False), ("127.0.0.1.evil.example:8501", False)],
)  # fmt: skip
def test_without_a_token_only_this_machines_own_names_are_served(host: str, served: bool) -> None:
    assert Settings().answers_to(host) is served
    assert Settings(token="t").answers_to(host)


# --- actions ----------------------------------------------------------------------------------


def test_an_action_is_an_argument_list_of_the_command_line() -> None:
    name = "a; touch /tmp/x $(id) `id` && 'b'"
    words = actions.command(Settings(), "stop", name, "/p/safe.toml")
    assert words[0] == sys.executable
    assert words[-6:] == ["stop", "--config", "/p/safe.toml", "--force", "--json", name]
    assert actions.command(Settings(), "start", "a")[-4:] == ["start", "--detach", "--json", "a"]
    assert actions.command(Settings(config="/c"), "kill-all")[5:] == ["kill-all", "--config", "/c", "--force", "--json"]


@pytest.mark.parametrize(("verb", "name"), [("stop", "--now"), ("stop", ""), ("kill-all", "a"), ("start", "a\0b")])
def test_what_could_be_read_as_something_else_is_refused(verb: actions.Verb, name: str) -> None:
    with pytest.raises(UsageError):
        actions.command(Settings(), verb, name)


@pytest.mark.parametrize("chosen", [Settings(read_only=True), Settings(token="t")])
def test_nothing_is_executed_without_the_right(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: pytest.fail("it was executed"))
    with pytest.raises(UsageError):
        actions.act(chosen, "wrong", "kill-all")


def test_an_action_runs_and_tells_and_does_not_hand_the_token_on(
    home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_config("[targets.tell]\ncommand = ['sh', '-c', 'env; exec sleep 1000']\n")
    monkeypatch.setenv(TOKEN, "secret-of-the-dashboard")
    chosen = Settings(token="secret-of-the-dashboard")
    try:
        done = actions.act(chosen, "secret-of-the-dashboard", "start", "tell")
        assert done.ok, done.text
        assert done.text.startswith("tell: runs, pid ")
        told = actions.act(chosen, "secret-of-the-dashboard", "stop", "tell")
        assert told.ok
        assert "nobody is left" in told.text
        assert "secret-of" not in home.state_file("tell.log").read_text()
    finally:
        safe("stop", "--force", "--now", "tell")


def test_a_refusal_is_told_in_its_own_words(home: Home) -> None:
    home.write_config("[targets.a]\ncommand = 'true'\n")
    done = actions.act(Settings(), "", "stop", "nobody")
    assert not done.ok
    assert "nobody" in done.text


# --- rows -------------------------------------------------------------------------------------


def row(pid: int, command: str, cpu: float | None = 0.0) -> Row:
    usage = ProcessUsage(pid=pid, start=1, name=command.split(" ")[0], command=command, cpu_percent=cpu, state="S")
    return Row(usage=usage, script=command, status="sleeping", level=level(cpu))


def test_processes_are_picked_and_sorted() -> None:
    rows = [row(1, "python3 a.py", 1.0), row(2, "sleep 9", 60.0), row(3, "python3 b.py", 30.0)]
    picked = data.select(rows, everything=False, typed="", sort="cpu")
    assert [one.usage.pid for one in picked] == [3, 1]
    picked = data.select(rows, everything=True, typed="SLEEP|a.py", sort="pid")
    assert [one.usage.pid for one in picked] == [1, 2]
    assert data.select(rows, everything=True, typed="a.py [", sort="pid") == []


def test_a_mark_stands_beside_each_colour() -> None:
    told = data.process_rows([row(1, "a", 50.1), row(2, "a", 20.1), row(3, "a", 20.0), row(4, "a", None)])
    assert [(one[""], one["Level"]) for one in told] == [
        ("▲▲", "hot"), ("▲", "warm"), ("●", "calm"), ("·", "unknown"),
    ]  # fmt: skip


def test_instances_are_seen_with_their_curves_and_one_look_serves_all(home: Home, safe: Safe) -> None:
    home.write_config("[targets.clock]\ncommand = ['sleep', '1000']\n[targets.idle]\ncommand = 'true'\n")
    with safe.started("clock"):
        source = data.Source(Settings())
        found = source.instances()
        assert source.instances(60) is found
        rows = {one["Instance"]: one for one in data.overview_rows(found)}
        assert rows["proj / clock"]["State"] == "● running"
        assert rows["proj / clock"]["CPU %"] is not None  # the first look was made twice
        assert rows["proj / clock"]["Processes"] == 1
        assert rows["proj / idle"]["State"] == "○ not running"
        source.instances(0)
        (clock,) = [one for one in source.instances(60).picture.seen if one.name == "clock"]
        assert len(source.instances(60).curves[clock.key]) == 2
        (tree,) = data.tree_rows(clock)
        assert tree["Command"] == "sleep 1000"
        (victim,) = actions.victims([clock])
        assert {"Pid", "Age", "CPU %", "Memory MiB", "Command"} <= set(victim)
        assert [one["event"] for one in logs.events(clock.chosen.paths.events, "clock")][-1:]


def test_events_are_told_in_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    killed = [{"pid": 7, "command": "sleep 9", "uid": 0}]
    told = [
        {"event": "started", "pid": 7, "command": ["sh", "-c", "echo a"]},
        {"event": "ended", "verdict": {"target": "x", "killed": killed, "survivors": [], "seconds": 0.2}},
        {"event": "supervisor_crashed", "traceback": "Traceback (most recent call last):\n  x\nValueError: it\n"},
        {"event": "other"},
    ]
    lines = [json.dumps({"v": 1, "at": 100.0 + n, "instance": "x", "target": "x", **one}) for n, one in enumerate(told)]
    path.write_text("\n".join([*lines, "{half", '{"v": 1, "at": 1, "instance": "y"}']))
    path.chmod(0o600)
    rows = [(row["Event"], row["Details"]) for row in logs.event_rows(str(path), "x")]
    assert rows == [
        ("other", ""),
        ("supervisor_crashed", "traceback: ValueError: it"),
        ("ended", "verdict: killed=7 sleep 9 seconds=0.2"),
        ("started", "pid: 7, command: sh -c 'echo a'"),
    ]


def test_a_log_is_shown_without_escapes_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n\x1b[31mTwo\x1b[0m \x07\xff\n\x1b]0;title\x07three[\n")
    path.chmod(0o600)
    assert logs.log_tail(str(path), 10) == ["one", "Two �", "three["]
    assert logs.log_tail(str(path), 10, "two|one") == ["one", "Two �"]
    assert logs.log_tail(str(path), 10, "three[") == ["three["]
    assert logs.log_tail(str(path), 1) == ["three["]
    assert logs.log_tail(str(tmp_path / "none.log"), 10) == []


@pytest.mark.parametrize(
    "text", ["", "b", "B.", "^a|c$", "x(", "(a|b)", "[", "b*$", "a{", "\\d+", "(?P<x>b)", "*", "\0"]
)
def test_a_search_finds_what_re_finds_and_takes_no_expression_as_text(text: str) -> None:
    lines = ["abc", "b.", "", "x(", "12 a{ [", "\0*"]
    try:
        wanted = re.compile(text, re.IGNORECASE)
    except re.error:
        wanted = re.compile(re.escape(text), re.IGNORECASE)
    assert search.matches(text, lines) == [number for number, line in enumerate(lines) if wanted.search(line)]


def test_a_search_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LONGEST", 0.5)
    with pytest.raises(search.SearchTooLong) as caught:
        search.matches("(a|aa)+$", ["a" * 60 + "b"])
    assert "plain text" in caught.value.hint


@settings_of_hypothesis(max_examples=rounds(60, 2000), deadline=None)
@given(strategies.text(max_size=30))
def test_whatever_is_typed_is_searched_for_without_a_mishap(text: str) -> None:
    rows = [row(1, "python3 a.py"), row(2, "sleep 9 $(x)")]
    with suppress(search.SearchTooLong):
        data.select(rows, everything=True, typed=text, sort="pid")


def test_a_stop_lists_those_that_depend_on_it_too(home: Home, safe: Safe) -> None:
    sleep = "command = ['sleep', '1000']"
    home.write_config(
        f"[targets.base]\n{sleep}\n[targets.user]\n{sleep}\ndepends_on = ['base']\n[targets.c]\n{sleep}\n"
    )
    with safe.started("base"), safe.started("user"), safe.started("c"):
        seen = {one.name: one for one in data.Source(Settings()).instances().picture.seen}
        everybody = list(seen.values())
        assert [one.name for one in actions.ended_with(seen["base"], everybody)] == ["base", "user"]
        assert [one.name for one in actions.ended_with(seen["user"], everybody)] == ["user"]
        assert len(actions.victims(actions.ended_with(seen["base"], everybody))) == 2


# --- plans ------------------------------------------------------------------------------------


def state() -> PlanState:
    plan = PlanState("nightly", "")
    plan.started_at = 100.0
    first = {"started_at": 100.0, "seconds": 1.0}
    times = {"started_at": 102.0, "ended_at": 104.0, "seconds": 2.0}
    plan.add(
        StepState(id="a", status="completed", attempt=2, provider="x", tokens=10, cost=0.5, earlier=[first], **times)
    )
    plan.add(StepState(id="b", status="running", attempt=1, started_at=104.0, provider="y", cost=2.0))
    plan.add(StepState(id="c", status="pending"))
    return plan


def test_a_gantt_chart_has_a_bar_for_each_attempt() -> None:
    told = [(one["step"], one["start"], one["end"], one["status"]) for one in planfolders.bars(state(), 110.0)]
    assert told == [("a", 0.0, 1.0, "retried"), ("a", 2.0, 4.0, "completed"), ("b", 4.0, 10.0, "running")]


def test_cost_is_told_by_provider_the_dearest_first() -> None:
    assert planfolders.provider_rows(state()) == [
        {"Provider": "y", "Steps": 1, "Tokens": 0, "Cost": 2.0},
        {"Provider": "x", "Steps": 1, "Tokens": 10, "Cost": 0.5},
    ]


def test_output_folders_are_found_near_here_and_where_they_were_named(tmp_path: Path) -> None:
    for name in ("out", "deep/er/out", "too/deep/er/out"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        (folder / "events.jsonl").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text("{}")  # of some other program
    os.utime(tmp_path / "out" / "result.json", (1, 1))
    named = str(tmp_path / "named")
    found = planfolders.find(Settings(plans=(named,)), str(tmp_path))
    assert found == [str(tmp_path / "out"), named]
    found = planfolders.find(Settings(), str(tmp_path / "deep"))
    assert found == [str(tmp_path / "deep/er/out")]


@pytest.mark.parametrize("text", ["", "{half", "[1]", '{"v": 2}', '{"v": 1}', "[" * 100000])
def test_a_broken_result_is_told_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(StateError) as caught:
        planfolders.load(str(tmp_path))
    assert caught.value.place == str(tmp_path / "result.json")
    assert "safe.sh run" in caught.value.hint


def test_a_result_is_read_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(state().to_dict()))
    assert planfolders.load(str(tmp_path)).to_dict() == state().to_dict()
    assert not planfolders.is_held(str(tmp_path))
    assert planfolders.headline(state(), False).startswith("interrupted")


# --- the past ---------------------------------------------------------------------------------


def test_past_runs_are_read_and_downloaded_as_csv(home: Home, safe: Safe) -> None:
    home.write_config("[targets.job]\ncommand = ['sh', '-c', 'exit 3']\n")
    safe("start", "job").check(3)
    found = past.look(Settings(), 3600.0)
    assert found.names == ["job"]
    assert not found.troubles
    (told,) = past.run_rows(found.runs)
    assert told["Target"] == "job"
    assert "code 3" in told["Ended"]
    (line,) = csv.DictReader(io.StringIO(past.as_csv(found.runs)))
    assert line["target"] == "job"
    assert line["exit_code"] == "3"
    assert not past.look(Settings(), 3600.0, "nobody").runs


def test_no_history_is_no_error_and_makes_no_file(home: Home) -> None:
    home.write_config("[targets.job]\ncommand = 'true'\n")
    assert past.look(Settings(), 3600.0).runs == []
    assert not home.state_file("history.db").exists()


def test_a_cell_that_a_spreadsheet_would_compute_is_quoted() -> None:
    run = dict.fromkeys(past.RUN_FIELDS)
    run.update(target="=HYPERLINK(1)", cause="-2+3", cpu_seconds=-1.5)
    (line,) = csv.DictReader(io.StringIO(past.as_csv([run])))
    assert (line["target"], line["cause"], line["cpu_seconds"]) == ("'=HYPERLINK(1)", "'-2+3", "-1.5")


# --- the command ------------------------------------------------------------------------------


def test_without_streamlit_one_line_tells_what_to_install(home: Home) -> None:
    code = (
        "import sys, importlib.util as util; sys.path.insert(0, sys.argv[1])\n"
        "before = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'streamlit' else before(name, *more)\n"
        "from safesh.cli.main import main; sys.exit(main(['dashboard']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SUPERVISOR)], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.returncode == 69 == StreamlitMissing.exit_code
    assert "Streamlit is not installed" in done.stderr
    assert "-m pip install 'streamlit" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["65536", "99999999"])
def test_no_port_is_told(home: Home, safe: Safe, port: str) -> None:
    done = safe("dashboard", "--port", port)
    assert done.rc in (2, 69)  # where Streamlit is missing, that comes first
    assert "Traceback" not in done.err


def test_the_data_needs_no_streamlit() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from safesh.dashboard import actions, data, logs, past, planfolders, search, settings\n"
        "assert not {'streamlit', 'pandas', 'altair'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(SUPERVISOR)], timeout=60, check=True)


class Became(Exception):
    """Instead of becoming the server."""


@pytest.mark.parametrize(
    ("line", "has_token", "words"),
    [
        ("dashboard --port 0", False, []),
        ("dashboard --port 0 --token", True, []),
        ("dashboard --port 0 --read-only --plan p --plan q", False, ["--read-only", "--plan", "p", "--plan", "q"]),
        ("dashboard --port 0 --host 0.0.0.0", True, []),
        ("dashboard --port 0 --host 0.0.0.0 --read-only", True, ["--read-only"]),
    ],
)
def test_a_token_is_made_where_others_could_act(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, has_token: bool,
    words: list[str],
) -> None:  # fmt: skip
    told: list[object] = []

    def become(host: str, port: int, given: list[str], environment: dict[str, str]) -> None:
        told.extend([host, port, given, environment])
        raise Became

    monkeypatch.setattr(command, "_check_streamlit", lambda: None)
    monkeypatch.setattr(command, "_become", become)
    monkeypatch.setenv(TOKEN, "an old one")
    parsed = parse(line.split())
    assert parsed is not None
    with pytest.raises(Became):
        command.run(parsed.args)
    _host, port, given, environment = told
    assert isinstance(port, int)
    assert port > 0
    assert isinstance(given, list)
    assert [os.path.basename(word) if word.startswith("/") else word for word in given] == words
    assert isinstance(environment, dict)
    said = capsys.readouterr().err
    assert (TOKEN in environment) is has_token
    assert (": token: " in said) is has_token
    if has_token:
        assert environment[TOKEN] in said
        assert len(environment[TOKEN]) >= 32
    assert ("can be reached from other machines" in said) is ("0.0.0.0" in line)


def test_every_line_of_the_page_is_understood() -> None:
    text = (ROOT / "docs" / "dashboard.md").read_text()
    lines = re.findall(r"^safe\.sh (dashboard.*)$", text, re.M)
    assert len(lines) >= 4
    for line in lines:
        assert parse(line.split()) is not None, line
    for option in VERBS["dashboard"].options:
        assert option.flags[0] in text
    for name in re.findall(r"\]\((images/[^)]+)\)", text):
        picture = ROOT / "docs" / name
        assert picture.is_file(), f"{name}: see the end of the page"
        assert picture.stat().st_size <= 200 * 1024


def test_the_room_signals_nobody_and_knows_no_shell() -> None:
    """Who ends processes is the command line, in a process of its own; looks go through the package's own API."""
    for file in sorted((SUPERVISOR / "safesh" / "dashboard").glob("*.py")):
        text = file.read_text()
        assert not re.search(r"os\.(kill|killpg|system|popen|waitpid)|import signal|pidfd|shell=|psutil|/proc", text), (
            file
        )
