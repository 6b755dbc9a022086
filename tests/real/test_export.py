"""What ``export`` prints is what systemd and cron read: checked by systemd's own parser, and by running the lines."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import ROOT, SUPERVISOR, Home, Safe
from safesh.cli import export

ONE = """
project = "{project}"
[targets.sleeper]
command = ["sleep", "600"]
stop = {{ signal = "SIGINT", grace = "2s" }}
[targets.other]
command = ["sleep", "601"]
depends_on = ["sleeper"]
"""
SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), "")
NAMES = {
    "plain": "proj",
    "blanks": "my  project",
    "percent": "100%h\\%n%",
    "dollars": "a$HOME ${PATH}",
    "quotes": 'it\'s "so"',
    "backslashes": "a\\b\\",
    "specials": "-x; y & (z) #w|*",
    "letters": "größe→x",
}


class Odd:
    """A project, and a ``safesh`` as pip installs it, in a folder of a certain name."""

    def __init__(self, base: Path, name: str) -> None:
        self.folder = base / name
        self.folder.mkdir()
        self.program = self.folder / "safesh"
        self.program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(SUPERVISOR)!r})\n"
            "from safesh.cli.main import entry\nentry()\n"
        )
        self.program.chmod(0o755)
        self.config = self.folder / "safe.toml"
        self.config.write_text(ONE.format(project="odd"))
        self.config.chmod(0o644)

    def __call__(self, *words: str, rc: int = 0, **env: str) -> str:
        done = subprocess.run(
            [self.program, *words], cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True,
            timeout=60, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (rc, ""), done
        return done.stdout


@pytest.fixture(params=NAMES.values(), ids=NAMES.keys())
def odd(request: pytest.FixtureRequest, home: Home) -> Odd:
    return Odd(home.project, request.param)


@pytest.fixture
def plain(home: Home) -> Odd:
    return Odd(home.project, "plain")


def settings(unit: str) -> dict[str, str]:
    """The lines of a unit, comments left out; a key that comes twice keeps its last value."""
    lines = [line for line in unit.splitlines() if line[:1] not in ("#", "[", "")]
    return dict((line.partition("=")[0], line.partition("=")[2]) for line in lines)


# --- systemd --------------------------------------------------------------------------------------


@pytest.fixture
def verify(home: Home) -> Callable[..., str]:
    """``verify(unit)``: what systemd-analyze has to say about it, nothing where all is well."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    runtime = home.path / "run"
    runtime.mkdir(mode=0o700)

    def check(unit: str, *, user: bool) -> str:
        file = home.path / "some.service"
        file.write_text(unit)
        done = subprocess.run(
            ["systemd-analyze", *(["--user"] if user else []), "verify", file], text=True, timeout=60, check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)}, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "some.service" in line]
        if done.returncode and not said:
            pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
        return "\n".join(said)

    return check


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_verifies_the_unit(odd: Odd, verify: Callable[..., str], user: bool) -> None:
    assert verify(odd("export", "systemd", "sleeper", *(["--user"] if user else [])), user=user) == ""


def test_the_verification_notices_what_is_wrong(plain: Odd, verify: Callable[..., str]) -> None:
    unit = plain("export", "systemd", "sleeper", "--user")
    assert "not executable" in verify(unit.replace(str(plain.program), "/nonexistent/safesh"), user=True)


@pytest.fixture
def dumped() -> Iterator[Callable[[str], dict[str, str]]]:
    """``dumped(unit)``: how systemd itself, in its test mode, has understood a user's unit."""
    if not SYSTEMD:
        pytest.skip("systemd is not installed")
    base = Path(tempfile.mkdtemp(prefix="sfu-", dir="/tmp"))

    def read(unit: str) -> dict[str, str]:
        (base / "some.service").write_text(unit)
        runtime = base / "run"
        runtime.mkdir(mode=0o700)
        command = [SYSTEMD, "--test", "--user", "--unit=some.service", "--log-target=console"]
        if os.geteuid() == 0:  # it refuses to test as root
            nobody = pwd.getpwnam("nobody")
            base.chmod(0o755)
            os.chown(runtime, nobody.pw_uid, -1)
            command = ["setpriv", f"--reuid={nobody.pw_uid}", "--clear-groups", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": "/", "XDG_RUNTIME_DIR": str(runtime), "LC_ALL": "C.UTF-8",
                 "SYSTEMD_UNIT_PATH": f"{base}:"},
        )  # fmt: skip
        _before, found, rest = done.stdout.partition("-> Unit some.service:\n")
        if not found:
            pytest.skip(f"systemd's test mode does not work here: {(done.stderr or done.stdout)[-200:]}")
        own = rest.partition("-> Unit ")[0].splitlines()
        pairs = [line.strip().partition(": ") for line in own if ": " in line]
        return {key: value for key, _, value in reversed(pairs)}  # of several lines the first

    try:
        yield read
    finally:
        shutil.rmtree(base)


