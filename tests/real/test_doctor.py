"""``doctor`` tells what is there, what is wrong and how to repair it; it changes nothing and survives everything."""

from __future__ import annotations

import configparser
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.faults_tools import NOBODY, as_nobody, fill, give_away, lend_state, nobodys_cli, run, tiny_disk
from helpers.home import CLI, ROOT, Home, Result, Safe
from safesh._platform import probe
from safesh.diagnose import check as checks
from safesh.diagnose import software
from safesh.diagnose.state import judge_filesystem
from safesh.diagnose.table import CHECKS

ONE = """
[targets.sleeper]
command = ["sleep", "600"]
stop = { grace = "1s" }
"""


def told(result: Result) -> dict[str, dict[str, str]]:
    """The JSON document by check; whatever happened, it is whole and nothing else was said."""
    assert result.rc in (0, 1), result
    assert result.err == "", result
    document = json.loads(result.out)
    assert document["v"] == 1
    found = {one["name"]: one for one in document["checks"]}
    assert list(found) == [check.name for check in CHECKS]
    for one in found.values():
        assert one["state"] in ("ok", "warn", "fail")
        assert one["found"]
        assert one["why"]
        assert one["state"] == "ok" or one["remedy"], one
    assert result.rc == int(any(one["state"] == "fail" for one in found.values()))
    return found


def look(safe: Safe, *words: str, **options: Any) -> dict[str, dict[str, str]]:
    return told(safe("doctor", "--json", *words, **options))


def test_the_manual_names_every_check() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert re.findall(r"`([^`]+)`", "".join(rows)) == sorted(
        (check.name for check in CHECKS), key=lambda name: text.index(f"`{name}`")
    )


# --- as a whole -----------------------------------------------------------------------------------


def test_on_a_sound_machine_nothing_fails_and_the_exit_status_is_0(home: Home, safe: Safe) -> None:
    home.write_config(ONE)
    done = safe("doctor").check(0)
    assert done.err == ""
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert [line[6:].startswith(check.name) for line, check in zip(
        [line for line in lines if line[:4].strip() in ("ok", "warn", "fail")], CHECKS, strict=True
    )]  # fmt: skip
    assert re.search(rf"^{len(CHECKS)} checks: \d+ ok", lines[-1])


def test_a_warning_shows_why_it_matters_and_what_to_do(home: Home, safe: Safe) -> None:
    home.state.mkdir(mode=0o755)
    home.state.chmod(0o755)
    shown = safe("doctor").check(0).out
    line, why, remedy = shown[shown.index("warn  state folder") :].splitlines()[:3]
    assert line.endswith("mode 755: others can look into it")
    assert why.strip().startswith("why: ")
    assert remedy.split() == [remedy.split()[0], "chmod", "700", str(home.state)]


