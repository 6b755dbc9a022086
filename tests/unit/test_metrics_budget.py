"""The sampler's budget, with a clock and a price of our own: what looking costs decides how often it is done."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from safesh._platform import Info
from safesh.metrics import sampler as room
from safesh.metrics.sampler import TreeSampler
from safesh.metrics.tree import Reading

MIB = 1 << 20


class World:
    """A tree that costs what we say, in a time that passes when we say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.spent = 0.0
        self.look_costs = 0.001
        self.exact_costs = 0.001
        self.exact_reads: list[float] = []
        self.resident = 100 * MIB
        self.processes = 4
        self.pss_share = 0.5
        self.cpu = 0.0
        monkeypatch.setattr(room, "monotonic", lambda: self.now)
        monkeypatch.setattr(room.time, "thread_time", lambda: self.spent)
        monkeypatch.setattr(room, "exact_bytes", self._read_exactly)

    def sampler(self, **options: Any) -> TreeSampler:
        made = TreeSampler(os.getpid(), **options)
        made._tree.look = self._look  # type: ignore[method-assign,assignment]
        return made

    def _look(self, **_options: Any) -> Reading:
        self.spent += self.look_costs
        each = self.resident // self.processes
        reading = Reading([Info(n, 1, n, n, "S", n, memory_bytes=each) for n in range(1, self.processes + 1)])
        reading.cpu_seconds = self.cpu
        return reading

    def _read_exactly(self, members: list[Info]) -> int:
        self.spent += self.exact_costs
        self.exact_reads.append(self.now)
        return int(sum(one.memory_bytes for one in members) * self.pss_share)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def live(world: World, sampler: TreeSampler, seconds: float) -> int:
    """Sample whenever it is due; how often."""
    end, count = world.now + seconds, 0
    while world.now < end:
        sampler.sample()
        count += 1
        world.now = sampler.due
    return count


def test_a_cheap_look_keeps_the_wished_interval(world: World) -> None:
    world.look_costs = 0.0001
    assert live(world, world.sampler(interval=1.0), 100) == pytest.approx(100, abs=2)


@pytest.mark.parametrize("look_costs", [0.01, 0.1, 1.0, 5.0])
def test_a_dear_look_is_made_less_often_so_that_half_a_percent_is_kept(world: World, look_costs: float) -> None:
    world.look_costs = look_costs
    sampler = world.sampler(interval=0.1)
    live(world, sampler, 20_000)
    assert world.spent / (world.now - 1000.0) <= 0.005


def test_costs_that_vary_keep_the_budget_too(world: World, rng: random.Random) -> None:
    sampler = world.sampler(interval=0.05)
    while world.now < 20_000:
        world.look_costs = rng.choice([0.0002, 0.002, 0.3])
        world.exact_costs = rng.choice([0.001, 0.5])
        world.resident = rng.randrange(10, 4000) * MIB
        sampler.sample()
        world.now = sampler.due
    assert world.spent / (world.now - 1000.0) <= 0.005


def test_after_a_dear_moment_the_wished_interval_comes_back(world: World) -> None:
    sampler = world.sampler(interval=1.0)
    world.look_costs = 0.1
    sampler.sample()
    assert sampler.interval > 20
    world.look_costs = 0.001
    live(world, sampler, 60)
    assert sampler.interval == 1.0


def test_pss_is_read_at_first_and_then_once_a_minute(world: World) -> None:
    live(world, world.sampler(interval=1.0), 300)
    assert 5 <= len(world.exact_reads) <= 7


def test_between_two_readings_memory_follows_what_is_resident(world: World) -> None:
    sampler = world.sampler(interval=1.0)
    first = sampler.sample()
    world.now, world.resident = sampler.due, 120 * MIB
    second = sampler.sample()
    assert first is not None
    assert second is not None
    assert (first.memory_bytes, second.memory_bytes) == (50 * MIB, 60 * MIB)
    assert len(world.exact_reads) == 1


def test_a_tree_that_changed_much_is_read_exactly_before_its_time(world: World) -> None:
    sampler = world.sampler(interval=1.0)
    sampler.sample()
    world.now += 3
    world.processes, world.resident, world.pss_share = 8, 200 * MIB, 0.3
    found = sampler.sample()
    assert found is not None
    assert found.memory_bytes == 60 * MIB


def test_the_peak_holds_no_figure_from_before_pss_was_read(world: World) -> None:
    world.resident, world.exact_costs = 100 * 1024 * MIB, 2.0
    sampler = world.sampler(interval=1.0)
    live(world, sampler, 10)
    assert sampler.peak_memory_bytes == 0
    live(world, sampler, 4000)
    assert sampler.peak_memory_bytes == 50 * 1024 * MIB


def test_a_huge_tree_is_not_read_exactly_before_that_is_paid_for(world: World) -> None:
    world.resident, world.exact_costs = 100 * 1024 * MIB, 2.0
    sampler = world.sampler(interval=1.0)
    live(world, sampler, 300)
    assert not world.exact_reads
    live(world, sampler, 4000)
    assert 1 <= len(world.exact_reads) <= 4


def test_pss_may_be_left_out_altogether(world: World) -> None:
    live(world, world.sampler(interval=1.0, exact_every=0), 300)
    assert not world.exact_reads


def test_the_first_sample_has_no_cpu_percent_and_the_next_has(world: World) -> None:
    sampler = world.sampler(interval=1.0)
    found = []
    for cpu in (3.0, 3.5, 3.5):
        world.cpu = cpu
        sample = sampler.sample()
        assert sample is not None
        found.append(sample.cpu_percent)
        world.now += 1.0
    assert found == [None, pytest.approx(50.0), 0.0]