def test_systemd_reads_every_word_as_it_was_meant(odd: Odd, dumped: Callable[[str], dict[str, str]]) -> None:
    state = str(odd.folder / "sta te%h$x")
    seen = dumped(odd("export", "systemd", "sleeper", "--user", SAFESH_HOME=state))
    # It shows the line as a shell would need it, and before variables are put in.
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {seen['Command Line']}"], capture_output=True, text=True, timeout=10, check=True
    )
    words = [word.replace("$$", "$") for word in shown.stdout.splitlines()]
    if words[0] == "/bin/sh":
        assert words[:3] == ["/bin/sh", "-c", 'exec "$0" "$@"']
        words = words[3:]
    assert words == [str(odd.program), "start", "sleeper", "--config", str(odd.config)]
    assert seen["WorkingDirectory"].rstrip("/") == str(odd.folder)
    assert seen["Environment"] == f"SAFESH_HOME={state}"
    assert seen["KillMode"] == "mixed"
    assert seen["TimeoutStopSec"] == "17s"
    assert seen["Delegate"] == "yes"


def test_a_unit_of_the_system_runs_as_me_and_one_of_mine_does_not_say_who(plain: Odd) -> None:
    unit = plain("export", "systemd", "sleeper")
    assert settings(unit)["User"] == pwd.getpwuid(os.geteuid()).pw_name
    assert settings(unit)["WantedBy"] == "multi-user.target"
    unit = plain("export", "systemd", "sleeper", "--user")
    assert "User" not in settings(unit)
    assert settings(unit)["WantedBy"] == "default.target"


def test_the_unit_leaves_restarts_to_us_and_knows_our_way_to_stop(plain: Odd) -> None:
    found = settings(plain("export", "systemd", "sleeper"))
    assert found["Restart"] == "on-abnormal"  # an exit status is our verdict; only a killed supervisor is none
    assert found["OOMPolicy"] == "continue"
    assert found["SuccessExitStatus"] == "130 143"  # 128 + SIGINT, its stop.signal, and + SIGTERM
    assert found["Type"] == "exec"


@pytest.mark.parametrize("end", ["SIGTERM", "stop"])
@pytest.mark.parametrize("rewrite", ["", 'signals = { TERM = "SIGHUP" }\n'], ids=["", "rewritten"])
def test_however_it_is_stopped_the_unit_calls_it_success(plain: Odd, home: Home, end: str, rewrite: str) -> None:
    text = plain.config.read_text()
    plain.config.write_text(text.replace("[targets.other]", rewrite + "[targets.other]"))
    found = settings(plain("export", "systemd", "sleeper"))
    with procs.spawn(*shlex.split(found["ExecStart"]), extra_env={"SAFESH_HOME": str(home.state)}) as child:
        child.wait_line("runs", stream="err")
        if end == "stop":
            plain("stop", "sleeper", "--force")
        else:
            child.send(15)
        assert str(child.wait()) in found["SuccessExitStatus"].split()


