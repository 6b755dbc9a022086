"""scripts/monitor_processes.py: which processes it shows, how, into which file, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from helpers import pidns, procs
from helpers.home import ROOT, Home

SCRIPT = str(ROOT / "scripts" / "monitor_processes.py")
SPIN = "import time\nprint('ready', flush=True)\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass\n"
WAIT = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"


def monitor(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        check=False, **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


@pytest.fixture
def script(home: Home, request: pytest.FixtureRequest) -> Iterator[procs.Spawn]:
    """A Python script with a name of its own, waiting, or as the test's parameter says."""
    file = home.project / "wanderer.py"
    file.write_text(getattr(request, "param", WAIT))
    with procs.spawn(sys.executable, "-u", file, "--colour", "blue") as child:
        child.wait_line("^ready$")
        yield child


def line_of(out: str, pid: int) -> str:
    """The table's line about a process, "" for none."""
    return next((line for line in out.splitlines() if re.match(rf" *{pid} ", line)), "")


# --- what it shows ---------------------------------------------------------------------------------


def test_one_look_shows_the_system_and_the_script_and_no_cpu_yet(script: procs.Spawn) -> None:
    done = monitor("--once")
    assert (done.returncode, done.stderr) == (0, "")
    for label in ("CPU ", "RAM ", "Disk ", "Network "):
        assert re.search(rf"^{label}", done.stdout, re.M), done.stdout
    assert re.search(r"^CPU +- of ", done.stdout, re.M)
    head = next(line for line in done.stdout.splitlines() if "PID" in line)
    assert re.split(r" {2,}", head.strip()) == ["PID", "Script", "CPU %", "Memory (MB)", "Runtime", "Status"]
    assert re.fullmatch(
        rf" *{script.pid}  wanderer\.py --colour blue +- +[\d.]+ +[\d.]+s  sleeping", line_of(done.stdout, script.pid)
    )


@pytest.mark.parametrize("script", [SPIN], indirect=True)
def test_with_an_interval_one_look_knows_the_cpu_and_marks_what_is_busy(script: procs.Spawn) -> None:
    found = None
    for _try in range(3):  # on a machine that others keep busy it may get less than half a core for once
        found = re.search(r"blue +([\d.]+) (!*) ", line_of(monitor("--once", "--interval", "1s").stdout, script.pid))
        assert found
        if float(found[1]) > 55:
            break
    assert found
    share = float(found[1])
    assert share > 5
    assert found[2] == ("!!" if share > 50 else "!" if share > 20 else "")


def test_itself_and_streamlit_are_left_out_and_all_shows_everybody_else(home: Home, script: procs.Spawn) -> None:
    fake = home.project / "streamlit"
    fake.write_text(WAIT)
    with procs.spawn(sys.executable, fake, "run", "app.py") as server, procs.spawn("sleep", "61") as other:
        server.wait_line("^ready$")
        some, everybody = monitor("--once").stdout, monitor("--once", "--all").stdout
        assert line_of(some, script.pid)
        for pid in (server.pid, other.pid):
            assert not line_of(some, pid)
            assert line_of(everybody, pid)
        assert not re.search(r" monitor_processes\.py ", some)


def test_a_pattern_picks_by_pid_and_by_command_line(script: procs.Spawn) -> None:
    for pattern in ("COLOUR blue$", f"^{script.pid} "):
        out = monitor("--once", "--filter", pattern).stdout
        assert line_of(out, script.pid)
        assert len([line for line in out.splitlines() if re.match(r" *\d+  ", line)]) == 1
    assert "no process matches 'nobody-has-this'" in monitor("--once", "--filter", "nobody-has-this").stdout


# --- through a pipe, on a terminal -----------------------------------------------------------------


def test_through_a_pipe_it_is_plain_and_goes_on_and_grep_finds_lines(script: procs.Spawn) -> None:
    command = f"{sys.executable} {SCRIPT} --interval 0.3 | grep --line-buffered wanderer | head -n 3"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert " - " in lines[0]
    assert re.search(r" \d+\.\d ", lines[2])


def on_terminal(*words: str, columns: int = 100, **env: str) -> pexpect.spawn:
    given = {**os.environ, "TERM": "xterm", **env}
    if "NO_COLOR" not in env:
        given.pop("NO_COLOR", None)
    return pexpect.spawn(
        sys.executable, [SCRIPT, *words], env=given, encoding="utf-8", timeout=20, dimensions=(24, columns)
    )


