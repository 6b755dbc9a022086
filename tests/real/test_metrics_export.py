"""``metrics`` on real instances: printed, written for node_exporter, served to urllib and to a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from helpers.home import CLI, ROOT, Home, Safe
from helpers.procs import Spawn, wait_until
from helpers.promlint import lint
from safesh.metrics.exposition import CATALOG, INSTANCE

WORKING = """
[targets.worker]
command = ["sh", "-c", "echo working; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 600 & wait"]
stop = { grace = "2s" }

[targets.idle]
command = ["sleep", "600"]
"""
CPU = "safesh_instance_cpu_seconds_total"


def tool(name: str, variable: str) -> str:
    """The program, from the variable or from PATH; the test is skipped by name where there is none."""
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"no {name} in PATH, and ${variable} names none")
    return found


def samples(text: str, openmetrics: bool = False) -> dict[str, float]:
    """``metric/target/state`` -> value, by the format's own reader."""
    families = read_openmetrics(text) if openmetrics else read_prometheus(text)
    return {
        "/".join(
            [one.name, *(one.labels[key] for key in ("target", "state", "resource", "kind") if key in one.labels)]
        ): one.value
        for family in families
        for one in family.samples
    }


def fetch(url: str, accept: str = "") -> tuple[str, str]:
    """(content type, text)."""
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@contextmanager
def served(safe: Safe, *more: str) -> Iterator[tuple[Spawn, str]]:
    """(the exporter on a free port, its URL)."""
    with safe.spawn("metrics", "--listen", "127.0.0.1:0", *more, whole=True) as child:
        url = child.wait_line(r"metrics at (http://\S+)", stream="err")[1]
        yield child, url


# --- printed and written --------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["prometheus", "openmetrics"])
def test_a_running_target_is_told_in_either_format(safe: Safe, write_config: Callable[[str], Any], format: str) -> None:
    write_config(WORKING)
    with safe.started("worker"):
        text = safe("metrics", "--format", format).check(0).out
    assert lint(text, format) == []
    found = samples(text, format == "openmetrics")
    assert found["safesh_instance_up/worker"] == 1
    assert found["safesh_instance_state/worker/running"] == 1
    assert found["safesh_instance_processes/worker"] == 2
    assert found[f"{CPU}/worker"] > 0
    assert found["safesh_instance_memory_bytes/worker"] > 50_000
    assert found["safesh_instance_open_fds/worker"] > 2
    assert 0 < found["safesh_instance_uptime_seconds/worker"] < 30
    assert found["safesh_instance_log_size_bytes/worker"] == len("working\n")
    assert found["safesh_instance_up/idle"] == 0
    assert found["safesh_instance_state/idle/idle"] == 1
    assert f"{CPU}/idle" not in found
    assert 0 <= found["safesh_system_cpu_usage_ratio"] <= 1
    assert found["safesh_system_memory_total_bytes"] >= found["safesh_system_memory_available_bytes"] > 0
    assert found["safesh_instances"] == 2
    assert found["safesh_scrape_errors"] == 0


def test_without_any_project_there_is_a_whole_text_all_the_same(safe: Safe) -> None:
    done = safe("metrics").check(0)
    found = samples(done.out)
    assert found["safesh_instances"] == 0
    assert found["safesh_scrape_errors"] == 0
    assert done.err == ""
    assert lint(done.out, "prometheus") == []


