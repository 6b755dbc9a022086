"""The data of ``init``'s tests: files as they are found in the world, each with what it describes.

A case is a folder of ``tests/data/imports``: the source, what lies beside it, ``describes.json`` (what runs once each
target is started, written by hand), ``expected.json`` (what the importer gives, kept to be looked at when it changes)
and, where the source asks for variables, ``environ.json``. The programs that the sources name are stand-ins that
say how they were called.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data" / "imports"
OURS = ("describes.json", "expected.json", "environ.json")
CASES = sorted(path.name for path in DATA.iterdir() if path.is_dir())

STAND_IN = """\
#!{python}
import json, os, signal, socket, sys
print("CALLED " + json.dumps({{"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}}), flush=True)
if "--notify" in sys.argv:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
signal.pause()
"""


class Case:
    """One case, copied into ``folder``; ``stubs``: the folder of the stand-ins, for PATH."""

    def __init__(self, name: str, folder: Path, stubs: Path) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self.folder = folder
        self.stubs = stubs
        shutil.copytree(DATA / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*OURS))
        for path in folder.rglob("*"):  # a checkout's modes are the umask's
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.describes: dict[str, dict[str, Any]] = self.data("describes.json")
        self.environ: dict[str, str] = self.data("environ.json")
        self.source = next(
            path for path in sorted(folder.rglob("*"), key=lambda one: len(one.parts)) if is_source(path)
        )

    def data(self, name: str) -> Any:
        file = DATA / self.name / name
        text = file.read_text(encoding="utf-8") if file.exists() else "{}"
        return json.loads(self.located(text))

    def located(self, text: str) -> str:
        """``HERE`` and ``HOME`` in the data as they are in this test."""
        return (
            text.replace("HERE", str(self.folder))
            .replace("HOME/", os.environ["HOME"] + "/")
            .replace('"HOME"', json.dumps(os.environ["HOME"]))
            .replace("in HOME quotes", f"in {os.environ['HOME']} quotes")
            .replace('"HOME;', f'"{os.environ["HOME"]};')
        )

    def portable(self, text: str) -> str:
        """The other way round, for what is written into the data."""
        return text.replace(str(self.folder), "HERE").replace(os.environ["HOME"], "HOME")

    def make_stand_ins(self) -> None:
        """A program for each name that the described commands begin with."""
        self.stubs.mkdir(exist_ok=True)
        for one in self.describes.values():
            program = one["argv"][0]
            file = self.folder / program if "/" in program else self.stubs / program
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(STAND_IN.format(python=sys.executable))
            file.chmod(0o755)
        for name in ("producer", "consumer", "helper"):
            file = self.stubs / name
            file.write_text("#!/bin/sh\nexit 0\n")
            file.chmod(0o755)


def is_source(path: Path) -> bool:
    return path.name.startswith("Procfile") or path.name == "supervisord.conf" or path.suffix == ".service"
