"""Several targets: dependencies first, each as soon as its own are ready, stops in reverse."""

from __future__ import annotations

import json

import pytest

from helpers import procs
from helpers.home import Home, Safe

THREE = """
[defaults]
shell = true
stop = { grace = "1s" }
[targets.web]
command = "date +%s%N > web.at; exec sleep 60"
depends_on = ["api"]
[targets.api]
command = "date +%s%N > api.at; exec sleep 60"
depends_on = ["db"]
[targets.db]
command = "date +%s%N > db.at; exec sleep 60"
[targets.lone]
command = "exec sleep 60"
"""


def times(home: Home, *names: str) -> list[int]:
    def read() -> list[int]:
        return [int((home.project / f"{name}.at").read_text()) for name in names]

    return procs.wait_until(lambda: all((home.project / f"{name}.at").exists() for name in names)) and read()


def test_what_a_target_depends_on_is_started_first_and_stays_up(home: Home, safe: Safe) -> None:
    home.write_config(THREE)
    try:
        said = safe("start", "web", "--detach").check().out
        assert [line.split()[0] for line in said.splitlines()] == ["db", "api", "web"]
        first, second, third = times(home, "db", "api", "web")
        assert first < second < third
        assert "runs already" in safe("start", "api", "--detach").out
    finally:
        safe("stop", "--force").check()


def test_all_starts_everything_and_stop_ends_dependents_before_what_they_need(home: Home, safe: Safe) -> None:
    home.write_config(THREE)
    try:
        safe("start", "--all", "--detach").check()
        assert len(safe("status", "--json").check().json()["instances"]) == 4
        said = safe("stop", "db", "--force").check().out
        assert [line.split(":")[0] for line in said.splitlines()] == ["web", "api", "db"]
        safe("status", "lone").check(0)
        ended = [json.loads(line) for line in home.state_file("events.jsonl").read_text().splitlines()]
        stopped = [one["target"] for one in ended if one["event"] == "stopped"]
        assert stopped == ["web", "api", "db"]
    finally:
        safe("stop", "--force").check()


def test_a_dependency_that_fails_keeps_its_dependents_from_starting(home: Home, safe: Safe) -> None:
    home.write_config(
        '[targets.web]\ncommand = "sleep 60"\ndepends_on = ["db"]\n[targets.db]\ncommand = "/nonexistent/db"\n'
        '[targets.lone]\ncommand = "sleep 60"\n'
    )
    try:
        result = safe("start", "web", "lone", "--detach").check(127)
        assert "depends on db" in result.err
        assert "lone" in result.out
        safe("status", "web").check(3)
        safe("status", "lone").check(0)
    finally:
        safe("stop", "--force").check()


def test_a_foreground_start_brings_its_dependencies_up_detached(home: Home, safe: Safe) -> None:
    home.write_config(THREE.replace("date +%s%N > api.at", "date +%s%N > api.at; echo api here"))
    try:
        with safe.spawn("start", "api") as child:
            child.wait_line("api here")
            safe("status", "db").check(0)
            safe("stop", "api", "--force").check()
            child.wait()
        safe("status", "db").check(0)
    finally:
        safe("stop", "--force").check()


def test_several_targets_need_detach(home: Home, safe: Safe) -> None:
    home.write_config(THREE)
    assert "--detach" in safe("start", "db", "lone").check(2).err


def test_one_slow_stop_never_delays_the_others(home: Home, safe: Safe) -> None:
    home.write_config(
        """[targets.slow]
command = "trap '' TERM; echo up; while :; do sleep 0.1; done"
shell = true
stop = { grace = "4s" }
[targets.quick]
command = "sleep 60"
"""
    )
    safe("start", "--all", "--detach").check()
    with safe.spawn("stop", "--force") as child:
        procs.wait_until(lambda: safe("status", "quick").rc == 3, 3, "quick has ended")
        assert child.alive(), "slow takes its whole grace"
        assert child.wait(10) == 0


@pytest.mark.parametrize("change", ["command", "env", "stop"])
def test_status_tells_what_drifted_and_restart_applies_it(home: Home, safe: Safe, change: str) -> None:
    before = {"command": '"sleep 61"', "env": '{ A = "1" }', "stop": '{ grace = "1s" }'}
    after = {"command": '"sleep 62"', "env": '{ A = "2" }', "stop": '{ grace = "2s" }'}

    def text(values: dict[str, str]) -> str:
        return "[targets.t]\n" + "\n".join(f"{key} = {value}" for key, value in values.items()) + "\n"

    home.write_config(text(before))
    with safe.started("t"):
        assert "changed" not in safe("status", "t").check().out
        home.write_config(text({**before, change: after[change]}))
        said = safe("status", "t").check()
        assert f"changed since it started: {change}" in said.out
        assert "restart t" in said.out
        assert safe("status", "t", "--json").json()["instances"][0]["drift"] == [change]
        safe("restart", "t", "--force").check()
        assert "changed" not in safe("status", "t").check().out


def test_a_config_that_went_bad_or_away_is_told_by_status_and_stops_still_work(home: Home, safe: Safe) -> None:
    file = home.write_config('[targets.t]\ncommand = "sleep 60"\n')
    with safe.started("t"):
        file.write_text('[targets.other]\ncommand = "sleep 60"\n')
        assert "no target t any more" in safe("status", "t").out


def test_a_dependency_that_ends_for_good_is_told_to_its_dependents_and_a_restart_is_not(home: Home, safe: Safe) -> None:
    home.write_config(THREE)
    try:
        safe("start", "api", "--detach").check()
        safe("restart", "db", "--force").check()
        assert "has ended" not in safe("status", "api").check().out
        record = json.loads(home.state_file("db.json").read_text())
        procs.send(record["supervisor"]["pid"], record["supervisor"]["start"], 15)
        procs.wait_until(lambda: "db, which it depends on, has ended" in safe("status", "api").check().out)
        events = home.state_file("events.jsonl").read_text()
        assert "dependency_gone" in events
    finally:
        safe("stop", "--force").check()
