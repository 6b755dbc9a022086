"""The dashboard served for a test, and a headless Chromium that looks at it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers.home import ROOT, Home, Safe
from helpers.procs import Spawn, wait_until

HOW = "apt-get install chromium, or python -m playwright install chromium, or SAFESH_TEST_CHROMIUM=/path/to/it"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_CHOSEN = os.environ.get("SAFESH_TEST_CHROMIUM") or os.environ.get("SAFESH_CHROMIUM")  # before a test's home clears it


def find_chromium(own: str) -> str:
    """An executable: the one named, one in PATH, else Playwright's own; skips where there is none."""
    found = _CHOSEN or next((path for path in map(shutil.which, _NAMES) if path), "") or own
    if not os.path.exists(found):
        pytest.skip(f"no Chromium here: {HOW}")
    return found


def require_streamlit() -> None:
    """Not imported: it changes the environment of whoever does."""
    if importlib.util.find_spec("streamlit") is None:
        pytest.skip("no Streamlit here: pip install 'safesh[dashboard]'")


class Server:
    """A dashboard that serves."""

    def __init__(self, child: Spawn, url: str, token: str) -> None:
        self.child = child
        self.url = url
        self.token = token


class Tab:
    """One page of the dashboard in the browser."""

    def __init__(self, page: Any, requests: list[str]) -> None:
        self.page = page
        self.requests = requests

    def open(self, server: Server, where: str = "") -> None:
        self.page.goto(f"{server.url}/{where}")
        self.page.wait_for_selector("h1", timeout=30000)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being drawn."""
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=30000)

    def text(self) -> str:
        """All that is shown, tables included: they keep their cells beside the canvas for screen readers."""
        return "\n".join([self.page.inner_text("body"), *self.page.locator("canvas td, canvas th").all_text_contents()])

    def sees(self, *words: str) -> None:
        """Wait until all of them are shown."""

        def shown() -> bool:
            text = self.text()
            missing = [word for word in words if word not in text]
            assert not missing, f"{missing} not in: {text}"
            return True

        self.until(shown)

    def until(self, condition: Callable[[], object], deadline: float = 20) -> None:
        """As ``wait_until``, with the browser's own events let through."""

        def step() -> object:
            self.page.wait_for_timeout(50)
            return condition()

        wait_until(step, deadline)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click(timeout=20000)

    def search(self, text: str) -> None:
        """Filter the processes."""
        field = self.page.get_by_placeholder("pid, name or command")
        field.fill(text)
        field.press("Enter")
        self.until(lambda: all(re.search(text, one) for one in self.commands()))
        self.settle()

    def commands(self) -> list[str]:
        """``PID NAME COMMAND`` of each process that is listed."""
        rows = self.page.locator("canvas tbody tr").all()
        cells = [row.locator("td").all_text_contents() for row in rows]
        return [f"{cell[3]} {cell[-1]}" for cell in cells if len(cell) > 7]

    def buttons(self) -> list[str]:
        """The labels of the buttons in the page's own part, pictures left out."""
        found = self.page.locator("[data-testid=stMain] [data-testid=stButton] button").all_inner_texts()
        return [text.split("\n")[-1] for text in found]

    def check(self) -> None:
        """No traceback, and nothing asked of anybody but the server."""
        assert self.page.locator("[data-testid=stException]").count() == 0, self.text()
        assert not [one for one in self.requests if not re.match(r"(https?|ws)://127\.0\.0\.1:|data:|blob:", one)]


@pytest.fixture
def serve(home: Home, safe: Safe) -> Iterator[Callable[..., Server]]:
    """``serve("--read-only")`` starts a dashboard in the test's project; it is ended with all it started."""
    require_streamlit()
    with ExitStack() as stack:

        def start(*arguments: str) -> Server:
            child = stack.enter_context(safe.spawn("dashboard", "--port", "0", *arguments, whole=True))
            url = child.wait_line(r"dashboard at (http://\S+)", 30, stream="err")[1]
            token = ""
            if "--token" in arguments:
                token = child.wait_line(r"token for actions: (\S+)", 10, stream="err")[1]

            def answers() -> bool:
                assert child.returncode is None, child.err
                try:
                    with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
                        return bool(answer.status == 200)
                except urllib.error.HTTPError as error:
                    error.close()
                    return False
                except OSError:
                    return False

            wait_until(answers, 60)
            return Server(child, url, token)

        yield start


@pytest.fixture
def tab(home: Home) -> Iterator[Tab]:
    """A tab of a Chromium of its own, light; ``tab.page.emulate_media(color_scheme="dark")`` makes it dark."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as manager:
        browser = manager.chromium.launch(
            executable_path=find_chromium(manager.chromium.executable_path),
            # Root has no sandbox (docs of Chromium); a container may have a small /dev/shm.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            yield Tab(page, requests)
        finally:
            browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: $SAFESH_TEST_PICTURES (docs/images, to renew them), else nowhere that stays."""
    folder = ROOT / (os.environ.get("SAFESH_TEST_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
