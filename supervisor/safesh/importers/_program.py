"""One process of a ``[program:x]`` of supervisord.conf as one target."""

from __future__ import annotations

import math
import os
import pwd
import re
import shlex
from collections.abc import Callable
from typing import Any

from safesh.importers import Plan, Target, duration, near, shellwords, size
from safesh.importers.inifile import Option

TRUE = ("yes", "true", "on", "1")
FALSE = ("no", "false", "off", "0")
UNKNOWN = "supervisord has no such option and passes over it"
_SHOW = "output goes to safesh's log: safe.sh logs NAME"


class Values(dict[str, Any]):
    """What ``%(…)s`` may name. environment: what ENV_… has besides supervisord's own; folder: safe.toml's;
    directory: supervisord's working directory, "" where it does not change it."""

    def __init__(
        self,
        values: dict[str, Any],
        *,
        environment: dict[str, str] | None = None,
        folder: str = "",
        directory: str = "",
    ) -> None:
        super().__init__(values)
        self.environment = environment or {}
        self.folder = folder
        self.directory = directory

    def __missing__(self, key: str) -> str:
        if not re.fullmatch(r"ENV_[A-Za-z_][A-Za-z0-9_]*", key):
            raise KeyError(key)
        return self.environment.get(key[4:], shellwords.mark(key[4:]))


_WIDE = re.compile(r"%(?:\([^)]*\))?[#0 +-]*(?:\d{4}|\d*\.\d{4})")  # a few bytes that stand for gigabytes


def located(option: Option) -> str:
    """The option's text with the folder of its file put in, which is not that of the main file in an included one."""
    return option.text.replace("%(here)s", option.folder.replace("%", "%%"))


def expand(text: str, names: Values) -> str:
    """``%(name)s`` put in; variables that only the start knows are marked. ValueError as supervisord would."""
    if _WIDE.search(text.replace("%%", "")):
        raise ValueError("a width of thousands of characters")
    try:
        return text % names
    except KeyError as error:
        raise ValueError(f"supervisord has no %({error.args[0]})s") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}; a percent sign is written %%") from None


def pairs(text: str) -> dict[str, str]:
    """``KEY="val",KEY2=val2`` as supervisord reads it; ValueError for anything else."""
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():" + shellwords.OPEN + shellwords.CLOSE
    tokens = list(lexer)
    found: dict[str, str] = {}
    for index in range(0, len(tokens), 4):
        item = tokens[index : index + 3]
        if len(item) != 3 or item[1] != "=":
            raise ValueError('expected KEY="value",KEY2="value2"')
        found[item[0]] = item[2].strip("'\"")
    return found


def translate(plan: Plan, target: Target, options: dict[str, Option], names: Values) -> None:
    """Fill the target in; what it cannot say is noted in the plan."""
    texts: dict[str, str] = {}
    for name, option in options.items():
        if name == "process_name":
            continue
        try:
            text = located(option)
            texts[name] = text if name == "environment" else expand(text, names)
        except ValueError as error:
            plan.note(option.origin, f"cannot be expanded: {error}", target.name)
    _command(plan, target, options, texts, names)
    _restart(plan, target, options, texts)
    _stop(plan, target, options, texts)
    _log(plan, target, options, texts)
    for name, text in texts.items():
        if name in _HANDLED:
            continue
        asks_nothing, reason = _OTHERS.get(name, (None, UNKNOWN))
        if name == "user":
            if not _is_me(text):
                plan.offer(target, "user", text, options[name].origin)
        elif name == "umask":
            plan.offer(target, "umask", text, options[name].origin)
        elif asks_nothing is None or not asks_nothing(text.strip().lower()):
            plan.note(options[name].origin, reason, target.name)


def _is_me(user: str) -> bool:
    """Whether the change of user would change nothing; who is not root cannot change it at all."""
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return False
    return uid == os.geteuid()


def _false(text: str) -> bool:
    return text in FALSE


