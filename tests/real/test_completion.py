"""TAB in real shells: commands, options, targets and what has run; quick, and silent whatever is wrong."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.home import CLI, ROOT, Home, Safe

TARGETS = """
[targets.headless]
command = ["sleep", "600"]
instance = "robot"
[targets.gui]
command = ["sleep", "601"]
instance = "robot"
[targets."a:b"]
command = ["true"]
"""
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def program(home: Home, write_config: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """``safe.sh`` and ``safesh`` on PATH and as ./bin/safe.sh, in a project with three targets."""
    write_config(TARGETS)
    folder = home.project / "bin"
    folder.mkdir()
    for name in ("safe.sh", "safesh"):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.join(CLI)} "$@"\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "safe.sh"


@pytest.fixture
def script(home: Home, program: Path) -> Callable[[str], Path]:
    """``script("bash")``: the printed script in a file."""

    def write(shell: str) -> Path:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        done = subprocess.run([program, "completion", shell], capture_output=True, text=True, check=True, timeout=30)
        assert done.stderr == ""
        file = home.path / f"completion.{shell}"
        file.write_text(done.stdout)
        return file

    return write


def bash_replies(script: Path, words: list[str], line: str = "") -> list[str]:
    """What the function leaves in COMPREPLY for COMP_WORDS, the cursor at the end of the last word."""
    line = line or " ".join(words)
    code = (
        f"source {shlex.quote(str(script))}\n"
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}\n"
        '_safesh; ((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; true'
    )
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


# --- bash, by calling its function ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["safe.sh", "st"], ["start", "stop", "status"]),
        (["safesh", "st"], ["start", "stop", "status"]),
        (["./bin/safe.sh", "stat"], ["status"]),
        (["safe.sh", "start", ""], ["headless", "gui", "a:b"]),
        (["safe.sh", "start", "--detach", "h"], ["headless"]),
        (["safe.sh", "stop", "headless", "g"], ["gui"]),
        (["safe.sh", "stop", "headless", "h"], []),
        (["safe.sh", "stop", "r"], ["robot"]),
        (["safe.sh", "start", "r"], []),
        (["safe.sh", "start", "headless", ""], ["gui", "a:b", "--"]),
        (["safe.sh", "start", "headless", "gui", ""], ["a:b"]),
        (["safe.sh", "stop", "--f"], ["--force"]),
        (["safe.sh", "stop", "--force", "--f"], []),
        (["safe.sh", "stop", "--timeout", ""], []),
        (["safe.sh", "--no-color", "kil"], ["kill-all"]),
        (["safe.sh", "completion", ""], ["bash", "zsh", "fish"]),
        (["safe.sh", "completion", "bash", "x"], []),
        (["safe.sh", "export", "s"], ["systemd"]),
        (["safe.sh", "export", "cron", "g"], ["gui"]),
        (["safe.sh", "help", "exp"], ["export"]),
        (["safe.sh", "exec", "--on-exit", ""], ["term", "leave", "end"]),
        (["safe.sh", "exec", "--pdeathsig", "TER"], ["TERM"]),
        (["safe.sh", "nosuch", ""], []),
        (["safe.sh", "--", ""], ["start"]),
    ],
    ids=" ".join,
)
def test_bash_completes(script: Callable[[str], Path], words: list[str], wanted: list[str]) -> None:
    found = bash_replies(script("bash"), words)
    if words[-2:] == ["--", ""]:  # ends the global options; what follows is a command still
        assert "start" in found
    else:
        assert found == wanted


def test_bash_every_command_and_option_of_the_table(script: Callable[[str], Path]) -> None:
    from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS

    file = script("bash")
    assert bash_replies(file, ["safe.sh", ""]) == list(VERBS)
    for verb in VERBS.values():
        if not verb.raw:
            long = [flag for option in (*GLOBAL_OPTIONS, *verb.options) for flag in option.flags if len(flag) > 2]
            assert sorted(bash_replies(file, ["safe.sh", verb.name, "--"])) == sorted([*long, "--help"])


def test_bash_words_cut_at_equal_signs_and_colons_are_put_together(script: Callable[[str], Path], home: Home) -> None:
    file = script("bash")
    other = home.path / "other.toml"
    other.write_text('[targets.elsewhere]\ncommand = ["true"]\n')
    words = ["safe.sh", "--config", "=", str(other), "start", ""]
    assert bash_replies(file, words, f"safe.sh --config={other} start ") == ["elsewhere"]
    assert bash_replies(file, ["safe.sh", "start", "a", ":", ""], "safe.sh start a:") == ["b"]
    assert bash_replies(file, ["safe.sh", "exec", "--session", "=", "n"], "safe.sh exec --session=n") == ["new"]


def test_bash_the_option_config_takes_a_file_and_decides_the_targets(script: Callable[[str], Path], home: Home) -> None:
    file = script("bash")
    other = home.project / "other file.toml"
    other.write_text('[targets.elsewhere]\ncommand = ["true"]\n')
    assert bash_replies(file, ["safe.sh", "--config", "other"]) == ["other file.toml"]
    words = ["safe.sh", "--config", '"other file.toml"', "start", ""]
    assert bash_replies(file, words) == ["elsewhere"]


def test_bash_what_follows_two_dashes_is_another_commands_line(script: Callable[[str], Path], home: Home) -> None:
    file = script("bash")
    (home.project / "notes.txt").touch()
    assert "true" in bash_replies(file, ["safe.sh", "start", "job", "--", "tru"])
    assert bash_replies(file, ["safe.sh", "exec", "cat", "notes"]) == ["notes.txt"]
    # With bash-completion loaded, its function for wrapped commands is given the place.
    text = file.read_text() + '\n_command_offset() { COMPREPLY=("offset $1"); }\n'
    file.write_text(text)
    words = ["safe.sh", "--config", "=", "safe.toml", "start", "job", "--", "make", ""]
    line = "safe.sh --config=safe.toml start job -- make "
    assert bash_replies(file, words, line) == ["offset 7"]


def test_names_of_instances_and_ad_hoc_runs_are_offered_where_they_are_understood(
    script: Callable[[str], Path], safe: Safe
) -> None:
    file = script("bash")
    with safe.started("backup", "--", "sleep", "600"):
        assert bash_replies(file, ["safe.sh", "stop", "b"]) == ["backup"]
        assert bash_replies(file, ["safe.sh", "logs", "b"]) == ["backup"]
        assert bash_replies(file, ["safe.sh", "logs", "r"]) == []
        assert bash_replies(file, ["safe.sh", "start", "b"]) == []


def test_without_a_safe_toml_what_has_run_is_offered(
    script: Callable[[str], Path], home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = script("bash")
    with safe.started("headless"), monkeypatch.context() as elsewhere:
        elsewhere.chdir(home.path)
        assert bash_replies(file, ["safe.sh", "stop", ""]) == ["robot", "headless"]


@pytest.mark.parametrize("text", ["[targets", "[targets.a]\ncommand = 5\n", "\0"])
def test_a_broken_safe_toml_gives_no_names_and_no_word_on_stderr(
    script: Callable[[str], Path], home: Home, text: str
) -> None:
    file = script("bash")
    home.write_config(text)
    assert bash_replies(file, ["safe.sh", "start", ""]) == []
    assert bash_replies(file, ["safe.sh", "sta"]) == ["start", "status"]


def test_an_alias_asks_the_program_that_printed_the_script(script: Callable[[str], Path]) -> None:
    assert bash_replies(script("bash"), ["ls", "stat"]) == ["status"]


# --- every shell, with a real TAB -----------------------------------------------------------------

START = {
    "bash": "PS1='ready$ '; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; source {script}\r",
    "zsh": "PS1='ready$ '; unsetopt zle_bracketed_paste; bindkey -e; autoload -U compinit; compinit -u -D;"
    " source {script}\r",
    "fish": "function fish_prompt; echo -n 'ready$ '; end; source {script}\r",
}
COMMAND = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}


class Terminal:
    """An interactive shell of this test's with the script loaded; ``tab(line)`` gives the completed line's words."""

    def __init__(self, shell: str, script: Path) -> None:
        pexpect = pytest.importorskip("pexpect")
        env = {**os.environ, "TERM": "xterm" if shell == "fish" else "dumb", "LC_ALL": "C.UTF-8"}
        self.child = pexpect.spawn(shell, COMMAND[shell], env=env, encoding="utf-8", timeout=20, dimensions=(40, 200))
        self.child.delaybeforesend = None
        self.child.send(START[shell].format(script=script) + "echo up; echo 'la''st'\r")
        self.child.expect("last")

    def tab(self, line: str) -> list[str]:
        # The start of the line becomes a command that shows what stands behind it.
        self.child.send(f"{line}\t")
        self.child.send("\x01printf '<%s>' 'ha''lf' \x05 'do''ne'\r")
        self.child.expect(r"<half>((?:<[^\r\n]*>)?)<done>")
        return str(self.child.match.group(1)).removeprefix("<").removesuffix(">").split("><")

    def close(self) -> None:
        self.child.close(force=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_tab_completes_commands_options_targets_and_values(
    script: Callable[[str], Path], program: Path, shell: str
) -> None:
    terminal = Terminal(shell, script(shell))
    try:
        for line in ("safe.sh stat", "safesh stat", "./bin/safe.sh stat", f"{program} stat"):
            assert terminal.tab(line) == [line.split()[0], "status"]
        assert terminal.tab("safe.sh stop hea") == ["safe.sh", "stop", "headless"]
        assert terminal.tab("safe.sh start a") == ["safe.sh", "start", "a:b"]
        assert terminal.tab("safe.sh stop --fo") == ["safe.sh", "stop", "--force"]
        assert terminal.tab("safe.sh exec --on-exit lea") == ["safe.sh", "exec", "--on-exit", "leave"]
        assert terminal.tab("safe.sh exec --session=pg") == ["safe.sh", "exec", "--session=pgrp"]
        assert terminal.tab("safe.sh --config safe.to") == ["safe.sh", "--config", "safe.toml"]
        assert terminal.tab("safe.sh start x -- cat safe.to")[-2:] == ["cat", "safe.toml"]
    finally:
        terminal.close()


def fish_offers(script: Path, line: str) -> dict[str, str]:
    code = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return dict((line.partition("\t")[0], line.partition("\t")[2]) for line in done.stdout.splitlines())


def test_fish_shows_what_each_candidate_means(script: Callable[[str], Path]) -> None:
    file = script("fish")
    assert fish_offers(file, "./bin/safe.sh completion ") == {
        "bash": "for ~/.bashrc", "zsh": "for ~/.zshrc", "fish": "for ~/.config/fish/config.fish"
    }  # fmt: skip
    assert fish_offers(file, "safe.sh start ") == {"headless": "sleep 600", "gui": "sleep 601", "a:b": "true"}
    assert set(fish_offers(file, "safe.sh ")) > {"start", "stop"}


def test_zsh_lists_the_targets_with_their_commands(script: Callable[[str], Path]) -> None:
    terminal = Terminal("zsh", script("zsh"))
    try:
        terminal.child.send("safe.sh start \t")
        terminal.child.expect(r"headless +-- sleep 600")
        terminal.child.expect(r"a:b +-- true")
    finally:
        terminal.close()


# --- the script itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_the_printed_script_is_one_the_shell_accepts(script: Callable[[str], Path], shell: str) -> None:
    file = script(shell)
    done = subprocess.run([shell, "-n", file], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_bash_script_is_clean_for_shellcheck(script: Callable[[str], Path]) -> None:
    checker = shutil.which("shellcheck") or shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [checker, "--shell=bash", script("bash")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_an_unknown_shell_is_told_and_none_is_asked_for(safe: Safe) -> None:
    assert "'tcsh' is not one of" in safe("completion", "tcsh").check(2).err
    assert "completion bash|zsh|fish" in safe("completion").check(2).err


# --- the answers ----------------------------------------------------------------------------------


def test_an_answer_loads_neither_click_nor_the_libraries_and_takes_less_than_60_ms(home: Home, program: Path) -> None:
    words = [*CLI, "__complete", "bash", "start", ""]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _round in range(3):  # a safe.toml younger than its file system's clock tick is not cached (config._keep)
        subprocess.run(words, env=env, check=True, capture_output=True, timeout=30)
    traced = subprocess.run(
        [words[0], "-X", "importtime", *words[1:]], env=env, check=True, capture_output=True, text=True, timeout=30
    )
    loaded = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
    assert not loaded & {"click", "msgspec", "tomllib", "re", "typing", "json", "enum", "subprocess"}
    assert "headless" in traced.stdout
    times = []
    for _round in range(12):
        before = time.perf_counter()
        subprocess.run(words, env=env, check=True, capture_output=True, timeout=30)
        times.append(time.perf_counter() - before)
    assert min(times) < 0.060  # the quickest: the machine has other work too


@pytest.mark.parametrize("words", [[], ["bash"], ["tcsh", "st"], ["bash", "exec", "--", "\udcff"], ["fish", "\n"]])
def test_an_odd_question_is_answered_with_exit_0_and_silence(safe: Safe, words: list[str]) -> None:
    assert safe("__complete", *words).check(0).err == ""


def test_a_target_with_odd_letters_arrives_quoted(script: Callable[[str], Path], home: Home) -> None:
    file = script("bash")
    home.write_config('[targets."it\'s$x"]\ncommand = ["true"]\n')
    assert bash_replies(file, ["safe.sh", "start", "it"]) == ["it\\'s\\$x"]


def test_completing_before_the_first_use_installs_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "bin" / "safe.sh"
    copy.parent.mkdir()
    shutil.copy(ROOT / "bin" / "safe.sh", copy)
    (tmp_path / "supervisor" / "safesh").mkdir(parents=True)
    (tmp_path / "supervisor" / "safesh" / "__main__.py").touch()
    (tmp_path / "scripts").mkdir()
    marker = tmp_path / "bootstrapped"
    (tmp_path / "scripts" / "bootstrap.sh").write_text(f"touch {marker}\nexit 1\n")
    assert copy.stat().st_mode & stat.S_IXUSR
    env = {key: value for key, value in os.environ.items() if not key.startswith("SAFESH_VENV")}
    done = subprocess.run(
        [copy, "__complete", "bash", "st"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not marker.exists()
