"""What a look at a 10-process tree costs before and after a crowd of unrelated processes came: pid 1 of a namespace.

``python crowd.py NUMBER``: one JSON line ``{"alone": seconds, "crowded": seconds, "crowd": NUMBER}``. Bounded: NUMBER
processes, all ended with their pid namespace when this one ends, and by an alarm if it does not.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys

LIMIT = 60


def sleepers(number: int) -> int:
    """A process with ``number`` children; its pid, once all are there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT)
        for _ in range(number):
            if os.fork() == 0:
                signal.alarm(LIMIT)
                os.close(writing)
                while True:
                    signal.pause()
        os.close(writing)
        while True:
            signal.pause()
    os.close(writing)
    os.read(reading, 1)  # the end of the file: the last copy of the other end is closed
    os.close(reading)
    return pid


def main() -> int:
    from safesh.metrics.sampler import TreeSampler

    if os.getpid() != 1:
        print("crowd.py: only as pid 1 of a pid namespace of its own", file=sys.stderr)
        return 2
    signal.alarm(LIMIT)
    number = int(sys.argv[1])
    sampler = TreeSampler(sleepers(9), exact_every=0)

    def cost() -> float:
        costs = []
        for _ in range(200):
            sample = sampler.sample()
            assert sample is not None
            assert sample.processes == 10
            costs.append(sampler.cost_seconds)
        return statistics.median(costs)

    cost()
    alone = cost()
    sleepers(number)
    print(json.dumps({"alone": alone, "crowded": cost(), "crowd": number}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
