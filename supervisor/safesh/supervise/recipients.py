"""Recipients: who gets letters, each with a queue of its own, and the couriers that bring them."""

from __future__ import annotations

import fcntl
import os
import sys

from safesh import _platform, wire
from safesh.core.contain import HOLDER, INSTANCE, RUN_ID
from safesh.core.environment import inherited
from safesh.core.spawn import spawn
from safesh.instance.strays import mark
from safesh.supervise.letters import life, timeout_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Hook, TargetSpec
    from safesh.supervise.events import EventLog
    from safesh.supervise.letters import Letter

MOST_WAITING = 16  # letters for one recipient; of more, the oldest are dropped and counted
_COURIER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "courier.py")


class Recipient:
    """A hook's command, or one of its urls: a queue of its own, one courier at a time, so that letters keep their
    order and one slow recipient holds up nobody else."""

    def __init__(self, spec: TargetSpec, hook: Hook, label: str, url: str = "") -> None:
        """label: its place in safe.toml, which stands in events where a url, a secret, must not."""
        self.spec = spec
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

    def order(self, journal: EventLog, letters: list[Letter]) -> dict[str, Any]:
        """What its courier has to know."""
        spec, hook = self.spec, self.hook
        return {
            "label": self.label,
            "command": [] if self.url else hook.command,
            "url": self.url,
            "cwd": spec.cwd,
            "env": spec.env,
            "timeout": timeout_of(hook),
            "retries": min(hook.retries, 100),
            "life": life(hook, len(letters) + bool(self.courier)),
            "after": self._before(),  # whose letter is older
            "quiet": self.missing,  # said once
            "events": journal.path,
            "instance": journal.instance,
            "letters": letters,
        }

    def _before(self) -> list[int]:
        """(pid, start) of a courier that is still on its way, for the last one, which nobody sends after its end."""
        start = _platform.start_time(self.courier) if self.courier else None
        return [] if start is None else [self.courier, start]


def recipients_of(spec: TargetSpec, place: int) -> list[Recipient]:
    """place: the hook's index in ``notify``."""
    hook = spec.notify[place]
    found = [Recipient(spec, hook, f"notify[{place}].command")] if hook.command else []
    return found + [Recipient(spec, hook, f"notify[{place}].urls[{at}]", url) for at, url in enumerate(hook.urls)]


def send_courier(order: dict[str, Any]) -> int:
    """Start a courier; its pid. ResourceError, OSError when that cannot be now, ValueError when it never can.

    It is a new program with nothing of ours open, no lock and no lifeline. Its mark says that it is no member of the
    run: whoever ends that from outside finds it among our children.
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
            return spawn(words, cwd="/", env=_environment(order), stdio=(reading, null, null))
        finally:
            os.close(null)
    finally:
        os.close(reading)
        os.close(writing)


def _environment(order: dict[str, Any]) -> dict[str, str]:
    env = {name: value for name, value in inherited().items() if name not in (INSTANCE, RUN_ID)}
    return env | {HOLDER: mark(os.path.dirname(order["events"]), order["instance"])}
