"""From a target to its supervisor: take the lock, look for strays, become the supervisor.

The process that takes the lock is the one that holds it: it executes itself anew with the descriptor inherited, so what
the front end imported is gone and the lock's taker, the pid file and the record all name one pid.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys

from safesh import _platform, wire
from safesh.clock import format_duration, monotonic, sleep, wall
from safesh.core.contain import HOLDER
from safesh.core.environment import inherited
from safesh.core.kill import poll_milliseconds
from safesh.errors import AlreadyRunning, ResourceError, SafeshError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.instance.strays import HOLDS, Finder, mark
from safesh.instance.view import held_members
from safesh.model import Member
from safesh.paths import InstancePaths
from safesh.supervise.client import find_holder
from safesh.supervise.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
    from typing import Any, NoReturn

    from safesh.model import TargetSpec
else:
    import _signal

# A holder that is just starting or ending is waited out; one that is known to live is not.
PATIENCE = 2.0
_END = "end {whom}: safe.sh stop {name}; or take over: safe.sh start {name} --replace"


def run_foreground(spec: TargetSpec, specs: Iterable[TargetSpec], *, echo: int, stdin: int) -> NoReturn:
    """Become the supervisor of ``spec`` in this terminal. Raises SafeshError instead when that cannot be.

    specs: all targets of the config, for the ``match`` of those that share the instance; echo, stdin: descriptors
    for the target's output and input, -1 for none.
    """
    # Signals that come from here on wait for the supervisor's loop.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        lock, paths = _prepare(spec, specs)
        terminal = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
        hup_ends = _signal.getsignal(_signal.SIGHUP) != _signal.SIG_IGN  # nohup means: let it live
        _become(Plan(spec=spec.to_dict(), folder=paths.folder, mode="foreground", lock=lock.fd, stdin=stdin, echo=echo,
                     terminal=terminal, tty=_own_terminal() if spec.tty else -1, hup_ends=hup_ends))  # fmt: skip
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _own_terminal() -> int:
    """Our terminal, when stdin, stdout and stderr are it and we are in its foreground; else -1: no job control."""
    try:
        whole = all(os.isatty(fd) for fd in (0, 1, 2))
        return 0 if whole and os.tcgetpgrp(0) == os.getpgrp() else -1
    except OSError:
        return -1


def run_detached(spec: TargetSpec, specs: Iterable[TargetSpec], timeout: float | None = None) -> dict[str, Any]:
    """Start a supervisor that outlives this terminal; returns ``{"pid", "run_id", "log"}`` once the target runs.

    timeout: seconds to wait for that (None: as long as it takes). Raises the SafeshError that kept it from running.
    """
    return begin_detached(spec, specs).answer(timeout)


class Pending:
    """A detached start under way. reading: readable once there is an answer."""

    def __init__(self, name: str, instance: str, reading: int) -> None:
        self.name = name
        self.instance = instance
        self.reading = reading

    def answer(self, timeout: float | None) -> dict[str, Any]:
        """As :func:`run_detached`; once."""
        answer = _read_answer(self.reading, self.name, timeout)
        if "ready" in answer:
            ready: dict[str, Any] = answer["ready"]
            if "ready_after" in ready:
                _check_still_there(InstancePaths(os.path.dirname(ready["log"]), self.instance), self.name, ready)
            return ready
        failed = answer["failed"]
        refusal = SafeshError(failed["message"], place=failed["place"], hint=failed["hint"])
        refusal.exit_code = failed["code"]
        refusal.log = failed.get("log", [])
        raise refusal


def _check_still_there(paths: InstancePaths, name: str, ready: dict[str, Any]) -> None:
    """A target may end between its word that it serves and ours; then ours would be wrong."""
    info = _platform.info(ready["pid"])
    if info is not None and not info.dead:
        return
    last = None
    deadline = monotonic() + PATIENCE
    while monotonic() < deadline:
        last, _problem = records.read_record(paths)
        if (
            last is None
            or last["run_id"] != ready["run_id"]
            or last["state"] not in ("starting", "running", "unhealthy")
        ):
            break
        sleep(0.02)  # its keeper is about to say how it ended
    end = (last or {}).get("last_exit") or {}
    error = SafeshError(
        f"was ready, and has ended since: {end.get('cause') or 'nobody says how'}",
        place=name,
        hint=f"safe.sh status {name}, or safe.sh logs {name}",
    )
    if last is not None:
        from safesh.supervise.lastwords import last_words

        error.log = last_words(ready["log"], last.get("log_offset", 0), 5)
    raise error


def begin_detached(spec: TargetSpec, specs: Iterable[TargetSpec]) -> Pending:
    """Begin a detached start without waiting for its answer. ResourceError when nothing can be forked."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        raise ResourceError(f"cannot start: {error.strerror}", place=spec.name, hint="see: ulimit -u") from None
    if pid == 0:
        _detach(spec, specs, reading, writing)
    os.close(writing)
    return Pending(spec.name, spec.instance, reading)


