"""What an earlier run of a plan has done already, and what it left running."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.instance.lock import is_identity
from safesh.model import StopPolicy, Verdict
from safesh.plan import journal
from safesh.process.ending import Mark, end_runs

if TYPE_CHECKING:
    from safesh.plan.model import StepSpec

_STOP = StopPolicy(signal="SIGTERM", scope="main", grace=2.0)


class Past:
    """An output folder's history: completed steps with what they were made from, and attempts that never ended."""

    def __init__(self, path: str) -> None:
        self.done: dict[str, dict[str, Any]] = {}
        self.open: dict[str, dict[str, Any]] = {}
        self.plan_id = ""
        self._began: dict[str, int] = {}  # where in the file the last attempt began, and where one completed
        self._completed: dict[str, int] = {}
        for number, event in enumerate(journal.read(path)):
            kind = event["event"]
            step = event.get("step")
            if kind == "plan_started":
                self.plan_id = str(event.get("plan", ""))
            if not isinstance(step, str):
                continue
            if kind == "step_started":
                self.open[step] = event
                self.done.pop(step, None)
                self._began[step] = number
            elif kind == "step_runs" and step in self.open:
                self.open[step] = event
            elif kind == "step_completed":
                self.open.pop(step, None)
                self.done[step] = event
                self._completed[step] = number
            elif kind in ("step_failed", "step_cancelled", "step_retry"):
                self.open.pop(step, None)
                self.done.pop(step, None)

    def is_done(self, step: StepSpec, fingerprint: str) -> bool:
        """Completed from the very same command, environment and inputs, after all it depends on, and its outputs are
        still there."""
        event = self.done.get(step.id)
        if event is None or event.get("fingerprint") != fingerprint:
            return False
        # A run in between may have done a dependency again and been stopped before it came to this one.
        began = self._began.get(step.id, -1)
        if any(self._completed.get(name, began) >= began for name in step.depends_on):
            return False
        return all(os.path.lexists(path) or glob.glob(path) for path in step.outputs)

    def end_strays(self) -> Verdict | None:
        """End what attempts without an end left behind; None when none of them lives.

        A runner that was killed has its guard end them; only when both were killed is there anything left.
        """
        boot = _platform.boot_id()
        marks = []
        for number, event in enumerate(self.open.values(), 2):
            run_id = event.get("run_id")
            if not isinstance(run_id, str) or not run_id:
                continue
            one = _platform.info(event["pid"]) if is_identity(event) and event["boot"] == boot else None
            if one is not None and one.pid > 1 and one.uid == os.geteuid():
                marks.append(Mark(event["pid"], event["start"], run_id))
            else:
                marks.append(Mark(-number, 0, run_id))  # by its id alone: no process has such a number
        if not marks:
            return None
        whole = Verdict()
        for verdict in end_runs(marks, _STOP, only_ours=True).values():
            whole.asked += verdict.asked
            whole.killed += verdict.killed
            whole.survivors += verdict.survivors
            whole.seconds = max(whole.seconds, verdict.seconds)
        return whole if whole.asked or whole.killed or whole.survivors else None
