"""The JSON log: whole lines from many processes, rotation that loses none, through logging and structlog alike."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faults_tools import fill, tiny_disk
from helpers.home import SUPERVISOR
from safesh.core.rotation import scan_parts
from safesh.errors import StateError
from safesh.metrics.jsonlog import JsonFile, JsonHandler, ResourceLog
from safesh.metrics.model import TreeUsage


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def every_line(path: Path) -> list[dict[str, Any]]:
    """Of all parts and of the file, oldest first."""
    parts = [Path(names[0]) for names in scan_parts(str(path)).values()]
    return [line for file in [*parts, path] if file.exists() for line in lines(file)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resources.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[ResourceLog]:
    made = ResourceLog(str(path), target="robot", run_id="r1")
    try:
        yield made
    finally:
        made.close()


def test_a_line_tells_whose_it_is_what_about_and_the_numbers(log: ResourceLog, path: Path) -> None:
    log.write("resources_initial", cpu_percent=None, memory_mb=12.5)
    log.bind(mission_id="m", device_id="d", session_id="s").write("limit_warning", level="warning", limit="memory")
    first, second = lines(path)
    assert list(first) == ["v", "at", "level", "message", "target", "run_id", "cpu_percent", "memory_mb"]
    assert (first["message"], first["target"], first["cpu_percent"], first["memory_mb"]) == (
        "resources_initial", "robot", None, 12.5,
    )  # fmt: skip
    assert [second[key] for key in ("target", "mission_id", "device_id", "session_id", "run_id", "level")] == [
        "robot", "m", "d", "s", "r1", "warning",
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_records_are_written_as_their_fields_and_odd_things_as_their_text(log: ResourceLog, path: Path) -> None:
    log.write("process_resources", tree=TreeUsage(run_id="r1", processes=3), text="a\nb\x1b\udcff")
    log.write("resources", odd=object(), nan=float("nan"), fine=1)
    first, second = lines(path)
    assert first["tree"]["processes"] == 3
    assert first["text"] == "a\nb\x1b\udcff"
    assert second["odd"].startswith("<object") and second["fine"] == 1 and second["nan"] is None


def test_any_logger_of_logging_can_write_into_it(path: Path) -> None:
    file = JsonFile(str(path))
    logger = logging.getLogger("test.resources")
    logger.propagate = False
    logger.setLevel("INFO")
    handler = JsonHandler(file)
    logger.addHandler(handler)
    try:
        log = ResourceLog(logger=logger, target="robot")
        log.write("resources_final", cpu_seconds=2.5)
        logger.warning("plain %s", "words")
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("caught")
    finally:
        logger.removeHandler(handler)
        file.close()
    first, second, third = lines(path)
    assert (first["message"], first["target"], first["cpu_seconds"]) == ("resources_final", "robot", 2.5)
    assert (second["message"], second["level"], second["logger"]) == ("plain words", "warning", "test.resources")
    assert third["error"] == "ValueError: broken"


def test_structlog_can_be_the_logger_and_can_write_into_the_file(path: Path) -> None:
    structlog = pytest.importorskip("structlog")
    file = JsonFile(str(path))
    try:
        logger = structlog.wrap_logger(
            file,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
        )
        ResourceLog(logger=logger, mission_id="m").bind(device_id="d").write("resources_initial", memory_mb=1)
        logger.bind(session_id="s").warning("limit_warning")
    finally:
        file.close()
    first, second = lines(path)
    assert first == {
        "message": "resources_initial",
        "level": "info",
        "mission_id": "m",
        "device_id": "d",
        "memory_mb": 1,
    }
    assert (second["message"], second["level"], second["session_id"]) == ("limit_warning", "warning", "s")


def test_a_log_without_a_place_is_refused() -> None:
    with pytest.raises(StateError):
        ResourceLog()


def test_a_symlink_is_refused(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))
    with pytest.raises(StateError, match="symlink"):
        ResourceLog(str(path))
    assert not path.with_name("victim").exists()


def test_the_file_is_rotated_by_size_and_old_parts_go(path: Path) -> None:
    log = ResourceLog(str(path), size=2000, keep=3)
    try:
        for number in range(500):
            log.write("resources", number=number)
    finally:
        log.close()
    parts = scan_parts(str(path))
    assert len(parts) == 3
    assert all(stat.S_IMODE(os.stat(names[0]).st_mode) == 0o600 for names in parts.values())
    assert all(1900 < os.stat(names[0]).st_size < 2200 for names in parts.values())
    numbers = [line["number"] for line in every_line(path)]
    assert numbers == list(range(numbers[0], 500)), "what is left is the end, without a gap"


def test_a_file_that_somebody_removed_is_begun_anew(log: ResourceLog, path: Path) -> None:
    log.write("resources", number=1)
    path.unlink()
    log.write("resources", number=2)
    assert [line["number"] for line in lines(path)] == [2]


def test_what_a_full_disk_swallowed_is_counted_and_spoils_no_line(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 128):
        path = tmp_path / "disk" / "log.jsonl"
        log = ResourceLog(str(path))
        try:
            log.write("resources", number=0)
            fill(tmp_path / "disk" / "ballast")
            for number in range(1, 100):
                log.write("resources", number=number, filler="x" * 100)
            (tmp_path / "disk" / "ballast").unlink()
            log.write("resources", number=100)
        finally:
            log.close()
        good, torn = [], 0
        for line in path.read_text().splitlines():
            try:
                good.append(json.loads(line))
            except ValueError:
                torn += 1
        (told,) = [line for line in good if line["message"] == "lines_lost"]
        kept = [line["number"] for line in good if line["message"] == "resources"]
        assert len(kept) + told["count"] == 101
        assert kept[-1] == 100
        assert torn <= 1


WRITER = """
import sys
from safesh.metrics.jsonlog import ResourceLog
path, me, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = ResourceLog(path, size=20_000, keep=1000, target=f"t{me}")
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    log.write("resources", number=number, filler="x" * (number % 300))
print("lost", log.file.lost, flush=True)
"""


def test_processes_share_one_log_over_its_rotations_and_lose_nothing(path: Path) -> None:
    writers: list[subprocess.Popen[str]] = []
    try:
        for me in range(6):
            words = [sys.executable, "-E", "-s", "-S", "-c", WRITER, str(path), str(me), "300"]
            writers.append(
                subprocess.Popen(words, cwd=SUPERVISOR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for one in writers:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in writers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in writers:
            assert one.communicate(timeout=60)[0] == "lost 0\n"
    finally:
        for one in writers:
            if one.poll() is None:
                one.kill()
                one.wait()
            for pipe in (one.stdin, one.stdout):
                if pipe is not None:
                    pipe.close()
    found = every_line(path)
    assert len(scan_parts(str(path))) > 10
    for me in range(6):
        assert sorted(line["number"] for line in found if line["target"] == f"t{me}") == list(range(300))
