"""Run the test files in pytests of their own, several at a time, and close as pytest does.

Most tests wait for processes, not for the processor, so side by side they take a third of the time. Small files share a
pytest, whose own start costs more than most of them. Each pytest checks what its own tests leave behind; what only the
whole can tell (cgroups, mounts, files in the checkout) is compared here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 5
TOGETHER = 4  # pytests that the unit tests are shared out to
# Those that measure, or that need most of the machine, come last and alone.
ALONE = ("test_bench.py", "test_must_show.py", "test_plan_must_show.py", "test_safe_sh.py")
# Begun first, so that none of them runs on when all others have ended; then by size.
LONG = (
    "test_dashboard.py",
    "test_plan_dask.py",
    "test_process_neighbours.py",
    "test_process_deadlines.py",
    "test_sampling.py",
    "test_plan_run.py",
    "test_faults_state.py",
    "test_plan_faults.py",
    "test_doctor.py",
    "test_faults_runtime.py",
    "test_process_streams.py",
    "test_hooks.py",
    "test_holder.py",
    "test_limits.py",
    "test_top.py",
    "test_process_errno.py",
    "test_helpers.py",
    "test_tree.py",
    "test_keeper.py",
    "test_plan_monitor.py",
    "test_export.py",
    "test_bootstrap.py",
    "test_mission_environments.py",
    "test_process_asyncio.py",
    "test_health_verb.py",
    "test_faults_input.py",
    "test_readiness.py",
)
SUMMARY = re.compile(r"(\d+) (passed|failed|error|errors|skipped|xfailed|deselected)")


# Under nohup, or in a script's background, these are ignored, and what tests start would be deaf from birth.
IGNORED = [
    number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT) if signal.getsignal(number) is signal.SIG_IGN
]


def take_signals() -> None:
    """In the child: what our caller ignores is the tests' to hear."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


def turn(file: Path) -> tuple[bool, int, int]:
    """Where a file comes in the order."""
    place = LONG.index(file.name) if file.name in LONG else len(LONG)
    return file.name in ALONE, place, -file.stat().st_size


def batches(files: list[Path]) -> list[tuple[Path, ...]]:
    """Which files share a pytest, in the order of ``turn``: the unit tests, in TOGETHER lots of like size."""
    lots: list[list[Path]] = [[] for _ in range(TOGETHER)]
    for file in sorted(files, key=lambda one: one.stat().st_size, reverse=True):
        if file.parent.name == "unit" and file.name not in (*LONG, *ALONE):
            min(lots, key=lambda lot: sum(one.stat().st_size for one in lot)).append(file)
    shared = {file for lot in lots for file in lot}
    each = [(file,) for file in files if file not in shared]
    return sorted([*each, *(tuple(lot) for lot in lots if lot)], key=lambda batch: turn(batch[0]))


def named(batch: tuple[Path, ...]) -> str:
    first = str(batch[0].relative_to(ROOT))
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"


class Job:
    """One pytest over a batch of files."""

    def __init__(self, files: tuple[Path, ...], options: list[str]) -> None:
        self.files = files
        self.begun = time.monotonic()
        self.output = tempfile.TemporaryFile()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--shared",
            "-p",
            "no:cacheprovider",
            *options,
            *map(str, files),
        ]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            preexec_fn=take_signals if IGNORED else None,
            start_new_session=bool(IGNORED),  # and what we are not to hear, the tests do not get either
        )

    def finish(self) -> tuple[int, str]:
        """(exit status, everything it said), once it has ended."""
        code = self.process.wait()
        self.output.seek(0)
        text = self.output.read().decode("utf-8", "replace")
        self.output.close()
        return code, text


def surroundings() -> set[str]:
    """What tests could leave behind outside of their own folders."""
    found = set()
    for folder, names, _files in os.walk("/sys/fs/cgroup"):
        found |= {os.path.join(folder, name) for name in names if name.startswith("safesh-")}
    status = subprocess.run(
        ["git", "status", "--porcelain", "--ignored=no"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found |= {f"file {line}" for line in status.stdout.splitlines()}
    mounts = Path("/proc/self/mounts")
    found |= {f"mount {line}" for line in mounts.read_text().splitlines()} if mounts.exists() else set()
    return found


def main(arguments: list[str]) -> int:
    """arguments: test files (none: all there are) and options of pytest."""
    chosen = [ROOT / word for word in arguments if word.endswith(".py")]
    options = [word for word in arguments if not word.endswith(".py")]
    waiting = batches(chosen or list((ROOT / "tests").rglob("test_*.py")))
    before, begun = surroundings(), time.monotonic()
    running: list[Job] = []
    total: dict[str, int] = {}
    failed: list[str] = []
    again: list[tuple[Path, ...]] = []
    flaky: list[str] = []
    skipped: list[str] = []
    while waiting or running:
        next_to = [*waiting[:1], *(job.files for job in running)]
        alone = any(batch[0].name in ALONE or batch in again for batch in next_to)
        if waiting and len(running) < (1 if alone else AT_ONCE):
            running.append(Job(waiting.pop(0), options))
            continue
        done = next((job for job in running if job.process.poll() is not None), None)
        if done is None:
            time.sleep(0.05)
            continue
        running.remove(done)
        code, text = done.finish()
        name = named(done.files)
        closing = text.rstrip().rpartition("\n")[2]
        print(f"{name}: {closing.strip('= ')}", flush=True)
        if code not in (0, 5) and done.files not in again:
            # Told aloud, and tried once more with the machine to itself: what fails then is broken, what passes
            # then cannot bear company, and the last lines say which it was.
            print(text, flush=True)
            again.append(done.files)
            waiting.append(done.files)
            continue
        for count, what in SUMMARY.findall(closing):
            what = "error" if what == "errors" else what
            total[what] = total.get(what, 0) + int(count)
        skipped += [line for line in text.splitlines() if line.startswith("SKIPPED ")]
        if code not in (0, 5):
            failed.append(name)
            print(text, flush=True)
        elif done.files in again:
            flaky.append(name)
    left = sorted(surroundings() - before)
    for line in skipped:
        print(line)
    for line in left:
        print(f"left behind by this run: {line}")
    for name in flaky:
        print(f"FLAKY {name}: failed in company, passed alone")
    for name in failed:
        print(f"FAILED {name}")
    if left and not again:  # a test that failed may have left what it would have tidied up
        total["error"] = total.get("error", 0) + len(left)
    order = ("failed", "passed", "skipped", "deselected", "xfailed", "error")
    said = ", ".join(f"{total[what]} {what}" for what in order if total.get(what)) or "no tests ran"
    print(f"===== {said} in {time.monotonic() - begun:.2f}s =====")
    return 1 if failed or (left and not again) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
