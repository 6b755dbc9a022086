"""Rotation: where files are cut, how they are named, which are kept, and how they are compressed."""

from __future__ import annotations

import os
import random
from pathlib import Path

from helpers.logpipe import content_of, numbered, parts_of, rig, whole
from safesh.core import compression
from safesh.core.rotation import next_number, part_path, scan_parts
from safesh.model import LogPolicy

SMALL = LogPolicy(size=1000, keep=0)


def test_a_line_is_never_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(2000)
    with rig(path, SMALL) as at:
        at.feed(data)
    assert whole(path) == data
    for part in parts_of(path):
        lines = part.read_bytes().split(b"\n")
        assert lines[-1] == b""
        assert all(line[:8].isdigit() for line in lines[:-1])


def test_a_line_without_end_is_cut_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path, SMALL) as at:
        at.feed(b"z" * 1_000_000)
        for part in parts_of(path):
            assert part.stat().st_size <= 1000 + (1 << 16)
        assert len(parts_of(path)) >= 5
    assert whole(path) == b"z" * 1_000_000


def test_a_full_file_is_rotated_by_the_next_byte_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path, SMALL) as at:
        at.feed(b"x" * 999 + b"\n")
        assert parts_of(path) == []
        at.feed(b"next\n")
        assert [part.name for part in parts_of(path)] == ["t.log.000001"]
        assert path.read_bytes() == b"next\n"


def test_only_the_newest_parts_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(2000)
    with rig(path, LogPolicy(size=1000, keep=3)) as at:
        at.feed(data)
        last = next_number(str(path)) - 1
        assert [part.name for part in parts_of(path)] == [f"t.log.{n:06d}" for n in (last - 2, last - 1, last)]
    assert data.endswith(whole(path))


def test_size_zero_never_rotates(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path, LogPolicy(size=0, keep=1)) as at:
        at.feed(numbered(5000))
    assert parts_of(path) == []


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(300)
    for start in range(0, len(data), 1500):
        with rig(path, LogPolicy(size=1000, keep=2)) as at:
            at.feed(data[start : start + 1500])
    numbers = list(scan_parts(str(path)))
    assert len(numbers) == 2
    assert numbers[-1] >= len(data) // 1500 - 1
    assert data.endswith(whole(path))


def test_a_writer_that_died_within_a_rotation_is_followed_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    with rig(path, SMALL) as at:
        at.feed(b"a" * 500 + b"\n")
    path.rename(part_path(str(path), 1))  # all that it had done
    with rig(path, SMALL) as at:
        at.feed(b"b" * 1000 + b"\nc\n")
    assert [part.name for part in parts_of(path)] == ["t.log.000001", "t.log.000002"]
    assert whole(path) == b"a" * 500 + b"\n" + b"b" * 1000 + b"\nc\n"


def test_files_of_other_targets_are_no_parts(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    strangers = ["t.log.000001.log", "t.log.1", "t.log.old", "tt.log.000001", "t.log.00000x", "t.log.000009.gz.bak"]
    for name in strangers:
        (tmp_path / name).write_text("not ours")
    with rig(path, LogPolicy(size=1000, keep=1)) as at:
        at.feed(numbered(500))
    assert all((tmp_path / name).read_text() == "not ours" for name in strangers)
    assert len(scan_parts(str(path))) == 1


def test_numbers_pass_a_million(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    (tmp_path / "t.log.999999").write_bytes(b"old\n")
    with rig(path, LogPolicy(size=10, keep=2)) as at:
        at.feed(b"0123456789\n")
        at.feed(b"0123456789\n")
        assert list(scan_parts(str(path))) == [999999, 1000000]


# -- compression -----------------------------------------------------------------------------------


def test_compressed_parts_hold_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(20_000)
    with rig(path, LogPolicy(size=50_000, keep=0, compress=True)) as at:
        for start in range(0, len(data), 50_000):
            at.feed(data[start : start + 50_000])
        at.reap()
        assert whole(path) == data
        assert {part.suffix for part in parts_of(path)} == {".gz"}
        assert len(parts_of(path)) > 5
        assert all(part.stat().st_mode & 0o777 == 0o600 for part in parts_of(path))
        assert at.events == []


def test_compressed_parts_count_as_kept_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = numbered(5000)
    with rig(path, LogPolicy(size=5000, keep=3, compress=True)) as at:
        for start in range(0, len(data), 5000):
            at.feed(data[start : start + 5000])
            at.reap()
        assert len(parts_of(path)) == 3
    assert data.endswith(whole(path))


def test_a_compressing_child_does_not_outlive_close_and_leaves_the_part_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    data = random.Random(1).randbytes(40 << 20)
    (tmp_path / "t.log.000001").write_bytes(data)
    with rig(path, LogPolicy(size=1000, keep=0, compress=True)) as at:
        pid = at.capture.compressor_pid()
        assert pid > 0
        at.capture.close()
        assert at.capture.compressor_pid() == 0
    assert [part.name for part in parts_of(path)] == ["t.log.000001"]
    assert (tmp_path / "t.log.000001").read_bytes() == data


def test_a_part_left_plain_is_compressed_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    (tmp_path / "t.log.000001").write_bytes(b"plain\n")
    with rig(path, LogPolicy(size=1000, keep=0, compress=True)) as at:
        at.reap()
    assert [part.name for part in parts_of(path)] == ["t.log.000001.gz"]
    assert whole(path) == b"plain\n"


def test_what_a_killed_compression_left_is_cleared_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    (tmp_path / "t.log.000001").write_bytes(b"one\n")
    compression.pack(str(tmp_path / "t.log.000001"))
    (tmp_path / "t.log.000001").write_bytes(b"one\n")  # killed between the rename and the unlink
    (tmp_path / "t.log.000002").write_bytes(b"two\n")
    (tmp_path / "t.log.000002.gz.tmp").write_bytes(b"half")  # killed while it wrote
    with rig(path, SMALL):
        pass
    assert [part.name for part in parts_of(path)] == ["t.log.000001.gz", "t.log.000002"]
    assert whole(path) == b"one\ntwo\n"


def test_a_part_that_cannot_be_compressed_stays_plain_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    (tmp_path / "t.log.000001.gz.tmp").mkdir()
    (tmp_path / "t.log.000001").write_bytes(b"plain\n")
    with rig(path, LogPolicy(size=1000, keep=0, compress=True)) as at:
        at.reap()
        assert [name for name, _ in at.events] == ["log_compression_failed"]
        assert at.events[0][1]["path"].endswith("t.log.000001")
    assert content_of(tmp_path / "t.log.000001") == b"plain\n"


def test_the_compressing_child_holds_no_descriptor_of_ours(tmp_path: Path) -> None:
    (tmp_path / "t.log.000001").write_bytes(random.Random(2).randbytes(40 << 20))
    with rig(tmp_path / "t.log", LogPolicy(size=1000, keep=0, compress=True)) as at:
        reader, writer = os.pipe()
        try:
            # The child was forked before this pipe; fork another one, with the pipe open.
            at.capture._log.packer.close()  # type: ignore[union-attr]
            at.capture._log.packer.start()  # type: ignore[union-attr]
            assert at.capture.compressor_pid()
            os.close(writer)
            writer = -1
            os.set_blocking(reader, True)
            assert os.read(reader, 1) == b""  # end of file, though the child is still at work
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
