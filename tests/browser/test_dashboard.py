"""The dashboard in a real browser, on real processes: what it shows, what its buttons do, how it ends."""

from __future__ import annotations

import importlib.util
import io
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

from helpers.browser import chromium, tab_of
from helpers.campaign import FULL, full, rounds
from helpers.dashboard_past import make_week
from helpers.home import ROOT, Home, Safe
from helpers.pidns import require_pidns
from helpers.procs import alive, look, start_of, wait_until

Serve = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)

# The pictures tell nothing of the machine that they were taken on.
PYTHON = shutil.which("python3", path="/usr/bin") or sys.executable
ROBOT = ROOT / "tests" / "helpers" / "dashboard_robot.py"
CONFIG = f"""
project = "rover"

[targets.robot]
command = ["{PYTHON}", "robot.py"]
health = {{ command = ["true"], interval = "1s" }}
limits = {{ memory = "640 MiB" }}

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
TALL = {"": 440, "instance": 1700, "plans": 1470, "history": 1680, "monitor": 500}  # pixels: a page is in its picture
RENEWED = "SAFESH_TEST_PICTURES" in os.environ
SCHEMES = ("light", "dark") if FULL or RENEWED else ("light",)


def pid_of(home: Home, name: str, project: str = "") -> int:
    """Its main process, 0 while there is none."""
    record = json.loads((home.state / (project or home.project.name) / f"{name}.json").read_text())
    return int((record["main"] or {}).get("pid", 0))


@pytest.mark.timeout(180 * len(SCHEMES))
def test_every_page_shows_what_there_is(
    home: Home, safe: Safe, serve: Serve, tab: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home._replace(state=home.path / ".local" / "state" / "safesh")
    monkeypatch.setenv("SAFESH_HOME", str(home.state))  # where a user has it, who sets nothing
    home.write_config(CONFIG)
    shutil.copy(ROBOT, home.project / "robot.py")
    if RENEWED:
        (home.project / "busy").touch()
    (home.project / "plan.json").write_text(json.dumps(PLAN))
    (home.project / "plan.json").chmod(0o644)
    make_week(home.state / "rover", "rover")
    safe("run", "plan.json", "--output", "output", "--progress", "quiet").check(1)
    with safe.started("robot"), safe.started("clock"):
        safe("start", "--detach", "job")
        wait_until(lambda: safe("status", "job", "--json").json()["instances"][0]["code"] == 3)
        server = serve()
        pages = {
            "": ("Overview", "rover / robot", "● running", "rover / clock", "✖ not running, failed", "healthy"),
            "instance": ("Instance", "robot.py", "--worker vision", "└─", "Events", "started", "goal", "~/.local"),
            "plans": ("Plans", "nightly: failed", "test failed first", "✔ completed", "⊘ cancelled", "groq", "1200"),
            "history": ("History", "job", "exited with code 3", "Download as CSV", "memory grows", "limit of 640 MiB"),
            "monitor": ("Monitor processes", "CPU", "RAM", "Disk", "Network", "robot.py", "running", "sleeping"),
        }
        for scheme in SCHEMES:
            tab.page.emulate_media(color_scheme=scheme)
            for where, words in pages.items():
                tab.page.set_viewport_size({"width": 1280, "height": TALL[where]})
                tab.open(server, where)
                tab.sees("System", *words)
                assert tab.page.title() == f"{words[0]} · safesh"
                tab.check()
                if where == "monitor":
                    tab.search("robot.py")
                if RENEWED and where in ("", "instance"):  # until the curves have some points
                    tab.press("2 s")
                    tab.page.wait_for_timeout(16000)
                tab.settle()
                picture = pictures / f"dashboard-{where or 'overview'}-{scheme}.png"
                picture.write_bytes(tab.page.screenshot())
                if RENEWED:
                    shrink(picture)
                assert picture.stat().st_size < 200 * 1024
        # The server is a Python process, and Streamlit; it tells of neither.
        assert "server.py" not in tab.text()
        tab.press("All")
        tab.search(f"^({server.child.pid}|{pid_of(home, 'clock', 'rover')}) ")
        tab.sees("sleep 1000", "1 of ")
        assert str(server.child.pid) not in tab.page.locator("canvas td").all_text_contents()


def shrink(picture: Path) -> None:
    """Fewer colours than a screen has: half the bytes, and nobody sees it."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(colors=255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    made = io.BytesIO()
    small.save(made, "PNG", optimize=True)
    if len(made.getvalue()) < picture.stat().st_size:
        picture.write_bytes(made.getvalue())


