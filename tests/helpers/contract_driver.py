"""Holds runs as a supervisor does and answers questions about them, on the backend that SAFESH_BACKEND names.

One JSON object a line comes in, ``{"do": NAME, ...}``, and one goes out, ``{"is": VALUE}`` or ``{"error": TEXT}``; the
end of its input is its own end, which is what a keeper's lifeline is about. Backends are chosen at import, so
each test talks to a process of its own (helpers/contracts.py).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

from safesh import _platform
from safesh.core import kill, reap
from safesh.core.contain import RUN_ID, Tree, choose_backend, open_group
from safesh.core.keeper import KeeperLink, Run, start_keeper
from safesh.errors import SafeshError
from safesh.instance import lock
from safesh.instance.strays import Finder
from safesh.model import ExitInfo, StopPolicy, TargetSpec, Verdict


class Driver:
    def __init__(self) -> None:
        self.link: KeeperLink | None = None
        self.run_id = ""
        self.group = ""
        self.messages: list[dict[str, Any]] = []
        self.output = -1
        self.lines = b""
        self.handles: list[Any] = []
        self.source: Any = None

    # ---- the platform

    def do_hello(self) -> dict[str, Any]:
        backend, why = choose_backend()
        return {
            "backend": backend,
            "why": why,
            "pid": os.getpid(),
            "start": _platform.start_time(os.getpid()),
            "boot": _platform.boot_id(),
            "orphans_stay": _platform.HAS_SUBREAPER,
        }

    def do_info(self, pid: int) -> dict[str, Any] | None:
        return _as_dict(_platform.info(pid))

    def do_scanned(self, pid: int) -> dict[str, Any] | None:
        return _as_dict(_platform.scan().get(pid))

    def do_start_time(self, pid: int) -> int | None:
        return _platform.start_time(pid)

    def do_cmdline(self, pid: int) -> list[str]:
        return _platform.cmdline(pid)

    def do_environ(self, pid: int) -> dict[str, str] | None:
        return _platform.environ(pid)

    def do_open(self, pid: int, start: int, plain: bool = False) -> int | None:
        handle = _platform.plain_handle(pid, start) if plain else _platform.open_handle(pid, start)
        if handle is None:
            return None
        self.handles.append(handle)
        return len(self.handles) - 1

    def do_alive(self, handle: int) -> bool:
        answer: bool = self.handles[handle].alive()
        return answer

    def do_send(self, handle: int, signal: int) -> bool:
        answer: bool = self.handles[handle].send(signal)
        return answer

    def do_fires(self, handle: int, deadline: float) -> bool:
        """Whether the handle's descriptor tells the end of its process; handles without one are looked at."""
        limit = time.monotonic() + deadline
        one = self.handles[handle]
        while one.alive() and time.monotonic() < limit:
            kill.wait_plainly([one], limit)
        return not one.alive()

    def do_watch(self, numbers: list[int]) -> None:
        self.source = _platform.SignalSource(numbers)

    def do_signals(self, deadline: float) -> list[int]:
        watch = select.poll()
        watch.register(self.source.fileno(), select.POLLIN)
        watch.poll(deadline * 1000)
        numbers: list[int] = self.source.read()
        return numbers

    def do_unwatch(self) -> None:
        self.source.close()

    def do_call(self, name: str) -> Any:
        return getattr(_platform, name)()

    # ---- a run and its keeper

    def do_hold(
        self,
        command: list[str],
        stop: dict[str, Any],
        env: dict[str, str] | None = None,
        run_id: str = "",
        orphaned: str = "",
        lock_file: str = "",
        cwd: str = "/",
        leak: bool = False,
    ) -> dict[str, int]:
        self.run_id = run_id
        spec = TargetSpec(
            name="held", instance="held", project="held", command=command, cwd=cwd, stop=StopPolicy(**stop)
        )
        keep = []
        if lock_file:
            held = lock.try_acquire(lock_file)
            assert held is not None, "the lock is taken"
            keep.append(held.fd)
        if leak:  # what a careless parent passes on: the target must not have it
            os.set_inheritable(os.dup(1), True)

        def on_orphaned(end: ExitInfo | None, verdict: Verdict, _usage: dict[str, Any] | None) -> None:
            text = json.dumps({"exit": end.to_dict() if end else None, "verdict": verdict.to_dict()})
            with open(orphaned + ".new", "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(orphaned + ".new", orphaned)

        reading, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        environment = {**os.environ, **(env or {}), RUN_ID: run_id}
        _platform.become_subreaper()
        self.link = start_keeper(Run(spec, run_id, environment, null, (reading, writing), keep, on_orphaned))
        os.close(writing)
        os.close(null)
        os.set_blocking(reading, False)
        self.output = reading
        return {"pid": self.link.pid, "start": self.link.handle.start}

    def do_event(self, deadline: float) -> dict[str, Any] | None:
        """The keeper's next message; ``{"event": "ended", "status"}`` at the end of its report; None: none came."""
        limit = time.monotonic() + deadline
        while not self.messages:
            link = self.link
            if link is None or not _ready(link.report, limit):
                return None
            messages, more = link.read()
            self.messages += messages
            if not more:
                _pid, status = os.waitpid(link.pid, 0)
                link.close()
                self.link = None
                self.messages.append({"event": "ended", "status": os.waitstatus_to_exitcode(status)})
        message = self.messages.pop(0)
        if message["event"] == "spawned":
            self.group = message["group"]
        return message

    def do_line(self, deadline: float) -> str | None:
        """The next whole line of the target's output."""
        limit = time.monotonic() + deadline
        while b"\n" not in self.lines:
            if not _ready(self.output, limit):
                return None
            chunk = os.read(self.output, 65536)
            if not chunk:
                return None
            self.lines += chunk
        line, _, self.lines = self.lines.partition(b"\n")
        return line.decode()

    def do_end(self, policy: dict[str, Any], now: bool = False) -> None:
        assert self.link is not None
        self.link.end(StopPolicy(**policy), now=now)

    def do_members(self) -> list[int]:
        """Living members as an outsider sees them, through the keeper."""
        assert self.link is not None
        tree = Tree(self.run_id, self.link.pid, open_group(self.group), spare=[self.link.pid])
        return sorted(tree.find(_platform.scan()))

    def do_clean(self, policy: dict[str, Any], main: list[int] | None = None, now: bool = False) -> dict[str, Any]:
        """What a supervisor does whose keeper is gone."""
        tree = Tree(self.run_id, os.getpid(), open_group(self.group))
        verdict = kill.end_tree(
            tree, StopPolicy(**policy), main=(main[0], main[1]) if main else None, wait=_wait_and_reap, now=now
        )
        tree.close()
        return verdict.to_dict()

    # ---- strays: processes that nobody holds

    def do_find(self, seeds: list[int]) -> list[int]:
        tree = Tree()
        tree.find_more = lambda _everything: seeds
        return sorted(tree.look())

    def do_end_seeds(self, seeds: list[int], policy: dict[str, Any], now: bool = False) -> dict[str, Any]:
        tree = Tree()
        tree.find_more = lambda _everything: seeds
        verdict = kill.end_tree(tree, StopPolicy(**policy), now=now)
        tree.close()
        return verdict.to_dict()

    def do_strays(
        self,
        folder: str,
        instance: str,
        record: dict[str, Any] | None = None,
        patterns: list[list[str]] | None = None,
        held: list[int] | None = None,
        end: bool = False,
    ) -> dict[str, Any]:
        """Reasons by pid, or with ``end`` the verdict on them."""
        finder = Finder(folder, instance, record, [(name, pattern) for name, pattern in patterns or []])
        if not end:
            return {str(pid): reason for pid, reason in finder.find(_platform.scan(), held or []).items()}
        tree = finder.tree(held or [])
        verdict = kill.end_tree(tree, StopPolicy(grace=1.0), now=False)
        tree.close()
        return verdict.to_dict()


def _as_dict(info: Any) -> dict[str, Any] | None:
    return None if info is None else {**{name: getattr(info, name) for name in info.__slots__}, "dead": info.dead}


def _ready(fd: int, limit: float) -> bool:
    watch = select.poll()
    watch.register(fd, select.POLLIN)
    return bool(watch.poll(max(0.0, limit - time.monotonic()) * 1000))


def _wait_and_reap(handles: list[Any], deadline: float) -> bool:
    kill.wait_plainly(handles, deadline)
    for _ended in reap.reap_all():
        pass
    return False


def main() -> int:
    driver = Driver()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"is": getattr(driver, "do_" + request.pop("do"))(**request)}
        except SafeshError as error:
            answer = {"error": str(error)}
        except (OSError, AssertionError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
