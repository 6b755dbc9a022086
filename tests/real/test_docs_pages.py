"""The pages hold together: each block is of a kind that is run or checked, each link leads somewhere, each command that
is named exists, and from README.md one comes to every page."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers.home import ROOT, Home
from helpers.pages import (
    DOCS,
    FILES,
    KINDS,
    LONG,
    NOTES,
    README,
    RUN,
    TEXT,
    Block,
    anchors,
    answers,
    blocks,
    commands,
    goals,
    inline,
    links,
    name_of,
    pages,
    prose,
    transcript,
)

each_page = pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem.lower())


# --- blocks ----------------------------------------------------------------------------------------


@each_page
def test_every_block_is_of_a_kind_that_is_run_or_checked(page: Path) -> None:
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.M)
    assert len(fences) == 2 * len(blocks(page)), "a fence without its end"
    for block in blocks(page):
        assert block.language in KINDS, f"{block}: one of {', '.join(KINDS)}"
        for note in block.notes:
            assert note.startswith(NOTES), f"{block}: {note}"
        if why := block.note("not run: "):
            assert len(why) > 10, block
        elif block.language in RUN and block.note("file: ") is None:
            assert not LONG.search(block.text), f"{block}: of those a test runs none: say `not run: WHY`"
        elif block.language in ("makefile", "procfile", "ini", "systemd"):
            assert block.note("file: "), f"{block}: nothing reads it"
        elif block.language == TEXT:
            assert not commands(block.text), f"{block}: this would not be run"
            assert not re.search(r"^\s*(\$|make|pip|git) ", block.text, re.M), f"{block}: this would not be run"


@each_page
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    for line in prose(page).splitlines():
        if re.match(r"( {4}|\t)", line):
            assert not commands(line), f"{page.name}: {line.strip()}: in a fence it would be run"


DATA = [one for page in pages() for one in blocks(page, "toml", "json", "yaml") if one.note("not run: ") is None]


@pytest.mark.parametrize("block", [pytest.param(one, id=name_of(one)) for one in DATA])
def test_a_block_of_data_is_what_the_program_reads(home: Home, block: Block) -> None:
    raw = parsed(block)
    name = block.note("file: ") or ""
    if isinstance(raw, dict) and "steps" in raw:
        from safesh.plan.load import load_plan

        file = home.project / f"plan.{block.language}"
        file.write_text(block.text, encoding="utf-8")
        assert load_plan(str(file)).steps
    elif block.language == "toml":
        from safesh import config

        assert name in ("", "safe.toml"), block
        loaded = config.load(str(home.write_config(completed(block.text, raw))))
        assert loaded.targets.keys() >= raw.get("targets", {}).keys()


def parsed(block: Block) -> Any:
    if block.language == "toml":
        return tomllib.loads(block.text)
    if block.language == "json":
        return json.loads(block.text)
    import yaml

    return yaml.safe_load(block.text)


def completed(text: str, raw: dict[str, Any]) -> str:
    """An excerpt as a whole file: every target has a command, every dependency is a target."""
    targets = raw.get("targets", {})
    needed = {name for target in targets.values() for name in target.get("depends_on", [])} - targets.keys()
    lines = [f"[targets.{name}]\ncommand = 'true'\n" for name in sorted(needed) or ([] if targets else ["one"])]
    for name, target in targets.items():
        if "command" in target:
            continue
        table = re.search(rf"^\[targets\.{re.escape(name)}\]\n", text, re.M)
        if table:
            text = f"{text[: table.end()]}command = 'true'\n{text[table.end() :]}"
        else:
            lines.append(f"[targets.{name}]\ncommand = 'true'\n")
    # Tables of the excerpt's own last: its bare keys, such as `project`, come before every table.
    head = re.match(r"((?!\[).*\n)*", text)
    assert head
    return head[0] + "".join(lines) + text[head.end() :]


def test_makefiles_of_the_pages_name_goals_that_make_understands(home: Home) -> None:
    for page in pages():
        for block in blocks(page, "makefile"):
            file = home.project / "Makefile"
            file.write_text(block.text)
            for goal in re.findall(r"^(\w+):", block.text, re.M):
                subprocess.run(["make", "-n", "-f", str(file), goal], check=True, capture_output=True, timeout=30)


def test_a_transcript_is_compared_line_by_line_but_for_numbers_and_dots() -> None:
    said = "web runs (pid 812), log /x/web.log\n\n PID  AGE  CPU  MEMORY  S  COMMAND\n 812  0s  2%  3 MiB  R  true\n"
    table = ["  PID   AGE   CPU    MEMORY  S  COMMAND", "    7  2m 3s  0%  12 KiB  S  true"]
    assert answers(["web runs (pid 4711), log ...", *table], said)
    assert answers(["web runs (pid 4711), log ...", "..."], said)
    assert answers(["...", table[-1]], said)
    assert not answers(["web runs (pid 4711), log ..."], said), "two lines more"
    assert not answers(["web stops (pid 4711), log ...", "..."], said)
    assert not answers(["web runs (pid 4711), log ...", *table, "total"], said)
    assert not answers([], said)
    assert transcript("$ a\nb\n$ c \\\n> d\n") == [("a", ["b"]), ("c \\\nd", [])]


def test_commands_are_found_in_any_text_and_judged_by_the_grammar() -> None:
    text = (
        "x; ./bin/safe.sh stop web --force | cat\n`/opt/y/bin/safe.sh exec --timeout 5 -- true` and safe-health.sh web"
    )
    assert commands(text) == [["stop", "web", "--force"], ["exec", "--timeout", "5", "--", "true"], ["health", "web"]]
    assert wrong(["stop", "web", "--force"]) == wrong(["help", "start"]) == ""
    assert wrong(["stop", "--fast"]) == "no option --fast"
    assert wrong(["stopp"]) == "no such command"
    assert "--tiemout" in wrong(["exec", "--tiemout", "5", "--", "true"])


# --- commands that are named -----------------------------------------------------------------------


@each_page
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    # A transcript is run; it may show what a mistake is answered with.
    texts = [*inline(page), *(block.text for block in blocks(page) if block.language not in (*FILES, "console"))]
    for text in texts:
        for words in commands(text):
            assert (why := wrong(words)) == "", f"{page.name}: safe.sh {' '.join(words)}: {why}"


@each_page
def test_every_goal_of_make_that_is_named_exists(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(page, "makefile"):
        known |= set(re.findall(r"^(\w+):", block.text, re.M))
    for text in [*inline(page), *(block.text for block in blocks(page, "sh"))]:
        assert set(goals(text)) <= known, f"{page.name}: {text}"


def wrong(words: list[str]) -> str:
    """What the command line's grammar has against them; words that stand for others (FILE, T) pass."""
    from safesh.cli import exec as init
    from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, parse
    from safesh.errors import SafeshError

    verb = next((word for word in words if not word.startswith("-")), "")
    if verb == "help" or not verb:
        return "" if all(word in VERBS or word in ("help", "--help", "--version", "-h") for word in words) else "what?"
    if verb not in VERBS:
        return "no such command"
    if VERBS[verb].raw:
        try:
            init.parse(words[1:] or ["true"])
        except SafeshError as error:
            return str(error) if "no command given" not in str(error) else ""
        return ""
    if parse(words) is not None:
        return ""
    known = {flag for option in (*GLOBAL_OPTIONS, *VERBS[verb].options) for flag in option.flags} | {"--help", "-h"}
    before = words[: words.index("--")] if "--" in words else words
    given = [word.partition("=")[0] if word.startswith("--") else word[:2] for word in before if word.startswith("-")]
    unknown = [word for word in given if word not in known]
    return f"no option {unknown[0]}" if unknown else ""


