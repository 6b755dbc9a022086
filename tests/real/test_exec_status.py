"""``exec``: the exit status, what is said, and where."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from helpers import procs
from helpers.campaign import FULL, thinned
from helpers.exec_run import ECHO, ROOT, finish, python, run_exec

SESSIONS = ("new", "pgrp", "keep")


def test_every_exit_status_of_the_command_becomes_ours() -> None:
    for code in range(256) if FULL else (*range(3), 63, 64, *range(124, 130), 137, 143, 254, 255):
        with run_exec("--", "sh", "-c", f"exit {code}") as init:
            assert finish(init) == (code, "", "")


@thinned()
@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT", "KILL", "SEGV"])
def test_a_command_ended_by_a_signal_gives_128_plus_its_number(session: str, name: str) -> None:
    with run_exec("--session", session, "--", "sh", "-c", f"ulimit -c 0; kill -{name} $$") as init:
        assert finish(init) == (128 + signal.Signals[f"SIG{name}"], "", "")


def test_ok_exit_maps_that_status_and_no_other_to_0() -> None:
    for code in (0, 1, 3, 127, 255):
        with run_exec("--ok-exit", str(code), "--", "sh", "-c", f"exit {code}") as init:
            assert finish(init)[0] == 0
        others = [word for n in range(256) if n != code for word in ("--ok-exit", str(n))]
        with run_exec(*others, "sh", "-c", f"exit {code}") as init:
            assert finish(init)[0] == code


def test_ok_exit_maps_an_end_by_signal_too() -> None:
    with run_exec("--ok-exit=143", "sh", "-c", "kill -TERM $$") as init:
        assert finish(init)[0] == 0


@thinned()
@pytest.mark.parametrize("options", [(), ("--",), ("--scope", "child"), ("--scope", "child", "--")])
@pytest.mark.parametrize("session", SESSIONS)
def test_a_command_that_is_not_there_gives_127_and_its_name(options: tuple[str, ...], session: str) -> None:
    with run_exec("--session", session, *options, "/does/not/exist") as init:
        code, out, err = finish(init)
    assert (code, out) == (127, "")
    assert "/does/not/exist: No such file or directory\n" in err


def test_a_command_that_path_does_not_have_gives_127() -> None:
    with run_exec("no-such-command-anywhere") as init:
        code, out, err = finish(init)
    assert (code, out) == (127, "")
    assert "no-such-command-anywhere: No such file or directory\n" in err


def test_an_empty_command_gives_127() -> None:
    with run_exec("--", "") as init:
        assert finish(init)[0] == 127


def test_a_file_that_cannot_be_executed_gives_126(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("text\n")
    with run_exec(str(plain)) as init:
        code, out, err = finish(init)
    assert (code, out) == (126, "")
    assert f"{plain}: Permission denied\n" in err


@pytest.mark.parametrize("folder", ["/etc", "."])
def test_a_folder_as_command_gives_126(folder: str) -> None:
    with run_exec("--", folder) as init:
        code, out, err = finish(init)
    assert (code, out) == (126, "")
    assert f"{folder}: Is a directory" in err


def test_a_script_with_a_missing_interpreter_gives_127_and_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with run_exec(str(script)) as init:
        code, _, err = finish(init)
    assert code == 127
    assert "No such file or directory\n" in err
    assert "interpreter" in err


def test_a_script_without_an_interpreter_line_is_run_by_sh(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo $0 $1; exit 7\n")
    script.chmod(0o755)
    with run_exec(str(script), "word") as init:
        assert finish(init) == (7, f"{script} word\n", "")


def test_path_is_searched_as_execvp_does(tmp_path: Path) -> None:
    for name, mode in (("denied", 0o644), ("good", 0o755)):
        (tmp_path / name).mkdir()
        tool = tmp_path / name / "tool"
        tool.write_text(f"#!/bin/sh\necho {name}\n")
        tool.chmod(mode)
    here = tmp_path / "here"
    here.mkdir()
    (here / "local").write_text("#!/bin/sh\necho local\n")
    (here / "local").chmod(0o755)
    path = f"/no/such/folder:/etc/passwd:{tmp_path}/denied:{tmp_path}/good:"
    with run_exec("tool", extra_env={"PATH": path}) as init:
        assert finish(init)[:2] == (0, "good\n")
    with run_exec("local", extra_env={"PATH": path}, cwd=here) as init:  # an empty entry is the working directory
        assert finish(init)[:2] == (0, "local\n")
    with run_exec("tool", extra_env={"PATH": f"{tmp_path}/denied:/no/such/folder"}) as init:
        assert finish(init)[0] == 126


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bogus", "true"], "unknown option --bogus"),
        (["--scop", "group", "true"], "did you mean --scope?"),
        (["--scope", "grup", "true"], "did you mean group?"),
        (["--session=old", "true"], "'old' is none of new, pgrp, keep"),
        (["--on-exit", "endd", "true"], "did you mean end?"),
        (["--rewrite", "TERM", "true"], "'TERM' is not SIG:SIG"),
        (["--rewrite", "TREM:INT", "true"], "did you mean TERM?"),
        (["--rewrite", "TERM:999", "true"], "'999' is not a signal"),
        (["--rewrite", "²:INT", "true"], "'²' is not a signal"),
        (["--rewrite", "KILL:TERM", "true"], "SIGKILL is never sent on"),
        (["--ok-exit", "256", "true"], "'256' is not an exit status"),
        (["--ok-exit", "x", "true"], "'x' is not an exit status"),
        (["--pdeathsig", "NOPE", "true"], "'NOPE' is not a signal"),
        (["--warn-reap=yes", "true"], "--warn-reap takes no value"),
        (["--scope"], "--scope needs a value"),
        ([], "no command given"),
        (["--"], "no command given"),
        (["--on-exit", "end", "--no-subreaper", "true"], "--on-exit end needs the orphans"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_status_2(words: list[str], said: str) -> None:
    with run_exec(*words) as init:
        code, out, err = finish(init)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_second_double_dash_is_the_command() -> None:
    with run_exec("--", "--", "true") as init:
        assert finish(init)[0] == 127


def test_options_end_at_the_command() -> None:
    with run_exec("echo", "--timeout", "--", "--help") as init:
        assert finish(init) == (0, "--timeout -- --help\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_a_page_on_stdout(flag: str) -> None:
    with run_exec(flag) as init:
        code, out, err = finish(init)
    assert (code, err) == (0, "")
    for word in ("NAME", "SYNOPSIS", "EXIT STATUS", "EXAMPLES"):
        assert f"\n{word}\n" in f"\n{out}"


def test_help_names_every_option() -> None:
    from safesh.cli import exec as verb
    from safesh.cli import grammar, manual

    page = manual.page(grammar.VERBS["exec"])
    manual = (Path(__file__).parents[2] / "docs/exec.md").read_text()
    for name in (*verb._FLAGS, *verb._VALUES):
        assert name in page
        assert name in manual


def test_version_is_told() -> None:
    with run_exec("--version") as init:
        code, out, err = finish(init)
    assert (code, err) == (0, "")
    assert out.startswith("safe.sh ")


def test_silent_as_long_as_nothing_is_asked_for() -> None:
    with run_exec("--", "sh", "-c", "sleep 0.05 & exit 0") as init:
        assert finish(init) == (0, "", "")


def test_verbose_names_each_signal_sent() -> None:
    with run_exec("-v", *ECHO, "--exit-on", "10") as init:
        init.wait_line("^ready")
        init.send(signal.SIGUSR1)
        code, _, err = finish(init)
    assert code == 10
    assert "sending signal SIGUSR1 to command" in err


def test_a_full_stderr_that_nobody_reads_does_not_stop_the_init() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    try:
        with run_exec("--warn-reap", "--", "sh", "-c", "(sleep 0.05 &) ; sleep 0.2; exit 5", stderr=writing) as init:
            assert init.wait() == 5
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(("options", "status"), [([], 71), (["--timeout", "5"], 125)])
def test_no_descriptor_left_is_told_and_gives_71_or_125(options: list[str], status: int) -> None:
    code = (
        f"import resource, sys; sys.path.insert(0, {str(ROOT / 'supervisor')!r});"
        "import _ctypes, ctypes, select; from safesh.cli.exec import main;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); sys.exit(main(sys.argv[1:]))"
    )
    with procs.Spawn(*python(code), *options, "--no-subreaper", "true") as init:
        assert finish(init)[0] == status
        assert "true: cannot be started: Too many open files" in init.err
        assert "Traceback" not in init.err
