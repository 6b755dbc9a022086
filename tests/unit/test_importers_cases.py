"""Every file of tests/data/imports: what becomes of it, and that nothing in it is dropped in silence."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec")

from helpers import imports
from helpers.imports import CASES, Case
from safesh import _schema, config, importers
from safesh.clock import parse_duration
from safesh.importers import toml_writer

# Lines that ask for what safesh does anyway: without them the result is the same, and that is right.
ASKS_NOTHING = re.compile(
    r"""
    \[(supervisord|Unit|Service|Install|program:.*)\]$                        # headers: their lines count
    | process_name=%\(program_name\)s(\s|$) | numprocs=1(\s|$) | autostart=false | redirect_stderr=(true|yes)
    | (stdout|stderr)_(events_enabled|syslog)=false | serverurl=AUTO | startsecs=[01](\s|$)
    | startretries\s*=\s*[03](\s|$) | autorestart=unexpected | exitcodes=0(\s|$) | stopwaitsecs=10(\s|$)
    | stopasgroup=false
    | stopsignal=15 | killasgroup=true
    | directory=/nowhere | environment=$ | nodaemon=true$
    | RestartSec=100ms$ | TimeoutStopSec=1min\ 30s$ | Type=(simple|exec)$ | PassEnvironment=TERM$ | NotifyAccess=all$
    """,
    re.X,
)
# Lines that something else in the same file makes pointless, as the format itself has it.
RESET = re.compile(
    r"ExecStart=/bin/sh -c 'echo one' .*|ExecStart=-/bin/false|ExecStart=:/usr/bin/env keeper .*end|ExecStart="
)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    folder = tmp_path / "project"
    folder.mkdir()
    for name, value in (("HOME", "/home/somebody"), ("SAFESH_HOME", str(tmp_path / "state"))):
        monkeypatch.setenv(name, value)
    for name in list(os.environ):
        if name.startswith("XDG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    return Case(request.param, folder, tmp_path / "stubs")


def told(plan: importers.Plan) -> dict[str, Any]:
    """A plan as plain data."""
    targets = {one.name: {**one.values, "#": one.comments} for one in plan.targets}
    notes = [f"{one.file}:{one.line}: {one.reason}" for one in plan.notes]
    return {"defaults": plan.defaults, "targets": targets, "notes": notes}


def read(case: Case) -> importers.Plan:
    return importers.read(str(case.source), str(case.folder))


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_what_becomes_of_it_is_what_was_looked_at(case: Case) -> None:
    """SAFESH_TEST_ACCEPT=1 writes what comes out; look at the difference before it is kept."""
    plan = told(read(case))
    text = case.portable(json.dumps(plan, indent=1, ensure_ascii=False)) + "\n"
    file = imports.DATA / case.name / "expected.json"
    if os.environ.get("SAFESH_TEST_ACCEPT"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_file_made_of_it_loads_and_says_every_note(case: Case) -> None:
    plan = read(case)
    text = toml_writer.render(plan)
    path = case.folder / "safe.toml"
    path.write_text(text, encoding="utf-8")
    loaded = config.load(str(path))
    assert set(loaded.targets) == set(case.describes)
    assert set(tomllib.loads(text)["targets"]) == set(case.describes)
    comments = " ".join(line.lstrip("# ") for line in text.split("\n") if line.startswith("#"))
    for note in plan.notes:
        assert f"{note.file}:{note.line}: " in comments
        assert note.reason in comments


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_every_line_of_it_counts_or_asks_for_nothing(case: Case) -> None:
    """The property behind "nothing is dropped in silence": take a line away, and the result is another one."""
    silent = []
    for source in sorted({case.source, *case.folder.rglob("*.conf"), *case.folder.rglob("*.ini")}):
        text = source.read_text(encoding="utf-8")
        plan = read(case)
        noted = {note.line for note in plan.notes if note.file.endswith(source.name)}
        before = without_places(told(plan))
        lines = text.split("\n")
        whole = False
        for index, line in enumerate(lines):
            if line.startswith("["):
                whole = index + 1 in noted  # the section's note is for all of its lines
            if not line.strip() or line.strip().startswith(("#", ";")) or (whole and not line.startswith("[")):
                continue
            source.write_text("\n".join([*lines[:index], *lines[index + 1 :]]), encoding="utf-8")
            try:
                after = without_places(told(read(case)))
            except importers.ConfigError:
                after = None
            if after == before and not ASKS_NOTHING.match(line.strip()) and not RESET.fullmatch(line.strip()):
                silent.append(f"{source.name}:{index + 1}: {line}")
        source.write_text(text, encoding="utf-8")
    assert not silent


def without_places(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan without line numbers, which move when a line is taken away."""
    plan["notes"] = [re.sub(r":\d+\b", "", note) for note in plan["notes"]]
    return plan


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("supervisord")], indirect=True)
def test_sections_and_options_are_those_of_pythons_parser(case: Case) -> None:
    import configparser

    from safesh.importers import inifile

    for path in [case.source, *case.folder.rglob("*.ini")]:
        text = path.read_text(encoding="utf-8")
        ours = inifile.File()
        inifile.parse(text, path.name, str(path.parent), ours)
        lines = text.split("\n")
        for origin in ours.broken:
            lines[origin.line - 1] = "#"
        parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
        parser.read_string("\n".join(lines))
        theirs = {name: dict(parser._sections[name]) for name in parser.sections()}
        mine = {
            one.name: {key: option.text for key, option in one.options.items()}
            for one in ours.sections.values()
            if one.name != "DEFAULT"
        }
        assert mine == theirs


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("supervisord")], indirect=True)
def test_commands_are_those_of_supervisor_itself_where_it_is_installed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = pytest.importorskip("supervisor.options")
    datatypes = pytest.importorskip("supervisor.datatypes")

    for name, value in case.environ.items():
        monkeypatch.setenv(name, value)
    if case.name in ("supervisord-broken", "supervisord-special", "supervisord-syntax"):
        pytest.skip("supervisord refuses it as a whole, or needs plug-ins")
    text = case.source.read_text(encoding="utf-8")
    text = text if "[supervisord]" in text else "[supervisord]\n" + text
    text = re.sub(r"(?m)^(user|childlogdir|logfile|pidfile|stdout_logfile|stderr_logfile|directory)=.*", r"", text)
    case.source.write_text(text)
    (case.folder / "src").mkdir(exist_ok=True)
    plan = {one.name: one.values for one in read(case).targets}
    theirs = options.ServerOptions()
    theirs.here = str(case.source.parent)
    theirs.configfile = str(case.source)
    section = theirs.read_config(str(case.source))
    restart = {False: "no", datatypes.RestartUnconditionally: "always"}
    compared = 0
    for group in section.process_group_configs:
        for process in group.process_configs:
            ours = plan[process.name]
            compared += 1
            assert ours.get("restart", "no") == restart.get(process.autorestart, "on-failure")
            assert parse_duration(ours.get("stop.grace", "10s")) == process.stopwaitsecs
            assert (ours.get("stop.scope") == "tree") == process.stopasgroup
            signal_name = _schema.parse_signal(ours.get("stop.signal", "SIGTERM"), "")
            assert signal_name == signal.Signals(process.stopsignal).name
            if "shell" not in ours:
                assert ours["command"] == shlex.split(process.command)
                assert ours.get("env", {}) == process.environment
    assert compared == len(plan)
