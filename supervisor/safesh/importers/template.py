"""The commented safe.toml that ``init`` writes where there is nothing to translate: every key, taught.

Which keys there are is the schema's word: a row below whose key it does not have, or whose value it refuses, is left
out, and a key without a row is shown with the schema's own description.
"""

from __future__ import annotations

from typing import Any, get_args

from safesh import importers
from safesh.importers import toml_writer

# (keys and the values to show, what they are for). A value is the default unless the text calls it an example.
Row = tuple[dict[str, Any], str]
_ROWS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    ("What runs", (
        ({"shell": False}, "true: `command`, a string, is run by /bin/sh -c. Pipes, globs and variables need that."),
        ({"cwd": "."}, "Working directory, from this file's folder; ~ is your home."),
        ({"env": {"MODE": "test"}}, "Variables added to the starter's environment. An example:"),
        ({"env_file": ".env"}, "A file of NAME=value lines, read at each start; `env` wins over it. An example:"),
        ({"tty": False}, "true: the target gets the terminal of a foreground start: job control, window size."),
    )),
    ("Exactly once", (
        ({"instance": "app"}, "What the lock guards: of targets with one instance at most one runs. "
         "Default: the target's name. An example:"),
        ({"match": "*python* *app.py"}, "Tells a copy that was started by hand: words of its command line, where * is "
         "any run of characters in a word. kill-all ends what it fits. An example:"),
        ({"lock_file": "~/.app.lock", "pid_file": "~/.app.pid"},
         "Other places than the state folder for the lock and the pid file. Examples:"),
        ({"depends_on": []}, "Targets that must be ready before this one starts, and that outlive it."),
    )),
    ("When it ends by itself", (
        ({"restart": "no"}, 'Start it again? "no", "on-failure" (unless it exited 0) or "always".'),
        ({"backoff.initial": "1s", "backoff.factor": 2.0, "backoff.max": "60s", "backoff.jitter": 0.1},
         "The wait before a restart: initial, times factor each time, up to max; a share of jitter more or less."),
        ({"start_limit.count": 5, "start_limit.window": "60s"},
         "More starts than count within window, and the target has failed. count 0: no limit."),
    )),
    ("How it is stopped", (
        ({"stop.signal": "SIGTERM", "stop.scope": "main", "stop.grace": "10s"},
         'The signal that asks it to end; who gets it, "main" (the program) or "tree" (every process of it); and the '
         "time until whatever is left of the tree is killed."),
        ({"signals": {"SIGHUP": "SIGUSR1", "SIGQUIT": ""}},
         'Rewrites signals that are sent on; "" drops one. An example:'),
    )),
    ("When it is ready: one kind of probe. Without, as soon as the program has been executed", (
        ({"ready.http": "http://127.0.0.1:8080/health", "ready.status": "200-399", "ready.body": "ok"},
         "A URL that answers with a good status, and a body that contains this regular expression. An example:"),
        ({"ready.tcp": "127.0.0.1:8080"}, "A port that accepts a connection. An example:"),
        ({"ready.command": ["test", "-S", "app.sock"]}, "A command that exits 0. An example:"),
        ({"ready.heartbeat": "app.heartbeat", "ready.max_age": "30s"},
         "A file that the run touches, not older than max_age. An example:"),
        ({"ready.log": "listening on port [0-9]+"}, "A regular expression that a line of its output has. An example:"),
        ({"ready.notify": False}, "true: the target says so itself by systemd's sd_notify protocol."),
        ({"ready.interval": "0.5s", "ready.timeout": "5s", "ready.within": "60s"},
         "Time between two tries, for one try, and until a target that is not ready has failed."),
    )),
    ("Whether it is healthy, once it is ready: the same kinds of probe", (
        ({"health.http": "http://127.0.0.1:8080/health", "health.status": "200-399", "health.body": "ok"},
         "A URL, as for ready. An example:"),
        ({"health.tcp": "127.0.0.1:8080"}, "A port. An example:"),
        ({"health.command": ["test", "-S", "app.sock"]}, "A command. An example:"),
        ({"health.heartbeat": "app.heartbeat", "health.max_age": "30s"}, "A file that must stay young. An example:"),
        ({"health.notify": False}, "true: WATCHDOG=1 by sd_notify, at least every max_age."),
        ({"health.interval": "30s", "health.timeout": "5s", "health.retries": 3, "health.start_period": "0s"},
         "Time between two checks and for one; failures in a row that make it unhealthy; time after readiness in "
         "which failures do not count."),
        ({"health.on_unhealthy": "restart"}, 'What is done then: "restart", "stop" or "notify".'),
    )),
    ("What it may use: each a number, or a table as that of cpu", (
        ({"limits.memory": "512M", "limits.max_runtime": "12h", "limits.processes": 100, "limits.open_files": 1000,
          "limits.log_growth": "10M"},
         "Memory of the whole tree, length of a run, processes, descriptors of one, output a minute. Examples:"),
        ({"limits.cpu": {"most": 90, "for": "30s", "action": "warn"}},
         "Percent of one core, passed without a break for so long. An example:"),
        ({"limits.interval": "2s", "limits.action": "restart"},
         'Time between two samples; what is done for a limit that names nothing: "warn", "stop" or "restart".'),
    )),
    ("Who is told", (
        ({"notify": [{"on": ["failed", "unhealthy"], "command": ["logger", "-t", "safesh"], "timeout": "10s",
                      "retries": 2, "every": "60s"}]},
         "The event comes as JSON on standard input. Without `on` it is every event. An example:"),
    )),
    ("Its log", (
        ({"log.size": "10M", "log.keep": 5}, "Rotated at size (0: never); keep rotated files stay (0: all)."),
        ({"log.compress": False, "log.timestamps": False},
         "gzip rotated files; stamp each line, which costs a copy through the supervisor."),
    )),
)  # fmt: skip
_HEAD = """\
# safe.toml: what `safe.sh start TARGET` may run. Found by walking up from the working directory.
# Try it as it is: safe.sh start app
# and from a second terminal: safe.sh status, safe.sh logs -f app, safe.sh stop app
#
# Every key is below. A line that begins with # and no blank is a key you may switch on: it shows the default, or
# an example where the text above it says so.
# Durations: 5 (seconds), "1.5s", "10m", "1h 30m". Sizes: 1048576 (bytes), "10M", "1.5GiB".
# Signals: "SIGTERM", "term", 15. Relative paths start at this file's folder.

# Names the folder of state files. Default: this folder's name. An example:
#project = "myproject"

# Keys under [defaults] are those of every target; a target's own win. There may be any number of targets.
[targets.app]
# A list runs as it is. A string is split as a shell splits it, and still run without a shell.
command = ["sh", "-c", "echo 'Edit safe.toml to run your own program.'; exec sleep 3600"]
"""


