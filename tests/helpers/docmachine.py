"""The machine that the documentation speaks of, on this one: its paths and ports stand for those of a test."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import procs
from helpers.home import CLI, ROOT, Home
from helpers.nsguard import inside
from helpers.pages import LONG, RUN, Block, answers, transcript

PORTS = (8080, 8000, 9464, 8501)


class Machine:
    """Where a page's commands run: the project looks like a checkout, so `./bin/safe.sh` works in it as well."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.bin = home.path / "tools"
        self.bin.mkdir()
        self.ports = {port: free for port, free in zip(PORTS, _free_ports(len(PORTS)), strict=True)}
        # Never the real one: a test must not touch anybody's crontab.
        self.crontab = home.path / "crontab"
        self._tool("crontab", f'case $1 in -l) cat "{self.crontab}" ;; -) cat >"{self.crontab}" ;; *) exit 2 ;; esac')
        # By name, with the tests' Python, which has all extras; by a path it is the checkout's own, with its .venv.
        for name in ("safe.sh", "safesh"):
            self._tool(name, f'exec {shlex.join(CLI)} "$@"')
        for name in ("bin", "scripts", "README.md"):
            (home.project / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "examples", home.project / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        # The example's steps only take their time, and a tenth of it will do.
        step = home.project / "examples" / "step.py"
        step.write_text(step.read_text().replace("float(seconds)", "float(seconds) / 10"))
        for name in ("safe.toml", "Makefile"):
            self.write(name, (ROOT / name).read_text(encoding="utf-8"))
        self.env = {
            "HOME": str(home.path),
            "SAFESH_HOME": str(home.state),
            "PATH": f"{self.bin}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
        }
        self.env.update({name: value for name, value in os.environ.items() if name.startswith("SAFESH_TEST_")})

    def _tool(self, name: str, script: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        """A file of the project."""
        file = self.home.project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.here(text), encoding="utf-8")
        file.chmod(0o755 if text.startswith("#!") else 0o644)
        return file

    def here(self, text: str) -> str:
        """The text with this machine's paths and ports."""
        text = text.replace("/opt/safesh", str(ROOT)).replace("/srv/robot", str(self.home.project))
        text = text.replace("/var/lib/robot", str(self.home.state))
        text = text.replace("/var/lib/prometheus/node-exporter", str(self.home.path))
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return re.sub(r"(chown|su -s /bin/sh) robot\b", rf"\1 {getpass.getuser()}", text)

    def shell(self, text: str, **env: str) -> procs.Spawn:
        """``sh -eu`` with the text, in the project."""
        words = ["/bin/sh", "-euc", self.here(text)]
        environment = {**self.env, **env}
        return procs.Spawn(*words, env=environment, cwd=self.home.project, stdin=subprocess.DEVNULL, whole=False)

    def run(self, text: str, status: int = 0, deadline: float = 60) -> str:
        with self.shell(text) as child:
            rc = child.wait(deadline)
            child.wait_output(5)
            assert rc == status, (
                f"status {rc}, expected {status}: {text}\n--- stdout\n{child.out}--- stderr\n{child.err}"
            )
            assert "Traceback" not in child.err, child.err
            return child.out

    def follow(self, block: Block) -> None:
        """Do what a block of a page says; AssertionError with the page's line where it does not go as it says."""
        assert not LONG.search(block.text) or block.language not in RUN, f"not in a test: {block}"
        try:
            if (name := block.note("file: ")) is not None:
                self.write(name, block.text)
            elif block.language == "cron":
                self._follow_cron(block)
            elif block.language == "console":
                self._follow_transcript(block)
            elif block.note("until Ctrl-C") is not None:
                self._until_ctrl_c(block)
            elif block.note("two terminals") is not None:
                self._two_terminals(block)
            elif block.note("as root") is not None and os.geteuid() != 0:
                pass  # reported by name, see test_docs.py
            elif block.language == "sh":
                self.run(block.text, int(block.note("status: ") or 0))
        except AssertionError as error:
            raise AssertionError(f"{block.page.name}:{block.line}: {error}") from None

    def _follow_cron(self, block: Block) -> None:
        for command in cron_lines(self.here(block.text)):
            for _again in range(2 if "safe-health" in command else 1):
                done = self.as_cron(command)
                assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), (command, done)

    def as_cron(self, command: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(self.home.path), "SAFESH_HOME": str(self.home.state), "SHELL": "/bin/sh",
               "LOGNAME": getpass.getuser(), "PATH": "/usr/bin:/bin"}  # fmt: skip
        return subprocess.run(
            ["/bin/sh", "-c", command], env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=90, start_new_session=True, check=False,
        )  # fmt: skip

    def _follow_transcript(self, block: Block) -> None:
        """One shell for all of it, so that ``$?``, ``cd`` and variables go on from command to command."""
        steps = transcript(block.text)
        mark = "@@ end of a step @@"
        script = "".join(
            f"{command}\nlast=$?; printf '\\n%s\\n' '{mark}'; (exit $last)\n" for command, _ in steps
        )  # fmt: skip
        # Not -e: a refusal is part of what a transcript shows.
        words = ["/bin/sh", "-c", "exec 2>&1\n" + self.here(script)]
        with procs.Spawn(*words, env=self.env, cwd=self.home.project, stdin=subprocess.DEVNULL, whole=False) as child:
            child.wait(90)
            child.wait_output(5)
            *said, rest = child.out.split(f"\n{mark}\n")
        assert len(said) == len(steps), f"it ended in the middle: {rest}"
        for (command, expected), answer in zip(steps, said, strict=True):
            # A hint names the program as it can be called from there: by name, or by its path.
            lines = [re.sub(r"[\w./-]*/bin/safe\.sh", "safe.sh", self.here(line)) for line in expected]
            shown = re.sub(r"[\w./-]*/bin/safe\.sh", "safe.sh", answer).replace("\n\n", "\n")
            assert answers(lines, shown), f"$ {command}\n--- the page\n{chr(10).join(lines)}\n--- really\n{shown}"

    def _until_ctrl_c(self, block: Block) -> None:
        with self.shell(block.text) as child:
            procs.wait_until(lambda: bool(child.out or child.err), 30, "a word of it")
            os.killpg(child.pid, signal.SIGINT)  # our own child leads the group and has not been waited for
            child.wait(20)
            assert "Traceback" not in child.err, child.err

    def _two_terminals(self, block: Block) -> None:
        first, *others = block.text.strip().splitlines()
        with self.shell(f"exec {first.partition(' #')[0]}") as child:
            child.wait_line("ready", 30)
            for line in others:
                self.run(line)
            child.send(signal.SIGINT)
            assert child.wait(20) in (0, 130), child.err

    def end(self) -> None:
        """Whatever the page has left running, by the command that is made for it."""
        # kill-all ends strays too, by a target's `match`: that is for a pid namespace.
        verb = "kill-all" if inside() else "stop"
        files = [file for file in self.home.project.rglob("safe.toml") if "bin" not in file.parts]
        for config in files:
            subprocess.run(
                [str(self.bin / "safe.sh"), verb, "--force", "--now", "--config", str(config)],
                env=self.env, cwd=self.home.path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                check=False,
            )  # fmt: skip


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


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


def docker(text: str, word: str) -> str:
    match = re.search(rf"^{word} (.*)$", text, re.M)
    assert match, f"no {word} in {text}"
    return match[1]


def entrypoint(machine: Machine, text: str, unshare: tuple[str, ...], why: str) -> procs.Spawn:
    """ENTRYPOINT and CMD of a Dockerfile as pid 1 of a namespace."""
    if not unshare:
        pytest.skip(f"needs a pid namespace ({why}): ENTRYPOINT {docker(text, 'ENTRYPOINT')}")
    words = [machine.here(word) for name in ("ENTRYPOINT", "CMD") for word in json.loads(docker(text, name))]
    return procs.Spawn(*unshare, *words, env=machine.env, cwd=machine.home.project, stdin=subprocess.DEVNULL)
