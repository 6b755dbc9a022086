"""What ``start`` becomes: ``hold.py FD INSTANCE`` reads its plan from FD and supervises until it is over.

Executed as a file, without ``site``, with nothing in memory that the front end needed.
"""

import os
import sys

if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh import wire
from safesh.core.contain import HOLDER
from safesh.core.fds import close_all_except
from safesh.core.keeper import tell as answer
from safesh.errors import ResourceError, is_unloadable
from safesh.supervise.plan import Plan
from safesh.supervise.supervisor import Supervisor


def hold(fd: int) -> int:
    """Supervise the plan that waits in the pipe ``fd``; the exit status of ``start``."""
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    os.close(fd)
    plan = Plan.from_dict(wire.loads(data.decode()))
    os.environ.pop(HOLDER, None)  # the kernel shows it still (proc_pid_environ(5)); what we start does not get it
    ours = [number for number in (plan.lock, plan.stdin, plan.echo, plan.terminal, plan.notify) if number > 2]
    # Whatever else our caller had open: a pipe kept here would never end for whoever reads it.
    close_all_except(ours)
    for number in ours:
        os.set_inheritable(number, False)
    supervisor = None
    try:
        supervisor = Supervisor(plan, tell if plan.mode == "foreground" else lambda _line: None)
        return supervisor.supervise()
    except Exception as error:
        if isinstance(error, (OSError, MemoryError)) or is_unloadable(error):
            # The machine refused what cannot be done without. Leaving is safe: the keeper ends the tree.
            return _give_up(plan, supervisor, error)
        # A bug of ours. Leaving is just as safe, but nobody may have to guess why.
        import traceback

        text = traceback.format_exc()
        if supervisor is not None:
            supervisor.journal.event("supervisor_crashed", traceback=text)
        tell(text if plan.mode == "foreground" else "")
        return 70


def _give_up(plan: Plan, supervisor: Supervisor | None, error: Exception) -> int:
    """Say so wherever somebody may look for it; the exit status."""
    what = getattr(error, "strerror", None) or str(error) or "out of memory"
    why = f"its supervisor gave up: {what} (in {_innermost(error)})"
    if supervisor is not None:
        supervisor.journal.event("supervisor_failed", message=why)
        if supervisor.lock.fd >= 0:
            supervisor.lock.release()  # whoever hears of it may start again; a keeper that is still at work has its own
    name = plan.spec["name"]
    if plan.notify >= 0:
        failed = {"code": ResourceError.exit_code, "message": why, "place": name}
        answer(plan.notify, {"failed": {**failed, "hint": f"look: safe.sh status {name}"}})
    if plan.mode == "foreground":
        tell(f"{name}: {why}")
    return ResourceError.exit_code


def _innermost(error: BaseException) -> str:
    """``file.py:line`` of where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else "?"


def tell(line: str) -> None:
    """For the person at the terminal, on stderr; gone with it."""
    try:
        os.write(2, f"safesh: {line}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


if __name__ == "__main__":
    os._exit(hold(int(sys.argv[1])))
