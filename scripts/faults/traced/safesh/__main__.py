"""safesh's command line, for the injection of faults: see rendezvous.py."""

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
import rendezvous  # noqa: E402

rendezvous.use_safesh()
from safesh.cli.main import entry  # noqa: E402

rendezvous.hold_here()
rendezvous.wait_for_tracer(os.environ.get("FAULTS_ROLE", ""))
entry()
