"""``python -m safesh`` and what ``bin/safe.sh`` executes."""

import sys

if not __package__:  # run as a file by bin/safe.sh: our source root is one level up
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh.cli.main import entry

entry()
