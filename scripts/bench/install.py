"""Fetching the rivals into .venv-bench: nothing is installed on the machine, none of their services is enabled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from bench.stage import DEADLINE, ROOT, BenchError, Stage

FOLDER = ROOT / ".venv-bench"  # `make clean` removes it
NODE = FOLDER / "node"
DEBIAN = FOLDER / "debian"
LIBRARIES = DEBIAN / "lib"  # the shared libraries that this system lacks, and no other
SYSTEM_LIBRARIES = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
_VERSIONS = DEBIAN / "versions.json"
_DEADLINE = 300.0
_updated = False


def registry() -> dict[str, str]:
    """How this user reaches PyPI, npm and Debian."""
    wanted = ("pip_", "npm_", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert", "requests_ca",
              "node_extra_ca")  # fmt: skip
    found = {name: value for name, value in os.environ.items() if name.lower().startswith(wanted)}
    return {**found, "HOME": os.path.expanduser("~")}  # where pip's and npm's own settings may lie


def pypi(stage: Stage, *packages: str) -> None:
    """Into a virtual environment of safesh's own Python."""
    print(f"installing from PyPI into .venv-bench: {', '.join(packages)} ...", flush=True)
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "bin" / "pip").exists():
        stage.call([stage.python, "-m", "venv", str(FOLDER)], _DEADLINE)
    stage.call([str(python), "-m", "pip", "install", "-q", *packages], _DEADLINE, **registry())


def from_pypi(stage: Stage, package: str, command: str, install: bool) -> Path:
    """The folder with ``command``. BenchError: it isn't there, and why."""
    if not (FOLDER / "bin" / command).exists():
        if not install:
            raise BenchError("not installed; a full run installs it")
        pypi(stage, package)
    return FOLDER / "bin"


def from_npm(stage: Stage, package: str, command: str, install: bool) -> Path:
    """As :func:`from_pypi`, with the machine's own node and npm."""
    commands = NODE / "node_modules" / ".bin"
    for needed in ("node", "npm"):
        if shutil.which(needed) is None:
            raise BenchError(f"no {needed} here")
    if not (commands / command).exists():
        if not install:
            raise BenchError("not installed; a full run installs it")
        print(f"installing with npm into .venv-bench/node: {package} ...", flush=True)
        quiet = ("--no-fund", "--no-audit", "--omit=optional", "--no-update-notifier")
        stage.call(["npm", "install", "--prefix", str(NODE), *quiet, package], _DEADLINE, **registry())
    return commands


def from_debian(stage: Stage, package: str, command: str, install: bool) -> tuple[Path | None, str]:
    """(the folder with ``command``, its version); a folder of None: what PATH has."""
    commands = DEBIAN / "usr" / "bin"
    why = "not installed; a full run installs it"
    if not (commands / command).exists() and install:
        try:
            _download(stage, package)
        except BenchError as error:
            why = str(error).replace("\n", " ")[-300:]
    if (commands / command).exists():
        return commands, _versions().get(package, "")
    if shutil.which(command):
        query = ["dpkg-query", "--show", "--showformat=${Version}", package]
        known = shutil.which(query[0]) and subprocess.run(query, capture_output=True, text=True, timeout=DEADLINE)
        return None, known.stdout.strip() if known and not known.returncode else ""
    raise BenchError(why)


def library_path() -> dict[str, str]:
    """For a command of .venv-bench/debian: only where this system lacks a library, for it costs the loader a look."""
    lacking = LIBRARIES.is_dir() and any(not (SYSTEM_LIBRARIES / one.name).exists() for one in LIBRARIES.iterdir())
    return {"LD_LIBRARY_PATH": str(LIBRARIES)} if lacking else {}


def _versions() -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_VERSIONS.read_text())
    except FileNotFoundError:
        return {}
    return found


def _download(stage: Stage, package: str) -> None:
    """apt-get download and dpkg-deb --extract: no root is needed but for the list of packages."""
    global _updated
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise BenchError("no apt-get and dpkg-deb here")
    where = registry()
    first, _updated = not _updated, True
    if first and os.geteuid() == 0:
        print("apt-get update: the list of Debian's packages, for .venv-bench/debian ...", flush=True)
        stage.call(["apt-get", "update", "-qq"], _DEADLINE, **where)
    print(f"downloading from Debian into .venv-bench/debian, where it is only unpacked: {package} ...", flush=True)
    store = stage.folder / f"deb-{package}"
    store.mkdir()
    told = stage.call(["apt-cache", "depends", "--installed", "--important", package], _DEADLINE, **where)
    told += stage.call(["apt-cache", "depends", "--important", package], _DEADLINE, **where)
    words = {line.split()[-1] for line in told.splitlines() if "Depends:" in line}
    libraries = sorted(word for word in words if word.startswith("lib") and word != "libc6")
    script = 'cd "$1" && shift && exec apt-get download -qq "$@"'
    stage.call(["sh", "-c", script, "sh", str(store), package, *libraries], _DEADLINE, **where)
    versions = _versions()
    DEBIAN.mkdir(parents=True, exist_ok=True)
    for file in sorted(store.glob("*.deb")):
        name = stage.call(["dpkg-deb", "--field", str(file), "Package"]).strip()
        target = DEBIAN if name == package else store / f"x-{name}"
        target.mkdir(exist_ok=True)
        stage.call(["dpkg-deb", "--extract", str(file), str(target)], _DEADLINE)
        versions[name] = stage.call(["dpkg-deb", "--field", str(file), "Version"]).strip()
    _keep_lacking(stage, store)
    _VERSIONS.write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n")


def _keep_lacking(stage: Stage, store: Path) -> None:
    """Copy the shared libraries that nothing on this system provides."""
    for library in store.glob("x-*/**/*.so*"):
        found = stage.call(["sh", "-c", "PATH=$PATH:/sbin:/usr/sbin ldconfig -p || :"])
        if library.name not in found and not (LIBRARIES / library.name).exists():
            LIBRARIES.mkdir(exist_ok=True)
            shutil.copy2(library, LIBRARIES / library.name)
