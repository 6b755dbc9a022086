"""``linelogger.py FILE``: what many a supervisor in Python does with output, line by line into a rotated file."""

from __future__ import annotations

import os
import sys

_SIZE = 10 << 20


def main(path: str) -> None:
    file, size = open(path, "ab"), 0
    for line in sys.stdin.buffer:
        if size + len(line) > _SIZE:
            file.close()
            os.replace(path, path + ".1")
            file, size = open(path, "ab"), 0
        file.write(line)
        file.flush()  # a line that was written is there to be read
        size += len(line)
    file.close()


main(sys.argv[1])
