"""Interpreters that nobody else maps, for figures of memory."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import NamedTuple

from bench.stage import Stage


class Loner(NamedTuple):
    """An interpreter whose program text nobody else maps, and what the environment needs for it."""

    python: str
    changes: dict[str, str]


def loner(stage: Stage, name: str) -> Loner:
    """Copy the interpreter (and its shared library, where it has one).

    PSS divides a shared page by all who map it. This benchmark runs in Python too, and so may half the machine; with
    a copy of its own each contestant is charged in full, whoever else runs.
    """
    folder = stage.folder / f"python-{name}"
    stage.call([stage.python, "-m", "venv", "--copies", "--without-pip", str(folder)])
    # Its libraries are those of the other one: reading safe.toml needs them.
    packages = next((folder / "lib").glob("python*/site-packages"))
    packages.rmdir()
    packages.symlink_to(next((Path(stage.python).parents[1] / "lib").glob("python*/site-packages")))
    changes = {}
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
        shutil.copy(library, folder / "lib")
        changes = {"LD_LIBRARY_PATH": str(folder / "lib")}
    return Loner(str(folder / "bin" / "python"), changes)
