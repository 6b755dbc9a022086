"""Races with a neighbour: they change what our paths are, and who our pids are, while we work. Many rounds each."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.neighbours_paths import REFUSED, _victims
from faults.neighbours_processes import _crash, _take
from faults.neighbours_stage import THEIRS, Stage, wait_for

_CONFIG = """[targets.t]
command = ["sleep", "987654"]
stop = {{ grace = "1s" }}
lock_file = "{folder}/r.lock"
pid_file = "{folder}/r.pid"
"""


@contextmanager
def _swapping(folder: Path, names: list[str], victims: list[str], seed: int) -> Iterator[None]:
    """A child that is them: it makes these names file, symlink, fifo, folder and nothing, as fast as it can."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(THEIRS)
            os.setuid(THEIRS)
            _swap(folder, names, victims, random.Random(seed))
        finally:
            os._exit(0)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the neighbour has ended"
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _swap(folder: Path, names: list[str], victims: list[str], rng: random.Random) -> None:
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        path = str(folder / rng.choice(names))
        spare = f"{path}.theirs{rng.randrange(4)}"
        with suppress(OSError):
            os.unlink(spare)
        with suppress(OSError):
            os.rmdir(spare)
        try:
            kind = rng.randrange(5)
            if kind == 0:
                os.close(os.open(spare, os.O_CREAT | os.O_WRONLY, 0o666))
            elif kind == 1:
                os.symlink(rng.choice(victims), spare)
            elif kind == 2:
                os.mkfifo(spare, 0o666)
            elif kind == 3:
                os.mkdir(spare, 0o777)
            else:
                os.unlink(path)
                time.sleep(rng.random() * 0.003)
                continue
            os.rename(spare, path)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY):
                with suppress(OSError):
                    os.rmdir(path)
        if rng.random() < 0.2:
            time.sleep(rng.random() * 0.01)


def lock_and_pid_files_that_change(stage: Stage, rng: random.Random, rounds: int) -> str:
    """In a folder like /tmp they swap our lock's and pid file's names around every open of ours."""
    victim, folder = _victims(stage)
    shared = stage.public
    stage.configure(_CONFIG.format(folder=shared))
    counts = {0: 0, REFUSED: 0, 75: 0}
    for _ in range(rounds):
        with _swapping(shared, ["r.lock", "r.pid"], [str(victim), str(folder), "/etc/passwd"], rng.randrange(1 << 30)):
            done = stage.safe("start", "t", "--detach").check(0, REFUSED, 75)
            counts[done.code] += 1
            stage.safe("status", "t")
            again = stage.safe("start", "t", "--detach").check(0, REFUSED, 75)
            assert not (done.code == 0 and again.code == 0), "started twice"
            assert len(stage.instances()) <= 1, "two instances"
            stage.safe("stop", "t", "--force", "--now")
        stage.safe("stop", "t", "--force", "--now")
        assert not stage.instances(), "it still runs"
        stage.check()
        for name in ("r.lock", "r.pid"):
            path = shared / name
            with suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return f"{rounds} rounds: {counts[0]} started, {counts[REFUSED]} refused"


def home_that_changes(stage: Stage, rng: random.Random, rounds: int) -> str:
    """In a folder like /tmp they swap the name of our state folder while we make it."""
    victim, folder = _victims(stage)
    started = refused = 0
    for number in range(rounds):
        stage.home = stage.public / f"h{number}"
        with _swapping(
            stage.public, [stage.home.name], [str(folder), str(stage.theirs), str(victim)], rng.randrange(1 << 30)
        ):
            done = stage.start().check(0, REFUSED)
            again = stage.start().check(0, REFUSED, 75)
            assert len(stage.instances()) <= 1, "two instances"
            started += done.code == 0 or again.code == 0
            refused += done.code == REFUSED
            stage.safe("status", "t")
            stage.safe("stop", "t", "--force", "--now")
        stage.end()
        stage.check()
    return f"{rounds} rounds: {started} started, {refused} refused"


