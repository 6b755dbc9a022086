"""What a foreground start shows: the same bytes, but never at the price of waiting for a terminal."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import socket
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.logpipe import PLAIN, numbered, rig, whole
from helpers.procs import spawn
from safesh import _platform
from safesh.model import LogPolicy


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(the far end, the terminal) of a raw pty."""
    far, near = pty.openpty()
    tty.setraw(near)
    ends = [far, near]
    try:
        yield far, near
    finally:
        for fd in ends:
            try:
                os.close(fd)
            except OSError:
                pass  # the test closed it


def read_all(fd: int, done: bytes, flush: object = None, deadline: float = 10) -> bytes:
    """What comes out of ``fd`` until it ends with ``done``."""
    limit, data = time.monotonic() + deadline, b""
    while not data.endswith(done):
        assert time.monotonic() < limit, f"{done!r} did not come; last: {data[-200:]!r}"
        if callable(flush):
            flush()
        if select.select([fd], [], [], 0.05)[0]:
            data += os.read(fd, 1 << 16)
    return data


def test_the_terminal_gets_the_bytes_of_the_log(tmp_path: Path, terminal: tuple[int, int]) -> None:
    far, near = terminal
    data = numbered(5000) + b"end\n"
    with rig(tmp_path / "t.log", LogPolicy(size=10_000, keep=0), near) as at:
        for start in range(0, len(data), 900):
            at.feed(data[start : start + 900])
        assert read_all(far, b"end\n", at.capture.flush_echo) == data
        assert whole(tmp_path / "t.log") == data


def test_a_terminal_that_is_not_read_holds_up_neither_log_nor_target(tmp_path: Path, terminal: tuple[int, int]) -> None:
    far, near = terminal
    path = tmp_path / "t.log"
    data = numbered(200_000)
    with rig(path, PLAIN, near) as at:
        at.feed(data)
        assert path.read_bytes() == data
        assert at.capture.wants_write
        assert at.capture.echo_fileno() >= 0
        shown = read_all(far, f"all of it is in {path}]\n".encode(), at.capture.flush_echo)
        text, _, note = shown.rpartition(b"[safesh: ")
        assert data.startswith(text)
        assert text.endswith(b"\n")
        assert len(text) > 900_000
        assert int(note.split()[0]) == len(data) - len(text)
        at.feed(b"live again\n")
        assert read_all(far, b"live again\n") == b"live again\n"
        assert not at.capture.wants_write


def test_a_closed_terminal_ends_the_show_and_nothing_else(tmp_path: Path, terminal: tuple[int, int]) -> None:
    far, near = terminal
    with rig(tmp_path / "t.log", PLAIN, near) as at:
        at.feed(b"seen\n")
        os.close(far)
        at.feed(b"unseen\n" * 1000)
        assert at.capture.echo_fileno() == -1
        assert not at.capture.wants_write
        at.capture.flush_echo()
        assert (tmp_path / "t.log").read_bytes() == b"seen\n" + b"unseen\n" * 1000
        assert at.capture.lost_bytes == 0


