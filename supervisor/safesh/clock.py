"""Time and size: reading clocks, and the durations and sizes that people write.

Deadlines use :func:`monotonic`, which no clock step moves. Wall time is only ever shown.
"""

from __future__ import annotations

import time

from safesh.errors import ConfigError

monotonic = time.monotonic
wall = time.time

_LARGEST = 1e300  # seconds; sums and products of it stay finite where they are used
LONGEST_WAIT = 1e9  # seconds: more than anybody waits, and every system call takes it
_LONGEST_SHOWN = 1e15  # seconds; damaged files tell of infinity
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    for _suffix in (_letter, _letter + "b", _letter + "ib"):
        _BYTES[_suffix] = 1024**_power


def milliseconds(seconds: float) -> float:
    """What poll(2) takes, an int of C, so that it does not wake too early; whatever people wrote."""
    return min(max(0.0, seconds) * 1000 + 1, 2**31 - 1)


def sleep(seconds: float) -> None:
    """Sleep so long, to the millisecond. By poll(2): under a library that fakes the time (libfaketime 0.9.10) the
    clock_nanosleep(2) of ``time.sleep`` fails with EINVAL, whatever it is asked for."""
    import select

    select.poll().poll(milliseconds(seconds))


def parse_duration(value: object, place: str = "") -> float:
    """Seconds from ``5``, ``"1.5s"``, ``"10m"``, ``"1h 30m"`` (units ms s m h d w; a bare number is seconds).

    Raises ConfigError, naming ``place``, for anything else, negatives and infinities included.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Python's int may be too large for a float, and comparing the two is exact; NaN compares false.
        if 0 <= value <= _LARGEST:
            return abs(float(value))  # -0.0 becomes 0.0
    elif isinstance(value, str):
        total = _sum_of_units(value.strip().lower())
        if total is not None and total <= _LARGEST:
            return total
    raise ConfigError(
        f"{shown(value)} is not a duration",
        place=place,
        hint='write seconds or a number with ms, s, m, h, d or w, such as "1.5s" or "1h30m"',
    )


def parse_size(value: object, place: str = "") -> int:
    """Bytes from ``1048576``, ``"10M"``, ``"1.5GiB"`` (K, M, G, T are powers of 1024), less than 2**63.

    Raises ConfigError, naming ``place``, for anything else, negatives and fractions of a byte included.
    """
    size: float = -1
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        digits, unit = _split_number(value.strip().lower())
        number, factor = _number(digits), _BYTES.get(unit, 0)
        if number is not None and number < 1e19 and factor:
            # Whole numbers stay whole: a float would round above 2**53.
            size = int(digits) * factor if digits.isdigit() else number * factor
            size = int(size) if factor > 1 else size
    if 0 <= size < 1 << 63 and size == int(size):
        return int(size)
    raise ConfigError(
        f"{shown(value)} is not a size",
        place=place,
        hint='write bytes or a number with K, M, G or T, such as "10M" or "1.5GiB"',
    )


def shown(value: object) -> str:
    """``repr`` for a message: one short line, whatever the value (Python refuses to print huge integers)."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def format_duration(seconds: float) -> str:
    """Two units at most: ``0.4s``, ``12s``, ``3m 12s``, ``2h 5m``, ``4d 1h``."""
    seconds = min(max(0.0, seconds), _LONGEST_SHOWN)
    if seconds < 9.95:  # above it "10.0s" would be shown
        return f"{seconds:.1f}s"
    whole = max(10, int(seconds))
    for size, name, lower, lower_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // lower
            return f"{whole // size}{name} {rest}{lower_name}" if rest else f"{whole // size}{name}"
    return f"{whole}s"


def format_size(size: float) -> str:
    """``512 B``, ``1.5 KiB``, ``20 MiB``, ``3.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_time(seconds: float) -> str:
    """Local time of a wall-clock reading, ``2026-11-21 14:03:09``."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # no clock's reading: a damaged file said so
        return "?"


def _split_number(text: str) -> tuple[str, str]:
    """The number that ``text`` begins with, and what follows, blanks between them dropped."""
    cut = _digits(text, 0)
    if text[cut : cut + 1] == "e":
        sign = cut + 1 + (text[cut + 1 : cut + 2] in ("+", "-"))
        if (end := _digits(text, sign)) > sign:
            cut = end
    return text[:cut], text[cut:].lstrip(" \t")


def _digits(text: str, start: int) -> int:
    while start < len(text) and text[start] in "0123456789.":
        start += 1
    return start


def _number(digits: str) -> float | None:
    # 400 digits: more than any float holds, and fewer than Python's limit for an integer's text.
    if len(digits) > 400:
        return None
    try:
        return float(digits)
    except ValueError:
        return None


def _sum_of_units(text: str) -> float | None:
    total = 0.0
    seen = False
    while text:
        digits, rest = _split_number(text)
        number = _number(digits)
        if number is None:
            return None
        cut = 0
        while cut < len(rest) and rest[cut].isalpha():
            cut += 1
        unit, text = rest[:cut], rest[cut:].lstrip(" \t")
        if not unit and not seen and not text:
            unit = "s"
        if unit not in _SECONDS:
            return None
        total += number * _SECONDS[unit]
        seen = True
    return total if seen else None
