"""Environments: resolved once a day, built once, shared, never used half made. With an installer of the test's."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from helpers.home import Home
from safesh.mission import installer, store
from safesh.mission.control import CalledOff, Control
from safesh.mission.environment import Environments
from safesh.mission.errors import EnvironmentFailed
from safesh.mission.installer import python_of


class Fake:
    """Resolves to what it is told, builds a folder with a Python in it."""

    name = "fake"

    def __init__(self) -> None:
        self.resolved = 0
        self.built = 0
        self.offline = False
        self.version = "1"
        self.on_build: Callable[[], None] = lambda: None

    def resolve(self, requirements: str, folder: str, control: Control) -> list[str]:
        if self.offline:
            raise EnvironmentFailed("the index cannot be reached", place="fake", offline=True)
        self.resolved += 1
        return [f"{one}=={self.version}" for one in requirements.split()]

    def build(self, path: str, resolved: Sequence[str], folder: str, control: Control) -> None:
        self.built += 1
        os.makedirs(os.path.join(path, "bin"))
        os.symlink(sys.executable, python_of(path))
        self.on_build()
        control.check()


@pytest.fixture
def fake(home: Home, monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    monkeypatch.setattr(installer, "find", lambda wish, timeout: one)
    return one


def prepare(environments: Environments, *requirements: str) -> tuple[str, bool, str]:
    found = environments.prepare(requirements, Control())
    found.release()
    return found.info.path, found.info.cached, found.info.note


def test_the_second_mission_finds_what_the_first_one_built(fake: Fake) -> None:
    first, cached, _note = prepare(Environments(), "a", "b")
    assert not cached
    assert prepare(Environments(), "a", "b") == (first, True, "")
    assert (fake.resolved, fake.built) == (1, 1)


def test_different_wishes_with_the_same_list_share_an_environment(fake: Fake) -> None:
    first, _cached, _note = prepare(Environments(), "a", "b")
    assert prepare(Environments(), "b", "a")[0] == first
    assert fake.built == 1


def test_an_upgrade_arrives_when_the_list_is_no_longer_fresh(fake: Fake) -> None:
    first, _cached, _note = prepare(Environments(), "a")
    fake.version = "2"
    assert prepare(Environments(), "a")[0] == first
    second, cached, _note = prepare(Environments(fresh=0), "a")
    assert second != first
    assert not cached


def test_without_a_network_the_list_of_before_still_runs_and_that_is_told(fake: Fake) -> None:
    first, _cached, _note = prepare(Environments(), "a")
    fake.offline = True
    path, cached, note = prepare(Environments(fresh=0), "a")
    assert (path, cached) == (first, True)
    assert "not anew" in note
    assert "cannot be reached" in note


def test_without_a_network_and_without_a_list_it_is_told_and_nothing_is_left(fake: Fake, home: Home) -> None:
    fake.offline = True
    with pytest.raises(EnvironmentFailed, match="cannot be reached"):
        prepare(Environments(), "a")
    assert not os.listdir(store.folder("runs"))


def test_several_at_once_share_one_build(fake: Fake) -> None:
    fake.on_build = lambda: time.sleep(0.2)
    found: list[tuple[str, bool, str]] = []
    threads = [threading.Thread(target=lambda: found.append(prepare(Environments(), "a"))) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert len({path for path, _cached, _note in found}) == 1
    assert [cached for _path, cached, _note in found].count(False) == 1
    assert (fake.resolved, fake.built) == (1, 1)


def test_a_build_that_failed_leaves_nothing_and_the_next_one_builds(fake: Fake) -> None:
    def fail() -> None:
        raise EnvironmentFailed("no")

    fake.on_build = fail
    with pytest.raises(EnvironmentFailed):
        prepare(Environments(), "a")
    assert [one for one in os.listdir(store.folder("environments")) if not one.endswith(".lock")] == []
    fake.on_build = lambda: None
    assert not prepare(Environments(), "a")[1]


def test_what_a_killed_build_left_is_never_used(fake: Fake) -> None:
    path, _cached, _note = prepare(Environments(), "a")
    os.unlink(os.path.join(path, "safesh.json"))  # its marker is written last
    Path(path, "half").touch()
    again, cached, _note = prepare(Environments(), "a")
    assert (again, cached) == (path, False)
    assert not Path(path, "half").exists()


def test_an_environment_whose_python_is_gone_is_built_anew(fake: Fake) -> None:
    path, _cached, _note = prepare(Environments(), "a")
    os.unlink(python_of(path))
    os.symlink("/nowhere/python", python_of(path))
    assert not prepare(Environments(), "a")[1]


def test_a_mission_that_was_called_off_does_not_wait_for_a_build(fake: Fake) -> None:
    control = Control()
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait(20)

    fake.on_build = hang
    builder = threading.Thread(target=lambda: prepare(Environments(), "a"))
    builder.start()
    try:
        assert began.wait(10)
        control.cancel()
        with pytest.raises(CalledOff):
            Environments().prepare(["a"], control)
    finally:
        go_on.set()
        builder.join(20)


# --- pruning ----------------------------------------------------------------------------------


def test_pruning_keeps_the_last_used(fake: Fake) -> None:
    paths = [prepare(Environments(), name)[0] for name in "abc"]
    for at, path in enumerate(paths):
        os.utime(os.path.join(path, "safesh.json"), (1000 + at, 1000 + at))
    prepare(Environments(), "a")  # used now
    assert Environments().prune(keep=1) == [paths[1], paths[2]]
    assert [os.path.isdir(path) for path in paths] == [True, False, False]


def test_pruning_leaves_alone_what_is_in_use(fake: Fake) -> None:
    used = Environments().prepare(["a"], Control())
    try:
        assert Environments().prune(keep=0) == []
        assert os.path.isdir(used.info.path)
    finally:
        used.release()
    assert Environments().prune(keep=0) == [used.info.path]


def test_pruning_by_age_spares_the_young(fake: Fake) -> None:
    old, young = prepare(Environments(), "a")[0], prepare(Environments(), "b")[0]
    past = time.time() - 3600
    os.utime(os.path.join(old, "safesh.json"), (past, past))
    assert Environments().prune(keep=0, older_than=600) == [old]
    assert os.path.isdir(young)


def test_a_new_build_bounds_how_many_there_are(fake: Fake) -> None:
    for name in "abcd":
        prepare(Environments(keep=2), name)
    assert len([one for one in os.listdir(store.folder("environments")) if not one.endswith(".lock")]) == 2


# --- folders of runs --------------------------------------------------------------------------


def test_a_run_folder_of_a_killed_program_is_swept_and_a_living_one_is_not(home: Home) -> None:
    living, killed = store.RunFolder("living"), store.RunFolder("killed")
    try:
        temporary = killed.temporary()
        killed._held.release()  # what the kernel does when its program is killed
        assert store.sweep() == 1
        assert not os.path.exists(killed.path)
        assert not os.path.exists(temporary)
        assert os.path.isdir(living.path)
    finally:
        living.close()
    assert os.listdir(store.folder("runs")) == []


def test_the_folders_are_private(home: Home) -> None:
    os.chmod(store.folder("runs"), 0o755)
    assert os.stat(store.folder("runs")).st_mode & 0o777 == 0o700
