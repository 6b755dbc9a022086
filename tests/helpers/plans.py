"""Plans in tests: written as files, run by ``safe.sh run``, their output folder read back.

``Plans`` (fixture ``plans`` where a test module makes it) works in the test's home; steps are shell texts, for ``sh``
is there on every system and starts in a millisecond.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers.home import Home, Result, Safe
from helpers.procs import Process, Spawn, environ, marked, scan, wait_until

FAST = {"initial": "10ms", "factor": 1, "jitter": 0}  # a backoff that costs a test nothing


def sh(name: str, text: str, *after: str, **more: Any) -> dict[str, Any]:
    """A step that runs a shell's text."""
    return {"id": name, "command": text, "shell": True, "depends_on": list(after), **more}


class Output:
    """An output folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        return found

    def steps(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.result()["steps"]
        return found

    def statuses(self) -> dict[str, str]:
        return {name: step["status"] for name, step in self.steps().items()}

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Whole lines only: a runner that was killed may leave half of one."""
        path = self.path / "events.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        found = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not kind or event["event"] == kind:
                found.append(event)
        return found

    def started(self) -> list[str]:
        """Ids of the steps whose attempts began, in order."""
        return [event["step"] for event in self.events("step_started")]

    def log(self, name: str) -> str:
        return (self.path / "logs" / f"{name}.log").read_text(encoding="utf-8")


class Plans:
    """Makes plans in the test's project folder and runs them."""

    def __init__(self, home: Home, safe: Safe) -> None:
        self.home = home
        self.safe = safe
        self.folder = home.project
        self.output = Output(home.project / "out")

    def write(self, *steps: dict[str, Any], name: str = "plan.json", **top: Any) -> Path:
        path = self.folder / name
        path.write_text(json.dumps({"steps": list(steps), **top}), encoding="utf-8")
        path.chmod(0o644)
        return path

    def arguments(self, *more: str, plan: str = "plan.json", progress: str = "plain") -> list[str]:
        return ["run", plan, "--output", str(self.output.path), "--progress", progress, *more]

    def run(self, *more: str, plan: str = "plan.json", progress: str = "plain", deadline: float = 60) -> Result:
        return self.safe(*self.arguments(*more, plan=plan, progress=progress), deadline=deadline)

    def spawn(self, *more: str, plan: str = "plan.json", progress: str = "plain", **options: Any) -> Spawn:
        return self.safe.spawn(
            *self.arguments(*more, plan=plan, progress=progress), whole=True, cwd=self.folder, **options
        )

    def wait_file(self, name: str, deadline: float = 20) -> str:
        """What a step wrote into a file of the project, once it is there and not empty."""
        path = self.folder / name
        return wait_until(lambda: path.read_text(encoding="utf-8") if path.exists() else "", deadline, f"file {name}")

    def wait_event(self, kind: str, step: str, deadline: float = 20) -> dict[str, Any]:
        return wait_until(
            lambda: next((one for one in self.output.events(kind) if one.get("step") == step), None) or {},
            deadline,
            f"{kind} of {step}",
        )


def of_plan(plan: str) -> list[Process]:
    """Live processes that are steps of the plan of this test, told by their environment."""
    home = os.environ["SAFESH_HOME"]  # the same test may run elsewhere at the same time
    return [one for one in marked("SAFESH_PLAN", plan) if environ(one.pid).get("SAFESH_HOME", home) == home]


def runner_of(guard: Spawn) -> Process:
    """The runner below a guard: its only child that is ``safe.sh run`` again."""

    def find() -> Process | None:
        found = [one for one in scan().values() if one.ppid == guard.pid and "__main__.py run" in one.command]
        return found[0] if found else None

    found = wait_until(find, 20, "the runner below its guard")
    assert found is not None
    return found


# --- random graphs ------------------------------------------------------------------------------

_LOCKED = """exec 9>"$W/locks/$SAFESH_STEP"
flock -n -E 98 9
case $? in
    0) ;;
    98) echo "$SAFESH_STEP is held by another copy"; echo "$SAFESH_STEP" >>"$W/twice"; exit 99 ;;
    *) exit 5 ;;
esac
"""


def random_plan(rng: random.Random, count: int, work: Path) -> list[dict[str, Any]]:
    """Steps of a random graph. Each holds a lock while it runs and tells when somebody else has it; its product is made
    from those it depends on. Some fail once, some always; all of that follows from the id and the attempt."""
    steps: list[dict[str, Any]] = []
    for number in range(count):
        name = f"s{number:05}"
        near = range(max(0, number - 60), number)
        after = [f"s{one:05}" for one in sorted(rng.sample(near, min(len(near), rng.choice((0, 1, 1, 2, 3)))))]
        kind = rng.choices(("good", "once", "never", "slow", "stray"), (80, 8, 0.4, 8, 3.6))[0]
        parts = " ".join(f'"$W/made/{one}"' for one in after) or "/dev/null"
        text = _LOCKED + f'cat {parts} >"$W/made/.{name}" || exit 5\necho {name} >>"$W/made/.{name}"\n'
        if kind == "once":
            text += 'test "$SAFESH_ATTEMPT" -ge 2 || exit 3\n'
        elif kind == "never":
            text += "exit 4\n"
        elif kind == "slow":
            text += f"sleep 0.{rng.randrange(1, 9)} || exit 5\n"
        elif kind == "stray":  # ended with its step
            text += "(setsid sleep 1000 9>&- >/dev/null 2>&1 &)\n"
        text += f'cksum <"$W/made/.{name}" >"$W/made/.{name}.sum" && mv "$W/made/.{name}.sum" "$W/made/{name}"\n'
        steps.append(sh(name, text, *after, retries=2 if kind != "never" else 1, backoff=FAST, type=kind))
    for folder in ("locks", "made"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    return steps


def products(work: Path) -> dict[str, str]:
    """What each step has made: id -> checksum."""
    return {
        one.name: one.read_text(encoding="utf-8") for one in (work / "made").iterdir() if not one.name.startswith(".")
    }


def outcome(steps: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Statuses as a resumed and an undisturbed run share them: what was done before is as good as done now."""
    return {name: step["status"].replace("skipped", "completed") for name, step in steps.items()}


def overlaps(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """Steps of which an attempt began while another was not over, within one run of the plan, by the journal."""
    running: set[str] = set()
    found: Counter[str] = Counter()
    for event in events:
        kind, step = event["event"], event.get("step", "")
        if kind == "plan_started":
            running.clear()
        elif kind == "step_started":
            found[step] += step in running
            running.add(step)
        elif kind in ("step_completed", "step_failed", "step_cancelled", "step_retry"):
            running.discard(step)
    return +found


def kill(*processes: tuple[int, int]) -> None:
    """SIGKILL to exactly these (pid, start), close together."""
    from helpers.procs import send

    for pid, start in processes:
        send(pid, start, signal.SIGKILL)
