"""JSON without the json module: the same values, the same text, the same refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safesh
from safesh import model, wire

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
quick = settings(max_examples=200, deadline=None, derandomize=True)


@quick
@given(values, st.sampled_from([0, 2]))
def test_it_writes_what_the_json_module_writes(value: Any, indent: int) -> None:
    assert wire.dumps(value, indent) == json.dumps(value, indent=indent or None)


@quick
@given(values)
def test_what_was_written_is_read_back(value: Any) -> None:
    assert wire.loads(wire.dumps(value)) == value
    assert wire.loads(f" \t\r\n{wire.dumps(value, 2)}\n") == value


@quick
@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\u \n', max_size=20))
def test_it_reads_and_refuses_what_the_json_module_does(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            wire.loads(text)
    else:
        assert wire.loads(text) == expected


@pytest.mark.parametrize("text", ["", " ", "{", "{}x", "[1,]", '{"a"}', "'a'", '"\n"', "01", "\ufeff{}", "[" * 100_000])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.loads(text)


def test_numbers_nobody_knows_are_null() -> None:
    assert wire.dumps([float("nan"), float("inf"), float("-inf")]) == "[null, null, null]"


def test_the_text_is_one_ascii_line() -> None:
    text = wire.dumps({"ä\n": "\udcff\u2028"})
    assert text.isascii()
    assert "\n" not in text
    assert wire.loads(text) == {"ä\n": "\udcff\u2028"}


def test_records_and_tuples_are_written() -> None:
    assert wire.loads(wire.dumps({"grace": (1, model.StopPolicy())})) == {"grace": [1, model.StopPolicy().to_dict()]}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", 1j])
def test_what_json_cannot_hold_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"cannot write {type(value).__name__} as JSON"):
        wire.dumps(value)


SCRIPT = r"""
import sys
sys.path.insert(0, {source!r})
{before}
from safesh import wire
assert wire.loads(wire.dumps({{"a": [1, "ä", None, 1.5]}})) == {{"a": [1, "ä", None, 1.5]}}
for text in ("", "{{", "[1,]", '{{"a"}}', '{{"a": }}', '"\\x"', '"a', '"\\u12', "nul", "-", "[" * 100_000):
    try:
        wire.loads(text)
    except ValueError:
        continue
    raise SystemExit(text)
{after}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "assert not {'json', 're', 'enum'} & set(sys.modules)"),
        ("sys.modules['_json'] = None", "assert 'json' in sys.modules"),
    ],
    ids=["lean", "without the C module"],
)
def test_it_needs_no_json_module_and_falls_back_to_it(before: str, after: str) -> None:
    source = str(Path(safesh.__file__).parents[1])
    script = SCRIPT.format(source=source, before=before, after=after)
    subprocess.run([sys.executable, "-S", "-E", "-c", script], check=True, timeout=60)
