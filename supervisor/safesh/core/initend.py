"""``--on-exit end``: what the command left behind is ended whole, and the verdict told.

Apart from the init because of what it loads: most runs never come here.
"""

from __future__ import annotations

import os

from safesh.core import kill
from safesh.core.contain import Tree
from safesh.model import StopPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def end_below(command: str, grace: float, wait: kill.Wait, say: Callable[[str], None]) -> int:
    """End every process below us, ``grace`` seconds between asking and killing; the number of survivors.

    We must be pid 1 or a subreaper. Silent when there is nobody.
    """
    tree = Tree(root=os.getpid())
    try:
        verdict = kill.end_tree(tree, StopPolicy(scope="tree", grace=grace), wait=wait)
    finally:
        tree.close()
    if verdict.asked or verdict.killed or verdict.survivors:
        say(
            f"ended what {command} left: {len(verdict.asked)} asked, {len(verdict.killed)} killed, "
            f"{len(verdict.survivors)} survivors, {verdict.seconds:.1f}s"
        )
    for one in verdict.survivors:
        say(f"survivor {one.pid} ({one.command}): {one.reason}")
    return len(verdict.survivors)
