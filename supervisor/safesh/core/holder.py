"""A keeper for callers that may have threads: executed (``core.lean``), where ``start_keeper`` forks.

It is the same keeper. It answers on the same link, ends the tree when its caller vanishes (end of file on the
lifeline), and measures the floor of ``core.tally`` exactly.
"""

from __future__ import annotations

import os
import resource

from safesh import _platform, errors
from safesh.core import forking, lean
from safesh.core.contain import RUN_ID
from safesh.core.keeper import Keeper, KeeperLink, Run, keep, link_to
from safesh.core.spawn import explain, explain_exhausted
from safesh.errors import ConfigError, ResourceError, SafeshError
from safesh.model import ExitInfo, Limits, StopPolicy, TargetSpec, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn


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
    its end without any. Then the keeper's status is the caller's to collect. The link is closed by ``let_go``.

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
        ends += forking.make_pipe()
        ends += forking.make_pipe()
        heard, lifeline, report, telling = ends
        fds = (heard, tty) if tty >= 0 else (heard,)
        pid = lean.start("holder", telling, plan, stdio=stdio, pass_fds=fds)
    except BaseException as error:
        for fd in ends:
            forking.close_fd(fd)
        if isinstance(error, OSError):
            raise explain_exhausted(name, error) from None
        raise
    forking.close_fd(heard)
    forking.close_fd(telling)
    return link_to(pid, report, lifeline)


def let_go(link: KeeperLink) -> None:
    """Close our ends; a keeper whose tree is still there then ends it."""
    for fd in (link.report, link._lifeline):
        forking.forget_fd(fd)
    link.close()


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


def _bury(_end: ExitInfo | None, _verdict: Verdict, _usage: dict[str, Any] | None) -> None:
    """Nobody is left to be told, and there is no record."""


class _Holder(Keeper):
    def __init__(self, run: Run, lifeline: int, report: int, parent: int) -> None:
        super().__init__(run, lifeline, report, parent)
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
