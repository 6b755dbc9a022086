"""README.md and every page of docs/ is followed as it is read: from top to bottom, each command run, each file made.

A page is one story on one machine (helpers.docmachine), in a pid namespace, for some pages end all that runs. What
cannot be run here is named as skipped. helpers.pages tells how a block says what is special about it;
test_docs_pages.py holds that no page has a block of another kind; Python is run by test_docs_python_api.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import pidns, procs
from helpers.docmachine import Machine, docker, entrypoint
from helpers.home import ROOT, WRAPPER, Home
from helpers.pages import DOCS, README, Block, blocks, commands, name_of, pages

STORIES = [page for page in pages() if any(one.language in ("sh", "console", "cron") for one in blocks(page))]
NOT_RUN = [one for page in pages() for one in blocks(page) if one.note("not run: ") is not None]


@pytest.fixture
def machine(home: Home) -> Iterator[Machine]:
    made = Machine(home)
    yield made
    made.end()


@pytest.mark.pidns
@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", STORIES, ids=lambda page: page.stem.lower())
def test_a_page_does_what_it_says_from_top_to_bottom(machine: Machine, page: Path) -> None:
    for block in blocks(page):
        if block.note("not run: ") is None:
            machine.follow(block)
    if page.stem == "cron":
        assert "safe-health.sh web --start" in machine.crontab.read_text()


@pytest.mark.parametrize("block", [pytest.param(one, id=name_of(one)) for one in NOT_RUN])
def test_what_cannot_be_run_here_is_named(block: Block) -> None:
    if block.language == "sh":
        subprocess.run(["/bin/sh", "-n", "-c", block.text], check=True, timeout=30)  # its grammar, at least
    pytest.skip(f"not run: {block.note('not run: ')}: {'; '.join(block.text.strip().splitlines()[:3])}")


@pytest.mark.skipif(os.geteuid() == 0, reason="we are root: they are run in their page's story")
@pytest.mark.parametrize(
    "block", [pytest.param(one, id=name_of(one)) for page in pages() for one in blocks(page) if "as root" in one.notes]
)
def test_what_only_root_can_run_is_named(block: Block) -> None:
    pytest.skip(f"needs root: {'; '.join(block.text.strip().splitlines())}")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem.lower())
def test_every_sh_block_is_correct_shell(page: Path) -> None:
    for one in blocks(page, "sh"):
        subprocess.run(["/bin/sh", "-n", "-c", one.text], check=True, timeout=30)


# --- monitors --------------------------------------------------------------------------------------


def test_the_line_for_nrpe_is_a_plugin(machine: Machine) -> None:
    page = DOCS / "operations.md"
    machine.follow(next(one for one in blocks(page) if one.note("file: ") == "safe.toml"))
    (block,) = blocks(page, "nrpe")
    match = re.fullmatch(r"command\[\w+\]=(.*)\n", machine.here(block.text))
    assert match
    done = machine.as_cron(match[1])
    assert done.returncode == 2
    assert done.stdout.startswith("CRITICAL - web not running")
    assert machine.as_cron(match[1] + " --start").returncode == 0
    assert re.fullmatch(r"OK - [^|\n]+ \| (\S+=[0-9.]+s?(;\S*)? ?)+\n", machine.as_cron(match[1]).stdout)


# --- Docker: the lines of the Dockerfile, as pid 1 of a namespace of their own ---------------------

DOCKER = DOCS / "docker.md"


@pytest.fixture
def image(machine: Machine) -> Machine:
    """The machine with the page's safe.toml."""
    machine.follow(next(one for one in blocks(DOCKER) if one.note("file: ") == "safe.toml"))
    return machine


def container(machine: Machine, text: str) -> procs.Spawn:
    return entrypoint(machine, text, *pidns.unshare())


def first_process(unshare: procs.Spawn) -> procs.Process:
    return procs.wait_until(lambda: [one for one in procs.tree_of(unshare.pid) if one.ppid == unshare.pid])[0]


def serves(machine: Machine) -> bool:
    """Whether the page's port 8080 accepts a connection."""
    import socket

    try:
        socket.create_connection(("127.0.0.1", machine.ports[8080]), 1).close()
    except OSError:
        return False
    return True


def test_docker_images_are_made_of_lines_that_run(image: Machine) -> None:
    whole, tail = blocks(DOCKER, "dockerfile")
    assert not [one for page in pages() if page != DOCKER for one in blocks(page, "dockerfile")]
    assert [line.split()[0] for line in tail.text.splitlines()] == ["ENTRYPOINT", "CMD", "HEALTHCHECK"]
    image.run(docker(whole.text, "RUN"))


def test_the_docker_entrypoint_with_exec_is_a_pid_1_that_forwards_and_ends(image: Machine) -> None:
    with container(image, blocks(DOCKER, "dockerfile")[0].text) as run:
        procs.wait_until(lambda: serves(image))
        first = first_process(run)
        procs.send(first.pid, first.start, signal.SIGTERM)  # what `docker stop` does
        assert run.wait(15) == 128 + signal.SIGTERM


def test_the_docker_entrypoint_with_start_is_a_pid_1_that_healthcheck_can_ask(image: Machine) -> None:
    text = blocks(DOCKER, "dockerfile")[1].text
    match = re.fullmatch(r"(?:--\S+ )*CMD (.*)", docker(text, "HEALTHCHECK"))
    assert match
    with container(image, text) as run:
        procs.wait_until(lambda: serves(image))
        first = first_process(run)
        folder = image.home.project  # WORKDIR
        user = ("-U", "--preserve-credentials") if "--user" in pidns.unshare()[0] else ()
        script = f"cd {folder} && {image.here(match[1])}"
        enter = ["nsenter", "-t", str(first.pid), *user, "-p", "-m", "/bin/sh", "-c", script]

        def check() -> int:
            return subprocess.run(enter, env=image.env, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode

        procs.wait_until(lambda: check() == 0)
        web = next(one for one in procs.tree_of(first.pid) if "http.server" in procs.argv(one.pid))
        procs.send(web.pid, web.start, signal.SIGSTOP)  # it hangs: connections are accepted and nobody answers
        assert check() == 1
        procs.send(web.pid, web.start, signal.SIGCONT)
        procs.send(first.pid, first.start, signal.SIGTERM)
        run.wait(20)
        procs.wait_until(lambda: not procs.alive(web.pid, web.start))


# --- README ----------------------------------------------------------------------------------------


def test_the_readmes_first_block_is_a_newcomers_first_minute() -> None:
    """start, and status from a second terminal: the story runs it, in a folder that looks like a checkout."""
    first = blocks(README, "sh")[0]
    assert [words[0] for words in commands(first.text)] == ["start", "status"]
    assert first.note("two terminals") is not None
    assert str(ROOT / "bin" / "safe.sh") == WRAPPER[0]