def _read_answer(reading: int, name: str, timeout: float | None) -> dict[str, Any]:
    watch = select.poll()
    watch.register(reading, select.POLLIN)
    deadline = None if timeout is None else monotonic() + timeout
    data = b""
    try:
        while True:
            if not watch.poll(None if deadline is None else poll_milliseconds(deadline)):
                raise SafeshError(
                    f"does not run yet after {format_duration(timeout or 0)}; it goes on starting",
                    place=name,
                    hint=f"safe.sh status {name}, or safe.sh stop {name}",
                )
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            data += chunk
    finally:
        os.close(reading)
    if not data:
        raise SafeshError(
            "the supervisor ended before it started the target",
            place=name,
            hint="see why: tail events.jsonl in the state folder",
        )
    answer: dict[str, Any] = wire.loads(data.partition(b"\n")[0].decode())
    return answer


def _detach(spec: TargetSpec, specs: Iterable[TargetSpec], reading: int, writing: int) -> NoReturn:
    try:
        os.close(reading)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        os.setsid()
        try:
            lock, paths = _prepare(spec, specs)
            _become(Plan(spec=spec.to_dict(), folder=paths.folder, mode="detached", lock=lock.fd, notify=writing))
        except SafeshError as error:
            failed = {"code": error.exit_code, "message": error.message, "place": error.place, "hint": error.hint}
            os.write(writing, (wire.dumps({"failed": failed}) + "\n").encode())
        except OSError as error:
            failed = {"code": ResourceError.exit_code, "message": f"cannot be started: {error.strerror}",
                      "place": str(error.filename or spec.name), "hint": "see: ulimit -a"}  # fmt: skip
            os.write(writing, (wire.dumps({"failed": failed}) + "\n").encode())
        except BaseException as error:
            failed = {"code": 70, "message": f"{type(error).__name__}: {error}", "place": "start", "hint": ""}
            os.write(writing, (wire.dumps({"failed": failed}) + "\n").encode())
    finally:
        os._exit(1)


def _become(plan: Plan) -> NoReturn:
    """Execute this interpreter anew as the supervisor of ``plan``."""
    reading, writing = os.pipe()
    data = wire.dumps(plan).encode()
    # The plan waits in the pipe until the new program reads it, so it has to fit.
    if len(data) > 60000 and hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(writing, False)
    if os.write(writing, data) != len(data):
        raise SafeshError(
            "the target's command and environment are larger than 1 MiB",
            place=plan.spec["name"],
            hint="hand over a file's name instead of what is in it",
        )
    os.close(writing)
    for fd in (reading, plan.lock, plan.stdin, plan.echo, plan.terminal, plan.notify):
        if fd > 2:
            os.set_inheritable(fd, True)
    if plan.mode == "detached":
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cli", "hold.py")
    words = [sys.executable, "-E", "-s", "-S", script, str(reading), plan.spec["instance"]]
    os.execve(sys.executable, words, inherited() | {HOLDER: mark(plan.folder, plan.spec["instance"])})


