"""What ended runs should not have left: control groups, sockets, pid files, half-written files, damaged records."""

from __future__ import annotations

import os
import time

from safesh import paths
from safesh.diagnose.check import Finding, Subject, ok, warn, worst
from safesh.diagnose.state import project_folders
from safesh.errors import SafeshError
from safesh.paths import InstancePaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from safesh.instance.view import InstanceView

_SETTLE = 0.5  # seconds after which what was just beginning or ending is no longer
_MOST_NAMED = 3


def check_groups(_subject: Subject) -> Finding:
    """Two looks: a group is empty for a moment at the begin and at the end of every run."""
    from safesh._platform import probe

    parent, _why = probe.group_parent()
    if not parent:
        return ok("none can be made here")
    first = _orphans(parent)
    if not first:
        return ok(f"none in {parent}" if not probe.run_groups(parent) else "all belong to live runs")
    time.sleep(_SETTLE)
    left = {path: finding for path, finding in _orphans(parent).items() if path in first}
    if not left:
        return ok("all belong to live runs")
    return _few(list(left.values()))


def _orphans(parent: str) -> dict[str, Finding]:
    from safesh import _platform
    from safesh._platform import probe

    live = {one.record["cgroup"] for _files, one in _views() if _held(one) and one.record is not None}
    found = {}
    for path, populated in probe.run_groups(parent):
        if path in live or os.stat(path).st_uid != os.geteuid():
            continue
        if not populated:
            found[path] = warn(f"{path} is empty and nobody's", f"rmdir {path}")
            continue
        marks = [(_platform.environ(pid) or {}).get("SAFESH_INSTANCE", "") for pid in probe.group_members(path)]
        instance = next((mark for mark in marks if mark), "")
        if instance and _is_live(instance):  # a run with another SAFESH_HOME
            continue
        name = os.path.basename(instance) or "processes without our mark"
        home = os.path.dirname(os.path.dirname(instance))
        setting = f"SAFESH_HOME={home} " if instance and home != paths.state_home() else ""
        remedy = f"{setting}safe.sh stop {name}" if instance else f"look at them: cat {path}/cgroup.procs"
        found[path] = warn(f"{path} holds {name}, and no supervisor holds it", remedy)
    return found


def _is_live(mark: str) -> bool:
    from safesh.instance.view import look

    try:
        return _held(look(InstancePaths(*os.path.split(mark)), tree=False, strays=False))
    except SafeshError:
        return False


def _held(view: InstanceView) -> bool:
    return view.supervisor_alive or view.keeper_alive


def _views() -> Iterator[tuple[InstancePaths, InstanceView]]:
    """Each instance that the state folder knows, looked at."""
    from safesh.instance.record import read_record
    from safesh.instance.view import look

    for folder in project_folders():
        if os.path.islink(folder):
            continue
        bases = {name.rpartition(".")[0] for name in os.listdir(folder) if name.endswith((".json", ".sock", ".pid"))}
        for base in sorted(bases):
            try:
                files = InstancePaths(folder, base)
                last, _problem = read_record(files)
                if last is not None:
                    files = InstancePaths(folder, base, last.get("lock_file", ""), last.get("pid_file", ""))
                yield files, look(files, tree=False, strays=False)
            except SafeshError:
                continue


def check_files(_subject: Subject) -> Finding:
    first = set(_stale())
    if first:
        time.sleep(_SETTLE)  # one that was just ending removes them itself
    left = [path for path in _stale() if path in first] if first else []
    if not left:
        return ok("no socket, pid file or half-written file of an ended run")
    return _few([warn(f"{path} is of a run that has ended", f"rm {path}") for path in left])


def _stale() -> list[str]:
    found = []
    for files, view in _views():
        if not _held(view) and view.lock == "free":
            found += [path for path in (files.socket, files.pid) if os.path.lexists(path)]
    for folder in project_folders():
        if os.path.islink(folder):
            continue
        for name in os.listdir(folder):
            word = name.split(".")[-2:]
            if word[-1] == "tmp" and word[0].isdigit() and not _lives(int(word[0])):
                found.append(os.path.join(folder, name))
    return found


def _lives(pid: int) -> bool:
    from safesh import _platform

    return _platform.info(pid) is not None


def check_records(_subject: Subject) -> Finding:
    findings = [warn(problem, "safe.sh status") for _files, view in _views() for problem in view.problems]
    return _few(findings) if findings else ok("all can be read")


def _few(findings: list[Finding]) -> Finding:
    found = worst(findings[:_MOST_NAMED])
    if len(findings) > _MOST_NAMED:
        found.found += f"; and {len(findings) - _MOST_NAMED} more"
    return found
