"""Our files: where they lie, and that nothing foreign is ever trusted."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from safesh import paths
from safesh.errors import StateError, UsageError

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state"
    monkeypatch.setenv("SAFESH_HOME", str(path))
    return path


def test_the_state_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("SAFESH_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert paths.state_home() == "/home/somebody/.local/state/safesh"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert paths.state_home() == "/state/safesh"
    monkeypatch.setenv("SAFESH_HOME", "/srv/x/")
    assert paths.state_home() == "/srv/x"


@pytest.mark.parametrize("name", ["a", "Robot_1", "a.b-c", "é", "x" * 80, "1"])
def test_a_name_that_a_file_can_have_is_taken(name: str) -> None:
    assert paths.check_name(name, "a target") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a b", "a\tb", "a\nb", "a\0", "x" * 81, "\ud800", "é" * 41]
)
def test_any_other_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a target"):
        paths.check_name(name, "a target")


def test_the_projects_folder_is_made_private(home: Path) -> None:
    old = os.umask(0)
    try:
        folder = paths.project_dir("arm")
    finally:
        os.umask(old)
    assert folder == str(home / "arm") == paths.project_dir("arm")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_folder_open_to_others_is_closed(home: Path) -> None:
    folder = paths.project_dir("arm")
    os.chmod(folder, 0o755)
    paths.project_dir("arm")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_folder_that_is_none_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "file").touch()
    (home / "link").symlink_to(home)
    for project, message in (("file", "is not a folder"), ("link", "is a symlink"), ("a/b", "cannot name a project")):
        with pytest.raises((StateError, UsageError), match=message):
            paths.project_dir(project)
    monkeypatch.setenv("SAFESH_HOME", str(home / "file" / "below"))
    with pytest.raises(StateError, match="cannot be made") as caught:
        paths.project_dir("arm")
    assert str(home / "file") in caught.value.place
    assert "SAFESH_HOME" in caught.value.hint


@root_only
def test_a_folder_of_another_user_is_refused(home: Path) -> None:
    os.chown(paths.project_dir("arm"), 1, 1)
    with pytest.raises(StateError, match="belongs to user 1"):
        paths.project_dir("arm")


def test_an_instances_files_lie_in_the_projects_folder_or_where_it_was_said() -> None:
    mine = paths.InstancePaths("/s/arm", "robot")
    assert (mine.lock, mine.pid, mine.record) == ("/s/arm/robot.lock", "/s/arm/robot.pid", "/s/arm/robot.json")
    assert (mine.socket, mine.events, mine.log("gui")) == ("/s/arm/robot.sock", "/s/arm/events.jsonl", "/s/arm/gui.log")
    other = paths.InstancePaths("/s/arm", "robot", "/run/x.lock", "/run/x.pid")
    assert (other.lock, other.pid) == ("/run/x.lock", "/run/x.pid")
    for name in ("../x", ""):
        with pytest.raises(UsageError):
            paths.InstancePaths("/s/arm", name)
        with pytest.raises(UsageError):
            mine.log(name)


def test_a_private_file_is_written_whole_and_0600(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    old = os.umask(0)
    try:
        paths.write_private(path, "one")
    finally:
        os.umask(old)
    before = os.stat(path).st_ino
    paths.write_private(path, "two é")
    assert paths.read_private(path) == "two é"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.stat(path).st_ino != before  # replaced, never changed in place
    assert os.listdir(tmp_path) == ["x"]


def test_a_leftover_of_a_crashed_writer_is_no_obstacle(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    Path(f"{path}.{os.getpid()}.tmp").write_text("half", encoding="utf-8")
    paths.write_private(path, "whole")
    assert paths.read_private(path) == "whole"


def test_reading_nothing_gives_none_and_odd_bytes_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert paths.read_private(str(path)) is None
    path.write_bytes(b"a\xffb")
    assert paths.read_private(str(path)) == "a\ufffdb"
    path.write_bytes(b"x" * 100_000)
    assert paths.read_private(str(path), limit=70_000) == "x" * 70_000


def test_a_link_a_folder_and_a_pipe_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    open_before = os.listdir("/dev/fd")
    for name, message in (("link", "symlink"), ("folder", "not a regular file"), ("pipe", "not a regular file")):
        with pytest.raises(StateError, match=message) as caught:
            paths.open_private(str(tmp_path / name), os.O_RDONLY)
        assert caught.value.place == str(tmp_path / name)
        assert caught.value.hint
    assert len(os.listdir("/dev/fd")) == len(open_before)


@root_only
def test_a_file_of_another_user_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.chown(path, 1, 1)
    with pytest.raises(StateError, match="belongs to user 1"):
        paths.read_private(str(path))


def test_a_descriptor_is_not_inherited(tmp_path: Path) -> None:
    fd = paths.open_private(str(tmp_path / "x"), os.O_WRONLY | os.O_CREAT)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_folder_that_went_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="its folder is gone"):
        paths.write_private(str(tmp_path / "gone" / "x"), "text")


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    paths.write_private(path, "old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Stands for a full disk: write(2) fails with EFBIG, for Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, old[1]))
    try:
        with pytest.raises(StateError) as caught:
            paths.write_private(path, "new and longer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.place == path
    assert paths.read_private(path) == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_no_space_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StateError, match="no space left") as caught:
            paths.write_private(str(tmp_path / "x"), "text")
    assert "free some space" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_removing_twice_is_no_error_and_a_folder_is_one(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    paths.remove(str(tmp_path / "x"))
    paths.remove(str(tmp_path / "x"))
    with pytest.raises(StateError):
        paths.remove(str(tmp_path))
