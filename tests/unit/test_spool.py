"""What a process said is kept, bounded, counted, and given back as it came, whatever the disk does."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesh.process import disk
from safesh.process import spool as module
from safesh.process.spool import Spool

quick = settings(max_examples=300, deadline=None, derandomize=True)
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc/self/fd")

append = st.tuples(st.just("append"), st.binary(max_size=12) | st.integers(0, 120).map(lambda n: b"ab\n" * n))
read = st.tuples(st.just("read"), st.integers(-1, 60))
asked = st.tuples(st.sampled_from(["all", "lines"]), st.none())
steps = st.lists(append | append | read | asked, max_size=40)
limits = st.none() | st.integers(0, 200)
memories = st.integers(0, 80)


class Model:
    """The same in the plainest way: all of it in one bytes object, never forgotten."""

    def __init__(self, limit: int | None, keep_read: bool) -> None:
        self.limit, self.keep_read = limit, keep_read
        self.said = b""
        self.start = self.taken = self.dropped = 0

    def append(self, data: bytes) -> None:
        self.said += data
        if self.limit is not None:
            self.forget(max(self.start, len(self.said) - self.limit))

    def forget(self, until: int) -> None:
        self.dropped += max(0, until - self.taken)
        self.taken = max(self.taken, until)
        self.start = until

    def read(self, size: int) -> bytes:
        data = self.said[self.taken :] if size < 0 else self.said[self.taken : self.taken + size]
        self.taken += len(data)
        if not self.keep_read:
            self.forget(self.taken)
        return data


def run(steps: list[tuple[str, object]], spool: Spool, model: Model) -> None:
    for verb, value in steps:
        if isinstance(value, bytes):
            spool.append(value)
            model.append(value)
        elif isinstance(value, int):
            assert spool.read(value) == model.read(value)
        elif verb == "all":
            assert spool.all() == model.said[model.start :]
        else:
            assert spool.lines == model.said.count(b"\n")
        assert (spool.size, spool.lost, spool.dropped) == (len(model.said), model.start, model.dropped)
        assert spool.unread == len(model.said) - model.taken
    assert spool.all() == model.said[model.start :]
    assert spool.lines == model.said.count(b"\n")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make every path a short one."""
    monkeypatch.setattr(module, "_BATCH", 16)
    monkeypatch.setattr(module, "_SMALL", 4)


def files_of(folder: Path) -> list[int]:
    """The descriptors that this process holds open in the folder, by the names that the kernel tells."""
    found = []
    for one in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{one}")
        except OSError:
            continue  # the listing's own
        if name.startswith(str(folder)):
            found.append(int(one))
    return found


@pytest.mark.usefixtures("small")
class TestAnyOrder:
    @quick
    @given(steps, limits, memories, st.booleans())
    def test_it_gives_what_a_plain_bytes_object_would(
        self, steps: list[tuple[str, object]], limit: int | None, memory: int, keep_read: bool
    ) -> None:
        spool = Spool(limit, memory, keep_read=keep_read)
        try:
            run(steps, spool, Model(limit, keep_read))
        finally:
            spool.close()

    @quick
    @given(steps, limits, memories, st.booleans(), st.integers(0, 400))
    def test_a_full_disk_costs_bytes_but_no_count(
        self, steps: list[tuple[str, object]], limit: int | None, memory: int, keep_read: bool, free: int
    ) -> None:
        real = os.pwrite
        left = free

        def pwrite(fd: int, data: memoryview, at: int) -> int:
            nonlocal left
            done = min(left, len(data))
            if not done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= done
            return real(fd, data[:done], at)

        spool = Spool(limit, memory, keep_read=keep_read)
        said = b""
        got = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            try:
                for _, value in steps:
                    if isinstance(value, bytes):
                        spool.append(value)
                        said += value
                    elif isinstance(value, int):
                        data = spool.read(value)
                        got += len(data)
                        at = len(said) - spool.unread
                        assert data == said[at - len(data) : at]
                    kept = spool.all()
                    assert said.endswith(kept)
                    assert spool.lost + len(kept) == spool.size == len(said)
                    assert got + spool.dropped + spool.unread == len(said)
                    if keep_read:
                        assert len(kept) >= min(len(said), memory, len(said) if limit is None else limit)
                assert spool.lines == said.count(b"\n")
            finally:
                spool.close()


