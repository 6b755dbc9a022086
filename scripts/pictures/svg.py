"""A terminal's frames as SVG: one picture, or one that moves (SMIL, no script).

It has a ground of its own, so it reads the same on a light page and on a dark one. Every run of text says how wide it
is, so columns stay columns in whatever fixed-width font the reader has.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pictures.terminal import Cell, Frame

WIDTH, HEIGHT, SIZE = 8.4, 18, 14  # of a cell, and of its letters, in pixels
EDGE, TITLE = 14, 30
COLOURS = {
    "ground": "#161b22", "text": "#e6edf3", "default": "#e6edf3",
    "black": "#484f58", "red": "#ff7b72", "green": "#56d364", "brown": "#e3b341", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": "#e6edf3",
    "brightblack": "#8b949e", "brightred": "#ffa198", "brightgreen": "#7ee787", "brightbrown": "#f2cc60",
    "brightblue": "#a5d6ff", "brightmagenta": "#e2c5ff", "brightcyan": "#76e3ea", "brightwhite": "#ffffff",
}  # fmt: skip
_STYLE = (
    "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "white-space:pre}.b{font-weight:bold}"
)


def colour(name: str) -> str:
    return COLOURS.get(name) or f"#{name}"


def row(cells: Sequence[Cell], top: float) -> str:
    """One line: grounds first, then runs of text in one style."""
    parts: list[str] = []
    column = 0
    while column < len(cells):
        first = cells[column]
        end = column + 1
        while end < len(cells) and cells[end][1:] == first[1:]:
            end += 1
        text = "".join(cell.text for cell in cells[column:end])
        left = EDGE + column * WIDTH
        if first.back != "default":
            parts.append(
                f'<rect x="{left:g}" y="{top:g}" width="{(end - column) * WIDTH:g}" height="{HEIGHT}" '
                f'fill="{colour(first.back)}"/>'
            )
        parts += _runs(text, column, top, first)
        column = end
    return "".join(parts)


def _runs(text: str, column: int, top: float, style: Cell) -> list[str]:
    """The words of one style; two blanks or more between them are left out."""
    parts = []
    place = 0
    for piece in text.split("  "):
        words = piece.strip(" ")
        if words:
            at = EDGE + (column + place + len(piece) - len(piece.lstrip(" "))) * WIDTH
            fill = "" if style.front == "default" else f' fill="{colour(style.front)}"'
            bold = ' class="b"' if style.bold else ""
            parts.append(
                f'<text x="{at:.4g}" y="{top + 13.5:g}" textLength="{len(words) * WIDTH:.4g}" '
                f'lengthAdjust="spacingAndGlyphs"{fill}{bold}>{escape(words, quote=False)}</text>'
            )
        place += len(piece) + 2
    return parts


def _shell(columns: int, rows: int, title: str, about: str, inside: str) -> str:
    width, height = 2 * EDGE + columns * WIDTH, TITLE + rows * HEIGHT + EDGE
    dots = "".join(
        f'<circle cx="{18 + 18 * number}" cy="15" r="5.5" fill="{fill}"/>'
        for number, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(about)}">\n<title>{escape(about)}</title>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="9" fill="#161b22" stroke="#444c56"/>\n'
        f'{dots}<text x="{width / 2:g}" y="20" text-anchor="middle" style="fill:#8b949e;font-size:13px">'
        f'{escape(title)}</text>\n<g fill="#e6edf3">\n{inside}</g></svg>\n'
    )


def _trimmed(frame: Frame) -> int:
    """Rows up to the last one that is not empty."""
    return max((number for number, cells in enumerate(frame, 1) if any(not _blank(cell) for cell in cells)), default=1)


def _blank(cell: Cell) -> bool:
    return cell.text == " " and cell.back == "default"


def still(frame: Frame, title: str, about: str) -> str:
    """One frame."""
    rows = _trimmed(frame)
    lines = [row(cells, TITLE + number * HEIGHT) for number, cells in enumerate(frame[:rows])]
    return _shell(len(frame[0]), rows, title, about, "\n".join(line for line in lines if line) + "\n")


def moving(frames: Sequence[tuple[float, Frame]], rest: float, title: str, about: str) -> str:
    """Frames, each with the time (s) at which it appears; the last one stands for ``rest`` seconds. It begins again.

    Each line is kept once for each stretch of time in which it stands: typing costs one line a letter, not a screen.
    """
    begun = frames[0][0]
    times = [moment - begun for moment, _ in frames]
    whole = times[-1] + rest
    rows = max(_trimmed(frame) for _, frame in frames)
    parts: list[str] = []
    for number in range(rows):
        start = 0
        for index in range(1, len(frames) + 1):
            if index < len(frames) and frames[index][1][number] == frames[start][1][number]:
                continue
            text = row(frames[start][1][number], TITLE + number * HEIGHT)
            if text:
                end = times[index] if index < len(frames) else whole
                parts.append(_shown(text, times[start] / whole, end / whole, whole))
            start = index
    return _shell(len(frames[0][1][0]), rows, title, about, "\n".join(parts) + "\n")


def _shown(text: str, begin: float, end: float, whole: float) -> str:
    """``text`` between two shares of the whole time. Where nothing moves, the last frame is what is seen."""
    last = end >= 1
    if begin == 0 and last:
        return text
    values, moments = ["hidden"] * (begin > 0) + ["visible"], ["0"] * (begin > 0) + [f"{begin:.4f}"]
    if not last:
        values.append("hidden")
        moments.append(f"{end:.4f}")
    moments[0] = "0"
    return (
        f'<g visibility="{"visible" if last else "hidden"}"><animate attributeName="visibility" calcMode="discrete" '
        f'dur="{whole:.2f}s" repeatCount="indefinite" values="{";".join(values)}" keyTimes="{";".join(moments)}"/>'
        f"{text}</g>"
    )
