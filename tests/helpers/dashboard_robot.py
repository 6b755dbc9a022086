"""A robot for the dashboard's tests and pictures: three processes, of which one is busy and one half so where a file
``busy`` lies in the working directory. All of them end by themselves after five minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

LIFETIME = 300.0  # seconds
TURN = 0.1
SHARES = {"vision": 0.72, "planner": 0.33}  # of a core


def work(share: float) -> None:
    """Be busy for a share of each turn."""
    end = time.monotonic() + LIFETIME
    while time.monotonic() < end:
        begun = time.process_time()
        while time.process_time() - begun < share * TURN:
            pass
        time.sleep((1 - share) * TURN)


def main() -> None:
    name = sys.argv[2] if len(sys.argv) > 2 else ""
    if name:
        work(SHARES[name] if os.path.exists("busy") else 0.01)
        return
    children = [subprocess.Popen([sys.executable, sys.argv[0], "--worker", name]) for name in SHARES]
    ballast = bytearray(24 << 20)
    try:
        begun = time.monotonic()
        while time.monotonic() - begun < LIFETIME:
            at = time.monotonic() - begun
            print(f"tick {at:6.1f}: goal {at % 7:.1f} m ahead, {len(ballast) >> 20} MiB of map held", flush=True)
            if len(ballast) < 96 << 20:
                ballast += bytes(512 << 10)
            time.sleep(1.0)
    finally:
        for child in children:
            child.kill()


if __name__ == "__main__":
    main()
