"""What a mission is made of is checked as it is made, and each problem names its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesh.mission import inline, installer
from safesh.mission.errors import CodeError, InvalidMission
from safesh.mission.model import Mission
from safesh.mission.result import MissionResult
from safesh.mission.runner import TaskRunner
from safesh.process.secure_env import SecureEnv

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mission_id": "a/b"}, "mission_id"),
    ({"mission_id": ""}, "mission_id"),
    ({"mission_id": ".hidden"}, "mission_id"),
    ({"mission_id": 5}, "mission_id"),
    ({"code": ""}, "code"),
    ({"code": b"print()"}, "code"),
    ({"code": "a = '\0'"}, "code"),
    ({"code": "a = '\ud800'"}, "code"),
    ({"requirements": "requests"}, "requirements"),
    ({"requirements": ["ok", 5]}, "requirements[1]"),
    ({"requirements": ["ok", ""]}, "requirements[1]"),
    ({"requirements": ["--index-url http://x"]}, "requirements[0]"),
    ({"requirements": ["a\nb"]}, "requirements[0]"),
    ({"requirements": ["requests>>2"]}, "requirements[0]"),
    ({"browser_interaction": 1}, "browser_interaction"),
    ({"keep_alive": "yes"}, "keep_alive"),
    ({"timeout": "soon"}, "timeout"),
    ({"timeout": -1}, "timeout"),
    ({"limits": {"memori": 5}}, "limits['memori']"),
    ({"env": {"A": 5}}, "env['A']"),
    ({"cwd": ""}, "cwd"),
    ({"args": "x"}, "args"),
    ({"args": [1]}, "args[0]"),
    ({"mission_type": None}, "mission_type"),
]


@pytest.mark.parametrize(("wrong", "place"), WRONG, ids=[f"{place} {n}" for n, (_wrong, place) in enumerate(WRONG)])
def test_an_argument_that_could_never_work_is_named(wrong: dict[str, Any], place: str) -> None:
    if place.startswith("requirements[0]") and ">>" in str(wrong):
        pytest.importorskip("packaging")
    with pytest.raises(InvalidMission) as caught:
        Mission(**{"mission_id": "m", "code": "pass", **wrong})
    assert caught.value.place == place
    assert caught.value.exit_code == 2


def test_code_that_is_no_python_is_told_with_its_line_and_its_text() -> None:
    mission = Mission("m", "x = 1\nif x\n    pass\n")
    with pytest.raises(CodeError, match=r"line 2: SyntaxError: expected ':': if x") as caught:
        mission.check_code()
    assert caught.value.line == 2


def test_a_warning_about_the_code_is_the_missions_own_affair() -> None:
    Mission("m", "x = 1 is 1\ny = '\\d'\n").check_code()


def test_the_code_is_written_in_the_encoding_that_it_names() -> None:
    assert Mission("m", "# coding: latin-1\nx = 'é'\n").source() == "# coding: latin-1\nx = 'é'\n".encode("latin-1")
    assert Mission("m", "x = 'é'\n").source() == "x = 'é'\n".encode()


def test_a_repr_shows_neither_code_nor_environment() -> None:
    text = repr(Mission("m", "key = 'swordfish'", ["a>=1"], keep_alive=True, env={"TOKEN": "swordfish"}))
    assert "swordfish" not in text
    assert "a>=1" in text
    assert "keep_alive" in text


# --- files ------------------------------------------------------------------------------------


def script(folder: Path, text: str) -> str:
    path = folder / "fit it.py"
    path.write_text(text)
    return str(path)


def test_a_files_own_requirements_come_before_those_of_the_caller(tmp_path: Path) -> None:
    text = '# /// script\n# requires-python = ">=3.8"\n# dependencies = [\n#   "b>=1",\n# ]\n# ///\nimport b\n'
    mission = inline.from_file(script(tmp_path, text), requirements=["c"], timeout="2m")
    assert mission.requirements == ("b>=1", "c")
    assert mission.mission_id == "fit-it"
    assert mission.timeout == 120
    assert mission.file == str(tmp_path / "fit it.py")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# /// script\n# dependencies = [\n# ///\n", "no TOML"),
        ("# /// script\n# dependencies = 'x'\n# ///\n", "a list of strings"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# a = 1\n# ///\n", "a second block"),
        ("# /// script\n# requires-python = '>=9'\n# ///\n", "wants Python >=9"),
        ("# /// script\n# requires-python = 'x'\n# ///\n", "is no version"),
    ],
)
def test_a_block_that_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    pytest.importorskip("packaging")
    with pytest.raises(InvalidMission, match=said) as caught:
        inline.from_file(script(tmp_path, text))
    assert "line" in caught.value.place


def test_a_requirements_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "needs.txt"
    path.write_text("# what we need\na>=1  # why\n\nb @ https://x/y#egg=b\n")
    assert inline.read_requirements(str(path)) == ["a>=1", "b @ https://x/y#egg=b"]
    path.write_text("a\n-r other.txt\n")
    with pytest.raises(InvalidMission, match=r"-r other.txt") as caught:
        inline.read_requirements(str(path))
    assert caught.value.place == f"{path}:2"


@pytest.mark.parametrize("name", ["missing.py", "."])
def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidMission, match="cannot be read"):
        inline.from_file(str(tmp_path / name))


# --- the rest ---------------------------------------------------------------------------------


def test_a_runner_checks_its_own_arguments() -> None:
    with pytest.raises(InvalidMission) as caught:
        TaskRunner("")
    assert caught.value.place == "device_id"
    with pytest.raises(InvalidMission) as caught:
        TaskRunner("d", queue=-1)
    assert caught.value.place == "queue"
    with pytest.raises(InvalidMission, match="expected a Mission, not str"):
        TaskRunner("d").execute_mission("print(1)")  # type: ignore[arg-type]


def test_a_result_is_plain_data_for_json() -> None:
    result = MissionResult("m", "s", "d")
    result.fail(CodeError("SyntaxError: x", place="m", hint="correct it"))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["error_type"] == "CodeError"
    assert data["reason"] == "m: SyntaxError: x"
    assert data["usage"]["cpu_seconds"] is None
    assert "CodeError" in repr(result)


def test_an_installers_words_are_told_in_one_line() -> None:
    pip = "WARNING: Retrying\nERROR: Could not find x\nERROR: No matching distribution found for x\n"
    assert installer.summarize(pip) == "Could not find x No matching distribution found for x"
    uv = "  \N{MULTIPLICATION SIGN} No solution found:\n  ╰─▶ Because x was not found, all is lost.\nhint: no\n"
    assert installer.summarize(uv) == "No solution found: Because x was not found, all is lost."
    assert len(installer.summarize("ERROR: " + "y" * 10_000)) <= 400


def test_a_secure_environment_is_taken_as_it_is() -> None:
    env = SecureEnv(values={"TOKEN": "swordfish"}, secrets=["TOKEN"])
    assert Mission("m", "pass", env=env).env is env
