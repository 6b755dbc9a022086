#!/usr/bin/env python3
"""The robot as somebody starts it by hand: ``python3 scripts/launch_robot.py --headless``.

It runs the robot in this very process, so the command line stays what was typed: that is what a
target's ``match`` pattern in safe.toml looks for.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import demo_robot

if __name__ == "__main__":
    sys.exit(demo_robot.main(sys.argv[1:]))
