"""What a step is made from: what changes its fingerprint, what does not, and what cannot be read."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safesh.errors import ConfigError
from safesh.plan.fingerprint import fingerprint
from safesh.plan.model import PlanSpec, StepSpec


def digest(*inputs: str | Path, env: dict[str, str] | None = None, **keys: Any) -> str:
    """The fingerprint of a step with these inputs; env: the plan's."""
    step = StepSpec(**{"id": "a", "command": ["true"], "cwd": "/", "inputs": [str(one) for one in inputs], **keys})
    return fingerprint(PlanSpec(id="p", steps=[step], env=env or {}), step)


def test_it_is_a_sha256_and_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    assert digest(tmp_path / "x") == digest(tmp_path / "x")
    assert len(digest()) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["true", ""]},
        {"command": ["tru", "e"]},
        {"command": ["/bin/sh", "-c", "true"]},
        {"cwd": "/tmp"},
        {"env": {"A": "2"}},
        {"env": {"A": "1", "B": ""}},
        {"inputs": ["/nowhere"]},
    ],
)
def test_command_folder_environment_and_inputs_change_it(change: dict[str, Any]) -> None:
    def of(**keys: Any) -> str:
        step = StepSpec(**{"id": "a", "command": ["true"], "cwd": "/", "env": {"A": "1"}, **keys})
        return fingerprint(PlanSpec(id="p", steps=[step]), step)

    assert of(**change) != of()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"type": "analysis"},
        {"description": "x"},
        {"provider": "groq"},
        {"depends_on": ["z"]},
        {"timeout": 5.0},
        {"retries": 3},
        {"resources": {"cpu": 1.0}},
        {"outputs": ["/x"]},
    ],
)
def test_what_does_not_change_what_is_made_leaves_it(change: dict[str, Any]) -> None:
    assert digest(**change) == digest()


def test_words_do_not_run_together() -> None:
    assert digest(command=["a", "b c"]) != digest(command=["a b", "c"])
    assert digest(env={"A": "BC"}) != digest(env={"AB": "C"})


def test_the_plans_environment_counts_and_the_steps_wins() -> None:
    def of(plan: dict[str, str], own: dict[str, str]) -> str:
        step = StepSpec(id="a", command=["true"], cwd="/", env=own)
        return fingerprint(PlanSpec(id="p", steps=[step], env=plan), step)

    assert of({"A": "1"}, {}) != of({}, {})
    assert of({"A": "1", "B": "1"}, {"B": "2"}) == of({"B": "9"}, {"A": "1", "B": "2"})


def test_contents_count_and_times_and_modes_do_not(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("one")
    before = digest(file)
    os.utime(file, (1, 1))
    file.chmod(0o600)
    assert digest(file) == before
    file.write_text("two")
    assert digest(file) != before


def test_missing_empty_file_and_empty_folder_are_three_things(tmp_path: Path) -> None:
    path = tmp_path / "x"
    missing = digest(path)
    path.write_text("")
    empty = digest(path)
    path.unlink()
    path.mkdir()
    folder = digest(path)
    assert len({missing, empty, folder}) == 3
    assert digest(tmp_path / "x" / "below") == digest(tmp_path / "x" / "below")


def test_below_a_file_there_is_nothing(tmp_path: Path) -> None:
    below = tmp_path / "x" / "y"
    before = digest(below)
    (tmp_path / "x").write_text("a file where a folder was meant")
    assert digest(below) == before


@pytest.mark.parametrize("hidden", ["", "."])
def test_a_folder_counts_with_all_names_and_contents_below_it(tmp_path: Path, hidden: str) -> None:
    file = tmp_path / "d" / f"{hidden}sub" / f"{hidden}x"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    seen = [digest(tmp_path / "d")]
    file.write_text("2")
    seen.append(digest(tmp_path / "d"))
    file.rename(file.with_name("z"))
    seen.append(digest(tmp_path / "d"))
    (file.parent / "empty").mkdir()
    seen.append(digest(tmp_path / "d"))
    assert len(set(seen)) == 4


def test_a_file_moved_between_folders_changes_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
    (tmp_path / "d" / "a" / "x").write_text("1")
    before = digest(tmp_path / "d")
    (tmp_path / "d" / "a" / "x").rename(tmp_path / "d" / "b" / "x")
    assert digest(tmp_path / "d") != before


def test_a_glob_counts_what_it_finds_whatever_the_disks_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = tmp_path / "**" / "*.c"
    nothing = digest(pattern)
    for name in ("b.c", "a.c", "note.txt", "sub/c.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = digest(pattern)
    assert found != nothing
    (tmp_path / "note.txt").write_text("changed")
    assert digest(pattern) == found
    listdir, scandir = os.listdir, os.scandir

    class Backwards:
        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self.entries = reversed(list(entries))

        def __enter__(self) -> Any:
            return self.entries

        def __exit__(self, *_error: object) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: listdir(path)[::-1])
        patch.setattr(os, "scandir", Backwards)
        assert digest(pattern) == found
        assert digest(tmp_path) == digest(tmp_path)
    (tmp_path / "sub" / "c.c").write_text("changed")
    assert digest(pattern) != found


def test_a_file_whose_name_looks_like_a_glob_is_meant_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("1")
    (tmp_path / "a1.txt").write_text("other")
    before = digest(tmp_path / "a[1].txt")
    (tmp_path / "a1.txt").write_text("changed")
    assert digest(tmp_path / "a[1].txt") == before
    (tmp_path / "a[1].txt").write_text("2")
    assert digest(tmp_path / "a[1].txt") != before


def test_a_symlink_counts_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("same")
    (tmp_path / "two").write_text("same")
    link = tmp_path / "link"
    link.symlink_to("one")
    before = digest(link)
    link.unlink()
    link.symlink_to("two")
    assert digest(link) == before
    (tmp_path / "two").write_text("changed")
    assert digest(link) != before
    (tmp_path / "two").unlink()
    assert digest(link) not in (before, digest(tmp_path / "two"))


def test_a_symlink_that_leads_back_up_ends(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "x").write_text("1")
    (tmp_path / "d" / "sub" / "up").symlink_to("..")
    before = digest(tmp_path / "d")
    assert digest(tmp_path / "d") == before
    (tmp_path / "d" / "sub" / "x").write_text("2")
    assert digest(tmp_path / "d") != before


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "special")
    pipe = digest(tmp_path / "special")  # opening it would wait for a writer
    (tmp_path / "special").unlink()
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("special")
            assert digest(tmp_path / "special") != pipe
    finally:
        os.chdir(here)
    assert digest("/dev/zero") == digest("/dev/zero")


