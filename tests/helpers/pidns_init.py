"""Pid 1 of a test's own pid namespace: runs one command, reaps orphans, and ends everything with itself.

    pidns_init.py SECONDS PROCESSES LIFELINE COMMAND ARGS...

Ends, and with it the kernel ends every process of the namespace, when COMMAND ends (its status is
passed on, 128+n for signal n), after SECONDS, when more than PROCESSES live at once (root is exempt from
RLIMIT_NPROC, so somebody has to count), or when the other end of the pipe LIFELINE is closed.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time


def main() -> int:
    deadline = time.monotonic() + float(sys.argv[1])
    most, lifeline, command = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    os.set_inheritable(lifeline, False)
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    bound = 4 * most if hard == resource.RLIM_INFINITY else min(hard, 4 * most)  # it counts the user's, not ours
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, hard))

    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    child = os.posix_spawnp(command[0], command, os.environ, setsigdef=[signal.SIGPIPE])

    watch = select.poll()
    watch.register(reader, select.POLLIN)
    watch.register(lifeline, 0)  # hang-up only
    while True:
        for fd, _ in watch.poll(250):
            if fd == lifeline:
                return 1
            os.read(reader, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        count = sum(name.isdigit() for name in os.listdir("/proc"))
        if count > most:
            print(f"pid namespace ended: {count} processes, {most} allowed", file=sys.stderr)
            return 124
        if time.monotonic() > deadline:
            print(f"pid namespace ended: not done within {sys.argv[1]} s", file=sys.stderr)
            return 124


if __name__ == "__main__":
    sys.exit(main())
