"""Health while a target runs: what is checked, what counts, what is done, and what it costs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import Home, Safe

TARGET = Path(__file__).resolve().parents[1] / "helpers" / "probe_target.py"
FAST = 'interval = "0.1s", timeout = "2s"'


def config(home: Home, health: str, *steps: str, more: str = "") -> None:
    command = [sys.executable, "-u", str(TARGET), *steps]
    home.write_config(f"[targets.t]\ncommand = {json.dumps(command)}\nhealth = {{ {health} }}\n"
                      f'stop = {{ grace = "3s" }}\nbackoff = {{ initial = "0.1s" }}\n{more}')  # fmt: skip


def record(home: Home) -> dict[str, Any]:
    return json.loads(home.state_file("t.json").read_text())  # type: ignore[no-any-return]


def events(home: Home) -> list[str]:
    return [json.loads(line)["event"] for line in home.state_file("events.jsonl").read_text().splitlines()]


def wait_health(home: Home, status: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        health = record(home).get("health")
        return health if health and health["status"] == status else None

    found = procs.wait_until(look, 15, f"health {status}")
    assert found is not None
    return found


def test_a_failing_check_makes_it_unhealthy_and_a_good_one_healthy_again(home: Home, safe: Safe) -> None:
    config(home, f'command = "sh -c \'test -e good && echo fine\'", on_unhealthy = "notify", retries = 2, {FAST}')
    (home.project / "good").touch()
    with safe.started("t"):
        assert wait_health(home, "healthy")["message"] == "fine"
        assert "healthy, fine" in safe("status", "t").out
        (home.project / "good").unlink()
        bad = wait_health(home, "unhealthy")
        assert bad["failures"] >= 2
        assert record(home)["state"] == "unhealthy"
        assert "unhealthy" in safe("status", "t").out
        (home.project / "good").touch()
        wait_health(home, "healthy")
        assert record(home)["state"] == "running"
    told = [one for one in events(home) if one in ("healthy", "unhealthy", "recovered")]
    assert told == ["healthy", "unhealthy", "recovered"]


def test_an_unhealthy_target_is_restarted(home: Home, safe: Safe) -> None:
    config(home, f"command = \"sh -c 'test ! -e bad || {{ rm bad; echo it is bad; exit 1; }}'\", retries = 1, {FAST}")
    with safe.started("t"):
        first = record(home)["main"]["pid"]
        (home.project / "bad").touch()
        procs.wait_until(lambda: record(home)["restarts"] == 1 and record(home)["state"] == "running", 15)
        assert record(home)["main"]["pid"] != first
        assert "unhealthy: it is bad (exited with code 1)" in record(home)["ended_by"]


def test_an_unhealthy_target_is_stopped_when_so_configured(home: Home, safe: Safe) -> None:
    config(home, f'tcp = 1, retries = 2, on_unhealthy = "stop", {FAST}', more='restart = "always"\n')
    with safe.started("t"):
        procs.wait_until(lambda: record(home)["state"] == "failed", 15)
        assert record(home)["message"] == "unhealthy: 127.0.0.1:1: Connection refused"
        assert safe("status", "t").rc == 3


def test_a_starting_target_is_not_checked_and_never_healthy(home: Home, safe: Safe) -> None:
    config(home, f'command = "sh -c \'echo >> checked\'", {FAST}', "wait-file:go", "say:serving",
           more='ready = { log = "serving" }\n')  # fmt: skip
    with safe.spawn("start", "--detach", "t") as start:
        procs.wait_until(lambda: home.state_file("t.json").exists() and record(home)["main"], 10)
        assert record(home)["health"]["status"] == "starting"
        assert safe("status", "--json", "t").json()["instances"][0]["health"]["status"] == "starting"
        assert not (home.project / "checked").exists()
        (home.project / "go").touch()
        assert start.wait(15) == 0
        wait_health(home, "healthy")
    safe("stop", "--force", "--now", "t")


def test_failures_in_the_start_period_do_not_count(home: Home, safe: Safe) -> None:
    config(home, f'command = "sh -c \'echo >> checked; exit 1\'", retries = 1, start_period = "60s", {FAST}')
    with safe.started("t"):
        checked = home.project / "checked"
        procs.wait_until(lambda: checked.exists() and checked.read_text().count("\n") >= 3, 10)
        assert record(home)["state"] == "running"
        assert record(home)["health"]["status"] == "starting"
        assert record(home)["health"]["failures"] == 0


def test_checks_never_overlap_even_when_they_outlast_the_interval(home: Home, safe: Safe) -> None:
    script = "mkdir busy || echo overlap >> found; sleep 0.3; rmdir busy; echo >> checked"
    config(home, f"command = \"sh -c '{script}'\", {FAST}")
    with safe.started("t"):
        checked = home.project / "checked"
        procs.wait_until(lambda: checked.exists() and checked.read_text().count("\n") >= 3, 15)
    assert not (home.project / "found").exists()


def test_a_hung_check_fails_at_its_timeout_and_does_not_pile_up(home: Home, safe: Safe) -> None:
    config(home, 'command = "sh -c \'sleep 300 & sleep 301\'", interval = "0.1s", timeout = "0.3s", '
                 'on_unhealthy = "notify"')  # fmt: skip
    with safe.started("t"):
        bad = wait_health(home, "unhealthy")
        assert bad["message"] == "sh has not ended within 0.3s"
        mark = str(home.state / home.project.name / "t")
        assert len([one for one in procs.marked("SAFESH_INSTANCE", mark) if "sleep" in one.command]) <= 2
    procs.wait_until(lambda: procs.marked("SAFESH_INSTANCE", mark) == [], 5)


def test_a_heartbeat_that_stops_makes_it_unhealthy(home: Home, safe: Safe) -> None:
    config(home, f'heartbeat = "beat", max_age = "0.5s", retries = 1, on_unhealthy = "notify", {FAST}', "beat:beat")
    with safe.started("t"):
        wait_health(home, "healthy")
        (home.project / "hang").touch()
        assert "last touched" in wait_health(home, "unhealthy")["message"]


def test_a_watchdog_that_falls_silent_makes_it_unhealthy(home: Home, safe: Safe) -> None:
    config(home, f'notify = true, max_age = "1s", retries = 1, on_unhealthy = "notify", {FAST}', "watchdog")
    with safe.started("t"):
        wait_health(home, "healthy")
        (home.project / "hang").touch()
        assert "last WATCHDOG=1" in wait_health(home, "unhealthy")["message"]


def test_a_watchdog_trigger_is_heard_at_once(home: Home, safe: Safe) -> None:
    config(home, 'notify = true, interval = "60s", on_unhealthy = "notify"', "notify:WATCHDOG=trigger")
    with safe.started("t"):
        assert wait_health(home, "unhealthy")["message"] == "it said WATCHDOG=trigger"


def test_the_target_is_told_its_watchdog_time(home: Home, safe: Safe) -> None:
    home.write_config("""[targets.t]
