"""Every example that is Python, on any page, is run as it stands, and docs/python-api.md says all there is to say of
the public surface.

A block runs in a Python of its own, in an empty folder with an empty HOME. It must end well, say nothing on stderr,
print exactly what its ``# →`` comments show (``...`` stands for anything), and leave no process.
"""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import safesh
from helpers import procs
from helpers.home import ROOT, SUPERVISOR, Home
from helpers.pages import blocks, name_of, pages

PAGE = ROOT / "docs" / "python-api.md"
_SHOWN = re.compile(r"# → (.*)$", re.M)


def examples(file: Path) -> list[object]:
    """The Python blocks of a page as parameters, each named by its section. A file of the page's project is none."""
    return [
        pytest.param(file, one.line, one.text, id=name_of(one))
        for one in blocks(file, "python")
        if one.note("not run: ") is None and one.note("file: ") is None
    ]


EXAMPLES = [one for page in pages() for one in examples(page)]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("file", "line", "code"), EXAMPLES)
def test_an_example_of_the_documentation_prints_what_it_shows(home: Home, file: Path, line: int, code: str) -> None:
    script = home.project / "example.py"
    script.write_text("\n" * (line - 1) + code, encoding="utf-8")  # a traceback then tells the page's line
    env = {**os.environ, "PYTHONPATH": str(SUPERVISOR), "PYTHONIOENCODING": "utf-8"}
    with procs.Spawn(sys.executable, "-W", "error", str(script), env=env, stdin=subprocess.DEVNULL) as child:
        rc = child.wait(60)
        child.wait_output(10)
        said = f"{file.name}:{line}\n--- stdout\n{child.out}--- stderr\n{child.err}"
        assert (rc, child.err) == (0, ""), said
        shown, printed = _SHOWN.findall(code), child.out.splitlines()
        assert len(shown) == len(printed), said
        for expected, line_said in zip(shown, printed, strict=True):
            pattern = "*".join(map(_literally, expected.rstrip().split("...")))
            assert fnmatch.fnmatchcase(line_said.rstrip(), pattern), said
        procs.wait_until(lambda: not child.members(), 5, f"nobody of {file.name}:{line} is left")


def _literally(text: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", text)


def test_every_example_proves_something() -> None:
    assert len(EXAMPLES) > 15
    for one in EXAMPLES:
        code = one.values[2]  # type: ignore[attr-defined]
        assert "# → " in code or "assert " in code, code


# --- the page is complete -------------------------------------------------------------------------


def own(home: str) -> bool:
    """Whether the names of this home are the page's; other rooms have pages of their own."""
    return home in ("errors", "model") or home.startswith("process.")


NAMES = sorted(name for home, names in safesh._HOMES.items() if own(home) for name in names.split())


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``."""
    match = re.search(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page(), re.M)
    assert match, f"no table of {first}"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in match[1].splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_stands_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", page())


def test_the_table_of_arguments_is_that_of_the_signature_with_its_defaults() -> None:
    parameters = inspect.signature(safesh.execute_command).parameters.values()
    actual = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    told = {row[0].strip("`"): row[1].strip("`").strip('"') for row in table("argument")}
    assert list(told) == list(actual)
    for name, default in actual.items():
        expected = f"{default >> 20} MiB" if name == "max_output" else str(default)
        assert told[name] == expected, name


@pytest.fixture(scope="module")
def finished() -> safesh.ExecutionResult:
    """Of the module: the first call opens /dev/null for all that come after it."""
    return safesh.execute_command("true")


def test_the_table_of_result_fields_names_all_of_them(finished: safesh.ExecutionResult) -> None:
    public = {name for name in {*vars(finished), *dir(type(finished))} if not name.startswith("_")}
    told = {word for row in table("field") for word in re.findall(r"`(\w+)`", row[0])}
    assert told == public - {"wait", "check", "to_dict", "apart"}


def test_the_table_of_modes_names_all_of_them() -> None:
    told = [row[0].strip("`") for row in table("`ExecutionMode`")]
    assert told == [mode.name for mode in safesh.ExecutionMode]


def test_every_error_of_the_surface_stands_in_the_table_of_errors() -> None:
    told = {re.findall(r"`(\w+)`", row[0])[0] for row in table("error")}
    errors = {name for name in NAMES if inspect.isclass(kind := getattr(safesh, name)) and issubclass(kind, Exception)}
    assert errors - told == {"SafeshError"}
    assert told <= errors


def signatures() -> list[object]:
    """Functions that the page writes with their parameters."""
    return [
        pytest.param(name, inside, id=name)
        for name, inside in re.findall(r"^[-|] `(\w+)\(([^`]*)\)`", page(), re.M)
        if name in NAMES
    ]


@pytest.mark.parametrize(("name", "inside"), signatures())
def test_a_signature_on_the_page_names_the_real_parameters(name: str, inside: str) -> None:
    """Those that it names come in this order, and a default that it gives is the real one."""
    parameters = inspect.signature(getattr(safesh, name)).parameters
    words = [word.partition("=") for word in inside.split(", ") if word]
    told = [word for word, _, _ in words if word != "*"]
    assert told == list(parameters)
    for word, _, default in words:
        if default:
            assert repr(parameters[word].default) == default.replace('"', "'")
