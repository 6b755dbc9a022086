"""JSON for the lean processes.

``import json`` drags in ``re`` and ``enum`` (7 ms of start and 0.7 MiB in each long-lived
process). The C halves of it, in ``_json``, need neither, so records, events and control
messages go through here. Where ``_json`` is missing or changed, the standard module serves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What CPython's C scanner reads from the decoder that owns it."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def loads(text: str) -> Any:
    """The value of one JSON text; ValueError when it is not exactly one."""
    text = text.strip(" \t\r\n")
    try:
        from _json import make_scanner
    except ImportError:
        import json

        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None
    try:
        value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
    except StopIteration as stop:
        raise ValueError(f"not JSON at character {stop.value}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except SystemError:  # up to 3.12 the scanner takes its exception from json.decoder only where that is loaded
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError(f"not JSON: text after the value at character {end}")
    return value


def dumps(value: Any, indent: int = 0) -> str:
    """JSON text, ASCII only, keys in insertion order; ``indent`` > 0 spreads it over lines."""
    global _encoder
    if not indent:
        try:
            if _encoder is None:
                from _json import encode_basestring_ascii, make_encoder

                # markers, default, encoder, indent, separators, sort_keys, skipkeys, allow_nan: as json.dumps does
                _encoder = make_encoder(None, _to_dict, encode_basestring_ascii, None, ": ", ", ", False, False, False)
            return "".join(_encoder(value, 0))
        except (ImportError, TypeError, ValueError, RecursionError):
            pass  # another CPython's encoder; a number that is none; what cannot be written, which is told below
    parts: list[str] = []
    _encode(value, parts.append, "\n" if indent else "", " " * indent)
    return "".join(parts)


_encoder: Any = None


def _to_dict(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    raise TypeError


def _encode(value: Any, out: Any, newline: str, step: str) -> None:
    if isinstance(value, str):
        out(_quote(value))
    elif value is None:
        out("null")
    elif value is True:
        out("true")
    elif value is False:
        out("false")
    elif isinstance(value, int):
        out(int.__repr__(value))
    elif isinstance(value, float):
        # JSON has no NaN or infinity; a number nobody knows is null.
        finite = value == value and value not in (float("inf"), float("-inf"))
        out(float.__repr__(value) if finite else "null")
    elif isinstance(value, dict):
        _container(value.items(), "{", "}", out, newline, step)
    elif isinstance(value, (list, tuple)):
        _container(((None, item) for item in value), "[", "]", out, newline, step)
    elif hasattr(value, "to_dict"):
        _encode(value.to_dict(), out, newline, step)
    else:
        raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _container(items: Any, left: str, right: str, out: Any, newline: str, step: str) -> None:
    out(left)
    inner = newline + step if newline else ""
    first = True
    for key, item in items:
        out(inner if first else ("," + inner if inner else ", "))
        first = False
        if key is not None:
            out(_quote(key) + ": ")
        _encode(item, out, inner, step)
    out(right if first else newline + right)


def _quote(text: str) -> str:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        import json

        return json.dumps(text)
    quoted: str = encode_basestring_ascii(text)
    return quoted
