"""Every test here runs once a backend: ``holder`` is a process that uses it (helpers/contract_driver.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import contracts


@pytest.fixture(params=contracts.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The backend under test; those that this machine does not have are skipped by name."""
    name: str = request.param
    why = contracts.why_not(name)
    if why:
        pytest.skip(f"not to be had here: {why}")
    return name


@pytest.fixture
def holder(backend: str) -> Iterator[contracts.Holder]:
    with contracts.Holder(backend) as one:
        yield one
