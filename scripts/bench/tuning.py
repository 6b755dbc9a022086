"""Documented settings beyond those of ``rivals/``, by which a rival shows its best, or its default, in a test of ours.

A hall has written its configuration when it is made, and reads it when it is opened; between the two it is edited.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench.rivals.base import Hall


def whole(hall: Hall) -> None:
    """For ending a program with all its processes.

    supervisord: stopasgroup and killasgroup send signals to the program's process group. circus: stop_children asks
    the children too. s6: lock-fd keeps a second supervisor from starting the program once more. pm2: treekill is its
    default. runit, monit and dumb-init (which signals a session of its own) have nothing to set; tini: see escape.py.
    """
    if hall.rival.name == "supervisord":
        _edit(_text(hall, "config"), r"^redirect_stderr=.*$", r"\g<0>\nstopasgroup=true\nkillasgroup=true")
    elif hall.rival.name == "circus":
        _edit(_text(hall, "config"), r"^copy_env = .*$", r"\g<0>\nstop_children = True")
    elif hall.rival.name == "s6":
        for run in (hall.folder / "scan").glob("*/run"):
            run.with_name("lock-fd").write_text("9\n")
            supervise = run.with_name("supervise")
            supervise.mkdir(mode=0o700)
            (supervise / "service-lock").touch(mode=0o600)  # 2.11 opens it without making it, and waits for a minute


def looping(hall: Hall) -> None:
    """For a program that fails at once: its default policy, where ``rivals/`` has another one for speed."""
    if hall.rival.name == "supervisord":
        _edit(_text(hall, "config"), r"^startsecs=0\n", "")
    elif hall.rival.name == "circus":
        _edit(_text(hall, "config"), r"^(max_retry|warmup_delay) = .*\n", "")
    elif hall.rival.name == "pm2":
        config = _text(hall, "config")
        described: dict[str, Any] = json.loads(config.read_text())
        for app in described["apps"]:
            for setting in ("min_uptime", "max_restarts", "restart_delay"):
                app.pop(setting, None)
        config.write_text(json.dumps(described))


def _text(hall: Hall, attribute: str) -> Path:
    return Path(getattr(hall, attribute))


def _edit(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
    if not count:
        raise ValueError(f"{file.name}: nothing to edit with {pattern}")
    file.write_text(text)
