"""``health``: one line and a code by the Nagios plugin guidelines (monitoring-plugins.org/doc/guidelines.html).

The work is done in a forked child, and the parent only waits for its answer: whatever hangs there (a dead file server
under the state folder, say), the parent answers in time. The JSON document is ``{"v": 1, "code", "status", "message",
"targets": [...]}``; :func:`_plain` is its targets' schema.
"""

from __future__ import annotations

import os
import select

from safesh import _platform, wire
from safesh.cli import render, targets, vitals
from safesh.cli.vitals import CRITICAL, OK, UNKNOWN, WARNING, WORDS, Vitals
from safesh.clock import format_duration, milliseconds, monotonic
from safesh.core.fds import point_stdio_at_null
from safesh.errors import AlreadyRunning, SafeshError, UsageError
from safesh.instance import lock as locks
from safesh.paths import InstancePaths, project_dir, read_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, NoReturn

    from safesh.config import Config
    from safesh.model import TargetSpec
else:
    import _signal

_TIMEOUT = 30.0
_MARGIN = 3.0  # seconds after the deadline in which the child may still say what it knows
_OVERDUE = 30.0  # seconds after its deadline at which another look is taken to hang
_SEVERITY = (CRITICAL, UNKNOWN, WARNING, OK)  # a known outage is worse than not to know


def run(args: dict[str, Any]) -> int:
    """Tell how the targets are; the worst code. Never raises but for Ctrl-C: what cannot be told is UNKNOWN."""
    try:
        answer = _ask_child(args)
    except (SafeshError, OSError) as error:
        answer = _failed(args, error)
    if answer["text"]:
        render.say(answer["text"])
    return int(answer["code"])


# ---- the child that does it, and the parent that waits


def _ask_child(args: dict[str, Any]) -> dict[str, Any]:
    """The child's answer, ``{"code", "text"}``, or ours when it has none in time."""
    if args["timeout"] is not None and args["timeout"] <= 0:
        raise UsageError("no time to look", place="--timeout", hint="leave it out, or give it a second")
    limit = args["timeout"] or _TIMEOUT
    deadline = monotonic() + limit
    parent = os.getpid()
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _work(args, deadline, parent, writing)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        return _await(args, reading, limit, deadline)
    finally:
        os.close(reading)
        _end(pid)


def _await(args: dict[str, Any], reading: int, limit: float, deadline: float) -> dict[str, Any]:
    """Read lines until one is the answer; ``{"until": monotonic seconds}`` asks for more time."""
    watch = select.poll()
    watch.register(reading, select.POLLIN)
    data = b""
    while watch.poll(milliseconds(deadline + _MARGIN - monotonic())):
        chunk = os.read(reading, 65536)
        data += chunk
        while b"\n" in data:
            line, _, data = data.partition(b"\n")
            said: dict[str, Any] = wire.loads(line.decode())
            if "until" not in said:
                return said
            limit += said["until"] - deadline
            deadline = said["until"]
        if not chunk:
            return _failed(args, SafeshError("the look ended without an answer; try again"))
    return _failed(args, SafeshError(f"no answer within {format_duration(limit)}: something hangs (safe.sh doctor)"))


def _end(pid: int) -> None:
    """Our child, not collected yet, so the number is its own. One that cannot end is left to init."""
    try:
        for number in (0, _signal.SIGTERM, _signal.SIGKILL):
            if number:
                os.kill(pid, number)
            until = monotonic() + 1.0
            pause = 0.0005
            while monotonic() < until:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
                select.poll().poll(pause * 1000)
                pause = min(pause * 2, 0.05)
    except (ChildProcessError, ProcessLookupError):
        pass


