"""Every command that the documentation shows is run; what cannot be run here is named as skipped.

Blocks are told by their language: ``sh`` is one script, ``cron`` crontab lines, ``nrpe``, ``dockerfile``, ``makefile``.
A comment before a block says what is special about it: ``not run: WHY``, ``as root``, ``until Ctrl-C``.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers import pidns, procs
from helpers.home import ROOT, WRAPPER, Home, Safe

OPERATIONS = ROOT / "docs" / "operations.md"
SHELL_WORDS = ("safe.sh", "safe-health.sh")
KNOWN = {"sh", "cron", "nrpe", "dockerfile", "makefile", "toml", "json", ""}
_FENCE = re.compile(r"^(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block. place: its section's title; note: what the comment before it says."""

    place: str
    language: str
    note: str
    text: str


def blocks(file: Path, *languages: str) -> list[Block]:
    text = file.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = re.findall(r"^#+ (.*)$", text[: match.start()], re.M)[-1]
        found.append(Block(title, match["language"], match["note"] or "", match["text"]))
    return [one for one in found if not languages or one.language in languages]


def named(found: list[Block]) -> list[object]:
    """Parameters whose names say which section they are from, and of several there which."""
    counts: dict[str, int] = {}
    params = []
    for one in found:
        counts[one.place] = number = counts.get(one.place, 0) + 1
        params.append(pytest.param(one, id=re.sub(r"\W+", "-", one.place).strip("-").lower() + f"-{number}"))
    return params


class Machine:
    """The page's machine on this one: its paths stand for the checkout and for the test's own folders."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.bin = home.path / "bin"
        self.bin.mkdir()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        # Never the real one: a test must not touch anybody's crontab.
        self.crontab = home.path / "crontab"
        self._tool("crontab", f'case $1 in -l) cat "{self.crontab}" ;; -) cat >"{self.crontab}" ;; *) exit 2 ;; esac')
        (toml,) = blocks(OPERATIONS, "toml")
        home.write_config(self.here(toml.text))
        self.env = {
            "HOME": str(home.path),
            "SAFESH_HOME": str(home.state),
            "PATH": f"{self.bin}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
        }

    def _tool(self, name: str, script: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def here(self, text: str) -> str:
        """The text with this machine's paths."""
        text = text.replace("/opt/safesh", str(ROOT)).replace("/srv/robot", str(self.home.project))
        text = text.replace("/var/lib/robot", str(self.home.state)).replace("8080", str(self.port))
        return re.sub(r"(chown|su -s /bin/sh) robot\b", rf"\1 {getpass.getuser()}", text)

    def shell(self, text: str, **env: str) -> procs.Spawn:
        """``sh -eu`` with the text."""
        words = ["/bin/sh", "-euc", self.here(text)]
        return procs.Spawn(*words, env={**self.env, **env}, cwd="/", stdin=subprocess.DEVNULL, whole=False)

    def run(self, text: str, status: int = 0, deadline: float = 60) -> str:
        with self.shell(text) as child:
            rc = child.wait(deadline)
            child.wait_output(5)
            assert rc == status, (
                f"status {rc}, expected {status}: {text}\n--- stdout\n{child.out}--- stderr\n{child.err}"
            )
            return child.out


@pytest.fixture
def machine(home: Home, safe: Safe) -> Iterator[Machine]:
    yield Machine(home)
    safe("kill-all", "--force", "--now")


# --- the pages themselves --------------------------------------------------------------------------


def test_every_block_that_shows_a_command_is_of_a_kind_that_is_run() -> None:
    for one in blocks(OPERATIONS):
        assert one.language in KNOWN, one
        if one.language in ("", "toml", "json"):
            assert not any(word in one.text for word in SHELL_WORDS), f"this would not be run: {one.text}"
        assert one.note == "" or one.note.startswith("not run: ") or one.note in ("as root", "until Ctrl-C"), one


