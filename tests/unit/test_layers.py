"""The layers of docs/architecture.md hold: imports point downward, hot rooms stay lean, /proc has one reader.

Nothing is listed here that could be found: a new room or module is checked as soon as its file exists.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SUPERVISOR = Path(__file__).resolve().parents[2] / "supervisor"
PACKAGE = SUPERVISOR / "safesh"

# From the bottom up. Rooms on one line are peers: neither imports the other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("model",),
    ("clock", "printable"),
    ("paths",),
    ("wire",),
    ("vendor",),
    ("config",),
    ("importers",),
    ("_platform",),
    ("core",),
    ("instance", "metrics"),
    ("supervise", "process", "diagnose"),
    ("plan", "mission"),
    ("cli",),
    ("dashboard",),
    ("__main__",),
)
CONFIG_PARTS = {"_envfile", "_schema", "_source", "_targets"}  # files of the config room, beside config.py
RANK = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}

HOT_ROOMS = {"errors", "model", "wire", "clock", "paths", "vendor", "_platform", "core", "instance", "supervise"}
HOT_VERBS = {"main", "grammar", "start", "stop", "status", "exec"}  # of cli
FORBIDDEN_WHEN_HOT = {
    "signal", "enum", "re", "json", "typing", "contextlib", "functools", "collections", "dataclasses", "subprocess",
    "logging", "asyncio", "tomllib", "msgspec", "filelock", "click", "rich", "psutil", "argparse", "sqlite3",
}  # fmt: skip


def modules() -> list[str]:
    """Every module of the package by its dotted name below ``safesh``, "" for the package itself."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


MODULES = modules()


def file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    path = file_of(module)
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(module: str) -> str:
    first = module.split(".")[0]
    return "config" if first in CONFIG_PARTS else first


