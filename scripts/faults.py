#!/usr/bin/env python3
"""``make faults``: safesh broken on purpose, and what it kept of its promises. docs/reliability.md tells about it."""

from __future__ import annotations

import sys

from faults.main import main  # the folder beside this file, which Python finds before this file itself

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
