"""Who may see the dashboard and who may act: the token, read-only, foreign pages, and what is typed into it."""

from __future__ import annotations

import base64
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import APP, Server, chromium, require_streamlit, tab_of
from helpers.campaign import full
from helpers.home import SUPERVISOR, Home, Safe
from helpers.procs import spawn, wait_until

Serve = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)

CONFIG = "[targets.clock]\ncommand = ['sleep', '1000']\n"
PAGES = ("", "instance", "plans", "history", "monitor")
OUTSIDE = "10.77.0.1"  # an address that is not loopback, in a network that has nobody else
SHUT = "clock", "sleep", "Overview", "Monitor", "Auto-refresh", "Start", "Kill all"


@full
def test_read_only_has_no_buttons(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    with safe.started("clock"):
        server = serve("--read-only")
        for where in PAGES:
            tab.open(server, where)
            tab.sees("Read-only")
            assert tab.buttons() == []
        tab.check()


@full
def test_nothing_is_shown_without_the_token(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(CONFIG)
    with safe.started("clock"):
        server = serve("--token")
        assert len(server.token) >= 32
        assert server.token not in Path(f"/proc/{server.child.pid}/cmdline").read_text()
        check_token(tab, server)
        told = server.child.out + server.child.err
        assert told.count(server.token) == 1  # where it was printed, and in no line of a log
        for folder, _folders, names in os.walk(home.path.parent):
            for name in names:
                file = Path(folder) / name
                assert not file.is_file() or server.token.encode() not in file.read_bytes(), file


def check_token(tab: Any, server: Server) -> None:
    """Nothing without the token, nothing with a wrong one, everything with the right one."""
    for where in PAGES:
        tab.open(server, where)
        tab.sees("Token")
        assert_shut(tab)
    for guess in ("guessed", server.token[:-1], server.token + "x", server.token.swapcase()):
        tab.type("The token that", guess)
        tab.sees("This is not the token.", "Next:")
        assert_shut(tab)
    tab.open(server, "instance")
    tab.type("The token that", server.token)
    tab.sees("clock", "sleep 1000", "Auto-refresh")
    tab.until(lambda: "Stop…" in tab.buttons())
    assert server.token not in tab.page.content()
    tab.page.get_by_role("link", name="History").click()  # another page of the same tab does not ask again
    tab.sees("How far back")


def assert_shut(tab: Any) -> None:
    shown = tab.text() + tab.page.title()
    assert not [word for word in SHUT if word in shown], shown
    assert tab.buttons() == []


# --- beyond loopback ------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[list[str]]:
    """The command that runs its arguments in a network of its own, whose only machine has OUTSIDE as its address."""
    setup = f"ip link set lo up && ip addr add {OUTSIDE}/32 dev lo && echo ready && exec sleep 170"
    with ExitStack() as stack:
        try:
            child = stack.enter_context(spawn("unshare", "--net", "sh", "-c", setup))
            child.wait_line("ready", 10)
        except (OSError, AssertionError) as error:
            pytest.skip(f"no network namespace here: {str(error).splitlines()[0]}")
        yield ["nsenter", f"--net=/proc/{child.pid}/ns/net"]


@contextmanager
def tab_inside(browser: Any, network: list[str], folder: Path) -> Iterator[Any]:
    with chromium(browser.browser_type, str(folder), network) as inside, tab_of(inside) as tab:
        yield tab


@full
def test_beyond_loopback_everything_needs_the_token(
    home: Home, safe: Safe, browser: Any, network: list[str], tmp_path: Path
) -> None:
    require_streamlit()
    home.write_config(CONFIG)
    words = [*network, sys.executable, "-E", "-s", "-S", str(SUPERVISOR / "safesh" / "__main__.py")]
    with (
        safe.started("clock"),
        spawn(*words, "dashboard", "--host", "0.0.0.0", "--port", "8599", whole=True) as child,
        tab_inside(browser, network, tmp_path) as tab,
    ):
        child.wait_line("can be reached from other machines", 30, stream="err")
        server = Server(child, f"http://{OUTSIDE}:8599", child.wait_line(r"token: (\S+)", 10, stream="err")[1])
        wait_until(lambda: listens_at(child.pid, 8599) == {"00000000"}, 60)
        check_token(tab, server)
        tab.check(OUTSIDE)


@full
def test_an_app_started_by_hand_beyond_loopback_makes_a_token(
    home: Home, browser: Any, network: list[str], tmp_path: Path
) -> None:
    require_streamlit()
    home.write_config(CONFIG)
    words = [*network, sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", "8599",
             "--server.headless", "true", "--browser.gatherUsageStats", "false"]  # fmt: skip
    with spawn(*words, whole=True) as child, tab_inside(browser, network, tmp_path) as tab:
        wait_until(lambda: listens_at(child.pid, 8599), 60)
        server = Server(child, f"http://{OUTSIDE}:8599")
        tab.open(server)
        tab.sees("Token")
        assert_shut(tab)
        token = child.wait_line(r"other machines; token: (\S+)", 10, stream="err")[1]
        tab.type("The token that", token)
        tab.sees("clock", "Kill all…")


@full
def test_an_app_started_by_hand_on_loopback_is_the_same(home: Home, tab: Any) -> None:
    require_streamlit()
    home.write_config(CONFIG)
    port = free_port()
    words = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port), "--server.address",
             "127.0.0.1", "--server.headless", "true", "--browser.gatherUsageStats", "false"]  # fmt: skip
    with spawn(*words, "--", "--read-only", whole=True) as child:
        server = Server(child, f"http://127.0.0.1:{port}")
        server.wait()
        assert listens_at(child.pid, port) == {"0100007F"}
        tab.open(server)
        tab.sees("clock", "Read-only")
        tab.check()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens_at(pid: int, port: int) -> set[str]:
    """The addresses, as /proc/PID/net/tcp tells them, that somebody listens at with this port there."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _colon, number = fields[1].rpartition(":")
            if fields[3] == "0A" and int(number, 16) == port:
                found.add(address)
    return found


# --- foreign pages --------------------------------------------------------------------------------


def shake_hands(port: int, host: str, origin: str) -> int:
    """The status that a websocket opened by a page of ``origin`` gets."""
    key = base64.b64encode(b"0123456789abcdef").decode()
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Origin: {origin}", "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.settimeout(10)
        one.sendall("\r\n".join(lines).encode())
        return int(one.recv(4096).split(b" ", 2)[1])


@full
def test_foreign_pages_reach_nothing(home: Home, serve: Serve, browser: Any, tmp_path: Path) -> None:
    home.write_config(CONFIG)
    server = serve()
    port = int(server.url.rpartition(":")[2])
    assert listens_at(server.child.pid, port) == {"0100007F"}  # loopback, and nothing else
    assert shake_hands(port, f"127.0.0.1:{port}", f"http://127.0.0.1:{port}") == 101
    assert shake_hands(port, f"127.0.0.1:{port}", "http://evil.example") == 403
    # A foreign name that was made to lead here: its page is of one origin with us, as the browser sees it.
    with tab_of(browser) as tab:
        tab.page.goto(f"http://127.0.0.1:{port}/")
        tab.sees("clock")
    leads_here = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with chromium(browser.browser_type, str(tmp_path), (), leads_here) as own, tab_of(own) as tab:
        tab.page.goto(f"http://evil.example:{port}/instance")
        tab.sees("This name is not served", "Next:")
        assert_shut(tab)


# --- what is typed --------------------------------------------------------------------------------

TYPED = (
    "$(touch caught)",
    "`touch caught`",
    "; touch caught #",
    "| touch caught",
    "a' OR 1=1 --",
    "<img src=x onerror=x>",
)


@full
def test_what_is_typed_or_named_is_never_executed(
    home: Home, safe: Safe, serve: Serve, tab: Any, rng: random.Random
) -> None:
    names = ["$(touch${IFS}caught)", "`touch${IFS}caught`", "a;touch${IFS}caught", "b|touch${IFS}caught"]
    text = "".join(f"[targets.'{name}']\ncommand = ['sleep', '1000']\n" for name in names)
    home.write_config(text)
    server = serve()
    try:
        for name in names:
            tab.open(server, f"instance?instance={name.replace('$', '%24').replace('{', '%7B').replace('}', '%7D')}")
            tab.until(lambda: "Stop…" in tab.buttons())
            tab.click("Start")
            tab.sees(f"{name}: runs, pid", "running")
            tab.click("Restart…")
            tab.click("Restart 1 process")
            tab.until(lambda: tab.page.get_by_role("dialog").count() == 0)
            tab.sees(f"{name}: runs, pid")
            for typed in TYPED:
                tab.type("Search", typed)
                tab.settle()
            tab.click("Stop…")
            tab.click("Stop 1 process")
            tab.sees("nobody is left")
        tab.open(server, "monitor")
        odd = "".join(chr(one) for one in (*range(32, 127), 0xA0, 0x202E, 0x1F600, 0xFFFD))
        for typed in (*TYPED, "x" * 5000, *("".join(rng.choices(odd, k=rng.randrange(1, 40))) for _ in range(15))):
            tab.type("Filter", typed)
            tab.settle()
        tab.check()
        found = subprocess.run(["find", home.path.parent, "-name", "*caught"], stdout=subprocess.PIPE, check=True)
        assert found.stdout == b""
    finally:
        for name in names:
            safe("stop", "--force", "--now", name)


@full
def test_an_expression_without_an_end_holds_nobody_up(home: Home, safe: Safe, serve: Serve, tab: Any) -> None:
    home.write_config(f"[targets.talk]\ncommand = ['sh', '-c', 'echo {'a' * 60}; exec sleep 1000']\n")
    with safe.started("talk"):
        server = serve("--read-only")
        tab.open(server, "instance")
        tab.type("Search", "(a|aa)+$x")
        tab.sees("takes too long", "simpler expression")
        tab.type("Search", "a{20}")
        tab.sees("a" * 60)
        tab.check()
