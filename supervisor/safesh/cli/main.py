"""From a command line to an exit status: parse, dispatch, and tell every error in one line."""

from __future__ import annotations

import os
import sys

from safesh.cli import grammar
from safesh.errors import ResourceError, SafeshError, StateError, UsageError, is_unloadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

EX_SOFTWARE = 70  # a bug of ours; the numbers are those of sysexits.h
_BROKEN_PIPE = 128 + 13  # what a shell shows for a program that SIGPIPE ended
_INTERRUPTED = 128 + 2
_UNKNOWN = 3  # to a monitor, 2 would mean that the target is down; a mistyped line says nothing about it


def main(argv: list[str]) -> int:
    """Run one command line (without the program's name); the exit status. Never raises but SystemExit."""
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
        return status
    except SafeshError as error:
        status = error.exit_code
        _tell(error, argv)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        status = _BROKEN_PIPE
    except Exception as error:
        told = _explain(error)
        status = _UNKNOWN if _is_health(argv) else told.exit_code
        _tell(told, argv)
        if os.environ.get("SAFESH_DEBUG"):
            import traceback

            traceback.print_exc()
    _drop_output()
    return status


def entry() -> NoReturn:
    """The installed command, and what ``__main__`` may call: run ``sys.argv`` and leave.

    Everything is flushed by then, so the interpreter's own tidying up (a tenth of a short
    command's time) is left out.
    """
    status = main(sys.argv[1:])
    _drop_output()
    if "coverage" in sys.modules or "threading" in sys.modules:  # somebody may count on atexit
        sys.exit(status)
    os._exit(status)


def program() -> str:
    """How this user calls us: ``safesh``, ``./bin/safe.sh``, ``safe.sh``…"""
    from safesh.cli import render

    return render.program()


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:
        from safesh import __version__

        print(f"safesh {__version__}")
        return 0
    if argv[:1] == ["__complete"]:  # what the scripts of `completion` ask, on every press of TAB
        from safesh.cli import complete

        return complete.answer(argv[1:])
    parsed = grammar.parse(argv)
    if parsed is None or not grammar.VERBS[parsed.verb].raw:  # exec hands them on exactly as they are
        _prepare_streams()
    if parsed is None:
        from safesh.cli import clickapp

        try:
            result = clickapp.parse(argv)
        except UsageError as error:
            if _is_health(argv):
                error.exit_code = _UNKNOWN
            raise
        if isinstance(result, int):
            return result
        parsed = result
    return dispatch(parsed)


def _is_health(argv: list[str]) -> bool:
    return next((word for word in argv if not word.startswith("-")), "") == "health"


def dispatch(parsed: grammar.Parsed) -> int:
    """Call the verb's handler; its exit status."""
    verb = grammar.VERBS[parsed.verb]
    if parsed.args["no_color"]:
        from safesh.cli import render

        render.set_plain(True)
    if verb.raw:
        module = __import__(f"safesh.cli.{verb.module}", fromlist=("main",))
        return int(module.main(parsed.args["argv"]))
    module = __import__(f"safesh.cli.{verb.module}", fromlist=("run",))
    return int(module.run(parsed.args))


def _prepare_streams() -> None:
    """/dev/null where 0, 1 or 2 is closed: a lock or a log must never land on them. And no text is refused."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so fd itself
            os.set_inheritable(opened, True)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name in a foreign encoding is no reason to fail


def _explain(error: Exception) -> SafeshError:
    """An exception nobody expected, as one line with its exit status."""
    import errno

    if isinstance(error, MemoryError):
        return ResourceError("out of memory", hint="end something, then try again: safesh status")
    if isinstance(error, UnicodeEncodeError):
        return UsageError(
            f"your locale's encoding ({error.encoding}) has no letters for {error.object!a}",
            hint="use one that has: export LC_ALL=C.UTF-8",
        )
    if isinstance(error, OSError) and error.errno is not None:
        place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        text = (error.strerror or str(error)).lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StateError(text, place=place or "output", hint="free some space, then try again")
        if error.errno == errno.EFBIG:
            return StateError(text, place=place or "output", hint="see: ulimit -f")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return ResourceError(f"{text}: no descriptor left", place=place, hint="see: ulimit -n")
        if error.errno in (errno.ENOMEM, errno.EAGAIN):
            return ResourceError(f"{text}: no memory or process left", place=place, hint="see: ulimit -a")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = f"look at it: ls -ld {place}" if place else ""
            return StateError(text, place=place, hint=hint)
        if error.errno == errno.EIO and (place or sys.stdout is not None):
            what = "the disk fails" if place else "the terminal is gone or the disk fails"
            return StateError(f"{what} (input/output error)", place=place)
    if is_unloadable(error):
        return ResourceError(f"a part of the program cannot be loaded: {error}", hint="see: ulimit -a, and free memory")
    bug = SafeshError(
        f"{type(error).__name__}: {error}".strip().removesuffix(":"),
        place=f"a bug in {_innermost(error)}",
        hint="" if os.environ.get("SAFESH_DEBUG") else "run it again with SAFESH_DEBUG=1 for the traceback",
    )
    bug.exit_code = EX_SOFTWARE
    return bug


def _innermost(error: BaseException) -> str:
    """``file.py:line`` of where it was raised."""
    trace = error.__traceback__
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


def _tell(error: SafeshError, argv: list[str]) -> None:
    """The error on stderr; silent when that is closed or broken too."""
    from safesh.cli import render

    if "--no-color" in argv:
        render.set_plain(True)
    if sys.stderr is None:
        return
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was said before the error stands before it
    except (OSError, ValueError):
        _drop_output()
    try:
        sys.stderr.write(render.problem(error) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _drop_output() -> None:
    """Forget what stdout and stderr cannot take, so that the interpreter does not complain about it at its end, with an
    exit status of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            try:
                null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(null, stream.fileno())
                os.close(null)
            except (OSError, ValueError):
                pass
