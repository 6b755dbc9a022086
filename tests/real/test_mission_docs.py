"""docs/missions.md says all there is to say of a mission; its examples are run by test_docs_python_api.py."""

from __future__ import annotations

from helpers.home import ROOT

PAGE = (ROOT / "docs" / "missions.md").read_text(encoding="utf-8")


def test_the_page_names_every_argument_of_a_mission() -> None:
    from safesh.mission.model import Mission

    for name in Mission.__slots__:
        assert f"`{name}`" in PAGE or name == "file", name
