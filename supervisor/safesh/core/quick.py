"""Start a program without running a line of Python in the child: for callers that may have threads.

``core.spawn`` forks and prepares the child in Python, which is right only where no other thread can hold a lock at that
moment. Here the child is made by what ``subprocess`` itself stands on (C code; vfork(2) where the C library allows it)
and goes straight to exec. What starting means, and every error, is that of ``core.spawn``; signal dispositions and mask
are the caller's, as subprocess passes them on.
"""

from __future__ import annotations

import errno
import os
import sys
from itertools import chain, starmap, tee

from safesh.core import forking
from safesh.core.spawn import explain, explain_exhausted
from safesh.errors import CommandNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from typing import Any
else:
    import _signal


def start(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    stdio: Sequence[int] = (0, 1, 2),
    new_session: bool = True,
    pass_fds: Collection[int] = (),
    born: list[int] | None = None,
    opener: Callable[[int], int] | None = None,
) -> int:
    """The pid of a new child that has exec'ed ``argv``; its status is the caller's to collect, and nobody else's.

    env: the whole environment (None: ours). stdio: what becomes descriptors 0, 1 and 2. born: gets the pid as well, in
    the moment there is one, for a caller that a Ctrl-C may keep from being told; and then what ``opener`` makes of it
    (``_platform.child_opener``) before any handler of SIGCHLD can have collected the child; nothing where that fails.

    Raises what ``core.spawn.spawn`` raises; then there is no child.
    """
    if not argv or not argv[0]:
        raise CommandNotFound("No such file or directory", place=argv[0] if argv else "(no command)")
    if born is None:
        born = []
        try:
            return start(argv, cwd=cwd, env=env, stdio=stdio, new_session=new_session, pass_fds=pass_fds, born=born)
        except BaseException:
            for pid in born:  # interrupted before anybody was told of it
                os.kill(pid, _signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
    name = argv[0]
    try:
        try:
            return _execute(argv, _candidates(name, env), cwd, env, stdio, new_session, pass_fds, born, opener)
        except OSError as error:
            if error.errno != errno.ENOEXEC or error.filename == cwd:
                raise
            # A script without "#!", as execvp(3) runs it.
            script = next((path for path in _candidates(name, env) if os.access(path, os.X_OK)), os.fsencode(name))
            line = ["/bin/sh", os.fsdecode(script), *argv[1:]]
            return _execute(line, [b"/bin/sh"], cwd, env, stdio, new_session, pass_fds, born, opener)
    except ValueError as error:
        raise explain(name, cwd, "argument", 0, str(error)) from None
    except OSError as error:
        if error.filename is None:  # of pipe(2) or fork(2): no program was reached
            raise explain_exhausted(name, error) from None
        stage = "cwd" if cwd is not None and error.filename == cwd else "exec"
        raise explain(name, cwd, stage, error.errno or 0, name if "/" in name else "") from None


def _candidates(name: str, env: Mapping[str, str] | Mapping[bytes, bytes] | None) -> list[bytes]:
    """Where execvp(3) would look, PATH being that of ``env``."""
    encoded = os.fsencode(name)
    if b"/" in encoded:
        return [encoded]
    if env is None:
        path: str | bytes | None = os.environ.get("PATH")
    else:
        path = env.get(b"PATH") or env.get("PATH")  # type: ignore[call-overload]
    folders = os.defpath if path is None else path
    return [folder + b"/" + encoded for folder in os.fsencode(folders).split(b":")]


def _execute(
    argv: Sequence[str],
    candidates: Sequence[bytes],
    cwd: str | None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None,
    stdio: Sequence[int],
    new_session: bool,
    pass_fds: Collection[int],
    born: list[int],
    opener: Callable[[int], int] | None,
) -> int:
    """As ``subprocess.Popen`` does it, without the object; OSError with the name of what could not be executed."""
    reading, writing = forking.make_pipe()
    try:
        writing = _above_stdio(writing)
        call = (
            argv,
            candidates,
            True,  # close_fds
            tuple(sorted({*pass_fds, writing})),
            None if cwd is None else os.fsencode(cwd),
            None if env is None else _pairs(env),
            stdio[0], -1, -1, stdio[1], -1, stdio[2],
            reading, writing,
            True,  # restore_signals
            new_session,
            -1, None, None, None, -1,  # no group, gid, groups, uid, umask of its own
            None,  # preexec_fn
            True,  # vfork
        )  # fmt: skip
        # All of it in C: an exception from a signal's handler cannot come between the fork and the noting of its pid.
        pids: Iterator[int] = starmap(_fork_exec(), (call,))
        if opener is None:
            born.extend(pids)
        else:
            pids, same, once_more = tee(pids, 3)
            try:
                born.extend(chain.from_iterable(zip(pids, map(opener, same), strict=True)))
            except OSError:
                born.extend(once_more)
                if not born:
                    raise  # no fork at all
    except BaseException:
        forking.close_fd(reading)
        raise
    finally:
        forking.close_fd(writing)
    try:
        report = b""
        while chunk := os.read(reading, 4096):
            report += chunk
    finally:
        forking.close_fd(reading)
    pid = born[0]
    if report:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass
        for fd in born[1:]:
            os.close(fd)
        born.clear()
        # "OSError:<errno in hex>:<where>", written by the C code between fork and exec.
        _kind, number, where = report.split(b":", 2)
        code = int(number, 16)
        raise OSError(code, os.strerror(code), cwd if where.startswith(b"noexec") and cwd is not None else argv[0])
    return pid


class Environment(dict[bytes, bytes]):
    """A whole environment. pairs: the same as exec takes it, where somebody has it at hand: it must not change then."""

    pairs: list[bytes] | None = None


def _pairs(env: Mapping[str, str] | Mapping[bytes, bytes]) -> list[bytes]:
    if isinstance(env, Environment) and env.pairs is not None:
        return env.pairs
    pairs = []
    for name, value in env.items():
        key = name if type(name) is bytes else os.fsencode(name)
        if b"=" in key:
            raise ValueError("illegal environment variable name")
        pairs.append(key + b"=" + (value if type(value) is bytes else os.fsencode(value)))
    return pairs


def _above_stdio(fd: int) -> int:
    """The same pipe at a number that none of the child's 0, 1 and 2 takes."""
    low = []
    while fd < 3:
        low.append(fd)
        fd = forking.own_fd(os.dup(fd))
    for one in low:
        forking.close_fd(one)
    return fd


def _fork_exec() -> Callable[..., int]:
    global _known
    if _known is None:
        from _posixsubprocess import fork_exec

        _known = fork_exec if sys.version_info[:2] in _SAME_CALL else _through_popen
    return _known


# Versions of Python whose C function takes the arguments above; what another one wants, its own Popen knows.
_SAME_CALL = ((3, 11), (3, 12), (3, 13))
_known: Callable[..., int] | None = None


def _through_popen(argv: Sequence[str], candidates: Sequence[bytes], *others: Any) -> int:
    """The same through ``Popen``, which reports a failure of exec by itself."""
    import subprocess

    keep, cwd, pairs = others[1], others[2], others[3]
    child = subprocess.Popen(
        argv,
        executable=None if len(candidates) > 1 else candidates[0],
        cwd=cwd,
        env=None if pairs is None else dict(pair.split(b"=", 1) for pair in pairs),
        stdin=others[4],
        stdout=others[7],
        stderr=others[9],
        start_new_session=others[13],
        pass_fds=[fd for fd in keep if fd != others[11]],
    )
    # It never waits for the child: not when collected, not when the next Popen cleans up behind others.
    child.returncode = 0
    return child.pid
