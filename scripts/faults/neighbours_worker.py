"""Plays scenarios, inside a pid namespace: ``python -m faults.neighbours_worker [--seed N] [--rounds N] [NAME...]``."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from faults import namespace, neighbours_paths, neighbours_processes, neighbours_races
from faults.neighbours_stage import OURS, ROOT_USER, Unfit, forget_code, stage

PLAIN: dict[str, Callable[[Any], None]] = {
    one.__name__: one for one in (*neighbours_paths.SCENARIOS, *neighbours_paths.LONG, *neighbours_processes.SCENARIOS)
}
RACES: dict[str, Callable[..., str]] = {one.__name__: one for one in neighbours_races.SCENARIOS}


def play(name: str, uid: int, seed: int, rounds: int) -> str:
    """What was counted; AssertionError where something does not hold, Unfit where it cannot be played."""
    with stage(uid) as made:
        if name in RACES:
            return RACES[name](made, random.Random(f"{seed}:{name}:{uid}"), rounds)
        PLAIN[name](made)
    return ""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="faults.neighbours_worker")
    parser.add_argument("names", nargs="*", metavar="SCENARIO")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--users", default=f"{ROOT_USER},{OURS}")
    chosen = parser.parse_args(argv)
    namespace.require()
    try:
        for name in chosen.names or [*PLAIN, *RACES]:
            for uid in map(int, chosen.users.split(",")):
                began = time.monotonic()
                fact: dict[str, Any] = {"scenario": name, "uid": uid}
                try:
                    fact["told"] = play(name, uid, chosen.seed, chosen.rounds)
                except Unfit as error:
                    fact["unfit"] = str(error)
                except Exception as error:
                    fact["violation"] = f"{type(error).__name__}: {error}"[:3000]
                    traceback.print_exc()
                fact["seconds"] = round(time.monotonic() - began, 2)
                print(json.dumps(fact), flush=True)
    finally:
        forget_code()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
