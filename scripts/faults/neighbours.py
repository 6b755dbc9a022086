"""Hostile neighbours: another user of the machine does what it can, and nothing of theirs is touched.

Every scenario is played in one pid and mount namespace (``neighbours_worker``), by a user of ours and by root.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from sys import executable
from typing import Any

from faults import namespace
from faults.part import Figure, Options, Part, PartError

ROOT = Path(__file__).resolve().parents[2]
_QUICK = (
    "home_that_is_theirs", "lock_file_that_is_a_second_name", "pids_in_old_pid_files", "pids_that_pass_on",
    "home_that_changes",
)  # fmt: skip
_ROUNDS, _QUICK_ROUNDS, _MOST_ROUNDS = 30, 2, 300
_SECONDS, _QUICK_SECONDS = 1500, 60
_ABOUT = """Another user has made our paths first (files, symlinks, fifos, folders, second names), swaps them while we
open them, carries our run ids, marks, command lines and control groups' names, holds our locks, talks to our sockets,
and gets the pids that were ours. Decoy files are compared by inode, times and content; decoy processes write down every
signal. Nothing of theirs is touched, and nothing of ours runs twice."""


def run(options: Options) -> Part:
    began = time.monotonic()
    rounds = min(options.steps or (_QUICK_ROUNDS if options.quick else _ROUNDS), _MOST_ROUNDS)
    names = list(_QUICK) if options.quick else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SAFESH_", "PYTHON"))}
    environment |= {
        "PYTHONPATH": f"{ROOT / 'supervisor'}{os.pathsep}{ROOT / 'scripts'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        executable,
        "-m",
        "faults.neighbours_worker",
        "--seed",
        str(options.seed),
        "--rounds",
        str(rounds),
        *names,
    ]
    limit = _QUICK_SECONDS if options.quick else _SECONDS
    try:
        inner = namespace.enter(command, limit, stdout=subprocess.PIPE, environ=environment)
    except RuntimeError as error:
        raise PartError(str(error)) from None
    figures: list[Figure] = []
    failures: list[str] = []
    try:
        for line in inner.process.stdout or ():
            try:
                _add(json.loads(line), figures, failures, f"--only neighbours --seed {options.seed} --steps {rounds}")
            except ValueError:
                continue
    finally:
        code = inner.close(10)
        if inner.process.stdout is not None:
            inner.process.stdout.close()
    if code or not figures:
        failures.append(f"the run in the namespace ended with status {code} after {len(figures)} scenarios")
    return Part("neighbours", "Hostile neighbours", _ABOUT, figures, failures, time.monotonic() - began)


def _add(fact: dict[str, Any], figures: list[Figure], failures: list[str], replay: str) -> None:
    name = fact["scenario"].replace("_", " ")
    user = "root" if fact["uid"] == 0 else "another user"
    if "violation" in fact:
        failures.append(f"{name}, as {user}: {fact['violation']}; replay: scripts/faults.py {replay}")
    held = "not held" if "violation" in fact else f"not played: {fact['unfit']}" if "unfit" in fact else "held"
    figures.append(Figure(f"{name}, as {user}", fact.get("told") or held, "held",
                          None if "unfit" in fact else "violation" not in fact, ""))  # fmt: skip
