"""A pid namespace of one's own, in which a contestant may leave behind whom it likes; and an observer who counts them.

Outside: :func:`run` executes ``bench.enclosed`` as pid 1 of a new pid namespace (pid_namespaces(7)) with its own /proc,
and takes its answer. Whatever lives in there ends with it. Inside: :func:`require` before anything dangerous,
:func:`look` for who is alive. Nothing in here believes a word of a contestant: all is read from /proc.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.escapees import PREFIX
from bench.stage import ROOT, BenchError

OUTER = "BENCH_OUTER_NAMESPACE"
MODULE = "bench.enclosed"
CONTESTANT, ANSWER = "contestant", "answer"  # files in its TMPDIR
COMMAND = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")


# ---- outside


@cache
def missing() -> str:
    """Why no namespace can be made here; "" where one can."""
    if shutil.which(COMMAND[0]) is None:
        return "no unshare(1) here"
    try:
        done = subprocess.run([*COMMAND, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no pid namespace: {error}"
    return f"no pid namespace: {done.stderr.strip()}" if done.returncode else ""


def run(words: list[str], contestant: object, deadline: float) -> dict[str, Any]:
    """What ``bench.enclosed WORDS`` says about ``contestant`` in a namespace of its own; BenchError if it fails."""
    if why := missing():
        raise BenchError(why)
    # Short: sockets lie in it, and their names may have 108 bytes (unix(7)).
    folder = Path(tempfile.mkdtemp(prefix="sfb-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    kept = {name: value for name, value in os.environ.items() if name == "SAFESH_VENV" or name[:7] != "SAFESH_"}
    environment = {**kept, OUTER: namespace(), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT / "scripts")}
    command = [*COMMAND, sys.executable, "-P", "-m", MODULE, f"{deadline:g}", *words]
    told = folder / "told"
    try:
        (folder / CONTESTANT).write_bytes(pickle.dumps(contestant))
        with told.open("wb") as output:
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                code = child.wait(deadline + 30)
            except BaseException:
                child.kill()  # --kill-child ends pid 1, and that everybody
                child.wait()
                raise
        if code:
            said = told.read_text(errors="replace").strip()[-1500:]
            raise BenchError(f"{' '.join(words)}: exit status {code}: {said}")
        found: dict[str, Any] = json.loads((folder / ANSWER).read_text())
        return found
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(words)}: not done within {deadline:g} s") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- inside


def namespace() -> str:
    """Our pid namespace, as the kernel names it."""
    return os.readlink("/proc/self/ns/pid")


def inside() -> bool:
    """The claim in the environment is checked against the kernel's word and against pid 1."""
    if os.environ.get(OUTER, "") in ("", namespace()):
        return False
    return MODULE.encode() in Path("/proc/1/cmdline").read_bytes().split(b"\0")


def require() -> None:
    """BenchError unless :func:`inside`."""
    if not inside():
        raise BenchError("this runs only in a pid namespace of its own")


class Seen(NamedTuple):
    """A living process. cpu: seconds of its own; collected: seconds of the children that it has waited for."""

    pid: int
    name: str
    parent: int
    start: int
    cpu: float
    collected: float


_TICK = os.sysconf("SC_CLK_TCK")


def look() -> dict[int, Seen]:
    """Everybody alive in this namespace; zombies are dead."""
    found: dict[int, Seen] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        if fields[0] not in "ZX":
            times = [int(field) / _TICK for field in fields[11:15]]
            found[int(name)] = Seen(int(name), head.partition("(")[2], int(fields[1]), int(fields[19]),
                                    sum(times[:2]), sum(times[2:]))  # fmt: skip
    return found


def escapees() -> dict[int, str]:
    """The living processes of ``escapees.py``: pid -> kind."""
    return {one.pid: one.name.removeprefix(PREFIX) for one in look().values() if one.name.startswith(PREFIX)}


def wait_for(condition: Callable[[], object], deadline: float, step: float = 0.05) -> bool:
    """True as soon as ``condition`` holds, False after ``deadline`` seconds."""
    limit = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(step)
    return True
