"""How long commands take: status, exec, start, stop, and what bash adds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Section, Step, extra_row, interleave, ratio_row
from bench.peers import Peers
from bench.stage import DEADLINE, SAFE, SOURCE, Bell, Stage

_BASE = "bare Python: `python3 -c pass` of the same virtual environment"
_SLEEP = ("sleep", "600")


def _timed(stage: Stage, name: str, *command: str, **changes: str) -> Step:
    return lambda: {name: stage.time(command, **changes)}


def status(stage: Stage, peers: Peers, rounds: int) -> Section:
    """``status`` of one running target."""
    section = Section("status", "status of one running target", _BASE)
    with ExitStack() as stack:
        stack.enter_context(stage.running("one", _SLEEP))
        steps = [
            _timed(stage, "bare", stage.python, "-c", "pass"),
            _timed(stage, "safe", SAFE, "status", "one"),
            _timed(stage, "direct", *stage.direct, "status", "one"),
            _timed(stage, "json", SAFE, "status", "one", "--json"),
        ]
        if peers.supervisord:
            hall = stack.enter_context(peers.supervisord.running(stage, {"one": [*_SLEEP]}))
            hall.begin("one")
            steps.append(_timed(stage, "supervisorctl", *(hall.status("one") or []), **hall.changes))
        else:
            section.missing.append(f"supervisorctl: {peers.missing['supervisord']}")
        samples = interleave(steps, rounds)
    section.rows = [
        ratio_row("status.bare", "bare Python (the limit)", samples, "bare", "bare", limit=True),
        ratio_row("status.safe", "`safe.sh status one`", samples, "safe", "bare", ours=True, bar=5, aim=3, by="safesh"),
        ratio_row("status.direct", "the same without bash", samples, "direct", "bare", ours=True),
        ratio_row("status.json", "`safe.sh status one --json`", samples, "json", "bare", ours=True),
    ]
    if peers.supervisord:
        section.rows.append(
            ratio_row(
                "status.supervisorctl", "`supervisorctl status`", samples, "supervisorctl", "bare", by="supervisord"
            )
        )
    return section


def execute(stage: Stage, peers: Peers, rounds: int) -> Section:
    """``exec -- true``: an init around a command that does nothing."""
    section = Section("exec", "exec -- true", _BASE)
    steps = [
        _timed(stage, "bare", stage.python, "-c", "pass"),
        _timed(stage, "true", "true"),
        _timed(stage, "safe", SAFE, "exec", "--", "true"),
        _timed(stage, "direct", *stage.direct, "exec", "--", "true"),
    ]
    rivals: dict[str, tuple[str, ...]] = {"timeout": ("timeout", "60", "true")} if peers.has("timeout") else {}
    for name, rival in peers.wrappers.items():
        command, _changes = rival.wrap(stage, ("true",)) or ([], {})
        rivals[name] = tuple(command)
    for name, words in rivals.items():
        steps.append(_timed(stage, name, *words))
    section.missing += [f"{name}: {peers.missing[name]}" for name in ("tini", "dumb-init", "timeout")
                        if name in peers.missing]  # fmt: skip
    samples = interleave(steps, rounds)
    section.rows = [
        ratio_row("exec.true", "`true` alone: fork, exec, exit (the limit)", samples, "true", "bare", limit=True),
        ratio_row("exec.bare", "bare Python (the limit of anything in Python)", samples, "bare", "bare", limit=True),
        ratio_row("exec.safe", "`safe.sh exec -- true`", samples, "safe", "bare", ours=True, bar=4, by="safesh"),
        ratio_row("exec.direct", "the same without bash", samples, "direct", "bare", ours=True),
    ]
    for name, words in rivals.items():
        shown = " ".join((Path(words[0]).name, *words[1:]))
        section.rows.append(ratio_row(f"exec.{name}", f"`{shown}`", samples, name, "bare", by=name))
    return section


def start_and_stop(stage: Stage, peers: Peers, rounds: int) -> tuple[Section, Section]:
    """``start --detach`` until the target acts, then ``stop`` until it is gone; one round does both."""
    starting = Section("start", "start --detach, invoked until the target's first action", _BASE)
    stopping = Section("stop", "stop of a target that ends when asked, invoked until it returns", _BASE)
    with ExitStack() as stack:
        bell = Bell(stage, "first-action")
        stack.callback(bell.close)
        # The first thing the program does is the thing that is waited for.
        target = ("/bin/sh", "-c", f"echo runs > {bell.path}; exec sleep 600")
        stage.target("once", target)

        def limit() -> dict[str, float]:
            begin = time.perf_counter()
            child = stage.begin(target)
            bell.wait()
            seconds = time.perf_counter() - begin
            stage.end(child)
            return {"limit": seconds}

        def started(name: str, command: list[str], **changes: str) -> dict[str, float]:
            begin = time.perf_counter()
            child = stage.begin(command, **changes)
            bell.wait()
            seconds = time.perf_counter() - begin
            child.wait(DEADLINE)
            return {name: seconds, f"{name}-returned": time.perf_counter() - begin}

        def ours() -> dict[str, float]:
            stage.starts("once")
            times = started("safe", [SAFE, "start", "--detach", "once"])
            times["stop"] = stage.time([SAFE, "stop", "once", "--force"])
            return times

        def adhoc() -> dict[str, float]:
            stage.starts("adhoc")
            times = started("adhoc", [SAFE, "start", "--detach", "adhoc", "--", *target])
            stage.stop("adhoc")
            return times

        steps: list[Step] = [_timed(stage, "bare", stage.python, "-c", "pass"), limit, ours, adhoc]
        if peers.supervisord:
            hall = stack.enter_context(peers.supervisord.running(stage, {"once": [*target]}))

            def theirs() -> dict[str, float]:
                times = started("supervisorctl", hall.start("once") or [], **hall.changes)
                times["supervisorctl-stop"] = stage.time(hall.stop("once") or [], **hall.changes)
                return times

            steps.append(theirs)
        else:
            for section in (starting, stopping):
                section.missing.append(f"supervisorctl: {peers.missing['supervisord']}")
        samples = interleave(steps, rounds)
        stage.stop("once")
    rows = starting.rows
    rows.append(
        ratio_row(
            "start.limit", "the target started by fork and exec (the limit)", samples, "limit", "bare", limit=True
        )
    )
    rows.append(ratio_row("start.safe", "`safe.sh start --detach`", samples, "safe", "bare", ours=True, bar=6,
                          by="safesh"))  # fmt: skip
    rows.append(ratio_row("start.adhoc", "the same ad hoc: `start NAME -- CMD`", samples, "adhoc", "bare", ours=True))
    rows.append(
        ratio_row("start.returned", "`start --detach` until it returns", samples, "safe-returned", "bare", ours=True)
    )
    stopping.rows.append(
        ratio_row("stop.safe", "`safe.sh stop --force`", samples, "stop", "bare", ours=True, by="safesh")
    )
    if peers.supervisord:
        rows.append(
            ratio_row("start.supervisorctl", "`supervisorctl start`", samples, "supervisorctl", "bare",
                      by="supervisord", note="its daemon runs already; startsecs=0")
        )  # fmt: skip
        stopping.rows.append(
            ratio_row(
                "stop.supervisorctl", "`supervisorctl stop`", samples, "supervisorctl-stop", "bare", by="supervisord"
            )
        )
    return starting, stopping


def big_tree(stage: Stage, rounds: int, members: int = 100) -> Section:
    """``status`` of a tree of ``members`` processes."""
    section = Section("tree", f"status of a tree of {members} processes", _BASE)
    script = f'i=1; while [ $i -lt {members} ]; do sleep 600 & i=$((i + 1)); done; echo > "$0"; wait'
    bell = Bell(stage, "all-there")
    try:
        with stage.running("many", ("/bin/sh", "-c", script, bell.path)):
            bell.wait()
            steps = [
                _timed(stage, "bare", stage.python, "-c", "pass"),
                _timed(stage, "safe", SAFE, "status", "many"),
            ]
            samples = interleave(steps, rounds)
    finally:
        bell.close()
    section.rows = [ratio_row("tree.safe", "`safe.sh status many`", samples, "safe", "bare", ours=True)]
    return section


def wrapper(stage: Stage, rounds: int) -> Section:
    """What bin/safe.sh adds to Python."""
    section = Section("wrapper", "bin/safe.sh, warm, on top of Python", "`--version`, the cheapest call there is")
    steps = [
        _timed(stage, "safe", SAFE, "--version"),
        _timed(stage, "module", stage.python, "-m", "safesh", "--version", PYTHONPATH=str(SOURCE)),
        _timed(stage, "direct", *stage.direct, "--version"),
        _timed(stage, "bash", "bash", "-c", ":"),
    ]
    samples = interleave(steps, rounds)
    bash = sorted(samples["bash"])[len(samples["bash"]) // 2] * 1000
    section.rows = [
        extra_row("wrapper.module", "`safe.sh` over `python -m safesh`", samples, "safe", "module", ours=True, bar=5,
                  note="negative: faster, because safe.sh leaves out what -m and site cost"),
        extra_row("wrapper.direct", "`safe.sh` over the line it executes", samples, "safe", "direct", ours=True, bar=5,
                  note=f"bash alone, doing nothing: {bash:.1f} ms (the limit)"),
    ]  # fmt: skip
    return section
