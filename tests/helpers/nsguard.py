"""Whether this process is in a pid namespace that :mod:`helpers.pidns` made. Light: scripts load it too."""

from __future__ import annotations

import os

OUTER = "SAFESH_TEST_PIDNS"  # inside: which namespace is around this one
INIT_NAME = "pidns_init.py"


def namespace() -> str:
    """Our pid namespace, as the kernel names it (pid_namespaces(7))."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def inside() -> bool:
    """True inside: the claim in the environment is checked against the kernel's word and against pid 1."""
    outer = os.environ.get(OUTER, "")
    if not outer or outer == namespace():
        return False
    try:
        with open("/proc/1/cmdline", "rb") as file:
            return INIT_NAME.encode() in file.read()
    except OSError:
        return False


def require_pidns() -> None:
    """RuntimeError unless :func:`inside`. For helpers that may only run where they can reach nobody else."""
    if not inside():
        raise RuntimeError("this runs only inside a test's own pid namespace: mark the test with pytest.mark.pidns")
