"""A pid and mount namespace of one's own, where killing at random reaches nobody else.

``enter`` runs a command in a new one, under tests/helpers/pidns_init.py as pid 1 (it reaps orphans, counts processes,
keeps a deadline, and ends everything when we go). ``require`` guards what may only run inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_INIT = ROOT / "tests" / "helpers" / "pidns_init.py"
_OUTER = "SAFESH_TEST_PIDNS"  # tests/helpers/nsguard.py reads it too
MOST_PROCESSES = 1500


def own() -> str:
    """Our pid namespace, as the kernel names it (pid_namespaces(7))."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def inside() -> bool:
    """The claim in the environment is checked against the kernel's word and against pid 1."""
    outer = os.environ.get(_OUTER, "")
    if not outer or outer == own():
        return False
    try:
        return _INIT.name.encode() in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False


def require() -> None:
    if not inside():
        raise RuntimeError("this runs only inside a pid namespace of its own: see scripts/faults/namespace.py")


@cache
def unshare() -> tuple[tuple[str, ...], str]:
    """(the command that runs its arguments in new pid and mount namespaces, ""), or ((), why there are none)."""
    last = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--propagation", "private")
    why = ""
    for more in ((), ("--user", "--map-root-user")):
        command = ("unshare", *more, *last)
        try:
            done = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            return (), str(error)
        if done.returncode == 0:
            return command, ""
        why = why or done.stderr.decode("utf-8", "replace").strip()
    return (), why


class Inner:
    """A command inside. ``close`` (or our end) ends everything in there."""

    def __init__(self, command: Sequence[str], seconds: float, stdout: int | None, environ: dict[str, str]) -> None:
        prefix, why = unshare()
        if not prefix:
            raise RuntimeError(f"no pid namespace: {why}")
        reader, self._lifeline = os.pipe()
        init = [sys.executable, "-I", "-S", str(_INIT), f"{seconds:g}", str(MOST_PROCESSES), str(reader)]
        try:
            self.process = subprocess.Popen(
                [*prefix, *init, *command],
                env={**environ, _OUTER: own()},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                pass_fds=(reader,),
            )
        finally:
            os.close(reader)

    def close(self, patience: float = 0.0) -> int:
        """Its exit status; after ``patience`` seconds the whole namespace is ended."""
        try:
            code = self.process.wait(max(patience, 0.001))
        except subprocess.TimeoutExpired:
            code = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if code is None:
            try:
                code = self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()  # --kill-child ends pid 1, which ends the rest
                code = self.process.wait()
        return code


def enter(
    command: Sequence[str], seconds: float, *, stdout: int | None = None, environ: dict[str, str] | None = None
) -> Inner:
    """Run ``command`` in there; pid 1 ends it all after ``seconds``. RuntimeError where there are no namespaces."""
    return Inner(command, seconds, stdout, dict(os.environ if environ is None else environ))
