"""The history's file: private, shared by many writers, healed when damaged, and never in anybody's way."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.faults_tools import fill, give_away, tiny_disk
from helpers.home import SUPERVISOR
from safesh.errors import StateError
from safesh.metrics import spool
from safesh.metrics.history import RUN_FIELDS, History, Retention

NOW = 1_700_000_000.0


class Told(list[tuple[str, dict[str, Any]]]):
    def __call__(self, name: str, details: dict[str, Any]) -> None:
        self.append((name, details))

    @property
    def names(self) -> list[str]:
        return [name for name, _details in self]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder / "history.db"


@pytest.fixture
def history(path: Path, told: Told) -> Iterator[History]:
    with History(str(path), on_event=told) as made:
        yield made


def a_run(number: int = 0, **fields: Any) -> dict[str, Any]:
    started = NOW + 60 * number
    base = {"run_id": f"run-{number}", "target": "one", "started_at": started, "ended_at": started + 30}
    return {**base, "exit_code": 0, "cpu_seconds": 1.5, "peak_memory_bytes": 1 << 20, **fields}


def samples(count: int, begin: float = NOW, step: float = 2.0) -> list[dict[str, float]]:
    return [{"at": begin + step * index, "memory_bytes": 1000.0 + index} for index in range(count)]


# -- what is kept ----------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_told(history: History) -> None:
    run = {
        "run_id": "r", "target": "t", "instance": "i", "project": "p", "mission_type": "scan", "mission_id": "m",
        "started_at": NOW, "ended_at": NOW + 5, "duration": 5.0, "exit_code": -1, "signal": "SIGKILL", "cause": "c",
        "state": "failed", "restarts": 2, "cpu_seconds": 3.0, "user_seconds": 2.0, "system_seconds": 1.0,
        "peak_memory_bytes": 7, "read_bytes": 8, "write_bytes": 9, "max_processes": 4,
    }  # fmt: skip
    assert set(run) == set(RUN_FIELDS)
    assert history.add_run(run)
    assert history.runs() == [run]


def test_what_was_not_measured_is_none_and_what_follows_from_the_rest_is_worked_out(history: History) -> None:
    history.add_run({"run_id": "r", "target": "t", "started_at": NOW, "ended_at": NOW + 9, "user_seconds": 1,
                     "system_seconds": 2, "peak_memory_bytes": float("nan"), "cause": 7})  # fmt: skip
    (run,) = history.runs()
    assert (run["duration"], run["cpu_seconds"]) == (9.0, 3.0)
    assert run["peak_memory_bytes"] is run["cause"] is run["read_bytes"] is None


@pytest.mark.parametrize("missing", ["run_id", "target", "started_at"])
def test_what_is_no_run_is_not_kept(history: History, missing: str) -> None:
    assert not history.add_run({**a_run(), missing: None})
    assert history.runs() == []


def test_runs_are_newest_first_by_target_and_time(history: History) -> None:
    for number in range(10):
        history.add_run(a_run(number, target="one" if number % 2 else "two"))
    assert [run["run_id"] for run in history.runs(limit=3)] == ["run-9", "run-8", "run-7"]
    assert [run["run_id"] for run in history.runs("two", limit=2)] == ["run-8", "run-6"]
    assert len(history.runs(since=NOW + 60 * 7)) == 3
    assert history.targets() == ["one", "two"]


def test_the_oldest_runs_of_a_target_make_room(path: Path) -> None:
    with History(str(path), retention=Retention(runs=5)) as history:
        history.add_run(a_run(0, target="other", run_id="kept"))
        for number in range(12):
            history.add_run(a_run(number))
        assert [run["run_id"] for run in history.runs("one", limit=0)] == [
            f"run-{number}" for number in range(11, 6, -1)
        ]
        assert history.count_runs("other") == 1


def test_peaks_are_in_the_units_of_a_requirement(history: History) -> None:
    history.add_run(a_run(1, peak_memory_bytes=3 << 20, cpu_seconds=15.0, max_processes=4, write_bytes=1 << 30))
    history.add_run(a_run(2, peak_memory_bytes=None, cpu_seconds=None))
    assert history.peaks("one") == [
        {"memory_mb": None, "cpu": None, "processes": None, "write_gb": None},
        {"memory_mb": 3.0, "cpu": 50.0, "processes": 4, "write_gb": 1.0},
    ]


# -- whose file it is ------------------------------------------------------------------------------


def test_the_files_are_closed_to_others(history: History, path: Path) -> None:
    history.add_run(a_run())
    found = list(path.parent.iterdir())
    assert path in found
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}


def test_a_file_open_to_others_is_closed(path: Path) -> None:
    with History(str(path)):
        pass
    path.chmod(0o644)
    with History(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("which", ["", "-wal", "-shm"])
def test_a_symlink_is_refused_and_its_end_untouched(path: Path, which: str) -> None:
    victim = path.parent / "victim"
    victim.write_text("precious")
    if which:
        with History(str(path)):
            pass
    Path(str(path) + which).symlink_to(victim)
    with pytest.raises(StateError, match="symlink"):
        History(str(path))
    assert victim.read_text() == "precious"


def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    path.touch(0o666)
    give_away(path)
    with pytest.raises(StateError, match="belongs to user"):
        History(str(path))


def test_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StateError, match="later safesh"):
        History(str(path))
    assert path.read_bytes() == before


def test_a_symlink_put_there_later_costs_a_writer_nothing_but_an_event(
    history: History, path: Path, told: Told
) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to("away")
    assert history.add_run(a_run())  # it went to the spool
    assert told.names == ["history_refused"]
    with pytest.raises(StateError):
        history.runs()


# -- damage ----------------------------------------------------------------------------------------


def asides(path: Path) -> list[Path]:
    return [file for file in path.parent.glob("history.db.corrupt-*") if not file.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize(
    "damage", [b"this is no database at all, not one bit of it" * 50, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_moved_aside_told_once_and_begun_anew(path: Path, told: Told, damage: bytes) -> None:
    path.write_bytes(damage)
    with History(str(path), on_event=told) as history:
        assert history.add_run(a_run())
        assert len(history.runs()) == 1
    assert told.names == ["history_rebuilt"]
    (aside,) = asides(path)
    assert aside.read_bytes() == damage
    assert told[0][1]["moved_to"] == str(aside)


def test_damage_found_while_in_use_is_healed_too(path: Path, told: Told) -> None:
    with History(str(path)) as history:
        for number in range(300):
            history.add_run(a_run(number))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)  # the first page is whole, so it opens well
    path.write_bytes(data)
    with History(str(path), on_event=told) as history:
        assert history.runs() == []
        assert history.add_run(a_run())
        assert len(history.runs()) == 1
    assert told.names == ["history_rebuilt"]


def test_tables_that_are_not_ours_are_moved_aside(path: Path, told: Told) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 1")
        raw.execute("CREATE TABLE other (x)")
    with History(str(path), on_event=told) as history:
        assert history.add_run(a_run())
    assert told.names == ["history_rebuilt"]


def test_a_writer_follows_when_another_has_begun_anew(path: Path, told: Told) -> None:
    with History(str(path), on_event=told) as first, History(str(path)) as second:
        second.add_run(a_run(1))
        path.rename(path.with_name("gone"))
        for tail in ("-wal", "-shm"):
            Path(str(path) + tail).rename(str(path.with_name("gone")) + tail)
        first.add_run(a_run(2))
        second.add_run(a_run(3))
        assert sorted(run["run_id"] for run in first.runs()) == ["run-2", "run-3"]
    with closing(sqlite3.connect(path)) as raw:  # and nobody's close took the new log away
        assert raw.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- locked, full ----------------------------------------------------------------------------------


@pytest.fixture
def locker(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who holds the write lock."""
    with History(str(path)):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        yield raw


