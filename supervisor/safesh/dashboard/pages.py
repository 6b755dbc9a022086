"""The pages, each a function of its stage: what it draws anew by itself stands in a fragment."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import Any

import streamlit as st

from safesh.cli import top
from safesh.clock import format_duration, format_size, wall
from safesh.dashboard import actions, charts, data, frame, logs, past, planfolders
from safesh.dashboard.frame import Stage, escape
from safesh.errors import SafeshError
from safesh.metrics.model import MIB
from safesh.metrics.table import Sort, level, system_facts

_SORTS: dict[str, Sort] = {"CPU": "cpu", "Memory": "memory", "Runtime": "time", "Pid": "pid", "Name": "name"}
_SPANS = {"1 hour": 3600.0, "1 day": 86400.0, "7 days": 604800.0, "90 days": 7776000.0}


def overview(stage: Stage) -> None:
    """Every instance in a table."""
    st.title("Overview")
    frame.tell_outcome()

    def draw() -> None:
        found = stage.source.instances(stage.max_age)
        seen = found.picture.seen
        for line in data.problems(found):
            st.warning(escape(line), icon=":material/warning:")
        if not seen:
            frame.nothing_here(stage.settings)
            return
        running = sum(1 for one in seen if one.report.code == 0)
        members = sum(len(one.members) for one in seen)
        memory = format_size(sum(one.usage.memory_mb for one in seen) * MIB)
        frame.facts([("Running", f"{running} of {len(seen)}"), ("Processes", str(members)), ("Memory", memory),
                     ("Strays", str(sum(len(one.strays) for one in seen)))])  # fmt: skip
        picked = frame.table(
            data.overview_rows(found),
            key="overview",
            pick=True,
            CPU=st.column_config.LineChartColumn("CPU", y_min=0, width=60),
            Memory=st.column_config.LineChartColumn("Memory", y_min=0, width=62),
            Instance=st.column_config.TextColumn("Instance", width=120),
            Up=st.column_config.TextColumn("Up", width=64),
            Processes=st.column_config.NumberColumn("Processes", width=82),
        )
        if picked is not None and picked < len(seen):
            st.session_state["opened"] = seen[picked].key
            st.switch_page(stage.instance_page)
        frame.updated(stage, found.picture.at, "A row's box opens its instance. ")

    stage.live(draw)
    if stage.may_act and st.button("Kill all…", icon=":material/dangerous:", key="kill-all"):
        _ask_kill_all(stage)


def _ask_kill_all(stage: Stage) -> None:
    try:
        seen = [one for one in stage.source.instances(0).picture.seen if one.members]
    except SafeshError as error:
        frame.problem(error)
        return
    if seen:
        frame.ask(stage, "kill-all", seen)
    else:
        st.info("Nothing runs.")


def monitor(stage: Stage) -> None:
    """The system and its processes."""
    st.title("Monitor processes")
    which, words, order = st.columns([2, 3, 2])
    everything = which.segmented_control("Show", ["Python", "All"], default="Python", key="which") == "All"
    typed = words.text_input("Filter", placeholder="pid, name or command (regex)", key="filter")
    sort = _SORTS[order.selectbox("Sort by", list(_SORTS), key="sort")]

    def draw() -> None:
        picture = stage.source.processes(stage.max_age)
        _draw_system(system_facts(picture.system))
        rows = data.select(picture.rows, everything=everything, typed=typed, sort=sort)
        if rows:
            frame.table(
                data.process_rows(rows),
                key="processes",
                height=min(38 + 35 * len(rows), 600),
                Script=st.column_config.TextColumn("Script", width="medium"),
                Command=st.column_config.TextColumn("Command", width="large"),
            )
        else:
            st.info("No process matches." if typed else "No Python process runs.")
        what = f"{len(rows)} of {len(picture.rows)} processes. CPU: ▲▲ over 50 % of a core, ▲ over 20 %, ● below. "
        frame.updated(stage, picture.at, what)

    stage.live(draw)


def _draw_system(facts: Sequence[tuple[str, list[str]]]) -> None:
    """Side by side: what, its first fact large, the others below."""
    cells = [
        f"<div><small>{html.escape(label)}</small><b>{html.escape(told[0])}</b>"
        f"<span>{html.escape(' · '.join(told[1:]))}</span></div>"
        for label, told in facts
    ]
    st.html(f'<div class="facts">{"".join(cells)}</div>')


def instance(stage: Stage) -> None:
    """One instance: its tree, its curves, its health, its events, its log, and what can be done about it."""
    st.title("Instance")
    frame.tell_outcome()
    try:
        found = stage.source.instances(stage.max_age)
    except SafeshError as error:
        frame.problem(error)
        return
    if not found.picture.seen:
        frame.nothing_here(stage.settings)
        return
    by_key = {one.key: one for one in found.picture.seen}
    _choose(by_key)
    key = st.selectbox("Instance", list(by_key), format_func=lambda one: data.title(by_key[one]), key="instance")
    st.query_params["instance"] = _address(by_key[key])
    st.session_state["last-instance"] = key
    if stage.may_act:
        _buttons(stage, by_key[key])
    stage.live(lambda: _draw_instance(stage, key))
    st.subheader("Log")
    left, right = st.columns([3, 1])
    search = left.text_input("Search", placeholder="text or regex", key="search")
    lines = int(right.selectbox("Lines", [50, 200, 1000, 5000], index=1, key="lines"))
    stage.live(lambda: _draw_log(stage, key, lines, search))


def _address(seen: top.Seen) -> str:
    """What stands for it in a page's address: ``?instance=PROJECT/NAME``; NAME alone is understood too."""
    return f"{os.path.basename(seen.chosen.paths.folder)}/{seen.name}"


def _choose(by_key: dict[str, top.Seen]) -> None:
    """Which instance is shown first: the one clicked, the one in the page's address, else the one shown last."""
    opened = st.session_state.pop("opened", None)
    if opened not in by_key and st.session_state.get("instance") in by_key:
        return
    told = st.query_params.get("instance")
    named = [key for key, seen in by_key.items() if told in (_address(seen), seen.name)]
    wanted = [opened, *named, st.session_state.get("last-instance"), next(iter(by_key))]
    st.session_state["instance"] = next(key for key in wanted if key in by_key)


def _one(found: data.Instances, key: str) -> top.Seen | None:
    return next((one for one in found.picture.seen if one.key == key), None)


def _buttons(stage: Stage, seen: top.Seen) -> None:
    config = actions.config_of(seen)
    names = actions.startable(seen)
    with st.container(horizontal=True):
        for name in names:
            label = "Start" if len(names) == 1 else f"Start {name}"
            if st.button(label, key=f"start-{name}", icon=":material/play_arrow:", disabled=seen.report.code == 0):
                with st.spinner(f"Starting {name}…"):
                    frame.finish(stage, "start", name, config)
        alive = bool(seen.members)
        stop = st.button("Stop…", key="stop", icon=":material/stop:", disabled=not alive)
        again = st.button("Restart…", key="restart", icon=":material/restart_alt:", disabled=not alive)
        everything = st.button("Kill all…", key="kill-all", icon=":material/dangerous:")
    if stop or again:
        now = stage.source.instances(0)  # who is listed is who is there now
        fresh = _one(now, seen.key)
        if fresh is None or not fresh.members:
            st.info("It does not run any more.")
        elif stop:
            frame.ask(stage, "stop", actions.ended_with(fresh, now.picture.seen), fresh.name, config)
        else:
            frame.ask(stage, "restart", [fresh], fresh.name, config)
    if everything:
        _ask_kill_all(stage)


def _draw_instance(stage: Stage, key: str) -> None:
    found = stage.source.instances(stage.max_age)
    seen = _one(found, key)
    if seen is None:
        st.info("It is not known here any more.  \nNext: choose another one, or look at Overview.")
        return
    record = seen.record
    for line in data.problems(found, key):
        st.warning(escape(line), icon=":material/warning:")
    cpu = seen.usage.cpu_percent
    frame.facts([
        ("State", seen.word),
        ("Up", "-" if seen.uptime is None else format_duration(seen.uptime)),
        ("CPU", "-" if cpu is None else f"{data.SIGNS[level(cpu)]} {cpu:.1f} %"),
        ("Memory", format_size(seen.usage.memory_mb * MIB)),
        ("Restarts", str(record.get("restarts", "-"))),
        ("Pid", str(seen.main[0]) if seen.main else "-"),
        ("Processes", str(len(seen.members))),
        ("Health", data.health(record) or "not checked"),
    ])  # fmt: skip
    curve = found.curves.get(key, [])
    if len(curve) < 2:
        st.caption("The curves begin with the next look." if stage.interval else "Auto-refresh draws curves.")
    else:
        left, right = st.columns(2)
        with left:
            charts.live(curve, "CPU (% of one core)", "cpu")
        with right:
            charts.live(curve, "Memory (MiB)", "memory_mb")
    frame.updated(stage, found.picture.at)
    st.subheader("Processes")
    if seen.members:
        frame.table(data.tree_rows(seen), key="tree", Command=st.column_config.TextColumn("Command", width="large"))
    else:
        st.caption("None.")
    _draw_health(record, found.picture.at)
    _draw_events(seen)


def _draw_health(record: dict[str, Any], now: float) -> None:
    rows = data.health_rows(record, now)
    if rows:
        st.subheader("Health")
        frame.table([dict(rows)], key="health")


def _draw_events(seen: top.Seen) -> None:
    st.subheader("Events")
    rows = logs.event_rows(seen.chosen.paths.events, seen.chosen.paths.instance)
    if rows:
        frame.table(rows, key="events", height=min(38 + 35 * len(rows), 260))
    else:
        st.caption("None yet.")


def _draw_log(stage: Stage, key: str, lines: int, search: str) -> None:
    seen = _one(stage.source.instances(stage.max_age), key)
    if seen is None:
        return
    record, spec = seen.record, seen.report.spec
    path = record.get("log") or (seen.chosen.paths.log(spec.name) if spec is not None else "")
    told = logs.log_tail(path, lines, search) if path else []
    if told:
        st.code("\n".join(told), language=None, height=360)
    else:
        st.caption("No line has it." if search else "Nothing was printed yet.")
    st.caption(escape(data.short(path)))


def plans(stage: Stage) -> None:
    """A plan: its steps live, its Gantt chart, what it cost."""
    st.title("Plans")
    folders = planfolders.find(stage.settings, os.getcwd())
    if not folders:
        st.info(
            "No plan has been run here.  \nNext: `safe.sh run plan.json --output output/`, "
            "or name its output folder: `safe.sh dashboard --plan DIR`."
        )
        st.caption(f"Looked in {escape(os.getcwd())} and two levels below")
        return
    folder = st.selectbox("Output folder", folders, format_func=lambda one: os.path.relpath(one), key="plan")
    stage.live(lambda: _draw_plan(stage, folder))


def _draw_plan(stage: Stage, folder: str) -> None:
    state = planfolders.load(folder)
    held = planfolders.is_held(folder)
    now = wall()
    over = state.ended_at is not None or not held
    now = now if not over else state.ended_at or planfolders.changed(folder)
    totals = state.totals
    st.subheader(f"{escape(state.plan_id or os.path.basename(folder))}: {planfolders.headline(state, held)}")
    if state.description:
        st.caption(escape(state.description))
    frame.facts([
        ("Ended", f"{totals.done} of {totals.steps}"),
        ("Failed", str(totals.failed)),
        ("Took" if over else "Running for", format_duration(state.elapsed(now))),
        ("Cost", f"{totals.cost:.4f}"),
    ])  # fmt: skip
    if totals.steps:
        st.progress(totals.done / totals.steps)
    root = state.root_failure()
    if root is not None:
        st.error(f"{escape(root.id)} failed first: {escape(root.error or 'no reason was told')}")
        if root.last_lines:
            st.code("\n".join(root.last_lines), language=None)
    frame.table(
        planfolders.step_rows(state, now),
        key="steps",
        Progress=st.column_config.ProgressColumn("Progress", min_value=0.0, max_value=1.0, format="percent"),
        Message=st.column_config.TextColumn("Message", width="large"),
    )
    bars = planfolders.bars(state, now)
    if bars:
        st.subheader("When each step ran")
        charts.gantt(bars, [name for name in state.steps if any(bar["step"] == name for bar in bars)])
    providers = planfolders.provider_rows(state)
    if providers:
        st.subheader("Tokens and cost by provider")
        left, right = st.columns(2)
        with left:
            charts.by_provider(providers, "Tokens")
        with right:
            charts.by_provider(providers, "Cost")
        frame.table(providers, key="providers")
    frame.updated(stage, wall())


def history(stage: Stage) -> None:
    """Past runs: how they ended, what they used, where it leads."""
    st.title("History")
    left, right = st.columns(2)
    back = _SPANS[left.selectbox("How far back", list(_SPANS), index=2, key="span")]
    try:
        names = stage.source.past(back, stage.max_age).names
    except SafeshError as error:
        frame.problem(error)
        return
    target = right.selectbox("Target", ["all", *names], key="history-target")
    stage.live(lambda: _draw_history(stage, back, "" if target == "all" else str(target)))


def _draw_history(stage: Stage, back: float, chosen: str) -> None:
    found = stage.source.past(back, stage.max_age)
    runs = [run for run in found.runs if not chosen or run["target"] == chosen]
    series = [one for one in found.series if not chosen or one.target == chosen]
    for line in found.troubles:
        st.error(escape(line), icon=":material/error:")
    for line in found.repaired:
        st.warning(escape(line), icon=":material/warning:")
    if not runs and not series:
        if not found.troubles:
            st.info(
                "No history yet: a run is kept when it ends.  \nNext: `safe.sh start TARGET`, or look further back."
            )
        return
    if runs:
        st.subheader("Runs")
        frame.table(past.run_rows(runs), key="runs", height=min(38 + 35 * len(runs), 400))
        st.download_button(
            "Download as CSV", past.as_csv(runs), "safesh-runs.csv", "text/csv", key="csv", icon=":material/download:",
            on_click="ignore",
        )  # fmt: skip
    peaks = past.peaks(runs)
    if peaks:
        charts.peaks(peaks)
    if series:
        st.subheader("Trends and predictions")
        frame.table(
            past.trend_rows(series),
            key="trends",
            Curve=st.column_config.LineChartColumn("Curve", y_min=0),
            Prediction=st.column_config.TextColumn("Prediction", width="large"),
        )
        for one in series if chosen else series[:2]:
            charts.series(one.points, one.target, one.metric, one.trend.limit)
    frame.updated(stage, found.at)
