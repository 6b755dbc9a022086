"""Who is told of events, and when: the supervisor's side of notifications.

What is told is decided here and put into letters; a courier, a process of its own (``courier.py``), brings them. So no
hook can delay the loop, and what is still to be told when the supervisor ends needs no supervisor.
"""

from __future__ import annotations

import os

from safesh.clock import monotonic
from safesh.errors import SafeshError
from safesh.supervise.letters import Ration, write_letter
from safesh.supervise.recipients import recipients_of, send_courier
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Hook, TargetSpec
    from safesh.supervise.journal import Journal
    from safesh.supervise.letters import Letter
    from safesh.supervise.recipients import Recipient
    from safesh.supervise.supervisor import Supervisor

MOST_COURIERS = 4  # at once
NOT_THERE = 3  # a courier's exit status: the hook cannot be executed at all
_AGAIN_SECONDS = 1.0  # when no courier could be started for want of processes


class Post(Watcher):
    """The hooks of one instance."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._journal: Journal = supervisor.journal
        self._pid = os.getpid()
        self._spec: TargetSpec | None = None
        self._hooks: list[tuple[Hook, Ration, list[Recipient]]] = []
        self._old: list[Recipient] = []  # of a target before a restart that changed it, with a courier on its way
        self._cause = "restart requested" if supervisor.intent == "restart" else ""
        self._ready_run = ""
        self._unhealthy_run = ""
        self._journal.listeners.append(self.hear)

    # ---- what happens

    def hear(self, name: str, details: dict[str, Any]) -> None:
        """The journal got this event."""
        record = self._journal.record
        said = str(details.get("message") or details.get("reason") or "")
        if name == "started":
            if record["restarts"]:
                self._tell("restarted", self._cause or "started again")
            else:
                self._tell("started", "runs")
            self._cause = ""
        elif name == "restarting":
            self._cause = record["message"].rpartition("; starts again in ")[0] or record["message"]
        elif name in ("limit", "failed", "strays"):
            self._tell(name, said or record["message"] or name)
        elif name == "stopped":
            end = record["last_exit"]
            self._tell(name, said or (end["cause"] if end else "") or "stopped")
        elif name == "ready":
            self._serves()
        elif name == "unhealthy":
            self._is_unhealthy(said)
        elif name in ("healthy", "recovered"):
            self._recovers(said)
        elif name == "keeper_lost":
            self._tell("strays", "its keeper was killed; the supervisor ends what it left behind")
        elif name == "supervisor_lost":
            self._tell("failed", record["message"] or "its supervisor vanished; the keeper ended the tree")

    def on_event(self, event: str) -> None:
        if event == "ready":
            self._serves()
        elif event == "unhealthy":
            self._is_unhealthy("")
        elif event == "healthy":
            self._recovers("")
        elif event == "restart":
            self._cause = "restart requested"

    # The state machine and the journal may both say it: it is one event.

    def _serves(self) -> None:
        run = self._journal.record["run_id"]
        if self._ready_run != run:
            self._ready_run = run
            self._tell("ready", "is ready")

    def _is_unhealthy(self, said: str) -> None:
        record = self._journal.record
        if self._unhealthy_run != record["run_id"]:
            self._unhealthy_run = record["run_id"]
            self._tell("unhealthy", said or record["message"] or "is unhealthy")

    def _recovers(self, said: str) -> None:
        if self._unhealthy_run == self._journal.record["run_id"]:
            self._unhealthy_run = ""
            self._tell("recovered", said or "is healthy again")

    def _tell(self, event: str, message: str) -> None:
        letter = write_letter(event, message, self._journal.record)
        if os.getpid() != self._pid:
            self._tell_from_keeper(letter)
            return
        self._follow_spec()
        now = monotonic()
        for hook, ration, recipients in self._hooks:
            if (not hook.on or event in hook.on) and ration.admit(mine := dict(letter), now):
                for recipient in recipients:
                    recipient.put(mine)
        self._plan()

    def _tell_from_keeper(self, letter: Letter) -> None:
        """The supervisor has vanished and we run in its keeper, about to end: no loop, no queue."""
        self._follow_spec()
        for hook, _ration, recipients in self._hooks:
            if not hook.on or letter["event"] in hook.on:
                for recipient in recipients:
                    recipient.queue = [letter]
                    self._send(recipient, 1)

    def _follow_spec(self) -> None:
        """A restart may bring another spec."""
        spec = self._supervisor.spec
        if spec is self._spec:
            return
        before = [recipient for _hook, _ration, recipients in self._hooks for recipient in recipients]
        self._old = [one for one in [*self._old, *before] if one.courier or one.queue]
        self._spec = spec
        self._hooks = [(hook, Ration(hook.every), recipients_of(spec, place)) for place, hook in enumerate(spec.notify)]

    # ---- the couriers

    def _recipients(self) -> list[Recipient]:
        return [*self._old, *(one for _hook, _ration, recipients in self._hooks for one in recipients)]

    def _plan(self) -> None:
        """When there is something to do next: a courier to send, or a kept letter to release."""
        dues = [due for _hook, ration, _recipients in self._hooks if (due := ration.due()) is not None]
        waiting = [one.not_before for one in self._recipients() if one.queue and not one.courier]
        if waiting and len(self.children()) < MOST_COURIERS:
            dues.append(min(waiting))
        self.due = min(dues, default=None)

    def tick(self) -> None:
        now = monotonic()
        for _hook, ration, recipients in self._hooks:
            for letter in ration.release(now):
                for recipient in recipients:
                    recipient.put(letter)
        free = MOST_COURIERS - len(self.children())
        for recipient in self._recipients():
            if free > 0 and recipient.queue and not recipient.courier and now >= recipient.not_before:
                self._send(recipient, 1)
                free -= 1
        self._plan()

    def _send(self, recipient: Recipient, count: int) -> None:
        letters = recipient.take(count)
        try:
            recipient.courier = send_courier(recipient.order(self._journal.log, letters))
        except (SafeshError, OSError) as error:
            recipient.queue = letters + recipient.queue
            recipient.dropped = letters[0]["dropped"]
            recipient.not_before = monotonic() + _AGAIN_SECONDS
            if os.getpid() != self._pid or self._supervisor.code is not None:  # there will be no second try
                self._failed(recipient, str(error))
        except ValueError as error:
            self._failed(recipient, str(error))

    def _failed(self, recipient: Recipient, reason: str) -> None:
        self._journal.event("hook_failed", hook=recipient.label, reason=reason, attempts=0)

    def children(self) -> list[int]:
        return [one.courier for one in self._recipients() if one.courier]

    def reaped(self, pid: int, status: int) -> bool:
        for recipient in self._recipients():
            if recipient.courier == pid:
                recipient.courier = 0
                code = os.waitstatus_to_exitcode(status)
                recipient.missing = code == NOT_THERE or (recipient.missing and code != 0)
                self._old = [one for one in self._old if one.courier or one.queue]
                self._plan()
                return True
        return False

    def leave(self) -> None:
        """Whatever still waits goes out at once, each recipient's in one courier that outlives us for ``life``."""
        for recipient in self._recipients():
            if recipient.queue:
                self._send(recipient, len(recipient.queue))
