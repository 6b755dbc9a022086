"""A supervisor that lives, and verbs that wait, under inputs of any kind: they answer, and they go on."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import in_full, rounds
from helpers.faults_tools import one_line, record_of, wait_record, write_target
from helpers.home import Home, Safe

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))

from faults.fuzz_mutate import mutate  # noqa: E402

HUGE = b"9" * 400
REFUSED = [
    b'{"do": "restart", "spec": {}}\n', b'{"do": "restart", "spec": 5}\n', b'{"do": "restart", "spec": []}\n',
    b'{"do": "restart", "spec": {"name": 1, "instance": "t", "project": "proj", "command": 5, "cwd": "/"}}\n',
    b'{"do": "restart", "spec": {"name": "t", "instance": "u", "project": "proj", "command": ["x"], "cwd": "/"}}\n',
    b'{"do": ["stop"]}\n', b'{"do": "end"}\n', b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n",
    b"\0" * 5000,
    b'{"do": "\\ud800"}\n', HUGE + b"\n", b'{"do"' * 30_000,
]  # fmt: skip


def say(home: Home, data: bytes) -> bytes:
    """What the supervisor answers, b"" for a connection that it ends; at most one turn of its loop is waited for."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        here = os.getcwd()
        os.chdir(home.state_file("t.sock").parent)
        try:
            sock.connect("t.sock")
        finally:
            os.chdir(here)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            found = b""
            while chunk := sock.recv(65536):
                found += chunk
            return found
        except (BrokenPipeError, ConnectionResetError):
            return b""


def is_taken(data: bytes) -> bool:
    """Whether a line of it could be an order that ends or restarts the run."""
    return any(word in data for word in (b'"stop"', b'"restart"', b"\\u"))


def test_a_supervisor_goes_on_whatever_is_written_to_its_socket(home: Home, safe: Safe, rng: random.Random) -> None:
    write_target(home)
    with safe.started("t"):
        before = record_of(home)
        for data in REFUSED:
            answer = say(home, data)
            assert b"accepted" not in answer, (data[:80], answer)
        seeds = (b'{"do": "wait"}\n', b'{"do": "status", "grace": 1.5, "now": false, "spec": null}\n')
        for _ in range(rounds(150, 5000)):
            data = mutate(rng, seeds, (b"\n", b"{", b'"', b"\xff", b"\0", b"null", b"1e999", HUGE))
            if not is_taken(data):
                say(home, data)
        safe("status", "t").check(0)
        after = record_of(home)
        assert [after[key] for key in ("supervisor", "main", "run_id")] == [
            before[key] for key in ("supervisor", "main", "run_id")
        ]
        assert "nobody is left" in safe("stop", "t", "--force").check(0).out


@pytest.mark.parametrize("grace", in_full([HUGE, b"NaN"], b"-1", b"1e999", b'"x"', b"true"))
def test_a_request_to_stop_with_a_grace_that_is_none_stops_with_the_targets_own(
    home: Home, safe: Safe, grace: bytes
) -> None:
    write_target(home)
    with safe.started("t"):
        lines = [json.loads(line) for line in say(home, b'{"do": "stop", "grace": ' + grace + b"}\n").splitlines()]
        assert lines[0] == {"accepted": "stop", "state": "running", "grace": 0.5}
        assert wait_record(home, state="finished")["message"] == "stopped by request"


@pytest.mark.parametrize("time", in_full(["1e300s"], "30d", "9999w"))
def test_a_verb_may_be_told_to_wait_for_ever(home: Home, safe: Safe, time: str) -> None:
    """poll(2) counts milliseconds in an int, and a struct timeval has its end too."""
    write_target(home, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
    with safe.started("t", "--timeout", time):
        safe("health", "t", "--timeout", time).check(0)
        assert "nobody is left" in safe("stop", "t", "--force", "--timeout", time).check(0).out
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom safesh import execute_command as run, ExecutionMode\n"
    code += "assert run(['true'], timeout=1e300).return_code == 0\n"
    code += "assert run(['true'], timeout=1e300, mode=ExecutionMode.BACKGROUND).wait(1e9).return_code == 0\n"
    safe("exec", "--timeout", time, "--", sys.executable, "-c", code, str(SCRIPTS.parent / "supervisor")).check(0)


def test_a_plans_step_may_be_given_for_ever(home: Home, safe: Safe) -> None:
    plan: dict[str, Any] = {"id": "p", "steps": [{"id": "a", "command": ["true"], "timeout": "1e300s"}]}
    (home.project / "plan.json").write_text(json.dumps(plan))
    safe("run", "plan.json", "--output", "out").check(0)


def test_a_plans_damaged_journal_does_not_keep_it_from_being_resumed(home: Home, safe: Safe) -> None:
    plan = {"id": "p", "steps": [{"id": "a", "command": ["true"]}]}
    (home.project / "plan.json").write_text(json.dumps(plan))
    safe("run", "plan.json", "--output", "out").check(0)
    journal = home.project / "out" / "events.jsonl"
    journal.write_bytes(journal.read_bytes() + b"[" * 200_000 + b"\n\xff\xfe\n" + HUGE)
    safe("run", "plan.json", "--output", "out", "--resume").check(0)


def test_a_name_with_nothing_in_it_is_told(home: Home, safe: Safe) -> None:
    one_line(safe("start", "", "--", "true").check(2))
