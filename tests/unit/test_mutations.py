"""Every mutation that the campaign has to notice still changes the code it was written for."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import mutations


@pytest.mark.parametrize("one", mutations.ALL, ids=lambda one: one.what)
def test_a_mutation_finds_its_place_and_is_python(one: mutations.Mutation, tmp_path: Path) -> None:
    mutations._copy(tmp_path, one)
    changed = (tmp_path / "safesh" / one.file).read_text()
    assert changed != (mutations.ROOT / "supervisor" / "safesh" / one.file).read_text()
