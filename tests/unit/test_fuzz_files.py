"""Whatever people write, and however a program writes it: a valid object that survives its own writing down, or one
clear error. The properties are those of scripts/faults/fuzz_files.py; here Hypothesis makes the inputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from faults import fuzz_files as files
from faults.fuzz_box import Box
from faults.fuzz_mutate import mutate
from faults.fuzz_target import Target
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.campaign import rounds
from safesh.importers import toml_writer
from safesh.importers.unitfile import size, timespan

TARGETS = {one.name: one for one in files.TARGETS}
few = settings(max_examples=rounds(25, 600), deadline=None)

keys = st.sampled_from(
    ["command", "instance", "cwd", "env", "env_file", "restart", "backoff", "start_limit", "stop", "signals", "log",
     "ready", "health", "limits", "notify", "depends_on", "tty", "sample", "admission", "shell", "match", "lock_file",
     "pid_file", "grace", "signal", "count", "http", "tcp", "memory", "cpu", "most", "interval", "on", "A"]
)  # fmt: skip
scalars = st.one_of(
    st.booleans(), st.integers(-(1 << 62), 1 << 62), st.floats(allow_nan=True), st.text(max_size=8),
    st.sampled_from(["1s", "10M", "SIGTERM", "USR1", "on-failure", "http://127.0.0.1:1/", "127.0.0.1:80", "t", ".."]),
)  # fmt: skip
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
targets = st.dictionaries(keys, values, max_size=6)


@pytest.fixture(params=TARGETS.values(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def test_every_valid_input_is_taken(place: Box, target: Target) -> None:
    assert [target.check(place, data) for data in target.seeds].count(True) >= 1


def test_any_mutation_of_a_valid_input_is_taken_or_refused(place: Box, target: Target) -> None:
    @few
    @given(st.randoms(use_true_random=False))
    def holds(rng: Any) -> None:
        target.check(place, mutate(rng, target.seeds, target.words))

    holds()


def test_any_bytes_are_taken_or_refused(place: Box, target: Target) -> None:
    @few
    @given(st.binary(max_size=200))
    def holds(data: bytes) -> None:
        target.check(place, data)

    holds()


def test_any_safe_toml_of_the_right_form_is_taken_or_refused(place: Box) -> None:
    @settings(max_examples=rounds(100, 3000), deadline=None)
    @given(targets, targets, st.dictionaries(st.text(max_size=6), targets, max_size=2))
    def holds(one: dict[str, Any], defaults: dict[str, Any], more: dict[str, Any]) -> None:
        table = {"defaults": defaults, "targets": {"t": {"command": ["true"], **one}, **more}}
        try:
            text = "".join(f"{toml_writer.key(name)} = {toml_writer.value(item)}\n" for name, item in table.items())
        except ValueError:  # half a character, or an integer that Python does not print
            return
        files.check_config(place, text.encode("utf-8", "replace"))

    holds()


def test_any_plan_of_the_right_form_is_taken_or_refused(place: Box) -> None:
    names = st.sampled_from(["a", "b", "c", "", "a b", "\ud800", "x" * 200])
    step = st.fixed_dictionaries(
        {"id": names, "command": st.one_of(st.just(["true"]), values)},
        optional={
            "depends_on": st.lists(names, max_size=2), "timeout": scalars, "retries": scalars, "env": values,
            "resources": values, "limits": values, "inputs": values, "shell": scalars, "backoff": values,
        },
    )  # fmt: skip
    plans = st.fixed_dictionaries({"steps": st.lists(step, max_size=4)}, optional={"id": names, "resources": values})

    @settings(max_examples=rounds(100, 3000), deadline=None)
    @given(plans)
    def holds(plan: dict[str, Any]) -> None:
        data = json.dumps(plan).encode()
        taken = TARGETS["plan.json"].check(place, data)
        if b"NaN" not in data and b"Infinity" not in data:  # JSON is YAML, but for these words
            assert TARGETS["plan.yaml"].check(place, data) or not taken

    holds()


def test_variables_written_in_double_quotes_come_back(place: Box) -> None:
    @settings(max_examples=rounds(100, 3000), deadline=None)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
    def holds(value: str) -> None:
        assert files.check_env(place, f"A={files._quoted(value)}\n".encode())

    holds()


# ---- what was found


def test_a_width_of_gigabytes_in_a_supervisord_conf_is_refused(place: Box) -> None:
    text = b"[program:x]\ncommand=%(process_num)4949672910d\n"
    assert TARGETS["supervisord.conf"].check(place, text) is False
    assert TARGETS["supervisord.conf"].check(
        place, b"[program:x]\ncommand=/bin/x --share 100%%1234 %(process_num)02d\n"
    )


@pytest.mark.parametrize("text", ["9" * 400, "9" * 30 + "E"])
def test_a_size_that_no_system_has_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="more than any system has"):
        size(text)
    assert timespan("1s") == 1


def test_a_start_of_a_nameless_command_is_the_same_to_both_readers_of_a_line(place: Box) -> None:
    assert files.check_argv(place, b"start\n\n--\nsleep\n1") is False
