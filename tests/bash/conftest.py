from __future__ import annotations

from pathlib import Path

import pytest

from helpers.checkout import Checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout on which safe.sh was never called; its environment is made quickly."""
    return Checkout(tmp_path)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose environment is made; tests only call it."""
    made = Checkout(tmp_path_factory.mktemp("warm"))
    done = made.call("--version")
    assert done.returncode == 0, done.stderr
    return made
