"""A line of this run's output that shows readiness, found in the log across its rotations."""

from __future__ import annotations

from safesh.core.logtail import ALL, Follower, select
from safesh.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.supervise.probes import Context

_LONGEST = 1 << 16  # of a line without an end, this much is looked at
_BUDGET = 4 << 20  # bytes a look, so that a flood of output does not keep the supervisor from its other work


class LogScan:
    """The log from now on, or from ``offset`` bytes on, searched line by line. Each byte is read once."""

    def __init__(self, path: str, offset: int = -1) -> None:
        """offset: where to begin in the file as it is now, -1 for its end. StateError when it cannot be trusted."""
        self._follower: Follower | None = None
        self._sources = []
        if offset < 0:
            self._follower = Follower(path, 0)
        else:
            self._sources = select(path, ALL)
            newest = self._sources[-1:]
            if newest and newest[0].size >= offset:
                # Not rotated since, as far as its size tells; else every part is looked at.
                for source in self._sources[:-1]:
                    source.close()
                newest[0].offset = offset
                self._sources = newest
        self._rest = b""
        self.more = False  # the last look ended before the log did

    def find(self, pattern: str) -> str:
        """The first new line that contains ``pattern``, "" when there is none (yet)."""
        import re  # paid for by those who ask for a pattern

        wanted = re.compile(pattern)
        taken = 0
        while taken < _BUDGET and (chunk := self._read()):
            taken += len(chunk)
            *lines, rest = (self._rest + chunk).split(b"\n")
            self._rest = rest[-_LONGEST:]
            for line in lines:
                text = line[:_LONGEST].decode("utf-8", "replace").rstrip("\r")
                if wanted.search(text):
                    return text or " "
        self.more = taken >= _BUDGET
        # A prompt has no line end.
        text = self._rest.decode("utf-8", "replace")
        return text if text and wanted.search(text) else ""

    def _read(self) -> bytes:
        if self._follower is not None:
            return self._follower.read()
        for source in self._sources:
            if chunk := source.read():
                return chunk
        return b""

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
        for source in self._sources:
            source.close()
        self._sources = []


def look_at_log(pattern: str, context: Context) -> tuple[bool, str]:
    """(whether the run has said it, one line why)."""
    try:
        if context.log_scan is None:
            context.log_scan = LogScan(context.log, context.log_offset)
        line = context.log_scan.find(pattern)
    except StateError as error:
        return False, str(error)
    return (True, line.strip()) if line else (False, f"no line of its output has matched {pattern!r} yet")
