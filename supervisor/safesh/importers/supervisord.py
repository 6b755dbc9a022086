"""supervisord.conf: every ``[program:x]`` as targets, ``[supervisord]``'s environment and folder, ``[include]``.

Checked against Supervisor 4.3 (its manual's "Configuration File" and its parser). Variables ``%(ENV_X)s`` are
supervisord's at its start; here a shell puts them in when the target starts.
"""

from __future__ import annotations

import glob
import os
import socket

from safesh.errors import ConfigError
from safesh.importers import Plan, Target, _program, name_for, read_file, shown_path
from safesh.importers import inifile as ini
from safesh.importers._program import Values, expand, located, pairs

# Sections that set up supervisord itself and its remote control.
_ITS_OWN = {
    "unix_http_server": "supervisord's control socket; safesh has its own",
    "inet_http_server": "supervisord's control port; safesh listens on no port",
    "supervisorctl": "supervisorctl's settings; safe.sh finds its targets by itself",
    "rpcinterface": "a part of supervisord's remote control",
    "ctlplugin": "a plug-in of supervisorctl",
    "eventlistener": "an event listener speaks supervisord's protocol on its stdin; it is not started",
    "fcgi-program": "needs a listening socket as its stdin, which safesh does not open; it is not started",
}
# Options of [supervisord], but environment and directory.
_DAEMON = {
    "umask": "safe.toml has no umask; the starter's is inherited",
    "user": "targets run as whoever starts them: sudo -u USER safe.sh start NAME",
    "nodaemon": "with --detach a target runs in the background, without it in the foreground",
    "minfds": "nobody raises the limit of open files; set it before: ulimit -n",
    "minprocs": "nobody raises the limit of processes; set it before: ulimit -u",
    "strip_ansi": "logs keep what the target wrote, escape sequences too",
    "identifier": "names supervisord, which is not there any more; a project's name is its folder's",
}
_LIMIT = 200  # processes of one program


def plan(text: str, path: str, folder: str) -> Plan:
    """What supervisord.conf ``path`` describes, for a safe.toml in ``folder``."""
    found = Plan(source=shown_path(path), kind="supervisord")
    found.comments.append("supervisord starts its programs by itself; a target is started by name: safe.sh start NAME")
    file = ini.File()
    home = os.path.dirname(path)
    ini.parse(text, found.source, home, file)
    _include(found, file, home)
    for origin in file.broken:
        found.note(origin, "is neither a section nor `name = value`; supervisord refuses such a file")
    for option, later in file.overridden:
        found.note(option.origin, f"is said again in {later.file}:{later.line}, which counts")
    names = Values({"here": home, "host_node_name": socket.gethostname()})
    daemon = _daemon(found, file, names, folder)
    groups = _groups(found, file)
    shared = file.sections.get("DEFAULT")
    for section in file.sections.values():
        kind, colon, name = section.name.partition(":")
        if kind == "program" and colon:
            whole = ini.Section(name=section.name, origin=section.origin, options=dict(section.options))
            if shared is not None:  # RawConfigParser's: its options belong to every section
                whole.options = {**shared.options, **section.options}
            _copies(found, whole, name.strip(), groups.get(name.strip(), ""), names, daemon)
        elif kind in _ITS_OWN:
            found.note(section.origin, _ITS_OWN[kind])
        elif kind not in ("supervisord", "group", "DEFAULT"):
            found.note(section.origin, "supervisord has no such section")
    if shared is not None and not any(name.startswith("program:") for name in file.sections):
        found.note(shared.origin, "there is no program that it could be for")
    return found


def _include(found: Plan, file: ini.File, home: str) -> None:
    """Read the files that ``[include]`` names; supervisord does so for the first file only."""
    section = file.sections.pop("include", None)
    if section is None:
        return
    for name, option in section.options.items():
        if name != "files":
            found.note(option.origin, "[include] knows files only")
    files = section.options.get("files")
    if files is None:
        found.note(section.origin, "has no files; supervisord refuses such a file")
        return
    names = Values({"here": home, "host_node_name": socket.gethostname()}, environment=dict(os.environ))
    try:
        patterns = expand(located(files), names).split()
    except ValueError as error:
        found.note(files.origin, f"cannot be expanded: {error}")
        return
    for pattern in patterns:
        paths = sorted(glob.glob(os.path.join(home, pattern)))
        if not paths:
            found.note(files.origin, f"no file matches {pattern}")
        for path in paths:
            try:
                text, private = read_file(path)
            except ConfigError as error:
                found.note(files.origin, f"{shown_path(path)} {error.message}")
                continue
            found.private = found.private or private
            ini.parse(text, shown_path(path), os.path.dirname(path), file)
            if nested := file.sections.pop("include", None):
                found.note(nested.origin, "included files cannot include others")


