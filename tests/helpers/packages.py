"""Small packages that depend on each other, made, built and tested step by step: real work for a plan.

``python packages.py make NAME DEPENDENCY...`` writes a package's sources, ``build`` compiles them, ``test`` links or
imports it with all it depends on and checks its answer, ``all`` tells every answer. C where there is a compiler, else
Python (``SAFESH_TEST_C``: the compiler's path, or empty). Run in the folder of the packages.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

_COMPILER = os.environ.get("SAFESH_TEST_C", "")
_FUNCTIONS = 60


def plan(names: int, seed: int, compiler: str, python: str, files: int = 2) -> list[dict[str, Any]]:
    """3 steps a package and one for all of them. A package depends on up to two of those before it."""
    rng = random.Random(seed)
    steps: list[dict[str, Any]] = []
    known: dict[str, list[str]] = {}
    for number in range(names):
        name = f"p{number:02}"
        direct = sorted(rng.sample(sorted(known), min(len(known), rng.choice((0, 1, 1, 2)))))
        known[name] = sorted({*direct, *(far for one in direct for far in known[one])})

        def step(verb: str, after: list[str], name: str = name, direct: list[str] = direct) -> dict[str, Any]:
            return {
                "id": f"{verb}-{name}",
                "type": {"make": "code_generation"}.get(verb, "analysis"),
                "command": [python, "-E", "-S", __file__, verb, name, *(direct if verb == "make" else known[name])],
                "depends_on": after,
                "env": {"SAFESH_TEST_C": compiler, "SAFESH_TEST_FILES": str(files)},
            }

        steps.append(step("make", []))
        steps.append(step("build", [f"make-{name}", *(f"make-{one}" for one in known[name])]))
        steps.append(step("test", [f"build-{one}" for one in (name, *known[name])]))
    last = step("all", [f"test-{one}" for one in known])
    last["command"][5:] = sorted(known)
    last["id"] = "all"
    return [*steps, last]


def expected(names: list[str], folder: Path) -> dict[str, int]:
    """What each package's answer is: 1 and those of its direct dependencies."""
    found: dict[str, int] = {}
    for name in sorted(names):
        direct = (folder / name / "needs").read_text(encoding="utf-8").split()
        found[name] = 1 + sum(found[one] for one in direct)
    return found


def make(name: str, *direct: str) -> None:
    os.makedirs(name)
    Path(name, "needs").write_text("\n".join(direct), encoding="utf-8")
    files = int(os.environ.get("SAFESH_TEST_FILES", "2"))
    if _COMPILER:
        Path(name, f"{name}.h").write_text(f"int {name}_answer(void);\n", encoding="utf-8")
        for number in range(files):
            Path(name, f"part{number}.c").write_text(_c_part(name, number), encoding="utf-8")
        heads = "".join(f'#include "../{one}/{one}.h"\n' for one in (name, *direct))
        body = " + ".join(["1", *(f"{one}_answer()" for one in direct)])
        Path(name, "answer.c").write_text(f"{heads}int {name}_answer(void) {{ return {body}; }}\n", encoding="utf-8")
        return
    for number in range(files):
        Path(name, f"part{number}.py").write_text(_python_part(number), encoding="utf-8")
    heads = "".join(f"import {one}\n" for one in direct)
    body = " + ".join(["1", *(f"{one}.answer()" for one in direct)])
    Path(name, "__init__.py").write_text(f"{heads}\n\ndef answer():\n    return {body}\n", encoding="utf-8")


def _c_part(name: str, number: int) -> str:
    lines = [
        f"double {name}_{number}_{one}(double x, int n) {{ double s = x; "
        f"for (int i = 1; i < n; i++) {{ "
        f"s = s * {one + 1}.5 / i + (i % {one + 2} ? s : -x); if (s > 1e9) s /= {one + 3}; }} "
        "return s; }"
        for one in range(_FUNCTIONS)
    ]
    return "\n".join(lines) + "\n"


def _python_part(number: int) -> str:
    return "\n".join(
        f"def part_{number}_{one}(x, n):\n    return [x * {one} + i for i in range(n) if i % {one + 1}]\n"
        for one in range(_FUNCTIONS * 10)
    )


def build(name: str, *_needs: str) -> None:
    if _COMPILER:
        sources = sorted(str(one) for one in Path(name).glob("*.c"))
        for source in sources:
            _call(_COMPILER, "-O2", "-c", source, "-o", source[:-2] + ".o")
        return
    import compileall

    if not compileall.compile_dir(name, quiet=1, force=True):
        raise SystemExit(f"{name} does not compile")


def _objects(names: tuple[str, ...]) -> list[str]:
    return [str(one) for name in names for one in sorted(Path(name).glob("*.o"))]


def test(name: str, *needs: str) -> None:
    want = expected([name, *needs], Path())[name]
    if _COMPILER:
        main = Path(name, "main_test.c")
        main.write_text(
            f'#include "{name}.h"\nint main(void) {{ return {name}_answer() != {want}; }}\n', encoding="utf-8"
        )
        _call(_COMPILER, "-O1", str(main), *_objects((name, *needs)), "-o", f"{name}/main_test")
        _call(f"{name}/main_test")
        os.unlink(main)
        return
    sys.path.insert(0, "")
    for part in range(int(os.environ.get("SAFESH_TEST_FILES", "2"))):
        __import__(f"{name}.part{part}")
    if __import__(name).answer() != want:
        raise SystemExit(f"{name} answers {__import__(name).answer()}, expected {want}")


def all(*names: str) -> None:
    for name, want in expected(list(names), Path()).items():
        print(name, want)


def _call(*command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}")


if __name__ == "__main__":
    {"make": make, "build": build, "test": test, "all": all}[sys.argv[1]](*sys.argv[2:])
