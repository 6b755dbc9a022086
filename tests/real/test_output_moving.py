"""From the pipe into the log: every byte, once, and nobody waits."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from helpers.campaign import rounds
from helpers.logpipe import PLAIN, numbered, parts_of, rig, save_rest, whole
from helpers.procs import spawn
from safesh import _platform
from safesh.core import output, rotation
from safesh.errors import StateError
from safesh.model import LogPolicy

# Checkable and not compressible: each block is the hash of the one before it. Tells its sum on stderr.
SOURCE = """
import hashlib, os, sys
left, seed, total = int(sys.argv[1]), b"safesh", hashlib.sha256()
while left > 0:
    block = bytearray()
    for _ in range(64):
        seed = hashlib.sha512(seed).digest()
        block += seed * 16 + b"\\n"
    del block[left:]
    total.update(block)
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
    left -= len(block)
print(total.hexdigest(), file=sys.stderr)
"""


@pytest.fixture(params=["splice", "no splice", "no tee", "refused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way that bytes can take; the last one is a file system that refuses splice."""
    if request.param == "no splice":
        monkeypatch.delattr(os, "splice", raising=False)
    elif not hasattr(os, "splice"):
        pytest.skip("no splice here")
    elif request.param == "no tee":
        monkeypatch.setattr(_platform, "tee", lambda *_: -1)
    elif request.param == "refused":

        def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.EINVAL, "no splice on this file system")

        monkeypatch.setattr(os, "splice", refuse)
    return str(request.param)


def test_a_rotated_log_is_byte_for_byte_what_the_target_wrote(tmp_path: Path) -> None:
    """64 MiB in every run, 1 GiB in the full campaign."""
    size = rounds(64, 1024) << 20
    path = tmp_path / "t.log"
    with (
        rig(path, LogPolicy(size=10 << 20, keep=0)) as at,
        spawn(sys.executable, "-c", SOURCE, str(size), stdout=at.sink) as target,
    ):
        at.run(deadline=150)
        assert target.wait() == 0
        target.wait_output()
        total, length = hashlib.sha256(), 0
        for file in [*parts_of(path), path]:
            data = file.read_bytes()
            total.update(data)
            length += len(data)
        assert length == size
        assert total.hexdigest() == target.err.strip()
        assert len(parts_of(path)) >= size // (11 << 20)


def test_what_a_target_wrote_before_it_was_killed_is_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    script = "import os, signal; os.write(1, b'x' * 50000 + b'last words'); os.kill(os.getpid(), signal.SIGKILL)"
    with rig(path, LogPolicy(size=4096, keep=0)) as at, spawn(sys.executable, "-c", script, stdout=at.sink) as target:
        assert target.wait() == -signal.SIGKILL  # before a single byte was moved
        at.run()
    assert whole(path) == b"x" * 50000 + b"last words"


def test_every_way_keeps_every_byte_in_order(tmp_path: Path, way: str) -> None:
    path = tmp_path / "t.log"
    data = numbered(40000)
    with rig(path, LogPolicy(size=100_000, keep=0)) as at:
        for start in range(0, 60000, 700):  # now and then
            at.feed(data[start : start + 700])
        at.feed(data[60200 - 60200 % 700 :])  # and a flood
        assert whole(path) == data
        for part in parts_of(path):
            assert part.read_bytes().endswith(b"\n")
            assert 100_000 <= part.stat().st_size < 100_100


def test_pump_does_not_wait_and_tells_the_end(tmp_path: Path) -> None:
    with rig(tmp_path / "t.log") as at:
        assert at.capture.pump()
        at.feed(b"one\n")
        assert at.capture.pump()
        at.release()
        assert not at.capture.pump()
        assert not at.capture.pump()


def test_one_pump_of_an_endless_writer_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path) as at, spawn("yes", stdout=at.sink):
        for _ in range(20):
            before = path.stat().st_size
            assert at.capture.pump()
            assert path.stat().st_size - before <= (4 << 20) + (1 << 18)


def test_the_target_keeps_a_blocking_descriptor(tmp_path: Path) -> None:
    with rig(tmp_path / "t.log") as at:
        assert os.get_blocking(at.sink)
        assert not os.get_blocking(at.capture.fileno())


def test_drain_ends_at_its_deadline_though_the_writer_does_not(tmp_path: Path) -> None:
    with rig(tmp_path / "t.log") as at, spawn("yes", stdout=at.sink):
        begun = time.monotonic()
        assert not at.capture.drain(begun + 0.3)
        assert 0.3 <= time.monotonic() - begun < 5


def test_drain_takes_what_is_there_though_its_deadline_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path) as at:
        os.write(at.sink, b"x" * 60000)
        assert not at.capture.drain(time.monotonic() - 1)
        assert path.stat().st_size == 60000
        at.release()
        assert at.capture.drain(time.monotonic() + 5)


def test_the_keeper_appends_the_rest_to_the_file_that_has_the_name_now(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    path.write_bytes(b"before\n")
    source, sink = os.pipe()
    os.write(sink, b"left in the pipe\n")
    os.close(sink)
    assert save_rest(source, str(path)) == 0
    assert path.read_bytes() == b"before\nleft in the pipe\n"


# -- what others do to the file --------------------------------------------------------------------


def test_after_a_truncation_the_log_goes_on_at_the_new_end(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path) as at:
        at.feed(b"old\n" * 1000)
        os.truncate(path, 0)
        at.feed(b"new\n")
        assert path.read_bytes() == b"new\n"  # and not a hole of NULs before it


def test_what_somebody_appended_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path) as at:
        at.feed(b"ours\n")
        with path.open("ab") as file:
            file.write(b"a mark by hand\n")
        at.feed(b"ours again\n")
    assert path.read_bytes() == b"ours\na mark by hand\nours again\n"