def test_a_page_refreshes_by_itself_and_rests_when_told_to(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    """No safe.toml, a wrong one, a right one, a target that runs, then none: nobody touches the page."""
    server = serve()
    tab.open(server)
    tab.press("2 s")
    tab.sees("No safe.toml here or above", "Next:", "safe.sh init")
    home.write_config("[targets.clock]\ncomand = 'x'\n")
    tab.sees("safe.toml", "comand")
    home.write_config(CONFIG)
    tab.sees("rover / clock", "○ not running", "0 of 3", "every 2 s")
    with safe.started("clock"):
        tab.sees("● running", "1 of 3")
    tab.sees("0 of 3")
    tab.press("off")
    tab.sees("auto-refresh is off")
    tab.page.wait_for_timeout(2000)  # what the click draws, and what a curve's end may still take
    tab.settle()
    seconds = rounds(5, 20)
    before, text = busy_ticks(server.child.pid), tab.text()
    tab.page.wait_for_timeout(seconds * 1000)  # this is the measurement, not a wait for something
    share = (busy_ticks(server.child.pid) - before) / os.sysconf("SC_CLK_TCK") / seconds
    print(f"an idle open tab costs {share:.2%} of a core")
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
        tab.until(lambda: tab.buttons() == ["Start", "Stop…", "Restart…", "Kill all…"], 15)
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
        tab.until(lambda: pid_of(home, "clock") not in (0, pid))
        pid = pid_of(home, "clock")
        start = start_of(pid)
        tab.sees("clock: runs, pid")

        tab.click("Stop…")
        tab.click("Stop 1 process")
        tab.sees("nobody is left", "not running")
        assert not alive(pid, start)
        tab.check()
    finally:
        safe("stop", "--force", "--now", "clock")


@pytest.mark.pidns
@full
def test_kill_all_by_clicking_ends_what_it_listed_and_nobody_else(
    home: Home, safe: Safe, serve: Serve, tmp_path: Path
) -> None:
    require_pidns()
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    home.write_config("[targets.a]\ncommand = ['sleep', '1001']\n[targets.b]\ncommand = ['sleep', '1002']\n")
    with (
        safe.started("a"),
        safe.started("b"),
        playwright.sync_playwright() as manager,  # in here, whatever was begun in a test has to end in it
        chromium(manager.chromium, str(tmp_path)) as own,
        tab_of(own) as tab,
    ):
        mine = [(pid, start_of(pid)) for pid in (pid_of(home, "a"), pid_of(home, "b"))]
        tab.open(serve())
        tab.click("Kill all…")
        tab.sees("2 processes", "will end:", "sleep 1001", "sleep 1002", *(str(pid) for pid, _start in mine))
        tab.click("Leave them alone")
        tab.until(lambda: tab.page.get_by_role("dialog").count() == 0)
        assert all(alive(*one) for one in mine)
        tab.click("Kill all…")
        tab.click("Kill all 2 processes")
        tab.sees("a: nobody is left", "b: nobody is left")
        assert not any(alive(*one) for one in mine)
        tab.check()


@full
def test_a_row_opens_its_instance_and_an_address_does(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    server = serve()
    tab.open(server, "instance?instance=clock")
    tab.sees("rover / clock")
    assert tab.page.url.endswith("instance?instance=rover%2Fclock")
    tab.open(server, "instance?instance=nobody")  # the first, then
    tab.sees("rover / robot")
    tab.open(server)
    tab.sees("rover / job")
    box = tab.page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    tab.page.mouse.click(box["x"] + 15, box["y"] + 35 * 3 + 17)  # the box before the third row
    tab.until(lambda: tab.page.url.endswith("instance?instance=rover%2Fjob"))
    tab.check()


@full
def test_processes_are_filtered_and_sorted(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.a]\ncommand = ['sleep', '1003']\n[targets.b]\ncommand = ['sleep', '1004']\n")
    with safe.started("a"), safe.started("b"):
        tab.open(serve("--read-only"), "monitor")
        tab.press("All")
        tab.search("^[0-9]+ sleep 100[34]$")
        tab.until(lambda: len(tab.column("Pid")) == 2)
        for order, name, down in (("Pid", "Pid", False), ("Memory", "Memory MiB", True), ("CPU", "CPU %", True)):
            tab.pick("Sort by", order)

            def in_order(name: str = name, down: bool = down) -> bool:
                told = [float(one) for one in tab.column(name)]
                return len(told) == 2 and told == sorted(told, reverse=down)

            tab.until(in_order)
        assert set(tab.column("")) <= {"●", "▲", "▲▲", "·"}
        tab.type("Filter", "no such process at all")
        tab.sees("No process matches.")
        tab.check()


@full
def test_a_log_is_searched(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.talk]\ncommand = ['sh', '-c', 'seq -f \"line %g.\" 300; exec sleep 1000']\n")
    with safe.started("talk"):
        tab.open(serve("--read-only"), "instance")
        tab.sees("line 300.", "line 101.")
        assert "line 100.\n" not in tab.text()
        tab.type("Search", r"line (7|299)\.")
        tab.until(lambda: "line 299." in tab.text() and "line 300." not in tab.text())
        assert "line 7." not in tab.text()
        tab.pick("Lines", "1000")
        tab.sees("line 7.")
        tab.type("Search", "nobody said that")
        tab.sees("No line has it.")
        tab.check()


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
        tab.press("2 s")
        tab.sees("live: running", "▶ running", "○ waiting", "half of it", "0 of 2")
        (home.project / "go").touch()
        tab.sees("live: completed", "✔ completed", "2 of 2", "When each step ran")  # nobody touched the page
        assert child.wait(20) == 0
    tab.check()


@full
def test_the_history_is_renewed_and_downloaded_as_csv(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.job]\ncommand = ['sh', '-c', 'exit 3']\n[targets.second]\ncommand = ['true']\n")
    safe("start", "job").check(3)
    tab.open(serve("--read-only"), "history")
    tab.press("2 s")
    tab.sees("exited with code 3")
    safe("start", "second").check(0)
    tab.until(lambda: tab.column("Target", 0) == ["second", "job"])  # nobody touched the page
    with tab.page.expect_download() as waited:
        tab.page.locator("[data-testid=stDownloadButton] button").click()
    assert waited.value.suggested_filename == "safesh-runs.csv"
    assert Path(waited.value.path()).read_text() == safe("history", "--csv").check().out
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
