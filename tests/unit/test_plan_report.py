"""The report channel: what a step tells in the file that ``SAFESH_REPORT`` names, and how it is read."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import safesh
from helpers.home import SUPERVISOR
from safesh import InvalidCommand
from safesh.plan import report as channel
from safesh.plan.report import ReportReader


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "step.jsonl"
    monkeypatch.setenv("SAFESH_REPORT", str(path))
    return path


@pytest.fixture
def reader(file: Path) -> Iterator[ReportReader]:
    reader = ReportReader(str(file))
    yield reader
    reader.close()


def add(file: Path, data: bytes | str) -> None:
    with file.open("ab") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


# --- telling ----------------------------------------------------------------------------------


def test_one_call_is_one_private_versioned_line(file: Path) -> None:
    assert safesh.report(tokens=12, cost=0.5, progress=0.25, message="half\nway \u2713 \ud800")
    assert safesh.report(message="")
    first, second = file.read_bytes().splitlines()
    told = json.loads(first)
    assert told.pop("at") > 1e9
    assert told == {"v": 1, "tokens": 12, "cost": 0.5, "progress": 0.25, "message": "half\nway \u2713 \ud800"}
    assert json.loads(second)["message"] == ""
    assert file.stat().st_mode & 0o777 == 0o600


def test_outside_a_plan_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFESH_REPORT", raising=False)
    assert safesh.report(progress=1) is False
    monkeypatch.setenv("SAFESH_REPORT", "")
    assert safesh.report(progress=1) is False


@pytest.mark.parametrize("where", ["missing/folder/file", ".", "a\0b", "/dev/full"])
def test_a_file_that_cannot_be_written_is_false_and_no_error(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "SAFESH_REPORT": os.path.join(tmp_path, where)})
    assert safesh.report(progress=1) is False


def test_a_pipe_that_nobody_reads_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("SAFESH_REPORT", str(tmp_path / "pipe"))
    assert safesh.report(progress=1) is False


WRONG = [
    ({}, "report: nothing is told"),
    ({"tokens": "3"}, "tokens: '3' is not a whole number"),
    ({"tokens": 1.5}, "tokens: 1.5"),
    ({"tokens": True}, "tokens: True"),
    ({"tokens": -1}, "tokens: -1"),
    ({"tokens": 1 << 63}, "tokens: 9223372036854775808"),
    ({"tokens": 10**5000}, "tokens: a number of thousands of digits"),
    ({"cost": "1"}, "cost: '1' is not a cost"),
    ({"cost": float("nan")}, "cost: nan"),
    ({"cost": float("inf")}, "cost: inf"),
    ({"cost": -0.01}, "cost: -0.01"),
    ({"cost": 10**400}, "cost: "),
    ({"progress": 50}, "progress: 50 is not a share of the work, 0 to 1"),
    ({"progress": False}, "progress: False"),
    ({"progress": [1]}, "progress: [1]"),
    ({"message": 3}, "message: 3 is not text"),
    ({"message": b"x"}, "message: b'x' is not text"),
]


@pytest.mark.parametrize(("fields", "told"), WRONG)
def test_a_wrong_value_is_a_value_error_that_names_it_in_a_plan_or_out_of_it(
    fields: dict[str, object], told: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(told)) as caught:
            safesh.report(**fields)  # type: ignore[arg-type]
        assert isinstance(caught.value, InvalidCommand)
        monkeypatch.delenv("SAFESH_REPORT", raising=False)
    assert not file.exists()


def test_numbers_of_other_kinds_are_numbers(file: Path, reader: ReportReader) -> None:
    class Index:
        def __index__(self) -> int:
            return 7

    safesh.report(tokens=Index(), cost=Decimal("0.125"), progress=1)  # type: ignore[arg-type]
    assert reader.read() == {"tokens": 7, "cost": 0.125, "progress": 1.0}
    safesh.report(tokens=1000.0, progress=-0.0)  # type: ignore[arg-type]
    assert reader.read() == {"tokens": 1000, "progress": 0.0}


@pytest.mark.parametrize("letter", ["x", "\u2713", "\U0001f600", "\x00", "\ud800"])
def test_a_huge_message_is_cut_so_that_its_line_stays_whole(letter: str, file: Path, reader: ReportReader) -> None:
    assert safesh.report(message=letter * 1_000_000)
    assert len(file.read_bytes()) <= channel.LONGEST
    assert reader.read() == {"message": letter * 5000}


MANY = """
import sys
sys.path.insert(0, sys.argv[1])
from safesh import report
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    assert report(tokens=number, message=sys.argv[2] * (number % 4000))
"""


def test_lines_of_many_processes_never_mix(file: Path, reader: ReportReader) -> None:
    command = [sys.executable, "-ISc", MANY, str(SUPERVISOR)]
    crowd = [
        subprocess.Popen([*command, letter, "400"], stdin=subprocess.PIPE, env={"SAFESH_REPORT": str(file)})
        for letter in "abcd"
    ]
    try:
        for one in crowd:
            assert one.stdin
            one.stdin.write(b"go\n")
            one.stdin.close()
        assert [one.wait(30) for one in crowd] == [0] * 4
    finally:
        for one in crowd:
            if one.poll() is None:
                one.kill()
                one.wait()
    found: dict[str, list[int]] = {}
    for line in file.read_bytes().splitlines():
        told = json.loads(line)
        assert len(set(told["message"])) <= 1
        if told["message"]:
            assert len(told["message"]) == told["tokens"] % 4000
            found.setdefault(told["message"][0], []).append(told["tokens"])
    assert found == {letter: list(range(1, 400)) for letter in "abcd"}
    reader.read(final=True)
    assert (reader.lines, reader.bad) == (1600, 0)


def test_a_step_that_reports_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import safesh; safesh.report(progress=0.5); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-ISc", code, str(SUPERVISOR)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert not {"typing", "json", "re", "threading", "enum", "safesh.process", "asyncio"} & set(done.stdout.split())


# --- reading ----------------------------------------------------------------------------------


def test_a_file_that_is_missing_yet_is_nothing_and_is_found_later(file: Path, reader: ReportReader) -> None:
    assert reader.read() == {} == reader.read(final=True)
    add(file, '{"progress": 0.5}\n')
    assert reader.read() == {"progress": 0.5}
    assert reader.read() == {}
    assert reader.bad == 0


def test_half_a_line_waits_for_its_rest(file: Path, reader: ReportReader) -> None:
    add(file, '{"tokens": 1}\n{"tok')
    assert reader.read() == {"tokens": 1}
    add(file, 'ens": 2')
    assert reader.read() == {}
    add(file, "}\n")
    assert reader.read() == {"tokens": 2}
    assert (reader.lines, reader.bad) == (2, 0)


def test_at_the_end_a_line_without_a_newline_is_one_too(file: Path, reader: ReportReader) -> None:
    add(file, '{"tokens": 1}\n{"message": "last"}')
    assert reader.read(final=True) == {"tokens": 1, "message": "last"}
    assert reader.read(final=True) == {}


BAD = [
    ("not json", "not JSON"),
    ("[1, 2]", "[1, 2] is not an object"),
    ("3", "3 is not an object"),
    ('{"tokens": "many"}', "tokens: 'many' is not a whole number"),
    ('{"tokens": 1, "progress": 7}', "progress: 7"),
    ('{"cost": NaN}', "cost: nan"),
    ('{"cost": Infinity}', "cost: inf"),
    ('{"message": null}', "nothing is told"),
    ('{"other": 1}', "nothing is told"),
    (b'{"message": "\xff\xfe"}', "not UTF-8 at byte 13"),
    ("[" * 60_000, "nested too deeply"),
    ('{"tokens": ' + "9" * 5000 + "}", ""),
    ('{"message": "' + "x" * 70_000 + '"}', "longer than 64 KiB"),
    (b"\0" * 100, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("final", [False, True])
def test_a_bad_line_is_counted_with_its_reason_and_the_next_one_read(
    line: bytes | str, reason: str, final: bool, file: Path, reader: ReportReader
) -> None:
    add(file, '{"tokens": 1}\n')
    add(file, line)
    add(file, '\n\n  \n{"cost": 2, "new key": {}}\n')
    assert reader.read(final=final) == {"tokens": 1, "cost": 2.0}
    assert reader.bad == 1 and reason in reader.reason and len(reader.reason) < 200
    assert reader.lines == 2


def test_a_line_without_an_end_is_counted_once_and_takes_no_memory(file: Path, reader: ReportReader) -> None:
    for _ in range(50):
        add(file, b"x" * 50_000)
        assert reader.read() == {}
    add(file, '\n{"tokens": 5}\n')
    assert reader.read() == {"tokens": 5}
    assert reader.bad == 1 and len(reader._rest) < channel.LONGEST


def test_a_file_that_is_cut_is_read_from_its_beginning(file: Path, reader: ReportReader) -> None:
    add(file, '{"tokens": 100}\n{"tokens": 200}\n{"half')
    assert reader.read() == {"tokens": 200}
    file.write_text('{"tokens": 3}\n')
    assert reader.read() == {"tokens": 3}
    assert reader.bad == 0


def test_a_file_that_is_replaced_is_read_to_its_end_and_then_the_new_one(file: Path, reader: ReportReader) -> None:
    add(file, '{"tokens": 1}\n')
    assert reader.read() == {"tokens": 1}
    add(file, '{"cost": 1}\n')
    new = file.with_suffix(".new")
    new.write_text('{"progress": 0.5}\n')
    new.rename(file)
    assert reader.read(final=True) == {"cost": 1.0, "progress": 0.5}
    file.unlink()
    assert reader.read() == {}
    add(file, '{"message": "again"}\n')
    assert {**reader.read(), **reader.read()} == {"message": "again"}


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_told_once_and_holds_nobody_up(kind: str, file: Path, reader: ReportReader) -> None:
    {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file), "loop": lambda: file.symlink_to(file)}[kind]()
    for _ in range(3):
        assert reader.read(final=True) == {}
    assert reader.bad == 1 and "report file" in reader.reason


def test_a_flood_is_read_in_bounded_pieces_and_its_latest_values_win(file: Path, reader: ReportReader) -> None:
    line = b'{"message": "' + b"y" * 1000 + b'"}\n'
    add(file, line * 5000)
    assert reader.read() and reader.lines < 1200
    reader.read(final=True)
    assert reader.lines == 5000
    with file.open("r+b") as stream:  # far more than anybody could follow
        stream.truncate(1 << 30)
        stream.seek(0, os.SEEK_END)
        stream.write(b'\n{"tokens": 9}\n')
    assert reader.read(final=True) == {"tokens": 9}
    assert reader.bad == 1 and "passed over" in reader.reason


def test_whatever_the_pieces_the_same_is_read(file: Path, rng: random.Random) -> None:
    reader = ReportReader(str(file))
    lines = []
    for number in range(300):
        good = json.dumps({"tokens": number, "message": "é✓" * rng.randrange(30)}, ensure_ascii=rng.random() < 0.5)
        lines.append(good.encode() if rng.random() < 0.8 else rng.randbytes(rng.randrange(1, 40)).replace(b"\n", b"x"))
    data = b"\n".join(lines) + b"\n"
    told: dict[str, object] = {}
    position = 0
    while position < len(data):
        size = rng.randrange(1, 400)
        add(file, data[position : position + size])
        position += size
        told |= reader.read()
    told |= reader.read(final=True)
    whole = ReportReader(str(file))
    assert whole.read(final=True) == told
    assert (whole.lines, whole.bad) == (reader.lines, reader.bad)
    assert whole.lines + whole.bad <= 300
    reader.close()
    whole.close()
