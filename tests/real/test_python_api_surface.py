"""The public surface of ``safesh``: lazy for the command line, whole for people, typed for checkers."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import safesh
from helpers.home import SUPERVISOR

NAMES = sorted(" ".join(safesh._HOMES.values()).split())


def python(code: str) -> str:
    """What a Python of its own prints; site-packages are there, as for a user's program."""
    env = {**os.environ, "PYTHONPATH": str(SUPERVISOR)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def test_importing_safesh_loads_nothing_else_of_it() -> None:
    loaded = "import sys; before = set(sys.modules); import safesh; print(*sorted(set(sys.modules) - before))"
    assert python(loaded) == "safesh"


def test_a_name_loads_no_more_than_its_home_needs() -> None:
    """Errors for an ``except`` clause bring neither the loop nor asyncio, and a plain call no asyncio either."""
    told = "import sys; print(*sorted(name for name in sys.modules if name.split('.')[0] in ('safesh', 'asyncio')))"
    assert python(f"from safesh import SafeshError, Limits; {told}") == "safesh safesh.errors safesh.model"
    assert "asyncio" not in python(f"from safesh import execute_command; execute_command('true').check(); {told}")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_resolves_to_something_of_that_name_with_a_docstring(name: str) -> None:
    found = getattr(safesh, name)
    assert found.__name__ == name
    assert found.__module__.startswith("safesh.")
    own = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert own, f"{name} has no docstring of its own"
    assert name in dir(safesh)


def test_a_name_that_there_is_none_of_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'safesh' has no attribute 'run_command'"):
        _ = safesh.run_command  # type: ignore[attr-defined]


def test_checkers_see_the_names_that_there_are_at_the_homes_where_they_are() -> None:
    tree = ast.parse((SUPERVISOR / "safesh" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen: dict[str, set[str]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module
        for alias in node.names:
            assert alias.asname == alias.name, "an alias of the same name is what mypy --strict takes for an export"
            seen.setdefault(node.module.removeprefix("safesh."), set()).add(alias.name)
    assert seen == {home: set(names.split()) for home, names in safesh._HOMES.items()}


# --- type checkers, in a program that has safesh installed -----------------------------------------

GOOD = """
import asyncio
import logging

from safesh import (
    CommandExecutor,
    CommandTimeout,
    ExecutionMode,
    ExecutionResult,
    Limit,
    Limits,
    Options,
    Sample,
    SafeshError,
    SecureEnv,
    StopPolicy,
    Verdict,
    aexecute_command,
    astream_command,
    execute_command,
    get_active_processes,
    kill_processes_by_name,
    read_from_process,
    terminate_process,
)


def told(result: ExecutionResult) -> None:
    print(result.return_code, result.usage.cpu_seconds)


def sampled(sample: Sample) -> None:
    print(sample.memory_bytes)


def build() -> str:
    result = execute_command(["make", "-j4"], timeout="10m", env=SecureEnv(file=".env"), on_complete=told).check()
    if isinstance(result.error, CommandTimeout):
        print(result.error.timeout + 1.0, [one.pid for one in result.error.holders])
    text: str = result.stdout
    return text


def serve() -> Verdict:
    limits = Limits(memory=Limit(most=1e9, action="stop"), interval=0.5)
    server = execute_command(
        "server --port 80", ExecutionMode.MONITORED, limits=limits, on_sample=sampled, contain="keeper",
        stop=StopPolicy(signal="SIGINT", grace=2.0), logger=logging.getLogger("server"),
    )
    assert server.pid is not None
    print(read_from_process(server.pid, timeout=1), get_active_processes()[server.pid]["state"])
    return terminate_process(server.pid, force=True)


async def stream() -> int:
    options: Options = {"cwd": "/", "timeout": 3}
    async with astream_command(["ls"], **options) as lines:
        async for name, text in lines:
            print(name.upper(), text)
    done = await aexecute_command("true", **options)
    with CommandExecutor(**options) as run:
        run("true")
        await run.aexecute("true", timeout=1)
    return done.return_code or 0


try:
    build()
    print(serve().ok, kill_processes_by_name("robot").survivors, asyncio.run(stream()))
except SafeshError as error:
    print(error.place, error.hint)
"""

# Each line's mistake is one that mypy must name with this code.
WRONG = """
from safesh import CommandExecutor, ExecutionMode, execute_command, kill_process, run_command  # E: attr-defined
execute_command("true", timout=3)  # E: arg-type
execute_command("true", mode="background")  # E: arg-type
execute_command("true", env={"A": 1})  # E: dict-item
execute_command("true", contain="cage")  # E: arg-type
execute_command("true", on_complete=lambda: None)  # E: arg-type, misc
execute_command(["true", 3])  # E: list-item
execute_command("true").retrun_code  # E: attr-defined
execute_command("true").return_code + 1  # E: operator
CommandExecutor(timout=3)  # E: call-arg
kill_process("robot")  # E: arg-type
kill_process(1).survivors[0].name  # E: attr-defined
ExecutionMode.FOREGROUND  # E: attr-defined
"""


class Checked(NamedTuple):
    """What mypy said, by file and line."""

    told: dict[tuple[str, int], set[str]]
    text: str


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """mypy --strict over both programs, in an environment where safesh is an installed package among others."""
    pytest.importorskip("mypy")
    base = tmp_path_factory.mktemp("user")
    (base / "good.py").write_text(GOOD, encoding="utf-8")
    (base / "wrong.py").write_text(WRONG, encoding="utf-8")
    # Not by mypy's own path, where it would check safesh as ours and never ask for py.typed.
    python = environment(base / "env")
    options = ["--strict", "--config-file=", f"--python-executable={python}", f"--cache-dir={base / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", "--no-pretty", "good.py", "wrong.py"]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, timeout=170, check=False)
    told: dict[tuple[str, int], set[str]] = {}
    for name, number, code in re.findall(r"^([^:]+):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M):
        told.setdefault((name, int(number)), set()).add(code)
    return Checked(told, done.stdout + done.stderr)


def environment(base: Path) -> Path:
    """The Python of a virtual environment that has safesh and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(base)], check=True, timeout=60)
    (packages,) = (base / "lib").glob("python*/site-packages")
    (packages / "safesh").symlink_to(SUPERVISOR / "safesh")
    return base / "bin" / "python"


@pytest.mark.timeout(240)
def test_mypy_strict_accepts_a_program_that_uses_the_package(checked: Checked) -> None:
    assert not [place for place in checked.told if place[0] != "wrong.py"], checked.text
    assert "py.typed" not in checked.text


@pytest.mark.timeout(240)
def test_mypy_catches_each_misuse(checked: Checked) -> None:
    expected = {}
    for number, line in enumerate(WRONG.splitlines(), 1):
        _, marked, codes = line.partition("# E: ")
        if marked:
            expected[("wrong.py", number)] = set(codes.split(", "))
    found = {place: codes for place, codes in checked.told.items() if place[0] == "wrong.py"}
    assert found == expected, checked.text
