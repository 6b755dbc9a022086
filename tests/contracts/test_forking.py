"""Members that fork as they are ended. Bounded, and in a pid namespace of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import procs
from helpers.contracts import Holder

pytestmark = [pytest.mark.pidns, pytest.mark.timeout(120)]

ESCAPE = Path(__file__).parents[1] / "helpers" / "escape_tree.py"

# One process that forks and exits without end, each life as long as it takes to fork. After 20 s it gives up.
_HOPPER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec start, now, nap = {0, 1000L * atoi(argv[1])};
    int apart = argc > 2;
    signal(SIGTERM, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (fork() == 0) {
        if (write(1, "hopping\n", 8) != 8) _exit(1);
        do {
            if (fork()) _exit(0);
            if (apart) setsid();
            nanosleep(&nap, 0);
            clock_gettime(CLOCK_MONOTONIC, &now);
        } while (now.tv_sec - start.tv_sec < 20);
        _exit(0);
    }
    pause();
}
"""


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hopper")
    source, program = folder / "hopper.c", folder / "hopper"
    source.write_text(_HOPPER, encoding="ascii")
    try:
        subprocess.run(["cc", "-O1", "-o", str(program), str(source)], check=True, timeout=60, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    return program


def others() -> list[procs.Process]:
    """Hoppers that live."""
    return [one for one in procs.scan().values() if not one.dead and "hopper" in one.name]


@pytest.mark.parametrize("apart", ["", "apart"], ids=["one-group", "a-session-each"])
@pytest.mark.parametrize("nap", [5000, 0])
def test_who_is_never_the_same_for_long_is_ended(holder: Holder, hopper: Path, nap: int, apart: str) -> None:
    if apart and not nap and not holder.call("hello")["orphans_stay"]:
        pytest.skip(f"{holder.backend} does not promise it: _platform/posix.py says why")
    holder.hold([str(hopper), str(nap), *([apart] if apart else [])])
    assert holder.line() == "hopping"
    try:
        verdict = holder.end(grace=0.3)
        assert verdict["survivors"] == []
        assert others() == []
    finally:
        procs.wait_until(lambda: others() == [], 30)


@pytest.mark.parametrize("scope", ["main", "tree"])
def test_a_tree_that_tries_to_get_away_does_not(holder: Holder, scope: str) -> None:
    members = "ignorer,daemon,group,forker" if holder.call("hello")["orphans_stay"] else "ignorer,group,forker"
    holder.hold([sys.executable, "-E", "-s", "-S", str(ESCAPE), "--members", members, "--seconds", "60"])
    assert '"main"' in holder.line()
    verdict = holder.end(grace=0.4, scope=scope)
    assert verdict["survivors"] == []
    left = [one for one in procs.scan().values() if not one.dead and "escape_tree" in one.command]
    assert left == []
