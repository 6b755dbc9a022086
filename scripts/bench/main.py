"""The command line of ``make bench``."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from bench import latency, memory, peers, plans, process, report, throughput
from bench.figures import Section
from bench.stage import ROOT, BenchError, Stage

_TARGETS = ("status", "exec", "start", "wrapper", "idle", "logs", "tree")
_KEYS = (*_TARGETS, "process", "plans")
_WHOLE = ({*_KEYS}, {*_TARGETS}, {"process"}, {"plans"})  # what docs/benchmarks.md takes


class Effort(NamedTuple):
    """How much is done: rounds by kind, seconds of idling, bytes of log and of captured output, processes at once,
    steps of a plan."""

    status: int
    exec: int
    start: int
    wrapper: int
    tree: int
    logs: int
    idle: float
    size: int
    process: int
    capture: int
    crowd: int
    plans: int
    steps: int


FULL = Effort(
    status=31, exec=31, start=21, wrapper=61, tree=11, logs=7, idle=10.0, size=1 << 30,
    process=301, capture=1 << 30, crowd=1000, plans=5, steps=1000,
)  # fmt: skip
QUICK = Effort(
    status=7, exec=7, start=5, wrapper=15, tree=3, logs=2, idle=3.0, size=128 << 20,
    process=31, capture=32 << 20, crowd=50, plans=1, steps=60,
)  # fmt: skip


def main(argv: list[str]) -> int:
    """0 also when a figure falls short, for a benchmark measures and never judges; 1 when one could not be taken."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    begin = time.monotonic()
    output = Path(options.json).absolute() if options.json else None
    with Stage() as stage:
        found = peers.find(
            stage,
            install=not options.quick,
            install_debian=options.install_peers,
            use=not options.no_peers,
        )
        settings = {"quick": options.quick, "only": options.only, "rounds": options.rounds}
        results = report.Results(stage, found, settings)
        for key, measure in _plan(stage, found, options).items():
            try:
                for section in measure():
                    results.sections.append(section)
                    print(report.table(section), end="\n\n", flush=True)
            except BenchError as error:
                results.failures[key] = str(error)
                print(f"{key}: {error}\n", flush=True)
        results.close()
    print(f"{report.where(results)}; {time.monotonic() - begin:.0f} s")
    print(report.closing(results))
    if output is not None:
        output.write_text(json.dumps(results.plain(), indent=1, ensure_ascii=False) + "\n")
    if options.write and not results.failures:
        report.write(results)
        print(f"written: {report.DOCUMENT.relative_to(ROOT)}")
    return 1 if results.failures else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller logs: under a minute")
    parser.add_argument("--only", type=_chosen, default=list(_KEYS), metavar="A,B", help=", ".join(_KEYS))
    parser.add_argument("--rounds", type=int, help="rounds of everything, instead of the usual ones")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--write", action="store_true", help="renew the figures in docs/benchmarks.md")
    parser.add_argument("--no-peers", action="store_true", help="safesh alone")
    parser.add_argument("--install-peers", action="store_true", help="root: apt-get installs tini and dumb-init")
    options = parser.parse_args(argv)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.write and (options.quick or options.no_peers or set(options.only) not in _WHOLE):
        parser.error(
            "--write: only the figures of a whole run go into docs/benchmarks.md; "
            "without --quick and --no-peers; --only process or --only plans alone"
        )
    return options


def _chosen(text: str) -> list[str]:
    keys = text.split(",")
    for key in keys:
        if key not in _KEYS:
            raise argparse.ArgumentTypeError(f"{key!r} is none of {', '.join(_KEYS)}")
    return keys


def _plan(stage: Stage, found: peers.Peers, options: argparse.Namespace) -> dict[str, Callable[[], Iterable[Section]]]:
    effort = QUICK if options.quick else FULL
    if options.rounds is not None:
        kinds = ("status", "exec", "start", "wrapper", "tree", "logs", "process", "plans")
        rounds = dict.fromkeys(kinds, options.rounds)
        effort = effort._replace(**rounds)
    plan: dict[str, Callable[[], Iterable[Section]]] = {
        "status": lambda: (latency.status(stage, found, effort.status),),
        "exec": lambda: (latency.execute(stage, found, effort.exec),),
        "start": lambda: latency.start_and_stop(stage, found, effort.start),
        "wrapper": lambda: (latency.wrapper(stage, effort.wrapper),),
        "idle": lambda: memory.idle(stage, found, effort.idle),
        "logs": lambda: throughput.logs(stage, found, effort.logs, effort.size),
        "tree": lambda: (latency.big_tree(stage, effort.tree),),
        "process": lambda: process.process(stage, found, effort.process, effort.capture, effort.crowd),
        "plans": lambda: plans.plans(
            stage, effort.plans, effort.steps, install=not options.quick, use=not options.no_peers
        ),
    }
    return {key: plan[key] for key in _KEYS if key in options.only}


def _leave(number: int, _frame: object) -> NoReturn:
    """By way of every ``finally``, so that what was started is ended."""
    sys.exit(128 + number)
