"""``safe.sh exec`` as a plain file for the interpreter, without launcher and virtual environment."""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2] / "supervisor")

if __name__ == "__main__":
    from safesh.cli.exec import main

    os._exit(main(sys.argv[1:]))
