"""Damaged files of ours, a full disk, a wrong clock: named, never trusted, never a traceback, nothing signalled.

The files are damaged beside a run (a stopped instance must start again) and under one (a running one must still be
seen, refused to a second start, and stopped).
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.campaign import in_full, thinned
from helpers.faults_tools import (
    NOBODY,
    as_nobody,
    events_of,
    fill,
    give_away,
    hand_started,
    kill,
    members,
    nobodys_cli,
    one_line,
    record_of,
    run,
    tiny_disk,
    wait_gone,
    wait_log,
    wait_record,
    write_target,
)
from helpers.home import CLI, Home, Safe
from helpers.procs import wait_until

FILES = {"record": "t.json", "pid file": "t.pid", "lock": "t.lock"}

# --- kinds of damage: each makes the path something else -----------------------------------------------


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def empty(path: Path) -> None:
    _write(path, b"")


def half(path: Path) -> None:
    data = path.read_bytes()
    _write(path, data[: len(data) // 2])


def garbage(path: Path) -> None:
    _write(path, random.Random(1).randbytes(3000))


def zeros(path: Path) -> None:
    _write(path, b"\0" * 4096)


def huge(path: Path) -> None:
    _write(path, b'{"v": 1, "x": "' + b"x" * (6 << 20))


def deep(path: Path) -> None:
    _write(path, b"[" * 200_000)


def elsewhere(path: Path) -> None:
    """A symlink to a file that must not be touched."""
    target = path.with_name("precious")
    target.write_text("precious\n")
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_text("precious\n")


def foreign(path: Path) -> None:
    give_away(path)


CONTENTS = [empty, half, garbage, zeros, huge, deep]
KINDS = [elsewhere, fifo, folder, foreign]


def untouched(path: Path) -> None:
    """What a damage of the second kind put beside or into the path is still what it was."""
    for one in (path.with_name("precious"), path / "inside"):
        if one.exists():
            assert one.read_text() == "precious\n"


def clear(path: Path) -> None:
    """The hint's way out: remove it."""
    if path.is_dir() and not path.is_symlink():
        (path / "inside").unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def names_it(text: str, path: Path) -> None:
    assert str(path) in text, f"{path} is not named: {text}"


def make_past_run(home: Home, safe: Safe) -> None:
    """A run that has ended, its files still there."""
    write_target(home)
    with safe.started("t"):
        pid = home.state_file("t.pid").read_text()
        lock = home.state_file("t.lock").read_text()
    home.state_file("t.pid").write_text(pid)
    home.state_file("t.lock").write_text(lock)


# --- damaged while nothing runs -----------------------------------------------------------------------


@thinned()
@pytest.mark.parametrize("damage", CONTENTS)
@pytest.mark.parametrize("which", FILES)
def test_damaged_contents_are_told_by_status_and_replaced_by_the_next_start(
    home: Home, safe: Safe, which: str, damage: Callable[[Path], None]
) -> None:
    make_past_run(home, safe)
    path = home.state_file(FILES[which])
    damage(path)
    shown = safe("status", "t")
    assert shown.rc in (1, 3)
    assert shown.err == ""
    if which == "record" or (which == "pid file" and damage is not half):  # half a pid may be nobody's
        names_it(shown.out, path)
        assert "is not used" in shown.out or "is left alone" in shown.out
    assert safe("stop", "t", "--force").check(0).out == "t: not running\n"
    with safe.started("t"):
        safe("status", "t").check(0)
    assert record_of(home)["state"] == "finished"


@thinned()
@pytest.mark.parametrize("damage", KINDS)
@pytest.mark.parametrize("which", FILES)
def test_a_file_that_is_not_ours_is_named_with_a_way_out(
    home: Home, safe: Safe, which: str, damage: Callable[[Path], None]
) -> None:
    make_past_run(home, safe)
    path = home.state_file(FILES[which])
    damage(path)
    shown = safe("status", "t")
    assert shown.rc == (4 if which == "lock" else 1)
    names_it(shown.out, path)
    assert "problem: " in shown.out
    safe("stop", "t", "--force").check(0)
    started = safe("start", "t", "--detach")
    if started.rc == 0:  # it could be replaced
        assert which != "lock"
        safe("status", "t").check(0)
        safe("stop", "t", "--force", "--now").check(0)
    else:
        names_it(one_line(started.check(73), hint=True), path)
    untouched(path)
    clear(path)
    with safe.started("t"):
        pass


