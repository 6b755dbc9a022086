"""Start a program on a terminal of its own from a caller that may have threads.

Somebody has to take the controlling terminal between fork and exec, which ``core.quick`` cannot. So what it starts is a
lean Python (``core.lean``), the leader of a new session, that does this in its own time and then becomes the program
in place: one pid from the first to the last.
"""

from __future__ import annotations

import os

from safesh import wire
from safesh.core import forking, lean
from safesh.core.ctty import take_terminal
from safesh.core.spawn import become, explain, explain_exhausted, read_failure
from safesh.errors import CommandNotFound, ResourceError, SafeshError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Collection, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

_BEGUN = b"+"


def start_on_pty(
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    slave: int,
    pass_fds: Collection[int] = (),
) -> int:
    """The pid of a new child that has exec'ed ``argv`` with ``slave`` as 0, 1, 2 and controlling terminal.

    env: the whole environment (None: ours). Signals are the program's as ``core.spawn`` gives them: all default, none
    blocked. The status is the caller's to collect; ``slave`` its to close. Takes as long as Python's start, some 15 ms.

    Raises what ``core.spawn.spawn`` raises; then there is no child.
    """
    if not argv or not argv[0]:
        raise CommandNotFound("No such file or directory", place=argv[0] if argv else "(no command)")
    try:
        plan = {
            "argv": lean.pack(argv),
            # Not as the launcher's own: its locale may be coerced (PEP 538), and the program would inherit that.
            "env": [lean.pack(pair) for pair in (os.environ if env is None else env).items()],
            "cwd": None if cwd is None else lean.pack([cwd])[0],
        }
    except ValueError as error:
        raise explain(argv[0], cwd, "argument", 0, str(error)) from None
    try:
        reading, writing = forking.make_pipe()
    except OSError as error:
        raise explain_exhausted(argv[0], error) from None
    try:
        try:
            pid = lean.start("quickpty", writing, plan, stdio=(slave, slave, slave), pass_fds=tuple(pass_fds))
        finally:
            forking.close_fd(writing)
        report = b""
        while chunk := os.read(reading, 4096):
            report += chunk
    finally:
        forking.close_fd(reading)
    if report == _BEGUN:
        return pid
    try:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
    except ChildProcessError:  # the caller ignores SIGCHLD
        code = 127
    raise _failure(report.removeprefix(_BEGUN), code, argv[0], cwd)


def _failure(report: bytes, code: int, name: str, cwd: str | None) -> SafeshError:
    if not report:
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return ResourceError(f"its launcher ended early, with {how}", place=name, hint="try again")
    if report.startswith(b"{"):
        message = wire.loads(report.decode())["message"]
        return ResourceError(f"its launcher failed: {message}", place=name)
    return read_failure(report, name, cwd)


# --- in the executed process --------------------------------------------------------------------


def main(report: int, plan: int, *pass_fds: int) -> NoReturn:
    """Become the program; the terminal is 0, 1 and 2 already. Errors are for ``lean`` to tell."""
    # From the moment the terminal is ours it may send signals; they wait for the program.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    os.set_inheritable(report, False)
    told = lean.read_plan(plan)
    argv = lean.unpack(told["argv"])
    env = dict(lean.unpack(pair) for pair in told["env"])
    cwd = None if told["cwd"] is None else lean.unpack([told["cwd"]])[0]
    take_terminal(0)
    os.tcgetpgrp(0)  # OSError unless it is ours now

    def begin() -> None:
        # Without it, the end of the pipe could as well mean that we were killed on the way.
        os.write(report, _BEGUN)

    become(report, argv, cwd, env, before_exec=begin, pass_fds=pass_fds)
