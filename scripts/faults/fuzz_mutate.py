"""Inputs from inputs: seeded mutations of valid ones, and a shrinker for what fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

LONGEST = 200_000
_SHRINK_SECONDS = 5.0
_BYTES = b"\0\n\r\t \"'\\[]{}()=:,.#;%$*-+0199AZaz\x1b\x7f\x80\xc2\xff"


def mutate(rng: random.Random, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> bytes:
    """A new input; all chance is drawn from ``rng``."""
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.choice((0, 1, 7, 100, 5000)))
    if kind < 0.12 and words:
        return b"".join(rng.choice(words) for _ in range(rng.randrange(1, 30)))[:LONGEST]
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6, 15))):
        _once(rng, data, seeds, words)
    return bytes(data[:LONGEST])


def _once(rng: random.Random, data: bytearray, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 5, 20, 100)))
    what = rng.randrange(10)
    if what == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif what == 1:
        data[at:at] = bytes((rng.choice(_BYTES),))
    elif what == 2:
        del data[at:end]
    elif what == 3:
        data[at:at] = data[at:end] * rng.choice((1, 2, 10, 100))
    elif what == 4:
        del data[at:]
    elif what == 5:
        other = rng.choice(seeds)
        cut = rng.randrange(len(other) + 1)
        data[at:] = other[cut:]
    elif what == 6 and b"\n" in data:
        lines = bytes(data).split(b"\n")
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        data[:] = b"\n".join(lines)
    elif what == 7:  # another number
        starts = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
        if starts:
            place = rng.choice(starts)
            data[place : place + 1] = rng.choice((b"", b"-1", b"9" * 20, b"1e999", b"0.1", b"4294967296"))
    elif words:
        data[at : at if rng.random() < 0.6 else end] = rng.choice(words)


def shrink(data: bytes, fails: Callable[[bytes], bool], most: int = 400) -> bytes:
    """A smaller input that still fails, after at most ``most`` tries and some seconds."""
    size = max(1, len(data) // 2)
    tries = 0
    ends = time.monotonic() + _SHRINK_SECONDS
    while size >= 1 and tries < most:
        at, smaller = 0, False
        while at < len(data) and tries < most:
            if time.monotonic() > ends:
                return data
            tries += 1
            less = data[:at] + data[at + size :]
            if fails(less):
                data, smaller = less, True
            else:
                at += size
        if not smaller:
            size //= 2
    return data
