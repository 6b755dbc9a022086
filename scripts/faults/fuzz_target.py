"""One parser under attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from faults.fuzz_box import Box


class Target(NamedTuple):
    """``check`` reads the bytes: True when they were taken, False when they were refused, Violation when neither.

    seeds: valid inputs that mutations begin from; words: what they put in.
    """

    name: str
    check: Callable[[Box, bytes], bool]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
