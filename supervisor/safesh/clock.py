"""Time and size: reading clocks, and the durations and sizes that people write.

Deadlines use :func:`monotonic`, which no clock step moves. Wall time is only ever shown.
"""

from __future__ import annotations

import time

from safesh.errors import ConfigError

monotonic = time.monotonic
wall = time.time

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    for _suffix in (_letter, _letter + "b", _letter + "ib"):
        _BYTES[_suffix] = 1024**_power


def parse_duration(value: object, place: str = "") -> float:
    """Seconds from ``5``, ``"1.5s"``, ``"10m"``, ``"1h30m"`` (units ms s m h d w; a bare number is seconds).

    Raises ConfigError, naming ``place``, for anything else, negatives included.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < float("inf"):
            return float(value)
    elif isinstance(value, str):
        total = _sum_of_units(value.strip().lower(), _SECONDS, "s")
        if total is not None:
            return total
    raise ConfigError(
        f"{value!r} is not a duration",
        place=place,
        hint='write seconds or a number with ms, s, m, h, d or w, such as "1.5s" or "1h30m"',
    )


def parse_size(value: object, place: str = "") -> int:
    """Bytes from ``1048576``, ``"10M"``, ``"1.5GiB"`` (K, M, G, T are powers of 1024).

    Raises ConfigError, naming ``place``, for anything else, negatives included.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str):
        number, unit = _split_number(value.strip().lower().replace(" ", ""))
        if number is not None and unit in _BYTES:
            return int(number * _BYTES[unit])
    raise ConfigError(
        f"{value!r} is not a size",
        place=place,
        hint='write bytes or a number with K, M, G or T, such as "10M" or "1.5GiB"',
    )


def format_duration(seconds: float) -> str:
    """Two units at most: ``0.4s``, ``12s``, ``3m 12s``, ``2h 5m``, ``4d 1h``."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
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
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _split_number(text: str) -> tuple[float | None, str]:
    cut = 0
    while cut < len(text) and (text[cut].isdigit() or text[cut] == "."):
        cut += 1
    try:
        number = float(text[:cut])
    except ValueError:
        return None, text
    return (number if number < float("inf") else None), text[cut:]


def _sum_of_units(text: str, units: dict[str, float], bare: str) -> float | None:
    total = 0.0
    seen = False
    while text:
        number, rest = _split_number(text)
        if number is None:
            return None
        cut = 0
        while cut < len(rest) and rest[cut].isalpha():
            cut += 1
        unit, text = rest[:cut], rest[cut:].strip()
        if not unit and not seen and not text:
            unit = bare
        if unit not in units:
            return None
        total += number * units[unit]
        seen = True
    return total if seen else None
