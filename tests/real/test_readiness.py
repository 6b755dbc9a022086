"""Readiness: what ``start`` waits for, what it says when that does not come, and whose word counts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import Home, Safe

TARGET = Path(__file__).resolve().parents[1] / "helpers" / "probe_target.py"


def config(home: Home, ready: str, *steps: str, more: str = "") -> None:
    command = [sys.executable, "-u", str(TARGET), *steps]
    home.write_config(f"[targets.t]\ncommand = {json.dumps(command)}\nready = {{ {ready} }}\n"
                      f'stop = {{ grace = "3s" }}\n{more}')  # fmt: skip


def record(home: Home) -> dict[str, Any]:
    return json.loads(home.state_file("t.json").read_text())  # type: ignore[no-any-return]


def events(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.state_file("events.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def assert_nobody_left(home: Home) -> None:
    mark = str(home.state / home.project.name / "t")
    procs.wait_until(lambda: procs.marked("SAFESH_INSTANCE", mark) == [], 5)


@pytest.mark.parametrize("kind", ["tcp", "http", "command", "heartbeat", "log", "notify"])
def test_a_detached_start_returns_once_each_kind_of_probe_succeeds(home: Home, safe: Safe, kind: str) -> None:
    port, flag = free_port(), home.project / "flag"
    server = TARGET.with_name("probe_server.py")
    ready, step = {
        "tcp": (f"tcp = {port}", f"listen:{port}"),
        "http": (f'http = "http://127.0.0.1:{port}/", status = "200", body = "well"', ""),
        "command": ('command = "test -e flag"', f"file:{flag}"),
        "heartbeat": ('heartbeat = "flag"', f"file:{flag}"),
        "log": ('log = "^now serv.ng"', "say:now serving"),
        "notify": ("notify = true", "notify:READY=1|STATUS=up and away"),
    }[kind]
    config(home, f'{ready}, interval = "0.1s"', "say:begun", "wait:0.6", *([step] if step else []))
    if kind == "http":
        command = json.dumps([sys.executable, "-u", str(server), "late:0.6", str(port)])
        home.write_config(f'[targets.t]\ncommand = {command}\nready = {{ {ready}, interval = "0.1s" }}\n')
    with safe.started("t") as result:
        assert "t is ready (pid" in result.out
        assert record(home)["state"] == "running"
        ready_event = next(one for one in events(home) if one["event"] == "ready")
        assert ready_event["seconds"] >= 0.5, "it was started before"
    assert_nobody_left(home)


def test_while_it_starts_status_says_starting_and_why(home: Home, safe: Safe) -> None:
    go = home.project / "go"
    config(home, 'command = "sh -c \'echo no database; exit 1\'", interval = "0.1s"', f"wait-file:{go}")
    with safe.spawn("start", "--detach", "t") as start:
        procs.wait_until(lambda: "no database" in safe("status", "t").out, 10)
        shown = safe("status", "--json", "t").json()["instances"][0]
        assert shown["state"] == "starting"
        assert start.returncode is None
        safe("stop", "--force", "t").check()
        assert start.wait(10) != 0
    assert_nobody_left(home)


def test_a_target_that_is_never_ready_fails_with_the_reason_and_its_last_lines(home: Home, safe: Safe) -> None:
    lines = [f"say:line {number}" for number in range(1, 8)]
    config(home, 'tcp = 1, interval = "0.1s", within = "1s"', *lines)
    result = safe("start", "--detach", "t").check(1)
    assert "t: not ready within 1.0s: 127.0.0.1:1: Connection refused" in result.err
    assert re.findall(r"\| (line \d)", result.err) == [f"line {number}" for number in range(3, 8)]
    assert record(home)["state"] == "failed"
    assert_nobody_left(home)


def test_a_target_that_exits_while_it_starts_fails_at_once_with_its_own_words(home: Home, safe: Safe) -> None:
    config(home, 'tcp = 1, within = "60s"', "say:yesterday", "exit:0")
    safe("start", "--detach", "t")
    config(home, 'tcp = 1, within = "60s"', "say:cannot open the arm", "exit:4")
    began = time.monotonic()
    result = safe("start", "--detach", "t").check(4)
    assert time.monotonic() - began < 10
    assert "exited with code 4 before it was ready" in result.err
    assert "| cannot open the arm" in result.err
    assert "yesterday" not in result.err, "that was another run's"


def test_an_exit_with_0_before_readiness_is_no_success(home: Home, safe: Safe) -> None:
    config(home, "tcp = 1", "exit:0")
    assert "exited 0 before it was ready" in safe("start", "--detach", "t").check(1).err


def test_with_a_restart_policy_the_start_tells_of_the_first_failure_and_the_target_is_tried_again(
    home: Home, safe: Safe
) -> None:
    config(home, 'log = "serving"', f"file:{home.project}/seen", "exit:3",
           more='restart = "always"\nbackoff = { initial = "0.1s" }\n')  # fmt: skip
    try:
        result = safe("start", "--detach", "t").check(3)
        assert "it starts again in" in result.err
        (home.project / "seen").unlink()
        procs.wait_until((home.project / "seen").exists, 10)
    finally:
        safe("stop", "--force", "--now", "t")


def test_a_target_that_ends_between_its_readiness_and_the_return_of_start_is_not_called_ready(
    home: Home, safe: Safe
) -> None:
    go = home.project / "go"
    config(home, "notify = true", "say:here I go", f"wait-file:{go}", "notify:READY=1", "wait:0.3", "exit:7")
    with safe.spawn("start", "--detach", "t") as start:
        procs.wait_until(lambda: home.state_file("t.json").exists() and record(home)["main"], 10)
        start.send(signal.SIGSTOP)  # it reads its answer only once the target has gone
        go.touch()
        procs.wait_until(lambda: record(home)["last_exit"], 10)
        start.send(signal.SIGCONT)
        assert start.wait(10) == 1
        assert "was ready, and has ended since: exited with code 7" in start.err
        assert "| here I go" in start.err
        assert "ready" in [one["event"] for one in events(home)]


def test_a_foreground_start_says_when_it_is_ready(home: Home, safe: Safe) -> None:
    config(home, 'log = "serving"', "wait:0.3", "say:serving")
    with safe.spawn("start", "t") as child:
        child.wait_line(r"t starts \(pid \d+\)", stream="err")
        child.wait_line(r"t is ready \(pid \d+\)", stream="err")
        child.send(signal.SIGTERM)
        child.wait(10)


def test_a_stop_while_a_command_probe_hangs_ends_promptly_and_leaves_no_probe(home: Home, safe: Safe) -> None:
    hung = home.project / "hung"
    probe = f"sh -c 'touch {hung}; setsid sleep 300 & sleep 301'"
    config(home, f'command = "{probe}", timeout = "60s"', "say:x")
    with safe.spawn("start", "--detach", "t") as start:
        procs.wait_until(hung.exists, 10)
        began = time.monotonic()
        safe("stop", "--force", "t").check()
        assert time.monotonic() - began < 3
        assert start.wait(10) != 0
    assert_nobody_left(home)


def test_a_hung_probe_is_ended_at_its_timeout_and_tried_again(home: Home, safe: Safe) -> None:
    go = home.project / "go"
    config(home, f'command = "sh -c \'test -e {go} || sleep 300\'", timeout = "0.3s", interval = "0.1s"', "say:x")
    with safe.spawn("start", "--detach", "t") as start:
        procs.wait_until(lambda: "sh has not ended within 0.3s" in safe("status", "t").out, 10)
        go.touch()
        assert start.wait(10) == 0
    safe("stop", "--force", "--now", "t")
    assert_nobody_left(home)


def test_a_heartbeat_of_an_earlier_run_is_none_of_this_one(home: Home, safe: Safe) -> None:
    (home.project / "beat").touch()
    old = time.time() - 5
    os.utime(home.project / "beat", (old, old))
    config(home, 'heartbeat = "beat", within = "1s", interval = "0.1s"', "say:x")
    assert "from an earlier run" in safe("start", "--detach", "t").check(1).err


def test_a_pattern_is_found_across_a_rotation(home: Home, safe: Safe) -> None:
    lines = ["say:" + "x" * 400] * 20
    config(home, 'log = "^now serving$"', *lines, "say:now serving", *lines, more="log = { size = 1000, keep = 50 }\n")
    with safe.started("t") as result:
        assert "t is ready" in result.out


def test_a_line_of_an_earlier_run_is_no_readiness(home: Home, safe: Safe) -> None:
    config(home, 'log = "serving"', "say:serving")
    with safe.started("t"):
        pass
    config(home, 'log = "serving", within = "0.7s"', "say:quiet")
    assert "no line of its output has matched 'serving' yet" in safe("start", "--detach", "t").check(1).err


# --- sd_notify ----------------------------------------------------------------------------------


def test_ready_from_a_grandchild_in_a_session_of_its_own_counts(home: Home, safe: Safe) -> None:
    config(home, "notify = true", "fork-notify:READY=1")
    with safe.started("t") as result:
        assert "t is ready" in result.out
    assert_nobody_left(home)


def test_ready_from_a_foreign_process_is_ignored_and_told(home: Home, safe: Safe) -> None:
    where = home.project / "where"
    script = f"import os; open({str(where)!r}, 'w').write(os.environ['NOTIFY_SOCKET'])"
    home.write_config(f"""[targets.t]
