"""The fault campaign (scripts/faults/) in small: some worlds in every run of the tests, and what a report is worth."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import rounds
from helpers.pidns import unshare

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "faults.py"
STEPS = 20  # of one world: faults.plan.STEPS

pytestmark = pytest.mark.skipif(not unshare()[0], reason="no pid namespace can be made here")


def campaign(
    seed: int, steps: int, evidence: Path, timeout: float, **environ: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """(how it ended, what it wrote as JSON). Each of its worlds is in a pid and mount namespace of its own."""
    result = evidence / "result.json"
    words = ["--only", "campaign", "--seed", str(seed), "--steps", str(steps), "--workers", "1", "--json", str(result)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, "TMPDIR": str(evidence), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done, json.loads(result.read_text()) if result.exists() else {}


@pytest.fixture
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where worlds and evidence lie: a short path, for there are sockets below."""
    folder = Path("/tmp") / f"sft-faults-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ["cgroup", "subreaper"])
def test_whatever_is_killed_stopped_or_spoilt_every_invariant_holds(
    evidence: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    """One world with the same seed each time, and one with another each time, which is told where it fails."""
    drawn = int(request.config.getoption("seed", 0) or int.from_bytes(os.urandom(3), "big"))
    for seed in (7, drawn % 100_000_000):
        done, _result = campaign(seed, rounds(8, 5 * STEPS), evidence, 110, FAULTS_BACKENDS=backend)
        assert done.returncode == 0, (
            f"FAULTS_BACKENDS={backend} seed {seed}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        )


def test_a_seed_alone_decides_what_is_done() -> None:
    from faults import plan, programs

    instance = {name: name for name in programs.NAMES}

    def decisions(seed: int) -> list[str]:
        return [str(plan.step(seed, number, list(programs.NAMES), instance, 20)) for number in range(50)]

    assert decisions(5) == decisions(5)
    assert decisions(5) != decisions(6)
    assert plan.world(5) == plan.world(5)


@pytest.mark.timeout(120)
def test_a_violation_is_told_with_a_command_that_replays_it(evidence: Path) -> None:
    """safesh broken on purpose, in a copy: every stop says that nobody is left, and ends nobody."""
    copy = evidence / "broken"
    shutil.copytree(ROOT / "supervisor" / "safesh", copy / "safesh", ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "safesh" / "cli" / "ending.py"
    text = path.read_text()
    assert "def end_all(" in text
    lie = "    return [(one, Verdict(target=one.target)) for one in endings]\n"
    head, found, tail = text.partition('"""End every instance, each as soon as')
    doc, line, rest = tail.partition("\n")
    path.write_text(head + found + doc + line + lie + rest)
    broken = {"FAULTS_MAIN": str(copy / "safesh" / "__main__.py"), "FAULTS_DISTURBANCES": "none"}
    done, result = campaign(3, STEPS, evidence, 100, **broken)
    assert done.returncode == 1, done.stdout
    told = re.search(r"replay: scripts/faults.py --only campaign --seed (\d+) --steps (\d+) --workers 1", done.stdout)
    assert told is not None, done.stdout
    again, second = campaign(int(told[1]), int(told[2]), evidence, 100, **broken)
    assert again.returncode == 1, again.stdout
    # The decisions are the same; on a busy machine the lie may come out a step later.
    assert "left" in first_failure(result)
    assert "left" in first_failure(second)
    named = re.search(r"evidence: (\S+)", again.stdout)
    assert named is not None
    assert {"story", "processes", "world"} <= {path.name for path in Path(named[1]).iterdir()}


def first_failure(result: dict[str, Any]) -> str:
    """Seed, step and what was violated; no two runs have the same pids and folders."""
    line: str = result["parts"][0]["failures"][0].splitlines()[0]
    return re.sub(r"\S*/\S*|\d+ ", "", line.partition(": ")[2])[:60] + line.partition(":")[0]