@pytest.mark.parametrize("block", named(blocks(OPERATIONS, "sh")))
def test_the_commands_of_operations_do_what_they_are_shown_for(machine: Machine, block: Block) -> None:
    if block.note.startswith("not run: "):
        subprocess.run(["/bin/sh", "-n", "-c", block.text], check=True, timeout=30)  # its grammar, at least
        pytest.skip(f"{block.note}: {'; '.join(block.text.strip().splitlines())}")
    if block.note == "as root" and os.geteuid() != 0:
        pytest.skip(f"needs root: {'; '.join(block.text.strip().splitlines())}")
    if block.note == "until Ctrl-C":
        machine.run("/opt/safesh/bin/safe.sh start web --detach --config /srv/robot/safe.toml")
        with machine.shell(block.text) as child:
            child.wait_line("^web: ")
            os.killpg(child.pid, signal.SIGINT)  # our own child leads the group and has not been waited for
            child.wait(10)
        return
    machine.run(block.text)
    if block.place == "cron":
        assert "safe-health.sh web --start" in machine.crontab.read_text()


# --- cron and monitors -----------------------------------------------------------------------------


def cron_lines(text: str) -> list[str]:
    """The commands of a crontab, by crontab(5): five fields or an @word, then the command."""
    commands = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"(?:@\w+|(?:[\d*/,-]+\s+){4}[\d*/,-]+)\s+(.*)", line)
            assert match, line
            assert "%" not in match[1].replace("\\%", ""), "an unescaped % ends a command"
            commands.append(match[1].replace("\\%", "%"))
    assert commands
    return commands


def as_cron(machine: Machine, command: str) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(machine.home.path), "SAFESH_HOME": str(machine.home.state), "SHELL": "/bin/sh",
           "LOGNAME": getpass.getuser(), "PATH": "/usr/bin:/bin"}  # fmt: skip
    return subprocess.run(
        ["/bin/sh", "-c", command], env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=90, start_new_session=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("block", named(blocks(OPERATIONS, "cron")))
def test_crontab_lines_run_as_cron_runs_them_and_say_nothing(machine: Machine, safe: Safe, block: Block) -> None:
    for command in cron_lines(machine.here(block.text)):
        for _again in range(2 if "safe-health" in command else 1):
            done = as_cron(machine, command)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), (command, done)
    assert safe("status", "web", "worker").rc == 0


def test_the_line_for_nrpe_is_a_plugin(machine: Machine) -> None:
    (block,) = blocks(OPERATIONS, "nrpe")
    match = re.fullmatch(r"command\[\w+\]=(.*)\n", machine.here(block.text))
    assert match
    done = as_cron(machine, match[1])
    assert done.returncode == 2
    assert done.stdout.startswith("CRITICAL - web not running")
    assert as_cron(machine, match[1] + " --start").returncode == 0
    assert re.fullmatch(r"OK - [^|\n]+ \| (\S+=[0-9.]+s?(;\S*)? ?)+\n", as_cron(machine, match[1]).stdout)


# --- make ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _makefile(request: pytest.FixtureRequest) -> None:
    """The page's Makefile lies in the project, for the blocks that call make."""
    if "machine" in request.fixturenames:
        made: Machine = request.getfixturevalue("machine")
        (block,) = blocks(OPERATIONS, "makefile")
        (made.home.project / "Makefile").write_text(made.here(block.text))


# --- Docker: the lines of the Dockerfile, as pid 1 of a namespace of their own ---------------------


def docker(text: str, word: str) -> str:
    match = re.search(rf"^{word} (.*)$", text, re.M)
    assert match, f"no {word} in {text}"
    return match[1]


def container(machine: Machine, text: str) -> procs.Spawn:
    command, why = pidns.unshare()
    if not command:
        pytest.skip(f"needs a pid namespace ({why}): ENTRYPOINT {docker(text, 'ENTRYPOINT')}")
    words = [machine.here(word) for name in ("ENTRYPOINT", "CMD") for word in json.loads(docker(text, name))]
    return procs.Spawn(*command, *words, env=machine.env, cwd=machine.home.project, stdin=subprocess.DEVNULL)


