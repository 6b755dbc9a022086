"""What a refresh of "Monitor processes" costs the server with many processes; run in a pid namespace of its own.

``dashboard_cost.py COUNT ROUNDS`` starts COUNT sleepers and prints as JSON: processes shown, seconds of each round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def page() -> None:
    """Run by Streamlit's own test bench, which takes this function's text alone."""
    import os

    import streamlit as st

    from safesh.dashboard import data, frame, pages
    from safesh.dashboard.settings import Settings

    source = frame.__dict__.setdefault("_source_of_the_test", data.Source(Settings()))
    stage = frame.Stage(Settings(), source)
    stage.interval = 0.001  # every drawing looks anew
    st.session_state.setdefault("which", "All")
    pages.monitor(stage)
    os.environ["SAFESH_TEST_SHOWN"] = str(len(source.processes(60.0).rows))


def main(count: int, rounds: int) -> None:
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "supervisor"))
    from streamlit.testing.v1 import AppTest

    sleepers = [subprocess.Popen(["sleep", "300"]) for _number in range(count)]
    try:
        app = AppTest.from_function(page, default_timeout=120)
        app.run()  # imports, and the first look
        assert not app.exception, app.exception
        spent = []
        for _round in range(rounds):
            before = time.process_time()
            app.run()
            spent.append(round(time.process_time() - before, 4))
        assert not app.exception, app.exception
        print(json.dumps({"shown": int(os.environ["SAFESH_TEST_SHOWN"]), "seconds": spent}))
    finally:
        for one in sleepers:
            one.kill()
            one.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
