"""The tests that are races, or tables of cases, in full: each hundreds of times, each table with all of its cases."""

from __future__ import annotations

import os
import re
import subprocess
import time

from faults.namespace import ROOT
from faults.part import Figure, Options, Part, PartError

_USES_CAMPAIGN = re.compile(r"helpers(\.| import )campaign|helpers import .*\bcampaign\b")
_CLOSES = re.compile(r"\bin \d+(\.\d+)?s\b")
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed|xpassed)")


# In a quick run: the rest is what every run of the tests has done anyway.
_QUICK = {"test_kill_stops_first.py", "test_output_killed.py", "test_must_show.py"}
_IS_A_PART = re.compile(r"\b(from|import) faults\b|faults\.py|scripts.*faults")


def files(quick: bool = False) -> list[str]:
    """Test files that have more to run than every run of the tests runs."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if _USES_CAMPAIGN.search(text) and not _IS_A_PART.search(text) and (not quick or path.name in _QUICK):
            found.append(str(path.relative_to(ROOT)))
    return found


def run(options: Options) -> Part:
    """Quick: some of them, and not in full."""
    begin = time.monotonic()
    chosen = files(options.quick)
    environ = {**os.environ, "SAFESH_CAMPAIGN": "" if options.quick else "full"}
    child = subprocess.Popen(
        [str(ROOT / "scripts" / "test.sh"), "--several", *chosen, "-rfE"],
        cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.rstrip())
        if _CLOSES.search(line):
            print(f"  {lines[-1]}", flush=True)
    code = child.wait()
    closing = next((line for line in reversed(lines) if _CLOSES.search(line)), "")
    counts = {word.removesuffix("s") if word.startswith("error") else word: int(number)
              for number, word in _COUNTS.findall(closing)}  # fmt: skip
    if not counts:
        raise PartError(f"scripts/test.sh ended with {code} and no counts: {' / '.join(lines[-5:])}")
    count = counts.get("failed", 0) + counts.get("error", 0)
    told = [line.partition(" ")[2].partition(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    failed = sorted({name for name in told if "::" in name and told.count(name) > 1})  # alone, too
    shy = [line.partition(" ")[2].partition(":")[0] for line in lines if line.startswith("FLAKY ")]
    figures = [
        Figure("test files", str(len(chosen))),
        Figure("tests passed", f"{counts.get('passed', 0):,}"),
        Figure("failed", str(count), "0", count == 0),
        Figure("files that failed in company of others and passed alone", ", ".join(shy) or "0"),
        Figure("skipped (what this machine lacks)", str(counts.get("skipped", 0))),
    ]
    prefix = "" if options.quick else "SAFESH_CAMPAIGN=full "
    if code and not count:  # something was left behind: a process, a file, a cgroup
        left = [line for line in lines if " left: " in line]
        failed.append(f"{chosen[0]} and others: status {code}; {'; '.join(left[:5]) or lines[-1]}")
    failures = [f"{name}\n  replay: {prefix}scripts/test.sh '{name.partition(' ')[0]}'" for name in failed]
    about = "Every test that is a race or a table of cases: all rounds, all combinations (`SAFESH_CAMPAIGN=full`)."
    return Part("races", "Races and tables of cases", about, figures, failures, time.monotonic() - begin)
