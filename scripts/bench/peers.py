"""Whom the sections about targets and about the process API are compared with, and why somebody is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.install import FOLDER, pypi
from bench.rivals.base import Rival
from bench.rivals.small import DumbInit, Tini
from bench.rivals.supervisord import Supervisord
from bench.stage import BenchError, Stage

LIBRARIES = ("sh", "plumbum", "invoke", "anyio", "pexpect")  # that start programs, as safesh's process API does
_VERSIONS = """
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Peers:
    """What could be found. missing[name] says why one could not."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.supervisord: Supervisord | None = None
        self.wrappers: dict[str, Rival] = {}  # tini, dumb-init
        self.python = ""  # the interpreter that has the libraries; "" where there is none
        self.libraries: list[str] = []  # those of LIBRARIES that it has

    def has(self, name: str) -> bool:
        return name in self.versions


def find(stage: Stage, *, install: bool, use: bool = True) -> Peers:
    """Look for every rival. install: fetch who is not here (install.py)."""
    peers = Peers()
    if not use:
        peers.missing = dict.fromkeys(
            ("supervisord", "tini", "dumb-init", "timeout", *LIBRARIES), "not asked for (--no-peers)"
        )
        return peers
    if timeout := shutil.which("timeout"):
        peers.versions["timeout"] = stage.call([timeout, "--version"]).partition("\n")[0].strip()
    else:
        peers.missing["timeout"] = "not installed"
    for kind in (Tini, DumbInit, Supervisord):
        try:
            rival = kind.find(stage, install)
        except (BenchError, OSError) as error:
            peers.missing[kind.name] = str(error).replace("\n", " ")[-300:]
            continue
        peers.versions[kind.name] = f"{kind.name} {rival.version}"
        if isinstance(rival, Supervisord):
            peers.supervisord = rival
        else:
            peers.wrappers[kind.name] = rival
    _find_libraries(stage, peers, install)
    return peers


def _find_libraries(stage: Stage, peers: Peers, install: bool) -> None:
    """And psutil, which safesh's own environment has as well."""
    python = FOLDER / "bin" / "python"
    wanted = [*LIBRARIES, "psutil"]
    why = "not installed; a full run installs it"
    found = _versions(stage, python, wanted)
    lacking = [name for name in wanted if name not in found]
    if lacking and install:
        try:
            pypi(stage, *lacking)
        except BenchError as error:
            why = str(error).replace("\n", " ")[-300:]
        found = _versions(stage, python, wanted)
    usable = "psutil" in found
    peers.missing |= {name: why for name in LIBRARIES if not usable or name not in found}
    if usable:
        peers.python = str(python)
        peers.libraries = [name for name in LIBRARIES if name in found]
        peers.versions |= {name: f"{name} {found[name]}" for name in wanted if name in found}


def _versions(stage: Stage, python: Path, names: list[str]) -> dict[str, str]:
    if not python.exists():
        return {}
    found: dict[str, str] = json.loads(stage.call([str(python), "-c", _VERSIONS, *names]))
    return found
