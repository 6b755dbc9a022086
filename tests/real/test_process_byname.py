"""Ending by name: whom a name means, and whom it never does. All of it in a pid namespace of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.procs import argv, look, wait_until
from safesh.process.byname import find_processes_by_name, kill_processes_by_name, script
from safesh.process.errors import InvalidCommand

pytestmark = pytest.mark.pidns

NOBODY = 65534


class Started:
    """Programs of any name, ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[bytes]] = []

    def program(self, name: str) -> str:
        path = self.folder / name
        if not path.exists():
            shutil.copy(os.path.realpath(shutil.which("sleep") or "/bin/sleep"), path)
        return str(path)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(command, **options)
        self.all.append(child)
        # Popen returns in the middle of the exec, when the new name is not to be seen yet.
        wait_until(lambda: argv(child.pid) not in ([], argv(os.getpid())))
        return child

    def sleep(self, name: str, **options: Any) -> subprocess.Popen[bytes]:
        return self.start(self.program(name), "60", **options)

    def end(self) -> None:
        for child in self.all:
            child.kill()
        for child in self.all:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    found = Started(tmp_path)
    try:
        yield found
    finally:
        found.end()


def pids(members: list[Any]) -> set[int]:
    return {member.pid for member in members}


def lives(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is None


# whom it means ------------------------------------------------------------------------------------------------


def test_everybody_of_that_very_name_is_asked_and_nobody_else(started: Started) -> None:
    two = [started.sleep("sftworker"), started.sleep("sftworker")]
    others = [started.sleep("sftworker2"), started.sleep("sftwork"), started.sleep("xsftworker")]
    wanted = {child.pid for child in two}
    assert pids(find_processes_by_name("sftworker")) == wanted
    verdict = kill_processes_by_name("sftworker")
    assert (pids(verdict.asked), verdict.killed, verdict.survivors, verdict.notes) == (wanted, [], [], [])
    assert [child.wait() for child in two] == [-signal.SIGTERM] * 2
    assert all(lives(child) for child in others)


def test_a_name_is_the_first_words_too(started: Started) -> None:
    child = started.start("sft-other-name", "60", executable=started.program("sftreal"))
    login = started.start("-sftlogin", "60", executable=started.program("sftreal"))
    assert pids(find_processes_by_name("sft-other-name")) == {child.pid}
    assert pids(find_processes_by_name("sftlogin")) == {login.pid}
    assert pids(find_processes_by_name("sftreal")) == {child.pid, login.pid}


def test_a_script_is_meant_by_its_own_name(started: Started, tmp_path: Path) -> None:
    program = tmp_path / "sftserver.py"
    program.write_text("import sys, time\nprint('up', flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    child = started.start(sys.executable, "-u", str(program), stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    mentions = started.start(sys.executable, "-c", "import time; time.sleep(60)", str(program))
    assert pids(find_processes_by_name("sftserver.py")) == {child.pid}
    assert kill_processes_by_name("sftserver.py").ok
    assert child.wait() == -signal.SIGTERM
    assert lives(mentions)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("python3.11 -u x/server.py a", "server.py"),
        ("python -c server.py", ""),
        ("python3 -uc x", ""),
        ("python -Bm http.server 80", "http.server"),
        ("python -W ignore x.py", "x.py"),
        ("python -Wignore x.py", "x.py"),
        ("python -m", ""),
        ("bash -x a/b.sh", "b.sh"),
        ("bash --norc b.sh", "b.sh"),
        ("bash -lc b.sh", ""),
        ("sh -o errexit s.sh", "s.sh"),
        ("-bash", ""),
        ("node --require foo app.js", "app.js"),
        ("node -e app.js", ""),
        ("perl -Mstrict -I lib x.pl", "x.pl"),
        ("perl -ne code file", ""),
        ("ruby -rjson x.rb", "x.rb"),
        ("java -Xmx1g -Dx=y -jar a/b.jar c", "b.jar"),
        ("java -cp x com.foo.Main", "com.foo.Main"),
        ("sleep 5", ""),
    ],
)
def test_what_an_interpreter_runs_is_read_from_its_words(line: str, name: str) -> None:
    assert script(line.split()) == name


def test_a_name_that_the_kernel_cuts_off_is_told_from_a_longer_one(started: Started) -> None:
    short, longer = "sft-exactly15-b", "sft-exactly15-bytes"
    assert len(short) == 15
    one, other = started.sleep(short), started.sleep(longer)
    assert pids(find_processes_by_name(short)) == {one.pid}
    assert pids(find_processes_by_name(longer)) == {other.pid}
    assert find_processes_by_name("sft-exactly15-by") == []


def test_a_pattern_is_a_glob_over_words_and_only_when_asked(started: Started) -> None:
    child, other = started.sleep("sftglob-one"), started.sleep("sftother")
    verdict = kill_processes_by_name("sftglob-*")
    assert (verdict.ok, verdict.asked) == (True, [])
    assert "pattern=True" in verdict.notes[1]
    assert pids(find_processes_by_name("sftglob-* 60", pattern=True)) == {child.pid}
    assert pids(kill_processes_by_name("sftglob-*", pattern=True).asked) == {child.pid}
    assert child.wait() == -signal.SIGTERM
    assert lives(other)


def test_nobody_of_that_name_is_a_success_with_a_note() -> None:
    verdict = kill_processes_by_name("sft-there-is-none", True)
    assert (verdict.ok, verdict.asked, verdict.killed) == (True, [], [])
    assert verdict.notes == ["there is no process of this user with the name 'sft-there-is-none'"]


