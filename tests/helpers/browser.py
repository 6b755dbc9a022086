"""A dashboard served for a test, and a headless Chromium that looks at it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from helpers.home import ROOT
from helpers.leaks import SESSION_MARK
from helpers.procs import Spawn, wait_until

HOW = "apt-get install chromium, or python -m playwright install chromium, or SAFESH_TEST_CHROMIUM=/path/to/it"
APP = ROOT / "supervisor" / "safesh" / "dashboard" / "app.py"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_CHOSEN = os.environ.get("SAFESH_TEST_CHROMIUM") or os.environ.get("SAFESH_CHROMIUM")  # before a test's home clears it
WIDE = {"width": 1280, "height": 900}


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


@contextmanager
def chromium(kind: Any, folder: str, through: Sequence[str] = (), *flags: str) -> Iterator[Any]:
    """A Chromium. kind: Playwright's own word for it (``manager.chromium``, ``browser.browser_type``); folder: its
    HOME; through: a command that starts it elsewhere."""
    program = find_chromium(kind.executable_path)
    if through:
        wrapper = os.path.join(folder, "chromium-elsewhere")
        with open(wrapper, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {" ".join(through)} {program} "$@"\n')
        os.chmod(wrapper, 0o755)
        program = wrapper
    # It is there for several tests, so what it starts during one of them is not that test's.
    environment = {key: value for key, value in os.environ.items() if key != SESSION_MARK} | {"HOME": folder}
    # Root has no sandbox (docs of Chromium); a container may have a small /dev/shm.
    always = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    browser = kind.launch(executable_path=program, env=environment, args=[*always, *flags])
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def tab_of(browser: Any) -> Iterator[Tab]:
    """A tab of its own, light; ``tab.page.emulate_media(color_scheme="dark")`` makes it dark."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    try:
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        yield Tab(page, requests)
    finally:
        context.close()


class Server:
    """A dashboard that serves."""

    def __init__(self, child: Spawn, url: str, token: str = "") -> None:
        self.child = child
        self.url = url
        self.token = token

    def wait(self) -> None:
        """Until it answers."""

        def answers() -> bool:
            assert self.child.returncode is None, self.child.err
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as error:
                error.close()
                return False
            except OSError:
                return False

        wait_until(answers, 60)


class Tab:
    """One page of the dashboard in the browser."""

    def __init__(self, page: Any, requests: list[str]) -> None:
        self.page = page
        self.requests = requests

    def open(self, server: Server, where: str = "") -> None:
        self.page.goto(f"{server.url}/{where}")
        self.page.wait_for_selector("h1", timeout=60000)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being drawn."""
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60000)

    def text(self) -> str:
        """All that is shown: what fields hold too, and tables, whose cells stand beside their canvas."""
        cells = self.page.locator("canvas td, canvas th").all_text_contents()
        fields = self.page.eval_on_selector_all("input:not([type=password])", "all => all.map(one => one.value)")
        return "\n".join([self.page.inner_text("body"), *cells, *fields])

    def sees(self, *words: str) -> None:
        """Wait until all of them are shown."""

        def shown() -> bool:
            text = self.text()
            missing = [word for word in words if word not in text]
            assert not missing, f"{missing} not in: {text}"
            return True

        self.until(shown)

    def until(self, condition: Callable[[], object], deadline: float = 45) -> None:
        """As ``wait_until``, with the browser's own events let through."""

        def step() -> object:
            self.page.wait_for_timeout(50)
            return condition()

        wait_until(step, deadline)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click(timeout=45000)

    def press(self, name: str) -> None:
        """One of a row of choices (auto-refresh, which processes)."""
        self.page.get_by_text(name, exact=True).click()

    def pick(self, label: str, option: str) -> None:
        """An option of a list."""
        self.page.get_by_role("combobox", name=re.compile(label)).click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.settle()

    def type(self, label: str, text: str) -> None:
        field = self.page.locator("input").and_(self.page.get_by_label(label))
        field.fill(text)
        field.press("Enter")

    def search(self, text: str) -> None:
        """Filter the processes."""
        self.type("Filter", text)
        self.until(lambda: all(re.search(text, one) for one in self.commands()))
        self.settle()

    def column(self, name: str, table: int = -1) -> list[str]:
        """A column's cells, from top to bottom; nothing while the table is not there."""
        tables = self.page.locator("[data-testid=stDataFrame] canvas:has(table)")
        canvas = tables.nth(table if table >= 0 else tables.count() + table)
        heads = canvas.locator("thead th").all_text_contents()
        if name not in heads:
            return []  # not drawn yet
        place = heads.index(name)
        return [row.locator("td").nth(place).text_content() or "" for row in canvas.locator("tbody tr").all()]

    def commands(self) -> list[str]:
        """``PID NAME COMMAND`` of each process that is listed."""
        rows = self.page.locator("canvas tbody tr").all()
        cells = [row.locator("td").all_text_contents() for row in rows]
        return [f"{cell[3]} {cell[-1]}" for cell in cells if len(cell) > 7]

    def buttons(self) -> list[str]:
        """The labels of the buttons in the page's own part, pictures left out."""
        found = self.page.locator("[data-testid=stMain] [data-testid=stButton] button").all_inner_texts()
        return [text.split("\n")[-1] for text in found]

    def check(self, host: str = "127.0.0.1") -> None:
        """No traceback, and nothing asked of anybody but the server."""
        assert self.page.locator("[data-testid=stException]").count() == 0, self.text()
        assert "Traceback" not in self.text()
        own = re.compile(rf"(https?|ws)://{re.escape(host)}:|data:|blob:")
        foreign = [one for one in self.requests if not own.match(one)]
        assert not foreign, foreign
