"""Procfiles, as foreman, honcho and Heroku read them: ``name: command``, one a line, run by a shell.

What the tools add to it is said in safe.toml: PORT (5000, then 100 more for each line), the variables of ``.env``,
the Procfile's folder as working directory, SIGTERM to everybody and SIGKILL after 5 s.
"""

from __future__ import annotations

import os
import re
import shlex

from safesh import _envfile
from safesh.errors import ConfigError
from safesh.importers import Origin, Plan, Target, name_for, near, read_file, shown_path

_ENTRY = re.compile(r"([A-Za-z0-9_-]+):\s*(.*)")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)
# A shell takes such a line to the same words that shlex does, and expands nothing in it.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./ \t'\"-]+")
# Words of the shell's own: no program's command line begins with one.
_WORDS = """
    if then else elif fi for while until do done case esac in function select time coproc { } ! [[ ]] . : alias bg bind
    break builtin caller cd command compgen complete continue declare dirs disown enable eval exec exit export fc fg
    getopts hash help history jobs let local logout mapfile popd pushd read readonly return set shift shopt source
    suspend times trap type typeset ulimit umask unalias unset wait
"""
_SHELL_OWN = frozenset(_WORDS.split())
_FIRST_PORT = 5000
_GRACE = "5s"


def looks_like_one(text: str) -> bool:
    """Whether every line that says anything is an entry."""
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and all(_ENTRY.fullmatch(line) for line in lines)


def plan(text: str, path: str, folder: str) -> Plan:
    """What the Procfile ``path`` describes, for a safe.toml in ``folder``."""
    found = Plan(source=shown_path(path), kind="procfile")
    found.comments.append("foreman and honcho stop everything once one process ends; here each target lives by itself.")
    home = os.path.dirname(path)
    if near(home, folder) != ".":
        found.defaults["cwd"] = near(home, folder)
    found.defaults |= {"stop.scope": "tree", "stop.grace": _GRACE}
    port, env_file = _options(found, home)
    port = _environment(found, home, folder, env_file, port)
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        origin = Origin(file=found.source, line=number, text=line)
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            found.note(origin, _why_not(line))
        elif not entry[2].strip():
            found.note(origin, "has no command")
        elif entry[1] in seen:
            found.note(origin, f"{entry[1]} is line {seen[entry[1]]} already; honcho refuses such a file")
        else:
            seen[entry[1]] = number
            found.add(_target(found, entry[1], entry[2], port, origin))
            port += 100
    return found


def _why_not(line: str) -> str:
    if line[0].isspace() and _ENTRY.fullmatch(line.strip()):
        return "begins with a blank, so foreman and honcho pass over it"
    if ":" in line and not line[0].isspace():
        return "its name is no name there (letters, digits, _ and -), so foreman and honcho pass over it"
    return "is no `name: command`, so foreman and honcho pass over it; a command cannot go on on the next line"


def _target(found: Plan, name: str, command: str, port: int, origin: Origin) -> Target:
    target = Target(name=name_for(name, found.targets), origin=origin)
    if target.name != name:
        target.comments.append(f"{origin.file}:{origin.line} calls it {name}.")
    if name == "release":
        target.comments.append("Heroku runs it once before each release; foreman and honcho start it with the rest.")
    env = {"PORT": str(port)}
    for variable in ("PS", "HONCHO_PROCESS_NAME"):  # foreman's and honcho's own, where it is asked for
        if re.search(rf"\$\{{?{variable}\b", command):
            env[variable] = f"{name}.1"
    words = _words(command)
    while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
        env[assignment[1]] = assignment[2]
        del words[0]
    if words and words[0] not in _SHELL_OWN:
        target.set("command", words)
    else:
        target.set("command", command)
        target.set("shell", True)
        env = {key: item for key, item in env.items() if key in ("PORT", "PS", "HONCHO_PROCESS_NAME")}
    target.set("env", env)
    return target


def _words(command: str) -> list[str]:
    """The argv, where a shell would do nothing but split the line; else none."""
    if not _PLAIN.fullmatch(command):
        return []
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    if command[:1] in ("'", '"'):  # a program's name, also with a "=" in it: rare enough to leave to the shell
        return []
    if words[:1] == ["exec"] and len(words) > 1 and not words[1].startswith("-"):
        del words[0]
    return words


def _options(found: Plan, home: str) -> tuple[int | None, str]:
    """(first port, env file) of foreman's own file of options, ``.foreman``."""
    path = os.path.join(home, ".foreman")
    port, env_file = None, ".env"
    if not os.path.lexists(path):
        return port, env_file
    try:
        text, private = read_file(path)
    except ConfigError as error:
        found.note(Origin(file=shown_path(path), line=1, text=".foreman"), error.message)
        return port, env_file
    found.private = found.private or private
    for number, line in enumerate(text.split("\n"), start=1):
        key, _, value = (part.strip() for part in line.partition(":"))
        if not key or key.startswith(("#", "---")):
            continue
        if key == "port" and value.isascii() and value.isdigit() and len(value) < 6:
            port = int(value)
        elif key == "env" and value and "," not in value:
            env_file = value.strip("'\"")
        else:
            origin = Origin(file=shown_path(path), line=number, text=line)
            found.note(origin, "an option of foreman that has no counterpart")
    return port, env_file


def _environment(found: Plan, home: str, folder: str, name: str, port: int | None) -> int:
    """Take the environment file in, if it is one that safesh reads; the first port."""
    path = os.path.join(home, name)
    variables: dict[str, str] = {}
    if os.path.lexists(path):
        try:
            variables = _envfile.read(path, shown_path(path))
            if "SAFESH_RUN_ID" in variables:
                raise ConfigError("sets SAFESH_RUN_ID, which only the supervisor sets", place=path)
            found.defaults["env_file"] = near(path, folder)
        except ConfigError as error:
            _, colon, digits = error.place.rpartition(":")
            line = int(digits) if colon and digits.isdigit() else 1
            reason = f"{error.message}; put that right, then add: env_file = {near(path, folder)!r}"
            found.note(Origin(file=shown_path(path), line=line, text=name), reason)
    given = variables.get("PORT", "")
    base = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else _FIRST_PORT
    return base if port is None else port
