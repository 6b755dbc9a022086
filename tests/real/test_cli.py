"""The command line as a whole process: exit statuses, streams that are closed, full or broken, and colour."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from helpers import procs
from helpers.home import CLI, Home, Safe
from helpers.procs import Spawn, wait_until

ONE = """
[targets.sleeper]
command = ["sleep", "600"]
stop = { grace = "2s" }
"""


def shell(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``script`` run by bash, where ``safesh`` is our command."""
    line = " ".join(f"'{word}'" for word in CLI)
    return subprocess.run(
        ["bash", "-c", f'safesh() {{ {line} "$@"; }}\n{script}'],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
        check=False,
    )


def on_a_terminal(*arguments: str, typed: bytes = b"", **env: str) -> tuple[int, str]:
    """The exit status and all that a command showed on a pseudo-terminal of its own, ``typed`` being typed."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def take() -> bool:
        try:
            while chunk := os.read(ours, 65536):
                shown.extend(chunk)
        except OSError:  # EAGAIN: nothing yet; EIO: the other side is closed
            pass
        return child.returncode is not None

    try:
        with Spawn(*CLI, *arguments, extra_env=env, stdin=theirs, stdout=theirs, stderr=theirs) as child:
            os.write(ours, typed)
            wait_until(take, 30)
            take()
            assert child.returncode is not None
            return child.returncode, shown.decode()
    finally:
        os.close(ours)
        os.close(theirs)


# --- the way from start to stop -------------------------------------------------------------------


def test_start_status_stop_end_to_end(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.started("sleeper"):
        assert safe("status", "sleeper").check(0).out.startswith("sleeper  running")
        second = safe("start", "sleeper", "--detach").check(75)
        assert second.err.startswith("safesh: ")
        assert "nobody is left" in safe("stop", "sleeper", "--force").check(0).out
        safe("status", "sleeper").check(3)
    assert safe("stop", "sleeper", "--force").check(0).out == "sleeper: not running\n"


def test_stop_without_a_terminal_asks_for_force(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.started("sleeper"):
        result = safe("stop", "sleeper").check(2)
        assert "--force" in result.err
        safe("status", "sleeper").check(0)


def test_stop_lists_asks_and_takes_no_for_an_answer(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    with safe.started("sleeper"):
        _code, shown = on_a_terminal("stop", "sleeper", typed=b"n\n")
        assert "sleep 600" in shown
        assert "[y/N]" in shown
        safe("status", "sleeper").check(0)
        code, shown = on_a_terminal("stop", "sleeper", typed=b"y\n")
        assert code == 0, shown
        safe("status", "sleeper").check(3)


# --- errors ---------------------------------------------------------------------------------------


def test_a_mistake_is_one_line_a_hint_and_exit_2(safe: Safe) -> None:
    result = safe("statsu").check(2)
    assert result.out == ""
    first, second = result.err.splitlines()
    assert first == "safesh: there is no command 'statsu'"
    assert second.endswith(" status")


def test_a_broken_safe_toml_is_78_and_names_its_place(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config('[targets.a]\ncommand = ["true"]\nstop = { grace = "soon" }\n')
    assert "targets.a.stop.grace" in safe("status").check(78).err


def test_version_and_help(safe: Safe) -> None:
    assert safe("--version").check(0).out.startswith("safesh ")
    page = safe("stop", "--help").check(0).out
    assert "EXIT STATUS" in page
    assert "\x1b" not in page
    assert safe("help", "stop").check(0).out == page


def test_a_bug_is_one_line_with_status_70_and_safesh_debug_shows_where(home: Home) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.orig_argv[-1])\n"
        "from safesh.cli import main, status\n"
        "status.run = lambda args: args['no such argument']\n"
        "sys.exit(main.main(['status']))\n"
    )
    source = str(CLI[-1]).rpartition("/safesh/")[0]
    for debug in ("", "1"):
        with Spawn(sys.executable, "-c", code, source, extra_env={"SAFESH_DEBUG": debug}) as child:
            assert child.wait() == 70
            child.wait_output(5)
            assert child.err.startswith("safesh: a bug in <string>:3: KeyError: 'no such argument'")
            assert ("Traceback" in child.err) == bool(debug)


def test_ctrl_c_is_quiet_and_130(safe: Safe, home: Home) -> None:
    """Interrupted while it waits for an answer that does not come."""
    code = (
        "import sys, time; sys.path.insert(0, sys.orig_argv[-1])\n"
        "from safesh.cli import main, status\n"
        "def run(args): print('ready', flush=True); time.sleep(60)\n"
        "status.run = run\n"
        "sys.argv[1:] = ['status']\n"
        "main.entry()\n"
    )
    source = str(CLI[-1]).rpartition("/safesh/")[0]
    with Spawn(sys.executable, "-c", code, source) as child:
        child.wait_line("ready")
        assert procs.send(child.pid, child.start, signal.SIGINT)
        assert child.wait() == 130
        child.wait_output(5)
        assert child.err == ""


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["status", "--watch"], ["--help"]])
def test_a_reader_that_went_away_ends_it_quietly(
    arguments: list[str], safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config(ONE)
    read, write = os.pipe()
    os.close(read)
    try:
        with Spawn(*CLI, *arguments, stdout=write) as child:
            assert child.wait() == 128 + signal.SIGPIPE
            child.wait_output(5)
            assert child.err == ""
    finally:
        os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_under_stdout_is_one_line(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    done = shell("safesh status > /dev/full")
    assert done.returncode == 73
    assert done.stderr.splitlines()[0] == "safesh: output: no space left on device"
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_but_what_is_seen(
    closed: str, safe: Safe, write_config: Callable[[str], Any], home: Home
) -> None:
    write_config(ONE)
    assert shell(f"safesh status {closed}").returncode == 3
    assert shell(f"safesh nonsense {closed}").returncode == 2
    # Nothing of ours was opened on a closed stream's number and written to.
    assert (home.project / "safe.toml").read_text() == ONE


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1"])
@pytest.mark.parametrize(("arguments", "code"), [(["status"], 3), (["start", "größ"], 2), (["stop", "--help"], 0)])
def test_a_poor_locale_is_no_reason_to_fail(
    locale: str, arguments: list[str], code: int, safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config('[targets.size]\ncommand = ["echo", "größe → 日本"]\n')
    with Spawn(*without_utf8(), *arguments, extra_env={"LC_ALL": locale}) as child:
        assert child.wait() == code, child.err
        child.wait_output(5)
        assert "bug" not in child.err
        assert child.out or child.err


def test_a_name_that_the_locale_cannot_write_is_told(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config('[targets."größe"]\ncommand = ["true"]\n')
    with Spawn(*without_utf8(), "status", extra_env={"LC_ALL": "C"}) as child:
        assert child.wait() == 2
        child.wait_output(5)
        assert "LC_ALL=C.UTF-8" in child.err


def without_utf8() -> list[str]:
    """Our command where Python does not choose UTF-8 by itself, as it does under LC_ALL=C (PEP 538, PEP 540)."""
    return [CLI[0], "-X", "utf8=0", *CLI[1:]]


# --- colour ---------------------------------------------------------------------------------------


def test_a_terminal_gets_colour(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(ONE)
    code, shown = on_a_terminal("status", TERM="xterm")
    assert code == 3
    assert "\x1b[" in shown


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(["status"], {"NO_COLOR": "1"}), (["status"], {"TERM": "dumb"}), (["status", "--no-color"], {})],
)
def test_a_terminal_gets_plain_text_where_colour_is_not_wanted(
    arguments: list[str], env: dict[str, str], safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config(ONE)
    for more in ([], ["nosuch"]):
        _code, shown = on_a_terminal(*arguments, *more, **{"TERM": "xterm", **env})
        assert shown
        assert "\x1b" not in shown
