"""How a command comes to life: its pipes or terminal, the start itself, and what is undone where that goes wrong.

One way to begin for all who drive a job afterwards, so that each step which fails is told the same and leaves no
descriptor and no child. A job has no pid until its child is there, and nothing may be "ended" by a pid that is none: 0
means whole groups of others to kill(2).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safesh import _platform
from safesh.clock import monotonic
from safesh.core import forking, quick
from safesh.core.spawn import explain_exhausted
from safesh.errors import SafeshError
from safesh.process import streams
from safesh.process.conclusion import collect
from safesh.process.streams import Collector, Feed, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from safesh.process.job import Job
    from safesh.process.streams import Store


def begin(job: Job, make_store: Callable[[int | None], Store] = Collector) -> bool:
    """Start it; False when it could not be, which the result then tells."""
    plan = job.plan
    theirs: list[int] = []
    try:
        stdio = _open_pty(job, theirs, make_store) if plan.pty else _open_pipes(job, theirs, make_store)
        _launch(job, stdio)
    except OSError as error:
        fail(job, explain_exhausted(plan.argv[0], error))
        return False
    except SafeshError as error:
        fail(job, error)
        return False
    except BaseException:
        abandon(job)
        raise
    finally:
        for fd in theirs:
            forking.close_fd(fd)
    job.result.pid = job.pid
    return True


def abandon(job: Job) -> None:
    """Interrupted (Ctrl-C) before anybody looked after it: nothing of it may stay."""
    try:
        if job.born and not job.pid:
            job.pid = job.born[0]
        if len(job.born) > 1 and job.handle is None:
            job.handle = _platform.open_child(job.pid, 0, job.born[1])
        if job.pid and job.link is None and not job.reaped:
            from safesh.process.ending import end_runs

            end_runs([job.mark()], job.plan.stop, now=True)
            collect(job)
    finally:
        job.close()  # a keeper ends its tree when its lifeline does


def fail(job: Job, error: SafeshError) -> None:
    """It could not be started, which the result tells; nothing of it stays open."""
    job.close()
    job.result._error = error
    job.exited = job.reaped = True
    code = error.exit_code
    if code in (126, 127):  # the shell's words for it
        job.result.return_code = code
    job.result.execution_time = round(monotonic() - job.began, 6)


def _open_pipes(job: Job, theirs: list[int], make_store: Callable[[int | None], Store]) -> tuple[int, int, int]:
    plan = job.plan
    if plan.stdin_file >= 0:
        stdin = plan.stdin_file
    elif plan.input is None and not plan.keep_stdin:
        stdin = _null_device()
    else:
        stdin, ours = forking.make_pipe()
        theirs.append(stdin)
        job.feed = Feed(ours)
        os.set_blocking(ours, False)
        _fill_feed(job)
    if plan.output_fd >= 0:
        return stdin, plan.output_fd, plan.output_fd
    ours, out = forking.make_pipe()
    theirs.append(out)
    job.out = _stream(job, "stdout", ours, make_store, plan.on_output)
    ours, err = forking.make_pipe()
    theirs.append(err)
    job.err = _stream(job, "stderr", ours, make_store, plan.on_error)
    return stdin, out, err


def _open_pty(job: Job, theirs: list[int], make_store: Callable[[int | None], Store]) -> tuple[int, int, int]:
    from safesh.process.terminal import open_pair

    plan = job.plan
    with forking.lock:
        master, slave = open_pair(raw=plan.pty == "raw")
        theirs.append(forking.own_fd(slave))
        job.out = _stream(job, "stdout", forking.own_fd(master), make_store, plan.on_output, pty=True)
        # Kept until the end: a command that closes its outputs before it exits would see its terminal hang up, and
        # be ended by that (SIGHUP).
        job.line = forking.own_fd(os.dup(master))
        # The same open file, twice in the poll set.
        job.feed = Feed(forking.own_fd(os.dup(master)), terminal=plan.pty is True)
    os.set_blocking(master, False)
    _fill_feed(job)
    return slave, slave, slave


def _fill_feed(job: Job) -> None:
    assert job.feed is not None
    if job.plan.input is not None:
        job.feed.push(job.plan.input)
        if len(job.plan.input) >= 1 << 17:
            streams.set_pipe_size(job.feed.fd, 1 << 20)
    job.feed.closing = not job.plan.keep_stdin


def _stream(
    job: Job,
    name: str,
    fd: int,
    make_store: Callable[[int | None], Store],
    callback: Callable[[Any], object] | None,
    *,
    pty: bool = False,
) -> Stream:
    store = job.stores[name] = make_store(job.plan.max_output)
    stream = Stream(name, fd, store, pty=pty)
    if callback is not None:
        from safesh.process.lines import LineSplitter

        stream.splitter = LineSplitter(job.plan.encoding, job.plan.errors)
        stream.deliver = job.deliver
    return stream


def _launch(job: Job, stdio: tuple[int, int, int]) -> None:
    plan = job.plan
    if plan.contain == "keeper":
        from safesh.process import kept

        kept.launch(job, stdio)
        return
    if plan.pty:
        from safesh.core.quickpty import start_on_pty

        pid = start_on_pty(plan.argv, cwd=plan.cwd, env=plan.text_env(), slave=stdio[0])
    else:
        opener = _platform.child_opener
        pid = quick.start(plan.argv, cwd=plan.cwd, env=plan.env, stdio=stdio, born=job.born, opener=opener)
    job.pid = pid
    # Our own child, not collected yet: its pid cannot mean anybody else.
    handle = _platform.open_child(pid, 0, job.born[1] if len(job.born) > 1 else -1)
    if handle.fileno() < 0:  # then signals go by its start time
        handle = _platform.plain_handle(pid, job.start_time)
    job.handle = handle


_null = -1


def _null_device() -> int:
    """/dev/null, opened once."""
    global _null
    if _null < 0:
        with forking.lock:
            if _null < 0:
                _null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return _null
