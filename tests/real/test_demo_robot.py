"""The demo robot does what it promises, its misbehaviour included; on real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.home import ROBOT, ROOT
from helpers.procs import Spawn, alive, spawn, wait_until

PYTHON = (sys.executable, "-E", "-s")


def robot(*options: str, **how: Any) -> Spawn:
    return spawn(*PYTHON, str(ROBOT), *options, **how)


def ready(child: Spawn) -> str:
    """Wait for the ready line; the health endpoint's address, "" without one."""
    line = child.wait_line(r"^robot ready: pid (\d+)")
    assert int(line.group(1)) == child.pid
    found = re.search(r"http://\S+", line.string)
    return found.group() if found else ""


def ask(url: str, timeout: float = 5, method: str = "GET") -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def workers(child: Spawn) -> dict[str, procs.Process]:
    """The robot's worker children by name."""
    found = {}
    for one in procs.tree_of(child.pid)[1:]:
        words = procs.argv(one.pid)
        if "--worker" in words:
            found[words[-1]] = one
    return found


# --- well-behaved -----------------------------------------------------------------------------


def test_the_robot_has_two_worker_children() -> None:
    with robot() as child:
        ready(child)
        wait_until(lambda: set(workers(child)) == {"vision", "planner"})


def test_health_answers_on_loopback_with_json() -> None:
    with robot("--port", "0", "--rate", "50") as child:
        url = ready(child)
        assert url.startswith("http://127.0.0.1:")
        code, body = ask(url)
        assert code == 200
        assert body["status"] == "ok"
        assert body["pid"] == child.pid
        assert set(body["workers"]) == {"vision", "planner"}
        assert wait_until(lambda: ask(url)[1]["ticks"] > body["ticks"])


def test_other_paths_and_methods_are_refused() -> None:
    with robot("--port", "0") as child:
        url = ready(child)
        assert ask(url.replace("/health", "/secret"))[0] == 404
        assert ask(url, method="DELETE")[0] == 405
        assert ask(url, method="HEAD") == (200, None)


def test_a_client_that_says_nothing_does_not_stop_the_robot() -> None:
    with robot("--port", "0") as child:
        url = ready(child)
        port = int(re.findall(r":(\d+)", url)[0])
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(b"GET /heal")
            assert ask(url)[0] == 200


def test_a_taken_port_is_told_and_ends_the_robot() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, robot("--port", str(taken.getsockname()[1])) as child:
        assert child.wait() == 1
        assert "Address already in use; use --port 0" in child.out


def test_a_lost_worker_degrades_health() -> None:
    with robot("--port", "0") as child:
        url = ready(child)
        vision = wait_until(lambda: workers(child).get("vision"))
        assert vision
        procs.send(vision.pid, vision.start, signal.SIGKILL)
        child.wait_line("worker vision ended with -9")
        code, body = ask(url)
        assert (code, body["status"]) == (503, "degraded")


def test_the_heartbeat_moves_and_goes_with_a_clean_end(tmp_path: Path) -> None:
    beat = tmp_path / "beat.json"
    with robot("--heartbeat", str(beat)) as child:
        ready(child)
        first = json.loads(beat.read_text())
        assert first["pid"] == child.pid
        wait_until(lambda: json.loads(beat.read_text())["at"] > first["at"])
        assert list(tmp_path.iterdir()) == [beat]
        child.send(signal.SIGTERM)
        assert child.wait() == 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_asked(number: signal.Signals) -> None:
    with robot() as child:
        ready(child)
        wait_until(lambda: len(workers(child)) == 2)
        helpers = workers(child).values()
        child.send(number)
        assert child.wait() == 0
        assert child.out.endswith(f"{number.name}: stopping\nbye\n")
        assert not [one for one in helpers if alive(one.pid, one.start)]


def test_hup_reloads_and_usr1_tells_the_status() -> None:
    with robot() as child:
        ready(child)
        child.send(signal.SIGHUP)
        child.wait_line("^reloaded 1$")
        child.send(signal.SIGUSR1)
        child.wait_line("^status: ok, tick .*workers vision planner$")


def test_status_lines_come_by_themselves() -> None:
    with robot("--status-every", "100ms", "--rate", "50") as child:
        ready(child)
        child.wait_line("^status: ok")
        child.wait_line("^status: ok")


def test_workers_end_by_themselves_when_the_robot_is_killed() -> None:
    with robot() as child:
        ready(child)
        wait_until(lambda: len(workers(child)) == 2)
        helpers = workers(child).values()
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        wait_until(lambda: not [one for one in helpers if alive(one.pid, one.start)], 3)


def test_the_gui_needs_no_display() -> None:
    with robot("--gui", extra_env={"DISPLAY": "", "TERM": ""}) as child:
        ready(child)
        child.wait_line(r"^\[[-o|]{41}\] tick \d+$")
        assert "\x1b" not in child.out


def test_run_for_and_exit_code() -> None:
    with robot("--run-for", "200ms", "--exit-code", "42") as child:
        ready(child)
        assert child.wait() == 42
        assert child.out.endswith("done\nbye\n")


def test_it_is_gentle_on_the_processor() -> None:
    with robot("--status-every", "200ms", "--port", "0") as child:
        ready(child)
        wait_until(lambda: len(workers(child)) == 2)

        def cpu_seconds() -> float:
            stats = (Path(f"/proc/{one.pid}/stat").read_text() for one in procs.tree_of(child.pid))
            fields = (stat.rpartition(")")[2].split() for stat in stats)
            return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")

        child.wait_line(r"tick \d\d,")  # past its start
        began, before = time.monotonic(), cpu_seconds()
        child.wait_line(r"tick [34]\d,")
        assert cpu_seconds() - before <= 0.1 * (time.monotonic() - began), (
            "more than a tenth of a core for three processes"
        )


