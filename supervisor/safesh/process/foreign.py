"""Processes that this API need not have started: open one, signal it, end it with everything below it.

A pid is a number that passes on. So it is opened once, and from then on the process is meant and not the number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from safesh import _platform
from safesh._platform import others
from safesh.core import signals
from safesh.core.contain import describe
from safesh.core.kill import end_tree, wait_plainly
from safesh.errors import ConfigError
from safesh.model import Member, StopPolicy, Verdict
from safesh.process.ending import LeanTree, picture
from safesh.process.errors import InvalidCommand, NoSuchProcess, ProcessError, Refused

if TYPE_CHECKING:
    from safesh._platform import Handle, Info
    from safesh.core.kill import Wait

_SIGTERM = signals.NUMBERS["SIGTERM"]
_LARGEST_PID = 2**31 - 1  # pid_t
_DENIED = "not permitted to signal it (it runs as another user)"


class Target:
    """One process, for certain: its pid is not looked up again. ``close()`` it, or use it in ``with``."""

    def __init__(self, pid: int, start: int, handle: Handle) -> None:
        self.pid = pid
        self.start = start
        self.handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        return self.handle.alive()

    def close(self) -> None:
        self.handle.close()


def checked_pid(pid: Any, argument: str = "pid") -> int:
    """``pid`` when a process could have it; InvalidCommand, naming the argument, for anything else."""
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise InvalidCommand(f"{type(pid).__name__} is no process id, which is an int", place=argument)
    if pid < 0:
        raise InvalidCommand(
            f"{pid} is negative, and kill(2) takes that for a whole group", place=argument, hint="give one process's id"
        )
    return pid


def checked_signal(signal: Any, argument: str = "signal") -> int:
    """The number of a signal given as ``"SIGINT"``, ``"int"``, ``signal.SIGINT``, 2, or 0 for none at all."""
    if isinstance(signal, bool) or not isinstance(signal, (int, str)):
        raise InvalidCommand(f"{type(signal).__name__} is no signal, which is a name or a number", place=argument)
    if isinstance(signal, int) and signal == 0:
        return 0
    try:
        return signals.number(signal if isinstance(signal, str) else int(signal))
    except ConfigError as error:
        raise InvalidCommand(error.message, place=argument, hint=error.hint) from None


def open_process(pid: int) -> Target:
    """The process that has this pid now, a zombie included.

    Raises NoSuchProcess where there is none, or where the number is a thread's; InvalidCommand for what is no pid.
    """
    checked_pid(pid)
    start = _platform.start_time(pid) if 0 < pid <= _LARGEST_PID else None
    handle = None if start is None else _platform.open_handle(pid, start)
    if start is None or handle is None:
        raise NoSuchProcess("there is no process with this id", place=f"pid {pid}")
    whole = others.thread_group(pid)
    if whole != pid:
        handle.close()
        if not whole:  # it is gone, or a thread's number where nobody tells whose
            raise NoSuchProcess("there is no process with this id", place=f"pid {pid}")
        raise NoSuchProcess(f"this is a thread of process {whole}", place=f"pid {pid}", hint=f"use {whole}")
    return Target(pid, start, handle)


def refuse_if_protected(pid: int, signal: int = _SIGTERM) -> None:
    """Raise Refused for ourselves, those above us, pid 0 and 1, and the kernel's threads; signal 0 reaches everybody.

    Asked before a signal is sent and not instead of the handle: the number may pass on after the answer.
    """
    if signal == 0:
        return
    place = f"pid {pid}"
    if pid == 0:
        raise Refused("to kill(2) this number means our own process group", place=place)
    if pid == 1:
        raise Refused("this is the first process, and its end is the system's or the container's", place=place)
    if pid == os.getpid():
        raise Refused("this is the calling process itself", place=place, hint="use os.kill for signals to yourself")
    if pid in _above():
        raise Refused("the calling process descends from it", place=place)
    if others.is_kernel(pid):
        raise Refused("this is a thread of the kernel's own", place=place)


def _above() -> set[int]:
    """Our parent, its parent and so on, at the price of these alone."""
    found: set[int] = set()
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        parent = picture(pid)
        if parent is None:
            break
        pid = parent.ppid
    return found


def send(pid: int, signal: int | str) -> None:
    """Send one signal to one process; 0 only asks whether it is there and may be signalled.

    Raises NoSuchProcess also for a zombie, which takes no signal any more; Refused (``refuse_if_protected``);
    ProcessError where the system does not permit it (kill(2), EPERM); InvalidCommand for what is no pid or signal.
    """
    number = checked_signal(signal)
    refuse_if_protected(checked_pid(pid), number)
    with open_process(pid) as target:
        _send(target, number)


def _send(target: Target, number: int) -> None:
    place = f"pid {target.pid}"
    try:
        if target.handle.send(number):
            return
    except PermissionError:
        owner = others.owners(target.pid)
        whose = f"user {owner[1]}" if owner is not None else "another user"
        raise ProcessError(f"not permitted to send it {_name(number)}: it runs as {whose}", place=place) from None
    raise NoSuchProcess("it has ended; only its parent has not collected it yet", place=place)


def is_there(pid: int) -> bool:
    """Whether any process has this number now."""
    return _platform.start_time(pid) is not None


def missing(pid: int) -> NoSuchProcess:
    return NoSuchProcess("there is no such process", place=f"pid {pid}")


def send_through(handle: Handle, number: int) -> None:
    """``send`` through a handle that somebody else opened and keeps."""
    _send(Target(handle.pid, handle.start, handle), number)


def _name(number: int) -> str:
    return signals.name(number) if number else "signal 0"


class _Below(LeanTree):
    """A process and everything below it.

    Nobody above us keeps its orphans. Those of a session that one of them leads are its descendants by birth
    (setsid(2): there is no other way into a session), so they are told by that; but who was an orphan of it
    before we first looked is left in peace, as something that was meant to stay.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.adopt(target.pid, target.start)
        self.find_more = self._orphans
        self._led: dict[int, int] = {}  # leader's pid -> its start
        self._before: set[tuple[int, int]] | None = None

    def look(self) -> dict[int, Info]:
        found = super().look()
        for one in found.values():
            if one.sid == one.pid:
                self._led[one.pid] = one.start
        if self._before is None:
            self._before = set()
            if self._led:
                everything = _platform.scan().values()
                self._before = {(one.pid, one.start) for one in everything if one.pid not in found}
        return found

    def _orphans(self, everything: dict[int, Info]) -> list[int]:
        for leader, start in list(self._led.items()):
            if leader in everything and everything[leader].start != start:
                del self._led[leader]  # the number has passed on, so the session had nobody left
        before = self._before or ()
        return [
            one.pid for one in everything.values() if one.sid in self._led and (one.pid, one.start) not in before
        ]  # fmt: skip


