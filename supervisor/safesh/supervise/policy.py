"""Whether, and when, a target that ended is started again."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.model import Backoff, ExitInfo, StartLimit, TargetSpec


def wants_restart(spec: TargetSpec, end: ExitInfo | None) -> bool:
    """The restart policy's word on an end that nobody asked for. end None: how it ended is not known."""
    if spec.restart == "always":
        return True
    return spec.restart == "on-failure" and (end is None or not end.ok)


def random_share() -> float:
    """A number in [0, 1); the ``random`` module would cost 1.5 MiB for it."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class Restarts:
    """Counts starts and grows the delay between them."""

    def __init__(self, backoff: Backoff, limit: StartLimit, share: Callable[[], float] = random_share) -> None:
        self.backoff = backoff
        self.limit = limit
        self._share = share
        self._starts: list[float] = []
        self._exponent = 0

    def started(self, now: float) -> None:
        """A start at ``now`` (monotonic seconds)."""
        self._starts = [at for at in self._starts if now - at < self.limit.window]
        self._starts.append(now)

    def ended(self, now: float) -> None:
        """The run ended: one that outlived the longest delay has earned a fresh count."""
        if self._starts and now - self._starts[-1] > max(self.backoff.max, self.backoff.initial):
            self._exponent = 0

    def exhausted(self, now: float) -> bool:
        """Whether another start would be one too many in the window."""
        recent = [at for at in self._starts if now - at < self.limit.window]
        return 0 < self.limit.count <= len(recent)

    def delay(self) -> float:
        """Seconds until the next start; grows with each call up to the ceiling, which jitter does not pass."""
        backoff = self.backoff
        base = backoff.initial
        for _ in range(self._exponent):
            base *= backoff.factor
            if base >= backoff.max:
                base = backoff.max
                break
        self._exponent += 1
        spread = base * backoff.jitter
        return min(backoff.max, max(0.0, base - spread + 2 * spread * self._share()))
