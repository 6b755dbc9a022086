"""Who lives in a soak: instances that log and crash for ever, with a history that is full, and what is done to them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from faults import namespace

ROOT = namespace.ROOT
PROJECT = "soak"
LOG_SIZE, LOG_KEEP = 64 * 1024, 2
RUNS_KEPT = 10_000  # of a target, in history.db
_DAY = 86400.0
_QUERIES = (
    ("status",),
    ("status", "--json"),
    ("health", "{}"),
    ("history", "{}"),
    ("logs", "{}"),
    ("history", "--json"),
)
# Exit statuses that are an answer: health's are those of Nagios plugins, history's 1 says that there is nothing yet.
_ANSWERS = (0, 1, 2)


# The last digit of its number. mortal: its supervisor is killed now and then; bereaved: its keeper is.
_KINDS = (
    "plain", "sampled", "plain", "mortal", "sampled", "compressing", "stamping", "bereaved", "sampled", "plain",
)  # fmt: skip


class Member(NamedTuple):
    """One instance. leaky: its supervisor is a copy that leaks on purpose."""

    name: str
    kind: str
    leaky: bool


def members(count: int, leaky: int = 0) -> list[Member]:
    """The last ``leaky`` leak."""
    return [Member(f"t{place:02d}", _KINDS[place % 10], place >= count - leaky) for place in range(count)]


def target(one: Member, number: int, life: float, wait: float) -> str:
    """Its part of safe.toml: lines at once, a while, a last word, exit 1; logs of every kind."""
    lives = life * (0.7 + 0.1 * (number % 7))
    script = (
        'i=0; while [ $i -lt 40 ]; do echo "$i of forty lines that a robot says before it falls over again";'
        f" i=$((i+1)); done; sleep {lives:.2f}; echo 'it falls' >&2; exit 1"
    )
    return (
        f"[targets.{one.name}]\n"
        f"command = {json.dumps(['sh', '-c', script])}\n"
        'restart = "always"\n'
        f'backoff = {{ initial = "{wait:g}s", factor = 1.0, max = "{wait * 2:g}s", jitter = 0.5 }}\n'
        "start_limit = { count = 0 }\n"
        f"log = {{ size = {LOG_SIZE}, keep = {LOG_KEEP}, compress = {json.dumps(one.kind == 'compressing')},"
        f" timestamps = {json.dumps(one.kind == 'stamping')} }}\n"
        + ('sample = "1s"\n' if one.kind == "sampled" else "")
        + "\n"
    )


class Crowd:
    """The instances, in a temporary folder of their own. Only inside a namespace of its own: it kills."""

    def __init__(self, folder: Path, them: list[Member], life: float, wait: float, seed: int) -> None:
        namespace.require()
        self.folder = folder
        self.them = them
        self.random = random.Random(seed)
        self.state = folder / "state" / PROJECT
        self.config = folder / "safe.toml"
        self.safe = [str(ROOT / "bin" / "safe.sh")]
        self.killed = {"supervisor": 0, "keeper": 0}
        self.asked = 0
        self.problems: list[str] = []
        parts = [target(one, number, life, wait) for number, one in enumerate(them)]
        self.config.write_text(f'project = "{PROJECT}"\n\n' + "".join(parts))
        self.config.chmod(0o644)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SAFESH_", "PYTHON"))},
            **{name: os.environ[name] for name in ("SAFESH_VENV", "SAFESH_TEST_PIDNS") if name in os.environ},
            "HOME": str(folder),
            "SAFESH_HOME": str(folder / "state"),
            "TMPDIR": str(folder),
        }
        self.state.mkdir(0o700, parents=True)

    def call(self, *words: str, safe: list[str] | None = None, deadline: float = 90.0) -> tuple[int, str]:
        """Run safe.sh; (exit status, what it said). A traceback is a problem whatever the status."""
        command = [*(safe or self.safe), *words]
        try:
            done = subprocess.run(
                command, env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=deadline,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.problems.append(f"safe.sh {' '.join(words)}: no answer within {deadline:g} s")
            return -1, ""
        said = done.stdout.decode("utf-8", "replace")
        if "Traceback (most recent call last)" in said:
            self.problems.append(f"safe.sh {' '.join(words)}: a traceback: {said[-300:]}")
        return done.returncode, said

    def start(self) -> None:
        for leaks in (False, True):
            names = [one.name for one in self.them if one.leaky is leaks]
            if names:
                code, said = self.call("start", *names, "--detach", safe=self.leaking() if leaks else None)
                if code:
                    self.problems.append(f"start: exit status {code}: {said[-300:]}")

    def leaking(self) -> list[str]:
        """The command line of a copy of safesh whose supervisor forgets to let go: with every event that it writes, of
        some memory and of a descriptor."""
        copy = self.folder / "leaking"
        if not copy.exists():
            shutil.copytree(
                ROOT / "supervisor" / "safesh", copy / "safesh", ignore=shutil.ignore_patterns("__pycache__")
            )
            room = copy / "safesh" / "supervise" / "journal.py"
            before = "        self.log.write(name, "
            text = room.read_text()
            leak = "        _LEAK.append((bytearray(range(250)) * 400, os.open('/', 0)))\n"
            changed = text.replace(before, leak + before).replace(
                "class Journal:", "import os\n_LEAK = []\n\n\nclass Journal:"
            )
            if changed.count("_LEAK") != 2:
                raise RuntimeError("supervise/journal.py has changed: the leak does not fit into it any more")
            room.write_text(changed)
        return [str(python()), "-E", "-s", "-S", str(copy / "safesh" / "__main__.py")]

    def stop(self) -> None:
        code, said = self.call("stop", *(one.name for one in self.them), "--force")
        if code:
            self.problems.append(f"stop: exit status {code}: {said[-300:]}")

    # -- a past

    def fill_history(self) -> None:
        """As after weeks of this: as many runs of each target as are kept, so that each new one has to push one out."""
        sys.path.insert(0, str(ROOT / "supervisor"))
        os.environ["SAFESH_HOME"] = self.environ["SAFESH_HOME"]
        from safesh.metrics import spool
        from safesh.metrics.history import History

        now = time.time()
        path = self.state / "history.db"
        History(str(path)).close()
        rows = []
        for one in self.them:
            for number in range(RUNS_KEPT):
                began = now - 90 * _DAY + number * 60
                run = {
                    "run_id": f"20260101T000000-{one.name}{number:06d}", "target": one.name, "instance": one.name,
                    "project": PROJECT, "started_at": began, "ended_at": began + 2, "duration": 2.0, "exit_code": 1,
                    "signal": "", "cause": "exited", "state": "failed", "restarts": number, "user_seconds": 0.01,
                    "system_seconds": 0.01, "peak_memory_bytes": 1 << 20, "read_bytes": 0, "write_bytes": 4096,
                }  # fmt: skip
                rows.append(spool.row_of(run))
        connection = sqlite3.connect(path)
        with connection:
            marks = ", ".join("?" * len(spool.RUN_FIELDS))
            connection.executemany(f"INSERT INTO runs ({', '.join(spool.RUN_FIELDS)}) VALUES ({marks})", rows)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    # -- what is done to them

    def ask(self) -> None:
        words = self.random.choice(_QUERIES)
        name = self.random.choice([one.name for one in self.them if not one.leaky])
        code, said = self.call(*(word.format(name) for word in words))
        self.asked += 1
        if code not in _ANSWERS:
            self.problems.append(f"safe.sh {' '.join(words)}: exit status {code}: {said[-300:]}")

    def kill(self) -> None:
        """SIGKILL for the supervisor of a mortal, which is started again, or for the keeper of a bereaved one."""
        victims = {"supervisor": "mortal", "keeper": "bereaved"}
        whom = self.random.choice([*victims])
        chosen = [one for one in self.them if not one.leaky and one.kind == victims[whom]]
        if not chosen:
            return
        one = self.random.choice(chosen)
        identity = self.record(one.name).get(whom)
        if not identity or not signal_exactly(identity["pid"], identity["start"], signal.SIGKILL):
            return  # between two runs there is no keeper
        self.killed[whom] += 1
        if whom == "supervisor":
            limit = time.monotonic() + 30
            while True:  # until the keeper has ended the tree and let go of the lock
                code, said = self.call("start", one.name, "--detach")
                if code == 0:
                    return
                if time.monotonic() > limit:
                    self.problems.append(f"start after SIGKILL of the supervisor: exit status {code}: {said[-300:]}")
                    return
                time.sleep(0.1)

    def record(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return found


def python() -> Path:
    """What bin/safe.sh executes."""
    return Path(os.environ.get("SAFESH_VENV") or ROOT / ".venv") / "bin" / "python"


def started_at(pid: int) -> int:
    """Its start time in the kernel's ticks (proc_pid_stat(5), field 22); -1 when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


def signal_exactly(pid: int, start: int, number: signal.Signals) -> bool:
    """Signal this very process and no other that got its pid; False when it is gone."""
    namespace.require()
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if started_at(pid) != start:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
