"""Ending what no supervisor answers for: strays, and holders whose lock and record are gone."""

from __future__ import annotations

from safesh import _platform
from safesh.core.kill import KILL_SECONDS, end_tree
from safesh.model import Verdict
from safesh.supervise.client import MARGIN, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable

    from safesh.instance.strays import Finder
    from safesh.model import StopPolicy
else:
    import _signal


def end_strays(finder: Finder, stop: StopPolicy, held: Iterable[int] = (), *, now: bool = False) -> Verdict:
    """End an instance's strays; the verdict names them. held: pids that a supervisor or keeper answers for.

    A holder that nothing tells of goes first, or it would start again what is ended beside it.
    """
    tree = finder.tree(held)
    lost = {(one.pid, one.start) for one in finder.lost}
    before = finder.members(_platform.scan(), held) if lost else []
    notes = _end_lost(finder, 0.0 if now else stop.grace + MARGIN)
    try:
        verdict = end_tree(tree, stop, now=now)
    finally:
        tree.close()
    if not lost:
        return verdict
    # Whoever is left has nobody to hold any more. A keeper gives its tree the target's own grace, and goes.
    finder.find(_platform.scan(), held)
    notes += _end_lost(finder, KILL_SECONDS)
    verdict.survivors += [one for one in finder.members(_platform.scan(), held) if (one.pid, one.start) in lost]
    verdict.notes += notes
    told = {(one.pid, one.start) for one in (*verdict.asked, *verdict.killed, *verdict.survivors)}
    for one in before:
        if (one.pid, one.start) not in told:
            one.reason = "SIGTERM" if (one.pid, one.start) in lost else "by its supervisor"
            verdict.asked.append(one)
    return verdict


def _end_lost(finder: Finder, patience: float) -> list[str]:
    """End the holders that the last look found, in ``patience`` seconds by SIGTERM, by which they end their trees."""
    notes = []
    for one in finder.lost:
        handle = _platform.open_handle(one.pid, one.start)
        if handle is None:
            continue
        handle.send(_signal.SIGTERM)
        handle.send(_signal.SIGCONT)  # one that was stopped hears only now
        if not wait_for(handle, patience):
            handle.send(_signal.SIGKILL)
            wait_for(handle, KILL_SECONDS)
            notes.append(f"its holder (pid {one.pid}), whose lock and record are gone, was killed")
        handle.close()
    return notes
