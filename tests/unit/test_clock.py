"""Durations and sizes as people write and read them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesh import clock
from safesh.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (0, 0.0),
        (0.25, 0.25),
        ("5", 5.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        (" 2 d ", 172800.0),
        ("1W", 604800.0),
        ("1e3", 1000.0),
        ("1e-1s", 0.1),
        (10**200, 1e200),
        ("9" * 30 + "d", 86400e30),
    ],
)
def test_a_duration_is_read_in_seconds(written: object, seconds: float) -> None:
    assert clock.parse_duration(written) == pytest.approx(seconds)


def test_minus_zero_is_zero() -> None:
    assert str(clock.parse_duration(-0.0)) == "0.0"


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "s",
        "-1",
        "-1s",
        "1x",
        "1h30",
        "1 2",
        "1s,",
        "1..5s",
        "e5",
        "1e",
        "٣s",
        "²",
        "inf",
        "nan",
        "1e400",
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        10**400,
        -(10**5000),
        16**9000,
        "9" * 5000,
        "1" * 100000,
    ],
    ids=lambda written: type(written).__name__,
)
def test_anything_else_is_no_duration(written: object) -> None:
    with pytest.raises(ConfigError, match="is not a duration") as caught:
        clock.parse_duration(written, "targets.x.stop.grace")
    assert caught.value.place == "targets.x.stop.grace"
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (1048576, 1 << 20),
        ("512", 512),
        ("512b", 512),
        ("10M", 10 << 20),
        ("10 MB", 10 << 20),
        ("1.5GiB", 3 << 29),
        ("2t", 2 << 40),
        ("0.5k", 512),
        ("1e3", 1000),
        ("9007199254740993", 2**53 + 1),
        ("8191T", 8191 << 40),
    ],
)
def test_a_size_is_read_in_bytes(written: object, size: int) -> None:
    assert clock.parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    [
        "",
        "M",
        "-1",
        "1.5",
        "1e-3",
        "1X",
        "1 0 M",
        "10 M B",
        "1k1",
        "٣M",
        "1e400",
        "9" * 5000,
        "8388608T",
        -1,
        1.5,
        True,
        None,
        {},
        1 << 63,
        16**9000,
    ],
    ids=lambda written: type(written).__name__,
)
def test_anything_else_is_no_size(written: object) -> None:
    with pytest.raises(ConfigError, match="is not a size") as caught:
        clock.parse_size(written, "targets.x.log.size")
    assert caught.value.place == "targets.x.log.size"
    assert len(caught.value.message) < 100


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.text(alphabet="0123456789.eE+- smhdwkKMGTib", max_size=12), st.floats(), st.integers(), st.text()))
def test_any_value_gives_a_number_or_a_config_error(value: object) -> None:
    for parse in (clock.parse_duration, clock.parse_size):
        try:
            assert 0 <= parse(value) < float("inf")
        except ConfigError:
            pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (12.9, "12s"),
        (60, "1m"),
        (192, "3m 12s"),
        (7500, "2h 5m"),
        (349200, "4d 1h"),
        (345600, "4d"),
    ],
)
def test_a_duration_is_shown_in_two_units_at_most(seconds: float, text: str) -> None:
    assert clock.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 << 20, "20.0 MiB"),
        (200 << 20, "200 MiB"),
        (3.2 * (1 << 30), "3.2 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_a_size_is_shown_in_one_unit(size: float, text: str) -> None:
    assert clock.format_size(size) == text


def test_a_time_is_shown_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        assert clock.format_time(1_795_000_000.9) == "2026-11-18 11:06:40"
    time.tzset()


def test_a_pause_takes_its_time_without_the_call_that_libraries_of_false_time_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_seconds: float) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("time.sleep", refuse)
    begun = time.monotonic()
    clock.sleep(0.02)
    assert 0.02 <= time.monotonic() - begun < 5
