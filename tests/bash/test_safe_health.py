"""bin/safe-health.sh, as cron and monitors call it: /bin/sh, no terminal, hardly an environment, from anywhere."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import procs
from helpers.checkout import REPOSITORY, Checkout, answer
from helpers.home import Home, Safe

SCRIPT = REPOSITORY / "bin" / "safe-health.sh"
SLEEP = f'command = ["{sys.executable}", "-c", "import time; time.sleep(600)"]'


class Cron:
    """What cron(8) does with a line: /bin/sh -c, HOME and little else, stdin /dev/null, no terminal, cwd /."""

    def __init__(self, home: Path) -> None:
        self.env = {"HOME": str(home), "LOGNAME": "somebody", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}

    def __call__(self, line: str, cwd: str | Path = "/", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", line],
            env={**self.env, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )


def health(*words: str | Path, script: str | Path = SCRIPT) -> str:
    return " ".join(shlex.quote(str(word)) for word in (script, *words))


def told(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a look that found something; AssertionError for anything else."""
    assert (done.returncode, done.stderr) == (code, ""), done
    assert done.stdout.count("\n") == 1, done
    assert done.stdout.endswith("\n"), done
    return done.stdout


def silent(done: subprocess.CompletedProcess[str]) -> bool:
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    return True


@pytest.fixture
def cron(home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cron]:
    """Its state folder is where HOME leads; the test's own commands look there too."""
    monkeypatch.delenv("SAFESH_HOME")
    yield Cron(home.path)
    safe("kill-all", "--force", "--now")


@pytest.fixture
def stub(checkout: Checkout) -> Checkout:
    """Its safe.sh tells what it was called with."""
    shutil.copy(SCRIPT, checkout.root / "bin")
    return checkout