def test_a_locked_file_is_waited_for_no_longer_than_was_said(
    path: Path, told: Told, locker: sqlite3.Connection
) -> None:
    with History(str(path), on_event=told, patience=0.1) as history:
        begin = time.monotonic()
        assert not history.add_samples("r", "t", samples(3))
        assert not history.add_samples("r", "t", samples(3, NOW + 10))
        assert time.monotonic() - begin < 2.0  # two waits of 0.1 s, and a slow machine
        assert told.names == ["history_locked"], "told once"
        assert history.pending == 6
        locker.execute("ROLLBACK")
        assert history.flush()
        assert history.pending == history.lost == 0
        assert len(history.series("t", "memory_bytes", resolution="raw")) == 6
        locker.execute("BEGIN IMMEDIATE")
        history.add_samples("r", "t", samples(1, NOW + 20))
        assert told.names == ["history_locked"] * 2, "after a success it is news again"
        locker.execute("ROLLBACK")


def test_a_run_that_meets_a_lock_is_taken_in_later(path: Path, told: Told, locker: sqlite3.Connection) -> None:
    with History(str(path), on_event=told, patience=0.05) as history:
        assert history.add_run(a_run())
        assert history.runs() == []
        locker.execute("ROLLBACK")
        assert history.take_spool() == 1
        assert history.runs()[0]["run_id"] == "run-0"
        assert not spool.is_waiting(str(path.parent))