def _daemon(found: Plan, file: ini.File, names: Values, folder: str) -> Values:
    """What ``[supervisord]`` gives to every program: the environment, the folder; the rest is noted."""
    section = file.sections.get("supervisord")
    environment: dict[str, str] = {}
    where = ""
    for name, option in section.options.items() if section else ():
        if name == "environment":
            try:
                environment = pairs(expand(located(option), names))
            except ValueError as error:
                found.note(option.origin, f"cannot be read: {error}")
        elif name == "directory":
            nodaemon = section.options.get("nodaemon") if section else None
            if nodaemon is not None and nodaemon.text.lower() in _program.TRUE:
                found.note(option.origin, "has no effect with nodaemon = true")
                continue
            try:
                where = expand(located(option), names)
            except ValueError as error:
                found.note(option.origin, f"cannot be expanded: {error}")
        else:
            found.note(
                option.origin, _DAEMON.get(name, "configures supervisord itself, which safesh takes the place of")
            )
    return Values(names, environment=environment, folder=folder, directory=where)


def _groups(found: Plan, file: ini.File) -> dict[str, str]:
    """The group of each program that is in one."""
    groups: dict[str, str] = {}
    for section in file.sections.values():
        kind, colon, group = section.name.partition(":")
        if kind != "group" or not colon:
            continue
        for name, option in section.options.items():
            if name != "programs":
                found.note(option.origin, "safesh has no groups to order" if name == "priority" else _program.UNKNOWN)
                continue
            members = [word.strip() for word in option.text.split(",") if word.strip()]
            groups.update({member: group.strip() for member in members})
            found.note(option.origin, f"safesh has no groups; name the targets: safe.sh stop {' '.join(members)}")
            for member in members:
                if f"program:{member}" not in file.sections and f"fcgi-program:{member}" not in file.sections:
                    found.note(option.origin, f"there is no program {member}")
        if "programs" not in section.options:
            found.note(section.origin, "has no programs; supervisord refuses such a file")
    return groups


def _copies(found: Plan, section: ini.Section, name: str, group: str, names: Values, daemon: Values) -> None:
    """One target for each process of the program."""
    options = section.options

    def number(key: str, default: int) -> int:
        option = options.get(key)
        if option is None:
            return default
        try:
            return int(option.text)
        except ValueError:
            found.note(option.origin, "is not a whole number; supervisord refuses it")
            return default

    count, first = number("numprocs", 1), number("numprocs_start", 0)
    if count > _LIMIT:
        found.note(options["numprocs"].origin, f"{count} processes: only the first {_LIMIT} are translated")
        count = _LIMIT
    if count < 1:
        found.note(options["numprocs"].origin, "there is no process of it")
    if "command" not in options:
        found.note(section.origin, "has no command; supervisord refuses it")
        return
    pattern = options.get("process_name")
    if count > 1 and (pattern is None or "%(process_num)" not in pattern.text):
        found.note(options["numprocs"].origin, "process_name has to contain %(process_num)s; supervisord refuses it")
        count = 1
    for process in range(first, first + count):
        known = Values(
            {
                **names,
                "program_name": name,
                "group_name": group or name,
                "process_num": process,
                "numprocs": number("numprocs", 1),
            },
            environment=daemon.environment,
            folder=daemon.folder,
            directory=daemon.directory,
        )
        called = name
        if pattern is not None:
            try:
                called = expand(pattern.text, known)
            except ValueError as error:
                found.note(pattern.origin, f"cannot be expanded: {error}")
        raw = called if name in called else f"{name}-{called}"
        target = Target(name=name_for(raw, found.targets), origin=section.origin)
        if group:
            target.comments.append(f"supervisord calls it {group}:{called}.")
        elif target.name != called:
            target.comments.append(f"supervisord calls it {name}:{called}." if called != name else f"It was {name!r}.")
        _program.translate(found, target, options, known)
        found.add(target)
