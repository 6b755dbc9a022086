"""The environment as we were given it."""

from __future__ import annotations

import os

from safesh import _platform


def inherited() -> dict[str, str]:
    """``os.environ`` without what Python's own start put there: LC_CTYPE in the C locale (PEP 538)."""
    env = dict(os.environ)
    if env.get("LC_CTYPE", "").upper() in ("C.UTF-8", "UTF-8"):
        given = _platform.environ(os.getpid())
        if given is not None and "LC_CTYPE" not in given:
            del env["LC_CTYPE"]
    return env
