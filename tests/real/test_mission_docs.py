"""The Python examples of docs/missions.md print what they say."""

from __future__ import annotations

import re
import sys

import pytest

from helpers import procs
from helpers.home import ROOT, SUPERVISOR, Home

PAGE = (ROOT / "docs" / "missions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(home: Home, example: str) -> None:
    said = re.findall(r"# → (.*)$", example, re.M)
    assert said
    with procs.spawn(sys.executable, "-c", example, extra_env={"PYTHONPATH": str(SUPERVISOR)}) as child:
        child.close_stdin()
        assert child.wait(30) == 0, child.err
        assert child.out.splitlines() == said


def test_the_page_names_every_argument_of_a_mission() -> None:
    from safesh.mission.model import Mission

    for name in Mission.__slots__:
        assert f"`{name}`" in PAGE or name == "file", name
