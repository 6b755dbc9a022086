"""``history``: tables for people, pure JSON and CSV for programs, a picture; one clear line where there is nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.home import CLI, SUPERVISOR, Home, Safe
from helpers.procs import Spawn
from safesh.metrics import spool
from safesh.metrics.history import RUN_FIELDS, History

CONFIG = """
[targets.one]
command = ["true"]
limits = { memory = "200M" }
[targets.two]
command = ["true"]
"""
MIB = 1 << 20


@pytest.fixture
def folder(home: Home) -> Path:
    """The project's state folder."""
    home.write_config(CONFIG)
    made = home.state / home.project.name
    made.mkdir(parents=True, mode=0o700)
    return made


@pytest.fixture
def filled(folder: Path) -> Path:
    """Two targets with runs; ``one`` leaks 12 MiB an hour in a run that is under way."""
    now = time.time()
    with History(str(folder / "history.db")) as history:
        for number in range(6):
            began = now - 86400 + 3600 * number
            run: dict[str, Any] = {"run_id": f"r{number}", "target": "two" if number % 3 else "one"}
            run |= {"started_at": began, "ended_at": began + 90, "peak_memory_bytes": 50 * MIB, "cpu_seconds": 3.5}
            run |= {"exit_code": 0 if number else -1, "signal": "" if number else "SIGSEGV"}
            history.add_run(run | {"cause": 'it said "x,y"\nand fell' if number == 3 else ""})
        samples = [
            {"at": now - 3600 * 4 + 60 * index, "memory_bytes": 100 * MIB + index * MIB // 5, "cpu_percent": 20.0}
            for index in range(240)
        ]
        history.add_samples("live", "one", samples)
    return folder


def test_without_a_history_there_is_one_line_and_no_file(folder: Path, safe: Safe) -> None:
    done = safe("history").check()
    assert done.out == "no history yet: a run is kept when it ends\n"
    assert done.err == ""
    assert safe("history", "one").check().out.startswith("no history of one yet")
    assert safe("history", "--json").check().json()["runs"] == []
    assert list(folder.iterdir()) == []


def test_an_unknown_target_is_told_with_the_closest_one(folder: Path, safe: Safe) -> None:
    done = safe("history", "onne").check(2)
    assert "one" in done.err


def test_the_table_tells_when_how_long_how_it_ended_and_what_it_took(filled: Path, safe: Safe) -> None:
    out = safe("history").check().out
    lines = out.splitlines()
    assert lines[0].split() == ["STARTED", "TARGET", "TOOK", "PEAK", "CPU", "ENDED"]
    assert len([one for one in lines if "50.0 MiB" in one and "3.5s" in one and "1m 30s" in one]) == 6
    assert 'it said "x,y"\\nand fell' in out
    assert "ended by SIGSEGV" in out
    assert "\x1b" not in out


def test_one_targets_page_tells_its_trend_and_the_time_to_its_limit(filled: Path, safe: Safe) -> None:
    out = safe("history", "one", env={"LANG": "C.UTF-8", "PYTHONIOENCODING": ""}).check().out
    assert "TARGET" not in out
    assert "memory grows 12.0 MiB/h, limit of 200 MiB reached in 4h" in out
    assert "CPU" in out
    assert any("\u2800" < letter < "\u2900" for letter in out), "a chart"


def test_json_is_one_pure_document(filled: Path, safe: Safe) -> None:
    document = safe("history", "one", "--json").check().json()
    assert document["v"] == 1
    assert [run["run_id"] for run in document["runs"]] == ["r3", "r0"]
    assert set(document["runs"][0]) == set(RUN_FIELDS)
    (memory,) = [one for one in document["trends"] if one["metric"] == "memory_bytes"]
    assert memory["target"] == "one"
    assert memory["slope"] == pytest.approx(12 * MIB, rel=0.01)
    assert memory["limit"] == 200 * MIB
    assert memory["hours_left"] == pytest.approx(52 / 12, rel=0.02)


def test_csv_is_pure_and_can_be_read_back(filled: Path, safe: Safe) -> None:
    rows = list(csv.DictReader(io.StringIO(safe("history", "--csv").check().out)))
    assert [row["run_id"] for row in rows] == [f"r{number}" for number in range(5, -1, -1)]
    assert tuple(rows[0]) == RUN_FIELDS
    assert rows[2]["cause"] == 'it said "x,y"\nand fell'
    assert float(rows[0]["cpu_seconds"]) == 3.5


def test_since_and_lines_bound_what_is_shown(filled: Path, safe: Safe) -> None:
    assert len(safe("history", "--json", "-n", "2").check().json()["runs"]) == 2
    assert len(safe("history", "--json", "--since", "22h30m").check().json()["runs"]) == 4
    assert safe("history", "two", "--since", "1m").check().out.startswith("no run of two in the last 1m")


def test_json_and_csv_together_are_refused(filled: Path, safe: Safe) -> None:
    assert "one of them" in safe("history", "--json", "--csv").check(2).err


def test_runs_left_by_supervisors_are_taken_in(folder: Path, safe: Safe) -> None:
    assert spool.note_run(str(folder), {"run_id": "r", "target": "one", "started_at": time.time() - 5})
    assert safe("history", "--json").check().json()["runs"][0]["run_id"] == "r"
    assert not (folder / spool.NAME).exists()
    assert len(safe("history", "--json").check().json()["runs"]) == 1


def test_a_damaged_history_is_told_moved_aside_and_noted_once(filled: Path, safe: Safe) -> None:
    for file in filled.glob("history.db-*"):
        file.unlink()
    (filled / "history.db").write_bytes(b"no database at all " * 500)
    done = safe("history", "--json").check()
    assert done.json()["runs"] == []
    assert "history.db.corrupt-" in done.err
    events = [json.loads(line) for line in (filled / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["history_rebuilt"]
    assert Path(events[0]["moved_to"]).read_bytes().startswith(b"no database")
    assert safe("history").check().err == ""


def test_a_history_that_is_a_symlink_is_refused_by_name(filled: Path, safe: Safe) -> None:
    (filled / "history.db").rename(filled / "elsewhere")
    (filled / "history.db").symlink_to("elsewhere")
    done = safe("history").check(73)
    assert "history.db: is a symlink" in done.err


def test_the_historys_files_are_no_instances(filled: Path, safe: Safe) -> None:
    spool.note_run(str(filled), {"run_id": "r", "target": "one", "started_at": time.time()})
    safe("history").check()
    assert [one["name"] for one in safe("status", "--json").json()["instances"]] == ["one", "two"]


def test_a_locked_history_can_be_read(filled: Path, safe: Safe) -> None:
    with closing(sqlite3.connect(filled / "history.db", isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        assert len(safe("history", "--json").check().json()["runs"]) == 6


def test_a_picture_is_drawn(filled: Path, safe: Safe, home: Home) -> None:
    pytest.importorskip("matplotlib")
    done = safe("history", "one", "--plot", "out.png", env={"MPLCONFIGDIR": str(home.path)}, deadline=90).check()
    assert done.out == "wrote out.png\n"
    assert (home.project / "out.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "cannot be written" in safe("history", "one", "--plot", "no/where.png", deadline=90).check(73).err


def test_without_matplotlib_a_picture_is_refused_in_one_line(filled: Path, home: Home) -> None:
    broken = home.path / "broken"
    (broken / "matplotlib").mkdir(parents=True)
    (broken / "matplotlib" / "__init__.py").write_text("raise ImportError('none here')\n")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; sys.argv = ['safesh', *sys.argv[3:]]\n"
        "from safesh.cli.main import entry; entry()"
    )
    words = [CLI[0], "-E", "-s", "-S", "-c", code, str(broken), str(SUPERVISOR), "history", "one", "--plot", "x.png"]
    with Spawn(*words) as child:
        assert child.wait(30) == 69
        child.wait_output(5)
        assert child.out == ""
        assert "needs matplotlib" in child.err and "--csv" in child.err
        assert "Traceback" not in child.err
    assert not os.path.exists("x.png")