def test_what_waits_in_memory_is_bounded_and_the_rest_counted(path: Path, locker: sqlite3.Connection) -> None:
    with History(str(path), patience=0.01) as history:
        for batch in range(8):
            history.add_samples("r", "t", samples(1000, NOW + 2000 * batch))
        assert history.pending == 5000
        assert history.lost == 3000
        locker.execute("ROLLBACK")
        assert history.flush()
        assert len(history.series("t", "memory_bytes", resolution="raw")) == 5000


def test_a_full_disk_is_told_and_the_history_goes_on_when_there_is_room(tmp_path: Path, told: Told) -> None:
    with tiny_disk(tmp_path / "disk", 1024):
        folder = tmp_path / "disk"
        with History(str(folder / "history.db"), on_event=told) as history:
            assert history.add_samples("r", "t", samples(5))
            fill(folder / "ballast")
            begin = time.monotonic()
            for batch in range(1, 9):
                history.add_samples("r", "t", samples(200, NOW + 1000 * batch))
            assert time.monotonic() - begin < 10
            assert "history_full" in told.names
            assert history.pending
            (folder / "ballast").unlink()
            assert history.flush()
            assert history.lost == 0
            assert len(history.series("t", "memory_bytes", resolution="raw")) == 5 + 8 * 200


def test_a_disk_full_from_the_start_stops_nobody(tmp_path: Path, told: Told) -> None:
    with tiny_disk(tmp_path / "disk", 256):
        fill(tmp_path / "disk" / "ballast")
        with History(str(tmp_path / "disk" / "history.db"), on_event=told) as history:
            assert not history.add_run(a_run())
            assert history.lost == 1
            assert told.names == ["history_full"]


# -- many writers ----------------------------------------------------------------------------------

WRITER = """
import sys, time
from safesh.metrics.history import History
path, me, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with History(path) as history:
    for number in range(count):
        at = 1_700_000_000 + number
        history.add_samples(f"samples-{me}", "shared", [{"at": at, "memory_bytes": me * 1000 + number}])
        assert history.add_run({"run_id": f"{me}-{number}", "target": "shared", "started_at": at})
    until = time.monotonic() + 30
    while not history.flush() and time.monotonic() < until:
        pass
    print("lost", history.lost, flush=True)
"""


