"""``doctor``: what safesh needs, what is there, and how to repair the difference.

The JSON document is ``{"v": 1, "checks": [{"name", "state", "found", "why", "remedy"}]}``.
"""

from __future__ import annotations

import sys
import textwrap

from safesh import wire
from safesh.cli import render
from safesh.diagnose.table import CHECKS, diagnose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.diagnose.check import Finding

_LOOKS = {"ok": "good", "warn": "warn", "fail": "bad"}


def run(args: dict[str, Any]) -> int:
    """All checks; 1 when one has failed. Each is shown as soon as it has answered."""
    found = []
    for finding in diagnose(args["config"]):
        finding.remedy = render.as_typed(finding.remedy)
        found.append(finding)
        if not args["json"]:
            render.say(_lines(finding))
            if sys.stdout is not None:
                sys.stdout.flush()
    if args["json"]:
        render.say(wire.dumps({"v": 1, "checks": found}, 1))
    else:
        render.say(_summary(found))
    return int(any(finding.state == "fail" for finding in found))


def _lines(finding: Finding) -> str:
    width = max(len(check.name) for check in CHECKS)
    margin = " " * (width + 8)
    # The colour comes last: its letters have no width.
    state = finding.state.ljust(4)
    lines = _wrap(render.clean(finding.found), f"{state}  {finding.name.ljust(width)}  ", margin)
    text = render.style(state, _LOOKS[finding.state]) + lines[len(state) :]
    if finding.state == "ok":
        return text
    arrow = f"{render.glyph('→', '->')} "
    remedy = render.style(_wrap(arrow + render.clean(finding.remedy), margin, margin + "  "), "hint")
    return f"{text}\n{_wrap('why: ' + finding.why, margin, margin + '  ')}\n{remedy}"


def _wrap(text: str, first: str, rest: str) -> str:
    """Within the terminal; through a pipe, and where it is too narrow, one line."""
    columns = render.window()[0]
    if columns < len(rest) + 20:
        return first + text
    return "\n".join(
        textwrap.wrap(
            text, columns, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
    )


def _summary(found: list[Finding]) -> str:
    count = {state: sum(one.state == state for one in found) for state in _LOOKS}
    parts = [f"{count['ok']} ok"]
    if count["warn"]:
        parts.append(render.plural(count["warn"], "warning"))
    if count["fail"]:
        parts.append(render.style(f"{count['fail']} failed", "bad"))
    return f"\n{render.plural(len(found), 'check')}: {', '.join(parts)}"
