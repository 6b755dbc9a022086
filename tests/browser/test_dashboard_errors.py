"""What is wrong is told in a line, with the next step, and never as a traceback: each kind, in a real browser."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from helpers.campaign import full
from helpers.home import Home, Safe
from helpers.procs import alive, send, start_of, wait_until

Serve = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)

CONFIG = """
[targets.clock]
command = ["sleep", "1000"]

[targets.job]
command = ["sh", "-c", "echo it is broken; exit 3"]
"""


def record(home: Home, name: str) -> Any:
    return json.loads(home.state_file(f"{name}.json").read_text())


@full
def test_a_safe_toml_that_breaks_keeps_its_last_sense(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    tab.open(serve("--read-only"))
    tab.press("2 s")
    tab.sees("proj / clock", "not running")
    home.write_config("[targets.clock]\ncomand = 'x'\n")
    tab.sees("comand", "proj / clock")  # what it said last still counts
    tab.check()


@full
def test_no_safe_toml_is_told_with_the_next_step(home: Home, serve: Serve, tab: Any) -> None:
    server = serve()
    for where in ("", "instance"):
        tab.open(server, where)
        tab.sees("No safe.toml here or above", "safe.sh init")
    tab.open(server, "plans")
    tab.sees("No plan has been run here", "safe.sh run")
    tab.open(server, "history")
    tab.sees("No history yet", "safe.sh start")
    tab.check()


@full
def test_a_wrong_safe_toml_is_told_with_its_place(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.a]\ncomand = 'x'\n")
    server = serve()
    for where in ("", "instance", "history"):
        tab.open(server, where)
        tab.sees("safe.toml", "comand", "Next:")
        tab.check()


@full
def test_a_corrupt_record_is_told_by_name(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    safe("start", "--detach", "job")
    wait_until(lambda: safe("status", "job", "--json").json()["instances"][0]["code"] == 3)
    home.state_file("job.json").write_text("{half")
    server = serve()
    for where in ("", "instance?instance=job"):
        tab.open(server, where)
        tab.sees("job.json")
        tab.check()


@full
@pytest.mark.parametrize("kind", ["link", "garbage", "folder"])
def test_a_damaged_history_is_told(home: Home, safe: Safe, serve: Serve, tab: Any, kind: str) -> None:
    home.write_config(CONFIG)
    safe("start", "job").check(3)
    safe("history").check()
    file = home.state_file("history.db")
    for name in (file, file.with_name("history.db-wal"), file.with_name("history.db-shm")):
        name.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to("/dev/null")
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
        file.chmod(0o600)
    tab.open(serve(), "history")
    tab.press("2 s")
    words = {"link": "symlink", "garbage": "was damaged", "folder": "history.db"}
    tab.sees("history.db", words[kind])
    tab.page.wait_for_timeout(2500)  # the next look, which finds a repaired history in order, must tell it still
    tab.sees("history.db", words[kind])
    tab.check()


@full
@pytest.mark.parametrize("text", ["{half", "[]", '{"v": 99}', '{"v": 1, "plan_id": "x"}', None, "closed"])
def test_a_broken_plan_folder_is_told(home: Home, serve: Serve, tab: Any, text: str | None) -> None:
    folder = home.project / "out"
    folder.mkdir()
    if text == "closed":  # not even root reads what is no file
        (folder / "result.json").mkdir()
    elif text is not None:
        (folder / "result.json").write_text(text)
    server = serve("--plan", "out")
    tab.open(server, "plans")
    tab.sees("result.json", "Next:")
    tab.check()


@full
def test_a_supervisor_that_was_stopped_is_told_and_can_still_be_ended(
    home: Home, safe: Safe, serve: Serve, tab: Any
) -> None:
    home.write_config(CONFIG)
    with safe.started("clock"):
        told = record(home, "clock")
        pid, main = told["supervisor"]["pid"], told["main"]["pid"]
        began, start = start_of(pid), start_of(main)
        assert send(pid, began, signal.SIGSTOP)
        try:
            server = serve()
            for where in ("", "instance?instance=clock"):
                tab.open(server, where)
                tab.sees(f"its supervisor, pid {pid}, is stopped", f"Next: kill -CONT {pid}")
            tab.click("Stop…")
            tab.click("Stop 1 process")
            tab.sees("nobody is left")
            assert not alive(main, start)
            tab.check()
        finally:
            send(pid, began, signal.SIGCONT)


@full
def test_an_instance_that_goes_while_its_page_is_open_is_told(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    tab.open(serve(), "instance?instance=job")
    tab.press("2 s")
    tab.sees("proj / job", "not running")
    home.write_config("[targets.clock]\ncommand = ['sleep', '1000']\n")
    tab.sees("It is not known here any more.", "Next:")
    tab.page.get_by_role("link", name="Overview").click()
    tab.sees("proj / clock")
    tab.page.get_by_role("link", name="Instance").click()
    tab.sees("proj / clock", "not running")
    tab.check()


@full
def test_a_start_that_fails_is_told(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.lost]\ncommand = ['/nowhere/at-all']\n")
    tab.open(serve(), "instance")
    tab.click("Start")
    tab.sees("/nowhere/at-all", "Dismiss")
    tab.click("Dismiss")
    tab.until(lambda: "Dismiss" not in tab.text())
    tab.check()


@full
def test_an_action_that_is_refused_is_told(home: Home, serve: Serve, tab: Any) -> None:
    home.write_config("[targets.large]\ncommand = ['sleep', '1000']\nadmission = { memory = 1 }\n")
    tab.open(serve(), "instance")
    tab.click("Start")
    tab.sees("does not fit", "memory", "Dismiss", "not running")
    assert not home.state_file("large.pid").exists()
    tab.check()


@full
def test_a_click_on_a_page_older_than_the_world_does_no_harm(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    """Somebody else has started it meanwhile, then stopped it, then taken it away."""
    home.write_config(CONFIG)
    server = serve()
    tab.open(server, "instance?instance=clock")
    tab.press("off")
    tab.sees("auto-refresh is off", "not running")
    with safe.started("clock"):
        pid = record(home, "clock")["main"]["pid"]
        start = start_of(pid)
        tab.click("Start")
        tab.sees(str(pid))
        tab.settle()
        assert alive(pid, start)
        assert record(home, "clock")["main"]["pid"] == pid
    tab.click("Stop…")
    tab.sees("not running")
    tab.settle()
    assert tab.page.get_by_role("dialog").count() == 0
    home.write_config("[targets.other]\ncommand = 'true'\n")
    tab.click("Start")
    tab.until(lambda: "no target 'clock'" in tab.text() or "proj / other" in tab.text())  # as old as it was
    tab.check()


@full
def test_a_log_that_cannot_be_read_is_told(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    with safe.started("clock"):
        log = home.state_file("clock.log")
        log.unlink()
        log.mkdir()
        tab.open(serve(), "instance?instance=clock")
        tab.sees("clock.log: is not a regular file", "Next:")
        tab.check()
