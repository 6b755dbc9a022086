"""What ``start`` becomes: ``hold.py FD INSTANCE`` reads its plan from FD and supervises until it is over.

Executed as a file, without ``site``, with nothing in memory that the front end needed.
"""

import os
import sys

if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh import wire
from safesh.core.fds import close_all_except
from safesh.supervise.plan import Plan
from safesh.supervise.supervisor import Supervisor


def hold(fd: int) -> int:
    """Supervise the plan that waits in the pipe ``fd``; the exit status of ``start``."""
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    os.close(fd)
    plan = Plan.from_dict(wire.loads(data.decode()))
    ours = [number for number in (plan.lock, plan.stdin, plan.echo, plan.terminal, plan.notify) if number > 2]
    # Whatever else our caller had open: a pipe kept here would never end for whoever reads it.
    close_all_except(ours)
    for number in ours:
        os.set_inheritable(number, False)
    supervisor = Supervisor(plan, tell if plan.mode == "foreground" else lambda _line: None)
    try:
        return supervisor.supervise()
    except Exception:
        # A bug of ours. Leaving is safe: the keeper ends the tree. But nobody may have to guess why.
        import traceback

        text = traceback.format_exc()
        supervisor.journal.event("supervisor_crashed", traceback=text)
        tell(text if plan.mode == "foreground" else "")
        return 70


def tell(line: str) -> None:
    """For the person at the terminal, on stderr; gone with it."""
    try:
        os.write(2, f"safesh: {line}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


if __name__ == "__main__":
    os._exit(hold(int(sys.argv[1])))
