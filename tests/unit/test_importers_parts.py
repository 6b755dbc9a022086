"""The importers' parts: words, unit syntax, TOML, what the schema decides, and the commented template."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("msgspec")

from hypothesis import given
from hypothesis import strategies as st

from safesh import _schema, config, importers
from safesh.importers import Origin, Plan, Target, shellwords, template, toml_writer, unitfile

HERE = Origin(file="x", line=1, text="text")
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


# --- words with variables ---------------------------------------------------------------------


@given(st.text("ab '\"\\\t\n$#;*", max_size=12))
def test_words_without_variables_are_those_of_shlex(text: str) -> None:
    try:
        wanted = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match="No"):
            shellwords.split(text)
        return
    assert shellwords.plain(shellwords.split(text)) == wanted


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=4))
def test_a_shell_takes_the_text_to_the_same_words(words: list[str]) -> None:
    line = shellwords.shell([[("text", word)] for word in words], required=True)
    assert shlex.split(line) == words


def test_a_shell_puts_values_in_whole_within_quotes_and_cut_at_blanks_without() -> None:
    text = f"x{shellwords.mark('A')} \"{shellwords.mark('A')}'\" '{shellwords.mark('B')}y'"
    line = shellwords.shell(shellwords.split(text), required=True)
    script = f"set -f; printf '<%s>' {line}"
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"A": "1 *", "B": "$A"}, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "<x1><*><1 *'><$Ay>"
    missing = subprocess.run(["/bin/sh", "-c", script], env={"A": "1"}, capture_output=True, text=True, timeout=20)
    assert missing.returncode != 0
    assert "B" in missing.stderr


# --- the syntax of units ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5), ("2min 200ms", 120.2), ("2 h", 7200), ("2hours", 7200), ("48hr", 172800), ("1y 12month", 63115200),
        ("55s500ms", 55.5), ("300ms20s 5day", 432020.3), ("1.5s", 1.5), ("infinity", math.inf), ("0", 0), ("5us", 5e-6),
    ],
)  # fmt: skip
def test_time_spans_are_read_as_the_manual_says(text: str, seconds: float) -> None:
    assert unitfile.timespan(text) == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize("text", ["", "x", "5 parsecs", "5s x", "-1", "1 2 three"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time span"):
        unitfile.timespan(text)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze to compare with")
def test_time_spans_are_those_of_systemd_itself() -> None:
    spans = ["5", "2min 200ms", "1y 12month", "55s500ms", "300ms20s 5day", "1M 3w", "1.25h", "7usec"]
    done = subprocess.run(["systemd-analyze", "timespan", *spans], capture_output=True, text=True, timeout=20)
    if done.returncode:
        pytest.skip(f"systemd-analyze: {done.stderr.strip()}")
    theirs = [int(line) for line in re.findall(r"[μu]s: (\d+)", done.stdout)]
    assert [round(unitfile.timespan(span) * 1e6) for span in spans] == theirs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        (r"\x41\101\u00e9\s\t\\ \"", ["AA\xe9 \t\\", '"']),
        (r"\q keeps", ["\\q", "keeps"]),
        (r"a \; b ; c", ["a", ";", "b", "\0;", "c"]),
        ("';' x;y", [";", "x;y"]),
        ('""', [""]),
    ],
)
def test_quoting_is_that_of_systemd_syntax(text: str, words: list[str]) -> None:
    assert unitfile.words(text) == words


def test_lines_go_on_behind_a_backslash_and_over_comments() -> None:
    text = "[S]\nKey=one \\\n# passed over\n; this too\n  two\\\n\nNext = x\nodd\n"
    found, broken = unitfile.parse(text, "u")
    assert [(one.key, one.value.split(), one.origin.line) for one in found] == [
        ("Key", ["one", "two"], 2),
        ("Next", ["x"], 7),
    ]
    assert [one.line for one in broken] == [8]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("$NAME", [("split", "NAME")]),
        ("${NAME}", [("var", "NAME")]),
        ("a${NAME}b", [("text", "a"), ("var", "NAME"), ("text", "b")]),
        ("a$NAME", [("text", "a$NAME")]),
        ("$$x$${y}", [("text", "$x${y}")]),
    ],
)
def test_variables_are_found_where_systemd_finds_them(word: str, parts: list[tuple[str, str]]) -> None:
    assert unitfile.variables(word) == parts


def test_specifiers_that_only_the_start_knows_are_an_error() -> None:
    specifiers = unitfile.Specifiers("a@b-c.service", "/etc/a@b-c.service", False)
    assert specifiers.expand("%n %N %p %i %I %%") == "a@b-c.service a@b-c a b-c b/c %"
    for letter in "bmdx":
        with pytest.raises(ValueError, match=f"%{letter} cannot be told"):
            specifiers.expand(f"%{letter}")


# --- TOML -------------------------------------------------------------------------------------


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(bool), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, TEXT.filter(bool))
def test_values_and_keys_come_back_as_they_were(item: Any, name: str) -> None:
    for spread in (True, False):
        text = f"{toml_writer.key(name)} = {toml_writer.value(item, spread=spread)}\n"
        if not isinstance(item, list) or not spread:
            assert text.count("\n") == 1
        assert tomllib.loads(text) == {name: item}


@given(st.text(max_size=200))
def test_whatever_stands_in_a_comment_stays_in_it(text: str) -> None:
    written = toml_writer.comment(text)
    assert all(line.startswith("#") for line in written.split("\n"))
    assert tomllib.loads(written.encode("utf-8", "replace").decode() + "\nx = 1\n") == {"x": 1}


# --- the schema's word ------------------------------------------------------------------------


def test_a_feature_is_written_once_the_schema_has_its_key_and_takes_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, target = Plan(source="x", kind="t"), Target(name="a", origin=HERE)
    monkeypatch.setitem(importers.FEATURES, "nice", ("stop.grace", "not yet"))
    plan.offer(target, "nice", "3s", HERE)
    assert target.values == {"stop.grace": "3s"}
    for key, value in (("no.such.key", 1), ("stop.grace", "three"), ("stop", 5)):
        monkeypatch.setitem(importers.FEATURES, "nice", (key, "not yet"))
        plan, target = Plan(source="x", kind="t"), Target(name="a", origin=HERE)
        plan.offer(target, "nice", value, HERE)
        assert target.values == {}
        assert [note.reason for note in plan.notes] == ["not yet"]


def test_what_the_schema_has_is_known_by_key_and_by_table() -> None:
    assert importers.schema_has("stop.grace")
    assert importers.schema_has("stop")
    assert not importers.schema_has("sto")
    assert not importers.schema_has("limits.dreams")


def test_what_safe_toml_would_refuse_is_left_out_and_noted() -> None:
    plan, target = Plan(source="x", kind="t"), Target(name="a", origin=HERE)
    target.set("command", ["x"])
    target.set("stop.signal", "SIGNONE")
    target.set("env", {"GOOD": "1", "SAFESH_RUN_ID": "2"})
    plan.add(target)
    assert target.values == {"command": ["x"], "env": {"GOOD": "1"}}
    assert len(plan.notes) == 2


@given(TEXT)
def test_any_name_becomes_one_that_a_file_can_have(raw: str) -> None:
    from safesh import paths

    name = importers.name_for(raw, [])
    assert paths.check_name(name, "a target") == name
    taken = [Target(name=name, origin=HERE)]
    assert importers.name_for(raw, taken) != name


def test_secrets_do_not_get_into_messages() -> None:
    plan = Plan(source="x", kind="t")
    plan.note(Origin(file="x", line=1, text='password = 123 user=me DB_TOKEN="a b"'), "why")
    assert plan.notes[0].text == "password = *** user=me DB_TOKEN=***"


# --- the template -----------------------------------------------------------------------------

SWITCH = re.compile(r"^#([a-z_.]+) = (.*)$", re.M)
KINDS = {
    f"{probe}.{kind}" for probe in ("ready", "health") for kind in ("tcp", "command", "heartbeat", "log", "notify")
}


def test_the_template_loads_as_it_is(tmp_path: Path) -> None:
    assert toml_writer.check(template.text(), str(tmp_path / "safe.toml")) == ["app"]


def test_the_template_teaches_every_key_and_no_other() -> None:
    taught = {found[1] for found in SWITCH.finditer(template.text())} - {"project"}
    assert taught | {"command"} == set(importers.schema_keys())


def test_every_line_of_the_template_may_be_switched_on(tmp_path: Path) -> None:
    text = template.text()
    for found in SWITCH.finditer(text):
        if found[1] != "project":
            item = tomllib.loads(found[0][1:])
            for part in found[1].split("."):
                item = item[part]
            assert importers.problem_of(found[1], item) == ""
    # Of the kinds of probe one only; max_age is heartbeat's.
    off = KINDS | {"ready.max_age", "health.max_age"}
    on = SWITCH.sub(lambda found: found[0] if found[1] in off else found[0][1:], text)
    on = on.replace("shell = false", "#")
    assert toml_writer.check(on, str(tmp_path / "safe.toml")) == ["app"]


def test_what_the_template_calls_a_default_is_the_default() -> None:
    defaults = importers.schema_keys()
    about = ""
    for line in template.text().split("\n"):
        found = SWITCH.match(line)
        if line.startswith("# "):
            about = line if not line.startswith("#   ") else about + line[3:]
        elif found and found[1] != "project" and "xample" not in about:
            table: Any = tomllib.loads(line[1:])
            values = _schema.walk(table, _schema.Target, "x")
            for part in found[1].split("."):
                values = values[part]
            wanted = defaults[found[1]]
            if isinstance(values, float) and isinstance(wanted, str):
                wanted = _schema.parse_duration(wanted)
            assert values == wanted, line


def test_a_key_without_words_of_its_own_is_taught_by_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_ROWS", ())
    text = template.text()
    assert '# stop.grace: a duration such as 5, "1.5s" or "10m".' in text
    assert "# match: a string." in text
    taught = {found[1] for found in SWITCH.finditer(text)}
    assert {"stop.grace", "restart", "log.keep"} <= taught


def test_the_files_name_is_the_one_that_is_looked_for() -> None:
    assert config.FILE_NAME == "safe.toml"


def test_a_number_of_processes_that_no_machine_has_is_translated_as_far_as_anybody_would_read(tmp_path: Path) -> None:
    conf = tmp_path / "supervisord.conf"
    conf.write_text(
        "[program:web]\ncommand=/bin/sleep 1\nprocess_name=%(program_name)s_%(process_num)02d\n"
        "numprocs=99999999999999999999\n"
    )
    plan = importers.read(str(conf), str(tmp_path))
    assert len(plan.targets) == 200
    assert any("only the first 200" in str(vars(note)) for note in plan.notes)
