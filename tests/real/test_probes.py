"""One check of each kind, against things that serve, refuse, hang, flood and lie."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import procs
from helpers.procs import spawn
from safesh import model
from safesh.supervise import probes
from safesh.supervise.probes import Check, Context, check_now

SERVER = Path(__file__).resolve().parents[1] / "helpers" / "probe_server.py"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(str(tmp_path), dict(os.environ), time.time(), str(tmp_path / "t.log"))


@contextmanager
def server(mode: str) -> Iterator[str]:
    with spawn(sys.executable, "-u", SERVER, mode) as child:
        yield child.wait_line(r"port (\d+)")[1]


def look(context: Context, timeout: float = 5.0, **probe: object) -> probes.Result:
    return check_now(model.Probe(timeout=timeout, **probe), context)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tcp_is_ok_where_a_connection_is_accepted(context: Context, host: str) -> None:
    with server("silent") as port:
        assert look(context, tcp=f"{host}:{port}").ok


def test_tcp_names_the_address_that_refuses(context: Context) -> None:
    result = look(context, tcp="127.0.0.1:1")
    assert not result.ok
    assert result.message == "127.0.0.1:1: Connection refused"


def test_a_port_nobody_listens_on_never_answers_itself(context: Context) -> None:
    """A connect to a free ephemeral port of loopback can meet its own source port."""
    with server("silent") as port:
        free = int(port)
    for _ in range(200):
        assert not look(context, tcp=f"127.0.0.1:{free}").ok


def test_a_name_that_does_not_resolve_is_told(context: Context) -> None:
    result = look(context, tcp="no-such-host.invalid:80")
    assert not result.ok
    assert "no-such-host.invalid:80" in result.message


@pytest.mark.parametrize(
    ("mode", "probe", "ok", "message"),
    [
        ("ok", {}, True, "^HTTP 200$"),
        ("ok", {"body": "all is w.ll"}, True, "^HTTP 200$"),
        ("ok", {"body": "nothing like it"}, False, "without 'nothing like it'"),
        ("chunked", {"body": "^all systems go$"}, True, "^HTTP 200$"),
        ("status:503", {}, False, "HTTP 503, expected 200-399"),
        ("status:401", {"status": "200-299,401"}, True, "^HTTP 401$"),
        ("redirect", {"status": "200-299"}, False, r"HTTP 302 to http://example.invalid/login \(not followed\)"),
        ("redirect", {}, True, "not followed"),
        ("garbage", {}, False, "does not speak HTTP"),
        ("close", {}, False, "closed the connection without an answer"),
        ("flood-head", {}, False, "head is longer than 64 KiB"),
        ("flood-body", {"body": "never there"}, False, "65536 bytes of body"),
        ("silent", {}, False, r"connected, but no answer within 0\.7s"),
        ("drip", {}, False, r"\d+ bytes of an answer, but no end of its head within 0\.7s"),
    ],
)
def test_http_answers_are_judged_and_explained(
    context: Context, mode: str, probe: dict[str, str], ok: bool, message: str
) -> None:
    timeout = 0.7 if mode in ("silent", "drip") else 10.0
    with server(mode) as port:
        result = look(context, timeout, http=f"http://127.0.0.1:{port}/health", **probe)
    assert result.ok is ok, result
    assert re.search(message, result.message), result
    assert result.seconds < timeout + 5


def test_http_asks_for_path_query_host_and_user(context: Context) -> None:
    with server("echo") as port:
        url = f"http://me:se%20cret@localhost:{port}/a b/ä?x=1&y#here"
        asked = rf"(?s)GET /a%20b/%C3%A4\?x=1&y HTTP/1.1.*Host: localhost:{port}\r.*Basic bWU6c2UgY3JldA==\r"
        result = look(context, http=url, body=asked)
    assert result.ok, result


def test_https_against_a_server_that_speaks_none_fails_in_time(context: Context) -> None:
    with server("garbage") as port:
        result = look(context, 5, http=f"https://127.0.0.1:{port}/")
    assert not result.ok
    assert f"127.0.0.1:{port}" in result.message


def test_a_command_is_judged_by_its_status_and_explained_by_its_last_line(context: Context) -> None:
    assert look(context, command=["sh", "-c", "echo first; echo all fine; echo"]).message == "all fine"
    failed = look(context, command=["sh", "-c", "echo disk full >&2; exit 3"])
    assert (failed.ok, failed.message) == (False, "disk full (exited with code 3)")
    assert "No such file" in look(context, command=["no-such-program"]).message


def test_a_command_runs_in_the_folder_and_environment_of_the_target(context: Context) -> None:
    context.env = {"PATH": os.environ["PATH"], "MINE": "yes"}
    assert look(context, command=["sh", "-c", 'echo "$MINE $PWD"']).message == f"yes {context.cwd}"


def test_a_command_that_hangs_is_ended_with_all_it_started(context: Context) -> None:
    mark = f"probe-{os.getpid()}-{time.monotonic_ns()}"
    script = "setsid sleep 300 & (setsid sh -c 'trap \"\" TERM; sleep 301; true' &) ; echo waiting; sleep 302"
    context.env["HUNG_PROBE"] = mark
    result = look(context, 0.5, command=["sh", "-c", script])
    assert not result.ok
    assert result.message == 'sh has not ended (it said "waiting") within 0.5s'
    procs.wait_until(lambda: procs.marked("HUNG_PROBE", mark) == [], 5)


def test_what_a_command_leaves_behind_is_ended(context: Context) -> None:
    mark = f"left-{os.getpid()}-{time.monotonic_ns()}"
    context.env["LEFT_PROBE"] = mark
    assert look(context, command=["sh", "-c", "sleep 300 & exit 0"]).ok
    procs.wait_until(lambda: procs.marked("LEFT_PROBE", mark) == [], 5)


def test_a_command_that_floods_is_cut_off_at_its_timeout(context: Context) -> None:
    result = look(context, 0.5, command=["yes", "flood"])
    assert not result.ok
    assert result.seconds < 6


def test_a_heartbeat_must_be_of_this_run_recent_and_not_in_the_future(context: Context, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    assert "No such file" in look(context, heartbeat=str(beat)).message
    beat.touch()
    assert look(context, heartbeat=str(beat)).ok
    for seconds, words in ((-3600, "from an earlier run"), (3600, "in the future")):
        context.beats.clear()
        at = time.time() + seconds
        os.utime(beat, (at, at))
        result = look(context, heartbeat=str(beat))
        assert not result.ok
        assert words in result.message


class Clock:
    """Wall and monotonic time that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.offset = 1000.0, 1_700_000_000.0
        monkeypatch.setattr(probes, "monotonic", lambda: self.now)
        monkeypatch.setattr(probes, "wall", lambda: self.now + self.offset)

    def touch(self, file: Path) -> None:
        os.utime(file, (self.now + self.offset,) * 2)


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_stepped_clock_neither_kills_nor_revives_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: float
) -> None:
    clock, beat = Clock(monkeypatch), tmp_path / "beat"
    context = Context("/", {}, probes.wall())
    beat.touch()

    def good() -> bool:
        return probes.look_at_heartbeat(str(beat), 30, context)[0]

    clock.now += 5
    clock.touch(beat)
    assert good()
    clock.offset += step
    clock.now += 10
    assert good(), "its time is by the old clock, its age is 10 s"
    clock.now += 10
    clock.touch(beat)
    assert good()
    clock.now += 31
    assert not good(), "31 s without a touch, whatever the clock says"


def test_the_first_look_after_a_step_back_knows_this_runs_beat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, beat = Clock(monkeypatch), tmp_path / "beat"
    context = Context("/", {}, probes.wall())
    beat.touch()
    clock.offset -= 3600
    clock.now += 2
    clock.touch(beat)
    assert probes.look_at_heartbeat(str(beat), 30, context)[0]


def test_a_log_pattern_is_found_in_this_runs_output_only(context: Context, tmp_path: Path) -> None:
    log = Path(context.log)
    log.write_text("ready (of yesterday)\n")
    log.chmod(0o600)
    context.log_offset = log.stat().st_size
    assert not look(context, log="^ready").ok
    with log.open("a") as file:
        file.write("almost\nready now\n")
    assert look(context, log="^ready").message == "ready now"


def test_a_check_in_a_loop_never_raises_and_blocks_nowhere(context: Context) -> None:
    began = time.monotonic()
    check = Check(model.Probe(http="http://192.0.2.1:9/", timeout=60), context)  # nobody answers there (RFC 5737)
    assert time.monotonic() - began < 1
    check.close()
    assert check.readers() == {}
    check.close()