@linux
def test_what_fits_into_memory_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=1000)
    spool.append(b"x" * 1000)
    assert files_of(tmp_path) == []


@linux
def test_a_limit_below_the_memory_never_opens_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(limit=1000, memory=1000)
    for _ in range(100):
        spool.append(b"x" * 300)
    assert files_of(tmp_path) == []
    assert len(spool.all()) == 1000


@linux
def test_a_conversation_read_regularly_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=1000, keep_read=False)
    for number in range(1000):
        spool.append(b"%d\n" % number * 50)
        assert spool.read() == b"%d\n" % number * 50
        assert files_of(tmp_path) == []
    assert (spool.lines, spool.dropped) == (50_000, 0)


@linux
def test_a_reader_that_caught_up_gives_the_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=10, keep_read=False)
    for _ in range(3):
        spool.append(b"x" * 100)
        assert len(files_of(tmp_path)) == 1
        assert spool.read() == b"x" * 100
        assert files_of(tmp_path) == []


@linux
def test_the_file_lies_in_tmpdir_without_a_name_private_and_not_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    assert list(tmp_path.iterdir()) == []
    (fd,) = files_of(tmp_path)
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    spool.close()


@linux
def test_a_system_without_nameless_files_gets_an_unlinked_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delattr(os, "O_TMPFILE")
    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    assert len(files_of(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    assert spool.all() == b"x" * 100


def test_a_tmpdir_that_does_not_exist_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    assert spool.error is None
    assert spool.all() == b"x" * 100


@linux
def test_a_limit_bounds_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(limit=1 << 20, memory=1 << 10)
    for number in range(64):
        spool.append(bytes([number]) * 100_000)
    (fd,) = files_of(tmp_path)
    assert os.fstat(fd).st_size <= 1 << 20
    assert spool.all() == b"".join(bytes([number]) * 100_000 for number in range(64))[-(1 << 20) :]


@linux
def test_a_reader_that_never_catches_up_still_gives_blocks_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(disk.Disk, "_HOLE", 1 << 20)
    spool = Spool(memory=1 << 10, keep_read=False)
    spool.append(b"x" * (1 << 20))
    for number in range(16):
        spool.append(bytes([number]) * (1 << 20))
        spool.read(1 << 20)
    (fd,) = files_of(tmp_path)
    size = os.fstat(fd).st_blocks * 512
    if size > 16 << 20:
        pytest.skip("this file system cannot give back parts of a file")
    assert size <= 4 << 20
    assert spool.read() == bytes([15]) * (1 << 20)


def test_no_descriptor_gives_the_last_of_it_from_memory() -> None:
    program = (
        "import os, resource, sys\n"
        "from safesh.process.spool import Spool\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "spool = Spool(memory=1000)\n"
        "for number in range(100): spool.append(b'%09d\\n' % number * 10)\n"
        "kept = spool.all()\n"
        "print(spool.size, spool.lines, spool.dropped, spool.lost, len(kept), spool.error.errno, kept[-10:].decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["10000", "1000", "9000", "9000", "1000", str(errno.EMFILE), "000000099"]


def test_a_file_size_limit_gives_the_last_of_it_from_memory() -> None:
    program = (
        "import resource\n"
        "from safesh.process.spool import Spool\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "spool = Spool(memory=1000)\n"
        "for number in range(100): spool.append(b'%09d\\n' % number * 10)\n"
        "print(spool.size, spool.lines, spool.lost, spool.error.errno, spool.all()[-10:].decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["10000", "1000", "9000", str(errno.EFBIG), "000000099"]


def test_a_disk_that_gives_nothing_back_costs_its_bytes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(fd: int, size: int, at: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    spool.append(b"tail")
    monkeypatch.setattr(os, "pread", pread)
    assert spool.read() == b"tail"
    assert (spool.dropped, spool.unread) == (100, 0)
    assert spool.error is not None
    assert spool.error.errno == errno.EIO


@linux
def test_a_fall_back_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    assert len(files_of(tmp_path)) == 1

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)
    spool.append(b"y" * 100)
    assert files_of(tmp_path) == []
    assert spool.all() == b"y" * 10


@linux
@pytest.mark.parametrize("by", ["close", "forgetting it"])
def test_the_descriptor_goes_with_the_spool(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool(memory=10)
    spool.append(b"x" * 100)
    assert len(files_of(tmp_path)) == 1
    if by == "close":
        spool.close()
        spool.close()
        assert spool.closed
    else:
        del spool
        gc.collect()
    assert files_of(tmp_path) == []


def test_after_close_the_numbers_stay_and_bytes_only_count() -> None:
    spool = Spool(limit=100, memory=10)
    spool.append(b"a\n" * 60)
    spool.close()
    assert (spool.size, spool.lines, spool.dropped, spool.lost, spool.unread) == (120, 60, 20, 20, 0)
    spool.append(b"b\n")
    assert (spool.read(), spool.all()) == (b"", b"")
    assert (spool.size, spool.lines, spool.dropped, spool.lost, spool.unread) == (122, 61, 22, 22, 0)


def test_a_buffer_may_be_used_again_after_append() -> None:
    buffer = bytearray(b"first")
    spool = Spool()
    spool.append(memoryview(buffer))
    buffer[:] = b"other"
    assert spool.read() == b"first"


@pytest.mark.parametrize(("limit", "memory"), [(-1, 1), (1, -1)])
def test_a_negative_bound_is_refused(limit: int, memory: int) -> None:
    with pytest.raises(ValueError, match="0 bytes or more"):
        Spool(limit, memory)


def test_many_small_pieces_do_not_cost_an_object_each() -> None:
    spool = Spool()
    for _ in range(100_000):
        spool.append(b"xy\n")
    assert len(spool._new) < 2000


def test_a_big_piece_of_which_little_is_kept_lets_go_of_its_memory() -> None:
    spool = Spool(limit=100_000, memory=100_000)
    spool.append(b"x" * 10_000_000)
    assert sum(map(len, spool._in_memory())) == sum(map(len, spool._new)) == 100_000


def fastest(work: Callable[[], object], times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


@pytest.mark.parametrize("keep_read", [True, False])
@pytest.mark.parametrize("memory", [1 << 30, 1 << 14])
def test_reading_byte_by_byte_is_linear(memory: int, keep_read: bool) -> None:
    def work(size: int) -> None:
        spool = Spool(memory=memory, keep_read=keep_read)
        spool.append(bytes(size))
        while spool.read(16):
            pass
        spool.close(count=False)

    assert fastest(lambda: work(1 << 20)) < 20 * fastest(lambda: work(1 << 17))  # 8 times the bytes; 64 if quadratic


@pytest.mark.parametrize("memory", [1 << 30, 1 << 14])
def test_a_full_ring_takes_small_pieces_in_linear_time(memory: int) -> None:
    def work(limit: int) -> None:
        spool = Spool(limit=limit, memory=memory)
        spool.append(bytes(limit))
        for _ in range(20_000):
            spool.append(b"line\n")
        spool.close(count=False)

    # The same pieces; 32 times as much kept must not matter.
    assert fastest(lambda: work(1 << 21)) < 5 * fastest(lambda: work(1 << 16))


def test_two_spools_in_two_threads_do_not_meet() -> None:
    spools = [Spool(limit=1 << 16, memory=1 << 10) for _ in range(2)]

    def fill(spool: Spool, mark: bytes) -> None:
        for _ in range(2000):
            spool.append(mark * 100)

    threads = [threading.Thread(target=fill, args=pair) for pair in zip(spools, [b"a", b"b"], strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [spool.all() for spool in spools] == [b"a" * (1 << 16), b"b" * (1 << 16)]
