"""Fuzzing: hostile bytes for every reader of ours. Each gives a valid object or one clear error, and does nothing else.

Every parser has a process of its own (``fuzz_worker``): bounded in memory, a deadline for each input, and a guard that
sees every file written outside its sandbox, every process started and every signal sent. Quick: seeded mutations of
valid inputs. Full: those, then atheris, which keeps what reaches new code; it is installed into .venv-bench, and
where it cannot be had the mutations go on in its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from faults.part import Figure, Options, Part, PartError

ROOT = Path(__file__).resolve().parents[2]
_ATHERIS = ROOT / ".venv-bench" / "atheris"
_QUICK_SECONDS = 8.0  # for all parsers together
_FULL_MINUTES = 5.0
_GUIDED = 0.6  # atheris' share of the time
# The cheapest first: what reads /proc or SQLite for each input gets a longer turn.
PARSERS: dict[str, float] = {
    "safe.toml": 2, "plan.json": 1, "plan.toml": 1, "plan.yaml": 1, "env file": 1, "Procfile": 1, "supervisord.conf": 1,
    "systemd unit": 1, "durations and sizes": 0.5, "arguments": 1, "command lines": 1, "record": 2, "pid file": 0.5,
    "lock file": 1, "log tail": 1, "events": 1, "history spool": 1, "history database": 1, "config cache": 0.5,
    "report channel": 1, "requests": 1, "answers": 0.5, "sd_notify": 0.5, "events of a plan": 1, "result.json": 1,
    "earlier times": 0.5, "HTTP answer": 1, "names in /proc": 0.5, "exposition": 0.5,
}  # fmt: skip
_ABOUT = """Whatever the bytes: a valid object (which is the same once written down and read again) or one error of ours
that names the place in one printable line; never a traceback, a hang, gigabytes, a signal, a process, or a file written
elsewhere."""


def run(options: Options) -> Part:
    began = time.monotonic()
    seconds = _QUICK_SECONDS if options.quick else 60 * (options.minutes or _FULL_MINUTES)
    workers = max(1, options.workers)
    unit = seconds * workers / sum(PARSERS.values())
    figures, failures = [], []
    guided, why = (False, "") if options.quick else _find_atheris()
    jobs: list[tuple[list[str], str, float]] = []
    if options.quick:  # a start costs more than a turn: few processes, each with its share of the parsers
        for number in range(workers):
            names = list(PARSERS)[number::workers]
            jobs.append((names, "mutations", unit * sum(PARSERS[name] for name in names) / len(names)))
    else:
        share = _GUIDED if guided else 0.0
        jobs += [([name], "mutations", unit * weight * (1 - share)) for name, weight in PARSERS.items()]
        jobs += [([name], "atheris", unit * weight * share) for name, weight in PARSERS.items() if guided]
    counts: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for told, problem in pool.map(lambda job: _work(*job, options), jobs):
            failures += problem
            for fact in told:
                if "violation" in fact:
                    failures.append(_failure(fact))
                else:
                    _add(counts.setdefault(fact["parser"], {}), fact)
    missing = [name for name in PARSERS if name not in counts]
    failures += [f"{name}: nothing was read; replay: {_command(name)}" for name in missing]
    broken = {failure.partition(":")[0] for failure in failures}
    for name, found in counts.items():
        engines = ", ".join(f"{count:,} by {engine}" for engine, count in found["engines"].items())
        figures.append(Figure(name, f"{found['count']:,} inputs", "0 violations", name not in broken,
                              f"{found['taken']:,} valid; {engines}"))  # fmt: skip
    total = sum(found["count"] for found in counts.values())
    figures.append(Figure("all parsers", f"{total:,} inputs", "0 violations", not failures, why))
    return Part("fuzz", "Fuzzing", _ABOUT, figures, failures, time.monotonic() - began)


def _add(found: dict[str, Any], fact: dict[str, Any]) -> None:
    found["count"] = found.get("count", 0) + fact["count"]
    found["taken"] = found.get("taken", 0) + fact["taken"]
    engines = found.setdefault("engines", {})
    engines[fact["engine"]] = engines.get(fact["engine"], 0) + fact["count"]


def _failure(fact: dict[str, Any]) -> str:
    return f"{fact['parser']}: {fact['violation']}; replay: {_command(fact['parser'])} --replay {fact['input']}"


def _command(name: str) -> str:
    return f"PYTHONPATH=supervisor:scripts python3 -m faults.fuzz_worker '{name}'"


def _work(names: list[str], engine: str, seconds: float, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """(what a worker told, what went wrong with the worker itself)."""
    folders = [str(ROOT / "supervisor"), str(ROOT / "scripts"), *([str(_ATHERIS)] if engine == "atheris" else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SAFESH_", "PYTHON"))}
    command = [sys.executable, "-m", "faults.fuzz_worker", *names, "--engine", engine]
    command += ["--seconds", f"{seconds:.2f}", "--seed", str(options.seed)]
    limit = 60 + 4 * seconds * len(names)
    environment |= {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
    place = tempfile.TemporaryDirectory(prefix="safesh-fuzz-")  # atheris leaves without tidying up
    try:
        done = subprocess.run(
            command,
            env={**environment, "TMPDIR": place.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return list(_lines(error.stdout or b"")), [
            f"{names[0]}: no end within {limit:.0f} s; replay: {_command(names[0])}"
        ]
    finally:
        place.cleanup()
    told = list(_lines(done.stdout))
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return told, [f"{names[0]}: the worker ended with {done.returncode}: {last}; replay: {_command(names[0])}"]
    return told, []


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _find_atheris() -> tuple[bool, str]:
    """(whether it can be imported from its folder, why not)."""
    if not (_ATHERIS / "atheris").is_dir():
        _ATHERIS.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(_ATHERIS),
            "--only-binary",
            ":all:",
        ]
        try:
            done = subprocess.run([*command, "atheris"], capture_output=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, f"without atheris: {type(error).__name__}"
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return False, f"without atheris: {last[:120]}"
    return True, "mutations, then guided by coverage (atheris)"


def check_parsers(known: set[str]) -> None:
    """PartError where the table above and the worker's differ."""
    if known != set(PARSERS):
        raise PartError(f"parsers that only one of the two tables has: {known ^ set(PARSERS)}")
