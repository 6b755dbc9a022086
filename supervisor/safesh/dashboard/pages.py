"""The pages, each a function of its stage: what it draws anew by itself stands in a fragment."""

from __future__ import annotations

import os
from typing import Any

import streamlit as st

from safesh.cli import top
from safesh.clock import format_duration, format_size, format_time, wall
from safesh.dashboard import actions, charts, data, frame, past, planfolders
from safesh.dashboard.frame import Stage, escape
from safesh.errors import SafeshError
from safesh.metrics.model import MIB
from safesh.metrics.table import Sort, level, system_facts, typed_pattern

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
        frame.table(
            data.overview_rows(found),
            key="overview",
            CPU=st.column_config.LineChartColumn("CPU", y_min=0, width=58),
            Memory=st.column_config.LineChartColumn("Memory", y_min=0, width=58),
            Instance=st.column_config.TextColumn("Instance", width=120),
        )
        st.caption(f"Seen at {format_time(found.picture.at)}")

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
        facts = system_facts(picture.system)
        st.markdown("  \n".join(f"**{escape(label)}** {escape('  ·  '.join(told))}" for label, told in facts))
        rows = data.select(picture.rows, everything=everything, pattern=typed_pattern(typed), sort=sort)
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
        st.caption(
            f"{len(rows)} of {len(picture.rows)} processes, seen at {format_time(picture.at)}. "
            "CPU: ▲▲ over 50 % of a core, ▲ over 20 %, ● below."
        )

    stage.live(draw)


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
    key = st.selectbox("Instance", list(by_key), format_func=lambda one: data.title(by_key[one]), key="instance")
    if stage.may_act:
        _buttons(stage, by_key[key])
    stage.live(lambda: _draw_instance(stage, key))
    st.subheader("Log")
    left, right = st.columns([3, 1])
    search = left.text_input("Search", placeholder="text or regex", key="search")
    lines = int(right.selectbox("Lines", [50, 200, 1000, 5000], index=1, key="lines"))
    stage.live(lambda: _draw_log(stage, key, lines, search))


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
        st.info("It is not known here any more.")
        return
    record = seen.record
    for line in seen.report.view.problems:
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
    if len(curve) > 1:
        left, right = st.columns(2)
        with left:
            charts.live(curve, "CPU (% of one core)", "cpu")
        with right:
            charts.live(curve, "Memory (MiB)", "memory_mb")
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
    told = data.events(seen.chosen.paths.events, seen.chosen.paths.instance)
    rows = [
        {
            "At": format_time(one["at"]),
            "Event": str(one.get("event")),
            "Target": str(one.get("target") or ""),
            "Details": ", ".join(
                f"{name}: {value}"
                for name, value in one.items()
                if name not in ("v", "at", "event", "target", "instance", "run_id") and value not in (None, "", [], {})
            ),
        }
        for one in told
    ]
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
    told = data.log_tail(path, lines, search) if path else []
    if told:
        st.code("\n".join(told), language=None, height=360)
    else:
        st.caption("No line has it." if search else "Nothing was printed yet.")
    st.caption(escape(path))


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
    stage.live(lambda: _draw_plan(folder))


def _draw_plan(folder: str) -> None:
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
        ("Done", f"{totals.done} of {totals.steps}"),
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


def history(stage: Stage) -> None:
    """Past runs: how they ended, what they used, where it leads."""
    st.title("History")
    left, right = st.columns(2)
    back = _SPANS[left.selectbox("How far back", list(_SPANS), index=2, key="span")]
    try:
        everything = past.look(stage.settings, back)
    except SafeshError as error:
        frame.problem(error)
        return
    target = right.selectbox("Target", ["all", *everything.names], key="history-target")
    chosen = "" if target == "all" else str(target)
    runs = [run for run in everything.runs if not chosen or run["target"] == chosen]
    series = [one for one in everything.series if not chosen or one.target == chosen]
    for line in everything.troubles:
        st.error(escape(line), icon=":material/error:")
    if not runs and not series:
        st.info("No history yet: a run is kept when it ends.  \nNext: `safe.sh start TARGET`, or look further back.")
        return
    if runs:
        st.subheader("Runs")
        frame.table(past.run_rows(runs), key="runs", height=min(38 + 35 * len(runs), 400))
        st.download_button(
            "Download as CSV", past.as_csv(runs), "safesh-runs.csv", "text/csv", key="csv", icon=":material/download:"
        )
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
