"""safesh's supervisor and its keepers, for the injection of faults: see rendezvous.py."""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
import rendezvous  # noqa: E402

rendezvous.use_safesh()
from safesh.cli import hold  # noqa: E402
from safesh.core.keeper import Keeper  # noqa: E402

_hold = Keeper.hold


def _keep(self: Keeper) -> int:
    rendezvous.wait_for_tracer("keeper")
    return _hold(self)


Keeper.hold = _keep  # type: ignore[method-assign]
rendezvous.wait_for_tracer("supervisor")
os._exit(hold.hold(int(sys.argv[1])))
