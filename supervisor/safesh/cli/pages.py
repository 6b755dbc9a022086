"""What the commands' pages say beyond the grammar's table: surroundings that several of them share.

A command that is not named here gets what suits all that read safe.toml.
"""

from __future__ import annotations

from safesh.cli import exec_help
from safesh.cli.grammar import VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    Rows = tuple[tuple[str, str], ...]

ABOUT = {"exec": exec_help.ABOUT}

FIRST_STEPS = (
    ("start headless", "a target of safe.toml, in this terminal"),
    ("start headless --detach", "in the background"),
    ("start backup -- rsync -a /data /mnt", "any command, at most once at a time"),
    ("status", "what runs here"),
    ("logs -f headless", "what it says"),
    ("stop headless", "end it whole"),
)

_VARIABLES = {
    "SAFESH_CONFIG": "the safe.toml to read where --config names none",
    "SAFESH_HOME": "where the state folders lie (default: $XDG_STATE_HOME/safesh, else ~/.local/state/safesh)",
    "SAFESH_BACKEND": "cgroup, subreaper or posix: how trees are held (default: the best there is; see doctor)",
    "SAFESH_RUN_ID": "set for the target, as are SAFESH_TARGET and SAFESH_INSTANCE: which run it belongs to",
    "SAFESH_VENV": "bin/safe.sh: the virtual environment (default: .venv in the checkout)",
    "SAFESH_PYTHON": "bin/safe.sh: the Python to make it with",
    "SAFESH_DEBUG": "1: a bug of ours shows its traceback",
    "NO_COLOR": "not empty: plain text, also on a terminal",
    "PATH": "where CMD is looked for",
    "SAFESH_CHROMIUM": "the Chromium for --browser (default: Playwright's own, else the system's)",
    "PIP_INDEX_URL": "with PIP_FIND_LINKS, PIP_NO_INDEX…: where pip finds packages",
    "UV_INDEX_URL": "with UV_FIND_LINKS, UV_OFFLINE…: where uv does, which is taken where it is installed",
}
_USUAL_VARIABLES = ("SAFESH_CONFIG", "SAFESH_HOME", "NO_COLOR")
_VARIABLES_OF = {
    "": ("SAFESH_CONFIG", "SAFESH_HOME", "SAFESH_BACKEND", "SAFESH_VENV", "SAFESH_PYTHON", "SAFESH_DEBUG", "NO_COLOR"),
    "start": ("SAFESH_CONFIG", "SAFESH_HOME", "SAFESH_BACKEND", "SAFESH_RUN_ID"),
    "restart": ("SAFESH_CONFIG", "SAFESH_HOME", "SAFESH_BACKEND", "SAFESH_RUN_ID"),
    "doctor": ("SAFESH_CONFIG", "SAFESH_HOME", "SAFESH_BACKEND", "NO_COLOR"),
    "export": ("SAFESH_CONFIG", "SAFESH_HOME", "SAFESH_BACKEND", "SAFESH_VENV", "PATH"),
    "exec": ("PATH",),
    "mission": ("SAFESH_HOME", "SAFESH_CHROMIUM", "PIP_INDEX_URL", "UV_INDEX_URL"),
    "completion": (),
    "help": ("NO_COLOR",),
    "init": ("SAFESH_CONFIG", "NO_COLOR"),
}

_FILES = {
    "safe.toml": "the targets; looked for here, then in each folder above",
    "INSTANCE.lock": "in the project's state folder: who holds the instance; never removed",
    "INSTANCE.json": "the status record; beside it INSTANCE.pid (the supervisor's) and INSTANCE.sock",
    "TARGET.log": "what it printed; rotated parts are TARGET.log.000001 and on",
    "events.jsonl": "what happened to the project's instances, one JSON object a line",
    "history.db": "in the project's state folder: runs and samples, SQLite; a damaged one is kept aside",
    "history.spool": "runs that the next look at the history takes in",
    ".missions/missions.jsonl": "in the state folder of all projects: what missions and the system used meanwhile",
    ".missions/environments/": "beside it: the environments, shared; the longest unused are removed first",
    "bin/safe-health.sh": "in the checkout: what a crontab calls every minute, where it is there",
}
_USUAL_FILES = ("safe.toml", "INSTANCE.lock", "INSTANCE.json")
_FILES_OF = {
    "": tuple(name for name in _FILES if not name.startswith(("bin/", ".missions/"))),
    "start": ("safe.toml", "INSTANCE.lock", "INSTANCE.json", "TARGET.log"),
    "logs": ("safe.toml", "TARGET.log"),
    "export": ("safe.toml", "bin/safe-health.sh"),
    "init": ("safe.toml",),
    "exec": (),
    "mission": (".missions/missions.jsonl", ".missions/environments/"),
    "completion": (),
    "help": (),
    "history": ("safe.toml", "history.db", "history.spool"),
}

_ALSO = {
    "start": ("stop", "status", "logs", "export"),
    "stop": ("kill-all", "restart", "status"),
    "restart": ("stop", "start", "status"),
    "status": ("logs", "doctor", "start", "stop"),
    "kill-all": ("stop", "status"),
    "logs": ("status", "start"),
    "history": ("status", "logs"),
    "top": ("status", "stop", "history"),
    "exec": ("start",),
    "mission": ("status", "stop", "logs", "run"),
    "doctor": ("status",),
    "export": ("start", "health", "status"),
    "completion": ("help",),
    "init": ("start", "doctor"),
    "health": ("status", "start", "export"),
    "metrics": ("status", "health"),
    "dashboard": ("top", "history", "run"),
}
_ELSEWHERE = {
    "start": "docs/config.md",
    "exec": "timeout(1), docs/exec.md",
    "export": "systemd.service(5), crontab(5)",
    "doctor": "docs/doctor.md",
    "init": "docs/config.md",
    "metrics": "docs/metrics.md",
    "mission": "docs/missions.md",
    "dashboard": "docs/dashboard.md",
}


def environment(verb: str) -> Rows:
    """(variable, meaning): those that matter to one command, or, for "", to all."""
    return tuple((name, _VARIABLES[name]) for name in _VARIABLES_OF.get(verb, _USUAL_VARIABLES))


def files(verb: str) -> Rows:
    """(file, meaning), likewise."""
    return tuple((name, _FILES[name]) for name in _FILES_OF.get(verb, _USUAL_FILES))


def see_also(verb: str) -> str:
    """Related commands and pages, in a line."""
    named = [f"safesh {name}" for name in _ALSO.get(verb, ()) if name in VERBS]
    more = _ELSEWHERE.get(verb, "")
    return ", ".join([*named, *([more] if more else [])]) or "README.md"


def exec_options() -> tuple[tuple[str, Rows], ...]:
    """(title, options) of ``exec``, which reads its words itself."""
    return exec_help.OPTIONS


def exec_codes() -> Rows:
    return exec_help.CODES
