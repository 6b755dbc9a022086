"""``safe.sh exec``: an init for one command. docs/exec.md is its manual.

Everything after the word ``exec`` comes here untouched: options end at the first word that is none.
"""

from __future__ import annotations

import os

from safesh.core import init, initwait, signals
from safesh.errors import SafeshError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable
else:
    import _signal

TIMEOUT_FAILED = 125  # timeout(1): timeout itself failed
_TIMEOUT_OPTIONS = ("--timeout", "--timeout-signal", "--kill-after", "--preserve-status")
_SUFFIXES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def main(argv: list[str]) -> int:
    """Run ``argv`` (options, then the command); the exit status. Nothing but --help and --version writes to stdout."""
    caller = initwait.take_over()  # before all else: a signal from here on is CMD's
    initwait.fill_stdio()
    try:
        options, wanted = parse(argv)
        if wanted:
            return _show(wanted)
        return init.run(options, caller, _say)
    except SafeshError as error:
        if isinstance(error, UsageError) and error.hint:
            _say(f"{error} ({error.hint})")
        else:
            _say(str(error))
            if error.hint:
                _say(error.hint)
        if error.exit_code in (126, 127):
            return error.exit_code
        return TIMEOUT_FAILED if _asks_timeout(argv) else error.exit_code


def parse(argv: list[str]) -> tuple[init.Options, str]:
    """(options with the command, "") or (…, "help" or "version"). UsageError names the option that is wrong."""
    options = init.Options()
    rest = list(argv)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if word in ("--help", "-h", "--version"):
            return options, "version" if word == "--version" else "help"
        if name in _FLAGS:
            if equals:
                raise UsageError(f"{name} takes no value", hint=f"write {name}")
            _FLAGS[name](options)
        elif name in _VALUES:
            if not equals:
                if not rest:
                    raise UsageError(f"{name} needs a value", hint="safe.sh exec --help")
                value = rest.pop(0)
            _VALUES[name](options, value)
        else:
            raise UsageError(f"unknown option {name}", hint=_closest(name, [*_FLAGS, *_VALUES, "--help", "--version"]))
    if not rest:
        raise UsageError("no command given", hint="safe.sh exec [options] [--] CMD ARGS…")
    options.command = rest
    return options, ""


def parse_duration(text: str, place: str) -> float:
    """Seconds as timeout(1) reads them: what strtod(3) takes, then s, m, h or d; inf is huge, 0 is none."""
    number, factor = text, 1.0
    if _strtod(text) is None and text[-1:] in _SUFFIXES:
        number, factor = text[:-1], _SUFFIXES[text[-1]]
    value = _strtod(number)
    if value is None or not value >= 0:  # nan is neither
        raise UsageError(
            f"{text!r} is not a duration", place=place, hint="write seconds or a number with s, m, h or d, such as 1.5m"
        )
    return value * factor


def _strtod(text: str) -> float | None:
    # float() takes more than strtod(3): blanks after the number, underscores, digits of other scripts.
    if not text or text[-1].isspace() or "_" in text or not text.isascii():
        return None
    try:
        value = float(text)
    except ValueError:
        if "x" not in text.lower():
            return None
        try:
            value = float.fromhex(text)
        except ValueError:
            return None
        except OverflowError:
            value = float("inf")
    mantissa = text.lower().partition("p" if "x" in text.lower() else "e")[0]
    if value == 0 and any(digit in "123456789abcdef" for digit in mantissa):
        return 5e-324  # too small for a float, but not 0, which would mean no limit at all
    return value


def _duration(name: str) -> Callable[[init.Options, str], None]:
    return lambda options, value: setattr(options, name[2:].replace("-", "_"), parse_duration(value, name))


def _choice(name: str, *allowed: str) -> Callable[[init.Options, str], None]:
    def store(options: init.Options, value: str) -> None:
        if value not in allowed:
            raise UsageError(f"{value!r} is none of {', '.join(allowed)}", place=name, hint=_closest(value, allowed))
        setattr(options, name[2:].replace("-", "_"), value)

    return store


def _flag(name: str, value: bool = True) -> Callable[[init.Options], None]:
    return lambda options: setattr(options, name, value)


def _signal_number(text: str, place: str, *, none: bool = False) -> int:
    if none and text.upper() in ("0", "EXIT"):
        return 0
    try:
        return signals.number(text)
    except (SafeshError, ValueError):
        names = [name.removeprefix("SIG") for name in signals.NUMBERS]
        raise UsageError(
            f"{text!r} is not a signal", place=place, hint=_closest(text.upper().removeprefix("SIG"), names)
        ) from None


def _store_rewrite(options: init.Options, value: str) -> None:
    received, colon, sent = value.partition(":")
    if not colon:
        raise UsageError(f"{value!r} is not SIG:SIG", place="--rewrite", hint="such as TERM:INT, or HUP:0 to drop HUP")
    source = _signal_number(received, "--rewrite")
    if source in (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD):
        raise UsageError(f"{signals.name(source)} is never sent on, so it cannot be rewritten", place="--rewrite")
    options.rewrite[source] = _signal_number(sent, "--rewrite", none=True)


def _store_ok_exit(options: init.Options, value: str) -> None:
    if not (value.isascii() and value.isdecimal() and int(value) <= 255):
        raise UsageError(f"{value!r} is not an exit status", place="--ok-exit", hint="write a number from 0 to 255")
    options.ok_exit.add(int(value))


def _store_pdeathsig(options: init.Options, value: str) -> None:
    options.pdeathsig = _signal_number(value, "--pdeathsig")


def _store_timeout_signal(options: init.Options, value: str) -> None:
    options.timeout_signal = _signal_number(value, "--timeout-signal", none=True)


_FLAGS: dict[str, Callable[[init.Options], None]] = {
    "--no-subreaper": _flag("subreaper", False),
    "--warn-reap": _flag("warn_reap"),
    "--preserve-status": _flag("preserve_status"),
    "--verbose": _flag("verbose"),
    "-v": _flag("verbose"),
}
_VALUES: dict[str, Callable[[init.Options, str], None]] = {
    "--scope": _choice("--scope", "group", "child"),
    "--session": _choice("--session", "new", "pgrp", "keep"),
    "--rewrite": _store_rewrite,
    "--on-exit": _choice("--on-exit", "term", "leave", "end"),
    "--ok-exit": _store_ok_exit,
    "--pdeathsig": _store_pdeathsig,
    "--timeout": _duration("--timeout"),
    "--timeout-signal": _store_timeout_signal,
    "--kill-after": _duration("--kill-after"),
}


def _asks_timeout(argv: list[str]) -> bool:
    """Whether a script that speaks timeout(1)'s codes wrote this line; looked for before the first ``--``."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word.partition("=")[0] in _TIMEOUT_OPTIONS for word in words)


def _closest(word: str, known: Iterable[str]) -> str:
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {found[0]}?" if found else "safe.sh exec --help lists what there is"


def _show(what: str) -> int:
    if what == "version":
        from safesh import __version__

        text = f"safe.sh {__version__}\n"
    else:
        from safesh.cli import grammar, manual

        text = manual.page(grammar.VERBS["exec"])
    data = text.encode()
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        _say(f"standard output: {error.strerror}")
        return 1
    return 0


def _say(text: str) -> None:
    """One line on stderr, or nothing where it cannot be taken: an init never waits for a reader."""
    import select

    try:
        watch = select.poll()
        watch.register(2, select.POLLOUT)
        if watch.poll(0):
            os.write(2, f"safe.sh exec: {text}\n".encode(errors="surrogateescape"))
    except OSError:
        pass
