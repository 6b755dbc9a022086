"""A tree that is killed runs no further line of its own, however young it is."""

from __future__ import annotations

import collections
import subprocess

import pytest

from helpers.campaign import rounds
from safesh import kill_process_tree


@pytest.mark.timeout(120)
def test_a_shell_killed_with_its_newborn_child_never_gets_to_the_line_after_it() -> None:
    """Met alone at first and with a child at the second look, it too has to be stopped before the child is killed."""
    ends: collections.Counter[int] = collections.Counter()
    for _ in range(rounds(quick=60, full=600)):
        shell = subprocess.Popen(["sh", "-c", "sleep 60 & wait; exit 7"])
        try:
            assert kill_process_tree(shell.pid).ok
        finally:
            shell.kill()
            ends[shell.wait(10)] += 1
    assert set(ends) == {-9}, ends
