"""Pid 1 of an enclosure: ``python -m bench.enclosed SECONDS WHAT WORDS``. See :mod:`bench.enclosure`.

Collects orphans, as an init does, and ends everything with itself: when the work is done, and after SECONDS.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench import crashing, enclosure, tuning
from bench.enclosure import escapees, look, wait_for
from bench.escapees import KINDS
from bench.rivals.base import Hall, Rival
from bench.stage import SAFE, BenchError, Stage

_UP = 30.0  # seconds for all processes of the program to be there
_STOP = 20.0  # for a stop command; the longest grace of them is 7 s
NAME = "prog"
PROGRAM = str(Path(__file__).with_name("escapees.py"))


class NotUp(BenchError):
    """The command said that the program was started, and it was not."""


class Run:
    """One contestant in one namespace, its program up."""

    def __init__(self, stage: Stage, rival: Rival, changes: dict[str, str], grace: float, deaf: bool) -> None:
        self.ready = stage.folder / "ready"
        command = [stage.python, "-E", "-s", "-S", PROGRAM, str(self.ready), *(["deaf"] if deaf else [])]
        self.stage = stage
        self.hall: Hall = rival.running(stage, {NAME: command}, grace=grace)
        tuning.whole(self.hall)
        self.hall.changes.update(changes)

    def starts(self) -> int:
        """How often the program has come up whole."""
        return len(self.ready.read_text().split()) if self.ready.exists() else 0

    def begin(self, again: bool = False) -> None:
        before = self.starts()
        self.hall.begin(NAME)
        if not wait_for(lambda: self.starts() > before, 5.0 if again else _UP):
            raise NotUp("said that it has started the program, which did not come up")

    def stop(self) -> tuple[str, float]:
        """(what the stop command or the wrapper claimed, seconds). SIGTERM to a wrapper; else the command."""
        command = self.hall.stop(NAME)
        child = self.hall.children.get(NAME)
        begin = time.monotonic()
        try:
            if command is not None:
                done = subprocess.run(
                    command,
                    env=self.stage.environment(**self.hall.changes),
                    cwd=self.stage.project,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_STOP,
                )
                claim = f"exit status {done.returncode}"
            elif child is not None:
                child.terminate()
                code = child.wait(_STOP)
                claim = f"exit status {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
            else:
                raise BenchError("has no stop command")
        except subprocess.TimeoutExpired:
            claim = f"no answer within {_STOP:g} s"
        return claim, time.monotonic() - begin


def stop(run: Run) -> dict[str, Any]:
    """Who is alive one second after the stop command has returned and the main process is gone."""
    whole = sorted(escapees().values())
    claim, seconds = run.stop()
    late = settle(1) if "no answer" not in claim else 0.0
    time.sleep(1.0)
    return {"whole": whole, "claim": claim, "seconds": seconds, "late": late, "left": sorted(escapees().values())}


def mains() -> int:
    return Counter(escapees().values())["main"]


def settle(before: int) -> float:
    """Some return before they have ended the main process: they are given the time they need. Seconds that it took.

    before: how many main processes there were.
    """
    begin = time.monotonic()
    wait_for(lambda: mains() < max(1, before), _STOP / 2)
    return time.monotonic() - begin


def kill(run: Run, part: str, patience: float) -> dict[str, Any]:
    """SIGKILL for the supervisor; who is left after ``patience`` seconds; what another start and a stop do then."""
    enclosure.require()
    whole = escapees()
    pids = holders(run, part)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: none of them sees another one's end
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)  # nobody but us and them lives in here
    time.sleep(0.2)
    for child in run.hall.children.values():
        if child.pid not in look():
            child.wait()  # a zombie would keep its pid, and a pid file would seem to be right
    begin = time.monotonic()
    ended = wait_for(lambda: not escapees(), patience)
    left = escapees()
    found: dict[str, Any] = {"whole": sorted(whole.values()), "left": sorted(left.values())}
    found["seconds"] = time.monotonic() - begin if ended else None
    found["again"] = start_again(run)
    time.sleep(1.0)
    found["mains"] = mains()
    try:
        found["claim"], _seconds = run.stop()
    except BenchError as error:
        found["claim"] = str(error)
    settle(found["mains"])
    time.sleep(1.0)
    found["after_stop"] = sorted(escapees().values())
    return found


def start_again(run: Run) -> str:
    """As its user would: "started", or why not. Once more after a while, for a daemon that isn't ready yet."""
    daemon = run.hall.children.get("")
    told = ""
    try:
        if daemon is None or daemon.poll() is not None:
            with suppress(FileExistsError):  # pm2's folder: the next command starts it
                run.hall.open()
    except BenchError as error:
        return str(error)
    for _ in range(2):
        time.sleep(1.0)
        try:
            run.begin(again=True)
            return "started"
        except NotUp as error:
            return str(error)
        except BenchError as error:
            told = str(error)
    return told


