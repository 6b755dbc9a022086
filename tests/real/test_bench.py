"""``make bench`` measures and tells: the shape of its results, never a figure of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.campaign import FULL, in_full
from helpers.procs import Spawn, environ, scan, wait_until

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts" / "bench.py"


def bench(*arguments: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """A command line, and its environment: temporary files in ``folder``, nothing of the test's own home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SAFESH_", "PYTHON"))}
    return [sys.executable, str(BENCH), "--quick", "--no-peers", *arguments], {**environment, "TMPDIR": str(folder)}


def run(*arguments: str, folder: Path, status: int = 0) -> str:
    command, environment = bench(*arguments, folder=folder)
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def left_below(folder: Path) -> list[str]:
    """Living processes whose state folder is one of a benchmark's in ``folder``."""
    return [
        str(one)
        for one in scan().values()
        if not one.dead and environ(one.pid).get("SAFESH_HOME", "").startswith(str(folder))
    ]


def test_results_have_rows_with_measure_bar_and_verdict(tmp_path: Path) -> None:
    told = run("--only", "status,exec,wrapper", "--rounds", "3", "--json", "out.json", folder=tmp_path)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["v"] == 1
    assert results["failures"] == {}
    assert results["machine"]["cores"] >= 1
    assert os.uname().nodename not in json.dumps(results["machine"])
    assert {"safesh", "python"} <= set(results["versions"])
    assert [section["key"] for section in results["sections"]] == ["status", "exec", "wrapper"]
    rows = {row["key"]: row for section in results["sections"] for row in section["rows"]}
    assert {key: row["bar"] for key, row in rows.items() if row["bar"] is not None} == {
        "status.safe": 5,
        "exec.safe": 4,
        "wrapper.module": 5,
        "wrapper.direct": 5,
    }
    for key, row in rows.items():
        assert row["low"] <= row["value"] <= row["high"], key
        assert row["unit"] == ("ms" if key.startswith("wrapper") else "x"), key
        assert row["verdict"] in (("ok", "short") if row["bar"] is not None else ("",)), key
    assert rows["status.bare"]["value"] == 1
    assert "`" not in told
    assert "safe.sh exec -- true" in told
    assert "not measured: supervisorctl" in told


