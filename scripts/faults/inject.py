"""Single system calls of supervisors, keepers and commands fail, come late or are the last one: strace's injection.

First a clean run of each scenario is recorded for each process of ours. Every call in it is a point; every error that
the manual names for the call is a case, and so is the process's end at that very call. A seed draws some of them, each
kind in turn; each is played in a world of its own, and then the invariants are looked at.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults import namespace
from faults.campaign import Group
from faults.inject_cases import SCENARIOS, Case, Point, choose, points, roles
from faults.inject_world import play, record
from faults.namespace import ROOT, Inner
from faults.part import Figure, Options, Part, PartError

FULL_CASES, QUICK_CASES = 1000, 25
_QUICK = ("life/start", "life/supervisor", "life/keeper", "life/stop")  # what is recorded for a quick run
_PER_CASE = 60.0  # seconds; far more than one takes: the namespace's own deadline
_TELL_EVERY = 15.0


class Sum:
    """What the workers have told so far."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()  # by role
        self.happened: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # by what was injected
        self.calls: set[str] = set()
        self.failures: list[dict[str, Any]] = []
        self.answers: Counter[str] = Counter()  # "" or "refused": whether the scenario went on as if nothing were
        self.gave_up = 0

    def take(self, line: dict[str, Any]) -> None:
        case = Case.read(line["case"])
        self.done[case.role] += 1
        if line["happened"]:
            self.happened[case.role] += 1
            self.errors[case.how.partition("=")[0]] += 1
            self.calls.add(case.call)
            self.gave_up += line["gave_up"]
            self.answers["refused" if any(line["answers"]) else ""] += 1
        if line["problems"]:
            self.failures.append(line)


def run(options: Options) -> Part:
    """All of it. PartError where there is no strace, or no namespace."""
    begin = time.monotonic()
    _prefix, why = namespace.unshare()
    if why:
        raise PartError(f"no pid and mount namespace can be made here ({why}); next: run it as root, or in a container")
    if why := no_strace():
        raise PartError(f"{why}; next: apt-get install strace")
    count = options.steps or (QUICK_CASES if options.quick else FULL_CASES)
    everybody = tuple(f"{scenario}/{role}" for scenario in SCENARIOS for role in roles(scenario))
    recorded = _record(_QUICK if options.quick else everybody, options)
    chosen, total = choose(recorded, count, random.Random(f"inject {options.seed}"))
    found = Sum()
    with tempfile.TemporaryDirectory(prefix="safesh-inject-") as folder:
        workers = max(1, min(options.workers, len(chosen)))
        inner = []
        for number in range(workers):
            mine = Path(folder, f"cases{number}")
            mine.write_text("\n".join(map(str, chosen[number::workers])))
            inner.append(_worker(["cases", str(mine)], 60 + _PER_CASE * len(chosen[number::workers])))
        _finish(inner, found, len(chosen))
    seconds = time.monotonic() - begin
    failures = [told(one) for one in found.failures]
    return Part("inject", "System calls that fail", _about(options), _figures(found, chosen, total), failures, seconds)


def no_strace() -> str:
    """Why there can be no injection here, or "". A sandbox may forbid ptrace(2)."""
    if not shutil.which("strace"):
        return "no strace"
    words = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=sethostname:error=EPERM", "true"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    said = done.stderr.decode("utf-8", "replace").strip()[:200]
    return f"strace cannot trace here: {said}" if done.returncode else ""


def _worker(words: list[str], seconds: float) -> Inner:
    command = [sys.executable, str(ROOT / "scripts" / "faults.py"), "worker", "inject", *words]
    return namespace.enter(command, seconds, stdout=subprocess.PIPE)


def _record(whom: tuple[str, ...], options: Options) -> list[Point]:
    """Clean runs, some at once; the same order whoever is done first. whom: SCENARIO/ROLE."""
    workers = max(1, min(options.workers, len(whom)))
    inner = [_worker(["record", *whom[number::workers]], 60 + _PER_CASE * len(whom)) for number in range(workers)]
    found: list[Point] = []
    try:
        for one in inner:
            assert one.process.stdout is not None
            found += [Point(*json.loads(line)) for line in one.process.stdout]
    finally:
        codes = [one.close(10) for one in inner]
    if any(codes):
        raise PartError(f"a clean run could not be recorded ({codes}); its words are above")
    return sorted(found)