def holders(run: Run, part: str) -> list[int]:
    """The processes to kill. part "all": the supervisor's own, as the adapter knows them; top: of these, the one that
    starts the others; each: the others; supervisor, keeper, both: ours, as the kernel knows them, from the program
    upwards."""
    if part in ("all", "top", "each"):
        own = run.hall.pids()
        return {"all": own, "top": own[:1], "each": own[1:]}[part]
    everybody = look()
    main = next(pid for pid, kind in escapees().items() if kind == "main")
    keeper = everybody[main].parent
    supervisor = everybody[keeper].parent
    if min(keeper, supervisor) <= 2:
        raise BenchError("the program's parents are not a keeper and a supervisor")
    return {"supervisor": [supervisor], "keeper": [keeper], "both": [supervisor, keeper]}[part]


def work(words: list[str]) -> None:
    """Answer, then clean up: only our supervisor has anything outside of this namespace (a cgroup). The others just end
    with it, for some would take minutes over what they have lost."""
    enclosure.require()
    folder = Path(os.environ["TMPDIR"])
    rival, changes = pickle.loads((folder / enclosure.CONTESTANT).read_bytes())
    with Stage() as stage:
        if words[0] == "loop":
            hall, measure = crashing.prepare(stage, rival, changes, float(words[1]), int(words[2]))
        else:
            run = Run(stage, rival, changes, float(words[1]), words[2:] == ["deaf"])
            hall, measure = run.hall, partial(answer, run, words)
        with hall:
            found = measure()
            (folder / enclosure.ANSWER).write_text(json.dumps(found))
            if not rival.ours or rival.kind == "wrapper":
                os._exit(0)


def answer(run: Run, words: list[str]) -> dict[str, Any]:
    run.begin()
    if {*escapees().values()} != {"main", *KINDS}:
        raise BenchError(f"the program is not whole: {sorted(escapees().values())}")
    check_backend(run)
    return stop(run) if words[0] == "stop" else kill(run, words[2], float(words[3]))


def check_backend(run: Run) -> None:
    """Ours takes another one where the machine has not what it was told to use."""
    wanted = run.hall.changes.get("SAFESH_BACKEND", "")
    if wanted and run.hall.rival.ours:
        told = json.loads(run.hall.ask(SAFE, "status", "--json", NAME))["instances"][0]["record"]["backend"]
        if told != wanted:
            raise BenchError(f"this machine has no {wanted}, it got {told}")


def main() -> int:
    enclosure.require()
    signal.signal(signal.SIGALRM, lambda *_: os._exit(124))  # pid 1 has no default actions
    signal.alarm(int(float(sys.argv[1])) + 1)
    child = os.fork()
    if child == 0:
        signal.alarm(0)
        code = 1
        try:
            work(sys.argv[2:])
            code = 0
        except BenchError as error:
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 127


if __name__ == "__main__":
    sys.exit(main())
