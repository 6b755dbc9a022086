"""Hooks on a real supervisor: what they are told, and that nothing they do delays, fills or outlives anything."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import Home, Safe

# A hook that keeps each letter in a line of its own, and the names it was given in the environment.
ROLES = ("keeper", "supervisor")
KEEP = """#!/bin/sh
env | grep -E '^(SAFESH_|MINE=)' | sort > "$HOME/env.$SAFESH_EVENT"
pwd > "$HOME/cwd"
{ cat | tr -d '\\n'; echo; } >> "$HOME/letters"
"""


@pytest.fixture
def hook(home: Home) -> Callable[[str, str], str]:
    """``hook(name, script)`` writes an executable; its path."""

    def write(name: str, script: str) -> str:
        path = home.path / name
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def keep(hook: Callable[[str, str], str]) -> str:
    return hook("keep", KEEP)


@pytest.fixture(autouse=True)
def couriers_end(home: Home) -> Iterator[None]:
    """Couriers outlive their supervisor on purpose; a test waits for the last of them."""
    before = {(one.pid, one.start) for one in couriers()}
    yield
    procs.wait_until(lambda: not [one for one in couriers() if (one.pid, one.start) not in before], 40)


def couriers() -> list[procs.Process]:
    """Those of this test run: it marks everything it starts."""
    marked = procs.marked("SAFESH_TEST_SESSION", os.environ["SAFESH_TEST_SESSION"])
    return [one for one in marked if any(word.endswith("courier.py") for word in procs.argv(one.pid))]


def config(home: Home, notify: str, command: str = '["sleep", "600"]', more: str = "") -> None:
    home.write_config(f"[targets.t]\ncommand = {command}\nstop = {{ grace = '1s' }}\n{more}\nnotify = {notify}\n")


def letters(home: Home) -> list[dict[str, Any]]:
    try:
        text = (home.path / "letters").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def told(home: Home) -> list[str]:
    return [one["event"] for one in letters(home)]


def events(home: Home, name: str) -> list[dict[str, Any]]:
    lines = home.state_file("events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def failures(home: Home) -> list[dict[str, Any]]:
    return events(home, "hook_failed")


# --- what is told


def test_a_life_is_told_in_order_with_the_events_fields(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"] }}]', more='env = { MINE = "yes" }')
    safe("start", "--detach", "t").check()
    pid = procs.wait_until(lambda: json.loads(home.state_file("t.json").read_text())["main"])["pid"]
    procs.wait_until(lambda: told(home) == ["started", "ready"])
    safe("stop", "--force", "t").check()
    procs.wait_until(lambda: told(home) == ["started", "ready", "stopped"])
    first, _second, last = letters(home)
    assert list(first) == [
        "v", "event", "message", "at", "host", "project", "instance", "target", "run_id", "state", "pid", "restarts",
        "exit", "repeated", "dropped",
    ]  # fmt: skip
    assert (first["v"], first["project"], first["instance"], first["target"]) == (1, home.project.name, "t", "t")
    assert (first["restarts"], first["exit"], first["repeated"], first["dropped"]) == (0, None, 0, 0)
    assert letters(home)[1]["pid"] == pid
    assert abs(first["at"] - time.time()) < 60
    assert (last["message"], last["state"], last["exit"]["signal"]) == ("stopped by request", "finished", "SIGTERM")
    assert last["run_id"] == first["run_id"]
    env = dict(line.partition("=")[::2] for line in (home.path / "env.stopped").read_text().splitlines())
    assert env["SAFESH_EVENT"] == "stopped"
    assert env["SAFESH_MESSAGE"] == "stopped by request"
    assert env["SAFESH_TARGET"] == env["SAFESH_EVENT_INSTANCE"] == "t"
    assert env["SAFESH_EVENT_RUN_ID"] == last["run_id"]
    assert env["MINE"] == "yes"
    assert not {"SAFESH_RUN_ID", "SAFESH_INSTANCE"} & env.keys(), "it would be taken for a stray"
    assert (home.path / "cwd").read_text().strip() == str(home.project)


def test_on_chooses_the_events(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"], on = ["stopped"] }}]')
    with safe.started("t"):
        pass
    procs.wait_until(lambda: told(home) == ["stopped"])


def test_a_target_that_cannot_be_executed_is_told_as_failed(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"] }}]', command='["/no/such/program"]')
    safe("start", "--detach", "t").check(127)
    procs.wait_until(lambda: told(home) == ["failed"])
    assert "/no/such/program" in letters(home)[0]["message"]


def test_a_crash_loop_is_told_once_each_and_then_its_failure(home: Home, safe: Safe, keep: str) -> None:
    more = """restart = "always"
