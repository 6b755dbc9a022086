#!/usr/bin/env python3
"""``make bench``: what safesh costs, as ratios measured in one run. docs/benchmarks.md says what they mean."""

from __future__ import annotations

import sys

from bench.main import main  # the folder beside this file, which Python finds before this file itself

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
