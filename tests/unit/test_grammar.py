"""The two parsers of the command line agree, and whatever is wrong is told with a way out."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("click")

from safesh.cli import clickapp, grammar, render
from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, Parsed, parse
from safesh.errors import UsageError

SOURCE = Path(grammar.__file__).resolve().parents[2]

# Everyday lines: the small parser must read each of them itself.
EVERYDAY = [
    "start",
    "start headless",
    "start headless --detach",
    "start -d headless",
    "start gui --replace --force",
    "start gui --replace -f --timeout 1m30s",
    "start backup -- rsync -a /data --delete -- /mnt",
    "start --detach backup --json -- sh -c true",
    "--config /etc/safe.toml start headless",
    "start headless --config=/etc/safe.toml",
    "stop",
    "stop headless gui --force --timeout 2.5",
    "stop -f --now --json",
    "restart headless --now -f",
    "status",
    "status headless --json",
    "--no-color status -w --interval 500ms",
    "status --watch --interval=1s a b c",
    "kill-all --force --now --timeout 3s",
    "logs",
    "logs -f headless -n 5",
    "logs --lines=0 --follow",
    "logs --path headless --no-color",
    "exec -- true",
    "exec --timeout 5 --help sleep 9",
    "--no-color exec ls --no-color --config",
]

# Lines that the small parser may leave to click.
REST = [
    "logs -fn5",
    "logs -n5 a",
    "status -wf",
    "status -- -odd",
    "status -",
    "start a --timeout -1",
    "start a --",
    "start -- ls",
    "start a b -- ls",
    "--config a status --config b",
    "--config a --no-color status --config=",
    "kill-all extra",
    "stop --timeout",
    "stop --timeout --now",
    "stop --now=1",
    "stop --tim 5",
    "status --interval ''",
    "stat",
    "",
    "--",
    "-- status",
]


@pytest.fixture(autouse=True)
def _plain_again() -> Iterator[None]:
    """--no-color holds for a process; here it shall hold for a test."""
    yield
    render.set_plain(False)


def by_click(argv: list[str]) -> Parsed | str:
    try:
        result = clickapp.parse(argv)
    except UsageError as error:
        return str(error)
    assert isinstance(result, Parsed)
    return result


@pytest.mark.parametrize("line", EVERYDAY)
def test_an_everyday_line_is_read_without_click_and_click_reads_it_alike(line: str) -> None:
    argv = line.split()
    quick = parse(argv)
    assert quick is not None
    assert quick == by_click(argv)


@pytest.mark.parametrize("line", REST)
def test_what_the_small_parser_does_read_click_reads_alike(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [word.strip("'") for word in line.split()]
    quick = parse(argv)
    if quick is not None:
        assert quick == by_click(argv)


def test_random_lines_are_read_alike_by_both_parsers() -> None:
    """The property: whenever the small parser answers, click gives the same answer."""
    source = random.Random(20240)
    flags = sorted({flag for verb in VERBS.values() for one in (*verb.options, *GLOBAL_OPTIONS) for flag in one.flags})
    words = [*VERBS, *flags, *flags, "5", "1.5s", "2m", "x", "a", "b c", "-", "--", "", "-1", "--timeout=3", "-n", "ä"]
    read = 0
    for _round in range(1200):
        argv = [source.choice(words) for _ in range(source.randrange(6))]
        if source.random() < 0.8:
            argv.insert(source.randrange(2) if argv else 0, source.choice(list(VERBS)))
        quick = parse(argv)
        if quick is None:
            continue
        read += 1
        assert quick == by_click(argv), argv
    assert read > 100  # else the test proves nothing


def test_every_verb_answers_with_all_its_arguments_also_when_none_is_given() -> None:
    for verb in VERBS.values():
        line = parse([verb.name])
        assert line is not None
        assert line.args == grammar.defaults(verb)


def test_no_two_lines_share_a_default_list() -> None:
    first = parse(["stop"])
    assert first is not None
    first.args["targets"].append("x")
    second = parse(["stop"])
    assert second is not None
    assert second.args["targets"] == []


def test_exec_gets_its_words_untouched() -> None:
    words = ["--help", "--config", "--no-color", "--", "-x", "", "start"]
    line = parse(["exec", *words])
    assert line is not None
    assert line.args["argv"] == words


def test_a_command_after_two_dashes_is_kept_whole() -> None:
    line = parse(["start", "job", "--", "--detach", "--", "x"])
    assert line is not None
    assert line.args["command"] == ["--detach", "--", "x"]
    assert line.args["detach"] is False


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("statsu", "there is no command 'statsu'", "safesh status"),
        ("stat", "there is no command 'stat'", "safesh status"),
        ("zzz", "there is no command 'zzz'", "start, stop, restart"),
        ("stop --tmeout 3", "stop: there is no option --tmeout", "--timeout"),
        ("stop --timeout x", "'x' is no duration", "safesh stop --help"),
        ("stop --timeout", "requires an argument", "safesh stop --help"),
        ("logs -n many", "'many' is no whole number", "safesh logs --help"),
        ("start a --", "no command after --", "safesh start --help"),
        ("start -- ls", "needs a name", "safesh start --help"),
        ("start --detach -- ls", "needs a name", "safesh start --help"),
        ("start --timeout 5 -- ls", "needs a name", "safesh start --help"),
        ("kill-all headless", "unexpected extra argument", "safesh kill-all --help"),
        ("--confg x status", "there is no option --confg", "--config"),
        ("status --json=1", "does not take a value", "safesh status --help"),
    ],
)
def test_a_wrong_line_is_told_with_exit_2_and_the_next_step(line: str, message: str, hint: str) -> None:
    assert parse(line.split()) is None
    with pytest.raises(UsageError) as caught:
        clickapp.parse(line.split())
    assert caught.value.exit_code == 2
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("line", [[name, "--help"] for name in VERBS if name != "exec"] + [["--help"]])
def test_help_shows_a_page_with_examples(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert clickapp.parse(line) == 0
    page = capsys.readouterr().out
    assert all(heading in page for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"))
    assert "\x1b" not in page


def test_help_names_every_option_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS.values():
        if verb.raw:
            continue
        clickapp.parse([verb.name, "--help"])
        page = capsys.readouterr().out
        for option in (*verb.options, *GLOBAL_OPTIONS):
            assert all(flag in page for flag in option.flags)


def test_every_example_of_the_table_is_a_line_the_small_parser_reads() -> None:
    for verb in VERBS.values():
        assert verb.examples
        for line, _text in verb.examples:
            assert parse(line.split()) is not None, line


def test_no_verb_alone_shows_help_on_stderr_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert clickapp.parse([]) == 2
    assert "COMMANDS" in capsys.readouterr().err


def test_the_small_parser_imports_next_to_nothing() -> None:
    """The lean rooms' rule (docs/architecture.md), held against what is really loaded."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "from safesh.cli import main, grammar; assert grammar.parse(['status', '--interval', '1s'])\n"
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", "-c", code, str(SOURCE)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    heavy = {"click", "typing", "json", "re", "enum", "signal", "subprocess", "dataclasses", "functools", "contextlib"}
    assert not loaded & heavy
