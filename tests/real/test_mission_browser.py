"""Missions with a browser, where Playwright and a Chromium are installed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers import commands, procs
from helpers.home import SUPERVISOR, Home, Safe
from safesh.mission.errors import BrowserMissing
from safesh.mission.model import Mission
from safesh.mission.runner import TaskRunner

HAS_PLAYWRIGHT = find_spec("playwright") is not None
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
real = pytest.mark.skipif(
    not (HAS_PLAYWRIGHT and CHROMIUM), reason="needs Playwright (extra browser) and a Chromium (apt install chromium)"
)
PAGE = "page.set_content('<h1 id=x>hello there</h1>')\nprint(page.inner_text('#x'))\n"


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


@pytest.fixture(autouse=True)
def _own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests' browsers leave and take profiles meanwhile. A short name: Chromium makes a socket in it."""
    with tempfile.TemporaryDirectory(prefix="sft-br") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture
def runner(home: Home) -> Iterator[TaskRunner]:
    with TaskRunner("d", log=False, thresholds=False) as one:
        yield one


def profiles() -> set[str]:
    return {one for one in os.listdir(tempfile.gettempdir()) if one.startswith(("safesh-", "playwright"))}


def browsers(home: Home) -> list[procs.Process]:
    """Chromium's processes of this test: the others have another home."""
    return [one for one in procs.marked("SAFESH_HOME", str(home.state)) if "chrom" in one.command]


@real
def test_the_code_finds_a_browser_and_a_page_and_nothing_of_them_stays(runner: TaskRunner, home: Home) -> None:
    before = profiles()
    result = runner.execute_mission(Mission("shot", PAGE + "print(browser.version)", [], True, timeout=60), "s")
    assert result.success, result
    assert result.stdout.startswith("hello there\n")
    assert browsers(home) == []
    assert profiles() == before


@real
def test_a_failure_has_the_codes_own_traceback_and_the_browser_goes(runner: TaskRunner, home: Home) -> None:
    result = runner.execute_mission(Mission("shot", PAGE + "1 / 0\n", [], True, timeout=60), "s")
    assert result.return_code == 1
    assert "ZeroDivisionError" in result.reason
    assert "browser_boot" not in result.stderr
    assert browsers(home) == []
    exits = runner.execute_mission(Mission("shot", "import sys\nsys.exit(5)", [], True, timeout=60), "s")
    assert exits.return_code == 5


@real
def test_the_timeout_ends_the_browser_too(runner: TaskRunner, home: Home) -> None:
    before = profiles()
    code = PAGE + "import time\ntime.sleep(60)\n"
    result = runner.execute_mission(Mission("shot", code, [], True, timeout=8), "s")
    assert result.timed_out
    assert result.stdout == "hello there\n"
    assert browsers(home) == []
    assert profiles() == before


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from safesh import Mission, TaskRunner
code = "open('ready', 'w').close()\\nimport time\\ntime.sleep(60)\\n"
TaskRunner("d", thresholds=False, log=False).execute_mission(Mission("shot", code, [], True), "s")
"""


@real
def test_no_browser_survives_its_killed_caller(runner: TaskRunner, home: Home) -> None:
    before = profiles()
    with procs.spawn(sys.executable, "-c", CALLER, str(SUPERVISOR)) as caller:
        procs.wait_until((home.project / "ready").exists, 40)
        assert browsers(home)
        caller.send(signal.SIGKILL)
        caller.wait()
        procs.wait_until(lambda: not browsers(home) and not caller.members(), 15)  # its keeper, the last, too
    assert runner.execute_mission(Mission("next", "pass"), "s").success
    assert profiles() == before  # the profile of the killed one goes with the next mission


@real
def test_a_browser_may_be_kept_alive(runner: TaskRunner, home: Home, safe: Safe) -> None:
    code = PAGE + "import time\ntime.sleep(60)\n"
    try:
        result = runner.execute_mission(Mission("watch", code, [], True, True), "s")
        assert result.success, result
        procs.wait_until(lambda: "hello there" in safe("logs", "watch").check().out, 15)
        assert browsers(home)
    finally:
        safe("stop", "watch", "--force").check(0)
    assert browsers(home) == []


@real
def test_a_chromium_that_does_not_start_is_told(runner: TaskRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESH_CHROMIUM", shutil.which("false") or "/bin/false")
    result = runner.execute_mission(Mission("shot", PAGE, [], True, timeout=60), "s")
    assert isinstance(result.error, BrowserMissing)
    assert "no Chromium could be started" in result.reason
    assert "playwright install chromium" in result.error.hint


@pytest.mark.parametrize("keep_alive", [False, True], ids=["ended", "kept"])
def test_without_playwright_the_command_that_installs_it_is_told(
    home: Home, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch, keep_alive: bool
) -> None:
    bare = home.path / "bare"
    (bare / "bin").mkdir(parents=True)
    (bare / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    (bare / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    from safesh.mission import launching
    from safesh.mission.result import EnvironmentInfo

    here = EnvironmentInfo(path=str(bare), python=str(bare / "bin" / "python"))
    monkeypatch.setattr(launching, "current_interpreter", lambda: here)
    result = runner.execute_mission(Mission("shot", PAGE, [], True, keep_alive), "s")
    assert isinstance(result.error, BrowserMissing), result
    assert "needs Playwright" in result.reason
    assert "-m pip install 'safesh[browser]'" in result.error.hint
    assert result.error.exit_code == 69
