"""The fault campaign: worlds with seeds N, N+1, ... , some at once, each in a namespace; what was violated is told."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from faults import disturbances, namespace, plan, world
from faults.driver import Driver
from faults.namespace import ROOT, Inner
from faults.part import Figure, Options, Part, PartError

FULL_STEPS, QUICK_STEPS = 10_000, 60
_SECONDS_PER_STEP = 20.0  # far more than any takes: the namespace's own deadline
_TELL_EVERY = 15.0


class Sum:
    """What the workers have told so far."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()  # by backend
        self.worlds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.seeds: list[int] = []

    def take(self, line: dict[str, Any]) -> None:
        self.steps[line["backend"]] += line["steps"]
        self.worlds[line["backend"]] += 1
        self.seeds.append(line["seed"])
        self.counts.update(line["counts"])
        if line["failure"]:
            self.failures.append(line["failure"])

    @property
    def total(self) -> int:
        return sum(self.steps.values())


def run(options: Options) -> Part:
    """All of it. PartError where no namespace can be made."""
    begin = time.monotonic()
    steps = options.steps or (QUICK_STEPS if options.quick else FULL_STEPS)
    disturbances.prepare()
    found = sweep(options.seed, steps, _at_once(options), dict(os.environ), loud=True)
    seconds = time.monotonic() - begin
    return Part(
        "campaign", "Fault campaign", _about(options, found), _figures(found, steps, seconds),
        [told(one) for one in found.failures], seconds,
    )  # fmt: skip


