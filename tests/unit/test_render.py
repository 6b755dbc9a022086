"""What reaches a terminal, a pipe or a file: colours only where wanted, and never somebody else's escapes."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from safesh.cli import confirm, main, render
from safesh.errors import UsageError
from safesh.model import Member, Verdict

NASTY = "sh\x1b]0;owned\x07 \x1b[2J a\nb\tc\r\x9b31m \u202eevil \udcff"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_again(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    render.set_plain(False)


def member(pid: int, ppid: int = 0, command: str = "work", **more: Any) -> Member:
    return Member(pid=pid, start=pid * 10, ppid=ppid, command=command, state="S", **more)


def test_colour_goes_to_a_terminal() -> None:
    assert "\x1b[" in render.style("x", "good", Terminal())


@pytest.mark.parametrize("why", ["NO_COLOR", "dumb", "--no-color", "pipe", "no TERM"])
def test_no_escape_where_colour_is_not_wanted(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream: io.StringIO = io.StringIO() if why == "pipe" else Terminal()
    if why == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    elif why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif why == "no TERM":
        monkeypatch.delenv("TERM")
    elif why == "--no-color":
        render.set_plain(True)
    assert render.style("x", "good", stream) == "x"


def test_an_empty_no_color_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert render.wants_colour(Terminal())


def test_a_command_line_cannot_speak_to_the_terminal() -> None:
    shown = render.members([member(1, command=NASTY)], width=0)
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert shown.count("\n") == 1  # the heading and one line
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e" in shown
    assert "\\xff" in shown


def test_an_error_cannot_speak_to_the_terminal_either() -> None:
    text = render.problem(UsageError(NASTY, place=NASTY, hint=NASTY), io.StringIO())
    assert text.count("\n") == 1
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_clean_leaves_ordinary_text_alone() -> None:
    assert render.clean("python3 größe.py --naïve 日本") == "python3 größe.py --naïve 日本"


@pytest.mark.parametrize("width", [1, 5, 20, 45, 79])
def test_no_line_of_a_table_is_wider_than_the_window(width: int) -> None:
    found = [member(1, command="x" * 200), member(2, 1, command="日本語" * 60)]
    for line in render.members(found, tree=True, width=width).splitlines():
        assert render.width_of(line) <= width


def test_a_cut_text_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert render.cut("abcdef", 4) == "abc…"
    assert render.cut("abcd", 4) == "abcd"


def test_where_the_encoding_is_poor_plain_letters_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    poor = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", poor)
    text = render.members([member(1), member(2, 1, command="x" * 300)], tree=True, width=60)
    assert text.isascii()
    assert "`- " in text


def test_a_tree_shows_every_process_once_below_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    parents = {"grandchild": (5, 2), "main": (1, 99), "worker": (2, 1), "other": (3, 1), "lone": (8, 7)}
    found = [member(pid, ppid, command) for command, (pid, ppid) in parents.items()]
    lines = [line.split("S  ", 1)[1] for line in render.members(found, tree=True, width=0).splitlines()[1:]]
    assert lines == ["main", "├─ worker", "│  └─ grandchild", "└─ other", "lone"]


def test_a_circle_of_parents_ends() -> None:
    text = render.members([member(1, 2), member(2, 1), member(3, 3)], tree=True, width=0)
    assert len(text.splitlines()) == 4


def test_a_chain_of_five_thousand_processes_is_drawn() -> None:
    chain = [member(pid, pid - 1) for pid in range(1, 5001)]
    assert len(render.members(chain, tree=True, width=100).splitlines()) == 5001


def test_cpu_is_the_lifetime_average_unless_shares_are_given() -> None:
    one = member(7, started_at=1000.0, cpu_seconds=5.0)
    assert " 50.0%" in render.members([one], now=1010.0, width=0)
    assert " 12.0%" in render.members([one], now=1010.0, cpu={(7, 70): 12.0}, width=0)


def test_a_clock_set_back_gives_no_negative_age() -> None:
    assert "0.0s" in render.members([member(7, started_at=1000.0, cpu_seconds=5.0)], now=10.0, width=0)


def test_a_verdict_counts_each_process_once_and_lists_survivors_with_the_reason() -> None:
    asked = [member(1), member(2), member(3)]
    left = member(3, command="stuck", reason="uninterruptible (state D)")
    text = render.verdict(Verdict(target="robot", asked=asked, killed=[member(2)], survivors=[left], seconds=1.25))
    assert "robot: 1 process survived after 1.2s (3 asked, 1 killed)" in text
    assert "uninterruptible (state D)" in text
    assert "stuck" in text


def test_a_good_verdict_is_one_line() -> None:
    done = Verdict(target="robot", asked=[member(1), member(1)], seconds=0.4)
    assert render.verdict(done) == "robot: stopped in 0.4s, nobody is left (1 asked)"


def test_hints_name_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "program", lambda: "./bin/safe.sh")
    assert render.as_typed("try safesh stop x; or `safe.sh kill-all`") == (
        "try ./bin/safe.sh stop x; or `./bin/safe.sh kill-all`"
    )
    assert render.as_typed("all: safesh --help") == "all: ./bin/safe.sh --help"
    assert render.as_typed("rm /x/safesh stop") == "rm /x/safesh stop"
    assert render.as_typed("./bin/safe.sh start") == "./bin/safe.sh start"
    assert render.as_typed("safesh is installed") == "safesh is installed"


class TestProgram:
    root = Path(render.__file__).resolve().parents[3]

    @pytest.fixture(autouse=True)
    def _called_by_the_script(self, monkeypatch: pytest.MonkeyPatch) -> None:
        script = str(self.root / "supervisor/safesh/__main__.py")
        monkeypatch.setattr(sys, "argv", [script])
        monkeypatch.setattr(sys, "orig_argv", ["python", "-S", script])
        if not (self.root / "bin/safe.sh").exists():
            pytest.skip("bin/safe.sh is not there")

    def test_at_the_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(self.root)
        assert render.program() == "./bin/safe.sh"

    def test_elsewhere_it_can_be_typed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", "/usr/bin")
        assert os.path.samefile(render.program(), self.root / "bin/safe.sh")

    def test_by_a_symlink_in_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "safe.sh").symlink_to(self.root / "bin/safe.sh")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert render.program() == "safe.sh"

    def test_as_a_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "safesh"])
        assert main.program() == "python3 -m safesh"

    def test_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["/venv/bin/safesh"])
        assert render.program() == "safesh"


class TestConfirm:
    def ask(self, typed: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
        """confirm() on a pseudo-terminal where ``typed`` was typed."""
        ours, theirs = pty.openpty()
        shown = Terminal()
        try:
            with open(theirs, closefd=False) as stdin:
                monkeypatch.setattr(sys, "stdin", stdin)
                monkeypatch.setattr(sys, "stderr", shown)
                os.write(ours, typed)
                return confirm.confirm("Stop 3 processes?"), shown.getvalue()
        finally:
            os.close(ours)
            os.close(theirs)

    @pytest.mark.parametrize("typed", [b"y\n", b"YES\n", b" Yes \n"])
    def test_yes(self, typed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        said, shown = self.ask(typed, monkeypatch)
        assert said
        assert shown == "Stop 3 processes? [y/N] "

    @pytest.mark.parametrize("typed", [b"\n", b"n\n", b"yess\n", b"\x04", b"why\n"])
    def test_anything_else_is_no(self, typed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not self.ask(typed, monkeypatch)[0]

    def test_ctrl_c_is_no(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Interrupted(Terminal):
            def readline(self, *_args: Any) -> str:
                raise KeyboardInterrupt

        monkeypatch.setattr(sys, "stdin", Interrupted())
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert not confirm.confirm("Sure?")

    @pytest.mark.parametrize("stdin", [io.StringIO("y\n"), None])
    def test_without_a_terminal_it_refuses_and_hints_force(
        self, stdin: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UsageError) as caught:
            confirm.confirm("Sure?")
        assert caught.value.exit_code == 2
        assert "--force" in caught.value.hint


class TestMain:
    """Every way a handler can end becomes one clear line and the right status."""

    def run(self, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
        def fail(_parsed: Any) -> int:
            raise error

        monkeypatch.setattr(main, "dispatch", fail)
        return main.main(["status"])

    def test_our_own_errors(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(UsageError("no such thing", place="robot", hint="safesh status"), monkeypatch) == 2
        err = capsys.readouterr().err
        assert err == f"safesh: robot: no such thing\n  → {render.program()} status\n"

    def test_ctrl_c_is_quiet(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(KeyboardInterrupt(), monkeypatch) == 130
        assert capsys.readouterr() == ("", "")

    def test_a_bug_is_one_line_that_says_where(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("SAFESH_DEBUG", raising=False)
        assert self.run(KeyError("x"), monkeypatch) == 70
        err = capsys.readouterr().err
        assert err.startswith("safesh: a bug in test_render.py:")
        assert "SAFESH_DEBUG=1" in err
        assert "Traceback" not in err

    def test_safesh_debug_shows_the_traceback(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SAFESH_DEBUG", "1")
        assert self.run(KeyError("x"), monkeypatch) == 70
        assert "Traceback" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("number", "status", "words"),
        [(28, 73, "no space left"), (24, 71, "ulimit -n"), (13, 73, "permission denied"), (12, 71, "memory")],
    )
    def test_what_the_system_refuses_is_told(
        self, number: int, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(OSError(number, os.strerror(number), "/some/file"), monkeypatch) == status
        err = capsys.readouterr().err
        assert "/some/file" in err
        assert words in err
        assert "bug" not in err