def _true(text: str) -> bool:
    return text in TRUE


def _zero(text: str) -> bool:
    return text.rstrip("kmgb") in ("0", "")


# option -> (whether a value asks for no more than safesh does anyway, what is said of any other)
_OTHERS: dict[str, tuple[Callable[[str], bool] | None, str]] = {
    "autostart": (_false, "a target is started by name: safe.sh start NAME --detach"),
    "priority": (None, "nothing orders the starts; start what others need first"),
    "killasgroup": (_true, "whoever is left of the whole tree is always killed"),
    "redirect_stderr": (_true, "stdout and stderr share one log"),
    "stdout_capture_maxbytes": (_zero, "supervisord's capture mode has no counterpart"),
    "stderr_capture_maxbytes": (_zero, "supervisord's capture mode has no counterpart"),
    "stdout_events_enabled": (_false, "supervisord's events have no counterpart"),
    "stderr_events_enabled": (_false, "supervisord's events have no counterpart"),
    "stdout_syslog": (_false, _SHOW),
    "stderr_syslog": (_false, _SHOW),
    "stdout_logfile": (lambda text: text == "auto", _SHOW),
    "stderr_logfile": (lambda text: text == "auto", _SHOW),
    "stderr_logfile_maxbytes": (None, "stdout and stderr share one log"),
    "stderr_logfile_backups": (None, "stdout and stderr share one log"),
    "serverurl": (lambda text: text == "auto", "there is no supervisord to talk to"),
}
_HANDLED = {
    "command", "directory", "environment", "numprocs", "numprocs_start", "autorestart", "exitcodes", "startsecs",
    "startretries", "stopsignal", "stopwaitsecs", "stopasgroup", "stdout_logfile_maxbytes", "stdout_logfile_backups",
}  # fmt: skip


def _command(plan: Plan, target: Target, options: dict[str, Option], texts: dict[str, str], names: Values) -> None:
    """The command, its environment and folder; through a shell where a variable has to be put in at the start."""
    environment: dict[str, str] = {}
    if "environment" in texts:
        try:
            environment = pairs(expand(texts["environment"], names))
        except ValueError as error:
            plan.note(options["environment"].origin, f"cannot be read: {error}", target.name)
    everything = {**names.environment, **environment}
    static = {key: value for key, value in everything.items() if shellwords.OPEN not in value}
    dynamic = {key: shellwords.parts(value) for key, value in everything.items() if key not in static}
    origin = options["command"].origin
    try:
        # Once more, for the program's own environment counts in its command. What only the start knows has been
        # exported by then, so its own name stands for it.
        words = shellwords.split(expand(located(options["command"]), Values(names, environment=static)))
    except ValueError as error:
        if "command" in texts:  # else it has been said
            plan.note(origin, f"cannot be split: {error}; supervisord refuses it", target.name)
        return
    if static:
        target.set("env", static, options["environment"].origin if "environment" in options else None)
    # One export: every value is put together before any of them counts, as in supervisord.
    exports = " ".join(f"{key}={shellwords.shell([word], required=True)}" for key, word in dynamic.items())
    before = [f"export {exports}"] if exports else []
    where = texts.get("directory", names.directory)
    if shellwords.OPEN in where:
        before.append(f"cd {shellwords.shell([shellwords.parts(where)], required=True)}")
    elif where:
        place = os.path.expanduser(where) if where.startswith("~") else where
        target.set(
            "cwd",
            near(os.path.join(names.folder, place), names.folder),
            options["directory"].origin if "directory" in options else None,
        )
    argv = shellwords.plain(words)
    if argv is not None and not before:
        target.set("command", argv, origin)
        return
    if shellwords.splits(words):
        before.insert(0, "set -f")
    line = " && ".join([*before, "exec " + shellwords.shell(words, required=True)])
    target.set("command", line, origin)
    target.set("shell", True, origin)