def picture(folder: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for path in sorted([folder, *folder.rglob("*")]) if folder.exists() else []:
        info = path.lstat()
        found.append((str(path), info.st_mode, info.st_mtime_ns, info.st_ctime_ns))
    return found


def test_it_changes_nothing_neither_before_the_first_start_nor_beside_a_live_run(home: Home, safe: Safe) -> None:
    home.write_config(ONE)
    look(safe)
    assert not home.state.exists()
    with safe.started("sleeper"):
        # The supervisor goes on writing its record and its events, and replaces them in their folder.
        own = {str(path.parent) for path in home.state.rglob("*.json")}

        def seen() -> list[tuple[str, int, int, int]]:
            rows = picture(home.path) + picture(home.project)
            return [row for row in rows if not row[0].endswith((".json", ".jsonl")) and row[0] not in own]

        before = seen()
        found = look(safe)
        assert found["left files"]["state"] == found["state files"]["state"] == "ok"
        assert seen() == before
        safe("status", "sleeper").check(0)


def test_another_user_without_any_privilege_may_run_it(home: Home) -> None:
    home.path.parent.chmod(0o755)
    home.project.chmod(0o755)
    give_away(home.path)
    env = {"HOME": str(home.path), "SAFESH_HOME": str(home.path / "state")}
    words = nobodys_cli()
    # Its Python may lack our libraries, which is then a failure, and the only one.
    found = told(run(*as_nobody(), "env", *words, "doctor", "--json", env=env, cwd=str(home.project)))
    assert {name for name, one in found.items() if one["state"] == "fail"} <= {"libraries"}
    assert "is not there yet" in found["state folder"]["found"]
    assert not (home.path / "state").exists()


def test_a_state_folder_that_cannot_be_made_fails(home: Home) -> None:
    home.path.parent.chmod(0o755)
    home.project.chmod(0o755)
    done = run(*as_nobody(), "env", *nobodys_cli(), "doctor", "--json", cwd=str(home.project))
    found = told(done)["state folder"]
    assert (found["state"], "cannot be made" in found["found"]) == ("fail", True)


# --- isolation ------------------------------------------------------------------------------------


def looking(action: Any) -> checks.Check:
    return checks.Check(name="odd", why="it does", look=action)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda _subject: time.sleep(60), "no answer within 0.5s"),
        (lambda _subject: 1 // 0, "ZeroDivisionError"),
        (lambda _subject: os.kill(os.getpid(), signal.SIGKILL), "the check itself was ended"),
        (lambda _subject: sys.exit(3), "the check itself was ended"),
        (lambda _subject: None, "could not be checked"),
    ],
    ids=["hangs", "raises", "is killed", "exits", "answers nothing"],
)
def test_a_check_that_breaks_is_a_failed_check(action: Any, said: str) -> None:
    found = checks.run(looking(action), checks.Subject(), 0.5)
    assert (found.name, found.state, found.why) == ("odd", "fail", "it does")
    assert said in found.found
    assert found.remedy


# --- the state folder -----------------------------------------------------------------------------


def test_a_folder_that_others_can_write_fails_and_the_remedy_repairs_it(home: Home, safe: Safe) -> None:
    home.state.mkdir()
    home.state.chmod(0o777)
    found = look(safe)["state folder"]
    assert found["state"] == "fail"
    subprocess.run(shlex.split(found["remedy"]), check=True, timeout=10)
    assert look(safe)["state folder"]["state"] == "ok"


def test_a_way_to_it_that_everybody_can_write_is_warned_of(home: Home, safe: Safe) -> None:
    home.path.parent.chmod(0o777)
    found = look(safe)["state folder"]
    assert (found["state"], found["remedy"]) == ("warn", f"chmod o-w {home.path.parent}")


def test_somebody_elses_folder_fails(home: Home, safe: Safe) -> None:
    lend_state(home)
    found = look(safe)["state folder"]
    assert found["state"] == "fail"
    assert f"belongs to user {NOBODY}" in found["found"]


def test_a_file_in_its_place_fails(home: Home, safe: Safe) -> None:
    home.state.write_text("")
    assert "is not a folder" in look(safe)["state folder"]["found"]


def test_links_and_open_and_foreign_files_are_named(home: Home, safe: Safe) -> None:
    folder = home.state / "proj"
    folder.mkdir(parents=True, mode=0o700)
    home.state.chmod(0o700)
    (folder / "a.json").symlink_to("/etc/passwd")
    (folder / "b.log").write_text("")
    (folder / "b.log").chmod(0o644)
    (home.state / "link").symlink_to("/tmp")
    found = look(safe)["state files"]
    assert found["state"] == "fail"
    for text in (
        f"{folder}/a.json is a symlink",
        f"{folder}/b.log is open to others",
        f"{home.state}/link is a symlink",
    ):
        assert text in found["found"]
    give_away(folder / "b.log")
    assert f"b.log belongs to user {NOBODY}" in look(safe)["state files"]["found"]


def test_a_file_system_in_memory_is_told_and_a_full_one_fails(home: Home, safe: Safe) -> None:
    with tiny_disk(home.state, 512):
        found = look(safe)
        assert found["file system"]["state"] == "warn"
        assert "lost at a reboot" in found["file system"]["found"]
        assert str(home.state) in found["file system"]["found"]
        assert found["space"]["state"] == "warn"
        fill(home.state / "ballast")
        assert look(safe)["space"]["state"] == "fail"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuseblk", "fuse", "virtiofs"])
