"""The benchmark's escape test: ours leaves nobody and never runs twice, and the observer sees whoever is left."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GRACE, PATIENCE = "0.5", "3"
ALL = ["main", "plain", "plain", "ignorer", "nested", "group", "session", "daemon", "forker"]
Answers = dict[tuple[str, str], dict[str, Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pid namespaces are Linux's")


@pytest.fixture(scope="module", autouse=True)
def bench() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        for name in [*os.environ]:
            if name.startswith(("SAFESH_", "PYTHONDONT")) and not name.startswith("SAFESH_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def answers(bench: None) -> Answers:
    """Everything asked at once: each contestant mostly waits, in a namespace of its own."""
    from bench import enclosure, escape
    from bench.rivals.safesh import Safesh

    if why := enclosure.missing():
        pytest.skip(f"not run: {why}")
    everybody = {one.key: one for one in escape.contestants([Safesh("")], float(GRACE))}
    tasks = [
        (key, ["stop", GRACE])
        for key in ("safesh-cgroup", "safesh-subreaper", "safesh-posix", "safesh-exec-end", "bare", "group")
    ]
    for part in ("supervisor", "keeper", "both"):
        tasks += [(key, ["kill", GRACE, part, PATIENCE]) for key in ("safesh-cgroup", "safesh-subreaper")]

    def ask(task: tuple[str, list[str]]) -> dict[str, Any]:
        key, words = task
        one = everybody[key]
        try:
            return enclosure.run(words, (one.rival, one.changes), 60)
        except enclosure.BenchError as error:
            return {"error": str(error)}

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, tasks))
    return {(key, words[2] if words[2:] else "stop"): answer for (key, words), answer in zip(tasks, found, strict=True)}


def asked(answers: Answers, key: str, what: str) -> dict[str, Any]:
    answer = answers[key, what]
    if "this machine has no" in answer.get("error", ""):
        pytest.skip(answer["error"])
    assert "error" not in answer, answer["error"]
    assert sorted(answer["whole"]) == sorted(ALL)
    return answer


@pytest.mark.parametrize("key", ["safesh-cgroup", "safesh-subreaper", "safesh-exec-end"])
def test_our_stop_leaves_nobody(answers: Answers, key: str) -> None:
    assert asked(answers, key, "stop")["left"] == []


def test_the_portable_backend_misses_nobody_but_a_daemon_without_environment(answers: Answers) -> None:
    """What docs/architecture.md says of it: left its session, cleared its environment, lost its parent at once."""
    assert set(asked(answers, "safesh-posix", "stop")["left"]) <= {"daemon"}


@pytest.mark.parametrize("part", ["supervisor", "keeper"])
@pytest.mark.parametrize("key", ["safesh-cgroup", "safesh-subreaper"])
def test_one_of_the_two_killed_leaves_nobody_and_starts_once(answers: Answers, key: str, part: str) -> None:
    answer = asked(answers, key, part)
    assert answer["left"] == []
    assert (answer["again"], answer["mains"]) == ("started", 1)
    assert answer["after_stop"] == []


@pytest.mark.parametrize("key", ["safesh-cgroup", "safesh-subreaper"])
def test_both_killed_a_start_is_refused_and_a_stop_still_ends_it(answers: Answers, key: str) -> None:
    answer = asked(answers, key, "both")
    assert sorted(answer["left"]) == sorted(ALL), "nobody holds it: it runs on"
    assert "exit status 75" in answer["again"]
    assert "9 processes of it run without a supervisor" in answer["again"] or key != "safesh-cgroup"
    assert answer["mains"] == 1, "it doesn't run twice"
    assert set(answer["after_stop"]) <= ({"daemon"} if key == "safesh-subreaper" else set())


def test_the_observer_names_who_is_left(answers: Answers) -> None:
    """One that leaves somebody is reported as leaving them."""
    from bench import escape

    assert sorted(asked(answers, "bare", "stop")["left"]) == sorted(ALL[1:])
    left = asked(answers, "group", "stop")["left"]
    assert sorted(left) == ["daemon", "forker", "group", "ignorer", "nested", "session"]
    assert escape.named([*left, "daemon"]) == "ignorer, nested, group, session, 2 daemon, forker"
    assert escape.named([]) == "nobody"


def test_a_contestant_that_cannot_be_asked_is_named_and_gets_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import enclosure, escape

    def refuse(*_: object) -> dict[str, Any]:
        raise enclosure.BenchError("does not answer")

    monkeypatch.setattr(enclosure, "run", refuse)
    section = escape._stops([one for one in escape.contestants([]) if one.key == "bare"], 1)
    assert section.rows == []
    assert any(line.endswith("no supervisor: does not answer") for line in section.missing)
    assert any(line.startswith("systemd: ") for line in section.missing)


def test_nothing_is_killed_outside_of_a_namespace() -> None:
    from bench import enclosed, enclosure

    assert not enclosure.inside()
    with pytest.raises(enclosure.BenchError, match="pid namespace of its own"):
        enclosed.kill(None, "both", 0.0)  # type: ignore[arg-type]


def test_lines_of_a_log_are_counted_whole_in_all_its_files(tmp_path: Path) -> None:
    from bench import side_load, writer

    (tmp_path / "a.log").write_bytes(writer.LINE * 3 + writer.LINE[:50])
    (tmp_path / "b.log").write_bytes(b"12:00 name | " + writer.LINE)
    (tmp_path / "c.log.gz").write_bytes(gzip.compress(writer.LINE * 2))
    assert side_load.count(tmp_path) == 6


def test_a_crash_loop_is_counted_and_the_programs_own_time_left_out(bench: None) -> None:
    from bench import enclosure, side_load
    from bench.rivals.safesh import Safesh

    if why := enclosure.missing():
        pytest.skip(f"not run: {why}")
    cost, share = side_load._crashes([Safesh("")], 1.5, 1)
    assert [row.key for row in cost.rows] == ["side-crash.safesh"], cost.missing
    assert cost.rows[0].value > 0.1
    assert 0 < share.rows[0].value < 100
