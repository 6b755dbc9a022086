"""``logs``: the end of a log over all its parts, and following it without losing or doubling a byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.home import CLI, Home, Safe
from helpers.logpipe import Rig, numbered, rig, whole
from helpers.procs import Spawn, wait_until
from safesh.core import compression, logtail
from safesh.core.output import tail
from safesh.model import LogPolicy

CONFIG = """
[targets.{one}]
command = ["true"]
[targets.{two}]
command = ["true"]
"""
ROTATING = LogPolicy(size=2000, keep=0)


@pytest.fixture
def log(home: Home) -> Path:
    """Where the log of the target ``one`` lies, in a project that has a target ``two`` as well."""
    home.write_config(CONFIG.format(one="one", two="two"))
    folder = home.state / home.project.name
    folder.mkdir(parents=True, mode=0o700)
    return folder / "one.log"


@contextmanager
def following(safe: Safe, *arguments: str) -> Iterator[Spawn]:
    with safe.spawn("logs", "-f", *arguments, whole=True) as child:
        yield child


def write(log: Path, data: bytes, policy: LogPolicy = ROTATING) -> None:
    with rig(log, policy) as at:
        at.feed(data)


# -- the last lines --------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain parts", "compressed parts"])
@pytest.mark.parametrize("count", [1, 2, 50, 51, 200, 999, 1000, 1001, 5000])
def test_the_last_lines_are_found_over_all_parts(log: Path, safe: Safe, count: int, compress: bool) -> None:
    data = numbered(1000)
    write(log, data)
    if compress:
        for part in sorted(log.parent.glob("one.log.0*")):
            compression.pack(str(part))
    expected = b"".join(line + b"\n" for line in data.split(b"\n")[:-1][-count:]).decode()
    assert safe("logs", "one", "-n", str(count)).check().out == expected
    assert tail(str(log), count) == expected.split("\n")[:-1]


def test_zero_lines_means_all_of_them(log: Path, safe: Safe) -> None:
    data = numbered(1000)
    write(log, data)
    assert safe("logs", "one", "-n", "0").check().out.encode() == data


def test_an_unfinished_line_is_a_line(log: Path, safe: Safe) -> None:
    write(log, b"one\ntwo\nthr")
    assert safe("logs", "one", "-n", "2").check().out == "two\nthr"
    assert tail(str(log), 2) == ["two", "thr"]
    write(log, b"ee\n")
    assert safe("logs", "one", "-n", "2").check().out == "two\nthree\n"


def test_a_line_that_was_cut_by_rotation_is_one_line(log: Path) -> None:
    data = b"first\n" + b"z" * 300_000 + b"\nlast\n"
    write(log, data)
    assert len(list(log.parent.glob("one.log.0*"))) > 1
    assert tail(str(log), 2) == ["z" * 300_000, "last"]
    assert tail(str(log), 3)[0] == "first"


def test_a_log_whose_writer_died_within_a_rotation_is_read_all_the_same(log: Path, safe: Safe) -> None:
    write(log, b"one\ntwo\n")
    log.rename(f"{log}.000001")
    assert safe("logs", "one").check().out == "one\ntwo\n"


def test_an_empty_log_shows_nothing(log: Path, safe: Safe) -> None:
    write(log, b"")
    assert safe("logs", "one").check().out == ""
    assert tail(str(log), 5) == []


def test_bytes_pass_as_they_are(log: Path, home: Home) -> None:
    data = b"\x1b[31mred\x1b[0m \xff\xfe\0 \xc3\xa4\r\n"
    write(log, data)
    done = subprocess.run([*CLI, "logs", "one"], capture_output=True, timeout=20, check=True)
    assert done.stdout == data


def test_a_target_that_writes_without_end_is_shown_up_to_now(log: Path, safe: Safe) -> None:
    with rig(log) as at:
        at.feed(b"begin\n" + b"y\n" * 50_000)
        with Spawn("yes", stdout=at.sink):
            with safe.spawn("logs", "one", "-n", "0", whole=True) as shown:

                def ended() -> bool:
                    at.capture.pump()
                    return shown.returncode is not None

                wait_until(ended)
                shown.wait_output()
                assert shown.out.startswith("begin\ny\n")
            tail(str(log), 10)


# -- which logs ------------------------------------------------------------------------------------


def test_several_targets_get_their_names_before_each_line(log: Path, safe: Safe) -> None:
    write(log, b"a\nb\n")
    write(log.with_name("two.log"), b"c\nunfinished")
    assert safe("logs").check().out == "one | a\none | b\ntwo | c\ntwo | unfinished\n"
    assert safe("logs", "two", "one").check().out == "two | c\ntwo | unfinished\none | a\none | b\n"


def test_without_a_name_only_targets_with_a_log_are_shown(log: Path, safe: Safe) -> None:
    assert "no target has written a log yet" in safe("logs").check(1).err
    write(log, b"a\n")
    assert safe("logs").check().out == "a\n"


def test_the_path_is_told_whether_or_not_there_is_a_log(log: Path, safe: Safe) -> None:
    assert safe("logs", "one", "two", "--path").check().out == f"{log}\n{log.with_name('two.log')}\n"


def test_a_log_that_is_not_there_is_one_clear_line_with_the_next_command(log: Path, safe: Safe) -> None:
    err = safe("logs", "one").check(1).err
    assert "one: has no log yet" in err
    assert "start one" in err


def test_an_unknown_name_offers_the_closest_one(log: Path, safe: Safe) -> None:
    err = safe("logs", "onee").check(2).err
    assert "did you mean one" in err


def test_an_ad_hoc_run_is_found_in_the_project_and_in_default(log: Path, home: Home, safe: Safe) -> None:
    write(log.with_name("backup.log"), b"of the project\n")
    assert safe("logs", "backup").check().out == "of the project\n"
    folder = home.state / "default"
    folder.mkdir(mode=0o700)
    write(folder / "nightly.log", b"of default\n")
    assert safe("logs", "nightly").check().out == "of default\n"
    (home.project / "safe.toml").unlink()
    assert safe("logs", "nightly").check().out == "of default\n"
    assert safe("logs").check().out == "of default\n"


def test_a_symlink_for_a_log_is_refused(log: Path, safe: Safe, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    log.symlink_to(tmp_path / "secret")
    result = safe("logs", "one").check(73)
    assert "is a symlink" in result.err
    assert "secret\n" not in result.out


# -- following -------------------------------------------------------------------------------------


def test_following_shows_every_byte_once_over_rotations_and_restarts(log: Path, safe: Safe) -> None:
    data = numbered(20_000)
    half = len(data) // 2
    write(log, data[:5000])
    with following(safe, "one", "-n", "0") as follow:
        follow.wait_line("00000000")
        at = Rig(log, LogPolicy(size=20_000, keep=0, compress=True))
        try:
            for start in range(5000, half, 5000):
                at.feed(data[start : min(start + 5000, half)])
            wait_until(lambda: len(follow.out) == half)
        finally:
            at.close()
        at = Rig(log, LogPolicy(size=50_000, keep=0))
        try:
            at.feed(data[half:] + b"end\n")
        finally:
            at.close()
        wait_until(lambda: follow.out.endswith("end\n"))
        assert follow.out.encode() == data + b"end\n"
        assert whole(log) == data + b"end\n"
        assert follow.err == ""


def test_ctrl_c_ends_following_quietly(log: Path, safe: Safe) -> None:
    write(log, b"a\n")
    with following(safe, "one") as follow:
        follow.wait_line("a")
        follow.send(signal.SIGINT)
        assert follow.wait() == 130
        assert follow.err == ""


def test_following_waits_for_a_log_to_come(log: Path, safe: Safe) -> None:
    with following(safe, "one") as follow:
        follow.wait_line(r"one: no log yet, waiting for .*/one\.log", stream="err")
        write(log, b"here\n")
        follow.wait_line("here")


def test_following_goes_on_after_a_truncation_and_after_a_removal(log: Path, safe: Safe) -> None:
    with rig(log) as at:
        at.feed(b"first, which is a longer line\n")
        with following(safe, "one") as follow:
            follow.wait_line("first")
            os.truncate(log, 0)
            at.feed(b"second\n")
            follow.wait_line("second")
            log.unlink()
            at.feed(b"third\n")
            follow.wait_line("third")


def test_following_several_targets_keeps_their_lines_apart(log: Path, safe: Safe) -> None:
    two = log.with_name("two.log")
    with rig(log) as first, rig(two) as second:
        first.feed(b"a-begin\n")
        second.feed(b"b-begin\n")
        with following(safe, "one", "two") as follow:
            follow.wait_line("two | b-begin")
            first.feed(b"half of ")
            second.feed(b"b-line\n")
            follow.wait_line("two | b-line")
            first.feed(b"a line\n")
            follow.wait_line("one | half of a line")


def test_following_ends_when_its_reader_does(log: Path, safe: Safe) -> None:
    write(log, b"a\n")
    reader, writer = os.pipe()
    try:
        with safe.spawn("logs", "-f", "one", stdout=writer, whole=True) as follow:
            os.close(writer)
            writer = -1
            assert os.read(reader, 100) == b"a\n"
            os.close(reader)
            reader = -1
            assert follow.wait() == 141  # though the log says nothing more
    finally:
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)


def test_parts_removed_before_they_could_be_read_are_told(log: Path) -> None:
    with rig(log, LogPolicy(size=1000, keep=2)) as at:
        at.feed(numbered(10))
        follower = logtail.Follower(str(log), 5)
        try:
            while follower.read():
                pass
            at.feed(numbered(500, start=10))
            shown = b""
            while chunk := follower.read():
                shown += chunk
            last = max(int(part.suffix[1:]) for part in log.parent.glob("one.log.0*"))
            assert follower.missed == [(2, last - 2)]
            data, kept = numbered(500, start=10), whole(log)
            assert shown.endswith(kept)
            assert data.startswith(shown.removesuffix(kept))
            assert len(shown) > len(kept)
        finally:
            follower.close()


def test_a_file_renamed_by_others_is_read_to_its_end(log: Path) -> None:
    data = numbered(3000)
    with rig(log) as at:
        at.feed(data[:1000])
        follower = logtail.Follower(str(log), logtail.ALL)
        shown = b""
        try:
            shown += follower.read()
            log.rename(log.with_name("aside"))
            log.touch(mode=0o600)  # logrotate's "create"
            shown += follower.read()
            at.feed(data[1000:20_000])  # goes to the old file: nobody has looked yet
            while chunk := follower.read():
                shown += chunk
            assert shown == data[:20_000]
            at.capture._log._look_at = 0.0
            at.feed(data[20_000:])
            while chunk := follower.read():
                shown += chunk
            assert shown == data
        finally:
            follower.close()


def test_logs_loads_nothing_heavy(log: Path, safe: Safe) -> None:
    write(log, b"a\n")
    script = "import sys; sys.path.insert(0, sys.argv.pop()); from safesh.cli.main import main; main(['logs', 'one']);"
    script += "print(sorted({'re', 'json', 'rich', 'click', 'subprocess', 'zlib', 'asyncio'} & set(sys.modules)))"
    safe("logs", "one").check()  # the configuration is in its cache now
    source = str(Path(logtail.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", "-c", script, source], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "a\n[]\n"