def _work(args: dict[str, Any], deadline: float, parent: int, writing: int) -> NoReturn:
    """The child. A signal makes it end its probes first, and so does the parent's death."""

    def send(said: dict[str, Any]) -> None:
        data = (wire.dumps(said) + "\n").encode()
        while data:
            data = data[os.write(writing, data) :]

    try:
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, _signal.default_int_handler)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, it would lose us the probes' statuses
        _platform.set_pdeathsig(_signal.SIGTERM)
        point_stdio_at_null()  # whoever reads our parent's output waits for nobody else
        if os.getppid() == parent:
            try:
                send(_answer(args, deadline, send))
            except SafeshError as error:
                send(_failed(args, error))
            except OSError as error:
                send(_failed(args, SafeshError(error.strerror or str(error), place=str(error.filename or ""))))
            except Exception as error:
                send(_failed(args, SafeshError(f"a bug: {type(error).__name__}: {error}")))
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        os._exit(0)


# ---- what it does


def _answer(args: dict[str, Any], deadline: float, send: Any) -> dict[str, Any]:
    config = targets.open_config(args)
    chosen = _choose(config, list(dict.fromkeys(args["targets"])))
    busy: list[locks.Lock] = []  # kept until we end
    found = [one for one in chosen if not args["cron"] or _claim(one, deadline, busy)]
    for one in found:
        if one.code == UNKNOWN and not one.message:
            one.look()
    if args["start"]:
        deadline = _start(config, found, args, deadline, send)
    if wanted := [one for one in found if one.probe is not None]:
        with vitals.Round(deadline) as probes:
            for one in wanted:
                probes.begin(one)
            probes.run()
    return _told(args, found)


def _choose(config: Config | None, names: list[str]) -> list[Vitals]:
    """The targets asked for; without any, whoever runs in each instance of safe.toml, or should."""
    if not names:
        if config is None:
            raise UsageError("no safe.toml here or in any folder above", hint="name one with --config FILE")
        firsts: dict[str, TargetSpec] = {}
        for spec in config.targets.values():
            firsts.setdefault(spec.instance, spec)
        return [_of_instance(config, spec) for spec in firsts.values()]
    found = []
    for name in names:
        if config is not None and name in config.targets:
            found.append(_of(config, config.targets[name]))
        else:
            one = targets.choose(config, [name])[0]
            found.append(
                _of_instance(config, one.specs[0]) if config and one.specs else Vitals(name, one.paths, None, [])
            )
    return found


def _of(config: Config, spec: TargetSpec) -> Vitals:
    paths = InstancePaths(project_dir(spec.project), spec.instance, spec.lock_file, spec.pid_file)
    return Vitals(spec.name, paths, spec, [one for one in config.targets.values() if one.instance == spec.instance])


def _of_instance(config: Config, first: TargetSpec) -> Vitals:
    """The one of the instance's targets that runs, else its first."""
    one = _of(config, first)
    if len(one.specs) > 1:
        try:
            holder = locks.read_holder(one.paths.lock) or {}
        except SafeshError:
            holder = {}  # looking at it will tell
        if (running := config.targets.get(str(holder.get("target")))) in one.specs and running is not None:
            return _of(config, running)
    return one


def _claim(one: Vitals, deadline: float, busy: list[locks.Lock]) -> bool:
    """Never two at once: whether this target is ours to look at. One that hangs far too long is told."""
    path = os.path.join(one.paths.folder, ".health-" + one.name)
    held = locks.try_acquire(path)
    if held is not None:
        busy.append(held)
        os.ftruncate(held.fd, 0)
        os.pwrite(held.fd, (wire.dumps({**locks.own_identity(), "until": deadline}) + "\n").encode(), 0)
        return True
    try:
        other = wire.loads(read_private(path, 4096) or "null")
        overdue = monotonic() - float(other["until"]) if locks.is_alive(other) else 0.0
    except (ValueError, TypeError, KeyError):
        return False  # it has just taken the lock and not said so yet
    if overdue > _OVERDUE:
        one.say(UNKNOWN, f"another look (pid {other['pid']}) has hung for {format_duration(overdue)}; end it: kill -9")
        return True
    return False