def test_a_network_file_system_is_warned_of(kind: str) -> None:
    found = judge_filesystem(kind, "/net")
    assert (found.state, "locks" in found.found, "SAFESH_HOME" in found.remedy) == ("warn", True, True)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "apfs", ""])
def test_a_local_file_system_is_well(kind: str) -> None:
    assert judge_filesystem(kind, "/").state == "ok"


def test_the_innermost_and_latest_mount_is_the_one_that_counts(tmp_path: Path) -> None:
    point = str(tmp_path).replace(" ", "\\040")
    text = (
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:40 /x {point} rw,relatime shared:9 master:2 - tmpfs none rw\n"
        f"31 22 0:41 / {point} rw - nfs4 server:/export rw\n"
        f"32 22 0:42 / {point}-more rw - 9p share rw\n"
        "33 22 0:43 / /a\\040b\\134c rw - cifs //h/s rw\n"
        "garbage\n"
    )
    known = probe.parse_mounts(text)
    assert probe.file_system(str(tmp_path), known) == ("nfs4", str(tmp_path))
    assert probe.file_system("/", known) == ("ext4", "/")
    assert known[-1][:2] == ("/a b\\c", "cifs")


# --- backend and kernel ---------------------------------------------------------------------------


def test_an_unknown_backend_fails_and_everything_else_is_still_looked_at(safe: Safe) -> None:
    found = look(safe, env={"SAFESH_BACKEND": "bogus"})
    assert (found["backend"]["state"], found["backend"]["remedy"]) == ("fail", "unset SAFESH_BACKEND")
    assert "'bogus' is no backend" in found["backend"]["found"]
    assert [name for name, one in found.items() if one["state"] == "fail"] == ["backend"]


@pytest.mark.parametrize("backend", ["posix", "subreaper"])
def test_a_forced_backend_is_told_with_its_reason(safe: Safe, backend: str) -> None:
    found = look(safe, env={"SAFESH_BACKEND": backend})["backend"]
    assert (found["state"], found["remedy"]) == ("warn", "unset SAFESH_BACKEND")
    assert found["found"] == f"{backend} (SAFESH_BACKEND={backend})"


@pytest.mark.skipif(not probe.IS_LINUX, reason="these are Linux's")
def test_what_the_kernel_can_do_is_tried_out(safe: Safe) -> None:
    found = look(safe)
    for name in ("pidfd", "subreaper", "signalfd", "splice", "tee"):
        assert found[name]["state"] == "ok", found[name]
    assert found["subreaper"]["found"] == "orphans come to us"


# --- limits ---------------------------------------------------------------------------------------


def limited(limit: int, soft: int, hard: int | None = None) -> dict[str, dict[str, str]]:
    """What is told under this resource limit."""
    code = "import os, resource, sys; resource.setrlimit(int(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])));"
    code += "os.execv(sys.argv[4], sys.argv[4:])"
    numbers = [str(number) for number in (limit, soft, soft if hard is None else hard)]
    return told(run(sys.executable, "-c", code, *numbers, *CLI, "doctor", "--json"))


def test_few_open_files_are_warned_of_and_hardly_any_fail(home: Home) -> None:
    found = limited(resource.RLIMIT_NOFILE, 100, 4096)["open files"]
    assert (found["state"], found["remedy"]) == ("warn", "ulimit -n 1024")
    found = limited(resource.RLIMIT_NOFILE, 30, 30)["open files"]
    assert (found["state"], "limits.conf" in found["remedy"]) == ("fail", True)


def test_core_dumps_are_told(home: Home) -> None:
    assert "none is written" in limited(resource.RLIMIT_CORE, 0)["core dumps"]["found"]
    assert "up to 1.0 MiB" in limited(resource.RLIMIT_CORE, 1 << 20)["core dumps"]["found"]


@pytest.fixture
def narrow_group() -> Iterator[Path]:
    """A control group of this test's own that holds 25 processes and threads at most."""
    folders = probe.own_groups("pids")
    if not folders or not os.path.exists(os.path.join(folders[-1], "cgroup.procs")):
        pytest.skip("there are no control groups for processes")
    group = Path(folders[-1]) / f"sft-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("25")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group can be made: {error}")
    yield group
    procs.wait_until(lambda: not (group / "cgroup.procs").read_text().split())
    group.rmdir()