def test_idle_row_reads_memory_and_wakeups_of_both_processes(tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("no /proc/PID/smaps_rollup here")
    run("--only", "idle", "--json", "out.json", folder=tmp_path)
    results = json.loads((tmp_path / "out.json").read_text())
    sections = {section["key"]: section["rows"] for section in results["sections"]}
    memory = {row["key"]: row["value"] for row in sections["memory"]}
    assert memory["memory.both"] == pytest.approx(memory["memory.supervisor"] + memory["memory.keeper"])
    assert min(memory.values()) > 0.5
    assert {row["key"]: row["bar"] for row in sections["wakeups"]}["wakeups.both"] == 0


def test_process_api_rows_have_their_promises_and_leave_nobody(tmp_path: Path) -> None:
    told = run("--only", "process", "--rounds", "2", "--json", "out.json", folder=tmp_path)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["failures"] == {}
    rows = {row["key"]: row for section in results["sections"] for row in section["rows"]}
    promised = {key: (row["bar"], row["at_least"]) for key, row in rows.items() if row["bar"] is not None}
    assert promised == {
        "process-run.safe": (1.15, False),
        "process-run.extra": (0.2, False),
        "process-start.safe": (1.15, False),
        "process-talk.safe": (2, False),
        "process-talk.time": (1000, False),
        "process-look.safe": (pytest.approx(1 / 3, abs=0.001), False),
        "process-look.time": (5, False),
        "process-capture-bytes.safe": (0.9, True),
        "process-capture-text.safe": (0.9, True),
        "process-crowd.safe-left": (0, False),
    }
    assert rows["process-crowd.safe-left"]["value"] == 0
    assert min(rows[f"process-crowd.safe-{lap}"]["value"] for lap in ("start", "read", "end")) > 0
    assert "process-async.safe" in rows
    assert "process-together.safe" in rows
    assert "process-crowd-memory.safe" in rows
    assert rows["process-sample-10.safe"]["value"] < rows["process-sample-10.psutil"]["value"]
    for key, row in rows.items():
        assert row["low"] <= row["value"] <= row["high"], key
    assert "not measured: anyio" in told


def test_plan_rows_have_their_promises_beside_make(tmp_path: Path) -> None:
    told = run("--only", "plans", "--rounds", "1", "--json", "out.json", folder=tmp_path)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["failures"] == {}
    rows = {row["key"]: row for section in results["sections"] for row in section["rows"]}
    promised = {key: (row["bar"], row["at_least"]) for key, row in rows.items() if row["bar"] is not None}
    assert promised == {
        "plans-step.time": (4, False),
        "plans-growth.safe": (1.3, False),
        "plans-gain.share": (0.9, True),
    }
    assert rows["plans-step.safe"]["value"] > 0
    assert 0 < rows["plans-gain.share"]["value"] <= 1.05
    assert rows["plans-gain.safe"]["value"] > 0.3, "two at once and one at a time, both by the clock"
    for key, row in rows.items():
        assert row["low"] <= row["value"] <= row["high"], key
    assert "not measured: make" in told
    assert "not measured: snakemake" in told
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
    assert left_below(tmp_path) == []


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    run("--only", "start,tree", "--rounds", "1", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert left_below(tmp_path) == []


def test_an_interrupted_run_ends_what_it_started(tmp_path: Path) -> None:
    command, _environment = bench("--only", "status", "--rounds", "100000", folder=tmp_path)
    with Spawn(*command, extra_env={"TMPDIR": str(tmp_path), "SAFESH_HOME": ""}) as child:
        wait_until(lambda: list(tmp_path.glob("safesh-bench-*/state/project/one.pid")), 30)
        wait_until(lambda: len(left_below(tmp_path)) >= 3, 30, "supervisor, keeper and target")
        child.send(signal.SIGTERM)
        assert child.wait(60) == 128 + signal.SIGTERM
        assert left_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


# ---- side by side with other supervisors

DAEMONS = ("safesh", "supervisord", "circus", "pm2", "runit", "s6", "monit")
WRAPPERS = ("honcho", "tini", "dumb-init")


def enclosed(part: str, folder: Path, **settings: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(versions and missing, sections) of a part that runs in a namespace of its own."""
    script = (
        "import json, sys\nfrom bench.inside import sections\nfrom bench.stage import Stage\ntold = {}\n"
        "with Stage() as stage:\n"
        "    found = [one.plain() for one in sections(stage, sys.argv[1], json.loads(sys.argv[2]), told)]\n"
        "print(json.dumps([told, found]))\n"
    )
    _command, environment = bench(folder=folder)
    done = subprocess.run(
        [sys.executable, "-c", script, part, json.dumps(settings)],
        env={**environment, "PYTHONPATH": str(ROOT / "scripts")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told, found = json.loads(done.stdout.splitlines()[-1])
    return told, found


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: supervisors put their sockets there (108 bytes, unix(7))."""
    folder = Path(tempfile.mkdtemp(prefix="sfb-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", in_full(["safesh", "supervisord", "runit", "s6", *WRAPPERS], "circus", "pm2", "monit"))
def test_an_adapter_starts_tells_stops_and_leaves_nobody(name: str, short: Path) -> None:
    """Checked against the kernel, not against what the rival says. In full it is installed first, if it can be."""
    told, sections = enclosed("check", short, rivals=[name], install=FULL)
    if name in told["missing"]:
        pytest.skip(f"{name}: {told['missing'][name]}")
    assert told["versions"][name]
    (section,) = sections
    kept = {row["what"]: (row["value"], row["absolute"]) for row in section["rows"]}
    assert set(kept) == {"runs", "supervisor", "stops", "leaves"} | ({"status"} if name in DAEMONS else set())
    assert {what: told for what, (value, told) in kept.items() if not value} == {}
    assert left_below(short) == []
    assert list(short.iterdir()) == []


def test_side_by_side_rows_name_the_contestants_and_their_limits(short: Path) -> None:
    settings = {"wrapper": 1, "status": 1, "start": 1, "kill": 1, "idle": 0.2, "counts": [1], "load": None}
    told, sections = enclosed("side", short, rivals=["safesh", "tini"], **settings)
    assert told["missing"].keys() <= {"tini"}
    rows = {row["key"]: row for section in sections for row in section["rows"]}
    for part in ("wrap", "status", "start", "stop", "gone", "kill", "memory-1", "wakeups-1"):
        ours = rows[f"side-{part}.safesh"]
        assert ours["ours"]
        assert not ours["limit"]
        assert any(row["limit"] for key, row in rows.items() if key.startswith(f"side-{part}.")), part
    if "tini" not in told["missing"]:
        assert rows["side-start.tini"]["by"] == "tini"
        assert "side-status.tini" not in rows
        assert "tini: has none" in next(one for one in sections if one["key"] == "side-status")["missing"]
    assert rows["side-start.limit"]["value"] < rows["side-start.safesh"]["value"]
    assert rows["side-gone.safesh"]["value"] <= rows["side-stop.safesh"]["value"] * 1.5
    assert left_below(short) == []
    assert list(short.iterdir()) == []


def test_a_peer_that_wins_is_shown_winning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from bench.figures import Row, Section
    from bench.report import markdown, table

    def row(name: str, value: float, **more: Any) -> Row:
        return Row(f"x.{name}", name, value, "x", value, value, absolute=f"{value * 10:g} ms", **more)

    least = Section("side-x", "a race", "bare", [
        row("limit", 0.5, limit=True), row("we", 2.0, ours=True, by="safesh"), row("they", 1.0, by="they"),
        row("others", 3.0, by="others"), row("unasked", 0.1),
    ])  # fmt: skip
    most = Section("side-y", "a flow", "cat", [row("we", 2.0, ours=True, by="safesh"), row("they", 1.0, by="they")])
    most.most = True
    assert [one.what for one in least.best()] == ["they"]
    assert [one.what for one in least.ahead()] == ["they"]
    assert [one.what for one in most.best()] == ["we"]
    assert most.ahead() == []
    assert [(limit.what, ours.what) for limit, ours in least.limits()] == [("limit", "we")]
    again = Section.of(json.loads(json.dumps(least.plain())))
    assert again == least
    assert [line.split()[0] for line in table(least).splitlines() if line.endswith(" best")] == ["they"]

    class Measured:
        date, versions, sections = "today", {"they": "they 1"}, [least, most]
        machine = dict.fromkeys(("cores", "architecture", "system", "kernel", "file_system", "load_before",
                                 "load_after"), "?")  # fmt: skip

    told = markdown(Measured(), "<", ">", [least, most])  # type: ignore[arg-type]
    assert "| they | 1 x |  |  | **best** | 10 ms |" in told
    assert "| a race | limit | 5 ms | 20 ms | 4 x |" in told
    assert "Rows where a peer is ahead of us:\n\n- a race: they 1 x\n" in told
    assert "a flow: " not in told


def test_a_row_that_falls_short_is_told_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from bench.figures import Row, Section
    from bench.report import table

    row = Row("x.y", "a thing", 7.0, "x", 6.5, 7.5, absolute="70 ms", ours=True, bar=6, aim=3)
    fast = Row("x.z", "a log", 0.95, "x", 0.9, 1.0, ours=True, bar=0.9, at_least=True)
    assert (row.verdict, fast.verdict) == ("short", "ok")
    told = table(Section("x", "things", "bare", [row, fast], ["rival: not installed"]))
    assert "7 x" in told
    assert "≤ 6 x (aim 3)" in told
    assert "SHORT" in told
    assert "not measured: rival: not installed" in told


def test_the_documents_measured_parts_are_replaced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from bench import report
    from bench.figures import Section

    text = report.DOCUMENT.read_text(encoding="utf-8")
    lines = (report.BEGIN, report.END, report.PROCESS_BEGIN, report.PROCESS_END)
    others = [f"{part}_{edge}" for part in ("PLANS", "SIDE", "ESCAPE") for edge in ("BEGIN", "END")]
    assert [text.count(line) for line in (*lines, *(getattr(report, name) for name in others))] == [1] * 10
    document = tmp_path / "benchmarks.md"
    old = "before\n{}\nold\n{}\nbetween\n{}\nold\n{}\nafter\n".format(*lines)
    document.write_text(old, encoding="utf-8")

    class Measured:
        sections = [Section("process-run", "things", "bare")]

    monkeypatch.setattr(report, "markdown", lambda _results, begin, end, _sections: f"{begin}\nnew\n{end}")
    report.write(Measured, document)  # type: ignore[arg-type]
    expected = "before\n{}\nold\n{}\nbetween\n{}\nnew\n{}\nafter\n".format(*lines)
    assert document.read_text(encoding="utf-8") == expected


def test_only_a_whole_run_may_write_the_document(tmp_path: Path) -> None:
    assert "--write" in run("--write", folder=tmp_path, status=2)
    assert "--write" in run("--write", "--only", "process", folder=tmp_path, status=2)