def _start(config: Config | None, found: list[Vitals], args: dict[str, Any], deadline: float, send: Any) -> float:
    """Bring up what is dead, and look again; the deadline, later by as long as readiness may take."""
    dead = {one.name: one for one in found if one.is_dead() and one.spec is not None}
    if not dead or config is None:
        return deadline
    from safesh import config as configs
    from safesh.cli import order

    for name, one in list(dead.items()):
        try:
            configs.resolve(config, name)
        except SafeshError as error:
            one.say(UNKNOWN, f"cannot be started: {error}")
            del dead[name]
    names = order.with_needs(config, list(dead))
    if args["timeout"] is None:
        # One after the other at worst, where each depends on the one before.
        deadline += sum(config.targets[name].ready.within for name in names)
        send({"until": deadline})
    results = {one.name: one for one in order.start_all(config, names, max(0.1, deadline - _MARGIN - monotonic()))}
    for name, one in dead.items():
        refusal = results[name].error
        one.started = refusal is None
        one.look()
        if one.started and one.spec is not None:
            # Where no readiness probe was waited for, the first health probe would come too early.
            one.patience = min(deadline, monotonic() + one.spec.ready.within)
        if refusal is not None and (refusal.exit_code != AlreadyRunning.exit_code or one.is_dead()):
            one.say(CRITICAL, f"cannot be started: {refusal}")
    return deadline


# ---- how it is told


def _told(args: dict[str, Any], found: list[Vitals]) -> dict[str, Any]:
    """The answer to all of it: ``{"code", "text"}``."""
    code = next((code for code in _SEVERITY if any(one.code == code for one in found)), OK)
    if args["cron"] and code == OK:
        return {"code": OK, "text": ""}
    message = _message(found)
    if args["json"]:
        return {"code": code, "text": _document(code, message, found)}
    perfdata = " ".join(item for one in found for item in _perfdata(one, len(found) > 1))
    return {"code": code, "text": _line(code, message) + (f" | {perfdata}" if perfdata else "")}


def _failed(args: dict[str, Any], error: Exception) -> dict[str, Any]:
    """UNKNOWN, and why."""
    hint = getattr(error, "hint", "")
    message = f"{error} ({hint})" if hint else str(error)
    if args["json"]:
        return {"code": UNKNOWN, "text": _document(UNKNOWN, message, [])}
    return {"code": UNKNOWN, "text": _line(UNKNOWN, message)}


def _document(code: int, message: str, found: list[Vitals]) -> str:
    rows = [_plain(one) for one in found]
    return wire.dumps({"v": 1, "code": code, "status": WORDS[code], "message": message, "targets": rows}, 1)


def _line(code: int, message: str) -> str:
    """What a monitor shows. A bar would begin the performance data."""
    return f"{WORDS[code]} - {render.clean(render.as_typed(message)).replace('|', '/')}"


def _message(found: list[Vitals]) -> str:
    """Those that are not well first, the worst before the others."""
    bad = sorted((one for one in found if one.code != OK), key=lambda one: _SEVERITY.index(one.code))
    good = [one for one in found if one.code == OK]
    if len(found) == 1 or (bad and not good):
        return "; ".join(f"{one.name} {one.message}" for one in bad or good)
    well = f"{len(good)} of {len(found)} fine: {', '.join(one.name for one in good)}"
    return "; ".join([*(f"{one.name} {one.message}" for one in bad), well])


def _perfdata(one: Vitals, several: bool) -> list[str]:
    """``label=value[unit];warn;crit;min``, as the guidelines want it."""
    label = ""
    if several:
        label = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in one.name) + "_"
    found = []
    if one.seconds is not None and one.probe is not None:
        found.append(f"{label}time={one.seconds:.3f}s;;{one.probe.timeout:.10g};0")
    if one.restarts is not None:
        found.append(f"{label}restarts={one.restarts}")
    if one.uptime is not None:
        found.append(f"{label}uptime={one.uptime:.0f}s")
    return found


def _plain(one: Vitals) -> dict[str, Any]:
    """One target as plain data: seconds; null where there is no such thing."""
    return {
        "target": one.name,
        "instance": one.paths.instance,
        "code": one.code,
        "status": WORDS[one.code],
        "message": render.as_typed(one.message),
        "state": one.state or None,
        "pid": one.pid,
        "uptime_seconds": one.uptime,
        "restarts": one.restarts,
        "probe": one.probe.kind if one.probe is not None else None,
        "probe_seconds": one.seconds,
        "started": one.started,
    }
