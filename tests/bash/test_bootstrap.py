"""The virtual environment: made once however many ask, whole or not at all, renewed when setup.cfg changes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from helpers.campaign import full
from helpers.checkout import BASE_PYTHON, DEADLINE, REPOSITORY, Checkout, answer, make_wheel

MAKING = "making the virtual environment"


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def end(*processes: subprocess.Popen[str]) -> None:
    """End the sessions that `begin` started."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", REPOSITORY / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_says(checkout: Checkout, code: str) -> str:
    python = str(checkout.venv / "bin" / "python")
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60).stdout.strip()


def hold_uv(checkout: Checkout, folder: Path) -> tuple[Path, Path]:
    """A uv that stops in the middle: it makes half an environment, says so, and waits to be let go to the end."""
    ready, gate = folder / "ready", folder / "gate"
    os.mkfifo(gate)
    (checkout.path / "uv").rename(folder / "quick-uv")
    checkout.script(
        "uv",
        f'#!{checkout.path / "bash"}\n[[ $1 == venv ]] || exec "{folder}/quick-uv" "$@"\nmkdir -p "${{@: -1}}/bin"\n'
        f': >"{ready}"\nread -r _ <"{gate}"\nexec "{folder}/quick-uv" "$@"\n',
    )
    return ready, gate


# --- made once -------------------------------------------------------------------------------------------------