def _finish(inner: list[Inner], found: Sum, count: int) -> None:
    try:
        _listen(inner, found, count)
    finally:
        codes = [one.close(10) for one in inner]
    if any(codes):
        raise PartError(f"a worker ended with {codes}, after {sum(found.done.values())} cases; its words are above")


def _listen(inner: list[Inner], found: Sum, count: int) -> None:
    pipes = {one.process.stdout.fileno(): b"" for one in inner if one.process.stdout is not None}
    begin = told_at = time.monotonic()
    while pipes:
        ready, _, _ = select.select(list(pipes), [], [], 5)
        for fd in ready:
            chunk = os.read(fd, 1 << 16)
            *lines, pipes[fd] = (pipes[fd] + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                found.take(message)
                if message["problems"]:
                    print(f"VIOLATED\n{told(message, whole=True)}\n", flush=True)
            if not chunk:
                del pipes[fd]
        now = time.monotonic()
        if now - told_at > _TELL_EVERY:
            told_at = now
            print(
                f"  {sum(found.done.values())} of {count} cases, {len(found.failures)} violated, {now - begin:.0f} s",
                flush=True,
            )


def told(failure: dict[str, Any], whole: bool = False) -> str:
    """For people: what, and the command that plays the case again."""
    first, *more = failure["problems"]
    lines = [f"{failure['case']}: {first}", *[f"  {line}" for line in more]]
    if whole:
        lines += ["  what was said:", *[f"    {line}" for line in failure["story"]]]
    lines.append(f"  replay: scripts/faults.py worker inject case {failure['case']}")
    return "\n".join(lines)


def _about(options: Options) -> str:
    return (
        f"Seed {options.seed}. Scenarios: {', '.join(SCENARIOS)}. One case again: "
        "`scripts/faults.py worker inject case CASE`, a case being SCENARIO/PROCESS/CALL/NUMBER/FAULT."
    )


def _figures(found: Sum, chosen: list[Case], total: int) -> list[Figure]:
    done, happened = sum(found.done.values()), sum(found.happened.values())
    figures = [
        Figure("cases without a violated invariant", f"{done - len(found.failures):,}", f"{len(chosen):,}",
               done == len(chosen) and not found.failures, f"drawn from {total:,} possible ones"),
        Figure("of them: the call came about, and the fault", f"{happened:,}", note="no two runs are quite alike"),
        Figure("different system calls", f"{len(found.calls):,}"),
        Figure("all commands succeeded all the same", f"{found.answers['']:,}"),
        Figure("some command refused, with a reason", f"{found.answers['refused']:,}"),
        Figure("the supervisor gave up, and its keeper ended the tree", f"{found.gave_up:,}"),
    ]  # fmt: skip
    names = {"error": "errors returned", "signal": "ends by SIGKILL at a call", "delay": "calls that came late"}
    figures += [Figure(name, f"{found.errors[kind]:,}") for kind, name in names.items()]
    figures += [Figure(f"faults in: {role}", f"{number:,}") for role, number in sorted(found.happened.items())]
    return figures


# ---- inside


def work(argv: list[str]) -> int:
    """``record SCENARIO/ROLE...``, ``cases FILE``, in a namespace; ``case CASE...`` from anywhere, told for people."""
    if argv[0] == "case" and not namespace.inside():
        return _worker_for_people(argv)
    namespace.require()
    with Group():
        if argv[0] == "record":
            for scenario, role in (word.split("/") for word in argv[1:]):
                for point in points(scenario, role, record(scenario, role)):
                    print(json.dumps(point), flush=True)
            return 0
        names = argv[1:] if argv[0] == "case" else Path(argv[1]).read_text().split()
        bad = 0
        for name in names:
            outcome = play(Case.read(name))
            line = {"case": name, **outcome._asdict()}
            bad += bool(outcome.problems)
            if argv[0] == "case":
                print(told(line, whole=True) if outcome.problems else "\n".join(outcome.story))
                happened = "happened" if outcome.happened else "did not happen"
                print(f"{name}: {happened}, {len(outcome.problems)} problems")
            else:
                print(json.dumps(line), flush=True)
    return 1 if bad and argv[0] == "case" else 0


def _worker_for_people(argv: list[str]) -> int:
    command = [sys.executable, str(ROOT / "scripts" / "faults.py"), "worker", "inject", *argv]
    seconds = 60 + _PER_CASE * len(argv)
    return namespace.enter(command, seconds).close(seconds)