def test_a_target_with_readiness_is_a_unit_that_waits_for_it_and_systemd_is_told(
    plain: Odd, home: Home, verify: Callable[..., str]
) -> None:
    assert "TimeoutStartSec" not in settings(plain("export", "systemd", "sleeper"))
    plain.config.write_text(
        '[targets.sleeper]\nshell = true\nstop.grace = "2s"\n'
        'ready = { command = ["test", "-e", "up"], interval = "0.1s" }\n'
        'command = "echo got=$NOTIFY_SOCKET; read line; touch up; exec sleep 600"\n'
    )
    unit = plain("export", "systemd", "sleeper")
    found = settings(unit)
    assert (found["Type"], found["NotifyAccess"], found["TimeoutStartSec"]) == ("notify", "main", "infinity")
    assert verify(unit, user=False) == ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = str(home.path / "notify")
        systemd.bind(address)
        systemd.settimeout(20)
        env = {"SAFESH_HOME": str(home.state), "NOTIFY_SOCKET": address}
        with procs.spawn(*shlex.split(found["ExecStart"]), extra_env=env, stdin=subprocess.PIPE) as child:
            child.wait_line("^got=$")
            systemd.setblocking(False)
            with pytest.raises(BlockingIOError):
                systemd.recv(100)
            systemd.settimeout(20)
            child.write("now\n")
            assert systemd.recv(100) == b"READY=1"
            child.send(15)
            assert child.wait() == 143


def test_dependencies_are_units_of_their_own_to_wait_for(plain: Odd, verify: Callable[..., str]) -> None:
    unit = plain("export", "systemd", "other")
    assert settings(unit)["After"] == settings(unit)["Wants"] == "safesh-odd-sleeper.service"
    assert verify(unit, user=False) == ""


@pytest.mark.parametrize(
    ("project", "target", "name"),
    [
        ("arm", "left", "safesh-arm-left.service"),
        ("arm 2", "a/b%c", "safesh-arm\\x202-a\\x2fb\\x25c.service"),
        ("größe", "x@y", "safesh-gr\\xc3\\xb6\\xc3\\x9fe-x\\x40y.service"),
    ],
)
def test_a_units_name_has_no_letter_that_it_may_not_have(project: str, target: str, name: str) -> None:
    assert export.unit_name(project, target) == name


# --- cron -----------------------------------------------------------------------------------------


