"""Plans against ``make -j2``, doit and Snakemake: the price of a step, how it grows, and the gain on real work."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Row, Samples, Section, Step, interleave, quartiles, ratios, show
from bench.install import from_pypi
from bench.stage import DEADLINE, ROOT, BenchError, Stage

RUNNERS = ("doit", "snakemake")
_SLOW = 100  # steps for whoever takes tens of milliseconds a step: the price of one is what is compared
_WORKER = ROOT / "tests" / "helpers" / "packages.py"


class Bench:
    """The contestants. missing[name] says why one is not among them."""

    def __init__(self, stage: Stage, *, install: bool, use: bool) -> None:
        self.stage = stage
        self.missing: dict[str, str] = {}
        self.commands: dict[str, str] = {}
        make = shutil.which("make") if use else None
        if make:
            self.commands["make"] = make
        else:
            self.missing["make"] = "not installed" if use else "not asked for (--no-peers)"
        for name in RUNNERS:
            self._find(name, install=install, use=use)

    def _find(self, name: str, *, install: bool, use: bool) -> None:
        if not use:
            self.missing[name] = "not asked for (--no-peers)"
            return
        try:
            self.commands[name] = str(from_pypi(self.stage, name, name, install) / name)
        except BenchError as error:
            self.missing[name] = str(error).replace("\n", " ")[-200:]

    def lacking(self, *names: str) -> list[str]:
        return [f"{name}: {self.missing[name]}" for name in names if name in self.missing]

    # ---- files with ``count`` steps that run `true`

    def write(self, name: str, count: int) -> list[str]:
        """The command line that runs so many of them, two at once."""
        folder = self.stage.project / f"{name}-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if name == "safe":
            plan = folder / "plan.json"
            plan.write_text(json.dumps({"steps": [{"id": f"s{one}", "command": ["true"]} for one in range(count)]}))
            plan.chmod(0o644)
            return [*self.stage.direct, "run", str(plan), "--output", str(folder / "out"), "-j2", "--progress", "quiet"]
        command = self.commands[name]
        if name == "make":
            names = [f"s{one}" for one in range(count)]
            rules = "".join(f"{one}:\n\t@true\n" for one in names)
            (folder / "Makefile").write_text(f".PHONY: all {' '.join(names)}\nall: {' '.join(names)}\n{rules}")
            return [command, "-s", "-j2", "-C", str(folder), "all"]
        if name == "doit":
            (folder / "dodo.py").write_text(
                f"def task_s():\n    for one in range({count}):\n"
                "        yield {'name': str(one), 'actions': [['true']]}\n"
            )
            return [command, "-f", str(folder / "dodo.py"), "--db-file", str(folder / "db"), "-n", "2", "-v", "0",
                    "-r", "zero"]  # fmt: skip
        text = f'rule all:\n    input: expand("o/{{i}}", i=range({count}))\nrule step:\n    output: touch("o/{{i}}")\n'
        (folder / "Snakefile").write_text(text + '    shell: "true"\n')
        return [command, "-s", str(folder / "Snakefile"), "-d", str(folder), "-j2", "--quiet", "all", "--nolock"]

    def cost(self, name: str, count: int) -> float:
        """Seconds a step: of so many without those of one alone, by the number of the others."""
        alone = self.stage.time(self.write(name, 1))
        many = self.stage.time(self.write(name, count))
        return max(1e-9, (many - alone) / (count - 1))


def plans(stage: Stage, rounds: int, count: int, *, install: bool, use: bool) -> Iterator[Section]:
    """All of it. count: steps, and ten times as many for how it grows."""
    bench = Bench(stage, install=install, use=use)
    yield _price(bench, rounds, count)
    yield _growth(bench, max(1, rounds // 3), count)
    yield from _gain(bench, max(1, rounds // 3), *((12, 6) if count >= 1000 else (4, 1)))


def _price(bench: Bench, rounds: int, count: int) -> Section:
    def step(name: str, size: int) -> Step:
        return lambda: {name: bench.cost(name, size)}

    steps = [step("safe", count)]
    steps += [step(name, min(count, _SLOW) if name == "snakemake" else count) for name in bench.commands]
    samples = interleave(steps, rounds, warm_up=1 if rounds > 1 else 0)
    base = "make" if "make" in samples else "safe"
    section = Section(
        "plans-step",
        f"{count} steps that run `true`, two at once: each",
        "`make -j2`" if base == "make" else "ours",
        missing=bench.lacking("make", *RUNNERS),
    )  # fmt: skip
    low, middle, high = quartiles([one * 1e3 for one in samples["safe"]])
    section.rows.append(
        Row("plans-step.time", "`safe.sh run -j2`", middle, "ms", low, high, ours=True, bar=4)
    )  # fmt: skip
    for name, what in (
        ("make", "`make -j2` (no logs, no measuring, no containment)"),
        ("safe", "`safe.sh run -j2`"),
        ("doit", "`doit -n 2`"),
        ("snakemake", f"`snakemake -j2`, of {min(count, _SLOW)} steps"),
    ):
        if name in samples:
            _ratio(section, samples, name, base, what, ours=name == "safe")
    return section


def _ratio(section: Section, samples: Samples, name: str, base: str, what: str, **more: Any) -> None:
    low, middle, high = quartiles(ratios(samples[name], samples[base]))
    plain = show(quartiles(samples[name])[1] * 1e3, "ms")
    by = "safesh" if name == "safe" else name
    section.rows.append(Row(f"{section.key}.{name}", what, middle, "x", low, high, plain, by=by, **more))


def _growth(bench: Bench, rounds: int, count: int) -> Section:
    names = ["safe", *(name for name in ("make", "doit") if name in bench.commands)]

    def step(name: str, size: int) -> Step:
        return lambda: {f"{name} {size}": bench.cost(name, size)}

    samples = interleave([step(name, size) for name in names for size in (count, 10 * count)], rounds, warm_up=0)
    section = Section(
        "plans-growth",
        f"the price of each of {10 * count} steps",
        f"each of {count}",
        missing=bench.lacking("make", "doit"),
    )
    for name in names:
        what = {"safe": "`safe.sh run -j2`", "make": "`make -j2`", "doit": "`doit -n 2`"}[name]
        low, middle, high = quartiles(ratios(samples[f"{name} {10 * count}"], samples[f"{name} {count}"]))
        plain = show(quartiles(samples[f"{name} {10 * count}"])[1] * 1e3, "ms each")
        promise: dict[str, Any] = {"bar": 1.3, "ours": True, "by": "safesh"} if name == "safe" else {"by": name}
        section.rows.append(Row(f"plans-growth.{name}", what, middle, "x", low, high, plain, **promise))
    return section


# ---- real work


def _packages() -> Any:
    """What the tests' packages are made by: a script, not a module of ours."""
    spec = importlib.util.spec_from_file_location("packages", _WORKER)
    if spec is None or spec.loader is None:
        raise BenchError(f"{_WORKER}: cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gain(bench: Bench, rounds: int, count: int, files: int) -> Iterator[Section]:
    stage = bench.stage
    compiler = shutil.which("cc", path=stage.environment()["PATH"]) or ""
    steps: list[dict[str, Any]] = _packages().plan(count, 4, compiler, stage.python, files)
    work = stage.project / "packages"

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()

    def ours(jobs: int) -> dict[str, float]:
        fresh()
        plan = work / "plan.json"
        plan.write_text(json.dumps({"id": "packages", "steps": steps}))
        plan.chmod(0o644)
        began = time.perf_counter()
        told = stage.call(
            [*stage.direct, "run", str(plan), "--output", str(work / "out"), f"-j{jobs}", "--progress", "plain"],
            4 * DEADLINE,
        )
        found = {f"safe {jobs}": time.perf_counter() - began}
        if jobs > 1:
            gain = re.search(r"^Gain: ([\d.]+) times", told, re.MULTILINE)
            if gain is None:
                raise BenchError(f"the summary tells no gain: {told[-500:]}")
            took = {name: one["seconds"] for name, one in _results(work)["steps"].items()}
            whole, chain = sum(took.values()), _chain(steps, took)
            found |= {"gain": float(gain.group(1)), "bound": min(float(jobs), whole / chain)}
        return found

    def make(jobs: int) -> dict[str, float]:
        fresh()
        (work / "Makefile").write_text(_makefile(steps))
        began = time.perf_counter()
        stage.call([bench.commands["make"], "-s", f"-j{jobs}", "-C", str(work), "all"], 4 * DEADLINE)
        return {f"make {jobs}": time.perf_counter() - began}

    turns: list[Step] = [lambda: ours(1), lambda: ours(2)]
    if "make" in bench.commands:
        turns += [lambda: make(1), lambda: make(2)]
    samples = interleave(turns, rounds, warm_up=0)
    language = "C" if compiler else "Python"
    title = f"{len(steps)} steps: {count} packages in {language} are written, built and tested"
    section = Section("plans-gain", title, "one step at a time", missing=bench.lacking("make"), most=True)
    share = [one / most for one, most in zip(samples["gain"], samples["bound"], strict=True)]
    low, middle, high = quartiles(share)
    plain = f"{quartiles(samples['gain'])[1]:.2f} of {quartiles(samples['bound'])[1]:.2f}"
    what = "`safe.sh run -j2`: the gain it prints, of what critical path and slots allow"
    section.rows.append(Row("plans-gain.share", what, middle, "x", low, high, plain, ours=True, bar=0.9, at_least=True))
    for name, what in (("safe", "`safe.sh run`: -j2 by the clock"), ("make", "`make`: -j2 by the clock")):
        if f"{name} 2" in samples:
            low, middle, high = quartiles(ratios(samples[f"{name} 1"], samples[f"{name} 2"]))
            plain = show(quartiles(samples[f"{name} 2"])[1], "s")
            by: dict[str, Any] = {"by": "safesh" if name == "safe" else name, "ours": name == "safe"}
            section.rows.append(Row(f"plans-gain.{name}", what, middle, "x", low, high, plain, **by))
    yield section


def _results(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "out" / "result.json").read_text(encoding="utf-8"))
    return found


def _chain(steps: Sequence[dict[str, Any]], took: dict[str, float]) -> float:
    """The longest chain; the steps come with their dependencies first."""
    ends: dict[str, float] = {}
    for step in steps:
        ends[step["id"]] = took[step["id"]] + max((ends[one] for one in step["depends_on"]), default=0.0)
    return max(ends.values())


def _makefile(steps: Sequence[dict[str, Any]]) -> str:
    names = " ".join(step["id"] for step in steps)
    lines = [f".PHONY: {names}"]
    for step in reversed(steps):  # the last one needs all of them
        settings = " ".join(f"{name}='{value}'" for name, value in step["env"].items())
        lines += [
            f"{step['id']}: {' '.join(step['depends_on'])}",
            f"\t@{settings} {' '.join(step['command'])} >/dev/null",
        ]
    return "\n".join(lines) + "\n"
