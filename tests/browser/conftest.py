"""A dashboard served for a test, and a tab of a headless Chromium that looks at it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import Server, Tab, chromium, require_streamlit, tab_of
from helpers.home import ROOT, Home, Safe


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for a file's tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    folder = str(tmp_path_factory.mktemp("chromium"))
    with playwright.sync_playwright() as manager, chromium(manager.chromium, folder) as one:
        yield one


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """A tab that no other test had."""
    with tab_of(browser) as one:
        yield one


@pytest.fixture
def serve(home: Home, safe: Safe) -> Iterator[Callable[..., Server]]:
    """``serve("--read-only", env={...})`` starts a dashboard in the test's project; it is ended with all it started."""
    require_streamlit()
    with ExitStack() as stack:

        def start(*arguments: str, env: Mapping[str, str] | None = None) -> Server:
            child = stack.enter_context(safe.spawn("dashboard", "--port", "0", *arguments, whole=True, env=env))
            url = child.wait_line(r"dashboard at (http://\S+)", 30, stream="err")[1]
            server = Server(child, url)
            if "--token" in arguments:
                server.token = child.wait_line(r"token: (\S+)", 10, stream="err")[1]
            server.wait()
            return server

        yield start


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: $SAFESH_TEST_PICTURES (docs/images, to renew them), else nowhere that stays."""
    folder = ROOT / (os.environ.get("SAFESH_TEST_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
