"""What every test gets: a home, a seed, a deadline, and the check that nothing is left behind."""

from __future__ import annotations

import faulthandler
import random
from collections.abc import Iterator

import pytest

# campaign before pidns: what it leaves out, no namespace is asked for
pytest_plugins = ("helpers.campaign", "helpers.pidns", "helpers.leaks", "helpers.home")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="repeat a run's random choices: the seed from its header")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(1 << 32)
    config.addinivalue_line("filterwarnings", "error")
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): the test's deadline")
        config.pluginmanager.register(Deadline(), "safesh-deadline")


def pytest_report_header(config: pytest.Config) -> str:
    from helpers import pidns

    command, why = pidns.unshare()
    where = (
        "in a pid namespace" if pidns.inside() else "with pid namespaces" if command else f"no pid namespaces: {why}"
    )
    return f"safesh: --seed={config.option.seed}, {where}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed; ``--seed`` repeats it."""
    value: int = request.config.option.seed
    return value


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random choices that depend on the seed and the test alone, not on the order of tests."""
    return random.Random(f"{request.config.option.seed}:{request.node.nodeid}")


class Deadline:
    """Where pytest-timeout is missing: a test that hangs ends the run, with every thread's stack."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        from helpers import pidns

        faulthandler.dump_traceback_later(pidns.limit_of(item), exit=True)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
