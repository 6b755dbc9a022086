"""A made-up week of runs and samples, so that there is a past to look at."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

from safesh.metrics.history import History

MIB = 1 << 20
HOUR = 3600.0


def make_week(folder: Path, project: str) -> None:
    """Six days of a robot that leaks, begun anew now and then, and of a job that fails at times; ends an hour ago."""
    rng = random.Random(8)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    now = time.time() - HOUR
    lives = [(150.0, 40.0, "SIGKILL", "limit memory"), (104.0, 33.0, "", "stopped"), (68.0, 45.0, "", "stopped"),
             (22.0, 21.0, "", "stopped")]  # fmt: skip
    with History(str(folder / "history.db")) as history:
        for number, (ago, hours, sent, cause) in enumerate(lives):
            begun = now - ago * HOUR
            rows = []
            for step in range(int(hours * 6)):
                memory = 180 + 11.5 * step / 6 + rng.uniform(-4, 4)
                cpu = 40 + 14 * math.sin(step / 9) + rng.uniform(-5, 5)
                rows.append({"at": begun + step * 600, "memory_bytes": memory * MIB, "cpu_percent": cpu,
                             "processes": 3.0})  # fmt: skip
            history.add_samples(f"r{number}", "robot", rows)
            history.add_run({
                "run_id": f"r{number}", "target": "robot", "instance": "robot", "project": project,
                "started_at": begun, "ended_at": begun + hours * HOUR, "duration": hours * HOUR,
                "exit_code": None if sent else 0, "signal": sent, "cause": cause, "state": "stopped", "restarts": 0,
                "cpu_seconds": hours * 1450, "peak_memory_bytes": int((190 + 11.5 * hours) * MIB),
                "write_bytes": int(hours * 40 * MIB), "max_processes": 3,
            })  # fmt: skip
        for number in range(9):
            begun, code = now - (140 - 16 * number) * HOUR, 3 if number in (2, 7) else 0
            history.add_run({
                "run_id": f"j{number}", "target": "job", "instance": "job", "project": project,
                "started_at": begun, "ended_at": begun + 900 + 60 * number, "duration": 900.0 + 60 * number,
                "exit_code": code, "cause": f"exited with code {code}", "state": "failed" if code else "stopped",
                "restarts": 0, "cpu_seconds": 800.0 + 50 * number, "peak_memory_bytes": (310 + 9 * number) * MIB,
                "write_bytes": 120 * MIB, "max_processes": 5,
            })  # fmt: skip
        assert history.flush()
