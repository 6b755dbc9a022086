"""Signals by name and number, without the ``enum`` that ``import signal`` brings.

Handlers only record; loops act. ``_signal`` is the C module behind ``signal`` and gives plain integers.
"""

from __future__ import annotations

from safesh.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

NUMBERS: dict[str, int] = {
    name: int(getattr(_signal, name))
    for name in dir(_signal)
    if name.startswith("SIG") and not name.startswith("SIG_") and name not in ("SIGCLD", "SIGPOLL", "SIGIOT")
}
NAMES: dict[int, str] = {value: name for name, value in NUMBERS.items() if name not in ("SIGRTMIN", "SIGRTMAX")}

# Sent on to a target: everything a process can catch and that is not about our own children.
FORWARDABLE: tuple[int, ...] = tuple(
    n for n in sorted(NAMES) if 1 <= n <= 31 and n not in (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD)
)


def number(text: str | int, place: str = "") -> int:
    """The number of ``SIGTERM``, ``TERM``, ``term`` or ``15``; ConfigError otherwise."""
    if isinstance(text, int) or (text.isascii() and text.isdigit()):
        value = int(text)
        if 1 <= value < _signal.NSIG:
            return value
    else:
        upper = text.upper()
        value = NUMBERS.get(upper if upper.startswith("SIG") else "SIG" + upper, 0)
        if value:
            return value
        base, plus, offset = upper.partition("+")
        if plus and offset.isascii() and offset.isdigit() and base in ("SIGRTMIN", "RTMIN"):
            value = int(_signal.SIGRTMIN) + int(offset)
            if value <= _signal.SIGRTMAX:
                return value
    raise ConfigError(
        f"{text!r} is not a signal", place=place, hint="use a name such as SIGTERM or HUP, or a number from 1 to 31"
    )


def name(value: int) -> str:
    """``SIGTERM`` for 15; ``SIGRTMIN+3`` or ``signal 99`` where there is no name."""
    if value in NAMES:
        return NAMES[value]
    if _signal.SIGRTMIN <= value <= _signal.SIGRTMAX:
        return f"SIGRTMIN+{value - _signal.SIGRTMIN}"
    return f"signal {value}"