def end_foreign(pid: int, policy: StopPolicy, *, now: bool = False, wait: Wait = wait_plainly) -> Verdict:
    """End a process and every descendant: ask, wait, freeze, kill, verify. now: without asking.

    Survivors are listed with the reason. Raises what ``send`` raises, but for what may not be signalled: that is a
    survivor too. Takes at most ``policy.grace`` + ``core.kill.KILL_SECONDS`` seconds.
    """
    return _end(pid, policy, now, True, wait)


def polite_end(pid: int, policy: StopPolicy, *, wait: Wait = wait_plainly) -> Verdict:
    """The same without the last step: who is there after ``policy.grace`` seconds is listed as a survivor, and left."""
    return _end(pid, policy, False, False, wait)


def _end(pid: int, policy: StopPolicy, now: bool, force: bool, wait: Wait) -> Verdict:
    checked_signal(policy.signal)
    refuse_if_protected(checked_pid(pid))
    with open_process(pid) as target:
        try:
            _send(target, 0)
        except NoSuchProcess:
            note = "it had ended already; only its parent has not collected it yet"
            return Verdict(target=f"pid {pid}", notes=[note])
        except ProcessError:
            one = picture(pid)
            left = describe(one, _DENIED) if one is not None else Member(pid=pid, start=target.start, reason=_DENIED)
            return Verdict(target=f"pid {pid}", survivors=[left])
        tree = _Below(target)
        try:
            verdict = end_tree(tree, policy, main=(pid, target.start), wait=wait, now=now, force=force)
        finally:
            tree.close()
    verdict.target = f"pid {pid}"
    return verdict
