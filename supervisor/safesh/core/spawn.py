"""Fork and exec: the one place where a program is started.

The child runs only what stands in ``_become``: no handler of the parent, no ``finally`` of a caller.
A failure between fork and exec comes back through a pipe that a successful exec closes, so the parent
knows for certain which of the two happened, and the error has its name, its place and its exit code.
"""

from __future__ import annotations

import errno
import os

from safesh.core.ctty import take_foreground, take_terminal
from safesh.errors import (
    ArgumentsTooLong,
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    ResourceError,
    SafeshError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Literal, NoReturn

    Session = Literal["new", "pgrp", "keep"]
else:
    import _signal

_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# execvp(3) goes on to the next folder of PATH after these; any other error is the answer.
_TRY_NEXT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


def spawn(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdio: Sequence[int] = (0, 1, 2),
    session: Session = "new",
    tty: int = -1,
    sigmask: Collection[int] = (),
    ignored: Collection[int] = (),
    before_exec: Callable[[], object] | None = None,
    pass_fds: Collection[int] = (),
    fork: Callable[[], int] = os.fork,
) -> int:
    """The pid of a new child that has exec'ed ``argv``; its status is the caller's to collect.

    env: the whole environment (None: ours); its PATH is searched as execvp(3) does. stdio: what becomes
    descriptors 0, 1 and 2; an entry equal to its place is left as it is, closed included. session:
    ``new`` session, ``pgrp`` own process group, or ``keep`` the caller's. tty: a descriptor of the terminal
    to hand over: controlling terminal of a new session, foreground of a new group; -1 for none.
    sigmask, ignored: the child's blocked signals, and those set to SIG_IGN; every other is SIG_DFL.
    before_exec: runs in the child after all that, signals still blocked; keep it to system calls.
    pass_fds: descriptors that stay open besides stdio. fork: makes the child, 0 there, its pid here.

    Raises CommandNotFound (127), CommandNotExecutable (126), ConfigError for ``cwd`` or a NUL byte,
    ResourceError when there is no descriptor, process or memory left; then there is no child.
    """
    if not argv or not argv[0]:
        raise CommandNotFound("No such file or directory", place=argv[0] if argv else "(no command)")
    environment = dict(os.environ if env is None else env)
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise explain_exhausted(argv[0], error) from None
    # All signals wait: one delivered between fork and exec would run the parent's handler in the child,
    # or be swallowed there, and one aimed at the parent must find its loop, not this call.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        pid = fork()
        if pid == 0:
            os.closerange(reading, reading + 1)  # which cannot raise: nothing may get past become
            become(writing, argv, cwd, environment, stdio, session, tty, sigmask, ignored, before_exec, pass_fds)
    except OSError as error:
        os.close(reading)
        raise explain_exhausted(argv[0], error) from None
    finally:
        os.close(writing)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    try:
        report = b""
        while chunk := os.read(reading, 4096):
            report += chunk
    finally:
        os.close(reading)
    if report:
        os.waitpid(pid, 0)
        raise read_failure(report, argv[0], cwd)
    return pid


def read_failure(report: bytes, name: str, cwd: str | None) -> SafeshError:
    """The error that ``become`` wrote."""
    stage, code, detail = report.decode(errors="replace").split(" ", 2)
    return explain(name, cwd, stage, int(code), detail)


class _Failure(Exception):
    """In the child: the step that failed, its errno (0: none) and words for it."""

    def __init__(self, stage: str, number: int, detail: str = "") -> None:
        self.stage = stage
        self.number = number
        self.detail = detail


def _above_stdio(fd: int) -> int:
    """The same pipe at a number that no dup2 onto 0, 1 or 2 can hit."""
    while fd < 3:
        fd = os.dup(fd)
    return fd


def become(
    telling: int,
    argv: Sequence[str],
    cwd: str | None,
    env: dict[str, str],
    stdio: Sequence[int] = (0, 1, 2),
    session: Session = "keep",
    tty: int = -1,
    sigmask: Collection[int] = (),
    ignored: Collection[int] = (),
    before_exec: Callable[[], object] | None = None,
    pass_fds: Collection[int] = (),
) -> NoReturn:
    """In the process that is to be the program, all signals blocked: see ``spawn``. Why not goes to ``telling``, a pipe
    that exec closes."""
    try:
        telling = _above_stdio(telling)
        _become(argv, cwd, env, stdio, session, tty, sigmask, ignored, before_exec, pass_fds)
    except _Failure as failure:
        os.write(telling, f"{failure.stage} {failure.number} {failure.detail}".encode(errors="replace"))
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) and error.errno else 0
        os.write(telling, f"prepare {number} {type(error).__name__}: {error}".encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _become(
    argv: Sequence[str],
    cwd: str | None,
    env: dict[str, str],
    stdio: Sequence[int],
    session: Session,
    tty: int,
    sigmask: Collection[int],
    ignored: Collection[int],
    before_exec: Callable[[], object] | None,
    pass_fds: Collection[int],
) -> NoReturn:
    if session == "new":
        os.setsid()
        if tty >= 0:
            take_terminal(tty)
    elif session == "pgrp":
        os.setpgid(0, 0)
        if tty >= 0:
            take_foreground(tty)  # here, not in the parent: when we wrap ourselves, the innermost must win
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError as error:
            raise _Failure("cwd", error.errno or 0) from None
    _place(stdio)
    for fd in pass_fds:
        os.set_inheritable(fd, True)
    if before_exec is not None:
        before_exec()
    _set_dispositions(ignored)
    # From here on a signal acts on the child as it would on the program: the parent sees it die of it.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, set(sigmask))
    _exec(argv, env)


def _place(stdio: Sequence[int]) -> None:
    # A source that stands where another has to go moves out of the way first.
    sources = [fd if fd == place or fd > 2 else os.dup(fd) for place, fd in enumerate(stdio)]
    for place, source in enumerate(sources):
        if source != place:
            os.dup2(source, place)


def _set_dispositions(ignored: Collection[int]) -> None:
    for number in _signal.valid_signals():
        if number in (_signal.SIGKILL, _signal.SIGSTOP):
            continue
        wanted = _signal.SIG_IGN if number in ignored else _signal.SIG_DFL
        # Handlers too, though exec would reset them: unblocking comes first, and they are the parent's.
        if _signal.getsignal(number) != wanted:
            _signal.signal(number, wanted)


def _exec(argv: Sequence[str], env: dict[str, str]) -> NoReturn:
    """execvpe(3), PATH being that of ``env``."""
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{folder or '.'}/{name}" for folder in env.get("PATH", os.defpath).split(":")]
    denied = ""
    for path in candidates:
        try:
            os.execve(path, list(argv), env)
        except OSError as error:
            number = error.errno or 0
            if number == errno.ENOEXEC:  # a script without "#!"
                try:
                    os.execve("/bin/sh", ["/bin/sh", path, *argv[1:]], env)
                except OSError:
                    raise _Failure("exec", number, path) from None
            if number not in _TRY_NEXT or len(candidates) == 1:
                raise _Failure("exec", number, path) from None
            if number == errno.EACCES:
                denied = denied or path
        except ValueError as error:
            raise _Failure("argument", 0, str(error)) from None
    raise _Failure("exec", errno.EACCES if denied else errno.ENOENT, denied)


def explain_exhausted(name: str, error: OSError) -> ResourceError:
    """No descriptor, process or memory left to start ``name``."""
    return ResourceError(
        f"cannot be started: {error.strerror}",
        place=name,
        hint="look at ulimit -n, ulimit -u and free memory, then try again",
    )


def explain(name: str, cwd: str | None, stage: str, number: int, detail: str) -> SafeshError:
    """The error for a step between fork and exec. number: errno, 0 for none; detail: the path tried, or words."""
    reason = os.strerror(number) if number else detail
    if stage == "cwd":
        return ConfigError(reason, place=str(cwd), hint="make the folder, or change cwd")
    if stage == "argument":
        return ConfigError(f"an argument or environment variable cannot be passed: {detail}", place=name)
    if stage == "prepare":
        return ResourceError(f"could not be prepared: {detail}", place=name)
    if number in _EXHAUSTED:
        return ResourceError(f"cannot be started: {reason}", place=name)
    if number == errno.E2BIG:
        return ArgumentsTooLong(
            reason,
            place=name,
            hint="pass the data through a file or standard input; getconf ARG_MAX tells the limit",
        )
    if number != errno.ENOENT:
        if number == errno.EACCES and os.path.isdir(os.path.join(cwd or "", detail)):
            return CommandNotExecutable(os.strerror(errno.EISDIR), place=name, hint="name the program inside it")
        hint = f"make it executable: chmod +x {detail}" if number == errno.EACCES else ""
        return CommandNotExecutable(reason, place=name, hint=hint)
    if detail and os.path.exists(os.path.join(cwd or "", detail)):
        return CommandNotFound(reason, place=name, hint="the file is there; the interpreter it names is not")
    return CommandNotFound(reason, place=name, hint="check the spelling and PATH")
