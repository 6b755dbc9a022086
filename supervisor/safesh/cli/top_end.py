"""Ending what is selected in ``top``: one process, or a whole instance as ``stop`` and ``kill-all`` do.

Who is meant is settled when the question is asked: a process is held by a handle from then on, so a number that
passes on meanwhile is never signalled.
"""

from __future__ import annotations

import textwrap
import threading
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.cli import ending, render, targets
from safesh.cli.top_screen import without_colour
from safesh.core import signals
from safesh.core.contain import describe
from safesh.errors import SafeshError, UsageError
from safesh.process import foreign

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.cli.top import Seen
    from safesh.metrics.model import ProcessUsage
    from safesh.model import Member, Verdict

_YES = ("y", "yes")  # as ``confirm`` understands them
_LATER = 3.0  # seconds that leaving waits for an ending under way before it says so


class Question:
    """What would end, and who carries it out. ``lines(width)`` is the list, ``text`` the question."""

    def __init__(self, kill: bool) -> None:
        self.verb = "Kill" if kill else "Stop"
        self.kill = kill
        self.text = ""

    def lines(self, width: int) -> list[str]:
        raise NotImplementedError

    def act(self, call: Callable[[Callable[[], str]], None]) -> str:
        """Do it now; what to tell. ``call`` runs what takes longer."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of whom it holds."""


def is_yes(answer: str) -> bool:
    return answer.strip().lower() in _YES


class EndProcess(Question):
    """One process of an instance, and it alone."""

    def __init__(self, seen: Seen, usage: ProcessUsage, kill: bool) -> None:
        """SafeshError where it is gone, or must not be signalled by us."""
        super().__init__(kill)
        policy = next((spec.stop for spec in seen.chosen.specs if spec.name == seen.report.target), None)
        self._signal = "SIGKILL" if kill else policy.signal if policy is not None else "SIGTERM"
        self._pid = usage.pid
        foreign.refuse_if_protected(usage.pid)
        info = _platform.info(usage.pid)
        handle = _platform.open_handle(usage.pid, usage.start) if info is not None else None
        if info is None or handle is None or info.start != usage.start:
            if handle is not None:
                handle.close()
            raise UsageError("it has ended meanwhile", place=f"pid {usage.pid}")
        self._handle = handle
        self._member: Member = describe(info)
        self._cpu = {} if usage.cpu_percent is None else {(usage.pid, usage.start): usage.cpu_percent}
        self._notes = []
        if seen.main == (usage.pid, usage.start):
            self._notes.append(f"It is the main process of {seen.name}, whose restart policy decides what comes then.")
        self.text = f"{self.verb} process {usage.pid} ({self._signal})?"

    def lines(self, width: int) -> list[str]:
        found = render.members([self._member], cpu=self._cpu, indent=2, width=width).split("\n")
        command = render.clean(self._member.command)
        if width and not without_colour(found[-1]).endswith(command):  # cut, but this is what people decide by
            found += textwrap.wrap(command, max(20, width - 4), initial_indent="    ", subsequent_indent="    ")[:6]
        return [*found, *(line for note in self._notes for line in textwrap.wrap(note, max(20, width - 1)))]

    def act(self, call: Callable[[Callable[[], str]], None]) -> str:
        foreign.refuse_if_protected(self._pid)
        foreign.send_through(self._handle, signals.number(self._signal))
        return f"pid {self._pid}: {self._signal} sent"

    def close(self) -> None:
        self._handle.close()


class EndInstance(Question):
    """A whole instance, strays included, and first the instances whose targets depend on it."""

    def __init__(self, seen: Seen, args: dict[str, Any], kill: bool) -> None:
        super().__init__(kill)
        self._args = {**args, "force": True, "timeout": None, "now": kill, "json": False}
        chosen = [seen.chosen, *targets.users_of(args, [seen.chosen])]
        found = [ending.Ending(one) for one in chosen]
        for one in found:
            if one.inside:
                raise UsageError("this command runs inside it and would end itself", place=one.chosen.name)
        self._endings = [one for one in found if one.held or one.members]
        if not self._endings:
            found[0].tidy()
            raise UsageError("not running", place=seen.name)
        total = sum(len(one.members) for one in self._endings)
        self.text = f"{self.verb} {render.plural(total, 'process')}?"

    def lines(self, width: int) -> list[str]:
        found = []
        for one in self._endings:
            found.append(f"{one.chosen.name}: target {one.target}, {render.plural(len(one.members), 'process')}")
            if one.members:
                found += render.members(one.members, indent=2, width=width).split("\n")
        return found

    def act(self, call: Callable[[Callable[[], str]], None]) -> str:
        call(self._end)
        names = ", ".join(one.target for one in self._endings)
        return f"{'killing' if self.kill else 'stopping'} {names}…"

    def _end(self) -> str:
        return "; ".join(_told(one, verdict) for one, verdict in ending.end_all(self._endings, self._args))


def _told(one: ending.Ending, verdict: Verdict) -> str:
    text = render.verdict(verdict) if verdict.target else f"{one.chosen.name}: ended"
    return without_colour(text).split("\n")[0]


class Worker:
    """Endings that take their time, in threads, so that what goes on can be watched."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._threads: list[threading.Thread] = []
        self._told: list[str] = []

    def call(self, work: Callable[[], str]) -> None:
        """Begin; what it says comes with ``news``."""

        def run() -> None:
            try:
                text = work()
            except SafeshError as error:
                text = without_colour(render.problem(error)).split("\n")[0]
            except Exception as error:  # its thread has nobody else to tell it
                text = f"{type(error).__name__}: {error}"
            self._told.append(text)
            self._wake()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def news(self) -> list[str]:
        """What has been said since the last call."""
        told: list[str] = []
        while self._told:
            told.append(self._told.pop(0))
        return told

    def finish(self) -> None:
        """Wait until everything has ended: an ending left in the middle may leave processes frozen. Ctrl-C leaves."""
        waiting = [thread for thread in self._threads if thread.is_alive()]
        for number, thread in enumerate(waiting):
            if number == 0:
                thread.join(_LATER)
                if thread.is_alive():
                    render.say("waiting for what was told to end (Ctrl-C does not wait)")
            thread.join()