def test_the_control_groups_ceiling_is_told_and_warned_of_when_it_is_near(home: Home, narrow_group: Path) -> None:
    enter = ["sh", "-c", f'echo $$ >{narrow_group}/cgroup.procs && exec "$@"', "sh"]
    found = told(run(*enter, *CLI, "doctor", "--json"))["processes"]
    assert f"{narrow_group}: 25 for its control group" in found["found"]
    assert found["state"] == "ok"
    (narrow_group / "pids.max").write_text("9")
    found = told(run(*enter, *CLI, "doctor", "--json"))["processes"]
    assert (found["state"], "pids.max" in found["remedy"]) == ("warn", True)


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "shift", "said"), [
    ("since", 7200.0, "the clock was set back"),
    ("supervised_since", -10 * 365 * 86400.0, "the clock was set"),
])  # fmt: skip
def test_a_record_from_the_future_or_from_before_the_boot_is_told(
    home: Home, safe: Safe, key: str, shift: float, said: str
) -> None:
    home.write_config(ONE)
    with safe.started("sleeper"):
        pass
    file = home.state_file("sleeper.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, key: record[key] + shift}))
    found = look(safe)["clock"]
    assert found["state"] == "warn"
    assert "sleeper.json" in found["found"]
    assert said in found["found"]
    file.write_text(json.dumps(record))
    assert look(safe)["clock"]["state"] == "ok"
    os.utime(file, (time.time() + 9999, time.time() + 9999))
    assert "the clock was set back" in look(safe)["clock"]["found"]


# --- software and safe.toml -----------------------------------------------------------------------


def test_the_libraries_looked_for_are_those_of_setup_cfg() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    assert dict(line.split(">=") for line in wanted) == software.LIBRARIES


def test_missing_libraries_are_named_with_the_command_that_installs_them(home: Home) -> None:
    bare = home.path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    home.write_config(ONE)
    found = told(run(str(bare / "bin" / "python"), *CLI[1:], "doctor", "--json"))
    libraries = found["libraries"]
    assert libraries["state"] == "fail"
    assert "msgspec is missing" in libraries["found"]
    assert libraries["remedy"].startswith(f"{bare}/bin/python -m pip install psutil ")
    assert found["safe.toml"]["state"] == "fail"
    assert "msgspec" in found["safe.toml"]["found"]
    assert f"{bare}/bin/python, virtual environment" in found["python"]["found"]


def test_an_extra_that_is_missing_is_no_failure(safe: Safe) -> None:
    found = look(safe)["extras"]
    assert found["state"] == "ok"
    for _module, name, _purpose in software.EXTRAS:
        assert name in found["found"]


def test_without_a_safe_toml_all_is_well(safe: Safe) -> None:
    found = look(safe)
    assert (found["safe.toml"]["state"], found["targets"]["state"]) == ("ok", "ok")
    assert "no safe.toml here" in found["safe.toml"]["found"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[targets", "not TOML"),
        ('[targets.a]\ncommand = ["true"]\nstop.grce = 1\n', "targets.a.stop.grce: unknown key"),
        ("\udcff", "is not UTF-8"),
        ("", "no targets"),
    ],
)
def test_a_broken_safe_toml_fails_with_its_place(home: Home, safe: Safe, text: str, said: str) -> None:
    (home.project / "safe.toml").write_bytes(text.encode(errors="surrogateescape"))
    found = look(safe)
    assert (found["safe.toml"]["state"], said in found["safe.toml"]["found"]) == ("fail", True)
    assert found["targets"]["state"] == "ok"


def test_a_safe_toml_that_everybody_can_write_fails(home: Home, safe: Safe) -> None:
    home.write_config(ONE).chmod(0o666)
    found = look(safe)["safe.toml"]
    assert (found["state"], found["remedy"].startswith("chmod o-w ")) == ("fail", True)


def test_a_named_file_that_is_not_there_fails(safe: Safe) -> None:
    assert look(safe, "--config", "nosuch.toml")["safe.toml"]["state"] == "fail"
    assert look(safe, env={"SAFESH_CONFIG": "/nonexistent"})["safe.toml"]["state"] == "fail"


def test_targets_that_could_not_start_are_named(home: Home, safe: Safe) -> None:
    (home.project / "plain").write_text("")
    home.write_config(
        ONE + '[targets.a]\ncommand = ["nosuch-program"]\n[targets.b]\ncommand = ["./plain"]\n'
        '[targets.c]\ncommand = ["true"]\ncwd = "nosuch"\n[targets.d]\ncommand = ["true"]\nenv_file = "no.env"\n'
    )
    found = look(safe)["targets"]
    assert found["state"] == "warn"
    for said in ("a: nosuch-program is not on PATH", "plain is not executable", "targets.c.cwd", "targets.d.env_file"):
        assert said in found["found"]
    assert "sleeper" not in found["found"]


# --- leftovers ------------------------------------------------------------------------------------


def test_files_of_an_ended_run_are_named_and_those_of_a_live_one_are_not(home: Home, safe: Safe) -> None:
    home.write_config(ONE)
    with safe.started("sleeper"):
        assert look(safe)["left files"]["state"] == "ok"
    folder = home.state_file("x").parent
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "sleeper.sock"))
    (folder / "sleeper.pid").write_text("1\n")
    (folder / "sleeper.json.999999999.tmp").write_text("{")
    found = look(safe)["left files"]
    assert found["state"] == "warn"
    for command in found["remedy"].split("; "):
        subprocess.run(shlex.split(command), check=True, timeout=10)
    assert look(safe)["left files"]["state"] == "ok"
    assert not (folder / "sleeper.sock").exists()