def pids_that_pass_on(stage: Stage, rng: random.Random, rounds: int) -> str:
    """Whoever of a run dies, others get those very pids while our verbs are at work."""
    taken = 0
    for _ in range(rounds):
        stage.start().check(0)
        record = stage.record()
        roles = rng.sample(["supervisor", "keeper", "main"], rng.randrange(1, 4))
        verbs = [stage.spawn(*rng.choice((["stop", "t", "--force"], ["restart", "t", "--force"], ["status", "t"])))]
        time.sleep(rng.random() * 0.2)
        for role in roles:
            with suppress(ProcessLookupError):
                os.kill(record[role]["pid"], signal.SIGKILL)
        for role in roles:
            taken += _take(stage, record[role]["pid"], rng.choice((stage.uid, THEIRS)))
        verbs.append(stage.spawn("kill-all", "--force", "--now"))
        for verb in verbs:
            assert verb.wait(60) is not None
        stage.check()
        stage.safe("stop", "t", "--force", "--now").check(0)
        stage.check()
        for decoy in stage.decoys:
            decoy.close()
        stage.decoys.clear()
        assert not stage.instances(), "it still runs"
        stage.end()
    return f"{rounds} rounds: {taken} pids taken again"


def pids_that_go_round(stage: Stage, rng: random.Random, rounds: int) -> str:
    """Few pids are left in the namespace, so they go round in moments: a run's numbers are others' all the time."""
    limit = Path("/proc/sys/kernel/pid_max")
    before = limit.read_text()
    try:
        try:
            limit.write_text("400")
        except OSError:
            return "pid_max cannot be set here"
        if Path("/proc/sys/kernel/ns_last_pid").read_text().strip() >= "4" and int(limit.read_text()) != 400:
            return "pid_max is not this namespace's own"
        churn = os.fork()
        if churn == 0:
            _churn()
        try:
            for _ in range(rounds):
                stage.start().check(0, 75, 71)
                record = stage.record()
                if rng.random() < 0.5:
                    _crash(stage, record, *rng.sample(["supervisor", "keeper"], 2)[: rng.randrange(1, 3)])
                decoy = stage.decoy(uid=stage.uid)
                stage.safe("stop", "t", "--force", "--now").check(0)
                stage.safe("kill-all", "--force", "--now")
                decoy.check()
                assert not stage.instances(), "it still runs"
                decoy.close()
                stage.decoys.remove(decoy)
        finally:
            os.kill(churn, signal.SIGKILL)
            os.waitpid(churn, 0)
    finally:
        limit.write_text(before)
    return f"{rounds} rounds"


def _churn() -> None:
    """Forks children that end at once, so that the numbers go round; some 500 a second."""
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        time.sleep(0.02)
    os._exit(0)


def starts_at_once(stage: Stage, rng: random.Random, rounds: int) -> str:
    """Many starts at one time, a neighbour's hand in the shared folder: one of them at most runs."""
    _victim, folder = _victims(stage)
    stage.configure(_CONFIG.format(folder=stage.public))
    most = 0
    for _ in range(rounds):
        with _swapping(stage.public, ["r.pid"], [str(folder)], rng.randrange(1 << 30)):
            starts = [stage.spawn("start", "t", "--detach") for _ in range(4)]
            codes = [start.wait(60) for start in starts]
            most = max(most, len(stage.instances()))
            assert len(stage.instances()) <= 1, f"{len(stage.instances())} instances run"
            assert codes.count(0) <= 1, f"{codes.count(0)} starts said that they run"
        stage.safe("stop", "t", "--force", "--now")
        wait_for(lambda: not stage.instances())
        stage.check()
    return f"{rounds} rounds of 4 starts"


SCENARIOS: tuple[Callable[[Stage, random.Random, int], str], ...] = (
    lock_and_pid_files_that_change, home_that_changes, pids_that_pass_on, pids_that_go_round, starts_at_once,
)  # fmt: skip