command = "sh -c 'echo usec $WATCHDOG_USEC; exec sleep 300'"
health = { notify = true, max_age = "2.5s" }
ready = { log = "usec 2500000$" }
""")
    with safe.started("t"):
        pass


def test_a_check_by_name_does_not_block_the_supervisor(home: Home, safe: Safe) -> None:
    """A name goes to a forked resolver; meanwhile requests are served."""
    config(home, f'tcp = "no-such-host.invalid:80", on_unhealthy = "notify", {FAST}')
    with safe.started("t"):
        assert "no-such-host.invalid:80" in wait_health(home, "unhealthy")["message"]
        safe("stop", "--force", "t").check()


def test_a_supervisor_without_probes_has_none_of_their_code(home: Home, safe: Safe) -> None:
    home.write_config('[targets.t]\ncommand = "sleep 300"\n')
    with safe.started("t"):
        assert "health" not in record(home)
        status = safe("status", "t").out
        assert "health" not in status


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4")
def test_the_descriptors_of_a_supervisor_do_not_grow_with_its_checks(home: Home, safe: Safe) -> None:
    config(home, f'command = "true", {FAST}')
    with safe.started("t"):
        pid = record(home)["supervisor"]["pid"]
        folder = Path(f"/proc/{pid}/fd")
        if not folder.exists():
            pytest.skip("descriptors cannot be counted here")
        wait_health(home, "healthy")
        at = record(home)["health"]["checked_at"]
        before = max(len(os.listdir(folder)) for _ in range(5))
        procs.wait_until(lambda: record(home)["health"]["checked_at"] > at + 2, 15)
        assert min(len(os.listdir(folder)) for _ in range(5)) <= before
