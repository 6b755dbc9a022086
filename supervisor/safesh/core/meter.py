"""One limit of one run: when it is passed, since when, and in which words that is told."""

from __future__ import annotations

from safesh.clock import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.model import Limit

SETTLED = 0.9  # of the limit: below it a passed limit is over


def _count(number: float) -> str:
    return f"{number:.0f}"


def _percent(number: float) -> str:
    return f"{number:.0f}%"


# name in safe.toml -> (name in messages, how its numbers are shown)
WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "memory": ("memory", format_size),
    "cpu": ("cpu", _percent),
    "max_runtime": ("runtime", format_duration),
    "processes": ("processes", _count),
    "open_files": ("open files", _count),
    "log_growth": ("log growth", lambda number: format_size(number) + "/min"),
}


class Meter:
    """One limit of one run: since when it has been passed, and whether that was told."""

    def __init__(self, name: str, limit: Limit) -> None:
        self.name = name
        self.limit = limit
        self.told = False
        self._since: float | None = None

    def judge(self, used: float, now: float, began: float | None = None) -> str:
        """``crossed`` once an episode, when the limit has been passed for as long as it says; ``over`` at its end.

        now, began: monotonic seconds; what was used between the two (an average) has been used since ``began``.
        """
        if used > self.limit.most:
            if self._since is None:
                self._since = now if began is None else began
            if not self.told and now - self._since >= self.limit.lasting:
                self.told = True
                return "crossed"
        elif not self.told:
            self._since = None
        elif used < SETTLED * self.limit.most:
            self.told = False
            self._since = None
            return "over"
        return ""

    def words(self, used: float | None = None) -> str:
        """``memory limit 512 MiB, used 530 MiB``."""
        label, show = WORDS[self.name]
        text = f"{label} limit {show(self.limit.most)}"
        if self.limit.lasting:
            text += f" for {format_duration(self.limit.lasting)}"
        return text if used is None else f"{text}, used {show(used)}"
