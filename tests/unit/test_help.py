"""Every command has a page: whole, true to the table, wrapped to the window, plain through a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
from collections.abc import Iterator

import pytest

from helpers.home import CLI, ROOT, Home, Safe
from safesh.cli import exec as execution
from safesh.cli import grammar, manual, pages, render
from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, Verb
from safesh.errors import UsageError

SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES", "SEE ALSO")
EVERY = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    render.set_plain(True)
    yield
    render.set_plain(False)


def flat(page: str) -> str:
    """A page without its line breaks and columns."""
    return " ".join(page.split())


def headings(page: str) -> list[str]:
    return [line for line in page.splitlines() if line and not line.startswith(" ")]


# --- what a page says -----------------------------------------------------------------------------


@EVERY
def test_a_page_has_its_sections_in_order(verb: Verb) -> None:
    found = headings(manual.page(verb, 80))
    assert [title for title in found if title in SECTIONS] == list(SECTIONS)
    assert len(found) == len(set(found))


@EVERY
def test_a_page_names_every_option_with_its_meaning(verb: Verb) -> None:
    page = flat(manual.page(verb, 80))
    assert "-h, --help" in page
    if verb.raw:
        for name in (*execution._FLAGS, *execution._VALUES):
            assert re.search(rf"{name}[ ,]", page)
        return
    for option in (*verb.options, *GLOBAL_OPTIONS):
        assert f"{', '.join(sorted(option.flags, key=len))} {option.metavar}".strip() in page
        assert option.text in page


@EVERY
def test_a_page_tells_every_exit_status(verb: Verb) -> None:
    page = flat(manual.page(verb, 80).partition("EXIT STATUS")[2].partition("EXAMPLES")[0])
    codes = verb.codes or pages.exec_codes()
    assert codes
    for code, meaning in codes:
        assert f"{code} {meaning}".strip() in page


@EVERY
def test_every_example_is_a_line_that_is_understood(verb: Verb) -> None:
    assert verb.examples
    page = flat(manual.page(verb, 80))
    for line, meaning in verb.examples:
        words = shlex.split(line)
        assert words[0] == verb.name
        assert grammar.parse(words) is not None, line
        assert f"{render.program()} {line} {meaning}" in page
        if verb.raw:
            options, _wanted = execution.parse(words[1:])
            assert options.command


def test_the_overviews_examples_are_understood_too() -> None:
    for line, _meaning in pages.FIRST_STEPS:
        assert grammar.parse(shlex.split(line)) is not None, line


def test_the_overview_names_every_command() -> None:
    page = flat(manual.overview(80))
    for verb in VERBS.values():
        assert f"{verb.name} {verb.summary}" in page


def test_what_is_said_of_surroundings_is_about_commands_that_there_are() -> None:
    planned = {"init", "health"}  # commands of the same release, in whatever order they come
    for table in (pages.ABOUT, pages._VARIABLES_OF, pages._FILES_OF, pages._ALSO, pages._ELSEWHERE):
        assert set(table) - planned - {""} <= set(VERBS)
    for verb in VERBS:
        assert all(meaning for _name, meaning in (*pages.environment(verb), *pages.files(verb)))
        for other in re.findall(r"safesh ([a-z-]+)", pages.see_also(verb)):
            assert other in VERBS
            assert other != verb


def test_the_variables_told_of_are_read_somewhere() -> None:
    files = [*ROOT.glob("supervisor/safesh/**/*.py"), *ROOT.glob("bin/*")]
    sources = "".join(file.read_text() for file in files if file.name != "pages.py")
    for name in pages._VARIABLES:
        assert name in sources


# --- how it looks ---------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("width", [40, 80, 100])
def test_lines_end_within_the_window(verb: Verb, width: int) -> None:
    for line in manual.page(verb, width).splitlines():
        # What is copied from here stands whole: an example, or a single word. Nothing else may be too long.
        whole = line.startswith(f"    {render.program()} ") or " " not in line.strip()
        assert len(line) <= width or whole, line
        assert line == line.rstrip()


@EVERY
def test_a_page_is_no_longer_than_two_screens(verb: Verb) -> None:
    assert len(manual.page(verb, 80).splitlines()) <= 80


def test_no_window_is_so_wide_that_lines_cannot_be_read() -> None:
    assert max(map(len, manual.page(VERBS["start"], 400).splitlines())) <= 100


@pytest.mark.parametrize("words", [["help"], ["--help"], ["help", "stop"], ["stop", "--help"], ["stop", "-h"]])
def test_through_a_pipe_it_is_plain_and_80_columns_wide(home: Home, safe: Safe, words: list[str]) -> None:
    done = safe(*words, env={"TERM": "xterm-256color", "COLUMNS": "200"}).check(0)
    assert "\x1b" not in done.out
    assert done.err == ""
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "help"])
def test_help_verb_and_verb_help_are_one_page(home: Home, safe: Safe, verb: str) -> None:
    asked = safe("help", verb).check(0)
    assert asked.out == safe(verb, "--help").check(0).out
    assert asked.out.startswith("NAME\n")


def test_help_alone_is_the_overview(home: Home, safe: Safe) -> None:
    assert safe("help").check(0).out.strip() == safe("--help").check(0).out.strip()


def test_help_needs_no_library(home: Home) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from safesh.cli.main import main\n"
        "status = main(['help', 'stop']); assert 'click' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([*CLI[:-1], "-c", code, os.path.dirname(os.path.dirname(CLI[-1]))],
                          capture_output=True, text=True, timeout=30, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "EXIT STATUS" in done.stdout


def test_on_a_terminal_headings_stand_out_and_the_lines_fit(home: Home) -> None:
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        env = {**os.environ, "TERM": "xterm"}
        env.pop("NO_COLOR", None)
        child = subprocess.Popen([*CLI, "help", "help"], stdout=theirs, stdin=subprocess.DEVNULL, env=env)
        os.close(theirs)
        theirs = -1
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # EIO: the other side is closed
            pass
        assert child.wait(timeout=20) == 0
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    text = shown.decode().replace("\r", "")
    assert "\x1b[1mSYNOPSIS\x1b[0m" in text
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 60


def test_an_unknown_command_is_told_with_the_closest_one(home: Home, safe: Safe) -> None:
    done = safe("help", "stpo").check(2)
    assert "there is no command 'stpo'" in done.err
    assert "stop" in done.err
    with pytest.raises(UsageError):
        raise manual.unknown_verb("zzz")
