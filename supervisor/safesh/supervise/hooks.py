"""Who is told of events, and how often: the supervisor's side of notifications.

What is told is decided here and put into letters; a courier, a process of its own (``courier.py``), brings them. So no
hook can delay the loop, and what is still to be told when the supervisor ends needs no supervisor.
"""

from __future__ import annotations

import fcntl
import os
import sys

from safesh import wire
from safesh.clock import monotonic, wall
from safesh.core.environment import inherited
from safesh.core.spawn import spawn
from safesh.errors import SafeshError
from safesh.paths import open_private
from safesh.supervise.events import EventLog
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Hook, TargetSpec
    from safesh.paths import InstancePaths
    from safesh.supervise.journal import Journal
    from safesh.supervise.supervisor import Supervisor

    Letter = dict[str, Any]

MOST_COURIERS = 4  # at once
MOST_WAITING = 16  # letters for one recipient; of more, the oldest are dropped and counted
MOST_RATIONED = 64  # kinds of letters that are remembered as told
LONGEST_TIMEOUT = 3600.0
LONGEST_LIFE = 600.0  # of a courier whose hook's own timeout is shorter
LONGEST_PAUSE = 60.0
NOT_THERE = 3  # a courier's exit status: the hook cannot be executed at all
_AGAIN_SECONDS = 1.0  # when no courier could be started for want of processes
_LONGEST_TEXT = 2000
_TAIL = 1 << 16
_COURIER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "courier.py")


def pause(attempt: int) -> float:
    """Seconds between failed attempt number ``attempt`` (from 1) and the next one."""
    return min(LONGEST_PAUSE, 2.0 ** min(attempt - 1, 30))


def timeout_of(hook: Hook) -> float:
    """Seconds for one attempt."""
    return min(max(hook.timeout, 0.1), LONGEST_TIMEOUT)


def life(hook: Hook, letters: int) -> float:
    """Seconds after which a courier gives up: all attempts at the last letter, and one timeout for those before it."""
    timeout = timeout_of(hook)
    retries = min(hook.retries, 100)
    whole = timeout * (retries + 1) + sum(pause(attempt) for attempt in range(1, retries + 1))
    return min(whole, max(LONGEST_LIFE, timeout)) + (timeout if letters > 1 else 0.0)


def alike(message: str) -> str:
    """The message with every number as ``#``: what is used, and for how long, differs each time it is told."""
    found = []
    for letter in message:
        if not (letter.isdigit() or (letter == "." and found[-1:] == ["#"])):
            found.append(letter)
        elif found[-1:] != ["#"]:
            found.append("#")
    return "".join(found)


class _Told:
    """One kind of letter inside its window. until: monotonic seconds; count: how often since; last: the newest."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = 0
        self.last: Letter | None = None


class Ration:
    """Tells a thing at once and then at most every ``every`` seconds: what came meanwhile is one letter at the
    window's end, so that the last word is never the one that was held back."""

    def __init__(self, every: float) -> None:
        self.every = every
        self._told: dict[tuple[str, str, str], _Told] = {}

    def admit(self, letter: Letter, now: float) -> bool:
        """Whether to tell it now; otherwise it is counted and kept."""
        if self.every <= 0:
            return True
        key = (letter["target"], letter["event"], alike(letter["message"]))
        told = self._told.get(key)
        if told is not None and now < told.until:
            told.count += 1
            told.last = letter
            return False
        if told is not None and told.count:
            letter["repeated"] += told.count
        self._told.pop(key, None)
        self._told[key] = _Told(now + self.every)
        while len(self._told) > MOST_RATIONED:
            del self._told[next(iter(self._told))]
        return True

    def due(self) -> float | None:
        """When a kept letter may be told, None when there is none. What is only remembered wakes nobody."""
        return min((told.until for told in self._told.values() if told.count), default=None)

    def release(self, now: float) -> list[Letter]:
        """Letters whose window is over."""
        letters = []
        for key, told in list(self._told.items()):
            if now < told.until:
                continue
            if told.last is None:
                del self._told[key]
                continue
            told.last["repeated"] += told.count - 1  # it stands for itself, too
            letters.append(told.last)
            self._told[key] = _Told(now + self.every)
        return letters


class Recipient:
    """A hook's command, or one of its urls: a queue of its own, one courier at a time, so that letters keep their
    order and one slow recipient holds up nobody else."""

    def __init__(self, hook: Hook, label: str, url: str = "") -> None:
        """label: its place in safe.toml, which stands in events where a url, a secret, must not."""
        self.hook = hook
        self.label = label
        self.url = url
        self.queue: list[Letter] = []
        self.dropped = 0
        self.courier = 0
        self.missing = False
        self.not_before = 0.0

    def put(self, letter: Letter) -> None:
        """A letter for it; when too many wait, the oldest is dropped and the next one says so."""
        self.queue.append(letter)
        if len(self.queue) > MOST_WAITING:
            self.dropped += 1
            del self.queue[0]

    def take(self, count: int) -> list[Letter]:
        """The oldest ``count`` letters, the count of dropped ones in the first."""
        letters, self.queue = self.queue[:count], self.queue[count:]
        letters[0] = {**letters[0], "dropped": self.dropped}
        self.dropped = 0
        return letters

    def order(self, spec: TargetSpec, journal: EventLog, letters: list[Letter]) -> dict[str, Any]:
        """What its courier has to know."""
        hook = self.hook
        return {
            "label": self.label,
            "command": [] if self.url else hook.command,
            "url": self.url,
            "cwd": spec.cwd,
            "env": spec.env,
            "timeout": timeout_of(hook),
            "retries": min(hook.retries, 100),
            "life": life(hook, len(letters)),
            "quiet": self.missing,  # said once
            "events": journal.path,
            "instance": journal.instance,
            "letters": letters,
        }


