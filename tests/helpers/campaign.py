"""How much of a race, or of a table of cases, is run (a pytest plugin): a quick part in every run of the tests, all
of it in ``make faults`` (SAFESH_CAMPAIGN=full).

What a quick run leaves out is deselected and counted as such, never passed. A test that is asked for by its whole name
(``FILE::TEST[CASE]``) is run in any case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from helpers.nsguard import inside

# Read at import: a test's ``home`` takes every variable of ours out of the environment.
FULL = os.environ.get("SAFESH_CAMPAIGN") == "full"


def rounds(quick: int, full: int) -> int:
    """Rounds of this run."""
    return full if FULL else quick


# A test, or a case (``pytest.param(..., marks=full)``), for `make faults` alone: its promise is kept by a quicker one.
full = pytest.mark.full


def in_full(quick: Iterable[Any], *more: Any) -> list[Any]:
    """For ``parametrize``: these values, and in `make faults` ``more`` of the same kind."""
    rest = (value if isinstance(value, tuple) else (value,) for value in more)
    return [*quick, *(pytest.param(*value, marks=full) for value in rest)]


def thinned(times: int = 1) -> pytest.MarkDecorator:
    """For a test under several ``parametrize``: a quick run takes so few of the combinations that each value of each
    parameter still comes up ``times`` times, spread evenly over the others' values."""
    return pytest.mark.thinned(times)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only where SAFESH_CAMPAIGN=full")
    config.addinivalue_line("markers", "thinned(times): all combinations only where SAFESH_CAMPAIGN=full")


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FULL or inside():  # in the namespace runs what was chosen outside
        return
    by_name = {argument.rpartition("::")[2] for argument in config.args if "::" in argument}
    tables: dict[tuple[str, str], list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("thinned") and hasattr(item, "callspec"):
            tables.setdefault((item.parent.nodeid if item.parent else "", item.originalname), []).append(item)
    dropped: set[pytest.Item] = {item for item in items if item.get_closest_marker("full")}
    for cases in tables.values():
        marker = cases[0].get_closest_marker("thinned")
        assert marker is not None
        dropped |= {*cases} - covering([one for one in cases if one not in dropped], *marker.args)
    dropped -= {item for item in dropped if item.name in by_name}
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


def covering(cases: list[pytest.Function], times: int = 1) -> set[pytest.Item]:
    """Some of these cases, the same ones each time: each value of each parameter is in ``times`` of them, or in all
    that there are."""
    # The very object tells one value from another: it may have no hash, and pytest numbers the cases, not the values.
    values = {case: frozenset((name, id(value)) for name, value in case.callspec.params.items()) for case in cases}
    there = Counter(value for case in cases for value in values[case])
    used: Counter[tuple[str, int]] = Counter()
    pairs: Counter[tuple[tuple[str, int], tuple[str, int]]] = Counter()
    chosen: set[pytest.Item] = set()
    rest = list(cases)
    while rest:

        def gain(case: pytest.Function) -> tuple[int, int, int]:
            mine = values[case]
            return (
                sum(used[value] < min(times, there[value]) for value in mine),
                -sum(pairs[one, other] for one in mine for other in mine),
                -sum(used[value] for value in mine),
            )

        best = max(rest, key=gain)
        if not gain(best)[0]:
            break
        rest.remove(best)
        chosen.add(best)
        used.update(values[best])
        pairs.update((one, other) for one in values[best] for other in values[best])
    return chosen