def _number(
    plan: Plan, target: Target, options: dict[str, Option], texts: dict[str, str], key: str, default: int
) -> int:
    try:
        return int(texts.get(key, default))
    except ValueError:
        plan.note(options[key].origin, "is not a whole number; supervisord refuses it", target.name)
        return default


def _restart(plan: Plan, target: Target, options: dict[str, Option], texts: dict[str, str]) -> None:
    """autorestart and the retries, as policy, backoff and start limit."""
    policy = texts.get("autorestart", "unexpected").strip().lower()
    restart = "always" if policy in TRUE else "no" if policy in FALSE else "on-failure"
    if restart == "on-failure" and policy != "unexpected":
        plan.note(
            options["autorestart"].origin, "is none of true, false, unexpected; supervisord refuses it", target.name
        )
    codes = {word.strip() for word in texts.get("exitcodes", "0").split(",")} - {""}
    if restart == "on-failure" and codes != {"0"}:
        plan.offer(
            target, "ok exits", sorted(int(code) for code in codes if code.isdigit()), options["exitcodes"].origin
        )
    seconds = max(0, _number(plan, target, options, texts, "startsecs", 1))
    retries = max(0, _number(plan, target, options, texts, "startretries", 3))
    if "startsecs" in texts and seconds:
        reason = "a target runs once its program is executed"
        plan.note(
            options["startsecs"].origin, reason + "; the time is part of start_limit" * (restart != "no"), target.name
        )
    if restart == "no":
        if "startretries" in texts and retries:
            plan.note(
                options["startretries"].origin, "a start that fails is not tried again: restart = no", target.name
            )
        return
    target.set("restart", restart, options["autorestart"].origin if "autorestart" in options else None)
    # supervisord waits 1, 2, 3 … seconds between failed starts, nothing after a run that lasted startsecs. A run
    # counts as a failed start here when all of them together fit the window.
    longest = max(1, retries)
    waits = sum(min(longest, 2**step) for step in range(min(retries, 60)))
    origin = options["startretries"].origin if "startretries" in options else None
    target.set("backoff.max", duration(longest), origin)
    target.set("start_limit.count", retries + 1, origin)
    target.set("start_limit.window", duration(max(1, math.ceil(retries * seconds + waits * 1.1))), origin)


def _stop(plan: Plan, target: Target, options: dict[str, Option], texts: dict[str, str]) -> None:
    if "stopsignal" in texts:
        name = texts["stopsignal"].strip().upper()
        signal: int | str = int(name) if name.isdigit() else name if name.startswith("SIG") else "SIG" + name
        if signal not in ("SIGTERM", 15):
            target.set("stop.signal", signal, options["stopsignal"].origin)
    if "stopwaitsecs" in texts:
        seconds = _number(plan, target, options, texts, "stopwaitsecs", 10)
        target.set("stop.grace", duration(max(0, seconds)), options["stopwaitsecs"].origin)
    if texts.get("stopasgroup", "false").strip().lower() in TRUE:
        target.set("stop.scope", "tree", options["stopasgroup"].origin)


def _log(plan: Plan, target: Target, options: dict[str, Option], texts: dict[str, str]) -> None:
    if "stdout_logfile_maxbytes" in texts:
        option = options["stdout_logfile_maxbytes"]
        found = re.fullmatch(r"(\d+)\s*(kb|mb|gb)?", texts["stdout_logfile_maxbytes"].strip().lower())
        if found:
            target.set(
                "log.size",
                size(int(found[1]) * {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}.get(found[2], 1)),
                option.origin,
            )
        else:
            plan.note(option.origin, "is no size; supervisord refuses it", target.name)
    if "stdout_logfile_backups" in texts:
        option = options["stdout_logfile_backups"]
        keep = _number(plan, target, options, texts, "stdout_logfile_backups", 10)
        if keep < 1:
            plan.note(option.origin, "keeps no rotated file; here one is the least", target.name)
        target.set("log.keep", max(1, keep), option.origin)
