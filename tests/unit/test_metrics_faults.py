"""A process that vanishes at any step of a sample, a file that closes, no descriptor left: never an exception.

Every system call that looks is counted, and the same sample is taken again with the first, the second... one failing.
"""

from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.campaign import thinned
from helpers.home import SUPERVISOR
from helpers.procs import Spawn
from safesh import _platform
from safesh.metrics.monitor import ResourceMonitor
from safesh.metrics.sampler import TreeSampler

ROOT = SUPERVISOR.parent
CALLS = ("open", "read", "listdir", "stat", "sched_getaffinity")
MOST_STEPS = 150
FAULTS: dict[str, Callable[[], OSError]] = {
    "vanished": lambda: FileNotFoundError(errno.ENOENT, "No such file"),
    "ended": lambda: ProcessLookupError(errno.ESRCH, "No such process"),
    "closed to us": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "no descriptor": lambda: OSError(errno.EMFILE, "Too many open files"),
}


class Faults:
    """Lets the ``at``-th look fail, and, with ``lasting``, every one after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = 0
        self.lasting = False
        self.make: Callable[[], OSError] | None = None
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        real = builtins.open
        wrapped = self._wrap("", real)  # psutil's way to /proc
        monkeypatch.setattr(
            builtins, "open", lambda file, *rest, **options: (wrapped if "/proc" in str(file) else real)(
                file, *rest, **options
            )
        )  # fmt: skip

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.make is not None and (self.count == self.at or (self.lasting and self.count > self.at)):
                raise self.make()
            if self.make is None and self.count == self.at and name == "read":
                return b""  # the process ended between open and read
            return real(*arguments, **options)

        return call

    def arm(self, at: int, make: Callable[[], OSError] | None, lasting: bool) -> None:
        self.count, self.at, self.make, self.lasting = 0, at, make, lasting

    def rest(self) -> int:
        """Stop; how many looks there were."""
        self.at, self.make = 0, None
        return self.count


@pytest.fixture(scope="module")
def tree() -> Iterator[Spawn]:
    """A shell with two children."""
    with Spawn("/bin/sh", "-c", "sleep 600 & sleep 600 & echo ready; wait") as spawn:
        spawn.wait_line("ready")
        yield spawn


def questions(pid: int) -> dict[str, Callable[[], object]]:
    monitor = ResourceMonitor(gpu=False)
    sampler = TreeSampler(pid, exact_every=1e-9)

    def sample() -> object:
        sampler._exact_at = None
        return sampler.sample()

    return {
        "snapshot": monitor.get_resource_snapshot,
        "process": lambda: monitor.get_process_resources(pid, exact=True),
        "limits": lambda: monitor.get_process_limits(pid),
        "tree": lambda: monitor.get_tree_resources(pid, exact=True, members=True),
        "new tree": lambda: ResourceMonitor(gpu=False).get_tree_resources(pid),
        "table": lambda: monitor.processes(pids=[pid, os.getpid()], exact=True),
        "sampler": sample,
        "new sampler": lambda: TreeSampler(pid).sample(),
    }


@thinned(2)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", [*FAULTS, "empty"])
@pytest.mark.parametrize("question", questions(0))
def test_nothing_that_fails_at_any_step_raises(
    question: str, fault: str, lasting: bool, tree: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = questions(tree.pid)[question]
    ask()
    faults = Faults(monkeypatch)
    faults.arm(-1, None, False)
    ask()
    steps = faults.rest()
    assert steps > 3
    # The portable backend looks at every process of the machine to find a tree: some of those steps do for all.
    chosen = range(1, steps + 1) if steps <= MOST_STEPS else [*range(1, 15), *range(15, steps, steps // 15), steps]
    for step in chosen:
        faults.arm(step, FAULTS.get(fault), lasting)
        try:
            ask()
        except Exception as error:
            faults.rest()
            raise AssertionError(f"step {step} of {steps}, {fault}: {error!r}") from error
        faults.rest()
    assert ask() is not None, "and it answers again afterwards"


def test_a_sample_that_could_not_look_tells_the_last_figures_and_why(
    tree: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = TreeSampler(tree.pid)
    good = sampler.sample()
    faults = Faults(monkeypatch)
    faults.arm(1, FAULTS["no descriptor"], True)
    bad = sampler.sample()
    faults.rest()
    assert good is not None
    assert bad is not None
    assert "Too many open files" in bad.failed
    assert (bad.processes, bad.memory_bytes, bad.cpu_percent) == (good.processes, good.memory_bytes, None)
    again = sampler.sample()
    assert again is not None
    assert again.failed == ""


@pytest.mark.skipif(not _platform.HAS_SUBREAPER, reason="this is the portable backend already")
def test_the_portable_backend_raises_for_nothing_either() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--shared", __file__]
    environment = {**os.environ, "SAFESH_BACKEND": "posix"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
