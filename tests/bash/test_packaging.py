"""What is installed, and what the Makefile offers."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.checkout import BASE_PYTHON, REPOSITORY


def setup_cfg() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def test_supervisor_is_a_source_root_and_no_package() -> None:
    assert not (REPOSITORY / "supervisor" / "__init__.py").exists()  # it would shadow PyPI's Supervisor


def test_the_wheel_holds_safesh_and_only_safesh(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(
        REPOSITORY / "supervisor", source / "supervisor", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("safesh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        points = archive.read(entry_points).decode()
    modules = {str(path.relative_to(REPOSITORY / "supervisor")) for path in (REPOSITORY / "supervisor").rglob("*.py")}
    assert modules <= names
    assert "safesh/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"safesh"}
    assert "safesh = safesh.cli.main:entry" in points


def test_bootstrap_and_setup_cfg_agree_on_the_oldest_python() -> None:
    needed = setup_cfg().get("options", "python_requires")
    assert needed == ">=3.11"
    script = (REPOSITORY / "scripts" / "bootstrap.sh").read_text()
    assert "minor >= 11" in script
    assert "needs Python 3.11 or newer" in script


def test_every_goal_of_the_makefile_is_in_its_help() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    phony = {goal for line in re.findall(r"^\.PHONY:(.*)", text, re.MULTILINE) for goal in line.split()}
    done = subprocess.run(["make", "-C", str(REPOSITORY)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    told = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert told == phony
    wanted = {"help", "start", "stop", "restart", "status", "logs", "kill-all", "test", "lint", "fix", "bench", "clean"}
    assert wanted | {"install"} <= told


# --- libraries without site ------------------------------------------------------------------------------------

ADD = "from safesh.cli.vendor import add_site_packages as add; add(); add(); import sys; "


def run_without_site(code: str, python: str = BASE_PYTHON, *extra: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY / "supervisor"), *extra])
    return subprocess.run(
        [python, "-s", "-S", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=30
    )


def make_environment(folder: Path) -> tuple[str, Path]:
    """An environment with a click in it that is only a name."""
    subprocess.run([BASE_PYTHON, "-I", "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "click").mkdir()
    (packages / "click" / "__init__.py").write_text("here = True\n")
    return str(folder / "bin" / "python"), packages


def test_the_environments_libraries_are_found_without_site_and_added_once(tmp_path: Path) -> None:
    python, packages = make_environment(tmp_path / "an env")
    done = run_without_site(ADD + "import click; print(click.here, sys.path.count(click.__path__[0][:-6]))", python)
    assert done.stdout == "True 1\n", done.stderr
    done = run_without_site(ADD + "print('site' in sys.modules, sys.path[-1])", python)
    assert done.stdout == f"False {packages}\n", done.stderr


def test_libraries_that_are_importable_already_change_nothing(tmp_path: Path) -> None:
    _, packages = make_environment(tmp_path / "env")
    code = "import sys; before = list(sys.path); " + ADD + "print(sys.path == before)"
    done = run_without_site(code, BASE_PYTHON, str(packages))
    assert done.stdout == "True\n", done.stderr


def test_missing_libraries_are_one_clear_error(tmp_path: Path) -> None:
    python, packages = make_environment(tmp_path / "env")
    shutil.rmtree(packages / "click")
    code = "from safesh.cli.vendor import *\ntry: add_site_packages()\nexcept LibraryMissing as e: print(e, e.hint)"
    done = run_without_site(code, python)
    assert f"{python}: the libraries that safesh needs" in done.stdout, done.stderr
    assert "bin/safe.sh" in done.stdout


@pytest.mark.parametrize(
    "name", ["bin/safe.sh", "scripts/bootstrap.sh", "scripts/test.sh", "scripts/lint.sh", ".ci/run"]
)
def test_scripts_are_executable_and_speak_bash_3(name: str) -> None:
    file = REPOSITORY / name
    assert os.access(file, os.X_OK)
    text = file.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    for modern in ("mapfile", "readarray", "declare -A", "${!", "@Q}", "readlink -f", "|&", "&>>", ",,}", "^^}"):
        assert modern not in text
