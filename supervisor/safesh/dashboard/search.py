"""Searching with what somebody types, so that no expression can hold up the server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from safesh.errors import SafeshError

LONGEST = 2.0  # seconds
# An expression without repetition takes a time that its length bounds. Others may take for ever: "(a+)+$" does, and
# Python's engine holds all threads meanwhile, the one too that would end us. So those run where they can be ended.
_REPEATS = frozenset("*+?{(")
_CHILD = """
import json, re, sys
text, lines = json.load(sys.stdin)
search = re.compile(text, re.IGNORECASE).search
json.dump([number for number, line in enumerate(lines) if search(line)], sys.stdout)
"""


class SearchTooLong(SafeshError):
    """The expression did not come to an end (EX_TEMPFAIL)."""

    exit_code = 75


def matches(text: str, lines: Sequence[str]) -> list[int]:
    """The numbers of the lines that have it: a regular expression, upper and lower case alike; what is none, as when
    somebody still types, is taken as plain text. SearchTooLong after :data:`LONGEST`."""
    if not text:
        return list(range(len(lines)))
    try:
        search = re.compile(text, re.IGNORECASE).search
    except (re.error, OverflowError, RecursionError):
        search = re.compile(re.escape(text), re.IGNORECASE).search
    else:
        if _REPEATS & set(text):
            return _elsewhere(text, lines)
    return [number for number, line in enumerate(lines) if search(line)]


def _elsewhere(text: str, lines: Sequence[str]) -> list[int]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps([text, list(lines)]),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise SearchTooLong(
            f"{text!r} takes too long to search with", place="search", hint="type plain text, or a simpler expression"
        ) from None
    return [int(number) for number in json.loads(done.stdout)]