def call(checkout: Checkout, *words: str, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    return checkout.call(*words, via=[str(checkout.root / "bin" / "safe-health.sh")], cwd=cwd, **changes)


# --- what it becomes -----------------------------------------------------------------------------


def test_it_becomes_safe_sh_health_and_hands_every_word_on(stub: Checkout) -> None:
    done = answer(call(stub, "a target", "--start", "--timeout", "5s"))
    assert done["argv"] == ["health", "--cron", "a target", "--start", "--timeout", "5s"]


def test_the_virtual_environment_is_made_silently(stub: Checkout) -> None:
    assert call(stub).stderr == ""
    times = (stub.setup_cfg.stat().st_atime, stub.setup_cfg.stat().st_mtime + 60)
    os.utime(stub.setup_cfg, times)
    assert call(stub).stderr == ""


def test_what_cannot_be_made_is_one_line_and_unknown(stub: Checkout) -> None:
    stub.script("uv", "#!/bin/sh\nexit 1\n")
    stub.script("python3", "#!/bin/sh\nexit 1\n")
    line = told(call(stub, SAFESH_PYTHON="/nowhere/python"), 3)
    assert line.startswith("UNKNOWN - safe.sh cannot make its virtual environment")


def test_a_copy_outside_of_its_checkout_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    copy = shutil.copy(SCRIPT, tmp_path / "bin")
    line = told(subprocess.run([copy], env={}, capture_output=True, text=True, timeout=30), 3)
    assert "outside of its checkout" in line


def test_it_has_a_path_and_a_home_of_its_own_in_an_empty_environment(stub: Checkout) -> None:
    answer(call(stub))  # made, with the tools that the test offers
    script = str(stub.root / "bin" / "safe-health.sh")
    done = subprocess.run([shutil.which("bash") or "bash", script], env={}, capture_output=True, text=True, timeout=60)
    env = answer(done)["env"]
    assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env["HOME"] == pwd.getpwuid(os.geteuid()).pw_dir


def test_the_path_it_was_given_comes_first(stub: Checkout) -> None:
    assert (
        answer(call(stub))["env"]["PATH"] == f"{stub.path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )


# --- which safe.toml -----------------------------------------------------------------------------


def test_the_checkouts_own_config_is_read_where_there_is_none_from_here_up(stub: Checkout, tmp_path: Path) -> None:
    own = stub.root / "safe.toml"
    own.touch()
    here = tmp_path / "a project" / "below"
    here.mkdir(parents=True)
    assert answer(call(stub, cwd=here))["argv"] == ["health", "--cron", "--config", str(own)]
    (here.parent / "safe.toml").touch()
    assert answer(call(stub, cwd=here))["argv"] == ["health", "--cron"]
    assert answer(call(stub, cwd=Path("/")))["argv"] == ["health", "--cron", "--config", str(own)]
    assert answer(call(stub, SAFESH_CONFIG="/x"))["argv"] == ["health", "--cron"]
    given = answer(call(stub, "--config", "/y"))["argv"]
    assert given[-2:] == ["--config", "/y"]  # the later one counts


# --- cron ----------------------------------------------------------------------------------------


def test_cron_hears_nothing_while_all_is_well_one_line_and_the_code_when_not(home: Home, cron: Cron) -> None:
    config = home.write_config(f"[targets.t]\n{SLEEP}\n")
    assert told(cron(health("t", "--config", config)), 2).startswith("CRITICAL - t not running")
    silent(cron(health("t", "--config", config, "--start")))  # brought up, so it is well
    silent(cron(health("t", "--config", config)))
    silent(cron(f"env -i HOME={shlex.quote(str(home.path))} {health('t', '--config', config)}"))
    assert told(cron(health("x", "--config", config)), 3).startswith("UNKNOWN - ")


def test_what_cron_brings_up_outlives_it_and_holds_nothing_of_it(home: Home, cron: Cron, safe: Safe) -> None:
    """cron waits for the end of a job's output: a supervisor that kept it open would block the line's next run."""
    config = home.write_config(f"[targets.t]\n{SLEEP}\n")
    silent(cron(health("t", "--config", config, "--start")))  # returned, so the pipes are closed
    found = safe("status", "t", "--json").check().json()["instances"][0]
    env = procs.environ(found["pid"])
    assert env["HOME"] == str(home.path)
    assert env["PATH"].startswith("/usr/bin:/bin:/usr/local/sbin:")
    assert not [name for name in env if name.startswith("SAFESH_CONFIG")]


@pytest.mark.parametrize("from_", ["/", "link", "project"])
def test_it_works_from_any_folder_and_through_symlinks(home: Home, cron: Cron, from_: str) -> None:
    home.write_config(f"[targets.t]\n{SLEEP}\n")
    folder = home.path / "a folder"
    folder.mkdir()
    (folder / "hop").symlink_to(SCRIPT)
    link = folder / "watch it"
    link.symlink_to("hop")
    places = {"/": Path("/"), "link": folder, "project": home.project}
    script = "./watch it" if from_ == "link" else link
    words: list[str | Path] = [] if from_ == "project" else ["--config", home.project / "safe.toml"]
    line = told(cron(health("t", *words, script=script), cwd=places[from_]), 2)
    assert "t not running" in line


def test_a_hung_probe_cannot_pile_up(home: Home, cron: Cron, safe: Safe) -> None:
    """A line that runs every minute, its probe hanging for an hour: one look, ended by its deadline."""
    config = home.write_config(
        f'[targets.t]\n{SLEEP}\nhealth = {{ command = ["sleep", "621"], timeout = "1h", interval = "1h" }}\n'
    )
    safe("start", "-d", "t").check()
    line = health("t", "--config", config, "--timeout", "4s")

    def hanging() -> list[procs.Process]:
        return [one for one in procs.scan().values() if not one.dead and procs.argv(one.pid) == ["sleep", "621"]]

    with procs.Spawn("/bin/sh", "-c", line, env=cron.env, cwd="/", stdin=subprocess.DEVNULL) as first:
        procs.wait_until(hanging)
        for _ in range(3):
            silent(cron(line))
        assert len(hanging()) == 1
        assert first.wait(30) == 2
        assert first.out.startswith("CRITICAL - t unhealthy")
    procs.wait_until(lambda: not hanging())


def test_a_killed_look_leaves_nothing_that_keeps_the_next_one_out(home: Home, cron: Cron, safe: Safe) -> None:
    config = home.write_config(f'[targets.t]\n{SLEEP}\nhealth = {{ command = ["sleep", "622"], timeout = "1s" }}\n')
    safe("start", "-d", "t").check()
    line = health("t", "--config", config)
    with procs.Spawn("/bin/sh", "-c", f"exec {line}", env=cron.env, cwd="/", stdin=subprocess.DEVNULL) as first:
        procs.wait_until(lambda: (home.path / ".local/state/safesh/proj/.health-t").exists())
        first.send(signal.SIGKILL)
        first.wait()
    procs.wait_until(lambda: cron(line).returncode == 2)