def test_names_that_are_not_utf8_count(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    before = digest(tmp_path)
    try:
        with open(folder + b"/\xff", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert digest(tmp_path) != before


@pytest.fixture
def closed() -> Any:
    """A folder in which a file and a folder may not be read, and the change to a user who may not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "file").write_text("secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("")
    (folder / "file").chmod(0)
    (folder / "sub").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        (folder / "sub").chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("asked", "named"), [("file", "file"), ("sub", "sub"), ("sub/x", "sub/x"), (".", "file")])
def test_an_input_that_cannot_be_read_is_named(closed: Path, asked: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        digest(closed / asked)
    assert caught.value.place == "step a"
    assert caught.value.message == f"the input {closed}/{named} cannot be read: Permission denied"
    assert f"{closed}/{named}" in caught.value.hint


def test_a_symlink_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"the input .*/loop cannot be read: "):
        digest(tmp_path / "loop")


def test_a_large_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(64 << 20)  # a hole: no disk is used
    read: Callable[[int, int], bytes] = os.read
    sizes: list[int] = []

    def watched(fd: int, size: int) -> bytes:
        sizes.append(size)
        return read(fd, size)

    monkeypatch.setattr(os, "read", watched)
    before = digest(tmp_path / "large")
    assert max(sizes) <= 1 << 20
    with open(tmp_path / "large", "r+b") as changed:
        changed.seek(-1, os.SEEK_END)
        changed.write(b"x")
    assert digest(tmp_path / "large") != before


def test_a_deep_folder_is_told_not_a_traceback(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deep = here
        for _ in range(2100):  # longer than any path may be: PATH_MAX
            os.mkdir("d", dir_fd=deep)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
            if deep != here:
                os.close(deep)
            deep = below
        os.close(deep)
        with pytest.raises(ConfigError, match="cannot be read"):
            digest(tmp_path)
    finally:
        os.close(here)
        _remove_deep(tmp_path)


def _remove_deep(folder: Path) -> None:
    """rmtree without recursion: lift the chain's lower part up, remove what is left of the upper."""
    top = folder / "d"
    while top.exists():
        path, levels = top, 0
        while levels < 500 and (path / "d").exists():
            path, levels = path / "d", levels + 1
        rest = path / "d"
        moved = rest.exists()
        if moved:
            os.rename(rest, folder / "rest")
        shutil.rmtree(top)
        if moved:
            os.rename(folder / "rest", top)


def test_thousands_of_small_files_take_seconds_at_most(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"f{number}").write_text(str(number))
    began = time.process_time()
    digest(tmp_path)
    assert time.process_time() - began < 5
