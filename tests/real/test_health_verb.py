"""``health``: the code and the line that a monitor gets, for every state a target can be in."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import procs
from helpers.home import CLI, Home, Result, Safe

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
PY = json.dumps(sys.executable)
SLEEP = f'command = [{PY}, "-c", "import time; time.sleep(600)"]'

# The plugin guidelines: TEXT|PERFDATA, perfdata being 'label'=value[UOM];[warn];[crit];[min];[max], blanks between.
_LINE = re.compile(r"(OK|WARNING|CRITICAL|UNKNOWN) - ([^|\n]+?)(?: \| ([^|\n]+))?\n")
_DATUM = re.compile(
    r"(?P<label>'(?:[^'=]|'')+'|[^' =]+)=(?P<value>-?[0-9.]+)(?P<unit>us|ms|s|%|B|KB|MB|TB|c)?"
    r"(?:;(?P<warn>[0-9.:@~-]*))?(?:;(?P<crit>[0-9.:@~-]*))?(?:;(?P<min>[0-9.-]*))?(?:;(?P<max>[0-9.-]*))?"
)


class Plugin:
    """What a monitor makes of a plugin's answer; AssertionError for one that breaks the guidelines."""

    def __init__(self, result: Result) -> None:
        assert result.rc in (0, 1, 2, 3), result
        assert result.err == "", result
        found = _LINE.fullmatch(result.out)
        assert found, result
        assert len(result.out.encode()) < 4096, result
        self.code = result.rc
        self.word, self.text = found[1], found[2]
        assert ("OK", "WARNING", "CRITICAL", "UNKNOWN")[result.rc] == self.word, result
        self.data: dict[str, float] = {}
        self.units: dict[str, str] = {}
        for item in (found[3] or "").split():
            datum = _DATUM.fullmatch(item)
            assert datum, item
            self.data[datum["label"]] = float(datum["value"])
            self.units[datum["label"]] = datum["unit"] or ""


def ask(safe: Safe, *words: str, **options: object) -> Plugin:
    return Plugin(safe("health", *words, **options))  # type: ignore[arg-type]