@pytest.mark.parametrize("script", [SPIN], indirect=True)
def test_on_a_terminal_it_is_redrawn_in_colour_until_ctrl_c_and_the_cursor_is_there(script: procs.Spawn) -> None:
    child = on_terminal("--interval", "0.5", "--filter", "wanderer")
    try:
        child.expect(rf"\x1b\[(31;1|33|32)m *{script.pid} ")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
        assert "Traceback" not in child.before
        assert "\x1b[?25l" not in child.before
    finally:
        child.close(force=True)


def test_no_color_is_heeded_and_a_narrow_terminal_has_no_line_that_wraps(script: procs.Spawn) -> None:
    child = on_terminal("--interval", "0.3", "--filter", "wanderer", columns=40, NO_COLOR="1")
    try:
        for _frame in range(2):
            child.expect(r"\x1b\[H(.*?)\x1b\[J")
            frame = child.match[1]
            assert not re.search(r"\x1b\[[\d;]*m", frame)
            lines = [line.replace("\x1b[K", "") for line in frame.split("\r\n")]
            assert max(map(len, lines)) <= 40
            assert any("wandere" in line for line in lines), lines
    finally:
        child.close(force=True)


# --- the file --------------------------------------------------------------------------------------


def test_several_writers_append_whole_lines_of_json(home: Home, script: procs.Spawn) -> None:
    file = home.project / "monitor.json"
    words = [sys.executable, SCRIPT, "--interval", "0.1", "--all", "--output", str(file)]
    with procs.spawn(*words) as one, procs.spawn(*words) as two, procs.spawn(*words) as three:
        procs.wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") >= 30, 60)
        for child in (one, two, three):
            child.send(2)
            assert child.wait() == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["v"] for line in lines} == {1}
    found = [one for line in lines for one in line["processes"] if one["pid"] == script.pid]
    assert len(found) == len(lines)
    assert found[0]["script"] == "wanderer.py --colour blue"
    assert {"cpu_percent", "memory_mb", "runtime_seconds", "status"} <= set(found[0])
    assert lines[0]["system"]["cpu_percent"] is None
    assert isinstance(lines[-1]["system"]["cpu_percent"], float)


def test_output_to_stdout_is_pure_json(script: procs.Spawn) -> None:
    looks = monitor("--once", "--output", "-").stdout.splitlines()
    assert [json.loads(line)["v"] for line in looks] == [1]


def test_a_file_that_cannot_be_trusted_is_told_in_one_line(home: Home) -> None:
    link = home.project / "monitor.json"
    link.symlink_to(home.project / "elsewhere")
    done = monitor("--once", "--output", str(link))
    assert done.returncode == 73
    assert done.stderr.startswith(f"monitor_processes: {link}: is a symlink")
    assert "Traceback" not in done.stderr
    assert not (home.project / "elsewhere").exists()


# --- mistakes and missing rights -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--interval", "soon"], "'soon' is no duration"),
        (["--interval", "0"], "too short"),
        (["--filter", "("], "'(' is no regular expression"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--output"], "expected one argument"),
    ],
)
def test_a_wrong_line_is_told_in_one_line(words: list[str], told: str) -> None:
    done = monitor(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_closed_processes_of_others_are_counted_and_explained() -> None:
    command, why = pidns.unshare()
    if not command or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip(f"needs root, setpriv and a pid namespace: {why}")
    # Root without CAP_SYS_PTRACE and group 0 is to hidepid what any user is (proc(5)).
    inside = (
        "mount -t proc -o hidepid=1 proc /proc || exit 99; setpriv --reuid 65534 --clear-groups sleep 30 & sleep 0.3; "
        "setpriv --bounding-set -sys_ptrace --inh-caps -all --regid 65533 --clear-groups "
        f"{sys.executable} {SCRIPT} --once"
    )
    done = subprocess.run([*command, "sh", "-c", inside], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 99:
        pytest.skip(f"/proc cannot be mounted here: {done.stderr}")
    told = re.search(
        r"^(\d+) process(es)? of other users not judged: their command lines are closed to us", done.stdout, re.M
    )
    assert told, done
    assert int(told[1]) in (1, 2)  # another user's, and the shell, which has the right that we have given up


def test_a_python_without_its_library_is_told_what_is_missing(tmp_path: Path) -> None:
    env = {**os.environ, "SAFESH_BACKEND": "posix", "SAFESH_VENV": str(tmp_path)}
    bare = (
        "import runpy, sys; sys.modules['psutil'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", bare, SCRIPT, "--once"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 69
    assert "psutil: is needed on this system and is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "doctor" in done.stderr
