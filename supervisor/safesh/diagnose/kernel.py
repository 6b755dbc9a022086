"""What the kernel can do, asked by doing it."""

from __future__ import annotations

import os
import select

from safesh.diagnose.check import Finding, Subject, fail, ok, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

_DELEGATE = "run it in a group of your own: systemd-run --user --scope -p Delegate=yes safe.sh start TARGET"
_PORTABLE = "nothing to do: SAFESH_BACKEND=posix does without it, and ends a tree less surely"


def check_system(_subject: Subject) -> Finding:
    from safesh._platform import probe

    if probe.processes_visible() is False:
        return fail(f"{probe.kernel()}, and its process file system is not mounted", probe.MOUNT)
    return ok(probe.kernel())


def check_backend(subject: Subject) -> Finding:
    from safesh.core.contain import choose_backend

    if subject.backend_problem:
        return fail(subject.backend_problem, "unset SAFESH_BACKEND")
    backend, why = choose_backend()
    found = f"{backend} ({why})" if why else f"{backend}, the best there is"
    if "SAFESH_BACKEND" in os.environ and backend != "cgroup":
        return warn(found, "unset SAFESH_BACKEND")
    return ok(found)


def check_cgroup(_subject: Subject) -> Finding:
    from safesh._platform import probe

    if not probe.IS_LINUX:
        return ok("this system has none; sessions and run ids are used instead")
    parent, why = probe.group_parent()
    if not parent:
        return warn(f"no group can be made: {why}", _DELEGATE)
    if probe.can_kill_groups(parent) is False:
        return warn(f"{parent} is writable, but the kernel has no cgroup.kill (Linux 5.14)", "use a newer kernel")
    given = [name for name in ("memory", "cpu", "pids") if name in probe.controllers(parent)]
    limits = f"controllers {', '.join(given)}" if given else "no controllers: the kernel limits nothing there"
    return ok(f"version 2, groups are made in {parent}; {limits}")


def check_pidfd(_subject: Subject) -> Finding:
    if not hasattr(os, "pidfd_open"):
        return ok("this system has none; processes are told by pid and start time")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # until it is killed, or we are gone
        os._exit(0)
    try:
        fd = os.pidfd_open(pid)
        try:
            _signal.pidfd_send_signal(fd, _signal.SIGKILL)
            os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        finally:
            os.close(fd)
    except OSError as error:
        return warn(
            f"pidfds do not work here: {error.strerror}",
            "use Linux 5.4 or later, or let the sandbox allow pidfd_open, pidfd_send_signal and waitid",
        )
    finally:
        os.kill(pid, _signal.SIGKILL)
        os.waitpid(pid, 0)
    return ok("pidfd_open, pidfd_send_signal and waitid work")


def check_subreaper(_subject: Subject) -> Finding:
    """Here we are a child process of doctor's, so nothing of it outlives the check."""
    from safesh import _platform

    if not _platform.HAS_SUBREAPER:
        return ok("this system has none; orphans are found by session and run id")
    if not _platform.become_subreaper():
        return fail("prctl(PR_SET_CHILD_SUBREAPER) is refused", _PORTABLE)
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            os.close(writing)
            os.read(reading, 1)  # until our parent has gone
            os._exit(7)
        os._exit(0)
    os.waitpid(middle, 0)
    os.close(writing)
    try:
        _pid, status = os.waitpid(-1, 0)
    except ChildProcessError:
        return fail("orphans do not come to the process that adopts them", _PORTABLE)
    return ok("orphans come to us") if os.waitstatus_to_exitcode(status) == 7 else fail("orphans are lost", _PORTABLE)


def check_children(_subject: Subject) -> Finding:
    from safesh._platform import probe

    listed = probe.children_listed()
    if listed is None:
        return ok("this system has no such file")
    if listed:
        return ok("the kernel lists each process's children")
    return ok("the kernel does not list children (CONFIG_PROC_CHILDREN); all processes are read instead")


def check_signalfd(_subject: Subject) -> Finding:
    from safesh import _platform

    source = _platform.SignalSource((_signal.SIGUSR1,))
    os.kill(os.getpid(), _signal.SIGUSR1)
    watch = select.poll()
    watch.register(source.fileno(), select.POLLIN)
    if watch.poll(1000):
        return ok("signals can be waited for")
    return fail("a signal that was sent did not arrive", _PORTABLE)


def check_splice(_subject: Subject) -> Finding:
    if not hasattr(os, "splice"):
        return ok("this system has none; logs are copied")
    source, sink = _pipe_with(b"safesh"), os.pipe()
    try:
        moved = os.splice(source, sink[1], 6)
    except OSError as error:
        return warn(f"splice does not work here: {error.strerror}", "nothing to do: logs are copied, which is slower")
    return ok("works") if moved == 6 else warn(f"moved {moved} of 6 bytes", "use a newer kernel")


def check_tee(_subject: Subject) -> Finding:
    from safesh import _platform

    source, sink = _pipe_with(b"safesh"), os.pipe()
    if _platform.tee(source, sink[1], 6) == 6 and os.read(source, 6) == b"safesh":
        return ok("works")
    return ok("there is none; what is shown in a foreground start is copied")


def _pipe_with(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading
