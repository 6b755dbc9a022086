"""What the pages share: the sidebar's choices, tables with marks and colours, errors in a line, the question."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import streamlit as st

from safesh.cli import top
from safesh.clock import format_time
from safesh.dashboard import actions, data
from safesh.dashboard.settings import Settings
from safesh.errors import SafeshError

pandas: Any = import_module("pandas")  # without types: they are another package, for a handful of calls

INTERVALS = {"off": None, "2 s": 2.0, "5 s": 5.0, "10 s": 10.0}
# Each with a text colour of its own, so that both read on a light and on a dark page.
_PAINT = {
    "hot": "background-color: #b42318; color: #ffffff",
    "warm": "background-color: #f2c744; color: #1c1c1c",
    "calm": "background-color: #1b7a43; color: #ffffff",
}
_PAINTED = ("", "CPU %")
_FRESH = 1.0  # seconds; what a click redraws may be so old


class Stage:
    """What a page needs to know: the settings, the looks, and how often to look."""

    def __init__(self, settings: Settings, source: data.Source) -> None:
        self.settings = settings
        self.source = source
        self.interval: float | None = None
        self.token = ""
        self.instance_page: Any = None

    @property
    def max_age(self) -> float:
        """How old a look may be: a tab that redraws by itself shares it with the others."""
        return _FRESH if self.interval is None else self.interval * 0.8

    @property
    def may_act(self) -> bool:
        return self.settings.allows(self.token)

    def live(self, draw: Callable[[], None]) -> None:
        """Draw a part of the page, and only that part again and again."""
        st.fragment(lambda: guarded(draw), run_every=self.interval)()


def guarded(draw: Callable[[], None]) -> None:
    """An error of ours is told in a line; a page never ends in a traceback."""
    try:
        draw()
    except (SafeshError, OSError) as error:
        problem(error)


def problem(error: Exception) -> None:
    message, hint = data.tell(error)
    st.error(escape(message) + (f"  \nNext: {escape(hint)}" if hint else ""), icon=":material/error:")


def escape(text: str) -> str:
    """Text as it is, not as Markdown: what others named their files and steps must not become a link or a picture."""
    return "".join("\\" + letter if letter in "\\`*_{}[]()#+-.!|~>$:<&" else letter for letter in text)


def is_admitted(settings: Settings) -> bool:
    """Whether this tab may see anything."""
    host = st.context.headers.get("Host") or ""
    return settings.answers_to(host) and settings.admits(_told())


def _told() -> str:
    return str(st.session_state.get("told", ""))


def gate(settings: Settings) -> None:
    """Instead of a page, for who is not admitted (yet)."""
    if not settings.answers_to(st.context.headers.get("Host") or ""):
        st.error(
            "This name is not served: without a token, only this machine's own names are.  \n"
            "Next: open http://127.0.0.1 with the port, or start it with `--token`.",
            icon=":material/lock:",
        )
        return
    st.title("Token")
    told = st.text_input("The token that `safe.sh dashboard` printed", type="password", key="token", autocomplete="off")
    if told and settings.admits(told):
        st.session_state["told"] = told
        st.rerun()
    if told:
        st.error("This is not the token.  \nNext: copy it from where `safe.sh dashboard` was started.",
                 icon=":material/lock:")  # fmt: skip


def sidebar(stage: Stage) -> None:
    """The choices that hold for every page."""
    stage.token = _told()
    with st.sidebar:
        # A widget's own key is forgotten when another page is drawn before it; this one is drawn on all of them.
        chosen = st.segmented_control("Auto-refresh", list(INTERVALS), default="5 s", key="refresh")
        stage.interval = INTERVALS[chosen or "off"]
        if stage.interval is None:
            st.button("Refresh now", icon=":material/refresh:", key="refresh-now")
        if stage.settings.read_only:
            st.caption("Read-only: nothing can be started or stopped from here.")


def updated(stage: Stage, at: float, more: str = "") -> None:
    """When what is shown was looked at."""
    often = "auto-refresh is off" if stage.interval is None else f"every {stage.interval:g} s"
    st.caption(f"{more}Updated {format_time(at)}, {often}.")


def table(
    rows: Sequence[dict[str, Any]], *, key: str, height: int | None = None, pick: bool = False, **columns: Any
) -> int | None:
    """A table; a row's ``Level`` colours its mark and its CPU. columns: how a column is shown, by its name.

    pick: rows can be clicked; the number of the one that was.
    """
    if not rows:
        return None
    shown = pandas.DataFrame([{name: row[name] for name in row if name != "Level"} for row in rows])
    levels = [row.get("Level") for row in rows]
    painted = [name for name in _PAINTED if name in shown.columns]
    formats = {"CPU %": "{:.1f}", "Pid": "{:.0f}", "Restarts": "{:.0f}", "Memory MiB": "{:.1f}", "Cost": "{:.4f}"}
    styled: Any = shown
    if painted and any(levels):
        styles = [_PAINT.get(one or "", "") for one in levels]
        styled = shown.style.apply(lambda _column: styles, subset=painted)
        styled = styled.format({name: text for name, text in formats.items() if name in shown.columns}, na_rep="-")
    config = _columns(shown, columns)
    options: dict[str, Any] = {"on_select": "rerun", "selection_mode": "single-row"} if pick else {}
    shown = st.dataframe(
        styled,
        hide_index=True,
        height="auto" if height is None else height,
        column_config=config,
        key=key,
        placeholder="-",
        **options,
    )
    picked = shown["selection"]["rows"] if pick else []
    return int(picked[0]) if picked else None


def _columns(shown: Any, more: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "": st.column_config.TextColumn("", width=30, help="▲▲ over 50 % of a core, ▲ over 20 %, ● below"),
        "CPU %": st.column_config.NumberColumn("CPU %", format="%.1f", width=70, help="100 is one core"),
        "Memory MiB": st.column_config.NumberColumn("Memory MiB", format="%.1f", width=95),
        "Pid": st.column_config.NumberColumn("Pid", format="%d", width=75),
    }
    return {name: one for name, one in {**config, **more}.items() if name in shown.columns}


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Short facts side by side."""
    found = list(pairs)
    for place in range(0, len(found), 4):
        for column, (name, value) in zip(st.columns(4), found[place : place + 4], strict=False):
            column.metric(name, value)


def nothing_here(settings: Settings) -> None:
    """What to do where nothing runs and nothing is described."""
    st.info(
        "No safe.toml here or above, and nothing has been started.  \n"
        "Next: `safe.sh init` writes a safe.toml, `safe.sh start NAME -- CMD` runs any command."
    )
    st.caption(f"Looked in {escape(settings.config or os.getcwd())}")


# --- the question ----------------------------------------------------------------------------------

_VERBS = {"stop": "Stop", "restart": "Restart", "kill-all": "Kill all"}


def ask(stage: Stage, verb: actions.Verb, instances: Sequence[top.Seen], name: str = "", config: str = "") -> None:
    """List who would end, and ask; as the command line does before it ends anybody."""

    @st.dialog(f"{_VERBS[verb]} {name}".strip() + "?", width="large")
    def question() -> None:
        rows = actions.victims(instances)
        st.write(f"**{len(rows)} process{'' if len(rows) == 1 else 'es'}** will end:")
        table(rows, key=f"victims-{verb}-{name}", height=min(38 + 35 * len(rows), 400))
        yes, no = st.columns(2)
        if yes.button(f"{_VERBS[verb]} {len(rows)} process{'' if len(rows) == 1 else 'es'}", type="primary", key="yes"):
            with st.spinner("Ending them…"):
                finish(stage, verb, name, config)
        if no.button("Leave them alone", key="no"):
            st.rerun()

    question()


def finish(stage: Stage, verb: actions.Verb, name: str = "", config: str = "") -> None:
    """Do it, and let the next drawing of the page tell how it went."""
    try:
        outcome = actions.act(stage.settings, stage.token, verb, name, config)
    except SafeshError as error:
        outcome = actions.Outcome(False, str(error))
    st.session_state["outcome"] = outcome
    stage.source.instances(max_age=0)
    st.rerun()


def tell_outcome() -> None:
    """What the last action came to, until the next one."""
    outcome = st.session_state.get("outcome")
    if outcome is not None:
        (st.success if outcome.ok else st.error)(escape(outcome.text).replace("\n", "  \n"))
        if st.button("Dismiss", key="dismiss"):
            del st.session_state["outcome"]
            st.rerun()