def commands(printed: str) -> tuple[str, str]:
    """(the one at boot, the one of every minute)."""
    lines = [line for line in printed.splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    assert lines[0].startswith("@reboot ")
    assert lines[1].startswith("* * * * * ")
    return lines[0].removeprefix("@reboot "), lines[1].removeprefix("* * * * * ")


def as_cron_reads(command: str) -> str:
    r"""The command that the shell gets: Vixie cron turns ``\%`` into ``%`` and ends the command at a bare ``%``."""
    found, escaped = "", False
    for letter in command:
        if escaped:
            escaped = False
            if letter == "%":
                found = found[:-1]
        elif letter == "\\":
            escaped = True
        elif letter == "%":
            break
        found += letter
    return found


def run_as_cron(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """An empty environment but for what crontab(5) promises, no terminal, /bin/sh, a folder of no meaning."""
    words = ["env", "-i", "SHELL=/bin/sh", f"HOME={folder}", "LOGNAME=me", "/bin/sh", "-c", command]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("reading", ["vixie", "verbatim"])
def test_the_printed_cron_lines_start_the_target_and_then_leave_it_alone(
    odd: Odd, home: Home, tmp_path: Path, reading: str
) -> None:
    boot, minute = commands(odd("export", "cron", "sleeper"))
    if reading == "vixie":  # some crons hand the backslashes on; the shell must read the same either way
        boot, minute = as_cron_reads(boot), as_cron_reads(minute)
    try:
        done = run_as_cron(boot, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        first = odd("status", "sleeper", "--json")
        for _time in range(2):
            done = run_as_cron(minute, tmp_path)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = '"pid": ' + first.partition('"pid": ')[2].partition(",")[0]
        assert pid in odd("status", "sleeper", "--json")
        odd("stop", "sleeper", "--force")
        done = run_as_cron(minute, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        odd("status", "sleeper")
    finally:
        odd("stop", "--force", "--now")


def test_what_is_wrong_is_said_once_and_in_the_status(plain: Odd, tmp_path: Path) -> None:
    boot, minute = commands(plain("export", "cron", "sleeper"))
    plain.config.write_text("[targets.sleeper]\ncommand = 5\n")
    for line in (boot, minute):
        done = run_as_cron(line, tmp_path)
        assert done.returncode == 78
        assert done.stdout == ""
        assert done.stderr.count("targets.sleeper.command") == 1


def test_every_minutes_line_is_safe_health_where_the_checkout_has_it(
    plain: Odd, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "ourselves", lambda: [str(home.path / "safe.sh")])
    monkeypatch.delenv("SAFESH_HOME")
    health = home.path / "safe-health.sh"
    health.write_text('#!/bin/sh\nprintf "%s\\n" "$PATH" "$@"\n')
    health.chmod(0o755)
    line = {"what": "cron", "target": "sleeper", "user": False, "config": str(plain.config)}
    assert export.run(line) == 0
    _boot, minute = commands(capsys.readouterr().out)
    path, *words = run_as_cron(minute, tmp_path).stdout.splitlines()
    assert path.startswith("/usr/local/sbin:")
    assert words == ["sleeper", "--start", "--config", str(plain.config)]
    health.chmod(0o644)
    export.run(line)
    assert "safe-health.sh" not in capsys.readouterr().out


def test_the_lines_of_a_checkout_keep_its_target_running(safe: Safe, home: Home, tmp_path: Path) -> None:
    home.write_config(ONE.format(project="odd"))
    boot, minute = commands(safe("export", "cron", "sleeper", wrapper=True).check(0).out)
    assert f"{ROOT}/bin/safe.sh" in boot
    try:
        assert run_as_cron(boot, tmp_path).returncode == 0
        safe("stop", "sleeper", "--force", "--now").check(0)
        for _time in range(2):
            done = run_as_cron(minute, tmp_path)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            safe("status", "sleeper").check(0)
    finally:
        safe("stop", "--force", "--now")


def test_a_command_found_in_an_unusual_folder_is_found_there_too(plain: Odd, home: Home, tmp_path: Path) -> None:
    tool = home.path / "tools"
    tool.mkdir()
    (tool / "mytool").write_text("#!/bin/sh\necho found; exec sleep 600\n")
    (tool / "mytool").chmod(0o755)
    plain.config.write_text('[targets.sleeper]\ncommand = ["mytool"]\nstop.grace = "1s"\n')
    path = f"{tool}:{os.environ['PATH']}"
    boot, _minute = commands(plain("export", "cron", "sleeper", PATH=path))
    try:
        assert run_as_cron(boot, tmp_path).stderr == ""
        procs.wait_until(lambda: "found" in plain("logs", "sleeper"))
    finally:
        plain("stop", "--force", "--now")
    assert f"\nEnvironment=PATH={tool}:/usr/" in plain("export", "systemd", "sleeper", PATH=path)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export"], "export systemd|cron"),
        (["export", "launchd", "sleeper"], "'launchd' is not one of"),
        (["export", "systemd"], "which target?"),
        (["export", "systemd", "sleper"], "did you mean sleeper?"),
        (["export", "cron", "sleeper", "--user"], "leave it out"),
        (["export", "cron", "sleeper", "other"], "unexpected extra argument"),
    ],
    ids=" ".join,
)
def test_a_wrong_line_is_told_and_nothing_is_printed(
    safe: Safe, write_config: Callable[[str], Any], words: list[str], said: str
) -> None:
    write_config(ONE.format(project="p"))
    done = safe(*words).check(2)
    assert done.out == ""
    assert said in done.err


def test_without_a_safe_toml_there_is_nothing_to_export(safe: Safe) -> None:
    assert "--config FILE" in safe("export", "cron", "x").check(2).err


@pytest.mark.parametrize("kind", ["systemd", "cron"])
def test_a_line_break_in_a_path_is_refused(safe: Safe, home: Home, kind: str) -> None:
    folder = home.project / "a\nb"
    folder.mkdir()
    (folder / "safe.toml").write_text(ONE.format(project="p"))
    done = safe("export", kind, "sleeper", cwd=folder).check(2)
    assert (done.out, "plain name" in done.err) == ("", True)


def test_a_line_longer_than_cron_takes_is_refused(safe: Safe, home: Home) -> None:
    folder = home.project
    for _level in range(5):
        folder = folder / ("x" * 200)
    folder.mkdir(parents=True)
    (folder / "safe.toml").write_text(ONE.format(project="p"))
    assert "cron takes commands of" in safe("export", "cron", "sleeper", cwd=folder).check(2).err