def test_names_that_need_escaping_come_out_right(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config("[targets.'we\"ird']\ncommand = ['true']\n[targets.'ünï{},=']\ncommand = ['true']\n")
    for format in ("prometheus", "openmetrics"):
        found = samples(safe("metrics", "--format", format).check(0).out, format == "openmetrics")
        assert {name for name in found if name.startswith("safesh_instance_up")} == {
            'safesh_instance_up/we"ird', "safesh_instance_up/ünï{},="
        }  # fmt: skip


def test_a_damaged_record_is_counted_and_the_other_instance_is_told(
    safe: Safe, home: Home, write_config: Callable[[str], Any]
) -> None:
    write_config(WORKING)
    with safe.started("worker"):
        for text in ("{", "[]", "\x00\xff", '{"v": 1}'):
            home.state_file("idle.json").write_text(text, encoding="latin-1")
            home.state_file("idle.json").chmod(0o600)
            done = safe("metrics").check(0)
            found = samples(done.out)
            assert found["safesh_record_errors/idle"] == 1
            assert found["safesh_record_errors/worker"] == 0
            assert found["safesh_instance_up/worker"] == 1
            assert not any(name.startswith("safesh_instance_state/idle") for name in found)
            assert "safesh_instance_restarts_total/idle" not in found


def test_the_file_is_replaced_whole_and_readable_for_all(
    safe: Safe, home: Home, write_config: Callable[[str], Any]
) -> None:
    write_config(WORKING)
    file = home.path / "safesh.prom"
    file.write_text("old")
    file.chmod(0o600)
    before = file.stat().st_ino
    umask = os.umask(0o077)
    try:
        done = safe("metrics", "--output", str(file)).check(0)
    finally:
        os.umask(umask)
    assert done.out == done.err == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.stat().st_ino != before
    assert lint(file.read_text(), "prometheus") == []
    assert [one.name for one in home.path.iterdir()] == [file.name]  # nothing for *.prom to find beside it


def test_a_file_that_cannot_be_written_is_left_as_it_is(safe: Safe, home: Home) -> None:
    file = home.path / "safesh.prom"
    file.write_text("old")
    script = f'ulimit -f 0; trap "" XFSZ; exec "$@" metrics --output {file}'
    done = subprocess.run(["sh", "-c", script, "sh", *CLI], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 73, done
    assert "cannot be written: file too large" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert file.read_text() == "old"
    assert [one.name for one in home.path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--output", "missing/x.prom"), 2, "its folder does not exist"),
        (("--output", "/dev/null"), 2, "is no plain file"),
        (("--output", "."), 2, "is no plain file"),
        (("--format", "yaml"), 2, "'yaml' is no format"),
        (("--listen", "127.0.0.1:0", "--format", "openmetrics"), 2, "--format does not go with --listen"),
        (("--listen", "127.0.0.1:0", "--output", "x"), 2, "--output does not go with --listen"),
        (("--listen", ":9464"), 2, "leaves open which address"),
        (("--listen", "127.0.0.1:x"), 2, "'x' is no port"),
        (("--listen", "127.0.0.1:65536"), 2, "is no port"),
        (("--listen", "::1:9464"), 2, "is no HOST:PORT"),
        (("--listen", "192.0.2.1:9464"), 2, "is no address of this machine"),
        (("--listen", "no such host:9464"), 2, "is no address that can be found"),
        (("--config", "missing.toml"), 78, "missing.toml"),
    ],
)
def test_a_wrong_line_is_told_in_one_line_with_the_next_step(
    safe: Safe, words: tuple[str, ...], status: int, told: str
) -> None:
    done = safe("metrics", *words).check(status)
    first, *rest = done.err.splitlines()
    assert told in first
    assert len(rest) == 1
    assert done.out == ""


# --- served ----------------------------------------------------------------------------------------


def test_it_is_scraped_over_loopback_in_the_format_asked_for(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(WORKING)
    with safe.started("worker"), served(safe) as (_child, url):
        kind, text = fetch(url)
        assert kind.startswith("text/plain; version=0.0.4")
        assert lint(text, "prometheus") == []
        first = samples(text)
        assert first["safesh_instance_up/worker"] == 1
        kind, text = fetch(url, "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert lint(text, "openmetrics") == []
        second = samples(text, openmetrics=True)
        timeless = {name for name in first if not name.endswith("cpu_usage_ratio")}
        assert timeless == {name for name in second if not name.endswith("cpu_usage_ratio")}
        assert second[f"{CPU}/worker"] >= first[f"{CPU}/worker"]
        assert second["safesh_instance_uptime_seconds/worker"] > first["safesh_instance_uptime_seconds/worker"]
        printed = samples(safe("metrics").check(0).out)
        assert {
            name for name in printed if not name.endswith("cpu_usage_ratio")
        } == timeless  # one and the same catalog


def test_each_scrape_measures_anew(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(WORKING)
    with served(safe) as (_child, url):
        assert samples(fetch(url)[1])["safesh_instance_up/idle"] == 0
        with safe.started("idle"):
            assert samples(fetch(url)[1])["safesh_instance_up/idle"] == 1
        assert samples(fetch(url)[1])["safesh_instance_up/idle"] == 0


def test_a_safe_toml_that_breaks_meanwhile_is_told_and_its_last_sense_kept(
    safe: Safe, write_config: Callable[[str], Any]
) -> None:
    write_config(WORKING)
    with served(safe) as (_child, url):
        write_config("[targets")
        found = samples(fetch(url)[1])
        assert found["safesh_config_errors"] == 1
        assert found["safesh_instance_up/idle"] == 0
        write_config(WORKING)
        assert samples(fetch(url)[1])["safesh_config_errors"] == 0


def test_scrapes_at_the_same_time_are_all_answered_whole(safe: Safe, write_config: Callable[[str], Any]) -> None:
    write_config(WORKING)
    with safe.started("worker"), served(safe) as (_child, url), ThreadPoolExecutor(8) as pool:
        kinds = ["", "application/openmetrics-text"] * 16
        texts = list(pool.map(lambda accept: fetch(url, accept)[1], kinds))
        for accept, text in zip(kinds, texts, strict=True):
            found = samples(text, bool(accept))
            assert lint(text, "openmetrics" if accept else "prometheus") == []
            assert found["safesh_instance_up/worker"] == 1
            assert found["safesh_scrape_errors"] == 0


def test_a_client_that_hangs_or_talks_nonsense_holds_nobody_up(safe: Safe) -> None:
    with served(safe) as (child, url):
        port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
        with (
            socket.create_connection(("127.0.0.1", port), 5) as silent,
            socket.create_connection(("127.0.0.1", port), 5) as rude,
        ):
            silent.sendall(b"GET /met")
            rude.sendall(b"\x00\xff" * 40_000 + b"\r\n\r\n")
            assert samples(fetch(url)[1])["safesh_instances"] == 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(url.replace("/metrics", "/other"))
        assert child.alive()
        assert "Traceback" not in child.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_frees_the_port(safe: Safe, number: signal.Signals) -> None:
    with served(safe) as (child, url):
        fetch(url)
        port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
        child.send(number)
        assert child.wait(10) == 0
        assert len(child.err.splitlines()) == 1  # where it listened, and nothing since
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_it_does_not_wake_while_nobody_asks(safe: Safe) -> None:
    with served(safe) as (child, url):
        fetch(url)

        def switches() -> str:
            status = Path(f"/proc/{child.pid}/status").read_text()
            return "".join(re.findall(r"^voluntary_ctxt_switches:\s+\d+$", status, re.M))

        def rests() -> bool:
            before = switches()
            select.select([], [], [], 1.5)  # the promise is about time in which nothing happens
            return switches() == before

        wait_until(rests, 10, "the exporter rests")


def test_a_taken_port_is_told_with_its_holder(safe: Safe) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = safe("metrics", "--listen", f"127.0.0.1:{port}").check(1)
    assert f"127.0.0.1:{port}: the port is taken by pid {os.getpid()} " in done.err
    assert len(done.err.splitlines()) == 2


def test_another_address_than_loopback_is_warned_of(safe: Safe) -> None:
    with safe.spawn("metrics", "--listen", "0.0.0.0:0", whole=True) as child:
        child.wait_line("can be reached from other machines", stream="err")
        url = child.wait_line(r"metrics at (http://\S+)", stream="err")[1]
        fetch(url.replace("0.0.0.0", "127.0.0.1"))
    with served(safe) as (child, _url):
        assert "other machines" not in child.err


def test_a_port_alone_and_localhost_mean_loopback(safe: Safe) -> None:
    for text in ("0", "localhost:0"):
        with safe.spawn("metrics", "--listen", text, whole=True) as child:
            assert child.wait_line(r"metrics at (http://\S+)", stream="err")[1].startswith("http://127.0.0.1:")


def test_ipv6_loopback_is_served(safe: Safe) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with safe.spawn("metrics", "--listen", "[::1]:0", whole=True) as child:
        fetch(child.wait_line(r"metrics at (http://\[::1\]:\S+)", stream="err")[1])


def test_without_prometheus_client_only_serving_is_refused_with_the_command_to_run(safe: Safe, home: Home) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['prometheus_client'] = None\n"
        "from safesh.cli.main import main; sys.exit(main(sys.argv[2:]))"
    )
    source = str(Path(CLI[-1]).parents[1])
    words = [sys.executable, "-E", "-s", "-S", "-c", code, source, "metrics"]
    done = subprocess.run([*words, "--listen", "0"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 69, done
    assert "prometheus-client cannot be imported" in done.stderr
    assert f"{sys.executable} -m pip install prometheus-client" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done
    assert samples(done.stdout)["safesh_instances"] == 0


# --- by those for whom it is made -----------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def shown_expressions() -> list[str]:
    """What the dashboard and the page's alerts ask, with the dashboard's variables as Grafana fills them in."""
    board = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    found += [one["expr"] for one in board["annotations"]["list"]]
    found += re.findall(r"expr: (.*)$", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    return [re.sub(r"\$(project|instance)", ".*", one).replace("$__rate_interval", "1m") for one in found]


def test_a_real_prometheus_scrapes_it(safe: Safe, home: Home, write_config: Callable[[str], Any]) -> None:
    program = tool("prometheus", "SAFESH_PROMETHEUS")
    write_config(WORKING)
    with safe.started("worker"), served(safe) as (_child, url):
        port, place = free_port(), url.split("/")[2]
        config = home.path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs:\n- job_name: safesh\n  static_configs:\n  - targets: ['{place}']\n"
        )
        words = [f"--config.file={config}", f"--storage.tsdb.path={home.path / 'data'}",
                 f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        with Spawn(program, *words, cwd=home.path):

            def ask(query: str) -> list[Any]:
                try:
                    answer = fetch(f"http://127.0.0.1:{port}/api/v1/query?query={query}")[1]
                except (OSError, urllib.error.URLError):
                    return []
                found: list[Any] = json.loads(answer)["data"]["result"]
                return found

            wait_until(lambda: ask("safesh_instance_up==1"), 60, "Prometheus has scraped")
            (up,) = ask("safesh_instance_up==1")
            labels = {key: value for key, value in up["metric"].items() if key != "__name__"}
            ours = {"project": home.project.name, INSTANCE: "worker", "target": "worker"}
            assert labels == {**ours, "job": "safesh", "instance": place}
            names = {one["metric"]["__name__"] for one in ask("%7B__name__%3D~%22safesh_.%2B%22%7D")}
            assert names <= set(CATALOG)
            assert {"safesh_build_info", CPU, "safesh_instance_memory_bytes"} <= names
            # Its own name for the family: it asks for OpenMetrics first.
            about = json.loads(fetch(f"http://127.0.0.1:{port}/api/v1/metadata")[1])["data"]
            assert about[CPU.removesuffix("_total")][0]["type"] == "counter"
            targets = json.loads(fetch(f"http://127.0.0.1:{port}/api/v1/targets")[1])["data"]["activeTargets"]
            assert [one["lastError"] for one in targets] == [""]
            for expression in shown_expressions():
                answer = fetch(f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}")[1]
                assert json.loads(answer)["status"] == "success", expression


@pytest.mark.parametrize("format", ["prometheus", "openmetrics"])
def test_a_real_node_exporter_takes_the_file(
    safe: Safe, home: Home, write_config: Callable[[str], Any], format: str
) -> None:
    program = tool("prometheus-node-exporter", "SAFESH_NODE_EXPORTER")
    write_config(WORKING)
    folder, port = home.path / "textfile", free_port()
    folder.mkdir()
    with safe.started("worker"):
        safe("metrics", "--output", str(folder / "safesh.prom"), "--format", format).check(0)
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder}",
             f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with Spawn(program, *words, cwd=home.path):

        def ask() -> str:
            try:
                return fetch(f"http://127.0.0.1:{port}/metrics")[1]
            except OSError:
                return ""

        text = wait_until(ask, 30, "node_exporter answers")
        assert "\nnode_textfile_scrape_error 0\n" in text
        found = samples(text)
        assert found["safesh_instance_up/worker"] == 1
        assert found[f"{CPU}/worker"] > 0
        # Why the older format is the default.
        assert f"# TYPE {CPU} {'counter' if format == 'prometheus' else 'untyped'}\n" in text


def test_promtool_has_nothing_to_say(safe: Safe, write_config: Callable[[str], Any]) -> None:
    program = tool("promtool", "SAFESH_PROMTOOL")
    write_config(WORKING)
    with safe.started("worker"):
        text = safe("metrics").check(0).out
    done = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
