"""The question before something is ended."""

from __future__ import annotations

import sys

from safesh.errors import UsageError


def confirm(question: str) -> bool:
    """Ask on the terminal; yes only for ``y`` or ``yes``. Ctrl-C and end of input mean no.

    UsageError where nobody can be asked. The question goes to stderr (stdout where only that is a terminal),
    so a piped stdout stays clean.
    """
    shown = next((stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None)
    if sys.stdin is None or not sys.stdin.isatty() or shown is None:
        raise UsageError(
            "this needs a yes, and there is no terminal to ask on",
            hint="say it on the command line: --force",
        )
    try:
        shown.write(f"{question} [y/N] ")
        shown.flush()
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        shown.write("\n")
        shown.flush()
    return answer.strip().lower() in ("y", "yes")