def sweep(seed: int, steps: int, workers: int, environ: dict[str, str], *, loud: bool, first: bool = False) -> Sum:
    """Worlds from ``seed`` on. loud: progress and violations are printed; first: the first violation is enough."""
    _prefix, why = namespace.unshare()
    if why:
        raise PartError(f"no pid and mount namespace can be made here ({why}); next: run it as root, or in a container")
    workers = min(workers, -(-steps // plan.STEPS))
    found = Sum()
    inner = [_worker(seed + number, workers, _share(steps, workers, number), environ) for number in range(workers)]
    patience = 0
    try:
        patience = 0 if _listen(inner, found, steps, loud=loud, first=first) else 10
    finally:
        codes = [one.close(patience) for one in inner]
        _remove_groups()
    if any(codes) and patience:
        raise PartError(f"a worker ended with {codes}, after {found.total} steps; its words are above")
    return found


def _at_once(options: Options) -> int:
    """Half of a world's time is waiting: for graces, probes, restarts."""
    return options.workers if options.workers == 1 else 2 * options.workers


def _share(steps: int, workers: int, number: int) -> int:
    """Whole worlds, dealt out in turn."""
    worlds = -(-steps // plan.STEPS)
    mine = len(range(number, worlds, workers))
    short = worlds * plan.STEPS - steps  # the last world is shorter
    return mine * plan.STEPS - (short if (worlds - 1) % workers == number else 0)


def _worker(first: int, stride: int, steps: int, environ: dict[str, str]) -> Inner:
    words = [
        sys.executable,
        str(ROOT / "scripts" / "faults.py"),
        "worker",
        "campaign",
        *map(str, (first, stride, steps)),
    ]
    seconds = 120 + steps * _SECONDS_PER_STEP
    group = f"faults-{os.getpid()}-{first}"
    return namespace.enter(words, seconds, stdout=subprocess.PIPE, environ={**environ, "FAULTS_GROUP": group})


def _listen(inner: list[Inner], found: Sum, steps: int, *, loud: bool, first: bool) -> bool:
    """Take in what they tell; True when one violation was enough."""
    pipes = {one.process.stdout.fileno(): b"" for one in inner if one.process.stdout is not None}
    begin = told_at = time.monotonic()
    while pipes:
        ready, _, _ = select.select(list(pipes), [], [], 5)
        for fd in ready:
            chunk = os.read(fd, 1 << 16)
            *lines, rest = (pipes[fd] + chunk).split(b"\n")
            pipes[fd] = rest
            for line in lines:
                message = json.loads(line)
                found.take(message)
                if message["failure"] and loud:
                    print(f"VIOLATED\n{told(message['failure'], whole=True)}\n", flush=True)
            if not chunk:
                del pipes[fd]
        if first and found.failures:
            return True
        now = time.monotonic()
        if loud and now - told_at > _TELL_EVERY:
            told_at = now
            print(f"  {found.total} of {steps} steps, {len(found.failures)} violated, {now - begin:.0f} s", flush=True)
    return False


def told(failure: dict[str, Any], whole: bool = False) -> str:
    """For people: what, and the command that runs the same decisions again."""
    first = failure["problems"][0]
    lines = [f"seed {failure['seed']} step {failure['step']} ({failure['backend']}): {first}"]
    lines += [f"  {line}" for line in failure["problems"][1:]]
    if whole:
        lines += ["  the last actions:", *[f"    {line}" for line in failure["story"]]]
    lines.append(f"  replay: {replay(failure['seed'], failure['step'])}")
    lines.append(f"  evidence: {failure['evidence']}")
    return "\n".join(lines)


def replay(seed: int, step: int) -> str:
    return f"scripts/faults.py --only campaign --seed {seed} --steps {step + 1} --workers 1"


def _about(options: Options, found: Sum) -> str:
    return (
        f"Seeds {options.seed} to {max(found.seeds, default=options.seed)}, each a world of {plan.STEPS} steps; "
        f"{_at_once(options)} worlds at once. One world again: "
        f"`scripts/faults.py --only campaign --seed SEED --steps {plan.STEPS} --workers 1`."
    )


def _figures(found: Sum, steps: int, seconds: float) -> list[Figure]:
    clean = found.total
    figures = [
        Figure("steps without a violated invariant", f"{clean:,}", f"{steps:,}", clean >= steps and not found.failures),
        Figure("violations", str(len(found.failures)), "0", not found.failures),
    ]
    for backend in sorted(found.steps):
        figures.append(Figure(f"steps on `{backend}`", f"{found.steps[backend]:,} in {found.worlds[backend]} worlds"))
    signals = {key: value for key, value in found.counts.items() if key.startswith("SIG")}
    others = {key: value for key, value in found.counts.items() if not key.startswith("SIG")}
    for key, value in sorted({**others, **signals}.items(), key=lambda pair: (pair[0].startswith("SIG"), -pair[1])):
        figures.append(Figure(key, f"{value:,}"))
    figures.append(Figure("steps a second", f"{clean / max(seconds, 0.1):.1f}"))
    return figures


# ---- inside


def work(argv: list[str]) -> int:
    """One worker: worlds FIRST, FIRST + STRIDE, ... until STEPS are done; a line of JSON for each."""
    namespace.require()
    first, stride, steps = (int(word) for word in argv)
    words = os.environ.get("FAULTS_DISTURBANCES", "").split(",")  # beginnings of names; none of them: no disturbance
    chosen = [one for one in disturbances.ALL if one.name.startswith(tuple(words))]
    backends = tuple(os.environ.get("FAULTS_BACKENDS", ",".join(plan.BACKENDS)).split(","))
    main = os.environ.get("FAULTS_MAIN") or None
    with Group():
        seed = first
        while steps > 0:
            driver = Driver(seed, chosen, backends, main)
            done, failure = driver.run(min(steps, plan.STEPS))
            line = {
                "seed": seed,
                "backend": driver.plan.backend,
                "steps": done,
                "counts": driver.counts,
                "failure": failure._asdict() if failure else None,
            }
            print(json.dumps(line), flush=True)
            steps -= min(steps, plan.STEPS)
            seed += stride
    return 0


class Group:
    """A cgroup of the worker's own, where one can be made, so that what is left in it is known to be ours."""

    def __enter__(self) -> None:
        self.above = world.own_cgroup()
        if self.above is not None and "FAULTS_GROUP" in os.environ:
            path = self.above / os.environ["FAULTS_GROUP"]
            with suppress(OSError):
                path.mkdir()
                (path / "cgroup.procs").write_text("0")

    def __exit__(self, *_: object) -> None:
        if self.above is not None:
            (self.above / "cgroup.procs").write_text("0")


def _remove_groups() -> None:
    """The workers', which have ended, however that was."""
    above = world.own_cgroup()
    for path in above.glob(f"faults-{os.getpid()}-*") if above is not None else []:
        for folder, _folders, _files in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
