"""What a newcomer does, with the repository's own safe.toml and demo robot."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import pytest

from helpers import procs
from helpers.home import CLI, ROOT, Home, Safe


@pytest.fixture
def robot(home: Home) -> Path:
    """The repository's safe.toml in the test's project, on this test's Python."""
    text = (ROOT / "safe.toml").read_text()
    script = ROOT / "scripts" / "demo_robot.py"
    return home.write_config(text.replace('"python3", "scripts/demo_robot.py"', f'"{sys.executable}", "{script}"'))


def state_of(home: Home, name: str) -> Path:
    return home.state / "safesh-demo" / name


def test_start_in_one_terminal_and_everything_else_from_a_second(home: Home, safe: Safe, robot: Path) -> None:
    with safe.spawn("start", "headless", wrapper=True) as first:
        url = first.wait_line(r"robot ready: .* (http://127\.0\.0\.1:\d+/health)").group(1)
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert json.load(answer)
        said = safe("status", "headless", "--json", wrapper=True).check().json()["instances"][0]
        assert len(said["tree"]) == 3
        assert said["instance"] == "robot"
        with safe.spawn("logs", "-f", "headless", wrapper=True) as follower:
            follower.wait_line("robot ready")
        refused = safe("start", "headless", wrapper=True).check(75)
        assert f"held by pid {first.pid}" in refused.err
        assert "demo_robot.py" in refused.err
        assert "stop headless" in refused.err
        shared = safe("start", "gui", wrapper=True).check(75)
        assert "headless" in shared.err
        safe("stop", wrapper=True).check(2)
        assert first.alive()
        safe("stop", "--force", wrapper=True).check()
        first.wait_line("bye")
        assert first.wait() == 0
    safe("status", "headless", wrapper=True).check(3)
    safe("start", "headless", "--detach", wrapper=True).check()
    safe("kill-all", "--force", wrapper=True).check()
    safe("status", "headless", wrapper=True).check(3)


@pytest.mark.pidns
@pytest.mark.parametrize("verb", ["stop", "kill-all"])
def test_a_copy_started_by_hand_is_shown_refused_and_ended(home: Home, safe: Safe, robot: Path, verb: str) -> None:
    with procs.spawn(sys.executable, ROOT / "scripts" / "launch_robot.py", "--headless", cwd=ROOT) as copy:
        copy.wait_line("ready")
        shown = safe("status", "headless")
        assert shown.rc == 2
        assert f"{copy.pid}" in shown.out
        refused = safe("start", "headless", "--detach").check(75)
        assert f"pid {copy.pid} " in refused.err
        words = ["stop", "headless"] if verb == "stop" else ["kill-all"]
        safe(*words, "--force").check()
        assert not copy.alive()


@pytest.mark.pidns
def test_start_replace_ends_the_copy_and_takes_its_place(home: Home, safe: Safe, robot: Path) -> None:
    with procs.spawn(sys.executable, ROOT / "scripts" / "launch_robot.py", "--headless", cwd=ROOT) as copy:
        copy.wait_line("ready")
        safe("start", "headless", "--detach", "--replace", "--force").check()
        assert not copy.alive()
        safe("stop", "headless", "--force").check()


@pytest.mark.parametrize(
    "switches",
    [["--ignore-term"], ["--hang"], ["--daemonize-grandchild"], ["--close-stdio"], ["--crash-after", "0.2s"]],
    ids=lambda switches: switches[0].strip("-"),
)
def test_the_robot_may_misbehave_and_is_ended_whole(home: Home, safe: Safe, robot: Path, switches: list[str]) -> None:
    words = json.dumps(["--headless", "--port", "0", *switches])[1:-1]
    text = robot.read_text().replace('"--headless", "--port", "0"', words).replace('grace = "5s"', 'grace = "0.5s"')
    robot.write_text(text)
    safe("start", "headless", "--detach").check()
    record = json.loads(state_of(home, "robot.json").read_text())
    procs.wait_until(lambda: len(procs.tree_of(record["keeper"]["pid"])) >= 2 or "crash" in switches[0])
    safe("stop", "headless", "--force").check()
    assert procs.marked("SAFESH_INSTANCE", str(state_of(home, "robot"))) == []
    assert not any("demo_robot" in one.command and str(record["main"]["pid"]) in one.command
                   for one in procs.scan().values())  # fmt: skip


def test_a_target_gets_the_callers_environment_and_nothing_of_pythons(home: Home, safe: Safe) -> None:
    words = ["env", "-i", "PATH=/usr/bin:/bin", f"SAFESH_HOME={home.state}", *CLI, "start", "env", "--", "env"]
    with procs.spawn(*words) as child:
        assert child.wait() == 0
        seen = dict(line.split("=", 1) for line in child.out.splitlines() if "=" in line)
    assert set(seen) == {"PATH", "SAFESH_HOME", "SAFESH_RUN_ID", "SAFESH_TARGET", "SAFESH_INSTANCE"}