def text() -> str:
    """The whole file."""
    left = {key: default for key, default in importers.schema_keys().items() if key != "command"}
    lines = [_HEAD]
    for title, rows in _ROWS:
        shown: list[str] = []
        for values, about in rows:
            known = {key: item for key, item in values.items() if _fits(key, item)}
            if not known:
                continue
            if about:
                shown.append(toml_writer.comment(about))
            shown += [f"#{key} = {toml_writer.value(item, spread=False)}" for key, item in known.items()]
            for key in known:
                left = {one: default for one, default in left.items() if one != key and not one.startswith(key + ".")}
        if shown:
            lines.append("\n".join([f"# --- {title} ---", *shown, ""]))
    if left:
        lines.append("\n".join(["# --- And ---", *(line for key in left for line in _generic(key, left[key])), ""]))
    return "\n".join(lines)


def _fits(key: str, item: Any) -> bool:
    return importers.schema_has(key) and not importers.problem_of(key, item)


def _generic(key: str, default: Any) -> list[str]:
    """A key that no row teaches: what it expects, and its default where that can be written."""
    about = f"{key}: {_expected(key)}."
    if default is None or importers.problem_of(key, default):
        return [toml_writer.comment(about)]
    return [toml_writer.comment(about), f"#{key} = {toml_writer.value(default, spread=False)}"]


def _expected(key: str) -> str:
    """The schema's description of a key, empty where it has none."""
    from msgspec import Meta, structs

    from safesh import _schema

    struct: Any = _schema.Target
    for part in key.split("."):
        struct = next(field.type for field in structs.fields(struct) if field.name == part)
    meta = next((item for item in get_args(struct)[1:] if isinstance(item, Meta)), None)
    return (meta.description if meta else None) or "see docs/config.md"
