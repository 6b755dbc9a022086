"""``exec --timeout``: what timeout(1) does, its codes, its durations and itself inside itself."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from helpers import procs
from helpers.exec_run import ECHO, EXEC, ROOT, finish, python, run_exec, wait_state
from safesh.cli.exec import parse_duration
from safesh.errors import UsageError

SESSIONS = ("new", "pgrp", "keep")
LDBL_MAX = "1" + "0" * 4932
# Says "ready" and exits 5 when it is asked to end.
TRAPPING = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"


def ring(init: procs.Spawn) -> None:
    """End the time of a command that is ready: to an init with a limit, ALRM says that it is over."""
    init.wait_line("^ready")
    init.send(signal.SIGALRM)


@pytest.mark.parametrize("limit", ["10", "1d", "0", "0d", "10.34", "9.999999999", "0x10", "inf"])
def test_a_command_that_is_fast_enough_is_left_alone(limit: str) -> None:
    with run_exec("--timeout", limit, "true") as init:
        assert finish(init) == (0, "", "")


@pytest.mark.parametrize("limit", ["99999999999999999999", "9223372036854775808d", "4294967296", "2.34e+5d", LDBL_MAX])
def test_a_huge_limit_is_for_ever_not_at_once(limit: str) -> None:
    with run_exec("--timeout", limit, "--kill-after", limit, "sleep", "0.3") as init:
        assert finish(init) == (0, "", "")


def test_a_limit_too_small_to_tell_from_0_is_over_at_once() -> None:
    with run_exec("--timeout", "1e-5000", "sleep", "10") as init:
        assert finish(init)[0] == 124


def test_the_status_is_the_commands_when_it_was_fast_enough() -> None:
    with run_exec("--timeout", "10", "sh", "-c", "exit 2") as init:
        assert finish(init)[0] == 2


@pytest.mark.parametrize("session", SESSIONS)
def test_124_when_the_time_was_over(session: str) -> None:
    started = time.monotonic()
    with run_exec("--session", session, "--timeout", ".2", "sleep", "10") as init:
        assert finish(init) == (124, "", "")
    assert 0.2 <= time.monotonic() - started < 5


def test_124_even_when_the_command_then_exits_by_itself() -> None:
    with run_exec("--timeout=60", "sh", "-c", TRAPPING) as init:
        ring(init)
        assert finish(init)[0] == 124


def test_preserve_status_gives_the_commands_status_all_the_same() -> None:
    with run_exec("--preserve-status", "--timeout", ".2", "sleep", "10") as init:
        assert finish(init)[0] == 143
    with run_exec("--preserve-status", "--timeout=60", "sh", "-c", TRAPPING) as init:
        ring(init)
        assert finish(init)[0] == 5


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("options", [("--timeout-signal", "0"), ("--timeout-signal=EXIT",), ()])
def test_137_when_kill_after_had_to_kill(session: str, options: tuple[str, ...]) -> None:
    with run_exec("--session", session, *options, "--kill-after", ".2", "--timeout", "60", "--", *ECHO) as init:
        ring(init)
        code, out, err = finish(init)
    assert (code, err) == (137, "")
    assert ("15" in out.split()) == (not options)


@pytest.mark.parametrize("session", SESSIONS)
def test_137_when_kill_is_the_signal(session: str) -> None:
    with run_exec("--session", session, "--timeout-signal", "KILL", "--timeout", ".2", "sleep", "10") as init:
        assert finish(init)[0] == 137


def test_the_signal_can_be_chosen() -> None:
    with run_exec("--timeout-signal", "usr1", "--timeout", "60", "--", *ECHO, "--exit-on", "10") as init:
        ring(init)
        code, out, _ = finish(init)
    assert (code, out.split()[2:]) == (124, ["10"])


def test_a_signal_sent_on_starts_kill_after_too() -> None:
    with run_exec("--timeout", "60", "--kill-after", ".2", "--", *ECHO) as init:
        init.wait_line("^ready")
        init.send(signal.SIGTERM)
        init.wait_line("^15$")
        assert finish(init)[0] == 137


def test_kill_after_works_without_a_limit() -> None:
    with run_exec("--kill-after", ".2", "--", *ECHO) as init:
        init.wait_line("^ready")
        init.send(signal.SIGUSR1)
        init.send(signal.SIGHUP)
        init.wait_line("^1$")
        assert finish(init)[0] == 137


def test_a_stopped_command_is_woken_to_be_ended() -> None:
    with run_exec("--timeout", ".3", "--", "sh", "-c", "kill -STOP $$; sleep 10") as init:
        assert finish(init)[0] == 124


def test_the_whole_group_is_ended_by_default() -> None:
    with run_exec("--timeout", "60", "--", "sh", "-c", "sleep 100 & sleep 100 & echo ready; wait") as init:
        tree = procs.wait_until(lambda: len(found := procs.tree_of(init.pid)) == 4 and found)
        ring(init)
        assert finish(init)[0] == 124
        procs.wait_until(lambda: not any(procs.alive(one.pid, one.start) for one in tree))


def test_a_core_dump_counts_as_the_time_being_over_or_as_the_signal(tmp_path: Path) -> None:
    dumping = "ulimit -c unlimited 2>/dev/null; trap 'kill -QUIT $$' TERM; while :; do sleep 0.05; done"
    with run_exec("--timeout", ".3", "sh", "-c", dumping, cwd=tmp_path) as init:
        assert finish(init)[0] == 124
    with run_exec("--timeout", "10", "sh", "-c", "ulimit -c unlimited; kill -SEGV $$", cwd=tmp_path) as init:
        assert finish(init)[0] == 128 + signal.SIGSEGV


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--timeout", "invalid", "sleep", "0"], 125),
        (["--timeout", "42D", "sleep", "0"], 125),
        (["--timeout=", "sleep", "0"], 125),
        (["--timeout", f"-{LDBL_MAX}", "sleep", "0"], 125),
        (["--timeout", "nan", "sleep", "0"], 125),
        (["--timeout", "1", "--kill-after=invalid", "sleep", "0"], 125),
        (["--timeout", "1", "--timeout-signal=invalid", "sleep", "0"], 125),
        (["--timeout", "1", "--bogus", "sleep", "0"], 125),
        (["--bogus", "--timeout", "1", "--", "sleep", "0"], 125),
        (["--timeout", "1"], 125),
        (["--timeout"], 125),
        (["--timeout", "10", "."], 126),
        (["--timeout", "10", "no_such_command"], 127),
    ],
)
def test_errors_have_the_codes_of_timeout(words: list[str], status: int) -> None:
    with run_exec(*words) as init:
        code, out, err = finish(init)
    assert (code, out) == (status, "")
    assert err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5), ("5s", 5), ("1.5m", 90), (".5h", 1800), ("5.", 5), ("1d", 86400), ("1e3", 1000), ("1e3m", 60000),
        ("+2", 2), (" 2", 2), ("0", 0), ("0s", 0), ("-0", 0), ("0x10", 16), ("0x1d", 29), ("0x10m", 960),
        ("0x1p3", 8), ("inf", float("inf")), ("infinityd", float("inf")), ("1e99999", float("inf")),
        ("0x1p99999", float("inf")),
    ],
)  # fmt: skip
def test_durations_are_read_as_timeout_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["1e-5000", "0.000e1" + "1", "1e-400s", "0x1p-9999"])
def test_durations_never_round_down_to_none(text: str) -> None:
    assert (parse_duration(text, "--timeout") > 0) == (text != "0.000e11")


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "nan", "1S", "42D", "5ms", "1h30m", "1 ", "1 s", "1_0", "x", "0x", "1e", "--", "٣", "1,5"]
)
def test_other_durations_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text, "--timeout")


def test_an_alarm_blocked_by_the_caller_does_not_matter() -> None:
    block = python(
        "import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK, [14]); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with run_exec("--timeout", ".2", "sleep", "10", prefix=block) as init:
        assert finish(init)[0] == 124


def test_a_child_of_the_caller_does_not_confuse_it() -> None:
    with_child = ("sh", "-c", 'sleep .1 & exec "$@"', "sh")
    with run_exec("--timeout", ".5", "sh", "-c", "sleep 2; echo foo", prefix=with_child) as init:
        code, out, _ = finish(init)
    assert (code, out) == (124, "")


def test_verbose_names_both_signals() -> None:
    with run_exec("-v", "--timeout-signal", "USR1", "--kill-after", ".2", "--timeout", "60", "--", *ECHO) as init:
        ring(init)
        code, _, err = finish(init)
    assert code == 137
    assert err.index("SIGUSR1") < err.index("SIGKILL")


def test_one_limit_inside_another_ends_the_command_and_both_say_124() -> None:
    # the outer one's alarm is rung; it signals the inner one, whose alarm that is, and that one interrupts
    outer = ("--timeout-signal", "ALRM", "--timeout", "30", "--")
    inner = ("--timeout-signal", "INT", "--timeout", "25", "--")
    with run_exec(*outer, *EXEC, *inner, *ECHO, "--exit-on", "2") as init:
        init.wait_line("^ready")
        init.send(signal.SIGALRM)
        init.wait_line("^2$")
        assert finish(init)[0] == 124


@pytest.mark.parametrize("inner", [("--timeout", "20"), ("--session", "keep"), ("timeout",)])
def test_an_outer_limit_reaches_through_an_inner_init(inner: tuple[str, ...]) -> None:
    through = ("timeout", "20") if inner == ("timeout",) else (*EXEC, *inner, "--")
    with run_exec("--timeout", "60", "--", *through, *ECHO, "--exit-on", "15") as init:
        ring(init)
        code, out, _ = finish(init)
    assert code == 124
    assert "15" in out.split()[2:]


def test_in_the_callers_group_an_interrupt_to_that_group_ends_the_command_in_time() -> None:
    with procs.Spawn("sh", "-c", 'trap "" INT; "$@" & wait', "sh", *EXEC, "--session", "keep", "--timeout", "25", "--",
                     *ECHO, "--exit-on", "2") as group:  # fmt: skip
        pid = int(group.wait_line(r"^ready (\d+)$")[1])
        for one in procs.tree_of(group.pid):
            procs.send(one.pid, one.start, signal.SIGINT)
        group.wait_line("^2$")
        group.wait()
        procs.wait_until(lambda: procs.look(pid) is None)


def test_a_stopped_exec_keeps_the_time_and_acts_when_it_is_continued() -> None:
    with run_exec("--timeout", ".4", "sleep", "10") as init:
        init.send(signal.SIGSTOP)
        wait_state(init.pid, "T")
        time.sleep(0.6)  # the limit passes meanwhile: that is the promise
        init.send(signal.SIGCONT)
        assert finish(init)[0] == 124


def test_without_a_limit_an_alarm_is_a_signal_like_any_other() -> None:
    for options in ((), ("--timeout", "0")):
        with run_exec(*options, "--", *ECHO) as init:
            init.wait_line("^ready")
            init.send(signal.SIGALRM)
            init.wait_line("^14$")


@pytest.mark.parametrize(("words", "status"), [(["sh", "-c", "exit 7"], 7), (["--timeout", ".2", "sleep", "9"], 124)])
def test_it_works_where_sigtimedwait_and_waitid_are_missing_as_on_macos(words: list[str], status: int) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'supervisor')!r}); import _signal, os\n"
        "del _signal.sigtimedwait, _signal.sigwaitinfo, os.waitid\n"
        "from safesh.cli.exec import main; os._exit(main(sys.argv[1:]))"
    )
    with procs.Spawn(*python(code), *words) as init:
        assert finish(init) == (status, "", "")