@pytest.fixture
def ended(home: Home, safe: Safe) -> Iterator[None]:
    """Whatever the test started is ended after it."""
    yield
    safe("kill-all", "--force", "--now")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def server(port: int, delay: float = 0.0) -> str:
    """A target that serves HTTP after ``delay`` seconds; its health follows the file ``status`` beside safe.toml."""
    code = (
        "import http.server, pathlib, time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        status = pathlib.Path('status')\n"
        "        self.send_response(int(status.read_text()) if status.exists() else 200)\n"
        "        self.send_header('Content-Length', '0')\n"
        "        self.end_headers()\n"
        f"time.sleep({delay})\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    Path("server.py").write_text(code)
    return f'command = [{PY}, "server.py"]\nhealth = {{ http = "http://127.0.0.1:{port}/", interval = "1h" }}'


# --- codes -------------------------------------------------------------------------------------


def test_a_target_without_a_probe_is_ok_while_it_runs_and_critical_when_dead(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    assert ask(safe, "t").code == CRITICAL
    with safe.started("t"):
        one = ask(safe, "t")
        assert (one.code, one.data["restarts"]) == (OK, 0)
        assert one.text.startswith("t running since ")
        assert one.units["uptime"] == "s"
    one = ask(safe, "t")
    assert one.code == CRITICAL
    assert "t not running since" in one.text
    assert "stopped by request" in one.text


def test_a_probe_is_made_now_and_its_time_is_performance_data(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{server(free_port())}\n")
    with safe.started("t"):
        one = ask(safe, "t", "--start")  # nothing to start, but it may not listen yet
        procs.wait_until(lambda: ask(safe, "t").code == OK)
        one = ask(safe, "t")
        assert re.fullmatch(r"t healthy: .*200.* in \d+\.\d{3}s", one.text)
        assert one.data["time"] < 5
        assert one.units["time"] == "s"
        (home.project / "status").write_text("503")
        bad = ask(safe, "t")  # its supervisor would look again in an hour
        assert bad.code == CRITICAL
        assert "unhealthy" in bad.text
        assert "503" in bad.text


def test_a_readiness_probe_serves_where_there_is_no_health_probe(home: Home, safe: Safe) -> None:
    (home.project / "good").touch()
    home.write_config(f'[targets.t]\n{SLEEP}\nready = {{ command = "test -e good" }}\n')
    with safe.started("t"):
        assert ask(safe, "t").code == OK
        (home.project / "good").unlink()
        assert ask(safe, "t").code == CRITICAL


def test_a_heartbeat_counts_when_this_run_made_it_and_not_when_it_is_an_earlier_runs(home: Home, safe: Safe) -> None:
    beat = home.project / "beat"
    beat.touch()
    os.utime(beat, (time.time() - 100, time.time() - 100))
    home.write_config(f'[targets.t]\n{SLEEP}\nhealth = {{ heartbeat = "beat", max_age = "1h", interval = "1h" }}\n')
    with safe.started("t"):
        one = ask(safe, "t")
        assert (one.code, "earlier run" in one.text) == (CRITICAL, True)
        beat.touch()
        assert ask(safe, "t").code == OK


@pytest.mark.usefixtures("ended")
def test_starting_is_a_warning_and_never_healthy(home: Home, safe: Safe) -> None:
    home.write_config(f'[targets.t]\n{SLEEP}\nready = {{ command = "test -e up" }}\nhealth = {{ command = "true" }}\n')
    with safe.spawn("start", "-d", "t") as start:
        procs.wait_until(lambda: "starting since" in ask(safe, "t").text)
        assert ask(safe, "t").code == WARNING
        assert ask(safe, "t", "--start", "--timeout", "1s").code == WARNING
        (home.project / "up").touch()
        assert start.wait() == 0
        assert ask(safe, "t").code == OK


@pytest.mark.usefixtures("ended")
def test_a_target_in_backoff_is_critical_and_says_when_it_starts_again(home: Home, safe: Safe) -> None:
    home.write_config('[targets.t]\ncommand = "false"\nrestart = "always"\nbackoff = { initial = "1h", max = "1h" }\n')
    safe("start", "-d", "t")
    procs.wait_until(lambda: "starts again in" in ask(safe, "t").text)
    assert ask(safe, "t").code == CRITICAL


def test_a_failing_probe_in_the_start_period_is_a_warning(home: Home, safe: Safe) -> None:
    home.write_config(f'[targets.t]\n{SLEEP}\nhealth = {{ command = "false", start_period = "1h", interval = "1h" }}\n')
    with safe.started("t"):
        one = ask(safe, "t")
        assert one.code == WARNING
        assert "start period" in one.text


def test_an_unknown_target_a_broken_config_and_none_at_all_are_unknown_with_the_reason(home: Home, safe: Safe) -> None:
    assert ask(safe).code == UNKNOWN
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    assert "no target 'x'" in ask(safe, "x").text
    home.write_config(f"[targets.t]\n{SLEEP}\nhelth = 1\n")
    broken = ask(safe, "t")
    assert broken.code == UNKNOWN
    assert "helth" in broken.text
    assert safe("health", "t", "--json").check(UNKNOWN).json()["status"] == "UNKNOWN"


def test_an_env_file_that_is_gone_is_unknown_not_critical(home: Home, safe: Safe) -> None:
    (home.project / "e").write_text("A=1\n")
    home.write_config(f'[targets.t]\n{SLEEP}\nenv_file = "e"\nhealth = {{ command = "true" }}\n')
    with safe.started("t"):
        assert ask(safe, "t").code == OK
        (home.project / "e").unlink()
        assert ask(safe, "t").code == UNKNOWN


@pytest.mark.usefixtures("ended")
def test_strays_of_a_dead_target_are_told(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    safe("start", "-d", "t").check()
    record = json.loads(home.state_file("t.json").read_text())
    for one in ("keeper", "supervisor"):  # both, and neither has time to end the tree
        procs.send(record[one]["pid"], record[one]["start"], signal.SIGSTOP)
    for one in ("keeper", "supervisor"):
        procs.send(record[one]["pid"], record[one]["start"], signal.SIGKILL)
    procs.wait_until(lambda: "1 stray left" in ask(safe, "t").text)
    assert ask(safe, "t", "--start").code == CRITICAL


def test_the_target_that_another_one_keeps_out_is_critical(home: Home, safe: Safe) -> None:
    home.write_config(f'[targets.a]\n{SLEEP}\ninstance = "i"\n[targets.b]\n{SLEEP}\ninstance = "i"\n')
    with safe.started("b"):
        assert "not running: b has the instance" in ask(safe, "a", "--start").text
        assert ask(safe).text.startswith("b running")  # without names: whoever runs in each instance


def test_only_the_supervisor_hears_sd_notify_and_its_word_counts_while_it_is_fresh(home: Home, safe: Safe) -> None:
    home.write_config(f'[targets.t]\n{SLEEP}\nhealth = {{ notify = true, interval = "1h", max_age = "1h" }}\n')
    with safe.started("t"):
        file = home.state_file("t.json")
        # The record as its supervisor would have it by then; it writes it anew only when something happens.
        for health, code, word in (
            ({"status": "healthy", "checked_at": time.time(), "message": "WATCHDOG=1 2s ago", "failures": 0}, OK, "2s"),
            ({"status": "unhealthy", "checked_at": time.time(), "message": "late", "failures": 3}, CRITICAL, "late"),
            ({"status": "healthy", "checked_at": time.time() - 90000, "message": "", "failures": 0}, UNKNOWN, "looked"),
            ({"status": "starting", "checked_at": None, "message": "", "failures": 0}, WARNING, "not known"),
        ):
            record = json.loads(file.read_text()) | {"health": health}
            file.write_text(json.dumps(record))
            one = ask(safe, "t")
            assert (one.code, word in one.text) == (code, True), one.text


# --- several -----------------------------------------------------------------------------------


def test_several_targets_give_the_worst_code_and_name_the_bad_ones_first(home: Home, safe: Safe) -> None:
    home.write_config(
        f"[targets.a]\n{SLEEP}\n[targets.b]\n{SLEEP}\n[targets.c]\n{SLEEP}\n"
        'health = { command = "false", start_period = "1h" }\n'
    )
    with safe.started("a"), safe.started("c"):
        one = ask(safe, "a", "c", "b")
        assert one.code == CRITICAL
        assert one.text.startswith("b not running")
        assert one.text.endswith("1 of 3 fine: a")
        assert {"a_restarts", "c_restarts", "c_time"} <= set(one.data)
        assert "b_restarts" not in one.data
        found = safe("health", "--json").check(CRITICAL).json()
        assert (found["v"], found["code"], found["status"]) == (1, CRITICAL, "CRITICAL")
        assert [(row["target"], row["code"]) for row in found["targets"]] == [
            ("a", OK),
            ("b", CRITICAL),
            ("c", WARNING),
        ]


def test_the_probes_of_several_targets_run_side_by_side(home: Home, safe: Safe) -> None:
    text = "".join(
        f'[targets.t{n}]\n{SLEEP}\nhealth = {{ command = "sleep 1.5", interval = "1h" }}\n' for n in range(6)
    )
    home.write_config(text)
    safe("start", "--all", "-d").check()
    try:
        assert ask(safe, "--timeout", "7s").code == OK  # one after the other they would take nine
    finally:
        safe("stop", "--force", "--now")


def test_a_probe_that_prints_bars_and_line_ends_cannot_break_the_line(home: Home, safe: Safe) -> None:
    command = json.dumps(["printf", "one\ntwo | evil=1;;;\x1b[31m\n"])
    home.write_config(f'[targets.t]\n{SLEEP}\nhealth = {{ command = {command}, interval = "1h" }}\n')
    with safe.started("t"):
        one = ask(safe, "t")
        assert one.code == OK
        assert set(one.data) == {"time", "restarts", "uptime"}


# --- --start -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("ended")
def test_start_brings_up_a_dead_target_and_waits_until_it_serves(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{server(free_port(), delay=1.0)}\n")
    one = ask(safe, "t", "--start")
    assert one.code == OK
    assert "healthy" in one.text
    found = json.loads(safe("status", "t", "--json").check().out)
    assert found["instances"][0]["state"] == "running"


@pytest.mark.usefixtures("ended")
def test_start_brings_dependencies_up_first(home: Home, safe: Safe) -> None:
    home.write_config(f'[targets.db]\n{SLEEP}\n[targets.web]\n{SLEEP}\ndepends_on = ["db"]\n')
    assert ask(safe, "web", "--start").code == OK
    assert ask(safe, "db").code == OK


def test_start_tells_why_it_could_not(home: Home, safe: Safe) -> None:
    home.write_config('[targets.t]\ncommand = ["/nowhere/at/all"]\n')
    one = ask(safe, "t", "--start")
    assert one.code == CRITICAL
    assert "cannot be started" in one.text
    assert "/nowhere/at/all" in one.text


@pytest.mark.usefixtures("ended")
def test_many_starts_at_once_bring_up_one(home: Home, safe: Safe) -> None:
    (home.project / "one.py").write_text("import time; open('runs', 'a').write('x'); time.sleep(600)\n")
    home.write_config(f'[targets.t]\ncommand = [{PY}, "one.py"]\n')
    asking = [safe.spawn("health", "t", "--start") for _ in range(4)]
    try:
        assert {one.wait(30) for one in asking} <= {OK, WARNING}
    finally:
        for one in asking:
            one.close()
    procs.wait_until((home.project / "runs").exists)
    assert ask(safe, "t").code == OK
    assert (home.project / "runs").read_text() == "x"


# --- time --------------------------------------------------------------------------------------


def marked(mark: str) -> list[procs.Process]:
    return [one for one in procs.scan().values() if not one.dead and mark in procs.argv(one.pid)]


def test_a_hung_probe_ends_at_the_deadline_with_all_that_it_started(home: Home, safe: Safe) -> None:
    """Also what it daemonised: a new session, and its parent gone."""
    script = home.project / "probe.sh"
    script.write_text("setsid sh -c 'trap \"\" TERM HUP; sleep 611 & exec sleep 612' &\nsleep 613\n")
    home.write_config(
        f'[targets.t]\n{SLEEP}\nhealth = {{ command = "sh probe.sh", timeout = "1h", interval = "1h" }}\n'
    )
    with safe.started("t"):
        began = time.monotonic()
        one = ask(safe, "t", "--timeout", "1s")
        assert one.code == CRITICAL
        assert "within 1.0s" in one.text
        assert time.monotonic() - began < 10
        procs.wait_until(lambda: not (marked("611") or marked("612") or marked("613")))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_look_that_is_killed_leaves_no_probe_behind(home: Home, safe: Safe, number: signal.Signals) -> None:
    home.write_config(
        f'[targets.t]\n{SLEEP}\nhealth = {{ command = ["sleep", "614"], timeout = "1h", interval = "1h" }}\n'
    )
    with safe.started("t"), safe.spawn("health", "t") as look:
        procs.wait_until(lambda: marked("614"))
        look.send(number)
        look.wait()
        procs.wait_until(lambda: not marked("614"))


def test_a_look_that_hangs_in_the_kernel_is_answered_for(home: Home, safe: Safe) -> None:
    """As on a dead file server, but in reach: the child that looks is stopped."""
    home.write_config(
        f'[targets.t]\n{SLEEP}\nhealth = {{ command = ["sleep", "615"], timeout = "1h", interval = "1h" }}\n'
    )
    with safe.started("t"), safe.spawn("health", "t", "--timeout", "1s") as look:
        procs.wait_until(lambda: marked("615"))
        child = next(one for one in procs.tree_of(look.pid) if one.ppid == look.pid)
        procs.send(child.pid, child.start, signal.SIGSTOP)
        assert look.wait(20) == UNKNOWN
        assert "something hangs" in look.out
        procs.wait_until(lambda: not marked("615"))
        assert not procs.alive(child.pid, child.start)


def test_a_timeout_of_nothing_is_refused_as_unknown(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    assert ask(safe, "t", "--timeout", "0").code == UNKNOWN


# --- cron --------------------------------------------------------------------------------------


def test_for_cron_it_is_silent_while_all_is_well(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    assert ask(safe, "t", "--cron").code == CRITICAL
    with safe.started("t"):
        done = safe("health", "t", "--cron")
        assert (done.rc, done.out, done.err) == (0, "", "")


def test_overlapping_looks_for_cron_leave_at_once_and_silently_but_other_targets_are_looked_at(
    home: Home, safe: Safe
) -> None:
    hung = 'health = { command = ["sleep", "616"], timeout = "1h", interval = "1h" }'
    home.write_config(f"[targets.t]\n{SLEEP}\n{hung}\n[targets.dead]\n{SLEEP}\n")
    with safe.started("t"), safe.spawn("health", "t", "--cron", "--timeout", "60s") as first:
        procs.wait_until(lambda: marked("616"))
        for _ in range(3):
            done = safe("health", "t", "--cron", deadline=10)
            assert (done.rc, done.out, done.err) == (0, "", "")
        assert len(marked("616")) == 1
        assert ask(safe, "t", "dead", "--cron").text.startswith("dead not running")
        assert first.alive()


def test_a_look_for_cron_that_was_killed_blocks_nobody(home: Home, safe: Safe) -> None:
    hung = 'health = { command = ["sleep", "617"], timeout = "1s", interval = "1h" }'
    home.write_config(f"[targets.t]\n{SLEEP}\n{hung}\n")
    with safe.started("t"), safe.spawn("health", "t", "--cron") as first:
        procs.wait_until(lambda: marked("617"))
        first.send(signal.SIGKILL)
        first.wait()
        procs.wait_until(lambda: safe("health", "t", "--cron").rc == CRITICAL)


def test_a_look_that_hangs_beyond_all_measure_is_no_reason_to_stay_silent(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    with safe.started("t"):
        assert safe("health", "t", "--cron").rc == 0
        with open(home.state_file(".health-t"), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            said = json.loads(file.read())
            own = procs.look(os.getpid())
            assert own is not None
            file.seek(0)
            file.truncate()
            file.write(json.dumps({**said, "pid": own.pid, "start": own.start, "until": time.monotonic() - 3600}))
            file.flush()
            one = ask(safe, "t", "--cron")
            assert one.code == UNKNOWN
            assert f"pid {own.pid}" in one.text


# --- speed -------------------------------------------------------------------------------------


def test_health_of_a_target_without_a_probe_costs_at_most_four_bare_pythons(home: Home, safe: Safe) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    bare = [CLI[0], "-c", "pass"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def seconds(command: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, env=env, check=True)
        return time.perf_counter() - began

    with safe.started("t"):
        ratios = []
        for _ in range(11):
            floor = seconds(bare)
            ratios.append(seconds([*CLI, "health", "t"]) / floor)
        assert statistics.median(ratios[1:]) <= 4, ratios


def test_an_answer_from_somebody_elses_port_is_critical(home: Home, safe: Safe) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with procs.spawn(sys.executable, "-c", code) as other:
        port = other.wait_line(r"\d+").group(0)
        home.write_config(
            '[targets.t]\ncommand = "sleep 60"\n'
            f'health = {{ tcp = {port}, interval = "1h", on_unhealthy = "notify" }}\n'
        )
        with safe.started("t"):
            one = ask(safe, "t")
            assert one.code == CRITICAL
            assert f"taken by pid {other.pid}" in one.text


def test_a_mistyped_line_is_unknown_to_a_monitor_and_not_critical(safe: Safe) -> None:
    safe("health", "--jsn").check(UNKNOWN)
    safe("status", "--jsn").check(2)
