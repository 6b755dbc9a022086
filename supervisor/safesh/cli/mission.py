"""``mission``: a Python file, run in an environment of its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

from safesh import wire
from safesh.cli import render
from safesh.errors import UsageError
from safesh.mission import inline
from safesh.mission.control import CalledOff, Control
from safesh.mission.errors import MissionRefused
from safesh.mission.runner import TaskRunner
from safesh.process.errors import CommandFailed

if TYPE_CHECKING:
    from safesh.mission.model import Mission
    from safesh.mission.result import MissionResult

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_BROKEN_PIPE = 128 + signal.SIGPIPE
_KEPT_OUTPUT = "1M"  # of what has been shown already


class _Told(BaseException):
    """A signal that ends us came. No Exception, so that nobody on the way takes it for trouble of theirs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(args: dict[str, Any]) -> int:
    """Run one mission; its exit status. args: see the verb's row in ``grammar``."""
    if not args["target"]:
        raise UsageError("name the file", place="mission", hint="safe.sh mission FILE.py")
    if args["anyway"] and args["queue"] is not None:
        raise UsageError("one of them, please", place="--anyway --queue")
    mission = _read(args)
    control = Control()
    show = None if args["json"] else _Output(control)
    runner = TaskRunner(
        socket.gethostname() or "localhost",
        thresholds=False if args["anyway"] else None,
        queue=args["queue"],
        on_output=show.out if show is not None else None,
        on_error=show.err if show is not None else None,
        stdin=_input(),
        max_output="256M" if args["json"] else _KEPT_OUTPUT,
    )
    before = {number: signal.signal(number, _raise) for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN}
    try:
        with runner:
            result = runner.run(mission, f"{socket.gethostname()}-{os.getpid()}", control)
    except CalledOff:
        return _BROKEN_PIPE
    except _Told as told:
        return 128 + told.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _tell(result, as_json=args["json"])


def _read(args: dict[str, Any]) -> Mission:
    needed = list(args["require"])
    if args["requirements"]:
        needed += inline.read_requirements(args["requirements"])
    return inline.from_file(
        args["target"],
        args["id"] or "",
        needed,
        timeout=args["timeout"],
        keep_alive=args["keep_alive"],
        browser_interaction=args["browser"],
        args=args["command"],
    )


def _raise(number: int, _frame: object) -> None:
    raise _Told(number)


def _input() -> IO[bytes] | None:
    """A pipe or a file is the mission's input; a terminal stays with the shell: its session is another."""
    return sys.stdin.buffer if sys.stdin is not None and not os.isatty(0) else None


class _Output:
    """Shows the mission's lines as they come. When nobody reads them any more, the mission ends."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._closed = False

    def out(self, line: str) -> None:
        self._write(sys.stdout, line)

    def err(self, line: str) -> None:
        self._write(sys.stderr, line)

    def _write(self, stream: Any, line: str) -> None:
        if self._closed:
            return
        try:
            stream.write(line + "\n")
            stream.flush()
        except BrokenPipeError:
            self._closed = True
            # Not from here: this is one of the callbacks that its end waits for.
            threading.Thread(target=self._control.cancel, daemon=True).start()


def _tell(result: MissionResult, *, as_json: bool) -> int:
    error = result.error
    if as_json:
        print(wire.dumps({"v": 1, **result.to_dict()}))
    elif result.instance is not None:
        kept = result.instance
        print(f"{render.style(kept['name'], 'name')} runs (pid {kept['pid']}), log {kept['log']}")
        print(f"end it: {kept['stop']}")
    elif error is not None and not (isinstance(error, CommandFailed) and not result.signal):
        if isinstance(error, MissionRefused):
            error.hint = "wait for room: --queue 10m; or run it all the same: --anyway"
        sys.stdout.flush()
        sys.stderr.write(render.problem(error) + "\n")  # else its own last words were the reason
    if not as_json:
        for note in result.notes:
            sys.stderr.write(f"safesh: {render.clean(note)}\n")
    return 0 if error is None else error.exit_code
