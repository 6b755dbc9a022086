"""The command line of ``make faults``."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from faults import report
from faults.part import Options, Part, PartError

KEYS = ("campaign", "inject", "fuzz", "neighbours", "soak", "races")
MORE = ("mutations",)  # only when it is asked for: it tests the campaign, not safesh
MODULES = {key: f"faults.{key}" for key in (*KEYS, *MORE)}


def main(argv: list[str]) -> int:
    """0 all bars kept; 1 an invariant was violated, a bar missed, or a part could not be run."""
    if argv[:1] == ["worker"]:  # the inner half of a part, in a namespace of its own: worker MODULE ARGS
        code: int = importlib.import_module(f"faults.{argv[1]}").work(argv[2:])
        return code
    chosen = parse(argv)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    output = Path(chosen.json).absolute() if chosen.json else None
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    options = Options(chosen.quick, seed, chosen.steps, chosen.workers, chosen.minutes)
    print(f"seed {seed}, {options.workers} workers")
    parts: list[Part] = []
    broken: dict[str, str] = {}
    begin = time.monotonic()
    results = report.Results()
    for key in chosen.only:
        try:
            part: Part = importlib.import_module(MODULES[key]).run(options)
        except (PartError, ImportError) as error:
            broken[key] = str(error)
            print(f"{key}: could not be run: {error}\n")
            continue
        parts.append(part)
        print(report.table(part), end="\n\n")
    results.close(parts, broken, options)
    print(f"{results.where()}; {time.monotonic() - begin:.0f} s")
    print(report.closing(parts, broken))
    if output is not None:
        output.write_text(json.dumps(results.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.write:
        print(f"written: {report.write(results)}")
    return 0 if not broken and all(part.good for part in parts) else 1


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults ARGS=", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of everything: minutes")
    parser.add_argument("--only", type=_chosen, default=list(KEYS), metavar="A,B", help=", ".join(MODULES))
    parser.add_argument("--seed", type=int, help="the same decisions again; without it a random one, which is told")
    parser.add_argument("--steps", type=int, help="how many, instead of a part's usual number")
    parser.add_argument("--minutes", type=float, help="how long, instead of a part's usual time")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="at once (default: one a core)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--write", action="store_true", help="renew the figures in docs/reliability.md")
    chosen = parser.parse_args(argv)
    for name in ("steps", "minutes", "workers"):
        value = getattr(chosen, name)
        if value is not None and value <= 0:
            parser.error(f"--{name}: more than 0")
    if chosen.write and (chosen.quick or chosen.steps is not None or chosen.minutes is not None):
        parser.error("--write: only the figures of whole parts go into docs/reliability.md")
    return chosen


def _chosen(text: str) -> list[str]:
    keys = text.split(",")
    for key in keys:
        if key not in MODULES:
            raise argparse.ArgumentTypeError(f"{key!r} is none of {', '.join(MODULES)}")
    return keys


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
