"""The way back: with everything undone all must end, nobody be left, every lock be free, and the next start work."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from faults import invariants
from faults.processes import Process

if TYPE_CHECKING:
    from faults.driver import Driver


def recover(driver: Driver, step: int) -> list[str]:
    """What did not work."""
    world, known = driver.world, driver.known
    driver.undo_until(float("inf"))
    world.prefix, world.environ = [], {}
    world.alive.touch()
    world.write_config()
    rng = random.Random(f"recover {driver.seed} {step}")
    # Both ways have to do: at once, and with its grace.
    words = ("kill-all", "--force", "--now") if rng.random() < 0.6 else ("kill-all", "--force")
    problems = _succeed(driver, *words)
    if not world.wait(lambda: not _left(driver), 5):
        problems += [f"left after {' '.join(words)}: {one}" for one in _left(driver)]
    problems += [f"the lock of {name} is still held" for name in world.instances if world.lock_held(name)]
    problems += _cgroups(driver)
    if problems:
        return problems
    known.killed.clear()
    for name in rng.sample(world.names, 2):
        problems += _start_again(driver, name)
    # What is still damaged belongs to instances that were not started, or is nobody's matter but a reader's.
    for path in (*world.damaged, str(world.files / "events.jsonl")):
        _remove(path)
        for part in world.files.glob(f"{Path(path).name}.*") if path.endswith(".log") else ():
            _remove(str(part))  # it has been rotated meanwhile, its wrong mode with it
    world.damaged.clear()
    known.events = (0, 0)
    known.lost = known.was_full = False
    return problems


def _start_again(driver: Driver, name: str) -> list[str]:
    world = driver.world
    problems = _succeed(driver, "start", "--detach", name)
    while told := [path for path in world.damaged if any(path in problem for problem in problems)]:
        # Refused by name: what the message says is done, and then it has to work.
        driver.tell(f"removed as told: {told[0]}")
        _remove(told[0])
        world.damaged.discard(told[0])
        problems = _succeed(driver, "start", "--detach", name)
    if name != "crasher" and not problems:
        problems += _succeed(driver, "status", name)
    problems += [f"after start --detach {name}: {line}" for line in driver.settle()]
    problems += _succeed(driver, "stop", "--force", name)
    if not world.wait(lambda: not _left(driver), 5):
        problems += [f"left after stop {name}: {one}" for one in _left(driver)]
    return problems


def _left(driver: Driver) -> list[Process]:
    return [one for one in driver.world.members() if one.pid not in driver.world.foreign]


def _cgroups(driver: Driver) -> list[str]:
    """No cgroup of a run is left, either, unless we have spoilt what tells where it is."""
    folder = driver.world.cgroup
    if folder is None or not folder.name.startswith("faults-"):
        return []
    driver.world.wait(lambda: not [*folder.glob("safesh-*")], 1)
    left = [f"left: {path}" for path in folder.glob("safesh-*")]
    if left and (driver.known.lost or any(path.endswith((".lock", ".json")) for path in driver.world.damaged)):
        driver.remove_groups()
        return []
    return left


def _succeed(driver: Driver, *words: str) -> list[str]:
    """Run a command that has nothing in its way."""
    done = driver.world.safe(*words)
    driver.tell(f"recovery: {done}")
    problems = invariants.output_problems(done, killed=False)
    if done.code and not problems:
        said = done.err.strip()[-800:] or done.out.strip()[-800:]
        problems.append(f"`{' '.join(words)}` returned {done.code}, not 0, with nothing in its way: {said}")
    return problems


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