def test_the_readmes_table_has_every_command_and_none_else() -> None:
    from safesh.cli.grammar import VERBS

    rows = re.findall(r"^\| `([a-z-]+)([^`]*)` \|", prose(README), re.M)
    assert {verb for verb, _ in rows} == VERBS.keys() - {"help"}
    for verb, rest in rows:
        assert wrong([verb, *rest.replace("…", "").split()]) == "", verb + rest


# --- links -----------------------------------------------------------------------------------------


@each_page
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for written, target, anchor in links(page):
        assert target.is_relative_to(ROOT), f"{page.name}: {written} leads out of the repository"
        assert target.exists(), f"{page.name}: {written}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {written}: {', '.join(sorted(anchors(target)))}"


def test_every_page_and_picture_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [README]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            if page.suffix == ".md":
                ahead += [target for _, target, _ in links(page) if target.is_file()]
    assert {*pages()} <= reached, sorted(one.name for one in {*pages()} - reached)
    # Of a picture's two shades one is enough.
    shown = {re.sub("-(dark|light)$", "", one.stem) for one in reached if one.parent.name == "images"}
    assert {re.sub("-(dark|light)$", "", one.stem) for one in (DOCS / "images").iterdir()} <= shown


@pytest.mark.parametrize("picture", sorted((DOCS / "images").glob("*.svg")), ids=lambda file: file.name)
def test_a_picture_of_the_terminal_is_small_and_has_no_script(picture: Path) -> None:
    from xml.etree import ElementTree

    text = picture.read_text(encoding="utf-8")
    assert len(text.encode()) < 200 << 10
    names = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert names <= {"svg", "title", "style", "rect", "circle", "text", "g", "animate"}
    assert not re.search(r"/(root|home|tmp|work|Users)/|https?://(?!www\.w3\.org|127\.0\.0\.1)", text)
