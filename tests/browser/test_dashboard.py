"""The dashboard in a real browser, on real processes: what it shows, what its buttons do, how it fails and ends."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import full
from helpers.home import ROBOT, Home, Safe
from helpers.procs import alive, look, start_of, wait_until

Serve = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)

# The pictures tell nothing of the machine that they were taken on.
PYTHON = shutil.which("python3", path="/usr/bin") or sys.executable
CONFIG = f"""
[targets.robot]
command = ["{PYTHON}", "demo_robot.py"]
health = {{ command = ["true"], interval = "1s" }}
sample = "1s"

[targets.clock]
command = ["sleep", "1000"]

[targets.job]
command = ["sh", "-c", "echo it is broken; exit 3"]
"""

REPORT = 'echo \'{"tokens": %d, "cost": %s}\' >> $SAFESH_REPORT'
PLAN = {
    "id": "nightly",
    "description": "Build and test",
    "steps": [
        {"id": "look", "type": "analysis", "provider": "groq", "shell": True, "command": REPORT % (1200, "0.012")},
        {"id": "write", "type": "code_generation", "provider": "mistral", "shell": True, "depends_on": ["look"],
         "command": "sleep 0.4; " + REPORT % (5200, "0.052")},
        {"id": "flaky", "shell": True, "retries": 1, "backoff": {"initial": "100ms"},
         "command": "sleep 0.3; test -e done || { touch done; exit 1; }"},
        {"id": "test", "shell": True, "depends_on": ["write"], "command": "sleep 0.2; echo boom; exit 3"},
        {"id": "ship", "command": ["true"], "depends_on": ["test"]},
    ],
}  # fmt: skip
TALL = {"instance": 1700, "plans": 1500, "history": 1500}  # pixels: so that all of a page is in its picture


def pid_of(home: Home, name: str) -> int:
    return int(json.loads(home.state_file(f"{name}.json").read_text())["main"]["pid"])


def test_every_page_shows_what_there_is(home: Home, safe: Safe, serve: Serve, tab: Any, pictures: Path) -> None:
    home.write_config(CONFIG)
    shutil.copy(ROBOT, home.project)
    (home.project / "plan.json").write_text(json.dumps(PLAN))
    (home.project / "plan.json").chmod(0o644)
    safe("run", "plan.json", "--output", "output", "--progress", "quiet").check(1)
    with safe.started("robot"), safe.started("clock"):
        for _again in range(3):
            safe("start", "--detach", "job")
            wait_until(lambda: safe("status", "job", "--json").json()["instances"][0]["code"] == 3)
        server = serve()
        pages = {
            "": ("Overview", "proj / robot", "● running", "proj / clock", "✖ not running, failed", "healthy"),
            "instance": ("Instance", "demo_robot.py", "--worker vision", "└─", "Events", "started"),
            "plans": ("Plans", "nightly: failed", "test failed first", "✔ completed", "⊘ cancelled", "groq", "1200"),
            "history": ("History", "job", "exited with code 3", "Download as CSV", "memory"),
            "monitor": ("Monitor processes", "System", "CPU", "RAM", "Disk", "Network", "demo_robot.py", "sleeping"),
        }
        for scheme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=scheme)
            for where, words in pages.items():
                tab.page.set_viewport_size({"width": 1280, "height": TALL.get(where, 900)})
                tab.open(server, where)
                tab.sees(*words)
                tab.check()
                if where == "monitor":
                    tab.search("demo_robot.py|sleep 1000")
                if where in ("", "instance"):  # until the curves have some points
                    before = tab.text()
                    tab.until(lambda before=before: tab.text() != before)
                tab.settle()
                picture = pictures / f"dashboard-{where or 'overview'}-{scheme}.png"
                tab.page.screenshot(path=picture)
                assert picture.stat().st_size < 200 * 1024
        # The server is a Python process, and Streamlit; it tells of neither.
        assert "server.py" not in tab.text()
        tab.page.get_by_text("All", exact=True).click()
        tab.search(f"^({server.child.pid}|{pid_of(home, 'clock')}) ")
        tab.sees("sleep 1000", "1 of ")
        assert str(server.child.pid) not in tab.page.locator("canvas td").all_text_contents()


@full
def test_a_running_plan_is_seen_live(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    report = 'echo \'{"progress": 0.5, "message": "half of it"}\' >> $SAFESH_REPORT'
    wait = f"{report}; until test -e go; do sleep 0.1; done"
    steps = [{"id": "one", "command": wait, "shell": True, "timeout": "100s"},
             {"id": "two", "command": ["true"], "depends_on": ["one"]}]  # fmt: skip
    (home.project / "plan.json").write_text(json.dumps({"id": "live", "steps": steps}))
    (home.project / "plan.json").chmod(0o644)
    with safe.spawn("run", "plan.json", "--output", "output", "--progress", "quiet", whole=True) as child:
        wait_until(lambda: (home.project / "output" / "result.json").exists())
        server = serve()
        tab.open(server, "plans")
        tab.page.get_by_text("2 s", exact=True).click()
        tab.sees("live: running", "▶ running", "○ waiting", "half of it", "0 of 2")
        (home.project / "go").touch()
        tab.sees("live: completed", "✔ completed", "2 of 2", "When each step ran")  # nobody touched the page
        assert child.wait(20) == 0
    tab.check()


@full
def test_the_history_is_downloaded_as_csv(home: Home, safe: Safe, serve: Serve, tab: Any, tmp_path: Path) -> None:
    home.write_config(CONFIG)
    safe("start", "job").check(3)
    tab.open(serve("--read-only"), "history")
    with tab.page.expect_download() as waited:
        tab.page.locator("[data-testid=stDownloadButton] button").click()
    waited.value.save_as(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        (run,) = csv.DictReader(file)
    assert (run["target"], run["exit_code"]) == ("job", "3")
    tab.check()


def test_a_page_refreshes_by_itself_and_rests_when_told_to(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    server = serve()
    tab.open(server)
    tab.page.get_by_text("2 s", exact=True).click()
    tab.sees("proj / clock", "○ not running", "0 of 3")
    with safe.started("clock"):
        tab.sees("● running", "1 of 3")  # nobody touched the page
    tab.sees("0 of 3")
    tab.page.get_by_text("off", exact=True).click()
    tab.page.wait_for_timeout(3000)  # what the click draws, and what a curve's end may still take
    tab.settle()
    before, text = busy_ticks(server.child.pid), tab.text()
    tab.page.wait_for_timeout(10000)  # this is the measurement, not a wait for something
    share = (busy_ticks(server.child.pid) - before) / os.sysconf("SC_CLK_TCK") / 10
    assert share < 0.01, f"an idle open tab costs {share:.1%} of a core"
    assert tab.text() == text
    tab.check()


def busy_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_target_is_started_and_stopped_by_clicking(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.clock]\ncommand = ['sleep', '1000']\n")
    server = serve()
    try:
        tab.open(server, "instance")
        wait_until(lambda: tab.buttons() == ["Start", "Stop…", "Restart…", "Kill all…"], 15, "the buttons")
        tab.click("Start")
        tab.sees("clock: runs, pid")
        pid = pid_of(home, "clock")
        start = start_of(pid)
        tab.sees("running", str(pid))

        tab.click("Stop…")
        tab.sees("will end:", str(pid), "sleep 1000")
        tab.click("Leave them alone")
        tab.until(lambda: tab.page.get_by_role("dialog").count() == 0)
        assert alive(pid, start)

        tab.click("Restart…")
        tab.click("Restart 1 process")
        tab.until(lambda: not alive(pid, start))
        tab.until(lambda: pid_of(home, "clock") != pid)
        pid = pid_of(home, "clock")
        start = start_of(pid)
        tab.sees("clock: runs, pid")

        tab.click("Stop…")
        tab.click("Stop 1 process")
        tab.sees("nobody is left", "not running")
        assert not alive(pid, start)
        tab.check()

        tab.click("Start")
        tab.sees("clock: runs, pid")
        pid = pid_of(home, "clock")
        start = start_of(pid)
        tab.click("Kill all…")
        tab.sees("will end:", "sleep 1000")
        tab.click("Kill all 1 process")
        tab.sees("nobody is left")
        assert not alive(pid, start)
    finally:
        safe("stop", "--force", "--now", "clock")


@full
def test_a_start_that_fails_is_told(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.lost]\ncommand = ['/nowhere/at-all']\n")
    tab.open(serve(), "instance")
    tab.click("Start")
    tab.sees("/nowhere/at-all", "Dismiss")
    tab.click("Dismiss")
    tab.until(lambda: "Dismiss" not in tab.text())
    tab.check()


def test_read_only_has_no_buttons(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    with safe.started("clock"):
        server = serve("--read-only")
        for where in ("", "instance", "plans", "history", "monitor"):
            tab.open(server, where)
            tab.sees("Read-only")
            assert tab.buttons() == []
        tab.check()


@full
def test_actions_wait_for_the_token(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    server = serve("--token")
    assert len(server.token) >= 24
    assert server.token not in Path(f"/proc/{server.child.pid}/cmdline").read_text()
    tab.open(server, "instance")
    tab.sees("need the token")
    assert tab.buttons() == []
    told = tab.page.get_by_label("Token for actions")
    told.fill("guessed")
    told.press("Enter")
    tab.sees("This is not the token")
    assert tab.buttons() == []
    told.fill(server.token)
    told.press("Enter")
    tab.until(lambda: "Stop…" in tab.buttons())
    tab.check()


# --- what is wrong --------------------------------------------------------------------------------


@full
def test_no_safe_toml_is_told_with_the_next_step(home: Home, serve: Serve, tab: Any) -> None:
    server = serve()
    for where in ("", "instance"):
        tab.open(server, where)
        tab.sees("No safe.toml here or above", "safe.sh init")
    tab.open(server, "plans")
    tab.sees("No plan has been run here", "safe.sh run")
    tab.open(server, "history")
    tab.sees("No history yet")
    tab.check()


@full
def test_a_wrong_safe_toml_is_told_with_its_place(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.a]\ncomand = 'x'\n")
    server = serve()
    for where in ("", "instance", "history"):
        tab.open(server, where)
        tab.sees("safe.toml", "comand")
        tab.check()


@full
def test_a_corrupt_record_is_told_by_name(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    safe("start", "--detach", "job")
    wait_until(lambda: safe("status", "job", "--json").json()["instances"][0]["code"] == 3)
    home.state_file("job.json").write_text("{half")
    server = serve()
    for where in ("", "instance"):
        tab.open(server, where)
        if where:
            tab.page.get_by_role("combobox").first.click()
            tab.page.get_by_role("option", name="proj / job").click()
        tab.sees("job.json")
        tab.check()


@full
def test_a_damaged_history_is_told(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    safe("status")
    home.state_file("history.db").symlink_to("/dev/null")
    tab.open(serve(), "history")
    tab.sees("history.db", "symlink")
    tab.check()


@full
@pytest.mark.parametrize("text", ["{half", "[]", '{"v": 99}', '{"v": 1, "plan_id": "x"}', None])
def test_a_broken_plan_folder_is_told(home: Home, serve: Serve, tab: Any, text: str | None) -> None:
    folder = home.project / "out"
    folder.mkdir()
    if text is not None:
        (folder / "result.json").write_text(text)
    server = serve("--plan", "out")
    tab.open(server, "plans")
    tab.sees("result.json", "Next:")
    tab.check()


# --- its own life ---------------------------------------------------------------------------------


@full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_whole_with_a_tab_open(
    home: Home, serve: Serve, tab: Any, number: signal.Signals
) -> None:
    home.write_config(CONFIG)
    server = serve()
    tab.open(server)
    pid, start = server.child.pid, start_of(server.child.pid)
    server.child.send(number)
    assert server.child.wait(20) == 0
    assert not alive(pid, start)
    assert look(pid) is None
    assert "Traceback" not in server.child.err
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 2),
    ):
        pass


def test_a_taken_port_is_told(home: Home, safe: Safe) -> None:
    if importlib.util.find_spec("streamlit") is None:
        pytest.skip("no Streamlit here: pip install 'safesh[dashboard]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = safe("dashboard", "--port", str(port)).check(2)
    assert f"port {port}" in done.err
    assert "--port 0" in done.err