def recipients_of(place: int, hook: Hook) -> list[Recipient]:
    """place: the hook's index in ``notify``."""
    found = [Recipient(hook, f"notify[{place}].command")] if hook.command else []
    return found + [Recipient(hook, f"notify[{place}].urls[{at}]", url) for at, url in enumerate(hook.urls)]


def write_letter(event: str, message: str, record: dict[str, Any], more: dict[str, Any] | None = None) -> Letter:
    """An event as hooks get it; docs/notifications.md describes the fields."""
    main = record["main"]
    return {
        "v": 1,
        "event": event,
        "message": message[:_LONGEST_TEXT],
        "at": round(wall(), 3),
        "host": _host(),
        "project": record["project"],
        "instance": record["instance"],
        "target": record["target"],
        "run_id": record["run_id"],
        "state": record["state"],
        "pid": main["pid"] if main else None,
        "restarts": record["restarts"],
        "exit": record["last_exit"],
        "repeated": 0,
        "dropped": 0,
        **(more or {}),
    }


def _host() -> str:
    from _socket import gethostname

    return gethostname()


def send_courier(order: dict[str, Any]) -> int:
    """Start a courier; its pid. ResourceError, OSError when that cannot be now, ValueError when it never can.

    It is a new program with nothing of ours open: no lock, no lifeline, no mark of the instance in its environment.
    """
    data = wire.dumps(order).encode()  # on a pipe, since a url is a secret that no argument list may show
    reading, writing = os.pipe()
    try:
        if len(data) > 60000 and hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(writing, False)
        if os.write(writing, data) != len(data):
            raise ValueError("the event and the target's environment are larger than 1 MiB")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            words = [sys.executable, "-E", "-s", "-S", _COURIER]
            return spawn(words, cwd="/", env=_unmarked(), stdio=(reading, null, null))
        finally:
            os.close(null)
    finally:
        os.close(reading)
        os.close(writing)


def _unmarked() -> dict[str, str]:
    from safesh.core.contain import INSTANCE, RUN_ID

    return {name: value for name, value in inherited().items() if name not in (INSTANCE, RUN_ID)}


class Post(Watcher):
    """The hooks of one instance."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._journal: Journal = supervisor.journal
        self._pid = os.getpid()
        self._spec: TargetSpec | None = None
        self._hooks: list[tuple[Hook, Ration, list[Recipient]]] = []
        self._old: list[Recipient] = []  # of a target before a restart that changed it, with a courier on its way
        self._cause = ""
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
        self._hooks = [
            (hook, Ration(hook.every), recipients_of(place, hook)) for place, hook in enumerate(spec.notify)
        ]

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
        spec = self._supervisor.spec
        letters = recipient.take(count)
        try:
            recipient.courier = send_courier(recipient.order(spec, self._journal.log, letters))
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


# ---- strays, which a start finds: there is no supervisor then


def tell_strays(spec: TargetSpec, paths: InstancePaths, run_id: str, message: str) -> None:
    """``start`` was refused because of strays: an event, and a courier to each hook that wants to know.

    Whoever starts again every minute (cron) is no reason to tell again: the event log knows when it was last told.
    """
    log = EventLog(paths.events, spec.instance)
    now = wall()
    past = _told_before(paths.events, spec.instance, message)
    told = [
        place
        for place, hook in enumerate(spec.notify)
        if (not hook.on or "strays" in hook.on) and not 0 <= now - past.get(place, -1.0) < hook.every
    ]
    log.write("strays", spec.name, run_id, message=message[:_LONGEST_TEXT], told=told)
    record = {"project": spec.project, "instance": spec.instance, "target": spec.name, "run_id": run_id}
    record |= {"state": "idle", "main": None, "restarts": 0, "last_exit": None}
    for place in told:
        for recipient in recipients_of(place, spec.notify[place]):
            try:
                send_courier(recipient.order(spec, log, [write_letter("strays", message, record)]))
            except (SafeshError, OSError, ValueError) as error:
                log.write("hook_failed", spec.name, run_id, hook=recipient.label, reason=str(error), attempts=0)


def _told_before(path: str, instance: str, message: str) -> dict[int, float]:
    """Index of a hook -> wall time at which it was last told of these strays, as far as the log's end goes back."""
    try:
        fd = open_private(path, os.O_RDONLY)
    except (OSError, SafeshError):
        return {}
    try:
        data = os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL))
    except OSError:
        return {}
    finally:
        os.close(fd)
    found: dict[int, float] = {}
    for line in data.split(b"\n"):
        if b'"strays"' not in line:
            continue
        try:
            event = wire.loads(line.decode())
            same = (event["event"], event["instance"], event["message"]) == ("strays", instance, message[:_LONGEST_TEXT])
            if same:
                found |= {int(place): float(event["at"]) for place in event["told"]}
        except (ValueError, KeyError, TypeError):
            continue  # cut off, damaged, or somebody else's
    return found
