"""A small checkout in a folder of its own: our real bin/ and scripts/, a stub for safesh, no libraries.

Its PATH holds only what the test puts there, so no test sees this machine's uv or Pythons unasked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BASE_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
DEADLINE = 120.0  # seconds that a bootstrap may take on a busy machine

_STUB = """\
import json, os, sys
if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]
import safesh
if sys.argv[1:2] == ["cat"]:
    sys.stdout.write(sys.stdin.read())
else:
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = None
    json.dump({"argv": sys.argv[1:], "cwd": cwd, "python": sys.executable, "main": os.path.realpath(__file__),
               "env": dict(os.environ), "flags": [sys.flags.ignore_environment, sys.flags.no_site]}, sys.stdout)
"""

# Makes an environment in a hundredth of the time: no ensurepip, no Python. `uv pip install` only unpacks wheels that
# make_wheel put into $UV_FIND_LINKS.
_QUICK_UV = """\
#!{bash}
set -e
case $1 in
  venv)
    place=${{@: -1}}
    mkdir -p "$place/bin" "$place/lib/{version}/site-packages"
    for name in python python3 {version}; do {ln} -s {python} "$place/bin/$name"; done
    printf 'home = %s\\ninclude-system-site-packages = false\\nversion = {full}\\n' {bin} >"$place/pyvenv.cfg" ;;
  pip)
    [[ -n ${{UV_FIND_LINKS:-}} ]] || exit 0
    while [[ $1 != --python ]]; do shift; done
    exec {python} -I -m zipfile -e "$UV_FIND_LINKS/$3-1.0-py3-none-any.whl" \
      "${{2%/bin/python}}/lib/{version}/site-packages" ;;
  *) exit 2 ;;
esac
"""


class Checkout:
    """One such checkout, in ``root``; ``path`` is the folder that is its PATH."""

    def __init__(self, folder: Path, *, quick: bool = True) -> None:
        self.root = folder / "a checkout"
        self.path = folder / "path"
        self.home = folder / "home"
        for made in (self.root / "supervisor" / "safesh", self.root / "bin", self.path, self.home):
            made.mkdir(parents=True)
        shutil.copy(REPOSITORY / "bin" / "safe.sh", self.root / "bin")
        (self.root / "scripts").mkdir()
        for name in ("bootstrap.sh", "bootstrap.py"):
            shutil.copy(REPOSITORY / "scripts" / name, self.root / "scripts")
        self.safe = self.root / "bin" / "safe.sh"
        self.venv = self.root / ".venv"
        self.setup_cfg = self.root / "setup.cfg"
        self.require()
        (self.root / "supervisor" / "safesh" / "__init__.py").write_text("")
        (self.root / "supervisor" / "safesh" / "__main__.py").write_text(_STUB)
        for tool in ("bash", "env", "readlink", "sed", "mkdir", "cat"):
            self.offer(tool, _which(tool))
        self.offer("python3", BASE_PYTHON)
        if quick:
            self.script(
                "uv",
                _QUICK_UV.format(
                    bash=_which("bash"),
                    ln=_which("ln"),
                    python=BASE_PYTHON,
                    bin=os.path.dirname(BASE_PYTHON),
                    version=f"python{sys.version_info.major}.{sys.version_info.minor}",
                    full=".".join(map(str, sys.version_info[:3])),
                ),
            )

    def require(self, *requirements: str, more: str = "") -> None:
        """Write setup.cfg with these requirements."""
        lines = "".join(f"    {line}\n" for line in requirements)
        self.setup_cfg.write_text(f"[metadata]\nname = stub\n{more}\n[options]\ninstall_requires =\n{lines}")

    def offer(self, name: str, program: str) -> None:
        """Put a link to ``program`` on PATH."""
        (self.path / name).symlink_to(program)

    def script(self, name: str, text: str) -> Path:
        """Put a script on PATH."""
        file = self.path / name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        return file

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a call, with nothing of pytest's own caller in it but what ``changes`` brings."""
        return {"PATH": str(self.path), "HOME": str(self.home), "LANG": "C.UTF-8", **_OFFLINE, **changes}

    def call(
        self, *args: str, via: list[str] | None = None, cwd: Path | None = None, stdin: str = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Call safe.sh (or ``via``) and wait for it."""
        return subprocess.run(
            [*(via or [str(self.safe)]), *args],
            cwd=cwd or self.home,
            env=self.environment(**changes),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def begin(self, *args: str, **changes: str) -> subprocess.Popen[str]:
        """Start safe.sh in a session of its own; the caller ends it."""
        return subprocess.Popen(
            [str(self.safe), *args],
            cwd=self.home,
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def leftovers(self) -> set[str]:
        """What bootstrap left in the checkout; the lock's file may stay."""
        return {entry.name for entry in self.root.iterdir() if entry.name.startswith(".venv")} - {".venv-lock"}


# No configuration of this machine, no index, no waiting for one.
_OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_NO_CACHE_DIR": "1",
    "PIP_RETRIES": "0",
    "UV_NO_CONFIG": "1",
    "UV_OFFLINE": "1",
}


def _which(tool: str) -> str:
    found = shutil.which(tool)
    assert found, f"these tests need {tool}"
    return os.path.realpath(found)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the stub said about itself; the call has to have succeeded."""
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def make_wheel(folder: Path, name: str) -> None:
    """A wheel of one module, for installing without an index."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "here = True\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
