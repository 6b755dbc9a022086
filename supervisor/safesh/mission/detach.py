"""Starts a supervisor that outlives us: ``python -E -s -S detach.py``, a TargetSpec as JSON on standard input.

A program of its own because the supervisor is forked: the caller of a library may have threads, and code of ours must
not run in a copy of it. And what the supervisor hands on is this program's environment: the mission's, nothing else.
"""

from __future__ import annotations

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from safesh import wire  # noqa: E402
from safesh.errors import SafeshError  # noqa: E402
from safesh.model import TargetSpec  # noqa: E402
from safesh.supervise import launch  # noqa: E402


def main() -> None:
    order = wire.loads(sys.stdin.read())
    try:
        answer = {"ready": launch.run_detached(TargetSpec.from_dict(order["spec"]), [], order["timeout"])}
    except SafeshError as error:
        failed = {"code": error.exit_code, "message": error.message, "place": error.place, "hint": error.hint}
        answer = {"failed": {**failed, "log": error.log, "type": type(error).__name__}}
    sys.stdout.write(wire.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
