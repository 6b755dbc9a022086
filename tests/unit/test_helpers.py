"""The helpers keep their own promises: a check that never fails would prove nothing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import nsguard, pidns, procs
from helpers.home import Home, Result, Safe
from helpers.procs import Spawn, alive, spawn, wait_until

HELPERS = Path(procs.__file__).parent
ECHO = (sys.executable, "-E", "-s", "-S", str(HELPERS / "echo_signals.py"))
ESCAPE = (sys.executable, "-E", "-s", "-S", str(HELPERS / "escape_tree.py"))
needs_pidns = pytest.mark.skipif(not pidns.unshare()[0] and not pidns.inside(), reason="not run: no pid namespace")


def python(code: str, **options: object) -> Spawn:
    return spawn(sys.executable, "-S", "-c", textwrap.dedent(code), **options)


# --- waiting and spawning ---------------------------------------------------------------------


def test_wait_until_gives_the_first_true_answer() -> None:
    answers = iter([0, None, "", "yes"])
    assert wait_until(lambda: next(answers)) == "yes"


def test_wait_until_names_the_condition_and_the_last_reason_at_its_deadline() -> None:
    def never() -> bool:
        raise AssertionError("still 3 left")

    with pytest.raises(AssertionError, match=r"not within 0.05 s: never .*: still 3 left"):
        wait_until(never, 0.05)


def test_spawn_waits_for_a_ready_line_and_passes_earlier_lines_over() -> None:
    with python("print('hello\\nready 42', flush=True); input()") as child:
        assert child.wait_line(r"ready (\d+)").group(1) == "42"
        assert child.alive()
        child.close_stdin()
        assert child.wait() == 1  # EOFError


def test_spawn_that_ends_without_its_ready_line_fails_at_once_and_shows_its_output() -> None:
    began = time.monotonic()
    child = python("print('no such luck'); raise SystemExit(3)")
    with child, pytest.raises(AssertionError, match=r"(?s)status 3.*no such luck"):
        child.wait_line("ready", deadline=30)
    assert time.monotonic() - began < 10


def test_spawn_drains_output_while_it_waits() -> None:
    with python("import sys; sys.stdout.write('x' * 3_000_000)") as child:
        assert child.wait() == 0
        assert len(child.out) == 3_000_000


def test_spawn_ends_all_that_is_its_when_the_block_fails() -> None:
    met = {}

    def fail() -> None:
        with python(FAMILY + "time.sleep(60)") as child:
            pids = map(int, child.wait_line(r"ready (.*)").group(1).split())
            met.update({pid: procs.start_of(pid) for pid in pids})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(met) == 2
    assert not [pid for pid, start in met.items() if alive(pid, start)]


def test_spawn_ends_what_its_child_left_behind() -> None:
    with python(FAMILY + "os.kill(os.getpid(), 9)") as child:
        pid = int(child.wait_line(r"ready \d+ (\d+)").group(1))
        start = procs.start_of(pid)
        assert child.wait() == -signal.SIGKILL
        assert alive(pid, start)
    assert not alive(pid, start)


FAMILY = """
import os, time
said, say = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()  # away from our session: found by its mark
    os.write(1, b"ready %d %d\\n" % (os.getppid(), os.getpid()))
    os.write(say, b"!")
    time.sleep(60)
