"""One check: what was found, whether that is well, why it matters and what to do."""

from __future__ import annotations

import os
import select

from safesh import wire
from safesh.clock import format_duration, monotonic
from safesh.errors import SafeshError
from safesh.model import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Literal

    State = Literal["ok", "warn", "fail"]
else:
    import _signal

STATES: tuple[State, ...] = ("ok", "warn", "fail")
_REPORT = "report it, with this line"
DEADLINE = 10.0  # seconds for one check: a dead network file system answers never


class Finding(Record):
    """A check's answer. found: one line; why: what depends on it; remedy: the next command or edit, "" when ok."""

    name: str = ""
    state: State = "ok"
    found: str = ""
    why: str = ""
    remedy: str = ""


class Check(Record):
    """A row of the table. look: answers with state, found and remedy alone."""

    name: str
    why: str
    look: Callable[[Subject], Finding]


class Subject(Record):
    """What is looked at. config: ``--config``; backend_problem: what is wrong with $SAFESH_BACKEND."""

    config: str | None = None
    backend_problem: str = ""


def ok(found: str) -> Finding:
    return Finding(state="ok", found=found)


def warn(found: str, remedy: str) -> Finding:
    return Finding(state="warn", found=found, remedy=remedy)


def fail(found: str, remedy: str) -> Finding:
    return Finding(state="fail", found=found, remedy=remedy)


def worst(findings: list[Finding]) -> Finding:
    """Several answers as one: the worst state, whatever was found, the remedies of what is not ok."""
    state = max((one.state for one in findings), key=STATES.index)
    remedies = dict.fromkeys(one.remedy for one in findings if one.state != "ok" and one.remedy)
    found = [one.found for one in findings if one.found]
    return Finding(state=state, found="; ".join(found), remedy="; ".join(remedies))


def run(check: Check, subject: Subject, deadline: float = DEADLINE) -> Finding:
    """The answer, made in a child process: what breaks, hangs or crashes there is an answer too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _answer(check, subject, writing)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        text = _read(reading, monotonic() + deadline)
        if text is None:
            os.kill(pid, _signal.SIGKILL)
            # The end of the pipe is the end of the child. One that hangs in the kernel cannot even be killed.
            if _read(reading, monotonic() + 1.0) is not None:
                os.waitpid(pid, 0)
            waited = format_duration(deadline)
            answer = fail(f"no answer within {waited}: something it looked at hangs", "see which file system hangs: df")
        else:
            _pid, status = os.waitpid(pid, 0)
            if text:
                answer = Finding.from_dict(wire.loads(text))
            else:
                answer = fail(f"the check itself was ended (wait status {status})", _REPORT)
    finally:
        os.close(reading)
    answer.name, answer.why = check.name, check.why
    return answer


def _answer(check: Check, subject: Subject, fd: int) -> None:
    try:
        text = wire.dumps(check.look(subject).to_dict())
    except SafeshError as error:
        text = wire.dumps(fail(str(error), error.hint or "repair it, then run doctor again"))
    except Exception as error:
        text = wire.dumps(fail(f"could not be checked: {type(error).__name__}: {error}", _REPORT))
    data = text.encode()
    while data:
        data = data[os.write(fd, data) :]


def _read(fd: int, deadline: float) -> str | None:
    """All that comes until the end; None where that does not come in time."""
    watch = select.poll()
    watch.register(fd, select.POLLIN)
    data = b""
    while (left := deadline - monotonic()) > 0 and watch.poll(left * 1000):
        chunk = os.read(fd, 65536)
        if not chunk:
            return data.decode()
        data += chunk
    return None