command = {json.dumps(["sh", "-c", f'{sys.executable} -c "{script}"; exec sleep 300'])}
ready = {{ notify = true, within = "20s" }}
""")
    with safe.spawn("start", "--detach", "t") as start:
        name = procs.wait_until(lambda: where.exists() and where.read_text(), 10)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(b"READY=1", "\0" + name[1:] if name.startswith("@") else name)
        ignored = procs.wait_until(
            lambda: [one for one in events(home) if one["event"] == "notify_ignored"], 10, "the event"
        )
        assert ignored[0]["pid"] == os.getpid()
        assert ignored[0]["text"] == "READY=1"
        assert start.returncode is None
        assert record(home)["state"] == "starting"
        safe("stop", "--force", "--now", "t")
        start.wait(10)


def test_status_main_pid_and_stopping_are_noted(home: Home, safe: Safe) -> None:
    config(home, "notify = true", "notify:STATUS=warming up", "notify:READY=1|MAINPID=1", "notify:STOPPING=1",
           "say:done")  # fmt: skip
    with safe.started("t"):
        procs.wait_until(lambda: "stopping" in [one["event"] for one in events(home)], 10)
        assert 'it says "warming up"' in safe("status", "t").out
        assert any(one["event"] == "notify_ignored" and "MAINPID=1" in one["text"] for one in events(home))


def test_descriptors_that_come_along_are_closed(home: Home, safe: Safe) -> None:
    config(home, 'log = "descriptors closed"', "fds:STATUS=with things", more="health = { notify = true }\n")
    with safe.started("t") as result:
        assert "t is ready" in result.out


def test_a_target_may_ask_for_more_time(home: Home, safe: Safe) -> None:
    config(home, 'notify = true, within = "0.7s"', "notify:EXTEND_TIMEOUT_USEC=20000000", "wait:1.2", "notify:READY=1")
    with safe.started("t") as result:
        assert "t is ready" in result.out


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_port_that_somebody_else_serves_is_no_sign_of_life(home: Home, safe: Safe, kind: str) -> None:
    serve = (
        "import http.server as s, sys; h = s.HTTPServer(('127.0.0.1', int(sys.argv[1])), s.SimpleHTTPRequestHandler)"
    )
    with procs.spawn(sys.executable, "-u", "-c", serve + "; print(h.server_port); h.serve_forever()", "0") as other:
        port = other.wait_line(r"\d+").group(0)
        probe = f'tcp = "127.0.0.1:{port}"' if kind == "tcp" else f'http = "http://localhost:{port}/"'
        home.write_config(
            f'[targets.t]\ncommand = "sleep 60"\nready = {{ {probe}, within = "1s" }}\nstop = {{ grace = "1s" }}\n'
        )
        refused = safe("start", "t", "--detach")
        assert refused.rc != 0, refused
        assert f"port {port} is taken by pid {other.pid}" in refused.err
    # And a child of the target that listens is the run's.
    code = serve + "; h.serve_forever()"
    (home.project / "serve.py").write_text(code)
    home.write_config(
        f'[targets.t]\nshell = true\ncommand = "{sys.executable} serve.py {port} & wait"\n'
        f'ready = {{ {probe}, within = "20s" }}\nstop = {{ grace = "1s" }}\n'
    )
    with safe.started("t"):
        pass
