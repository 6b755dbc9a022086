"""Letters: events as hooks get them, and how often the same thing is told."""

from __future__ import annotations

from safesh.clock import wall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import Hook

    Letter = dict[str, Any]

MOST_RATIONED = 64  # kinds of letters that are remembered as told
LONGEST_TIMEOUT = 3600.0
LONGEST_LIFE = 600.0  # of a courier whose hook's own timeout is shorter
LONGEST_PAUSE = 60.0
LONGEST_TEXT = 2000
# These are told as they are seen, just before the state machine hears of them.
_STATE_AFTER = {"ready": "running", "unhealthy": "unhealthy", "recovered": "running"}


def write_letter(event: str, message: str, record: dict[str, Any]) -> Letter:
    """An event as hooks get it; docs/notifications.md describes the fields."""
    main = record["main"]
    return {
        "v": 1,
        "event": event,
        "message": message[:LONGEST_TEXT],
        "at": round(wall(), 3),
        "host": _host(),
        "project": record["project"],
        "instance": record["instance"],
        "target": record["target"],
        "run_id": record["run_id"],
        "state": _STATE_AFTER.get(event, record["state"]),
        "pid": main["pid"] if main else None,
        "restarts": record["restarts"],
        "exit": record["last_exit"],
        "repeated": 0,
        "dropped": 0,
    }


def _host() -> str:
    from _socket import gethostname

    return gethostname()


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
    found: list[str] = []
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