def test_nobody_reading_its_output_does_not_end_it() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as source, robot("--port", "0", stdout=writer) as child:
        os.close(writer)
        url = source.readline().decode().split()[-1]
        source.close()
        child.send(signal.SIGHUP)
        assert wait_until(lambda: ask(url)[1]["reloads"] == 1)
        assert child.alive()


def test_launched_by_hand_it_keeps_the_typed_command_line() -> None:
    with spawn(sys.executable, "scripts/launch_robot.py", "--headless", cwd=ROOT) as child:
        ready(child)
        assert procs.argv(child.pid)[1:] == ["scripts/launch_robot.py", "--headless"]
        child.send(signal.SIGTERM)
        assert child.wait() == 0


@pytest.mark.parametrize("wrong", [("--rate", "0"), ("--port", "99999"), ("--crash-after", "soon"), ("--fly",)])
def test_bad_options_are_refused_with_two(wrong: tuple[str, ...]) -> None:
    with robot(*wrong) as child:
        assert child.wait() == 2
        assert "Traceback" not in child.err


# --- misbehaving ------------------------------------------------------------------------------


def test_ignore_term_goes_on_after_sigterm() -> None:
    with robot("--ignore-term") as child:
        ready(child)
        child.send(signal.SIGTERM)
        child.wait_line("^SIGTERM ignored$")
        child.send(signal.SIGUSR1)
        child.wait_line("^status: ok")


def test_the_daemonised_grandchild_outlives_the_robot_in_its_own_session() -> None:
    with robot("--daemonize-grandchild", "--escapee-lifetime", "60s") as child:
        pid = int(child.wait_line(r"^grandchild (\d+) daemonised").group(1))
        start = procs.start_of(pid)
        child.adopt(pid, start)
        ready(child)
        wait_until(lambda: procs.environ(pid) == {} and "--escapee" in procs.argv(pid))
        grandchild = procs.look(pid)
        assert grandchild is not None
        assert grandchild.sid not in (child.pid, os.getsid(0))
        assert grandchild.ppid != child.pid
        child.send(signal.SIGTERM)
        assert child.wait() == 0
        child.wait_output()  # it holds nothing of ours open
        assert alive(pid, start)
        procs.send(pid, start, signal.SIGKILL)
        wait_until(lambda: not alive(pid, start))


def test_the_grandchild_ends_after_its_lifetime() -> None:
    with robot("--daemonize-grandchild", "--escapee-lifetime", "300ms") as child:
        pid = int(child.wait_line(r"^grandchild (\d+) daemonised").group(1))
        assert wait_until(lambda: procs.look(pid) is None)


@pytest.mark.pidns
def test_fork_while_killed_keeps_a_process_that_is_never_where_it_was_seen() -> None:
    with robot("--fork-while-killed", "--escapee-lifetime", "20s") as child:
        ready(child)

        def hoppers() -> list[procs.Process]:
            return [one for one in procs.scan().values() if "--hopper" in procs.argv(one.pid) and not one.dead]

        seen: set[int] = set()

        def moved() -> bool:
            seen.update(one.pid for one in hoppers())
            return len(seen) >= 5

        wait_until(moved)

        def ask_to_end() -> bool:
            for one in hoppers():
                procs.send(one.pid, one.start, signal.SIGTERM)
            return len(hoppers()) >= 4

        wait_until(ask_to_end)
        child.send(signal.SIGTERM)
        assert child.wait() == 0
        assert 1 <= len(hoppers()) <= 32
        procs.end(hoppers)


def test_leak_grows_its_memory() -> None:
    def resident() -> int:
        return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with robot("--leak", "40M", "--rate", "50") as child:
        ready(child)
        before = resident()
        wait_until(lambda: resident() > before + 20 * 2**20)


@pytest.mark.parametrize(("how", "code"), [("7", 7), ("SIGSEGV", -11), ("KILL", -9), ("abrt", -6)])
def test_crash_ends_it_abruptly_in_the_chosen_way(how: str, code: int) -> None:
    with robot("--crash-after", "100ms", "--crash-with", how) as child:
        ready(child)
        assert child.wait() == code
        assert "bye" not in child.out


def test_hang_stops_answers_heartbeat_and_reactions(tmp_path: Path) -> None:
    beat = tmp_path / "beat.json"
    with robot("--hang", "200ms", "--port", "0", "--heartbeat", str(beat)) as child:
        url = ready(child)
        child.wait_line("^hanging")
        before = beat.read_text()
        with pytest.raises(TimeoutError):
            ask(url, timeout=1.2)
        assert beat.read_text() == before
        child.send(signal.SIGTERM)
        with pytest.raises(TimeoutError):
            ask(url, timeout=0.3)
        assert child.alive()


def test_close_stdio_closes_all_three_and_lives_on() -> None:
    with robot("--close-stdio", "--port", "0") as child:
        url = ready(child)
        wait_until(lambda: not {"0", "1", "2"} & set(os.listdir(f"/proc/{child.pid}/fd")))
        child.send(signal.SIGHUP)
        assert wait_until(lambda: ask(url)[1]["reloads"] == 1)
        child.send(signal.SIGTERM)
        assert child.wait() == 0
        assert "bye" not in child.out


def test_started_without_stdio_it_talks_to_nobody_else() -> None:
    with spawn("/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PYTHON, str(ROBOT), "--run-for", "300ms") as child:
        assert child.wait() == 0
