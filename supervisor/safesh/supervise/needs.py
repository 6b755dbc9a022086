"""What a running target depends on: told when it ends for good.

A dependency that restarts by its own policy keeps its supervisor, and leaves its dependents alone: whether they can
go on is for their own health check to say.
"""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.paths import InstancePaths
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh._platform import Handle
    from safesh.supervise.supervisor import Supervisor


class NeedsWatcher(Watcher):
    """Holds a pidfd of each dependency's supervisor; sleeps until one of them ends."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._held: dict[str, tuple[InstancePaths, Handle]] = {}

    def on_event(self, event: str) -> None:
        if event == "ready":
            for name in self.supervisor.spec.depends_on:
                if name not in self._held:
                    self._hold(name)

    def _hold(self, name: str) -> None:
        folder = self.supervisor.paths.folder
        for file in sorted(os.listdir(folder)):
            base, _, kind = file.rpartition(".")
            if kind != "json" or not base:
                continue
            paths = InstancePaths(folder, base)
            found, _problem = records.read_record(paths)
            if found is not None and found["target"] == name and locks.is_alive(found["supervisor"]):
                handle = _platform.open_handle(found["supervisor"]["pid"], found["supervisor"]["start"])
                if handle is not None and handle.fileno() >= 0:
                    self._held[name] = (paths, handle)
                return

    def readers(self) -> dict[int, tuple[int, Callable[[], None]]]:
        return {
            handle.fileno(): (select.POLLIN, lambda name=name: self._gone(name))  # type: ignore[misc]
            for name, (_paths, handle) in self._held.items()
        }

    def _gone(self, name: str) -> None:
        paths, handle = self._held.pop(name)
        handle.close()
        found, _problem = records.read_record(paths)
        why = f"{found['state']}: {found['message']}".rstrip(": ") if found is not None else "its record is gone"
        supervisor = self.supervisor
        supervisor.record["message"] = f"{name}, which it depends on, has ended ({why})"
        supervisor.say(f"{supervisor.spec.name}: {supervisor.record['message']}")
        supervisor.journal.event("dependency_gone", needs=name, message=supervisor.record["message"])
        supervisor.journal.save()

    def close(self) -> None:
        for _paths, handle in self._held.values():
            handle.close()
        self._held = {}
