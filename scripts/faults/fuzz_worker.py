"""One process that attacks parsers: ``python -m faults.fuzz_worker PARSER...``, started by ``faults.fuzz``.

It prints one JSON object a line: what was done for each parser, and each violation with the input that shows it. With
``--replay HEX`` it reads that one input and shows the whole traceback.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from faults.fuzz_mutate import mutate, shrink

if TYPE_CHECKING:
    from faults.fuzz_box import Box, Guard
    from faults.fuzz_target import Target

_DEADLINE = 10.0  # seconds for one input
_ROOM = 1 << 30  # bytes that a parser may take beyond what the process has
_MOST_FOUND = 5


def targets() -> dict[str, Target]:
    """All of them. Imported late: atheris sees only what is imported under its eyes."""
    from faults import fuzz_files, fuzz_state, fuzz_talk

    return {one.name: one for one in (*fuzz_files.TARGETS, *fuzz_state.TARGETS, *fuzz_talk.TARGETS)}


def say(out: Any, **facts: Any) -> None:
    out.write(json.dumps(facts) + "\n")
    out.flush()


def attempt(guard: Guard, here: Box, target: Target, data: bytes) -> tuple[bool, str]:
    """(whether it was taken, what is wrong: "" for nothing)."""
    from faults.fuzz_box import Violation

    guard.take()
    guard.on = True
    try:
        taken, wrong = target.check(here, data), ""
    except Violation as error:
        taken, wrong = False, str(error)
    except RecursionError as error:
        taken, wrong = False, f"RecursionError: {error}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        taken, wrong = False, f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno})"
    finally:
        guard.on = False
    seen = guard.take()
    return taken, wrong or (f"reached out: {seen[0]}" if seen else "")


def _alarm(_number: int, _frame: Any) -> NoReturn:
    from faults.fuzz_box import Violation

    raise Violation(f"no answer within {_DEADLINE:g} s")


def mutating(guard: Guard, here: Box, target: Target, seconds: float, seed: int, most: int, out: Any) -> None:
    """Mutations until the time is over or ``most`` were read."""
    rng = random.Random(f"{seed}:{target.name}")
    signal.signal(signal.SIGALRM, _alarm)
    began = time.monotonic()
    count = taken = 0
    found: set[str] = set()
    queue = list(target.seeds)

    def one(data: bytes) -> tuple[bool, str]:
        signal.setitimer(signal.ITIMER_REAL, _DEADLINE)
        try:
            return attempt(guard, here, target, data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    while (count < len(target.seeds)) or (count < most and time.monotonic() - began < seconds):
        data = queue.pop(0) if queue else mutate(rng, target.seeds, target.words)
        good, wrong = one(data)
        count += 1
        taken += good
        kind = wrong.partition(":")[0] + wrong.rpartition("(")[2]
        if wrong and kind not in found:
            found.add(kind)
            small = shrink(data, lambda less, wrong=wrong: _same(one(less)[1], wrong))  # type: ignore[misc]
            say(out, parser=target.name, violation=wrong[:500], input=base64.b64encode(small[:5000]).decode(), at=count)
            if len(found) >= _MOST_FOUND:
                break
    say(
        out,
        parser=target.name,
        count=count,
        taken=taken,
        seconds=round(time.monotonic() - began, 2),
        engine="mutations",
    )


def _same(one: str, other: str) -> bool:
    return bool(one) and one.partition(":")[0] == other.partition(":")[0] and one[-25:] == other[-25:]


def guided(guard: Guard, here: Box, target: Target, seconds: float, seed: int, out: Any) -> NoReturn:
    """atheris: inputs are kept that reach new lines of ours. It ends the process."""
    import atheris

    corpus = here.path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(data)
    words = here.path / "words"
    words.write_text("".join(_dictionary_line(word) for word in target.words if 0 < len(word) < 60))
    count = [0, 0]

    def read(data: bytes) -> None:
        taken, wrong = attempt(guard, here, target, data)
        count[0] += 1
        count[1] += taken
        if time.monotonic() > ends:
            done()
        if wrong:
            signal.alarm(0)
            say(
                out,
                parser=target.name,
                violation=wrong[:500],
                input=base64.b64encode(data[:5000]).decode(),
                at=count[0],
            )
            done()

    def done() -> NoReturn:
        say(out, parser=target.name, count=count[0], taken=count[1], seconds=round(seconds, 2), engine="atheris")
        os._exit(0)

    ends = time.monotonic() + seconds
    options = [f"-max_total_time={int(seconds) + 2}", f"-timeout={int(_DEADLINE)}", "-rss_limit_mb=2048"]
    options += [
        f"-seed={seed % (1 << 32) or 1}",
        "-max_len=4096",
        "-verbosity=0",
        "-print_final_stats=0",
    ]
    if target.words:
        options.append(f"-dict={words}")
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={here.path}/", str(corpus)], read)
    atheris.Fuzz()
    done()


def _dictionary_line(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="faults.fuzz_worker")
    parser.add_argument("parsers", nargs="+", metavar="PARSER")
    parser.add_argument("--engine", choices=("mutations", "atheris"), default="mutations")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each parser")
    parser.add_argument("--most", type=int, default=1 << 60, help="inputs for each parser")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", default="", metavar="BASE64")
    chosen = parser.parse_args(argv)
    sys.dont_write_bytecode = True
    out = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # a parser that prints does so into nothing
    if chosen.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["safesh"]):
            known = targets()
    else:
        known = targets()
        _bound_memory()
    from faults.fuzz_box import Guard, box

    with box() as here:
        guard = Guard(Path(here.path))
        for name in chosen.parsers:
            target = known[name]
            if chosen.replay:
                data = base64.b64decode(chosen.replay)
                print(f"{name}: {data!r}", file=sys.stderr)
                print(target.check(here, data), file=sys.stderr)
            elif chosen.engine == "atheris":
                os.dup2(null, 2)
                guided(guard, here, target, chosen.seconds, chosen.seed, out)
            else:
                mutating(guard, here, target, chosen.seconds, chosen.seed, chosen.most, out)
    return 0


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