def test_a_deleted_log_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path) as at:
        at.feed(b"old\n")
        path.unlink()
        at.feed(b"new\n")
        assert path.read_bytes() == b"new\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert at.capture.lost_bytes == 0


def test_a_renamed_log_loses_nothing_and_is_soon_followed_by_a_new_one(tmp_path: Path) -> None:
    path, aside = tmp_path / "t.log", tmp_path / "aside"
    data = numbered(100_000)
    with rig(path) as at:
        at.feed(data[:1000])
        path.rename(aside)
        at.feed(data[1000:])
        assert path.exists()
        assert aside.stat().st_size <= 1000 + (1 << 20) + (1 << 18)
    assert aside.read_bytes() + path.read_bytes() == data


def test_a_symlink_in_place_of_the_log_is_refused_at_the_start(tmp_path: Path) -> None:
    path, other = tmp_path / "t.log", tmp_path / "other"
    path.symlink_to(other)
    with pytest.raises(StateError, match=r"t\.log: is a symlink"), rig(path):
        pass
    assert not other.exists()


def test_a_symlink_put_there_later_is_not_followed_and_the_loss_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_RETRY", 0.0)
    path, other = tmp_path / "t.log", tmp_path / "other"
    with rig(path) as at:
        at.feed(b"old\n")
        path.unlink()
        path.symlink_to(other)
        at.feed(b"nowhere to put this\n")
        assert not other.exists()
        assert at.capture.lost_bytes == 20
        assert [name for name, _ in at.events] == ["log_loss"]
        assert "symlink" in at.events[0][1]["reason"]
        path.unlink()
        at.feed(b"back\n")
    assert path.read_bytes().startswith(b"[safesh: 20 bytes lost from ")
    assert path.read_bytes().endswith(b"is a symlink, which is not trusted]\nback\n")


def test_a_log_whose_folder_was_removed_does_not_stop_the_target(tmp_path: Path) -> None:
    path = tmp_path / "state" / "t.log"
    path.parent.mkdir()
    with rig(path) as at:
        path.unlink()
        path.parent.rmdir()
        at.feed(b"x" * 300_000)
        assert at.capture.lost_bytes == 300_000
        assert at.events[0][1]["reason"] == "its folder is gone"


def test_without_a_descriptor_for_the_new_file_the_old_one_grows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.log"
    data = numbered(2000)
    with rig(path, LogPolicy(size=10_000, keep=0, compress=True)) as at:
        with monkeypatch.context() as scarce:

            def refuse(name: str) -> int:
                raise StateError("cannot be opened: Too many open files", place=name)

            scarce.setattr(rotation, "open_log", refuse)
            at.feed(data[:40_000])
            assert not path.exists()
            at.capture.reaped(0, 0)
            assert at.capture.compressor_pid() == 0  # nothing compresses a part that is still written to
        at.capture._log._look_at = 0.0
        at.feed(data[40_000:])
        assert at.capture.lost_bytes == 0
        at.reap()
        assert whole(path) == data


def test_a_log_that_went_while_nothing_was_written_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "state" / "t.log"
    path.parent.mkdir()
    with rig(path) as at:
        path.unlink()
        path.parent.rmdir()
        assert at.capture.pump()
        at.release()
        assert not at.capture.pump()
        assert at.events == []
        assert at.capture.lost_bytes == 0


def test_no_descriptor_to_find_the_line_end_with_costs_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.log"
    data = numbered(2000)
    with rig(path, LogPolicy(size=10_000, keep=0)) as at:

        def refuse() -> tuple[int, int]:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "pipe", refuse)
        for start in range(0, len(data), 700):
            at.feed(data[start : start + 700])
            assert not at.ended
        assert at.events == []
        assert whole(path) == data


# -- stamps ----------------------------------------------------------------------------------------


def test_every_line_gets_its_time_however_it_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    policy = LogPolicy(size=0, timestamps=True)
    with rig(path, policy) as at:
        for piece in (b"one\ntw", b"o", b"\n", b"\n", b"three\nunfin"):
            at.feed(piece)
    with rig(path, policy) as at:
        at.feed(b"next run\n")
    lines = path.read_bytes().split(b"\n")
    assert [line[24:] for line in lines] == [b"one", b"two", b"", b"three", b"unfin", b"next run", b""]
    for line in lines[:-1]:
        moment = time.strptime(line[:19].decode(), "%Y-%m-%dT%H:%M:%S")
        assert abs(time.mktime(moment) - time.time()) < 60
        assert line[19:20] == b"."
        assert line[20:23].isdigit()


def test_stamped_lines_rotate_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(5000)
    with rig(path, LogPolicy(size=20_000, keep=0, timestamps=True)) as at:
        at.feed(data)
    assert all(part.read_bytes().endswith(b"\n") for part in parts_of(path))
    assert b"".join(line[24:] + b"\n" for line in whole(path).split(b"\n")[:-1]) == data
    assert len(parts_of(path)) > 5


def test_a_log_is_private(tmp_path: Path) -> None:
    with rig(tmp_path / "t.log", PLAIN):
        assert (tmp_path / "t.log").stat().st_mode & 0o777 == 0o600