def _prepare(spec: TargetSpec, specs: Iterable[TargetSpec]) -> tuple[locks.Lock, InstancePaths]:
    """The lock, with nobody of the instance left alive; SafeshError otherwise."""
    paths = InstancePaths.of(spec)
    lock, holder = locks.acquire(paths.lock, PATIENCE)
    if lock is None:
        raise explain_holder(paths, holder)
    try:
        lock.describe(spec)
        patterns = [(one.name, one.match) for one in specs if one.instance == spec.instance]
        last, _problem = records.read_record(paths)
        finder = Finder(paths.folder, paths.instance, last, patterns or [(spec.name, spec.match)])
        found = finder.members(_platform.scan()) if _may_have_strays(paths, last, finder) else []
        if finder.lost:
            raise AlreadyRunning(
                f"already running: pid {finder.lost[0].pid} {HOLDS}",
                place=spec.instance,
                hint=_END.format(whom="it", name=spec.name),
            )
        if found:
            message = (
                f"{len(found)} process{'es' if len(found) > 1 else ''} of it run{'s' if len(found) == 1 else ''}"
                f" without a supervisor: {_name_them(found)}"
            )
            if spec.notify:
                from safesh.supervise.stray_news import tell_strays

                tell_strays(spec, paths, last["run_id"] if last is not None else "", message)
            raise AlreadyRunning(
                message,
                place=spec.instance,
                hint=_END.format(whom="them", name=spec.name),
            )
        finder.remove_group()
    except BaseException:
        lock.release()
        raise
    return lock, paths


def _may_have_strays(paths: InstancePaths, last: dict[str, Any] | None, finder: Finder) -> bool:
    """Looking costs a read of every process's environment: left out after an end that left nobody."""
    if finder.patterns or not _platform.HAS_SUBREAPER:
        return True
    if last is None:
        return True  # a folder that was removed or moved under a running instance looks like one that never had any
    clean = last["state"] in ("finished", "failed") and (last["last_verdict"] or {}).get("survivors") == []
    return not clean


def _name_them(found: list[Member]) -> str:
    names = [f"pid {one.pid} ({one.command[:60]}), {one.reason}" for one in found[:3]]
    return "; ".join(names) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def explain_holder(paths: InstancePaths, holder: dict[str, Any] | None) -> AlreadyRunning:
    """Who holds the instance, since when, running what, and what to do next."""
    name = paths.instance
    if found := find_holder(paths):
        age = format_duration(wall() - found.get("since", wall()))
        command = " ".join(found.get("command", ["?"]))
        command = command if len(command) <= 200 else command[:197] + "..."
        target = found.get("target", name)
        return AlreadyRunning(
            f"already running: target {target} is held by pid {found['pid']} for {age}: {command}",
            place=name,
            hint=f"safe.sh status {target}, or safe.sh stop {target}",
        )
    if locks.is_elsewhere(holder):
        return AlreadyRunning(
            "held from another pid namespace (a container)", place=name, hint="look and stop it from there"
        )
    last, _problem = records.read_record(paths)
    if last is not None and locks.is_alive(last["keeper"]):
        left = len(held_members(_platform.scan(), last, [last["keeper"]["pid"]]))
        return AlreadyRunning(
            f"its supervisor is gone and its keeper (pid {last['keeper']['pid']}) is ending the last run,"
            f" {left} process{'' if left == 1 else 'es'} left",
            place=name,
            hint=f"try again in {format_duration(last['grace'])}, or end it at once: safe.sh stop {name} --now",
        )
    return AlreadyRunning(
        f"{paths.lock} is held by a program that does not say who it is",
        place=name,
        hint=f"find it: fuser -v {paths.lock}",
    )
