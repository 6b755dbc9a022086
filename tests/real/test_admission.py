"""``start --if-fits`` and ``admission``: what does not fit is refused with 75, the numbers and the next step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from helpers.home import Home, Safe
from safesh.metrics.history import History

HUGE = "needs_memory = '900T'"


def write(home: Home, keys: str, more: str = "") -> None:
    home.write_config(f"[targets.t]\ncommand = 'sleep 60'\nadmission = {{ {keys} }}\n{more}")


def past_runs(home: Home, count: int, **fields: Any) -> None:
    folder = home.state / home.project.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with History(str(folder / "history.db")) as history:
        for number in range(count):
            began = 1.7e9 + number
            history.add_run(
                {"run_id": f"r{number}", "target": "t", "started_at": began, "ended_at": began + 1, **fields}
            )


def test_what_does_not_fit_is_refused_with_75_the_numbers_and_the_next_step(home: Home, safe: Safe) -> None:
    write(home, HUGE)
    refused = safe("start", "t", "--detach").check(75)
    assert "does not fit now: memory: " in refused.err
    assert "asked for" in refused.err
    assert "available" in refused.err
    assert "safe.sh start t --anyway" in refused.err or "start t --anyway" in refused.err
    assert safe("status", "t").rc == 3
    assert not home.state_file("t.json").exists(), "nothing was begun"


def test_anyway_starts_it_all_the_same(home: Home, safe: Safe) -> None:
    write(home, HUGE)
    with safe.started("t", "--anyway"):
        assert "already running" in safe("start", "t", "--detach").check(75).err, "the better reason of two"


def test_what_fits_is_started(home: Home, safe: Safe) -> None:
    write(home, "cpu = 100, memory = 100, disk = 100, needs_memory = '1K', needs_disk = '1K', needs_cpu = 0")
    done = safe("start", "t", "--detach")
    if done.rc == 75:  # a machine all of whose processors work is at 100 %
        pytest.skip(f"this machine is full: {done.err}")
    done.check()
    safe("stop", "t", "--force").check()


def test_past_runs_foretell_and_their_count_is_told(home: Home, safe: Safe) -> None:
    home.write_config("[targets.t]\ncommand = 'sleep 60'\n")
    past_runs(home, 5, peak_memory_bytes=900 << 40)
    refused = safe("start", "t", "--detach", "--if-fits").check(75)
    assert "p95 of 5 past runs of t" in refused.err
    with safe.started("t"):  # without being asked nobody looks
        pass


def test_a_run_that_was_just_over_counts(home: Home, safe: Safe) -> None:
    home.write_config("[targets.t]\ncommand = 'true'\nadmission = { needs_memory = '900T' }\n")
    for _ in range(3):
        safe("start", "t", "--anyway").check()
    assert "p95 of 3 past runs of t" in safe("start", "t").check(75).err


def test_a_history_that_cannot_be_read_is_done_without_and_told(home: Home, safe: Safe, tmp_path: Path) -> None:
    write(home, HUGE)
    folder = home.state / home.project.name
    folder.mkdir(mode=0o700, parents=True)
    (folder / "history.db").symlink_to(tmp_path / "elsewhere")
    refused = safe("start", "t", "--detach").check(75)
    assert "without its history" in refused.err
    assert "symlink" in refused.err


def test_of_several_only_those_that_fit_are_started(home: Home, safe: Safe) -> None:
    write(home, HUGE, "[targets.small]\ncommand = 'sleep 60'\n[targets.above]\ncommand = 'true'\ndepends_on = ['t']\n")
    done = safe("start", "--all", "--detach").check(75)
    assert "does not fit now" in done.err
    assert "it depends on t" in done.err
    assert safe("status", "small").rc == 0
    safe("stop", "small", "--force").check()


def test_a_replacement_that_does_not_fit_ends_nobody(home: Home, safe: Safe) -> None:
    write(home, HUGE, "instance = 'one'\n[targets.other]\ncommand = 'sleep 60'\ninstance = 'one'\n")
    with safe.started("other"):
        done = safe("start", "t", "--detach", "--replace", "--force")
        assert done.rc == 75
        assert safe("status", "other").rc == 0


def test_a_start_that_nobody_asked_to_look_opens_no_history(home: Home, safe: Safe) -> None:
    home.write_config("[targets.t]\ncommand = 'true'\n")
    safe("start", "t").check()
    assert not os.path.exists(home.state_file("history.db"))