def first_process(unshare: procs.Spawn) -> procs.Process:
    return procs.wait_until(lambda: [one for one in procs.tree_of(unshare.pid) if one.ppid == unshare.pid])[0]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_docker_images_are_made_of_lines_that_run(machine: Machine) -> None:
    whole, tail = blocks(OPERATIONS, "dockerfile")
    assert [line.split()[0] for line in tail.text.splitlines()] == ["ENTRYPOINT", "CMD", "HEALTHCHECK"]
    machine.run(docker(whole.text, "RUN"))


def test_the_docker_entrypoint_with_exec_is_a_pid_1_that_forwards_and_ends(machine: Machine) -> None:
    with container(machine, blocks(OPERATIONS, "dockerfile")[0].text) as run:
        procs.wait_until(lambda: answers(machine.port))
        first = first_process(run)
        procs.send(first.pid, first.start, signal.SIGTERM)  # what `docker stop` does
        assert run.wait(15) == 128 + signal.SIGTERM


def test_the_docker_entrypoint_with_start_is_a_pid_1_that_healthcheck_can_ask(machine: Machine) -> None:
    text = blocks(OPERATIONS, "dockerfile")[1].text
    match = re.fullmatch(r"(?:--\S+ )*CMD (.*)", docker(text, "HEALTHCHECK"))
    assert match
    with container(machine, text) as run:
        procs.wait_until(lambda: answers(machine.port))
        first = first_process(run)
        folder = machine.home.project  # WORKDIR
        user = ("-U", "--preserve-credentials") if "--user" in pidns.unshare()[0] else ()
        enter = [
            "nsenter",
            "-t",
            str(first.pid),
            *user,
            "-p",
            "-m",
            "/bin/sh",
            "-c",
            f"cd {folder} && {machine.here(match[1])}",
        ]

        def check() -> int:
            return subprocess.run(enter, env=machine.env, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode

        procs.wait_until(lambda: check() == 0)
        web = next(one for one in procs.tree_of(first.pid) if "http.server" in procs.argv(one.pid))
        procs.send(web.pid, web.start, signal.SIGSTOP)  # it hangs: connections are accepted and nobody answers
        assert check() == 1
        procs.send(web.pid, web.start, signal.SIGCONT)
        procs.send(first.pid, first.start, signal.SIGTERM)
        run.wait(20)
        procs.wait_until(lambda: not procs.alive(web.pid, web.start))


# --- README ----------------------------------------------------------------------------------------


def test_the_readmes_first_commands_show_the_demo_robot(home: Home, safe: Safe) -> None:
    """In the checkout itself, as a newcomer's first minute; only the state folder is the test's."""
    (block,) = blocks(ROOT / "README.md", "sh")
    lines = [shlex.split(line, comments=True) for line in block.text.splitlines()]
    assert [words[:2] for words in lines] == [["./bin/safe.sh", "start"], ["./bin/safe.sh", "status"]]
    with safe.spawn(*lines[0][1:], wrapper=True, cwd=ROOT) as robot:
        procs.wait_until(lambda: safe(*lines[1][1:], wrapper=True, cwd=ROOT).rc == 0)
        shown = safe(*lines[1][1:], wrapper=True, cwd=ROOT).check()
        assert "demo_robot.py" in shown.out
        robot.send(signal.SIGINT)
        robot.wait(20)
    assert str(ROOT / "bin" / "safe.sh") == WRAPPER[0]


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_sh_block_of_the_documentation_is_correct_shell(page: str) -> None:
    for one in blocks(ROOT / "docs" / page, "sh"):
        subprocess.run(["/bin/sh", "-n", "-c", one.text], check=True, timeout=30)