def is_hot(module: str) -> bool:
    first, _, rest = module.partition(".")
    return first in HOT_ROOMS or module == "" or (first == "cli" and (rest == "" or rest in HOT_VERBS))


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(node: ast.AST, module: str, *, lazily: bool, types: bool) -> Iterator[tuple[str, int]]:
    """(imported dotted name, line). lazily: inside functions too; types: under TYPE_CHECKING too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, child.lineno
        elif isinstance(child, ast.ImportFrom):
            base = absolute(child, module)
            # ``from safesh import config`` names a module, ``from safesh.config import load`` a thing in one.
            for alias in child.names:
                yield f"{base}.{alias.name}" if base == "safesh" else base, child.lineno
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            if lazily:
                yield from imports(child, module, lazily=lazily, types=types)
        elif isinstance(child, ast.If) and is_type_checking(child.test) and not types:
            for other in child.orelse:
                yield from imports(ast.Module([other], []), module, lazily=lazily, types=types)
        else:
            yield from imports(child, module, lazily=lazily, types=types)


def absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = ["safesh", *module.split(".")] if module else ["safesh"]
    if file_of(module).name != "__init__.py":
        package = package[:-1]
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def upward(tree: ast.AST, module: str) -> list[str]:
    """The imports of ``module`` that do not point downward."""
    wrong = []
    for name, line in imports(tree, module, lazily=True, types=True):
        parts = name.split(".")
        if parts[0] != "safesh" or len(parts) == 1:
            continue
        target = room(parts[1])
        if target in RANK and target != room(module) and RANK[target] >= RANK[room(module)]:
            wrong.append(f"line {line}: {room(module)} imports {name}")
    return wrong


def heavy(tree: ast.AST, module: str) -> list[str]:
    """What a hot module imports as it loads but must not."""
    found = imports(tree, module, lazily=False, types=False)
    return [f"line {line}: {name}" for name, line in found if name.split(".")[0] in FORBIDDEN_WHEN_HOT]


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the constants that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def platform_words(tree: ast.AST) -> list[str]:
    """Uses of sys.platform, os.uname and the like, and strings that name a place below /proc."""
    told = docstrings(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in (("sys", "platform"), ("os", "uname"), ("platform", "system")):
                found.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            found += [f"line {node.lineno}: sys.platform" for alias in node.names if alias.name == "platform"]
        elif isinstance(node, ast.Constant) and id(node) not in told:
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(text, str) and "/proc" in text:
                found.append(f"line {node.lineno}: {text!r}")
    return found


# --- the rules --------------------------------------------------------------------------------


def test_there_are_modules_to_check() -> None:
    assert {"", "errors", "model", "_platform.linux", "core.signals"} <= set(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_every_module_lives_in_a_known_room(module: str) -> None:
    assert room(module) in RANK, f"{module}: add its room to docs/architecture.md and to LAYERS"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in RANK])
def test_imports_point_downward_only(module: str) -> None:
    assert not upward(tree_of(module), module)


@pytest.mark.parametrize("module", [name for name in MODULES if name and room(name) != "_platform"])
def test_only_the_platform_room_knows_the_platform(module: str) -> None:
    assert not platform_words(tree_of(module))


@pytest.mark.parametrize("module", [name for name in MODULES if is_hot(name)])
def test_hot_modules_import_nothing_heavy(module: str) -> None:
    assert not heavy(tree_of(module), module)


LOADED = """
import os, sys
bare = set(sys.modules)
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    pid = os.fork()  # each module in a process of its own, for the price of a fork
    if pid == 0:
        try:
            __import__(name)
            text = " ".join(sorted(set(sys.modules) - bare))
        except BaseException as error:
            text = f"!{type(error).__name__}: {error}"
        os.write(1, f"{name}\\t{text}\\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, str]:
    """Module name -> all modules that importing it loads, as in the lean processes (``-E -s -S``)."""
    names = [dotted(module) for module in MODULES if is_hot(module) and not module.endswith("__main__")]
    command = [sys.executable, "-E", "-s", "-S", "-c", LOADED, str(SUPERVISOR), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50, stdin=subprocess.DEVNULL)
    pairs = (line.partition("\t") for line in done.stdout.splitlines())
    return {name: text for name, _, text in pairs}


def dotted(module: str) -> str:
    return f"safesh.{module}" if module else "safesh"


@pytest.mark.parametrize("module", [name for name in MODULES if is_hot(name)])
def test_hot_modules_load_nothing_heavy(module: str, loaded: dict[str, str]) -> None:
    text = loaded[dotted(module)]
    if module == "_platform.posix" and "psutil" in text:
        pytest.skip("the portable backend needs psutil, which pays for much")
    assert not text.startswith("!"), f"cannot be imported without site-packages: {text[1:]}"
    found = FORBIDDEN_WHEN_HOT & set(text.split())
    assert not found, (
        f"loads {', '.join(sorted(found))} (python -X importtime -c 'import {dotted(module)}' tells by whom)"
    )


def test_no_init_shadows_the_other_supervisor() -> None:
    assert not (SUPERVISOR / "__init__.py").exists(), "supervisor/ is a source root; PyPI's Supervisor owns that name"


# --- and the checks themselves catch what they are for ------------------------------------------

UPWARD = [
    "from safesh.supervise import loop",
    "import safesh.cli.render",
    "from safesh import cli",
    "def late():\n    from safesh import supervise",
    "class A:\n    def late(self):\n        import safesh.process",
    "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from safesh.cli import main",
    "from ..cli import main",
    "from safesh.metrics import tree",  # a peer of instance
]


@pytest.mark.parametrize("code", UPWARD)
def test_an_upward_import_is_caught(code: str) -> None:
    assert upward(ast.parse(code), "instance.lock")


def test_a_downward_import_is_fine() -> None:
    code = "from safesh import errors, _platform\nfrom safesh.core import kill\nfrom . import record\nimport os"
    assert not upward(ast.parse(code), "instance.lock")


@pytest.mark.parametrize(
    "code",
    [
        "import json",
        "from typing import Any",
        "try:\n    import re\nexcept ImportError:\n    pass",
        "import collections.abc",
    ],
)
def test_a_heavy_import_is_caught(code: str) -> None:
    assert heavy(ast.parse(code), "core.kill")


@pytest.mark.parametrize(
    "code",
    [
        "def late():\n    import json",
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import signal as _signal\nelse:\n    import _signal",
    ],
)
def test_a_late_import_or_one_for_types_is_fine(code: str) -> None:
    assert not heavy(ast.parse(code), "core.kill")


@pytest.mark.parametrize(
    "code",
    ["import sys\nif sys.platform == 'linux': pass", "open('/proc/1/stat')", "x = f'/proc/{1}/fd'", "p = b'/proc'"],
)
def test_platform_knowledge_is_caught(code: str) -> None:
    assert platform_words(ast.parse(code))


def test_a_docstring_may_name_proc() -> None:
    assert not platform_words(ast.parse('def read():\n    """Reads /proc/1/stat."""\n'))


def test_loading_is_looked_at_for_real(tmp_path: Path) -> None:
    (tmp_path / "heavy_one.py").write_text("import json\n")
    command = [sys.executable, "-E", "-s", "-S", "-c", LOADED, str(tmp_path), "heavy_one"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, stdin=subprocess.DEVNULL)
    assert {"json", "re"} <= set(done.stdout.split())