def test_a_reader_that_left_ends_the_show_and_nothing_else(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with rig(tmp_path / "t.log", PLAIN, writer) as at:
        os.close(reader)
        at.feed(b"unseen\n")
        assert at.capture.echo_fileno() == -1
        os.close(writer)
    assert (tmp_path / "t.log").read_bytes() == b"unseen\n"


@pytest.mark.parametrize("own", [True, False], ids=["reopened", "no way to reopen it"])
def test_the_shared_descriptor_stays_blocking_and_is_never_waited_for(
    tmp_path: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own:

        def refuse(_fd: int, _flags: int) -> int:
            raise PermissionError

        monkeypatch.setattr(_platform, "reopen", refuse)
    reader, writer = os.pipe()
    data = numbered(20_000)
    try:
        with rig(tmp_path / "t.log", PLAIN, writer) as at:
            at.feed(data)
            assert os.get_blocking(writer)
            assert at.capture.wants_write
            at.feed(b"end\n")
            assert read_all(reader, b"end\n", at.capture.flush_echo) == data + b"end\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_next_command_of_a_pipeline_gets_all_of_it(tmp_path: Path) -> None:
    """It reads at its own pace, slower than the target writes, and it is much more than the backlog holds."""
    reader, writer = os.pipe()
    script = """if True:
        import hashlib, os, time
        total, length = hashlib.sha256(), 0
        while chunk := os.read(0, 1 << 16):
            total.update(chunk)
            length += len(chunk)
            if length % 5 == 0:
                time.sleep(0.001)
        print(length, total.hexdigest())
    """
    data = numbered(300_000)
    try:
        with (
            rig(tmp_path / "t.log", LogPolicy(size=1 << 20, keep=0), writer) as at,
            spawn(sys.executable, "-c", script, stdin=reader) as slow,
        ):
            (tmp_path / "data").write_bytes(data)
            with spawn("cat", tmp_path / "data", stdout=at.sink):
                at.run()
            assert at.capture.drain(time.monotonic() + 10)
            at.capture.close()
            os.close(writer)
            writer = -1
            slow.wait()
            slow.wait_output()
            assert slow.out.split() == [str(len(data)), hashlib.sha256(data).hexdigest()]
        assert whole(tmp_path / "t.log") == data
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_a_reader_that_stopped_reading_does_not_hold_the_target_back_for_long(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    data = numbered(200_000)
    try:
        with rig(tmp_path / "t.log", PLAIN, writer) as at:
            begun = time.monotonic()
            at.feed(data)
            assert (tmp_path / "t.log").read_bytes() == data
            assert time.monotonic() - begun < 5
            shown = read_all(reader, b"t.log]\n", at.capture.flush_echo)
            assert b" bytes not shown; all of it is in " in shown
    finally:
        os.close(reader)
        os.close(writer)


def test_a_file_gets_all_of_it_after_what_it_had(tmp_path: Path) -> None:
    with (tmp_path / "out").open("ab") as out:
        out.write(b"before\n")
        out.flush()
        with rig(tmp_path / "t.log", PLAIN, out.fileno()) as at:
            at.feed(b"x" * 200_000)
            assert not at.capture.wants_write
    assert (tmp_path / "out").read_bytes() == b"before\n" + b"x" * 200_000


def test_a_socket_gets_all_of_it_without_being_waited_for(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    data = numbered(20_000) + b"end\n"
    with near, far, rig(tmp_path / "t.log", PLAIN, near.fileno()) as at:
        at.feed(data)
        assert os.get_blocking(near.fileno())
        assert read_all(far.fileno(), b"end\n", at.capture.flush_echo) == data


def test_a_closed_descriptor_or_a_full_device_shows_nothing(tmp_path: Path) -> None:
    with rig(tmp_path / "t.log", PLAIN, 1_000_000) as at:
        at.feed(b"one\n")
    with open("/dev/full", "wb") as full, rig(tmp_path / "t.log", PLAIN, full.fileno()) as at:
        at.feed(b"two\n")
        assert at.capture.lost_bytes == 0
    assert (tmp_path / "t.log").read_bytes() == b"one\ntwo\n"


def test_drain_lets_a_slow_reader_have_the_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    data = numbered(20_000)
    script = "import sys, time; time.sleep(0.2); data = sys.stdin.buffer.read(); print(len(data))"
    try:
        with rig(tmp_path / "t.log", PLAIN, writer) as at, spawn(sys.executable, "-c", script, stdin=reader) as slow:
            at.feed(data)
            at.release()
            assert at.capture.drain(time.monotonic() + 10)
            assert not at.capture.wants_write
            at.capture.close()
            os.close(writer)
            writer = -1
            slow.wait()
            slow.wait_output()
            assert slow.out == f"{len(data)}\n"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_drain_gives_a_stuck_terminal_no_more_than_its_deadline(tmp_path: Path, terminal: tuple[int, int]) -> None:
    _far, near = terminal
    with rig(tmp_path / "t.log", PLAIN, near) as at:
        at.feed(numbered(20_000))
        at.release()
        begun = time.monotonic()
        assert at.capture.drain(begun + 0.3)
        assert 0.25 <= time.monotonic() - begun < 5