def test_eight_processes_write_at_once_and_every_row_is_there(path: Path) -> None:
    writers: list[subprocess.Popen[str]] = []
    try:
        for me in range(8):
            writers.append(
                subprocess.Popen(
                    [sys.executable, "-E", "-s", "-S", "-c", WRITER, str(path), str(me), "200"],
                    env={**os.environ, "PYTHONPATH": ""},
                    cwd=SUPERVISOR,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for one in writers:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in writers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in writers:
            assert one.communicate(timeout=120)[0] == "lost 0\n"
            assert one.returncode == 0
    finally:
        for one in writers:
            if one.poll() is None:
                one.kill()
                one.wait()
            for pipe in (one.stdin, one.stdout):
                if pipe is not None:
                    pipe.close()
    with History(str(path)) as history:
        history.take_spool()
        assert history.count_runs("shared") == 8 * 200
        found = sorted(point.average for point in history.series("shared", "memory_bytes", resolution="raw"))
        assert found == sorted(float(me * 1000 + number) for me in range(8) for number in range(200))
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_threads_share_one_history(history: History) -> None:
    def work(me: int) -> None:
        for number in range(50):
            history.add_samples(f"r{me}", "t", samples(1, NOW + number))

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert history.flush()
    assert len(history.series("t", "memory_bytes", resolution="raw")) == 200


def test_a_forked_child_opens_its_own_connection_and_leaves_the_parents_alone(history: History, path: Path) -> None:
    history.add_run(a_run(1))
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if history.add_run(a_run(2)) and len(history.runs()) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert history.add_run(a_run(3))
    assert len(history.runs()) == 3


# -- the spool -------------------------------------------------------------------------------------


def test_runs_in_the_spool_are_taken_in_once_in_whatever_state_it_is(history: History, path: Path) -> None:
    folder = str(path.parent)
    for number in range(5):
        assert spool.note_run(folder, a_run(number))
    with (path.parent / spool.NAME).open("a") as file:
        file.write('{"v": 1, "run_id": "torn')  # a full disk took the rest
    assert spool.note_run(folder, a_run(5))
    assert history.take_spool() == 6
    assert history.count_runs() == 6
    assert history.take_spool() == 0


def test_a_taker_that_died_with_the_spool_in_hand_loses_nothing(history: History, path: Path) -> None:
    folder = str(path.parent)
    spool.note_run(folder, a_run(1))
    os.rename(path.parent / spool.NAME, path.parent / (spool.NAME + ".taken"))
    spool.note_run(folder, a_run(2))
    history.take_spool()
    history.take_spool()
    assert history.count_runs() == 2


def test_a_run_written_while_the_spool_is_taken_is_not_lost(history: History, path: Path) -> None:
    folder = str(path.parent)
    done = threading.Event()
    count = 400

    def write() -> None:
        for number in range(count):
            spool.note_run(folder, a_run(number))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    until = time.monotonic() + 60
    while not done.is_set() and time.monotonic() < until:
        history.take_spool()
    writer.join(10)
    history.take_spool()
    assert history.count_runs() == count


def test_the_spool_is_bounded(path: Path) -> None:
    folder = str(path.parent)
    big = a_run(cause="x" * 100_000)
    for _number in range(60):
        assert spool.note_run(folder, big)
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 5 << 20


def test_a_spool_that_is_a_symlink_is_neither_written_nor_read(history: History, path: Path) -> None:
    victim = path.parent / "victim"
    victim.write_text("precious")
    (path.parent / spool.NAME).symlink_to(victim)
    assert not spool.note_run(str(path.parent), a_run())
    with pytest.raises(StateError):
        history.take_spool()
    assert victim.read_text() == "precious"


def test_noting_a_run_loads_no_sqlite() -> None:
    code = "import sys; from safesh.metrics import spool; print({'sqlite3', 'typing', 'json', 're'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", "-c", code], cwd=SUPERVISOR, capture_output=True, text=True, timeout=20,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"
