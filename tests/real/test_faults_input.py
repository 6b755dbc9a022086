"""Bad input, on the whole program: one clear line with the place and the next step, and nothing started or ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from helpers import procs
from helpers.faults_tools import (
    SLEEPER,
    as_nobody,
    lend_state,
    members,
    nobodys_cli,
    one_line,
    record_of,
    run,
    table,
    write_target,
)
from helpers.home import CLI, Home, Safe

# --- names, keys, types ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [["start"], ["start", "--detach"], ["stop", "--force"], ["restart", "--force"], ["status"]]
)
def test_an_unknown_target_is_2_and_the_closest_is_offered(home: Home, safe: Safe, verb: list[str]) -> None:
    home.write_config(table(SLEEPER, "headless") + table(SLEEPER, "gui"))
    one_line(safe(*verb, "headles").check(2), "'headles'", "headless")


def test_an_unknown_target_among_known_ones_ends_nothing(home: Home, safe: Safe) -> None:
    write_target(home)
    with safe.started("t"):
        one_line(safe("stop", "--force", "t", "nosuch").check(2), "'nosuch'")
        safe("status", "t").check(0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[targets.t]\ncomand = "true"\n', ["targets.t.comand", "command"]),
        ('[targets.t]\ncommand = "true"\nstop = { grase = "1s" }\n', ["targets.t.stop.grase", "grace"]),
        ('[target.t]\ncommand = "true"\n', ["target", "targets"]),
        ("[targets.t]\ncommand = 5\n", ["targets.t.command"]),
        ('[targets.t]\ncommand = "true"\nrestart = "allways"\n', ["targets.t.restart", "always"]),
        ('[targets.t]\ncommand = "true"\nstop = { grace = -1 }\n', ["targets.t.stop.grace"]),
        ('[targets.t]\ncommand = "true"\nenv = { A = [] }\n', ["targets.t.env"]),
        ('[targets.t]\ncommand = "true"\nstop = { signal = "SIGFOO" }\n', ["targets.t.stop.signal", "SIGFOO"]),
        ("[targets.t]\ncommand = []\n", ["targets.t.command"]),
        ("[targets.t\ncommand = 5\n", ["safe.toml:1"]),
        ("", ["safe.toml"]),
    ],
)
def test_a_wrong_config_is_78_at_its_place_for_every_verb(home: Home, safe: Safe, text: str, says: list[str]) -> None:
    home.write_config(text)
    for verb in (["start", "t"], ["start", "t", "--detach"], ["stop", "t", "--force"], ["status", "t"]):
        one_line(safe(*verb).check(78), *says)


# --- the file itself ------------------------------------------------------------------------------


def damage_world_writable(path: Path) -> str:
    path.chmod(0o666)
    return "chmod o-w"


def damage_folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "folder"


def damage_fifo(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "regular file"


def damage_dangling(path: Path) -> str:
    path.unlink()
    path.symlink_to("nowhere")
    return "symlink to nothing"


def damage_loop(path: Path) -> str:
    path.unlink()
    path.symlink_to(path)
    return "symbolic links"


def damage_bytes(path: Path) -> str:
    path.write_bytes(b"[targets.t]\ncommand = '\xff'\n")
    return "safe.toml:2"


def damage_size(path: Path) -> str:
    path.write_bytes(b"#" * (3 << 20))
    return "1 MiB"


@pytest.mark.parametrize(
    "damage",
    [damage_world_writable, damage_folder, damage_fifo, damage_dangling, damage_loop, damage_bytes, damage_size],
)
def test_a_config_that_cannot_be_trusted_or_read_is_78(home: Home, safe: Safe, damage: Callable[[Path], str]) -> None:
    write_target(home)
    says = damage(home.project / "safe.toml")
    for verb in (["start", "t", "--detach"], ["stop", "t", "--force"], ["status", "t"]):
        one_line(safe(*verb).check(78), "safe.toml", says)


def test_a_config_that_may_not_be_read_is_78(home: Home, safe: Safe) -> None:
    write_target(home)
    (home.project / "safe.toml").chmod(0o600)
    lend_state(home)
    one_line(run(*as_nobody(), *nobodys_cli(), "start", "t").check(78), "safe.toml", "Permission denied", "ls -l")


def test_a_config_that_is_not_there_but_named_is_78(safe: Safe) -> None:
    one_line(safe("status", "--config", "nowhere.toml").check(78), "nowhere.toml", "no such file")
    one_line(safe("status", env={"SAFESH_CONFIG": "/nowhere/safe.toml"}).check(78), "/nowhere/safe.toml")


# --- the command ----------------------------------------------------------------------------------


def make_text(home: Home) -> str:
    path = home.project / "plain.txt"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return str(path)


def make_folder(home: Home) -> str:
    (home.project / "folder").mkdir()
    return str(home.project / "folder")


def make_orphan(home: Home) -> str:
    path = home.project / "orphan"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    return str(path)


COMMANDS = [
    pytest.param(lambda _home: "no-such-program-anywhere", 127, "No such file", id="missing"),
    pytest.param(lambda _home: "/no/such/folder/prog", 127, "No such file", id="missing-path"),
    pytest.param(make_orphan, 127, "interpreter", id="interpreter"),
    pytest.param(make_text, 126, "chmod +x", id="not-executable"),
    pytest.param(make_folder, 126, "directory", id="directory"),
]


@pytest.mark.parametrize("how", ["foreground", "detached", "ad hoc"])
@pytest.mark.parametrize(("make", "code", "says"), COMMANDS)
def test_a_command_that_cannot_be_executed(
    home: Home, safe: Safe, make: Callable[[Home], str], code: int, says: str, how: str
) -> None:
    command = make(home)
    if how == "ad hoc":
        result = safe("start", "once", "--", command)
    else:
        # Trying again would not help, whatever the policy.
        write_target(home, [command], more='restart = "always"')
        result = safe("start", "t", *(["--detach"] if how == "detached" else []))
    one_line(result.check(code), command, says)
    if how != "ad hoc":
        record = record_of(home)
        assert (record["state"], record["keeper"], record["main"]) == ("failed", None, None)
        assert command in record["message"]
        status = safe("status", "t").check(3)
        assert command in status.out
    # The lock is free, and a repaired target starts.
    write_target(home)
    with safe.started("t"):
        pass


@pytest.mark.parametrize("cwd", ["gone", "safe.toml"])
@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_working_directory_that_is_none_is_78(home: Home, safe: Safe, cwd: str, detach: list[str]) -> None:
    write_target(home, more=f'cwd = "{cwd}"')
    one_line(safe("start", "t", *detach).check(78), "targets.t.cwd", cwd)


def test_a_working_directory_that_vanishes_fails_the_next_life_with_the_reason(home: Home, safe: Safe) -> None:
    (home.project / "here").mkdir()
    write_target(
        home,
        "cd ..; rmdir here; exit 3",
        more='cwd = "here"\nrestart = "always"\nbackoff = { initial = "0.05s", jitter = 0 }',
    )
    result = safe("start", "t").check(78)
    assert "No such file or directory" in result.err
    assert "here" in record_of(home)["message"]
    assert record_of(home)["state"] == "failed"


def test_a_removed_current_folder_is_told(home: Home, safe: Safe) -> None:
    gone = home.project / "gone"
    gone.mkdir()
    child = run("sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh", *CLI, "status")
    one_line(child.check(2), "working directory", "cd ~")


# --- too much -------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_command_of_more_than_a_mebibyte_is_refused_in_one_line(home: Home, safe: Safe, detach: list[str]) -> None:
    words = ["x" * 100_000] * 12  # execve(2) takes 128 KiB a word
    result = safe("start", "big", *detach, "--", "true", *words)
    assert result.rc not in (0, 70)
    assert len(one_line(result, "1 MiB")) < 1000
    assert safe("start", "big", "--", "true").rc == 0


def test_an_argument_that_the_kernel_refuses_is_126_in_one_line(home: Home, safe: Safe) -> None:
    write_target(home, ["true", "x" * 200_000])
    result = safe("start", "t", "--detach").check(126)
    assert len(one_line(result, "Argument list too long")) < 1000


def test_an_environment_of_a_mebibyte_is_refused_in_one_line(home: Home, safe: Safe) -> None:
    (home.project / "env").write_text("".join(f"V{number}={'x' * 1000}\n" for number in range(1000)))
    write_target(home, more='env_file = "env"')
    with safe.started("t"):  # just below it
        pass
    (home.project / "env").write_text("V=" + "x" * 300_000 + "\n")
    result = safe("start", "t", "--detach").check(126)
    assert len(one_line(result, "Argument list too long")) < 1000


def test_a_long_command_line_is_held_shown_and_stopped_like_any_other(home: Home, safe: Safe) -> None:
    words = ["x" * 100_000] * 3
    with safe.started("long", "--", "sh", "-c", "exec sleep 600", *words):
        holder = int((home.state / "default" / "long.pid").read_text())
        assert safe("status", "long", "--json").check(0).json()["instances"][0]["supervisor_alive"]
        refused = safe("start", "long", "--", "true").check(75)
        assert f"held by pid {holder}" in refused.err
        assert len(refused.err) < 2000
        assert "nobody is left" in safe("stop", "long", "--force").check(0).out


# --- the config goes away or changes while a target runs --------------------------------------------


def test_a_deleted_config_keeps_nobody_from_status_and_stop(home: Home, safe: Safe) -> None:
    home.write_config(
        table(SLEEPER, "headless", 'instance = "robot"\nlock_file = "my.lock"\npid_file = "my.pid"')
        + table(SLEEPER, "gui", 'instance = "robot"')
    )
    safe("start", "headless", "--detach").check()
    try:
        (home.project / "safe.toml").unlink()
        for name in ("headless", "robot"):
            shown = safe("status", name, "--json").check(0).json()["instances"][0]
            assert shown["target"] == "headless"
            assert len(shown["tree"]) == 1
        assert "nobody is left" in safe("stop", "headless", "--force").check(0).out
        assert members(home, "robot") == []
        assert not (home.project / "my.pid").exists()
        safe("status", "robot").check(3)
    finally:
        safe("stop", "robot", "--force", "--now")


def test_a_target_taken_out_of_the_config_can_still_be_stopped(home: Home, safe: Safe) -> None:
    home.write_config(table(SLEEPER, "old", 'lock_file = "old.lock"'))
    safe("start", "old", "--detach").check()
    try:
        home.write_config(table(SLEEPER, "new"))
        assert "running" in safe("status", "old").check(0).out
        assert "nobody is left" in safe("stop", "old", "--force").check(0).out
        assert members(home, "old") == []
    finally:
        safe("stop", "old", "--force", "--now")


def test_a_restart_with_a_broken_config_ends_nothing(home: Home, safe: Safe) -> None:
    write_target(home)
    with safe.started("t"):
        pid = record_of(home)["main"]["pid"]
        home.write_config("[targets.t]\ncommand = 5\n")
        one_line(safe("restart", "t", "--force").check(78), "targets.t.command")
        assert record_of(home)["main"]["pid"] == pid
        assert len(members(home)) == 1


@pytest.mark.parametrize("verb", [["stop", "t"], ["stop"], ["kill-all"]])
def test_a_config_broken_meanwhile_keeps_nobody_from_ending_what_it_started(
    home: Home, safe: Safe, verb: list[str]
) -> None:
    write_target(home, more='lock_file = "my.lock"')
    with safe.started("t"):
        home.write_config("[targets.t]\ncommand = 5\n")
        result = safe(*verb, "--force").check(0)
        assert "nobody is left" in result.out
        assert "targets.t.command" in result.err
        assert members(home) == []
        one_line(safe("stop", "nosuch", "--force").check(78), "targets.t.command")


@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
@pytest.mark.parametrize("verb", [["stop", "t"], ["kill-all"]])
def test_a_broken_config_and_a_damaged_record_keep_nobody_from_ending_what_runs(
    home: Home, safe: Safe, verb: list[str], beside: bool
) -> None:
    home.write_config(table(SLEEPER, "t") + table(SLEEPER, "u"))
    with safe.started("t"), safe.started("u") if beside else nullcontext():
        (home.project / "safe.toml").write_bytes(b"[targets.t]\ncommand = 5\n" if beside else b"\xd6")
        home.state_file("t.json").write_text("{")
        result = safe(*verb, "--force").check(0)
        assert "t: stopped" in result.out
        assert "targets.t.command" in result.err or "UTF-8" in result.err
        assert members(home, "t") == []


def test_without_a_config_a_name_never_means_another_projects_target(home: Home, safe: Safe) -> None:
    here, there = home.project.parent / "one", home.project.parent / "two"
    try:
        for folder in (here, there):
            folder.mkdir()
            (folder / "safe.toml").write_text(table(SLEEPER))
            safe("start", "t", "--detach", cwd=folder).check()
        one_line(safe("stop", "t", "--force").check(2), "one, two", "--config")
        (here / "safe.toml").unlink()
        safe("stop", "t", "--force", cwd=here).check(0)
        safe("status", "t", cwd=there).check(0)
    finally:
        safe("kill-all", "--force", "--now")


def test_a_restart_into_a_command_that_is_not_there_says_so(home: Home, safe: Safe) -> None:
    write_target(home)
    with safe.started("t"):
        write_target(home, ["/no/such/program"])
        result = safe("restart", "t", "--force")
        assert result.rc not in (0, 70)
        one_line(result, "/no/such/program")
        assert members(home) == []


# --- the question -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [["stop", "t"], ["stop"], ["restart", "t"], ["kill-all"], ["start", "t", "--replace"]])
def test_without_a_terminal_and_without_force_nothing_is_ended(home: Home, safe: Safe, verb: list[str]) -> None:
    write_target(home)
    with safe.started("t"):
        before = record_of(home)["main"]
        result = safe(*verb).check(2)
        assert result.err.startswith("safesh: ")
        assert "--force" in result.err
        assert procs.alive(before["pid"], before["start"])
        assert record_of(home)["state"] == "running"


@pytest.mark.parametrize("typed", [b"\x03", b"\x04", b"n\n", b"\n", b"perhaps\n"])
def test_ctrl_c_and_anything_but_yes_at_the_question_end_nothing(home: Home, safe: Safe, typed: bytes) -> None:
    write_target(home)
    with safe.started("t"):
        before = record_of(home)["main"]
        pid, master = os.forkpty()
        if pid == 0:
            os.execv(CLI[0], [*CLI, "stop", "t"])
        start = procs.start_of(pid)
        shown = b""
        try:
            while b"[y/N]" not in shown:
                shown += os.read(master, 4096)
            os.write(master, typed)
            try:
                while chunk := os.read(master, 4096):
                    shown += chunk
            except OSError:
                pass  # EIO: it has ended
            _pid, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) in (2, 130), shown
            assert b"nothing was ended" in shown or typed == b"\x03", shown
            assert b"Traceback" not in shown
        finally:
            procs.send(pid, start, 9)
            os.close(master)
        assert procs.alive(before["pid"], before["start"])
        safe("status", "t").check(0)
