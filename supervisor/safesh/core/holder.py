"""A keeper for callers that may have threads: executed (``core.lean``), where ``start_keeper`` forks.

It is the same keeper. It answers on the same link, ends the tree when its caller vanishes (end of file on the
lifeline), and adds to ``gone`` what the tree used, its dead included::

    "usage": {"user_seconds", "system_seconds", "peak_memory_bytes", "peak_memory_of", "peak_memory_floor_bytes",
              "read_bytes", "write_bytes", "whole"}

peak_memory_of: ``tree``, where a cgroup's memory controller counted, page cache included; else ``process``: the largest
resident size of any one. The kernel lets that begin with what the keeper's fork held before exec, the floor: a peak
near the floor means that much or less. read_bytes, write_bytes: from and to storage; null where nobody tells. whole:
false where orphans went to pid 1 and were not counted (no subreaper). A process whose parent ignores SIGCHLD (wait(2))
is counted by a cgroup alone.
"""

from __future__ import annotations

import os
import resource

from safesh import _platform, errors
from safesh.core import lean
from safesh.core.contain import RUN_ID, Tree
from safesh.core.keeper import Keeper, KeeperLink, Run, keep, link_to
from safesh.core.spawn import explain, explain_exhausted
from safesh.errors import ConfigError, ResourceError, SafeshError
from safesh.model import ExitInfo, Limits, StopPolicy, TargetSpec, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from safesh._platform.cgroup import Group


def hold(
    argv: Sequence[str],
    *,
    run_id: str,
    env: Mapping[str, str],
    stdio: Sequence[int],
    stop: StopPolicy,
    cwd: str | None = None,
    limits: Limits | None = None,
    tty: int = -1,
) -> KeeperLink:
    """Execute a keeper that starts ``argv`` and holds its tree; returns at once.

    env: the whole environment; the run id is added. stdio: the target's 0, 1 and 2, for the caller to close. stop:
    how the tree is ended when we vanish. limits: those a kernel keeps (``core.ceilings``). tty: a terminal that becomes
    the controlling one of the target's session.

    Whether the target runs is the link's first message: ``spawned``, ``refused`` or ``broken`` (see ``refusal``), or
    its end without any. Then the keeper's status is the caller's to collect.

    Raises ResourceError when no keeper can be started, ConfigError for what cannot be passed to any program.
    """
    name = argv[0] if argv else "(no command)"
    try:
        folder = os.getcwd() if cwd is None else os.path.abspath(cwd)  # the keeper itself moves to /
    except OSError as error:
        raise ConfigError(f"the working directory: {error.strerror}", place=cwd or ".", hint="give cwd") from None
    try:
        plan = {
            "run_id": run_id,
            "argv": lean.pack(argv),
            "env": [lean.pack(pair) for pair in {**env, RUN_ID: run_id}.items()],
            "cwd": lean.pack([folder])[0],
            "stop": stop.to_dict(),
            "limits": limits.to_dict() if limits is not None else {},
        }
    except ValueError as error:
        raise explain(name, cwd, "argument", 0, str(error)) from None
    ends: list[int] = []
    try:
        ends += os.pipe()
        ends += os.pipe()
        heard, lifeline, report, telling = ends
        fds = (heard, tty) if tty >= 0 else (heard,)
        pid = lean.start("holder", telling, plan, stdio=stdio, pass_fds=fds)
    except BaseException as error:
        for fd in ends:
            os.close(fd)
        if isinstance(error, OSError):
            raise explain_exhausted(name, error) from None
        raise
    os.close(heard)
    os.close(telling)
    return link_to(pid, report, lifeline)


def refusal(message: Mapping[str, Any]) -> SafeshError:
    """The error that a ``refused`` or ``broken`` message tells of."""
    if message["event"] != "refused":
        return ResourceError(f"its keeper failed: {message['message']}", place="keeper")
    kind = getattr(errors, message["error"], SafeshError)
    error: SafeshError = kind(message["message"], place=message["place"], hint=message["hint"])
    return error


# --- in the executed process --------------------------------------------------------------------


def main(report: int, plan: int, lifeline: int, tty: int = -1) -> NoReturn:
    """The target's stdio is ours until it has been started. Errors are for ``lean`` to tell."""
    told = lean.read_plan(plan)
    spec = TargetSpec(
        name=told["run_id"],
        instance=told["run_id"],
        project="",
        command=lean.unpack(told["argv"]),
        cwd=lean.unpack([told["cwd"]])[0],
        stop=StopPolicy.from_dict(told["stop"]),
        limits=Limits.from_dict(told["limits"]),
    )
    env = dict(lean.unpack(pair) for pair in told["env"])
    run = Run(spec, told["run_id"], env, 0, (-1, 1), [], _bury, errors=2, terminal=tty)
    keep(run, lifeline, report, os.getppid(), _Holder)


def _bury(_end: ExitInfo | None, _verdict: Verdict) -> None:
    """Nobody is left to be told, and there is no record."""


class _CountedTree(Tree):
    """Its group's counters are read in the last moment: they go with it."""

    cpu: tuple[float, float] | None = None
    peak: int | None = None

    def remove_group(self) -> None:
        if self.group is not None:
            self.read(self.group)
        super().remove_group()

    def read(self, group: Group) -> None:
        self.cpu = group.cpu_times()
        self.peak = group.ceiling("memory.peak")


class _Holder(Keeper):
    def __init__(self, run: Run, lifeline: int, report: int, parent: int) -> None:
        super().__init__(run, lifeline, report, parent)
        self.tree: _CountedTree = _CountedTree(run.run_id, os.getpid())
        self.floor = 0
        self.measured = -1

    def _spawn(self) -> bool:
        floor, self.measured = os.pipe()
        try:
            return super()._spawn()
        finally:
            os.close(self.measured)
            self.floor = int(os.read(floor, 32) or b"0")
            os.close(floor)

    def _before_exec(self) -> None:
        # What exec carries over, measured where it is carried: less than what we hold, for a fork leaves files behind.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _platform.MAXRSS_UNIT
        os.write(self.measured, b"%d" % most)

    def _account(self) -> dict[str, Any]:
        if self.tree.group is not None:  # not empty, so it is still there
            self.tree.read(self.tree.group)
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = (reaped.ru_utime, reaped.ru_stime)
        # Each may know of somebody whom the other does not: moved out of the group, or never waited for.
        if self.tree.cpu is not None and sum(self.tree.cpu) > sum(cpu):
            cpu = self.tree.cpu
        peak, of, floor = self.tree.peak, "tree", 0
        if peak is None:
            peak, of, floor = reaped.ru_maxrss * _platform.MAXRSS_UNIT, "process", self.floor
        ours = _platform.io_bytes(os.getpid(), alone=True)
        total = _platform.io_bytes(os.getpid())
        return {
            "usage": {
                "user_seconds": round(cpu[0], 6),
                "system_seconds": round(cpu[1], 6),
                "peak_memory_bytes": peak,
                "peak_memory_of": of,
                "peak_memory_floor_bytes": floor,
                "read_bytes": total[0] - ours[0] if total and ours else None,
                "write_bytes": total[1] - ours[1] if total and ours else None,
                "whole": _platform.HAS_SUBREAPER,
            }
        }