def test_a_record_cut_at_any_byte_is_never_trusted_and_never_a_traceback(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    path = home.state_file("t.json")
    data = path.read_bytes()
    # Each class of place: around every structure of the text, and some in between.
    cuts = {at + step for at, byte in enumerate(data) if byte in b'{}[]",:' for step in (0, 1)}
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from safesh.instance import record; from safesh.paths import InstancePaths\n"
        "paths = InstancePaths(sys.argv[2], 't'); data = open(paths.record, 'rb').read()\n"
        "for cut in json.loads(sys.argv[3]):\n"
        "    open(paths.record, 'wb').write(data[:cut])\n"
        "    found, problem = record.read_record(paths)\n"
        "    whole = data[:cut].strip() == data.strip()\n"
        "    assert (found is not None) == whole and bool(problem) != whole, (cut, found, problem)\n"
    )
    run(sys.executable, "-c", script, str(Path(CLI[-1]).parents[1]), str(path.parent), json.dumps(sorted(cuts))).check()
    for cut in (1, len(data) // 3, len(data) - 2):
        path.write_bytes(data[:cut])
        assert "is damaged" in safe("status", "t").out


WRONG: list[tuple[str, Any]] = [
    ("v", 2), ("v", "1"), ("v", True), ("state", "dancing"), ("state", None), ("supervisor", None),
    ("supervisor", {}), ("supervisor", {"pid": "1", "start": 1, "boot": ""}),
    ("supervisor", {"pid": True, "start": 1, "boot": ""}), ("supervisor", {"pid": -1, "start": 1, "boot": ""}),
    ("keeper", {"pid": 10**30, "start": 1, "boot": ""}), ("main", []), ("main", {"pid": 1}), ("command", "true"),
    ("command", [1]), ("grace", "1s"), ("grace", float("nan")), ("grace", 1e999), ("since", -1), ("since", 10**400),
    ("restarts", 1.5), ("restarts", None), ("run_id", 7), ("cgroup", ["/"]), ("log_lost_bytes", -1),
    ("last_exit", {"code": "x"}), ("last_exit", {"at": 1e999}), ("last_exit", {"signal": 9}), ("last_exit", 5),
    ("last_verdict", {"survivors": 5}), ("last_verdict", {"killed": [1]}), ("last_verdict", {"asked": [{}]}),
    ("last_verdict", {"notes": "x"}), ("message", None), ("lock_file", 5),
]  # fmt: skip


def test_a_record_of_the_right_form_and_wrong_types_is_told_and_replaced(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    path = home.state_file("t.json")
    good = json.loads(path.read_text())
    for key, value in WRONG:
        path.write_text(json.dumps({**good, key: value}))
        shown = safe("status", "t")
        assert shown.rc == 1, (key, value, shown)
        assert "is damaged" in shown.out, (key, value, shown)
        assert shown.err == "", (key, value, shown)
    for key in good:
        path.write_text(json.dumps({name: good[name] for name in good if name != key}))
        shown = safe("status", "t", "--json")
        assert shown.err == "", (key, shown)
        optional = ("lock_file", "pid_file", "fingerprint", "log_offset", "ended_by", "health", "notify", "usage")
        assert key in optional or shown.json()["instances"][0]["problems"], key
    with safe.started("t"):
        pass


# --- damaged while it runs ----------------------------------------------------------------------------


@thinned()
@pytest.mark.parametrize("damage", [*CONTENTS, *KINDS])
@pytest.mark.parametrize("which", FILES)
def test_a_file_damaged_under_a_running_target_hides_it_from_nobody(
    home: Home, safe: Safe, which: str, damage: Callable[[Path], None]
) -> None:
    write_target(home)
    with safe.started("t"):
        main = record_of(home)["main"]
        path = home.state_file(FILES[which])
        damage(path)
        shown = safe("status", "t")
        assert shown.err == ""
        if which == "lock" and damage in KINDS:
            assert shown.rc in (0, 4)
        else:
            assert shown.rc == 0, shown
        refused = safe("start", "t", "--detach")
        assert refused.rc in ((73, 75) if which == "lock" else (75,)), refused
        one_line(refused, hint=True)
        assert procs.alive(main["pid"], main["start"])
        assert len(members(home)) == 1  # never two
        stopped = safe("stop", "t", "--force").check(0)
        assert "nobody is left" in stopped.out, stopped
        assert members(home) == []
        untouched(path)
        clear(path)


@pytest.mark.parametrize("which", FILES)
def test_a_file_removed_under_a_running_target_hides_it_from_nobody(home: Home, safe: Safe, which: str) -> None:
    write_target(home)
    with safe.started("t"):
        home.state_file(FILES[which]).unlink()
        shown = safe("status", "t").check(0)
        assert which != "lock" or "was removed or replaced" in shown.out
        one_line(safe("start", "t", "--detach").check(75), hint=True)
        assert len(members(home)) == 1
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out


@pytest.mark.parametrize("damage", in_full([garbage, folder], empty))
def test_strays_are_found_without_any_readable_record(home: Home, safe: Safe, damage: Callable[[Path], None]) -> None:
    write_target(home, "trap '' TERM; sleep 600 & while :; do wait; done")
    with safe.started("t"):
        found = record_of(home)
        kill(found["keeper"], signal.SIGSTOP)  # so that it cannot end the tree first
        kill(found["supervisor"])
        wait_gone(found["supervisor"])
        kill(found["keeper"])
        wait_gone(found["keeper"])
        damage(home.state_file("t.json"))
        assert "stray" in safe("status", "t").check(2).out
        one_line(safe("start", "t").check(75), "without a supervisor", hint=True)
        safe("stop", "t", "--force").check(0)
        assert members(home) == []
        clear(home.state_file("t.json"))


@pytest.mark.parametrize(
    "line",
    in_full(
        ["null", '{"pid": 1}', '{"pid": 99999999999999999999, "start": 1, "boot": ""}', "HOLDER-since-inf",
         "HOLDER-command-numbers", "HOLDER-boot"],
        "5", "{}", '{"pid": "x", "start": 1, "boot": ""}', "HOLDER-since-text", "HOLDER-command-text",
        "HOLDER-target-list",
    ),
)  # fmt: skip
def test_a_holders_line_of_wrong_types_is_never_a_traceback(home: Home, safe: Safe, line: str) -> None:
    write_target(home)
    with safe.started("t"):
        path = home.state_file("t.lock")
        good = json.loads(path.read_text())
        changed = {
            "HOLDER-since-text": {"since": "noon"},
            "HOLDER-since-inf": {"since": -1e999},
            "HOLDER-command-text": {"command": "sleep"},
            "HOLDER-command-numbers": {"command": [1, None]},
            "HOLDER-target-list": {"target": ["t"]},
            "HOLDER-boot": {"boot": "another"},
        }
        path.write_text(json.dumps({**good, **changed[line]}) if line in changed else line)  # the same inode
        safe("status", "t", "--json").check(0)
        assert safe("status", "t").check(0).err == ""
        one_line(safe("start", "t", "--detach").check(75), f"held by pid {good['pid']}", hint=True)
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out


# --- pid files of others ------------------------------------------------------------------------------


def test_a_pid_file_that_names_a_foreign_process_is_said_and_the_process_left_alone(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    with hand_started("sleep", "600") as other:
        path = home.state_file("t.pid")
        path.write_text(f"{other.pid}\n")
        shown = safe("status", "t").check(1)
        assert f"names pid {other.pid}, which is now another program (sleep); it is left alone" in shown.out
        assert safe("stop", "t", "--force", "--now").check(0).out == "t: not running\n"
        safe("kill-all", "--force", "--now").check(0)
        with safe.started("t"):
            assert path.read_text() != f"{other.pid}\n"
            path.write_text(f"{other.pid}\n")
            safe("restart", "t", "--force").check(0)
            safe("stop", "t", "--force", "--now").check(0)
        assert path.read_text() == f"{other.pid}\n"  # not ours to remove
        assert other.alive()


def test_nonsense_in_a_pid_file_signals_nobody(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    for text in ("", "x", "-1", "0", "1", "99999999999", "12 34", "٣", "4194304"):
        home.state_file("t.pid").write_text(text)
        assert safe("status", "t").check(1).err == "", text
        assert safe("stop", "t", "--force", "--now").check(0).out == "t: not running\n", text
        home.state_file("t.pid").write_text(text)
    with safe.started("t"):
        pass


# --- the socket ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", in_full([elsewhere, fifo], empty))
def test_a_file_in_the_sockets_place_is_replaced(home: Home, safe: Safe, damage: Callable[[Path], None]) -> None:
    make_past_run(home, safe)
    damage(home.state_file("t.sock"))
    with safe.started("t"):
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out
    untouched(home.state_file("t.sock"))


def test_a_folder_in_the_sockets_place_is_73_and_named(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    folder(home.state_file("t.sock"))
    for detach in ([], ["--detach"]):
        names_it(one_line(safe("start", "t", *detach).check(73), hint=True), home.state_file("t.sock"))
    assert members(home) == []
    untouched(home.state_file("t.sock"))


@pytest.mark.parametrize("damage", in_full([None, folder], empty, fifo))
def test_a_socket_that_is_gone_keeps_no_stop_from_ending_everything(
    home: Home, safe: Safe, damage: Callable[[Path], None] | None
) -> None:
    write_target(home)
    with safe.started("t"):
        path = home.state_file("t.sock")
        if damage is None:
            path.unlink()
        else:
            damage(path)
        result = safe("stop", "t", "--force", "--json").check(0).json()["verdicts"][0]
        assert result["survivors"] == []
        assert members(home) == []
        found = record_of(home)
        assert not procs.alive(found["supervisor"]["pid"], found["supervisor"]["start"])
        clear(path)
    with safe.started("t"):
        pass


# --- the folder ---------------------------------------------------------------------------------------


def folder_is_file(home: Home) -> None:
    home.state.mkdir()
    (home.state / "proj").write_text("precious\n")


def folder_is_symlink(home: Home) -> None:
    home.state.mkdir()
    (home.state / "elsewhere").mkdir()
    (home.state / "proj").symlink_to(home.state / "elsewhere")


def folder_is_foreign(home: Home) -> None:
    (home.state / "proj").mkdir(parents=True)
    give_away(home.state / "proj")


@pytest.mark.parametrize(
    ("damage", "says"),
    [(folder_is_file, "not a folder"), (folder_is_symlink, "symlink"), (folder_is_foreign, f"user {NOBODY}")],
)
def test_a_state_folder_that_is_not_ours_is_never_used(
    home: Home, safe: Safe, damage: Callable[[Home], None], says: str
) -> None:
    write_target(home)
    damage(home)
    for verb in (["start", "t"], ["start", "t", "--detach"], ["stop", "t", "--force"], ["status", "t"], ["kill-all"]):
        result = safe(*verb)
        assert result.rc in (4, 73), result
        one_line(result, str(home.state / "proj"), says, hint=True)
    if damage is folder_is_symlink:
        assert list((home.state / "elsewhere").iterdir()) == []


def test_a_state_home_that_is_no_folder_or_closed_to_us_is_73(home: Home, safe: Safe) -> None:
    write_target(home)
    home.state.write_text("precious\n")
    one_line(safe("start", "t").check(73), str(home.state), "SAFESH_HOME")
    assert home.state.read_text() == "precious\n"
    home.state.unlink()
    home.state.mkdir(mode=0o700)
    home.path.parent.chmod(0o755)
    words = [*as_nobody(), *nobodys_cli(), "start", "t", "--", "true"]
    one_line(run(*words, cwd="/").check(73), str(home.state), "SAFESH_HOME")


def test_a_state_folder_open_to_others_is_closed(home: Home, safe: Safe) -> None:
    write_target(home)
    (home.state / "proj").mkdir(parents=True)
    (home.state / "proj").chmod(0o777)
    with safe.started("t"):
        assert (home.state / "proj").stat().st_mode & 0o777 == 0o700
        for path in (home.state / "proj").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("key", ["lock_file", "pid_file"])
def test_a_lock_or_pid_file_in_a_folder_that_is_not_there_is_73(home: Home, safe: Safe, key: str) -> None:
    write_target(home, more=f'{key} = "nowhere/my.file"')
    for detach in ([], ["--detach"]):
        one_line(safe("start", "t", *detach).check(73), str(home.project / "nowhere" / "my.file"), hint=True)
    assert members(home) == []


@pytest.mark.parametrize("how", ["foreign", "open to all"])
def test_a_lock_file_that_others_could_replace_is_73(home: Home, safe: Safe, how: str) -> None:
    write_target(home, more='lock_file = "shared/my.lock"')
    (home.project / "shared").mkdir()
    (home.project / "shared").chmod(0o777 if how == "open to all" else 0o755)
    if how == "foreign":
        give_away(home.project / "shared")
    one_line(safe("start", "t", "--detach").check(73), "shared/my.lock", "others could replace it", hint=True)
    (home.project / "shared").chmod(0o1777)  # as /tmp is
    if how == "open to all":
        with safe.started("t"):
            pass


def test_files_of_others_beside_our_projects_disturb_nobody(home: Home, safe: Safe) -> None:
    (home.state / "proj").mkdir(parents=True, mode=0o700)
    for name in ("a b.json", ".hidden.json", "x" * 200 + ".json", "é.json"):
        (home.state / "proj" / name).write_text("{}")
    (home.state / "stray-file").write_text("")
    write_target(home)
    with safe.started("t"):
        assert safe("status").err == ""
        safe("status", cwd=home.path)
        assert "nobody is left" in safe("kill-all", "--force").check(0).out


@pytest.mark.parametrize("keep_folder", [True, False])
def test_a_state_folder_emptied_under_a_running_target_leaves_nobody_behind(
    home: Home, safe: Safe, keep_folder: bool
) -> None:
    """Somebody ran ``rm -rf``: the lock is gone, but supervisor and run are found by their marks, so no second one
    starts beside them; and the supervisor's end still ends the tree."""
    write_target(home)
    with safe.started("t"):
        found = record_of(home)
        folder = home.state / "proj"
        for path in folder.iterdir():
            path.unlink()
        if not keep_folder:
            folder.rmdir()
        one_line(safe("start", "t", "--detach").check(75), "its lock and record are gone", hint=True)
        assert len(members(home)) == 1
        kill(found["supervisor"], signal.SIGTERM)
        wait_gone(found["supervisor"])
        wait_until(lambda: not members(home), 5)


def test_a_supervisor_whose_lock_somebody_else_holds_starts_nothing_again(home: Home, safe: Safe) -> None:
    """Between two runs nobody of the first instance lives: only its lock could tell of it, and that was removed."""
    write_target(home, "echo up; exit 3", more='restart = "always"\nbackoff = { initial = "1s", jitter = 0 }')
    with safe.started("t"):
        first = wait_record(home, state="backoff")
        for path in (home.state / "proj").iterdir():
            path.unlink()
        # No start of ours would get that far: it finds the first supervisor by its mark.
        with home.state_file("t.lock").open("x") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wait_gone(first["supervisor"], 10)
        assert members(home) == []


def test_a_lock_that_was_only_removed_is_taken_again_for_the_next_run(home: Home, safe: Safe) -> None:
    write_target(home, "echo up; sleep 600", more='restart = "always"\nbackoff = { initial = "0.1s", jitter = 0 }')
    with safe.started("t"):
        found = record_of(home)
        home.state_file("t.lock").unlink()
        kill(found["main"], signal.SIGKILL)
        wait_record(home, restarts=1, state="running")
        shown = safe("status", "t").check(0)
        assert "removed or replaced" not in shown.out
        one_line(safe("start", "t", "--detach").check(75), "already running", hint=True)


# --- a full disk --------------------------------------------------------------------------------------

CHATTER = """
import os, time
os.write(1, b"up\\n")
line = b"x" * 1023 + b"\\n"
while not os.path.exists("quiet"):
    os.write(1, line)
    time.sleep(0.002)
os.write(1, b"quiet\\n")
while not os.path.exists("again"):
    time.sleep(0.01)
for _ in range(1000):  # a log that could not be written is tried again once a second
    os.write(1, b"again\\n")
    time.sleep(0.1)
"""


def test_a_disk_that_fills_up_loses_output_not_the_target_and_the_loss_is_counted(home: Home, safe: Safe) -> None:
    (home.project / "chatter.py").write_text(CHATTER)
    write_target(home, [sys.executable, "-S", "chatter.py"])
    with tiny_disk(home.state, 512), safe.started("t"):
        main = record_of(home)["main"]
        log = home.state_file("t.log")
        ballast = home.state / "ballast"
        fill(ballast)
        size = wait_until(log.stat, 5).st_size
        procs.wait_until(lambda: _grows_no_more(log), 5)
        shown = safe("status", "t").check(0)
        assert "no space left" in shown.out
        assert procs.alive(main["pid"], main["start"])
        # A second start, a stop of something else: refused as ever, in one line.
        one_line(safe("start", "t", "--detach").check(75), hint=True)
        (home.project / "quiet").touch()
        select.select([], [], [], 0.3)  # what was written is being lost
        ballast.unlink()
        (home.project / "again").touch()
        text = wait_log(home, "again\n", deadline=10)
        assert size <= log.stat().st_size
        assert "bytes lost from" in text
        assert "No space left on device" in text
        found = wait_until(lambda: _recovered(home), 5, "the record tells of the loss")
        lost = found["log_lost_bytes"]
        assert lost > 1000
        assert f"[safesh: {lost} bytes lost" in text
        recovered = events_of(home, "log_recovered")[-1]
        assert recovered["bytes"] == lost
        assert recovered["reason"] == "No space left on device"
        assert "could not be written" in safe("status", "t").check(0).out
        assert record_of(home)["main"] == main
        assert record_of(home)["restarts"] == 0
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out


def test_events_that_a_full_disk_swallowed_are_counted_and_spoil_no_line(home: Home) -> None:
    from safesh.supervise.events import EventLog

    with tiny_disk(home.state, 64):
        path = home.state / "events.jsonl"
        log = EventLog(str(path), "t")
        fill(home.state / "ballast")
        written = 0
        while not log.lost:
            log.write("one", "t", "", text="x" * 100)
            written += not log.lost
        for _ in range(4):
            log.write("one", "t", "", text="x" * 100)
        (home.state / "ballast").unlink()
        log.write("two", "t", "")
        log.write("three", "t", "")
        whole, torn = [], 0
        for line in path.read_text().splitlines():
            try:
                whole.append(json.loads(line))
            except ValueError:
                torn += 1
        assert torn <= 1
        assert [one["event"] for one in whole] == ["one"] * written + ["two", "events_lost", "three"]
        assert whole[-2]["count"] == 5


def _recovered(home: Home) -> dict[str, Any] | None:
    found = record_of(home)
    return found if f"{found['log_lost_bytes']} bytes of output were lost" in found["message"] else None


def _grows_no_more(path: Path) -> bool:
    before = path.stat().st_size
    select.select([], [], [], 0.1)
    return path.stat().st_size == before


def test_a_full_disk_keeps_nobody_from_stopping_restarting_and_crashing(home: Home, safe: Safe) -> None:
    write_target(home, "echo up; trap 'exit 0' TERM; sleep 600 & while :; do wait; done")
    with tiny_disk(home.state, 512), safe.started("t"):
        found = record_of(home)
        fill(home.state / "ballast")
        assert safe("restart", "t", "--force").rc == 0
        wait_until(lambda: not procs.alive(found["main"]["pid"], found["main"]["start"]), 5)
        wait_until(lambda: len(members(home)) == 2, 5)
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out
        wait_until(lambda: not members(home), 5)
        wait_gone(found["supervisor"])
        assert safe("status", "t").err == ""


@thinned()
@pytest.mark.parametrize("detach", [[], ["--detach"]])
@pytest.mark.parametrize("used", ["fresh", "before"])
def test_a_full_disk_at_start_is_one_clear_line(home: Home, safe: Safe, detach: list[str], used: str) -> None:
    write_target(home, "echo up; exec sleep 600")
    with tiny_disk(home.state, 256):
        if used == "before":
            with safe.started("t"):
                pass
        fill(home.state / "ballast")
        one_line(safe("start", "t", *detach).check(73), str(home.state), "o space left", hint=True)
        assert members(home) == []
        (home.state / "ballast").unlink()
        with safe.started("t"):
            pass


def test_a_disk_without_inodes_at_start_is_one_clear_line(home: Home, safe: Safe) -> None:
    write_target(home)
    with tiny_disk(home.state, 256):
        with safe.started("t"):
            pass
        run("mount", "-o", "remount,nr_inodes=12", str(home.state)).check()
        spare = home.state / "proj"
        made = 0
        try:
            for made in range(20):
                (spare / f"filler{made}").touch()
        except OSError:
            pass
        one_line(safe("start", "t", "--detach").check(73), str(home.state), "o space left", hint=True)
        for path in spare.glob("filler*"):
            path.unlink()
        with safe.started("t"):
            pass


def test_a_read_only_state_folder_is_one_clear_line(home: Home, safe: Safe) -> None:
    write_target(home)
    with tiny_disk(home.state, 256):
        with safe.started("t"):
            pass
        run("mount", "-o", "remount,ro", str(home.state)).check()
        one_line(safe("start", "t", "--detach").check(73), str(home.state), "ead-only", hint=True)
        assert safe("status", "t").check(3).err == ""
        safe("stop", "t", "--force").check(0)


def test_a_state_folder_turned_read_only_under_a_run_keeps_no_stop_from_ending_it(home: Home, safe: Safe) -> None:
    write_target(home)
    with tiny_disk(home.state, 256), safe.started("t"):
        found = record_of(home)
        # Its log is open for writing, so only a lazy remount of the whole mount would do: take the folder's place.
        over = home.state_file("t.json")
        over.unlink()
        over.mkdir()
        (over / "inside").touch()
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out
        wait_gone(found["supervisor"])


# --- the clock ----------------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_makes_no_negative_age_and_refuses_nothing(home: Home, safe: Safe) -> None:
    """Everything in writing lies a year ahead, as after a clock set back."""
    make_past_run(home, safe)
    year = 365 * 86400.0
    path = home.state_file("t.json")

    def set_ahead(found: dict[str, Any]) -> None:
        for key in ("supervised_since", "since", "started_at"):
            found[key] += year
        if found["last_exit"]:
            found["last_exit"]["at"] += year
        path.write_text(json.dumps(found))
        for one in path.parent.iterdir():
            info = one.stat()
            os.utime(one, (info.st_atime + year, info.st_mtime + year))

    set_ahead(record_of(home))
    os.utime(home.project / "safe.toml", (4e9, 4e9))
    shown = safe("status", "t").check(1)
    assert "0.0s ago" in shown.out, shown
    with safe.started("t"):
        set_ahead(record_of(home))
        lock = home.state_file("t.lock")
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "since": 4e9}))
        one = safe("status", "t", "--json").check(0).json()["instances"][0]
        assert 0 <= one["uptime_seconds"] < 3600
        assert all(member["age_seconds"] >= 0 for member in one["tree"])
        assert "-" not in safe("status", "t").check(0).out.splitlines()[0]
        assert "for 0.0s" in one_line(safe("start", "t", "--detach").check(75))
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out


def test_a_record_of_before_a_reboot_signals_nobody(home: Home, safe: Safe) -> None:
    """The same pids and start times, another boot: these are other processes."""
    make_past_run(home, safe)
    with hand_started("sleep", "600") as other:
        found = record_of(home)
        identity = {"pid": other.pid, "start": other.start, "boot": "01234567-89ab-cdef-0123-456789abcdef/1"}
        found |= {"supervisor": identity, "keeper": identity, "main": identity, "state": "running"}
        home.state_file("t.json").write_text(json.dumps(found))
        home.state_file("t.pid").write_text(f"{other.pid}\n")
        home.state_file("t.lock").write_text(json.dumps({**identity, "target": "t", "command": [], "since": 1}))
        assert "another program" in safe("status", "t").check(1).out
        safe("stop", "t", "--force", "--now").check(0)
        with safe.started("t"):
            pass
        assert other.alive()


def test_a_pid_that_was_reused_is_not_mistaken_for_ours(home: Home, safe: Safe) -> None:
    make_past_run(home, safe)
    with hand_started("sleep", "600") as other:
        found = record_of(home)
        identity = {"pid": other.pid, "start": other.start - 1, "boot": found["supervisor"]["boot"]}
        found |= {"supervisor": identity, "keeper": identity, "main": identity, "state": "running"}
        home.state_file("t.json").write_text(json.dumps(found))
        safe("stop", "t", "--force", "--now").check(0)
        with safe.started("t"):
            pass
        assert other.alive()
