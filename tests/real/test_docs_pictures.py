"""`make pictures`: what a program draws in its terminal is what stands in the picture. The whole of it takes half a
minute and is run by hand; what it made lies in docs/images, and test_docs_pages.py looks at that."""

from __future__ import annotations

import os
import re
import sys
from xml.etree import ElementTree

import pytest

from helpers.home import ROOT, Home

pytest.importorskip("pyte", reason="pictures of the terminal need pyte (extra dev)")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def shown(home: Home, script: str) -> list[tuple[float, tuple]]:  # type: ignore[type-arg]
    from pictures.terminal import Terminal

    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
    with Terminal(["sh", "-c", script], env, str(home.project), 40, 6) as terminal:
        assert not terminal.watch(10, lambda text: False), "it has ended"
        return terminal.frames


def test_a_still_has_the_words_their_colours_and_their_columns(home: Home) -> None:
    from pictures.svg import EDGE, WIDTH, still

    frames = shown(home, r"printf 'a \033[32mgreen & <word>\033[0m   far \033[2mdim\033[0m \033[7mreversed\033[0m'")
    picture = still(frames[-1][1], "title", "about")
    texts = {one.text: one for one in ElementTree.fromstring(picture).iter() if one.tag.endswith("}text")}
    assert {"a", "green & <word>", "far", "dim", "reversed"} <= texts.keys()
    assert texts["green & <word>"].get("fill") == "#56d364"
    assert float(texts["far"].get("x", "")) == pytest.approx(EDGE + 19 * WIDTH, abs=0.1)
    assert texts["dim"].get("fill") not in (None, "#e6edf3")
    assert texts["reversed"].get("fill") == "#161b22"
    assert float(texts["green & <word>"].get("textLength", "")) == pytest.approx(14 * WIDTH, abs=0.1)


def test_a_recording_shows_each_frame_in_its_time_and_ends_with_the_last(home: Home) -> None:
    from pictures.svg import moving

    frames = shown(home, "echo one; sleep 0.2; echo two; sleep 0.2; printf '\\033[1A\\033[2Kthree\\n'")
    picture = moving(frames, 1.0, "title", "about")
    assert "script" not in picture
    groups = re.findall(r'<g visibility="(\w+)"><animate [^>]*keyTimes="([\d.;]+)"/>.*?>(one|two|three)<', picture)
    assert ("hidden", "two") in {(seen, word) for seen, _, word in groups}
    assert ("visible", "three") in {(seen, word) for seen, _, word in groups}
    for _, times, _ in groups:
        moments = [float(moment) for moment in times.split(";")]
        assert moments[0] == 0
        assert moments == sorted(moments)
        assert moments[-1] <= 1


def test_no_picture_shows_anything_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from pictures.main import _refuse_what_is_ours

    for name in (str(ROOT), sys.base_prefix):
        with pytest.raises(SystemExit, match="shows"):
            _refuse_what_is_ours("x.svg", f"<svg>{name}</svg>")
    _refuse_what_is_ours("x.svg", "<svg>/srv/arm</svg>")