os.read(said, 1)
"""


def test_a_stale_identity_is_never_signalled() -> None:
    with python("input()") as child:
        assert not procs.send(child.pid, child.start - 1, signal.SIGKILL)
        assert not alive(child.pid, child.start - 1)
        assert alive(child.pid, child.start)


def test_a_zombie_is_not_alive() -> None:
    with python("pass") as child:
        wait_until(lambda: (one := procs.look(child.pid)) is not None and one.dead)
        assert not child.alive()


def test_tree_of_lists_the_descendants() -> None:
    with spawn("/bin/sh", "-c", "sleep 60 & sleep 60 & wait") as child:
        wait_until(lambda: len(procs.tree_of(child.pid)) == 3)
        assert procs.tree_of(child.pid)[0].pid == child.pid
        assert {one.ppid for one in procs.tree_of(child.pid)[1:]} == {child.pid}


# --- echo_signals -----------------------------------------------------------------------------


def test_echo_signals_echoes_every_catchable_signal() -> None:
    with spawn(*ECHO) as child:
        assert child.wait_line(r"ready \((\d+)\)").group(1) == str(child.pid)
        for number in sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}):
            child.send(number)
            name = f"SIGRTMIN+{number - signal.SIGRTMIN}" if number >= signal.SIGRTMIN else signal.Signals(number).name
            assert child.wait_line(".").string == name
        child.write("quit\n")
        assert child.wait() == 0


def test_echo_signals_exits_on_a_chosen_signal_ignores_another_and_keeps_a_child() -> None:
    with spawn(*ECHO, "--exit-on", "TERM:7", "--ignore", "HUP", "--child") as child:
        child.wait_line(r"^child ready")
        child.send(signal.SIGHUP)
        child.send(signal.SIGTERM)
        assert child.wait() == 7
        child.wait_output()  # the child ended with it
        assert "SIGHUP" not in child.out


# --- a home of its own ------------------------------------------------------------------------


def test_home_is_private_short_and_clean(home: Home) -> None:
    assert os.environ["HOME"] == str(home.path)
    assert os.environ["SAFESH_HOME"] == str(home.state)
    assert Path.cwd() == home.project
    ours = {name for name in os.environ if name.startswith("SAFESH_") and not name.startswith("SAFESH_TEST_")}
    assert ours == {"SAFESH_HOME"}
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ
    assert len(str(home.state_file("x" * 40 + ".sock"))) < 100


def test_write_config_writes_the_projects_file(home: Home, write_config: Callable[[str], Path]) -> None:
    assert write_config("project = 'x'\n") == home.project / "safe.toml"
    assert (home.project / "safe.toml").read_text() == "project = 'x'\n"


def test_safe_runs_the_command_line_in_the_home(safe: Safe) -> None:
    done = safe("--version").check()
    assert "safesh" in done.out
    assert done.err == ""
    with pytest.raises(AssertionError, match="status 0, expected 3"):
        done.check(3)


def test_rng_repeats_with_the_seed(rng: random.Random, seed: int, request: pytest.FixtureRequest) -> None:
    assert random.Random(f"{seed}:{request.node.nodeid}").random() == rng.random()


# --- the pid namespace ------------------------------------------------------------------------


@pytest.mark.pidns
def test_a_marked_test_runs_in_its_own_namespace() -> None:
    assert nsguard.inside()
    everyone = {one.pid for one in procs.scan().values()}
    assert everyone == {1, os.getpid()}


def test_the_guard_refuses_outside() -> None:
    if nsguard.inside():
        pytest.fail("an unmarked test got inside")
    with pytest.raises(RuntimeError, match="only inside"):
        nsguard.require_pidns()


def test_a_false_claim_does_not_pass_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nsguard.OUTER, "pid:[1]")
    assert not nsguard.inside()


def test_the_escape_tree_refuses_to_run_outside() -> None:
    with spawn(*ESCAPE) as child:
        assert child.wait() == 1
        assert "only inside" in child.err


@pytest.mark.pidns
def test_the_escape_tree_is_what_it_says() -> None:
    with spawn(*ESCAPE, "--seconds", "30") as child:
        ready = json.loads(child.wait_line("{").string)
        pids = {name: who["pid"] for name, who in ready["members"].items()}
        starts = {name: who["start"] for name, who in ready["members"].items()}
        assert ready["main"] == {"pid": child.pid, "start": child.start}
        assert set(pids) == {"ignorer", "daemon", "group", "forker"}
        for name in ("ignorer", "daemon", "group"):
            assert alive(pids[name], starts[name]), name

        daemon, group = procs.look(pids["daemon"]), procs.look(pids["group"])
        assert daemon is not None
        assert group is not None
        assert daemon.ppid == 1
        assert daemon.sid not in (child.pid, os.getsid(0))
        assert procs.environ(daemon.pid) == {}
        assert group.pgid == group.pid

        seen: set[int] = set()

        def hops() -> bool:
            seen.update(procs.scan())
            return len(seen) > 40

        wait_until(hops)
        assert len(procs.scan()) < 50

        child.send(signal.SIGTERM)
        assert child.wait() == 0
        procs.send(pids["ignorer"], starts["ignorer"], signal.SIGTERM)
        for name in ("ignorer", "daemon", "group"):
            assert alive(pids[name], starts[name]), name
    everything_ended()


@pytest.mark.pidns
def test_the_escape_tree_forks_more_when_asked_to_end_but_stays_bounded() -> None:
    with spawn(*ESCAPE, "--seconds", "30", "--members", "forker") as child:
        child.wait_line("{")
        before = len(procs.scan())

        def ask() -> bool:
            for one in procs.scan().values():
                if one.pid not in (1, os.getpid(), child.pid):
                    procs.send(one.pid, one.start, signal.SIGTERM)
            return len(procs.scan()) >= before + 8

        wait_until(ask)
        assert len(procs.scan()) < 50
    everything_ended()


@pytest.mark.pidns
def test_the_escape_tree_ends_by_itself() -> None:
    with spawn(*ESCAPE, "--seconds", "0.7") as child:
        child.wait_line("{")
        assert child.wait() == -signal.SIGALRM
        wait_until(lambda: not others(), 5)


def others() -> list[procs.Process]:
    return [one for one in procs.scan().values() if one.pid not in (1, os.getpid()) and not one.dead]


def everything_ended() -> None:
    procs.end(others)


# --- the checks catch what they are for: an inner run that must fail ----------------------------


@pytest.fixture
def inner(home: Home) -> Callable[..., Result]:
    """``inner(code, *options)``: the outcome of a pytest run, with our plugins, on a file with this code."""

    def run(code: str, *options: str) -> Result:
        (home.project / "pytest.ini").write_text(f"[pytest]\npythonpath = {HELPERS.parents[1] / 'supervisor'}\n")
        (home.project / "conftest.py").write_text((HELPERS.parent / "conftest.py").read_text())
        (home.project / "test_inner.py").write_text(
            "import os, pytest, signal, subprocess, sys\n" + textwrap.dedent(code)
        )
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options, str(home.project)]
        environment = {**os.environ, "PYTHONPATH": str(HELPERS.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=50, check=False, stdin=subprocess.DEVNULL
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    return run


LEAKS = {
    "descriptor": ("os.open('/dev/null', os.O_RDONLY)", "descriptor [0-9]+: closed before, /dev/null now"),
    "handler": ("signal.signal(signal.SIGUSR1, signal.SIG_IGN)", "handler of .* changed"),
    "mask": ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])", "blocked signals changed"),
    "directory": ("os.chdir('/')", "working directory changed"),
    "variable": ("os.environ['LEFT'] = '1'", "environment variable LEFT changed"),
    "child": ("KEEP.append(subprocess.Popen(['sleep', '55']))", "process left: .*sleep 55"),
    "zombie": ("KEEP.append(subprocess.Popen(['true']))", "process left: .*state Z"),
    "daemon": (
        "subprocess.run(['sh', '-c', 'setsid sleep 55 >/dev/null 2>&1 &'], check=True)",
        "process left: .*sleep 55",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_fails_the_test_that_made_it(inner: Callable[..., Result], kind: str) -> None:
    code, message = LEAKS[kind]
    done = inner(f"KEEP = []\ndef test_leaks(): {code}\ndef test_after(): pass")
    done.check(1)
    assert "1 error" in done.out.splitlines()[-1], done
    assert "PASSED test_inner.py::test_after" in done.out, done
    assert re.search(message, done.out), done


def test_a_clean_run_passes(inner: Callable[..., Result]) -> None:
    inner("def test_clean(): subprocess.run(['true'], check=True)", "--shared").check(0)


def test_a_warning_fails_a_test(inner: Callable[..., Result]) -> None:
    done = inner("import warnings\ndef test_warns(): warnings.warn('careful', stacklevel=1)").check(1)
    assert "careful" in done.out


def test_a_process_left_by_a_session_fixture_fails_the_run_and_is_ended(inner: Callable[..., Result]) -> None:
    code = """
        @pytest.fixture(scope="session", autouse=True)
        def left():
            subprocess.run(["sh", "-c", "setsid sleep 55 >/dev/null 2>&1 &"], check=True)
        def test_fine(): pass
    """
    done = inner(code).check(1)
    assert "1 passed" in done.out
    line = next(line for line in done.out.splitlines() if line.startswith("process left"))
    assert "sleep 55" in line
    pid, start = (int(word.strip("(),")) for word in (line.split()[3], line.split()[5]))
    assert not alive(pid, start)


def test_a_file_left_in_the_work_tree_fails_the_run(home: Home, inner: Callable[..., Result]) -> None:
    subprocess.run(["git", "init", "-q", str(home.project)], check=True)
    done = inner(f"def test_litters(): open({str(home.project / 'litter')!r}, 'w').close()").check(1)
    assert "file left: ?? litter" in done.out
    again = inner(f"def test_litters(): open({str(home.project / 'more')!r}, 'w').close()", "--shared").check(0)
    assert "(file left: ?? more" in again.out


@needs_pidns
def test_reports_come_out_of_the_namespace_as_they_were(inner: Callable[..., Result]) -> None:
    code = """
        pytestmark = pytest.mark.pidns
        def test_pass(): assert os.getpid() < 10
        def test_fail():
            print("said inside")
            assert 1 == 2, "by design"
        def test_skip(): pytest.skip("not today")
        @pytest.mark.xfail(reason="known")
        def test_xfail(): assert 0
        @pytest.mark.parametrize("x", ["a", "b::c[d]/e"])
        def test_many(x): pass
        @pytest.fixture
        def broken():
            yield
            raise ValueError("at teardown")
        def test_teardown(broken): pass
        def test_leak(): subprocess.run(["env", "-i", "sh", "-c", "setsid sleep 55 >/dev/null 2>&1 &"], check=True)
    """
    done = inner(code).check(1)
    assert "1 failed, 5 passed, 1 skipped, 1 xfailed, 2 errors" in done.out, done
    for text in ("by design", "said inside", "not today", "known", "at teardown", "sleep 55"):
        assert text in done.out, text


@needs_pidns
def test_a_namespace_that_dies_fails_its_tests_instead_of_hanging(inner: Callable[..., Result]) -> None:
    code = """
        pytestmark = pytest.mark.pidns
        def test_before(): pass
        def test_dies(): os._exit(9)
        def test_after(): pass
    """
    done = inner(code).check(1)
    assert "1 passed, 2 errors" in done.out, done
    assert "ended before this test did" in done.out


def test_without_namespaces_marked_tests_are_skipped_and_say_so(
    inner: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    # A PATH without unshare(1).
    monkeypatch.setenv("PATH", str(home.path))
    done = inner("@pytest.mark.pidns\ndef test_wild(): raise SystemError('ran')", "--shared").check(0)
    assert "1 skipped" in done.out
    assert "not run: no pid namespace" in done.out


def test_seed_is_shown_and_can_be_given(inner: Callable[..., Result]) -> None:
    done = inner("def test_seed(seed): assert seed == 77", "--seed", "77", "--shared").check(0)
    assert "--seed=77" in done.out


# --- quick and full ---------------------------------------------------------------------------

TABLE = """
    from helpers.campaign import full, in_full, rounds, thinned

    @thinned()
    @pytest.mark.parametrize("colour", ["red", "green"])
    @pytest.mark.parametrize("size", [1, 2, 3, [4]])
    def test_table(size, colour): print("ran", size, colour)

    @pytest.mark.parametrize("word", in_full(["quick"], "slow"))
    def test_list(word): print("ran", word, rounds(3, 300))

    @full
    def test_long(): print("ran long")
"""


def test_a_quick_run_has_each_value_of_a_table_and_counts_what_it_left_out(
    inner: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = inner(TABLE, "--shared").check(0)
    assert "5 passed, 6 deselected" in quick.out, quick
    pairs = re.findall(r"^ran (\S+) (red|green)$", quick.out, re.MULTILINE)
    assert sorted(size for size, _ in pairs) == ["1", "2", "3", "[4]"]
    assert sorted(colour for _, colour in pairs) == ["green", "green", "red", "red"]
    assert "ran quick 3" in quick.out
    monkeypatch.setenv("SAFESH_CAMPAIGN", "full")
    whole = inner(TABLE, "--shared").check(0)
    assert "11 passed" in whole.out, whole
    assert "deselected" not in whole.out
    assert "ran slow 300" in whole.out


@needs_pidns
def test_what_is_thinned_out_is_asked_of_no_namespace(inner: Callable[..., Result]) -> None:
    done = inner("pytestmark = pytest.mark.pidns\n" + textwrap.dedent(TABLE), "--shared").check(0)
    assert "5 passed, 6 deselected" in done.out, done