def test_a_damaged_record_is_told(home: Home, safe: Safe) -> None:
    home.write_config(ONE)
    with safe.started("sleeper"):
        pass
    home.state_file("sleeper.json").write_text("{")
    found = look(safe)["records"]
    assert (found["state"], "sleeper.json is damaged" in found["found"]) == ("warn", True)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with one of our names, made by this test."""
    parent, why = probe.group_parent()
    if not parent:
        pytest.skip(why)
    path = Path(parent) / f"safesh-doctor-{os.getpid()}"
    path.mkdir()
    yield path
    procs.wait_until(lambda: not (path / "cgroup.procs").read_text().split())
    path.rmdir()


def judged(safe: Safe) -> str:
    """What is said of control groups, all of them: others may have left some here too."""
    from safesh.diagnose import leftovers

    parent, _why = probe.group_parent()
    return "\n".join(f"{one.state} {one.found} {one.remedy}" for one in leftovers._orphans(parent).values())


def test_an_empty_control_group_of_nobody_is_told(home: Home, safe: Safe, group: Path) -> None:
    assert f"warn {group} is empty and nobody's rmdir {group}" in judged(safe)
    assert look(safe)["control groups"]["state"] == "warn"


def test_a_control_group_whose_processes_nobody_holds_is_told(home: Home, safe: Safe, group: Path) -> None:
    with procs.spawn("sh", "-c", f"echo $$ >{group}/cgroup.procs; echo in; exec sleep 600") as child:
        child.wait_line("in")
        assert f"{group} holds processes without our mark" in judged(safe)
    mark = str(home.state / "proj" / "arm")
    with procs.spawn(
        "sh", "-c", f"echo $$ >{group}/cgroup.procs; echo in; exec sleep 600", extra_env={"SAFESH_INSTANCE": mark}
    ) as child:
        child.wait_line("in")
        assert f"{group} holds arm, and no supervisor holds it safe.sh stop arm" in judged(safe)


def test_a_live_runs_control_group_is_nobodys_business(home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_config(ONE)
    with safe.started("sleeper"):
        path = json.loads(home.state_file("sleeper.json").read_text())["cgroup"]
        if not path:
            pytest.skip("no control groups here")
        assert path not in judged(safe)
        with monkeypatch.context() as elsewhere:  # seen from another state folder
            elsewhere.setenv("SAFESH_HOME", str(home.path))
            assert path not in judged(safe)
