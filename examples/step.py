"""A step that takes its time and says how far it is: ``step.py NAME SECONDS [TOKENS [COST]]``.

It reports as any program may: one JSON object a line, appended to the file that SAFESH_REPORT names.
"""

import json
import os
import sys
import time


def main(name: str, seconds: str, tokens: str = "0", cost: str = "0") -> None:
    parts = 10
    for part in range(1, parts + 1):
        time.sleep(float(seconds) / parts)
        told = {"progress": part / parts, "message": f"{name}: part {part} of {parts}"}
        if int(tokens):
            told |= {"tokens": int(tokens) * part // parts, "cost": float(cost) * part / parts}
        path = os.environ.get("SAFESH_REPORT")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
    print(f"{name} is done")


main(*sys.argv[1:])
