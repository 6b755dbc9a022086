"""The command line of ``make bench``."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bench import inside, latency, memory, peers, plans, process, report, rivals, throughput
from bench.figures import Section
from bench.stage import ROOT, BenchError, Stage

_TARGETS = ("status", "exec", "start", "wrapper", "idle", "logs", "tree")
_PARTS = ("process", "plans", "side", "escape")
_KEYS = (*_TARGETS, *_PARTS)
_WHOLE = ({*_KEYS}, {*_TARGETS}, *({part} for part in _PARTS))  # what docs/benchmarks.md takes


class Effort(NamedTuple):
    """How much is done: rounds by kind, seconds of idling, bytes of log and of captured output, processes at once,
    steps of a plan; side, escape: the settings of those parts (inside.py), rounds in them."""

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
    side: dict[str, Any]
    escape: dict[str, Any]


FULL = Effort(
    status=31, exec=31, start=21, wrapper=61, tree=11, logs=7, idle=10.0, size=1 << 30,
    process=301, capture=1 << 30, crowd=1000, plans=5, steps=1000,
    side={"wrapper": 31, "status": 21, "start": 11, "kill": 11, "idle": 10.0, "counts": [1, 10],
          "load": {"rounds": 3, "size": 32 << 20, "seconds": 20.0, "programs": 10}},
    escape={"rounds": 2},
)  # fmt: skip
QUICK = Effort(
    status=7, exec=7, start=5, wrapper=15, tree=3, logs=2, idle=3.0, size=128 << 20,
    process=31, capture=32 << 20, crowd=50, plans=1, steps=60,
    side={"wrapper": 2, "status": 2, "start": 1, "kill": 1, "idle": 2.0, "counts": [1],
          "load": {"rounds": 1, "size": 4 << 20, "seconds": 4.0, "programs": 2}},
    escape={"rounds": 1, "patience": 4.0},
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
            use=not options.no_peers,
        )
        settings = {"quick": options.quick, "only": options.only, "rounds": options.rounds}
        results = report.Results(stage, found, settings)
        for key, measure in _plan(stage, found, results, options).items():
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
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, small logs, no installing; escape only if asked for"
    )
    parser.add_argument("--only", type=_chosen, metavar="A,B", help=", ".join(_KEYS))
    parser.add_argument("--rounds", type=int, help="rounds of everything, instead of the usual ones")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--write", action="store_true", help="renew the figures in docs/benchmarks.md")
    parser.add_argument("--no-peers", action="store_true", help="safesh alone")
    options = parser.parse_args(argv)
    if options.only is None:  # escape waits most of its minutes, however little is done
        options.only = [key for key in _KEYS if not (options.quick and key == "escape")]
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.write and (options.quick or options.no_peers or set(options.only) not in _WHOLE):
        parser.error(
            "--write: only the figures of a whole run go into docs/benchmarks.md; without --quick and --no-peers; "
            f"--only {' or '.join(_PARTS)} alone"
        )
    return options


def _chosen(text: str) -> list[str]:
    keys = text.split(",")
    for key in keys:
        if key not in _KEYS:
            raise argparse.ArgumentTypeError(f"{key!r} is none of {', '.join(_KEYS)}")
    return keys


def _enclosed(
    stage: Stage, part: str, settings: dict[str, Any], results: report.Results, options: argparse.Namespace
) -> Iterator[Section]:
    """A part that runs in a namespace of its own; what it has found of rivals is the results' as well."""
    told: dict[str, Any] = {}
    if options.no_peers:
        settings = {**settings, "rivals": ["safesh"]}
    elif not options.quick:
        rivals.find(stage, True)  # installs them; who is here is looked up inside
    yield from inside.sections(stage, part, settings, told)
    results.versions |= {name: f"{name} {version}" for name, version in told.get("versions", {}).items()}
    results.missing |= told.get("missing", {})


def _plan(
    stage: Stage, found: peers.Peers, results: report.Results, options: argparse.Namespace
) -> dict[str, Callable[[], Iterable[Section]]]:
    effort = QUICK if options.quick else FULL
    if options.rounds is not None:
        kinds = ("status", "exec", "start", "wrapper", "tree", "logs", "process", "plans")
        rounds = dict.fromkeys(kinds, options.rounds)
        effort = effort._replace(**rounds)
        side = {**effort.side, **dict.fromkeys(("wrapper", "status", "start", "kill"), options.rounds)}
        effort = effort._replace(side=side, escape={**effort.escape, "rounds": options.rounds})
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
        "side": lambda: _enclosed(stage, "side", effort.side, results, options),
        "escape": lambda: _enclosed(stage, "escape", effort.escape, results, options),
    }
    return {key: plan[key] for key in _KEYS if key in options.only}


def _leave(number: int, _frame: object) -> NoReturn:
    """By way of every ``finally``, so that what was started is ended."""
    sys.exit(128 + number)
