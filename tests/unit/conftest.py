"""What several unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from faults.fuzz_box import Box


@pytest.fixture
def place() -> Iterator[Box]:
    """The sandbox in which hostile bytes are read (scripts/faults/fuzz_box.py)."""
    from faults.fuzz_box import box

    with box() as made:
        yield made