backoff = { initial = "10ms", max = "10ms" }
start_limit = { count = 8, window = "60s" }"""
    config(home, f'[{{ command = ["{keep}"] }}]', command='["sh", "-c", "exit 7"]', more=more)
    safe("start", "t").check(7)
    procs.wait_until(lambda: told(home)[-1:] == ["failed"])
    found = told(home)
    assert (found.count("started"), found.count("ready"), found.count("restarted"), len(found)) == (1, 1, 1, 4), found
    assert "start limit reached" in letters(home)[-1]["message"]
    assert "exited with code 7" in next(one["message"] for one in letters(home) if one["event"] == "restarted")
    assert len(events(home, "started")) == 8


def test_what_was_held_back_is_told_at_the_windows_end_with_its_count(home: Home, safe: Safe, keep: str) -> None:
    more = """restart = "always"
backoff = { initial = "10ms", max = "10ms" }
start_limit = { count = 0 }"""
    flag = home.path / "flag"
    command = f'["sh", "-c", "echo x >> {flag}; test $(wc -l < {flag}) -ge 6 && exec sleep 600; exit 7"]'
    config(home, f'[{{ command = ["{keep}"], on = ["restarted"], every = "3s" }}]', command=command, more=more)
    with safe.started("t"):
        procs.wait_until(lambda: len(letters(home)) == 2, 20)
        first, second = letters(home)
        assert (first["repeated"], second["repeated"]) == (0, 3)  # of five restarts one is told, one ends the window
        assert second["restarts"] == 5


def test_health_is_told_once_each_way(home: Home, safe: Safe, keep: str) -> None:
    sick = home.path / "sick"
    more = f"""[targets.t.health]
