#!/usr/bin/env python3
"""``make pictures``: docs/images/terminal-*.svg, taken from the real program in a terminal of our own."""

from __future__ import annotations

import sys

from pictures.main import main  # the folder beside this file, which Python finds before this file itself

if __name__ == "__main__":
    sys.exit(main())
