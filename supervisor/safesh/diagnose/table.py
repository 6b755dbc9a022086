"""All checks, in the order in which they are told, each with what depends on it."""

from __future__ import annotations

import os

from safesh.diagnose import kernel, leftovers, limits, metrics, software, state
from safesh.diagnose.check import DEADLINE, Check, Finding, Subject, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKS: tuple[Check, ...] = tuple(
    Check(name=name, why=why, look=look)
    for name, why, look in (
        ("python", "supervisor and keeper are Python processes", software.check_python),
        ("libraries", "help, tables, safe.toml and the portable backend need them", software.check_libraries),
        ("extras", "each serves one optional part; the rest works without", software.check_extras),
        ("kernel", "processes are found and told apart by what the kernel shows", kernel.check_system),
        ("backend", "it decides how surely a whole tree is found and ended", kernel.check_backend),
        (
            "cgroup",
            "a group of its own is killed at once, whatever forks in it, and can have limits",
            kernel.check_cgroup,
        ),
        ("pidfd", "a signal through it can never hit another process that got the same pid", kernel.check_pidfd),
        ("subreaper", "without it a process that daemonises leaves its tree", kernel.check_subreaper),
        ("children", "a short way to a tree's members", kernel.check_children),
        ("signalfd", "signals are waited for, not handled in the middle of something", kernel.check_signalfd),
        ("splice", "logs are moved without being copied", kernel.check_splice),
        ("tee", "a foreground start shows what goes into the log", kernel.check_tee),
        ("state folder", "who can write there can make us start and signal what they like", state.check_folder),
        (
            "state files",
            "a file of somebody else is never trusted, so starts and stops are refused",
            state.check_files,
        ),
        (
            "file system",
            "the lock that lets one instance run is as good as its file system",
            state.check_filesystem,
        ),
        ("space", "without it output is lost and the status is old", state.check_space),
        ("socket", "stop, restart and status of a live instance go through it", state.check_socket),
        ("open files", "supervisor and keeper hold a descriptor for each process they end", limits.check_files),
        ("processes", "a start that gets no process fails", limits.check_processes),
        ("memory", "what goes beyond it is killed by the kernel", limits.check_memory),
        ("core dumps", "status tells when a target dumped core", limits.check_core),
        ("clock", "ages and last exits are shown by it; deadlines do not depend on it", limits.check_clock),
        ("safe.toml", "start, stop and status by name need it", software.check_config),
        ("targets", "a target whose command or folder is missing cannot start", software.check_targets),
        ("gpu", "metrics tell what cards do; nothing else needs them", metrics.check_gpu),
        ("history", "past runs and samples lie there: history, trends, start --if-fits", metrics.check_history),
        ("records", "a damaged record hides what ran", leftovers.check_records),
        (
            "control groups",
            "those of ended runs pile up, or still hold processes",
            leftovers.check_groups,
        ),
        ("left files", "they look like a run that is none", leftovers.check_files),
    )
)


def diagnose(config: str | None = None, deadline: float = DEADLINE) -> Iterator[Finding]:
    """Every check's answer as it comes. config: ``--config``; deadline: seconds for each."""
    subject = Subject(config=config, backend_problem=_settle_backend())
    for check in CHECKS:
        yield run(check, subject, deadline)


def _settle_backend() -> str:
    """What is wrong with $SAFESH_BACKEND; it is then forgotten here, for no platform can be loaded with it."""
    from safesh.errors import ConfigError

    try:
        from safesh import _platform  # noqa: F401
    except ConfigError as error:
        del os.environ["SAFESH_BACKEND"]
        return str(error)
    return ""