command = ["test", "!", "-e", "{sick}"]
interval = "100ms"
retries = 2
on_unhealthy = "notify"
[[targets.t.notify]]
command = ["{keep}"]
on = ["unhealthy", "recovered"]"""
    home.write_config(f"[targets.t]\ncommand = ['sleep', '600']\n{more}\n")
    with safe.started("t"):
        sick.touch()
        procs.wait_until(lambda: told(home) == ["unhealthy"], 20)
        sick.unlink()
        procs.wait_until(lambda: told(home) == ["unhealthy", "recovered"], 20)
        assert letters(home)[0]["state"] == "unhealthy"
        assert letters(home)[1]["state"] == "running"


def test_a_limit_is_told_with_what_was_used_and_the_failure_after_it(home: Home, safe: Safe, keep: str) -> None:
    more = 'limits = { max_runtime = { most = "500ms", action = "stop" }, interval = "100ms" }'
    config(home, f'[{{ command = ["{keep}"], on = ["limit", "failed"] }}]', more=more)
    safe("start", "--detach", "t").check()
    procs.wait_until(lambda: told(home) == ["limit", "failed"], 20)
    assert "runtime" in letters(home)[0]["message"]
    assert letters(home)[1]["message"] == letters(home)[0]["message"]


def test_strays_are_told_by_the_start_that_they_keep_from_starting(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"], on = ["strays"] }}]')
    safe("start", "--detach", "t").check()
    try:
        record = json.loads(home.state_file("t.json").read_text())
        for role in ROLES:  # stopped first: neither may see the other one's end
            procs.send(record[role]["pid"], record[role]["start"], signal.SIGSTOP)
        for role in ROLES:
            procs.send(record[role]["pid"], record[role]["start"], signal.SIGKILL)
        procs.wait_until(lambda: not any(procs.alive(record[role]["pid"], record[role]["start"]) for role in ROLES))
        for _ in range(2):  # the second one within ``every``
            safe("start", "--detach", "t").check(75)
        procs.wait_until(lambda: told(home) == ["strays"])
        assert f"pid {record['main']['pid']}" in letters(home)[0]["message"]
        assert [one["told"] for one in events(home, "strays")] == [[0], []]
        procs.wait_until(lambda: not couriers())
        assert told(home) == ["strays"]
    finally:
        safe("stop", "--force", "--now", "t").check()


def test_the_end_of_a_supervisor_is_told_by_its_keeper(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"], on = ["failed"] }}]')
    with safe.started("t"):
        record = json.loads(home.state_file("t.json").read_text())
        procs.send(record["supervisor"]["pid"], record["supervisor"]["start"], signal.SIGKILL)
        procs.wait_until(lambda: told(home) == ["failed"])
        assert "supervisor vanished" in letters(home)[0]["message"]


def test_the_end_of_a_keeper_is_told(home: Home, safe: Safe, keep: str) -> None:
    config(home, f'[{{ command = ["{keep}"], on = ["strays", "failed"] }}]')
    with safe.started("t"):
        record = json.loads(home.state_file("t.json").read_text())
        procs.send(record["keeper"]["pid"], record["keeper"]["start"], signal.SIGKILL)
        procs.wait_until(lambda: sorted(told(home)) == ["failed", "strays"])


def test_a_restart_with_another_spec_takes_its_hooks(home: Home, safe: Safe, keep: str) -> None:
    config(home, "[]")
    with safe.started("t"):
        config(home, f'[{{ command = ["{keep}"] }}]')
        safe("restart", "--force", "t").check()
        procs.wait_until(lambda: told(home) == ["restarted", "ready"])
        assert letters(home)[0]["message"] == "restart requested"


# --- hooks that misbehave


@pytest.mark.parametrize(
    ("command", "reason"), [("/no/such/hook", "No such file"), ("plain", "Permission denied")], ids=["missing", "mode"]
)
def test_a_hook_that_cannot_be_executed_is_reported_once(home: Home, safe: Safe, command: str, reason: str) -> None:
    if command == "plain":
        command = str(home.path / "plain")
        Path(command).write_text("#!/bin/sh\n")
    config(home, f'[{{ command = ["{command}"], retries = 5 }}]')
    with safe.started("t"):
        # "ready" waits until "started" has failed, and is quiet then.
        procs.wait_until(lambda: failures(home) and not couriers())
    procs.wait_until(lambda: not couriers())
    (failure,) = failures(home)
    assert reason in failure["reason"]
    assert command in failure["reason"]
    assert (failure["hook"], failure["attempts"], failure["told"]) == ("notify[0].command", 1, "started")


def test_a_hook_that_fails_and_then_succeeds_is_tried_again(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("flaky", f'#!/bin/sh\necho x >> "$HOME/tries"\ntest $(wc -l < "$HOME/tries") -ge 3 || exit 4\n{KEEP}')
    config(home, f'[{{ command = ["{script}"], on = ["started"], retries = 2 }}]')
    with safe.started("t"):
        began = time.monotonic()
        procs.wait_until(lambda: told(home) == ["started"], 20)
        assert time.monotonic() - began > 1.5, "between the tries 1 and 2 seconds pass"
    assert failures(home) == []


def test_a_failing_hook_is_reported_with_its_last_line_and_no_more_tries_than_asked(
    home: Home, safe: Safe, hook: Any
) -> None:
    script = hook("bad", '#!/bin/sh\necho x >> "$HOME/tries"\necho first; echo "no such\troom" >&2; exit 4\n')
    config(home, f'[{{ command = ["{script}"], on = ["started"], retries = 1 }}]')
    with safe.started("t"):
        procs.wait_until(lambda: failures(home), 20)
    (failure,) = failures(home)
    assert (failure["reason"], failure["attempts"]) == ("exited with code 4: no such room", 2)
    assert (home.path / "tries").read_text() == "x\nx\n"


def test_a_hook_that_is_killed_is_reported(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("killed", "#!/bin/sh\nkill -KILL $$\n")
    config(home, f'[{{ command = ["{script}"], on = ["started"], retries = 0 }}]')
    with safe.started("t"):
        procs.wait_until(lambda: failures(home), 20)
    assert failures(home)[0]["reason"] == "killed by SIGKILL"


def test_a_hook_that_writes_100_megabytes_blocks_and_fills_nothing(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("loud", '#!/bin/sh\nhead -c 100000000 /dev/zero | tr "\\0" x\necho; echo the end; exit 1\n')
    config(home, f'[{{ command = ["{script}"], on = ["started"], retries = 0, timeout = "60s" }}]')
    with safe.started("t"):
        procs.wait_until(lambda: failures(home), 60)
        size = sum(file.stat().st_size for file in home.state_file("t.log").parent.iterdir())
        assert size < 100_000
    assert failures(home)[0]["reason"] == "exited with code 1: the end"


def test_a_hook_that_reads_nothing_is_no_failure(home: Home, safe: Safe) -> None:
    config(home, '[{ command = ["true"], every = 0 }]')
    with safe.started("t"):
        procs.wait_until(lambda: events(home, "started") and not couriers())
    procs.wait_until(lambda: not couriers())
    assert failures(home) == []


HANG = """#!/bin/sh
trap '' TERM INT HUP
setsid sh -c 'echo $$ >> "$HOME/pids"; exec sleep 600' &
echo $$ >> "$HOME/pids"
while :; do sleep 600; done
"""


def pids(home: Home) -> list[tuple[int, int]]:
    """(pid, start) of what HANG started and still lives."""
    try:
        words = (home.path / "pids").read_text().split()
    except FileNotFoundError:
        return []
    return [(one.pid, one.start) for word in words if (one := procs.look(int(word))) is not None and not one.dead]


def test_a_hanging_hook_and_all_it_started_are_killed_at_the_deadline(home: Home, safe: Safe, hook: Any) -> None:
    config(home, f'[{{ command = ["{hook("hang", HANG)}"], on = ["started"], retries = 0, timeout = "2s" }}]')
    with safe.started("t"):
        procs.wait_until(lambda: len(pids(home)) == 2)
        procs.wait_until(lambda: failures(home), 20)
        procs.wait_until(lambda: pids(home) == [])
        assert failures(home)[0]["reason"] == "did not end in 2.0s and was killed"
        assert safe("status", "t").rc == 0


def test_what_a_good_hook_leaves_running_ends_at_its_deadline(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("daemon", HANG.replace("while :; do sleep 600; done\n", ""))
    config(home, f'[{{ command = ["{script}"], on = ["started"], timeout = "2s" }}]')
    with safe.started("t"):
        procs.wait_until(lambda: pids(home))
        procs.wait_until(lambda: pids(home) == [] and not couriers(), 20)
    assert failures(home) == []


def test_a_stop_does_not_wait_for_a_hanging_hook_and_the_last_event_outlives_the_supervisor(
    home: Home, safe: Safe, hook: Any
) -> None:
    script = hook("hang", 'echo "$SAFESH_EVENT" >> "$HOME/asked"\n'.join(["#!/bin/sh\n", HANG]))
    config(home, f'[{{ command = ["{script}"], on = ["stopped", "started"], retries = 0, timeout = "6s" }}]')
    safe("start", "--detach", "t").check()
    try:
        procs.wait_until(lambda: len(pids(home)) == 2)
        supervisor = json.loads(home.state_file("t.json").read_text())["supervisor"]
    finally:
        began = time.monotonic()
        safe("stop", "--force", "t").check()
    assert time.monotonic() - began < 5, "a stop takes as long as the tree takes, and this one does not resist"
    procs.wait_until(lambda: not procs.alive(supervisor["pid"], supervisor["start"]), 3)
    # Both couriers go on without it, and neither is a stray, holds the lock or keeps a new start from starting.
    assert couriers()
    procs.wait_until(lambda: "stopped" in (home.path / "asked").read_text(), 20)
    status = safe("status", "t", "--json")
    assert status.rc == 3, status
    (seen,) = status.json()["instances"]
    assert seen["strays"] == []
    config(home, f'[{{ command = ["{script}"], on = ["stopped", "started"], retries = 0, timeout = "1s" }}]')
    with safe.started("t"):
        pass
    procs.wait_until(lambda: not couriers() and not pids(home), 40)
    assert len(failures(home)) == 4


def test_a_courier_that_is_killed_takes_its_hook_along(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("hang", "#!/bin/sh\necho $$ >> $HOME/pids\nexec sleep 600\n")
    config(home, f'[{{ command = ["{script}"], on = ["started"], timeout = "60s" }}]')
    with safe.started("t"):
        procs.wait_until(lambda: pids(home))
        (courier,) = couriers()
        procs.send(courier.pid, courier.start, signal.SIGKILL)
        procs.wait_until(lambda: pids(home) == [])
        assert safe("status", "t").rc == 0


def test_at_most_four_couriers_are_on_their_way_and_the_loop_stays_awake(home: Home, safe: Safe, hook: Any) -> None:
    script = hook("hang", HANG)
    one = f'{{ command = ["{script}"], retries = 0, timeout = "3s", on = ["started"] }}'
    config(home, "[" + ", ".join([one] * 6) + "]")
    with safe.started("t"):
        procs.wait_until(lambda: len(couriers()) == 4)
        began = time.monotonic()
        assert safe("status", "t").rc == 0
        assert time.monotonic() - began < 3
        most = 0

        def all_reported() -> bool:
            nonlocal most
            most = max(most, len(couriers()))
            return len(failures(home)) == 6

        procs.wait_until(all_reported, 40)
        assert most == 4
    procs.wait_until(lambda: pids(home) == [])


# --- apprise

needs_apprise = pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is not installed")


class Server(http.server.HTTPServer):
    """Keeps what is posted; answers with ``status``."""

    status = 200

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@needs_apprise
def test_an_apprise_url_gets_the_event_and_is_shown_nowhere(home: Home, safe: Safe, server: Server) -> None:
    url = f"json://user:opensesame@127.0.0.1:{server.server_port}"
    config(home, f'[{{ urls = ["{url}"], on = ["failed"], timeout = "30s" }}]', command='["sh", "-c", "exit 7"]')
    with safe.spawn("start", "t") as child:
        assert child.wait(20) == 7
    shown = ""

    def posted() -> bool:
        nonlocal shown
        for one in couriers():
            for member in procs.tree_of(one.pid):
                shown += f"{member.command} {procs.environ(member.pid)}"
        return bool(server.posts)

    procs.wait_until(posted, 40)
    assert "courier.py" in shown
    assert "opensesame" not in shown
    (post,) = server.posts
    assert post["title"] == f"{home.project.name}/t: failed"
    assert "exited with code 7" in post["message"]
    assert post["type"] == "failure"
    procs.wait_until(lambda: not couriers(), 20)
    assert failures(home) == []


@needs_apprise
def test_an_apprise_url_that_fails_is_reported_without_its_secret(home: Home, safe: Safe, server: Server) -> None:
    server.status = 500
    url = f"json://user:opensesame@127.0.0.1:{server.server_port}"
    hook = f'{{ urls = ["{url}", "nosuch://opensesame"], on = ["failed"], timeout = "30s", retries = 1 }}'
    config(home, f"[{hook}]", command='["false"]')
    safe("start", "t").check(1)
    procs.wait_until(lambda: len(failures(home)) == 2, 60)
    reasons = {one["hook"]: (one["attempts"], one["reason"]) for one in failures(home)}
    assert reasons["notify[0].urls[0]"][0] == 2
    assert "could not deliver" in reasons["notify[0].urls[0]"][1]
    assert reasons["notify[0].urls[1]"][0] == 1, "to try again would not help"
    assert "does not know this service" in reasons["notify[0].urls[1]"][1]
    assert "opensesame" not in home.state_file("events.jsonl").read_text()
    assert len(server.posts) == 2


def test_without_the_notify_extra_the_reason_says_what_to_install(tmp_path: Path) -> None:
    import subprocess
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    sender = Path(__file__).resolve().parents[2] / "supervisor" / "safesh" / "supervise" / "apprise_send.py"
    message = json.dumps({"url": "json://user:opensesame@127.0.0.1:1", "title": "t", "body": "b", "type": "info"})
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", "-E", "-s", "-S", sender],
        input=message, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert done.stdout.count("\n") == 1
    assert "pip install 'safesh[notify]'" in done.stdout
    assert "opensesame" not in done.stdout + done.stderr