def test_what_a_process_of_that_name_started_is_left(started: Started) -> None:
    program = started.program("sftchild")
    child = started.start(
        "sftparent", "-c", f"{program} 60 & echo $!; wait", executable="/bin/sh", stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    below = int(child.stdout.readline())
    wait_until(lambda: argv(below) == [program, "60"])  # until then it is a copy of its parent, name and all
    assert pids(kill_processes_by_name("sftparent", True).asked) == {child.pid}
    assert (found := look(below)) is not None
    assert not found.dead
    assert pids(kill_processes_by_name("sftchild", True, grace=0).killed) == {below}


# how it ends --------------------------------------------------------------------------------------------------


def deaf(started: Started, name: str) -> subprocess.Popen[bytes]:
    child = started.start(
        name, "-c", "trap '' TERM; echo up; while :; do read line; done", executable="/bin/sh",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_the_deaf_survive_without_force_and_are_killed_with_it(started: Started) -> None:
    child = deaf(started, "sftdeaf")
    verdict = kill_processes_by_name("sftdeaf", grace=0.3)
    assert (pids(verdict.asked), verdict.killed, pids(verdict.survivors)) == ({child.pid}, [], {child.pid})
    assert verdict.survivors[0].reason == "still there 0.3 s after SIGTERM; force=True kills it"
    assert lives(child)
    verdict = kill_processes_by_name("sftdeaf", True, grace=0.3)
    assert (pids(verdict.asked), pids(verdict.killed), verdict.ok) == ({child.pid}, {child.pid}, True)
    assert child.wait() == -signal.SIGKILL


def test_force_without_a_grace_asks_nobody(started: Started) -> None:
    child = started.sleep("sftnow")
    verdict = kill_processes_by_name("sftnow", force=True, grace=0)
    assert (verdict.asked, pids(verdict.killed)) == ([], {child.pid})
    assert child.wait() == -signal.SIGKILL


def test_one_that_is_started_again_and_again_takes_no_longer_than_promised(started: Started) -> None:
    program = started.program("sftagain")
    script = f"end=$(($(date +%s) + 20)); echo up; while [ $(date +%s) -lt $end ]; do {program} 60; done"
    keeper = started.start("/bin/sh", "-c", script, stdout=subprocess.PIPE, start_new_session=True)
    assert keeper.stdout is not None
    keeper.stdout.readline()
    wait_until(lambda: find_processes_by_name("sftagain"))
    at = time.monotonic()
    verdict = kill_processes_by_name("sftagain", grace=0.5)
    assert time.monotonic() - at < 5
    assert len(verdict.asked) >= 1
    assert lives(keeper)
    os.killpg(keeper.pid, signal.SIGKILL)
    keeper.wait()


# whom it never means ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "*", "/", "**", "* *", ".", "..", "-", "*/*", "a\0b", None, 5, b"x"])
@pytest.mark.parametrize("pattern", [False, True])
def test_a_name_that_would_mean_anybody_is_refused(name: Any, pattern: bool) -> None:
    for act in (kill_processes_by_name, find_processes_by_name):
        with pytest.raises(InvalidCommand) as caught:
            act(name, pattern=pattern)
        assert caught.value.place == "name"


def test_a_path_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(InvalidCommand) as caught:
        kill_processes_by_name("/bin/sleep")
    assert "pattern=True" in caught.value.hint


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), "3", True, None])
def test_what_is_no_grace_is_refused_by_name(grace: Any) -> None:
    with pytest.raises(InvalidCommand) as caught:
        kill_processes_by_name("sleep", grace=grace)
    assert caught.value.place == "grace"


def test_ourselves_those_above_us_and_the_first_process_are_never_meant() -> None:
    """Everything in this namespace but for the helpers of other tests runs Python, pid 1 included."""
    above, pid = set(), os.getpid()
    while pid:
        above.add(pid)
        found = look(pid)
        pid = found.ppid if found else 0
    assert 1 in above
    names = {found.name for pid in above if (found := look(pid))}
    for name in names:
        assert not above & pids(find_processes_by_name(name))
        assert not above & pids(find_processes_by_name(f"*{name}*", pattern=True))
        kill_processes_by_name(name, True, grace=0)
    assert all(found and not found.dead for found in map(look, above))


def test_other_users_processes_are_never_meant_by_root(started: Started) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to start one as somebody else")
    program = Path(started.program("sftshared"))
    for folder in [program, *program.parents]:
        if folder.owner() and folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    theirs = started.start(str(program), "60", user=NOBODY, group=NOBODY, extra_groups=[])
    ours = started.start(str(program), "60")
    assert pids(find_processes_by_name("sftshared")) == {ours.pid}
    verdict = kill_processes_by_name("sftshared", True, grace=0)
    assert pids(verdict.killed) == {ours.pid}
    assert lives(theirs)


RAISED = """
import os, time
os.setresuid(65534, 0, 0)
os.write(1, b"up\\n"); time.sleep(60)
"""


def test_another_users_program_that_became_root_is_still_another_users(started: Started) -> None:
    """As by its file's mode, setuid(2): the effective user is root, the real one is not."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to start one as somebody else")
    child = started.start("sftraised", "-c", RAISED, executable=sys.executable, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    assert find_processes_by_name("sftraised") == []
    kill_processes_by_name("sftraised", True, grace=0)
    assert lives(child)


def test_a_zombie_is_never_meant(started: Started) -> None:
    child = started.sleep("sftzombie")
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: (found := look(child.pid)) and found.dead)
    assert find_processes_by_name("sftzombie") == []
