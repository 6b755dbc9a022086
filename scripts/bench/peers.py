"""The rivals: which of them are here, in what version, and how they are set up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from bench.stage import DEADLINE, ROOT, BenchError, Stage

FOLDER = ROOT / ".venv-bench"  # the rivals' own virtual environment; `make clean` removes it
_INSTALLING = 300.0
_PACKAGES = {"tini": "tini", "dumb-init": "dumb-init"}
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
        self.supervisor = ""  # the bin folder with supervisord and supervisorctl
        self.python = ""  # the interpreter that has the libraries; "" where there is none
        self.libraries: list[str] = []  # those of LIBRARIES that it has

    def has(self, name: str) -> bool:
        return name in self.versions


def find(stage: Stage, *, install: bool, install_debian: bool, use: bool = True) -> Peers:
    """Look for every rival. install: fetch what PyPI has; install_debian: tini and dumb-init with apt-get."""
    peers = Peers()
    if not use:
        peers.missing = dict.fromkeys(
            ("supervisord", "tini", "dumb-init", "timeout", *LIBRARIES), "not asked for (--no-peers)"
        )
        return peers
    if install_debian:
        _apt_get()
    for name in ("tini", "dumb-init", "timeout"):
        path = shutil.which(name)
        if path is None:
            hint = "; --install-peers installs it" if name in _PACKAGES else ""
            peers.missing[name] = f"not installed{hint}"
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=DEADLINE)
        peers.versions[name] = (said.stdout or said.stderr).partition("\n")[0].strip()
    try:
        peers.supervisor = _supervisor(stage, install)
        version = stage.call([f"{peers.supervisor}/supervisord", "--version"], DEADLINE).strip()
        peers.versions["supervisord"] = f"supervisord {version}"
    except (BenchError, OSError) as error:
        peers.supervisor = ""
        peers.missing["supervisord"] = str(error).replace("\n", " ")[-300:]
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
        print(f"installing from PyPI into .venv-bench: {', '.join(lacking)} ...", flush=True)
        try:
            if not python.exists():
                stage.call([stage.python, "-m", "venv", str(FOLDER)], _INSTALLING)
            stage.call([str(python), "-m", "pip", "install", "-q", *lacking], _INSTALLING, **proxies())
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


def _supervisor(stage: Stage, install: bool) -> str:
    commands = FOLDER / "bin"
    if not (commands / "supervisorctl").exists():
        if not install:
            raise BenchError("not installed; a full run installs it")
        print("installing Supervisor from PyPI into .venv-bench ...", flush=True)
        try:
            stage.call([stage.python, "-m", "venv", str(FOLDER)], _INSTALLING)
            stage.call([str(commands / "python"), "-m", "pip", "install", "-q", "supervisor"], _INSTALLING, **proxies())
        except BaseException:
            shutil.rmtree(FOLDER, ignore_errors=True)
            raise
    return str(commands)


def proxies() -> dict[str, str]:
    """How this user reaches PyPI."""
    wanted = ("pip_", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert", "requests_ca")
    found = {name: value for name, value in os.environ.items() if name.lower().startswith(wanted)}
    return {**found, "HOME": os.path.expanduser("~")}  # where pip's own configuration may lie


def _apt_get() -> None:
    wanted = [package for name, package in _PACKAGES.items() if shutil.which(name) is None]
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("--install-peers needs root and apt-get; going on without " + ", ".join(wanted))
        return
    print("installing with apt-get: " + ", ".join(wanted), flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", *wanted]):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            print(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            return


class Supervisord:
    """A supervisord of our own for a ``with`` block. programs: name -> its lines in the configuration."""

    def __init__(self, stage: Stage, peers: Peers, programs: dict[str, str], python: str = "", **changes: str) -> None:
        """python: another interpreter to run it with, for which ``changes`` to the environment find its modules."""
        self.stage = stage
        self.folder = Path(stage.folder) / f"supervisord-{time.monotonic_ns()}"
        self.folder.mkdir()
        self.config = str(self.folder / "conf")
        self.changes = changes
        self._daemon = [python, "-m", "supervisor.supervisord"] if python else [f"{peers.supervisor}/supervisord"]
        self._control = [f"{peers.supervisor}/supervisorctl", "-c", self.config]
        self._write(programs)

    def _write(self, programs: dict[str, str]) -> None:
        socket = self.folder / "sock"
        text = (
            f"[unix_http_server]\nfile={socket}\n[supervisord]\nnodaemon=true\n"
            f"logfile={self.folder}/log\npidfile={self.folder}/pid\nchildlogdir={self.folder}\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{socket}\n"
        )
        for name, lines in programs.items():
            text += f"[program:{name}]\nstartsecs=0\nredirect_stderr=true\n{lines}\n"
        Path(self.config).write_text(text)

    def control(self, *words: str) -> list[str]:
        return [*self._control, *words]

    def __enter__(self) -> Self:
        self.child = self.stage.begin([*self._daemon, "-c", self.config], **self.changes)
        limit = time.monotonic() + DEADLINE
        while True:
            try:
                self.stage.call(self.control("pid"), DEADLINE)
                return self
            except BenchError:
                if self.child.poll() is not None or time.monotonic() > limit:
                    self.__exit__()
                    raise
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.stage.end(self.child, 30.0)
        shutil.rmtree(self.folder, ignore_errors=True)
