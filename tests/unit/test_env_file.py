"""env_file: KEY=VALUE lines, read strictly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safesh import _envfile
from safesh.errors import ConfigError


def read(tmp_path: Path, text: str | bytes) -> dict[str, str]:
    path = tmp_path / "x.env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    return _envfile.read(str(path), "the key")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=", ""),
        ("A=1", "1"),
        ("  A = two words  ", "two words"),
        ("export A=1", "1"),
        ("export\tA=1", "1"),
        ("A=a=b", "a=b"),
        ("A=x # note", "x"),
        ("A=x#y", "x#y"),
        ("A=# note", ""),
        ("A=''", ""),
        ("A='as $it \\is # here'", "as $it \\is # here"),
        ("A='x' # note", "x"),
        ('A="a\\n\\t\\r\\"\\\\\\$"', 'a\n\t\r"\\$'),
        ('A="#"', "#"),
        ("A=it's", "it's"),
        ("A=$HOME", "$HOME"),
        ("A=ä", "ä"),
        ("_a1=x", "x"),
    ],
)
def test_a_line_gives_its_value(tmp_path: Path, line: str, value: str) -> None:
    assert list(read(tmp_path, line).values()) == [value]


def test_blank_lines_comments_and_both_line_ends_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff# one\r\n\r\nA=1\r\n  # two\n\t\nB=2") == {"A": "1", "B": "2"}


def test_the_later_of_two_lines_counts(tmp_path: Path) -> None:
    assert read(tmp_path, "A=1\nA=2\n") == {"A": "2"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A", "no '='"),
        ("=1", "cannot name a variable"),
        ("1A=1", "cannot name a variable"),
        ("A-B=1", "cannot name a variable"),
        ("ä=1", "cannot name a variable"),
        ("A B=1", "cannot name a variable"),
        ("set A=1", "cannot name a variable"),
        ("export =1", None),
        ("A='x", "not closed"),
        ('A="x', "not closed"),
        ('A="x\\"', "not closed"),
        ('A="\\q"', "no escape"),
        ('A="\\', "no escape"),
        ('A="x"y', "after the closing quote"),
        ("A='x' y", "after the closing quote"),
        ("A=\0", "NUL"),
    ],
)
def test_a_bad_line_is_told_by_number(tmp_path: Path, line: str, message: str | None) -> None:
    if message is None:  # "export" alone is a name like any other
        assert read(tmp_path, line) == {"export": "1"}
        return
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, f"# first\n{line}\nB=2\n")
    assert caught.value.place == f"{tmp_path}/x.env:2"


def test_no_message_shows_a_value(tmp_path: Path) -> None:
    for line in ("hunter2", "A='hunter2", 'A="hunter2', "A='x' hunter2", "A=hunter2\0"):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, line)
        assert "hunter2" not in str(caught.value) + caught.value.hint


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    read(tmp_path, "A=1")
    os.chmod(tmp_path / "x.env", 0o666)
    with pytest.raises(ConfigError, match="written by everybody") as caught:
        _envfile.read(str(tmp_path / "x.env"), "the key")
    assert caught.value.place == "the key"


def test_bytes_that_are_not_utf8_are_told_by_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0xff is not UTF-8") as caught:
        read(tmp_path, b"A=1\nB=\xff\n")
    assert caught.value.place == "the key:2"


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="A=\"'\\ #\n\t$export\0é", max_size=30))
def test_any_text_gives_variables_or_an_error(tmp_path: Path, text: str) -> None:
    try:
        found = read(tmp_path, text)
    except ConfigError as error:
        assert error.place  # noqa: PT017
    else:
        assert all(key and "=" not in key and "\0" not in value for key, value in found.items())
