"""``bin/safe.sh exec``: the whole way, from the shell script to the command."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from helpers import procs
from helpers.exec_run import ECHO, PYTHON, ROOT, finish, python, status_sets

LAUNCHER = ROOT / "bin" / "safe.sh"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Words that start ``exec`` through the launcher, in an environment that it takes for its own."""
    if not LAUNCHER.exists():
        pytest.skip("launcher: there is no bin/safe.sh yet")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(PYTHON)
    stamp = venv / ".safesh-stamp"
    stamp.write_text("safesh-venv-1 test\n")
    changed = (ROOT / "setup.cfg").stat().st_mtime_ns
    os.utime(stamp, ns=(changed, changed))
    monkeypatch.setenv("SAFESH_VENV", str(venv))
    return (str(LAUNCHER), "exec")


def test_launcher_python_and_init_are_one_process(launch: tuple[str, ...]) -> None:
    with procs.Spawn(*launch, "--", *ECHO, "--exit-on", "15") as init:
        pid = int(init.wait_line(r"^ready (\d+)$")[1])
        assert [one.pid for one in procs.tree_of(init.pid)] == [init.pid, pid]
        init.send(signal.SIGTERM)
        code, _, err = finish(init)
        assert (code, err) == (15, "")


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("ignore", [True, False])
def test_ignored_signals_pass_through_shell_and_python(launch: tuple[str, ...], number: int, ignore: bool) -> None:
    code = (
        "import os,signal,sys\n"
        "for n in (signal.SIGPIPE, signal.SIGXFSZ): signal.signal(n, signal.SIG_DFL)\n"
        f"signal.signal({int(number)}, signal.{'SIG_IGN' if ignore else 'SIG_DFL'})\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with procs.Spawn(*python(code), *launch, "--", "cat", "/proc/self/status") as init:
        sets = status_sets(finish(init)[1])
    assert sets["SigIgn"] == ({int(number)} if ignore else set())
    assert sets["SigBlk"] == set()


def test_the_commands_environment_has_nothing_of_the_launchers(launch: tuple[str, ...]) -> None:
    environment = {"PATH": os.environ["PATH"], "SAFESH_VENV": os.environ["SAFESH_VENV"], "HOME": "/"}
    with procs.Spawn(*launch, "--", "env", env=environment, whole=False) as init:
        out = finish(init)[1]
    # bash adds its own three: PWD, SHLVL and _ (bash(1), Shell Variables)
    assert {line.partition("=")[0] for line in out.splitlines()} - {"PWD", "SHLVL", "_", "OLDPWD"} == set(environment)


def test_exec_true_takes_no_more_than_four_times_a_bare_python(launch: tuple[str, ...]) -> None:
    # a coarse guard with the best of several turns; make bench has the figure
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        return time.perf_counter() - began

    ours, bare = [], []
    for _ in range(12):
        bare.append(seconds(PYTHON, "-c", "pass"))
        ours.append(seconds(*launch, "--", "true"))
    assert min(ours) <= 4 * min(bare), f"medians {statistics.median(ours):.4f} s to {statistics.median(bare):.4f} s"