def test_without_uv_the_first_start_uses_venv_and_pip_and_the_second_is_silent(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, quick=False)
    make_wheel(tmp_path, "tinydep")
    checkout.require("tinydep>=1")
    done = checkout.call("status", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert answer(done)["argv"] == ["status"]  # and stdout held nothing else
    assert MAKING in done.stderr
    assert python_says(checkout, "import tinydep; print(tinydep.here)") == "True"
    script = (checkout.venv / "bin" / "pip").read_bytes()
    assert b"-building" not in script  # made beside its place, yet its scripts work in its place
    assert subprocess.run([checkout.venv / "bin" / "pip", "--version"], capture_output=True, timeout=60).returncode == 0
    assert checkout.leftovers() == {".venv"}
    assert (checkout.root / "supervisor" / "safesh" / "__pycache__").is_dir()
    again = checkout.call("status", PATH="/nowhere", via=[str(checkout.path / "bash"), str(checkout.safe)])
    assert answer(again)["argv"] == ["status"]  # offline, without a Python on PATH
    assert again.stderr == ""


def test_uv_is_used_where_it_is_installed(tmp_path: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    if not uv:
        pytest.skip("uv is not installed")
    checkout = Checkout(tmp_path, quick=False)
    checkout.offer("uv", uv)
    make_wheel(tmp_path, "tinydep")
    checkout.require("tinydep>=1")
    answer(checkout.call(UV_FIND_LINKS=str(tmp_path), UV_NO_INDEX="1", UV_CACHE_DIR=str(tmp_path / "cache")))
    assert python_says(checkout, "import tinydep; print(tinydep.here)") == "True"
    assert "uv = " in (checkout.venv / "pyvenv.cfg").read_text()
    for file in (checkout.venv / "bin").iterdir():
        assert file.is_symlink() or b"-building" not in file.read_bytes()


def break_uv(checkout: Checkout) -> None:
    checkout.script("uv", f"#!{checkout.path / 'bash'}\necho 'error: no index for you' >&2\nexit 2\n")


@full  # a quick run has both halves: venv and pip succeed above, and below they fail after uv did
def test_a_uv_that_fails_gives_way_to_venv_and_pip(checkout: Checkout) -> None:
    break_uv(checkout)
    done = checkout.call()
    answer(done)
    assert "uv could not (error: no index for you); trying venv and pip" in done.stderr


def test_concurrent_first_starts_all_succeed_and_make_it_once(checkout: Checkout, tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = (checkout.path / "uv").read_text()
    checkout.script("uv", text.replace("  venv)\n", f'  venv)\n    echo made >>"{count}"\n'))
    starts = [checkout.begin(str(n)) for n in range(4)]
    try:
        results = [(*start.communicate(timeout=DEADLINE), start.returncode) for start in starts]
    finally:
        end(*starts)
    assert [status for _, _, status in results] == [0] * 4, results
    assert count.read_text() == "made\n"
    assert sum(MAKING + " /" in errors and "waiting" not in errors for _, errors, _ in results) == 1
    assert checkout.leftovers() == {".venv"}


def test_who_waits_for_another_start_says_so(checkout: Checkout, tmp_path: Path) -> None:
    ready, gate = hold_uv(checkout, tmp_path)
    first = checkout.begin()
    try:
        wait_until(ready.exists, "the first start builds")
        second = checkout.begin()
        try:
            assert second.stderr is not None
            line = second.stderr.readline()
            holder = (checkout.root / ".venv-lock").read_text().strip()
            assert f"another start (pid {holder}) is {MAKING}; waiting" in line
            gate.write_text("go\n")
            assert first.wait(DEADLINE) == 0
            assert second.wait(DEADLINE) == 0
        finally:
            end(second)
    finally:
        end(first)


# --- renewed ---------------------------------------------------------------------------------------------------


def test_a_changed_dependency_list_is_picked_up(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    make_wheel(tmp_path, "tinydep")
    offline = {"UV_FIND_LINKS": str(tmp_path)}
    answer(checkout.call(**offline))
    checkout.require("tinydep")
    done = checkout.call(**offline)
    answer(done)
    assert "setup.cfg changed" in done.stderr
    assert python_says(checkout, "import tinydep; print(tinydep.here)") == "True"
    assert checkout.call(**offline).stderr == ""


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_setup_cfg_that_is_only_touched_costs_one_comparison(checkout: Checkout, seconds: int) -> None:
    answer(checkout.call())
    stamp = checkout.venv / ".safesh-stamp"
    when = stamp.stat().st_mtime + seconds
    os.utime(checkout.setup_cfg, (when, when))
    before = os.stat(checkout.venv).st_ino
    assert checkout.call().stderr == ""
    assert stamp.stat().st_mtime_ns == checkout.setup_cfg.stat().st_mtime_ns  # warm again
    assert os.stat(checkout.venv).st_ino == before


def test_a_setup_cfg_changed_elsewhere_than_in_its_requirements_makes_nothing_anew(checkout: Checkout) -> None:
    answer(checkout.call())
    before = os.stat(checkout.venv).st_ino
    checkout.require(more="description = another\n")
    assert checkout.call().stderr == ""
    assert os.stat(checkout.venv).st_ino == before


def test_a_failed_renewal_says_why_and_keeps_the_old_environment(checkout: Checkout) -> None:
    answer(checkout.call())
    old = checkout.setup_cfg.read_text()
    break_uv(checkout)
    checkout.require("tinydep")
    done = without_a_network(checkout)
    assert "uv could not (error: no index for you); trying venv and pip" in done.stderr
    assert checkout.leftovers() == {".venv"}
    checkout.setup_cfg.write_text(old)
    assert checkout.call().stderr == ""


def test_an_environment_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    answer(checkout.call())
    python = checkout.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert MAKING in checkout.call().stderr
    assert checkout.call().stderr == ""


def test_a_damaged_stamp_is_made_good(checkout: Checkout) -> None:
    answer(checkout.call())
    stamp = checkout.venv / ".safesh-stamp"
    when = stamp.stat().st_mtime_ns
    for damage in ("", "safesh-venv-0 of old\n", "\0\xff"):
        stamp.write_bytes(damage.encode("latin-1"))
        os.utime(stamp, ns=(when, when))
        assert MAKING in checkout.call().stderr
        assert checkout.call().stderr == ""


def test_extras_come_on_top_and_stay(checkout: Checkout) -> None:
    checkout.require(more="[options.extras_require]\ndev =\n    tinydep\n")
    log = checkout.root / "installed"
    text = (checkout.path / "uv").read_text()
    checkout.script("uv", text.replace("  pip)\n", f'  pip)\n    echo "${{@: -1}}" >>"{log}"\n'))
    bootstrap = [str(checkout.path / "bash"), str(checkout.root / "scripts" / "bootstrap.sh"), str(checkout.venv)]
    answer(checkout.call())
    assert not log.exists()
    assert checkout.call("--extras", "dev", via=bootstrap).returncode == 0
    assert log.read_text() == "tinydep\n"
    os.utime(checkout.setup_cfg)
    assert checkout.call().stderr == ""  # safe.sh asks for less, and is content
    done = checkout.call("--extras", "nonsense", via=bootstrap)
    assert done.returncode == 69
    assert "no extra named 'nonsense'" in done.stderr


# --- whole or not at all ---------------------------------------------------------------------------------------


def without_a_network(checkout: Checkout) -> subprocess.CompletedProcess[str]:
    """A start whose pip reaches no index, and what it has to say."""
    done = checkout.call(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    assert done.returncode == 69
    assert done.stdout == ""
    assert "the package index cannot be reached" in done.stderr
    assert "next: connect" in done.stderr
    assert "  | " in done.stderr  # pip's last lines
    assert "Traceback" not in done.stderr
    return done


@full  # a quick run has it with an environment to keep, above, and with nothing to leave on a full disk, below
def test_without_a_network_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, quick=False)
    checkout.require("tinydep")
    without_a_network(checkout)
    assert checkout.leftovers() == set()


def in_small_filesystem(checkout: Checkout, folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    """Call safe.sh in a mount namespace where SAFESH_VENV lies on a tmpfs; stdout lists what it left there."""
    unshare, mount, ls = shutil.which("unshare"), shutil.which("mount"), shutil.which("ls")
    if os.geteuid() != 0 or not unshare or not mount or not ls:
        pytest.skip("needs root, unshare and mount for a file system of its own")
    if subprocess.run([unshare, "-m", mount, "-t", "tmpfs", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    script = f'"{mount}" -t tmpfs -o {options} none "$0" || exit 100\n"$1"; status=$?\n"{ls}" -A "$0"; exit $status'
    bash = str(checkout.path / "bash")
    return checkout.call(
        str(folder), str(checkout.safe), via=[unshare, "-m", bash, "-c", script], SAFESH_VENV=str(folder / "venv")
    )


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, quick=False)
    small = tmp_path / "small"
    small.mkdir()
    done = in_small_filesystem(checkout, small, "size=1m")
    assert done.returncode == 69, done.stderr
    assert "the disk is full" in done.stderr
    assert "next: free about" in done.stderr
    assert done.stdout.split() == ["venv-lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir()
    done = in_small_filesystem(checkout, closed, "ro")
    assert done.returncode == 69, done.stderr
    assert "its folder cannot be written" in done.stderr
    assert str(closed) in done.stderr
    assert "SAFESH_VENV" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_build_killed_in_the_middle_is_made_good_by_the_next_start(checkout: Checkout, tmp_path: Path) -> None:
    quick = (checkout.path / "uv").read_text()
    ready, _ = hold_uv(checkout, tmp_path)
    start = checkout.begin()
    try:
        wait_until(ready.exists, "the build has begun")
    finally:
        end(start)
    assert not checkout.venv.exists()
    assert (checkout.root / ".venv-building").exists()
    checkout.script("uv", quick)
    answer(checkout.call())
    assert checkout.leftovers() == {".venv"}


def test_where_only_bootstrap_was_killed_the_next_start_waits_for_what_still_writes(
    checkout: Checkout, tmp_path: Path
) -> None:
    quick = (checkout.path / "uv").read_text()
    ready, gate = hold_uv(checkout, tmp_path)
    first = checkout.begin()
    try:
        wait_until(ready.exists, "the build has begun")
        os.kill(int((checkout.root / ".venv-lock").read_text()), signal.SIGKILL)  # ours, alive: it holds the lock
        assert first.wait(DEADLINE) == 128 + signal.SIGKILL
        checkout.script("uv", quick)
        second = checkout.begin()
        try:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            gate.write_text("go\n")
            assert second.wait(DEADLINE) == 0
        finally:
            end(second)
    finally:
        end(first)
    assert checkout.leftovers() == {".venv"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_nothing(checkout: Checkout, tmp_path: Path, number: signal.Signals) -> None:
    ready, _ = hold_uv(checkout, tmp_path)
    command = [BASE_PYTHON, "-I", str(checkout.root / "scripts" / "bootstrap.py"), str(checkout.venv)]
    start = subprocess.Popen(
        command, env=checkout.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_until(ready.exists, "the build has begun")
        start.send_signal(number)
        assert start.wait(DEADLINE) == 128 + number
        assert start.stderr is not None
        assert "Traceback" not in start.stderr.read()
    finally:
        end(start)
    assert checkout.leftovers() == set()


def test_a_kill_between_the_two_renames_is_made_good(checkout: Checkout) -> None:
    answer(checkout.call())
    checkout.venv.rename(checkout.root / ".venv-old")
    (checkout.root / ".venv-building").mkdir()
    answer(checkout.call())
    assert checkout.leftovers() == {".venv"}


def test_an_environment_of_the_users_steps_aside_and_is_kept(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / "pyvenv.cfg").write_text("mine\n")
    done = checkout.call()
    answer(done)
    assert "was not made by safesh" in done.stderr
    assert (checkout.root / ".venv-yours-1" / "pyvenv.cfg").read_text() == "mine\n"


def test_a_folder_that_is_no_environment_is_never_touched(checkout: Checkout) -> None:
    (checkout.home / "thesis").write_text("years of work\n")
    done = checkout.call(SAFESH_VENV=str(checkout.home))
    assert done.returncode == 69
    assert f"{checkout.home} is there and is not a virtual environment" in done.stderr
    assert (checkout.home / "thesis").read_text() == "years of work\n"


# --- which Python ----------------------------------------------------------------------------------------------


def fake_python(checkout: Checkout, name: str, words: str) -> None:
    (checkout.path / name).unlink(missing_ok=True)
    checkout.script(name, f"#!{checkout.path / 'bash'}\n{words}\n")


def test_a_python_that_is_too_old_is_named_with_what_is_needed(checkout: Checkout) -> None:
    fake_python(checkout, "python3", "echo 3.9.2")
    fake_python(checkout, "python", "echo 2.7.18")
    fake_python(checkout, "python3.12", "echo 'pyenv: version not installed' >&2; exit 127")
    done = checkout.call()
    assert done.returncode == 69
    assert "needs Python 3.11 or newer" in done.stderr
    assert f"{checkout.path}/python3 (is 3.9.2)" in done.stderr
    assert f"{checkout.path}/python (is 2.7.18)" in done.stderr
    assert f"{checkout.path}/python3.12 (does not start)" in done.stderr
    assert "next: install one" in done.stderr
    assert checkout.leftovers() == set()


def test_no_python_at_all_is_said(checkout: Checkout) -> None:
    (checkout.path / "python3").unlink()
    done = checkout.call()
    assert done.returncode == 69
    assert "found none on PATH" in done.stderr


def test_a_shim_that_fails_is_passed_over_for_a_python_that_works(checkout: Checkout, tmp_path: Path) -> None:
    fake_python(checkout, "python3", "echo 'pyenv: no such version' >&2; exit 127")
    later = tmp_path / "later"
    later.mkdir()
    (later / "python3").symlink_to(BASE_PYTHON)
    answer(checkout.call(PATH=f"{checkout.path}:{later}"))


def test_safesh_python_names_the_python_and_no_other_is_taken(checkout: Checkout) -> None:
    fake_python(checkout, "mypython", "echo 3.10.1")
    done = checkout.call(SAFESH_PYTHON="mypython")
    assert done.returncode == 69
    assert f"{checkout.path}/mypython (is 3.10.1)" in done.stderr
    assert "SAFESH_PYTHON" in done.stderr
    (checkout.path / "python3").rename(checkout.path / "elsewhere")
    answer(checkout.call(SAFESH_PYTHON=str(checkout.path / "elsewhere")))


# --- what went wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("error: failed to copy file: Disk quota exceeded (os error 122)", "the disk is full"),
        (
            "The virtual environment was not created successfully because ensurepip is not\navailable.  On "
            "Debian/Ubuntu systems, you need to install the python3-venv package",
            "this Python came without its venv and ensurepip modules",
        ),
        ("/usr/bin/python3: No module named venv", "this Python came without its venv and ensurepip modules"),
        ("[Errno -3] Temporary failure in name resolution", "the package index cannot be reached"),
        (
            "error: Failed to fetch: `x`\n  Caused by: dns error: failed to lookup",
            "the package index cannot be reached",
        ),
        ("error: Permission denied (os error 13)", "its folder cannot be written"),
        (
            "from versions: 1.0)\nERROR: No matching distribution found for tinydep>=2",
            "the package index does not have",
        ),
        ("ERROR: Could not find a version (from versions: none)", "the package index was not reached, or"),
        ("Segmentation fault", "pip ended with status 3"),
    ],
)
def test_the_cause_is_told_from_what_the_tools_say(said: str, meant: str) -> None:
    failure = load_bootstrap().explained(said, "pip ended with status 3")
    assert failure.message.startswith(meant)
    assert failure.hint


def test_a_setup_cfg_that_cannot_be_read_is_an_error_with_its_place(checkout: Checkout) -> None:
    checkout.setup_cfg.write_text("no section\n")
    done = checkout.call()
    assert done.returncode == 69
    assert f"{checkout.setup_cfg} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    checkout.setup_cfg.unlink()
    assert f"{checkout.setup_cfg} cannot be read" in checkout.call().stderr
