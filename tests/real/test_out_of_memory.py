"""An out-of-memory kill is told apart from any other SIGKILL, where the kernel says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import procs
from helpers.home import Home, Safe
from safesh._platform.cgroup import Group

LIMIT = 48 * 1024 * 1024
EATER = """
import os, sys
open(os.path.join(sys.argv[1], "cgroup.procs"), "w").write(str(os.getpid()))
print("joined", flush=True)
held = []
while True:
    held.append(b"x" * (1 << 20))
"""


@pytest.fixture
def small() -> Iterator[Path]:
    """A memory cgroup of 48 MiB, of whichever version this machine has."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(base) / f"sft-memory-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(LIMIT))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        procs.wait_until(lambda folder=folder: not (folder / "cgroup.procs").read_text().strip())  # type: ignore[misc]
        folder.rmdir()
        return
    pytest.skip("not run: no memory cgroup can be made here")


def test_the_kernels_out_of_memory_kill_is_the_cause_that_status_names(home: Home, safe: Safe, small: Path) -> None:
    (home.project / "eater.py").write_text(EATER)
    result = safe("start", "eater", "--", sys.executable, "eater.py", str(small), deadline=60)
    assert result.rc == 137, result
    assert "out of memory" in safe("status", "eater").out
    assert "out of memory" in result.err


def test_another_sigkill_is_not_called_out_of_memory(home: Home, safe: Safe) -> None:
    assert safe("start", "plain", "--", "sh", "-c", "kill -9 $$").rc == 137
    said = safe("status", "plain").out
    assert "killed by SIGKILL" in said
    assert "memory" not in said.partition("last exit")[2].splitlines()[0]


def test_a_cgroups_own_count_of_kills_is_read(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert Group(str(tmp_path)).oom_kills() == 2
    assert Group(str(tmp_path / "none")).oom_kills() == 0
