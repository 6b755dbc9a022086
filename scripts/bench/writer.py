"""A program that writes as fast as it may: ``writer.py KIND BYTES BELL [stay]``.

Run by the benchmark. KIND line: one 100-byte line a write(2), as an unbuffered program does; any other: 64 KiB a
write(2). When the last write has returned it writes the seconds it took to BELL. stay: then sleeps until it is ended.
"""

from __future__ import annotations

import os
import sys
import time

LINE = b"2026-01-01T00:00:00 worker-3 step=00001234 pose=(0.123,-4.567,8.910) load=0.42 ok, nothing to see.."
LINE = LINE[:99].ljust(99, b".") + b"\n"


def main() -> None:
    kind, size, bell = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    chunk = LINE if kind == "line" else (LINE * 656)[: 1 << 16]
    write, left = os.write, size
    begin = time.perf_counter()
    while left > 0:
        left -= write(1, chunk)
    seconds = time.perf_counter() - begin
    fd = os.open(bell, os.O_WRONLY)
    os.write(fd, f"{seconds:.6f}\n".encode())
    os.close(fd)
    if sys.argv[4:] == ["stay"]:
        time.sleep(600)


if __name__ == "__main__":
    main()
