"""The supervisor: holds the lock, asks the table, does what it says, and sleeps in between."""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.clock import format_duration, monotonic, wall
from safesh.core import kill, reap, signals
from safesh.core.contain import INSTANCE, RUN_ID, Tree, choose_backend, open_group
from safesh.core.keeper import KeeperLink, Run, start_keeper
from safesh.core.output import Capture, drain_raw
from safesh.errors import ResourceError, SafeshError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.instance import strays
from safesh.model import ExitInfo, Record, StopPolicy, TargetSpec, Verdict
from safesh.paths import InstancePaths, remove
from safesh.supervise import control, policy
from safesh.supervise.events import EventLog
from safesh.supervise.machine import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, Callable

    from safesh.model import State
    from safesh.supervise.machine import Event
else:
    import _signal

_STOPS = (_signal.SIGTERM, _signal.SIGINT)
_JOB_CONTROL = (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU)
_DRAIN_SECONDS = 2.0


class Plan(Record):
    """What ``start`` hands to the supervisor it becomes. Descriptors are -1 where there is none.

    stdin: the target's standard input; echo: where a foreground start repeats the target's output; notify: where a
    detached start waits for one JSON line; keep_hup: SIGHUP ends the tree (foreground, not under nohup).
    """

    spec: dict[str, Any]
    folder: str
    mode: str
    lock: int
    stdin: int = -1
    echo: int = -1
    notify: int = -1
    hup_ends: bool = False


class Supervisor:
    """One instance, from the taking of its lock to its release."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        """say: tells people something in one line (foreground only; a no-op otherwise)."""
        self.spec = TargetSpec.from_dict(plan.spec)
        self.plan = plan
        self.say = say
        self.paths = InstancePaths(plan.folder, self.spec.instance, self.spec.lock_file, self.spec.pid_file)
        self.lock = locks.Lock(self.paths.lock, plan.lock)
        self.events = EventLog(self.paths.events, self.spec.instance)
        self.restarts = policy.Restarts(self.spec.backoff, self.spec.start_limit)
        self.state: State = "idle"
        self.intent = ""  # "", "stop" or "restart": what the end of this run is for
        self.code: int | None = None
        self.keeper: KeeperLink | None = None
        self.main: Any = None
        self.capture: Capture | None = None
        self.pending: list[int] = []
        self.verdict: Verdict | None = None
        self.refusal: SafeshError | None = None
        self.next_spec: TargetSpec | None = None
        self.due: float | None = None
        self.clients: dict[int, control.Client] = {}
        self.server: Any = None
        self.signals: Any = None
        self.seen_kill = False
        self.record: dict[str, Any] = {}
        self._exits: ExitInfo | None = None

    # ---- life

    def run(self) -> int:
        """Supervise until it is over; the exit status for ``start``."""
        _platform.set_name("safesh")
        _platform.become_subreaper()
        self.signals = _platform.SignalSource([*signals.FORWARDABLE, _signal.SIGCHLD])
        identity = locks.own_identity()
        self.record = {
            "project": self.spec.project,
            "instance": self.spec.instance,
            "target": self.spec.name,
            "state": self.state,
            "config": self.spec.config,
            "mode": self.plan.mode,
            "backend": choose_backend()[0],
            "cgroup": "",
            "run_id": "",
            "supervisor": identity,
            "keeper": None,
            "main": None,
            "command": self.spec.command,
            "cwd": self.spec.cwd,
            "log": self.paths.log(self.spec.name),
            "log_lost_bytes": 0,
            "grace": self.spec.stop.grace,
            "supervised_since": wall(),
            "since": wall(),
            "started_at": 0.0,
            "restarts": 0,
            "next_start_at": None,
            "last_exit": None,
            "last_verdict": None,
            "message": "",
        }
        self.lock.describe(self.spec)
        try:
            self.server = control.listen(self.paths.socket)
            records.write_pid(self.paths, identity["pid"])
        except SafeshError as error:
            self.refusal = error
            self.state = "failed"
            self._do_give_up("refused")
        else:
            self.feed("start")
        while self.code is None:
            self._turn()
        return self._leave()

    def feed(self, event: Event) -> None:
        """One event through the table."""
        action, after = TABLE[self.state][event]
        if after != self.state:
            self.state = after
            self.record["since"] = wall()
        getattr(self, "_do_" + action)(event)
        if action != "ignore":
            self._save()

    def _save(self) -> None:
        self.record["state"] = self.state
        self.record["log_lost_bytes"] = self.capture.lost_bytes if self.capture else self.record["log_lost_bytes"]
        try:
            records.write_record(self.paths, self.record)
        except SafeshError as error:
            self.events.write("record_failed", self.spec.name, self.record["run_id"], message=str(error))

    def _leave(self) -> int:
        """Let go of everything, the lock before the last answer: who hears that it is over can start at once."""
        self._save()
        code = self.code or 0
        verdict = self.verdict or Verdict(target=self.spec.name, run_id=self.record["run_id"])
        self.record["last_verdict"] = verdict.to_dict()
        for cleanup in (
            lambda: records.remove_pid(self.paths, self.record["supervisor"]["pid"]),
            lambda: remove(self.paths.socket),
        ):
            try:
                cleanup()
            except SafeshError as error:
                self.events.write("cleanup_failed", self.spec.name, self.record["run_id"], message=str(error))
        if self.server is not None:
            self.server.close()
        self.lock.release()
        for client in self.clients.values():
            client.answer({"over": True, "state": self.state, "message": self.record["message"],
                           "exit": self.record["last_exit"], "verdict": verdict.to_dict()})  # fmt: skip
            client.close()
        return code

    # ---- the loop

    def _turn(self) -> None:
        watch = select.poll()
        readers: dict[int, Callable[[], None]] = {self.signals.fileno(): self._on_signals}
        if self.server is not None:
            readers[self.server.fileno()] = self._on_connection
        if self.keeper is not None:
            readers[self.keeper.report] = self._on_report
        if self.capture is not None and self.capture.fileno() >= 0:
            readers[self.capture.fileno()] = self._on_output
        for fd in self.clients:
            readers[fd] = lambda fd=fd: self._on_client(fd)  # type: ignore[misc]
        for fd in readers:
            watch.register(fd, select.POLLIN)
        echo = self.capture.echo_fileno() if self.capture is not None and self.capture.wants_write else -1
        if echo >= 0:
            watch.register(echo, select.POLLOUT)
        timeout = None if self.due is None else kill.poll_milliseconds(self.due)
        for fd, _events in watch.poll(timeout):
            if fd == echo and self.capture is not None:
                self.capture.flush_echo()
            elif fd in readers and self.code is None:
                readers[fd]()
        if self.due is not None and monotonic() >= self.due:
            self.due = None
            self.feed("due")

    def _on_output(self) -> None:
        capture = self.capture
        if capture is not None and not capture.pump():
            self._close_capture()

    def _close_capture(self) -> None:
        if self.capture is not None:
            self.capture.drain(monotonic() + _DRAIN_SECONDS)
            self.record["log_lost_bytes"] += self.capture.lost_bytes
            self.capture.close()
            self.capture = None

    def _on_signals(self) -> None:
        for number in self.signals.read():
            if number == _signal.SIGCHLD:
                self._reap()
            elif self.code is None:
                self._on_signal(number)

    def _reap(self) -> None:
        """Collect whoever ended but the keeper, whose end is handled where its report ends."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or (self.keeper is not None and found.si_pid == self.keeper.pid):
                return
            pid, status = os.waitpid(found.si_pid, 0)
            if self.capture is not None and pid == self.capture.compressor_pid():
                self.capture.reaped(pid, status)

    def _on_signal(self, number: int) -> None:
        sent = self._rewrite(number)
        ends = number in _STOPS or (number == _signal.SIGHUP and self.plan.hup_ends)
        if ends:
            name = signals.name(number)
            self.events.write("signal", self.spec.name, self.record["run_id"], signal=name)
            if self.intent == "stop":
                self.feed("kill")
                return
            self.intent = "stop"
            self.record["message"] = f"stopped by {name}"
            self._stop_policy = StopPolicy(
                signal=signals.name(sent) if sent else self.spec.stop.signal,
                scope=self.spec.stop.scope,
                grace=self.spec.stop.grace,
            )
            self.feed("stop")
        elif sent and sent in _JOB_CONTROL and self.plan.mode == "foreground":
            self._stop_job()
        elif sent:
            if self.main is None:
                self.pending.append(sent)
            else:
                self._signal_main(sent)

    def _rewrite(self, number: int) -> int:
        """What the target gets for a received signal; 0 when it is dropped."""
        for received, sent in self.spec.signals.items():
            if signals.number(received) == number:
                return signals.number(sent) if sent else 0
        return number

    def _signal_main(self, number: int) -> None:
        try:
            self.main.send(number)
        except PermissionError:
            self.events.write("signal_denied", self.spec.name, self.record["run_id"], signal=signals.name(number))

    def _stop_job(self) -> None:
        """Ctrl-Z on a foreground start: the job pauses with us and goes on with us."""
        for number in (_signal.SIGSTOP, _signal.SIGCONT):
            if self.main is not None and self.main.alive():
                os.killpg(self.main.pid, number)  # it leads its group, and its pidfd says it lives
            if number == _signal.SIGSTOP:
                os.kill(os.getpid(), _signal.SIGSTOP)

    # ---- the keeper

    def _on_report(self) -> None:
        keeper = self.keeper
        if keeper is None:
            return
        messages, more = keeper.read()
        for message in messages:
            getattr(self, "_keeper_" + message["event"])(message)
        if not more:
            self._keeper_ended(keeper)

    def _keeper_spawned(self, message: dict[str, Any]) -> None:
        pid, start = message["pid"], message["start"]
        self.main = _platform.open_handle(pid, start)
        self.record["main"] = {"pid": pid, "start": start, "boot": _platform.boot_id()}
        self.record["cgroup"] = message["group"]
        self.record["started_at"] = wall()
        self.events.write("started", self.spec.name, self.record["run_id"], pid=pid, command=self.spec.command)
        self.feed("spawned")
        pending, self.pending = self.pending, []
        for number in pending:
            if self.main is not None:
                self._signal_main(number)

    def _keeper_refused(self, message: dict[str, Any]) -> None:
        self.refusal = SafeshError(message["message"], place=message["place"], hint=message["hint"])
        self.refusal.exit_code = message["code"]

    def _keeper_exited(self, message: dict[str, Any]) -> None:
        self._exits = ExitInfo.from_dict(message["exit"])
        self.record["last_exit"] = message["exit"]
        self.events.write("exited", self.spec.name, self.record["run_id"], exit=message["exit"])
        self.feed("exited")

    def _keeper_gone(self, message: dict[str, Any]) -> None:
        self.verdict = Verdict.from_dict(message["verdict"])

    def _keeper_broken(self, message: dict[str, Any]) -> None:
        self.events.write("keeper_broken", self.spec.name, self.record["run_id"], message=message["message"])

    def _keeper_ended(self, keeper: KeeperLink) -> None:
        # Its descriptors close before its children pass to us; collecting it waits for both (exit_notify).
        os.waitpid(keeper.pid, 0)
        keeper.close()
        self.keeper = None
        self.record["keeper"] = None
        if self.refusal is not None:
            self._close_capture()
            self._close_main()
            self.feed("refused")
        elif self.verdict is not None:
            self._over()
        else:
            self.events.write("keeper_lost", self.spec.name, self.record["run_id"], keeper=keeper.pid)
            self.record["message"] = "its keeper was killed; the supervisor ended the tree"
            self.feed("keeper_lost")
        self._reap()

    def _close_main(self) -> None:
        if self.main is not None:
            self.main.close()
            self.main = None

    def _over(self) -> None:
        """The tree has been dealt with: what now?"""
        verdict = self.verdict or Verdict()
        self.record["last_verdict"] = verdict.to_dict()
        self.events.write("ended", self.spec.name, self.record["run_id"], verdict=verdict.to_dict())
        self._close_capture()
        self._close_main()
        self.record["main"] = None
        self.record["cgroup"] = self.record["cgroup"] if not verdict.ok else ""
        self.restarts.ended(monotonic())
        self.feed(self._judge(verdict))

    def _judge(self, verdict: Verdict) -> Event:
        if not verdict.ok:
            self.record["message"] = f"{len(verdict.survivors)} processes could not be ended"
            return "over_fail"
        if self.intent == "stop":
            return "over_finish"
        if self.intent == "restart":
            return "over_now"
        end = self._exits
        if policy.wants_restart(self.spec, end):
            if self.restarts.exhausted(monotonic()):
                limit = self.spec.start_limit
                self.record["message"] = (
                    f"start limit reached: {limit.count} starts in {format_duration(limit.window)}"
                )
                return "over_fail"
            return "over_restart"
        if end is not None and end.ok:
            return "over_finish"
        self.record["message"] = self.record["message"] or (end.cause if end is not None else "")
        return "over_fail"

    # ---- actions of the table

    def _do_ignore(self, _event: Event) -> None:
        pass

    def _do_note(self, _event: Event) -> None:
        pass

    def _do_spawn(self, _event: Event) -> None:
        if self.next_spec is not None:
            self.spec, self.next_spec = self.next_spec, None
            self.restarts = policy.Restarts(self.spec.backoff, self.spec.start_limit)
            self.record |= {"target": self.spec.name, "command": self.spec.command, "cwd": self.spec.cwd}
            self.record |= {"log": self.paths.log(self.spec.name), "grace": self.spec.stop.grace}
            self.record["config"] = self.spec.config
            self.lock.describe(self.spec)
        if self.record["run_id"]:
            self.record["restarts"] += 1
        self.due = self.record["next_start_at"] = None
        self.intent = ""
        self.seen_kill = False
        self.verdict = None
        self._exits = None
        self._stop_policy = self.spec.stop
        self.restarts.started(monotonic())
        run_id = new_run_id()
        self.record |= {"run_id": run_id, "started_at": wall(), "cgroup": "", "main": None}
        try:
            self._fork_keeper(run_id)
        except (OSError, SafeshError) as error:
            self.refusal = (
                error
                if isinstance(error, SafeshError)
                else ResourceError(f"cannot start: {error.strerror}", place=self.spec.name, hint="free some and start again")
            )
            self.feed("refused")

    def _fork_keeper(self, run_id: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("SAFESH_RUN_")}
        env |= self.spec.env
        env |= {RUN_ID: run_id, INSTANCE: strays.mark(self.paths.folder, self.spec.instance)}
        env["SAFESH_TARGET"] = self.spec.name
        log = self.paths.log(self.spec.name)
        read, write = os.pipe()
        stdin = self.plan.stdin if self.plan.stdin >= 0 else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.capture = Capture(
                read, log, self.spec.log, self.plan.echo if self.plan.echo >= 0 else None, self._on_log_event
            )
            folder = self.record

            def on_orphaned(end: ExitInfo | None, verdict: Verdict, output: int) -> None:
                drain_raw(output, log, monotonic() + _DRAIN_SECONDS)
                self._bury(folder, end, verdict)

            run = Run(self.spec, run_id, env, stdin, (read, write), [self.lock.fd], on_orphaned)
            self.keeper = start_keeper(run)
        except BaseException:
            if self.capture is not None:
                self.capture.close()
                self.capture = None
            raise
        finally:
            os.close(write)
            if stdin != self.plan.stdin:
                os.close(stdin)
        self.record["keeper"] = {
            "pid": self.keeper.pid,
            "start": self.keeper.handle.start,
            "boot": _platform.boot_id(),
        }

    def _bury(self, record: dict[str, Any], end: ExitInfo | None, verdict: Verdict) -> None:
        """Runs in the keeper of a vanished supervisor: the record tells what became of the run."""
        record |= {
            "state": "failed",
            "since": wall(),
            "keeper": None,
            "main": None,
            "last_verdict": verdict.to_dict(),
            "message": "its supervisor vanished; the keeper ended the tree",
        }
        if end is not None:
            record["last_exit"] = end.to_dict()
        try:
            records.write_record(self.paths, record)
            remove(self.paths.socket)
        except SafeshError:
            pass  # nobody is left to tell; the next command sees the old record and a free lock
        self.events.write("supervisor_lost", self.spec.name, record["run_id"], verdict=verdict.to_dict())
        self.lock.release()

    def _on_log_event(self, event: str, details: dict[str, Any]) -> None:
        self.events.write(event, self.spec.name, self.record["run_id"], **details)
        if event == "log_loss":
            self.record["message"] = "the log is losing output: " + str(details.get("reason", ""))
            self.say(self.record["message"])
        self._save()

    def _do_watch(self, _event: Event) -> None:
        self.feed("ready")  # without a readiness probe, a program that has been executed serves

    def _do_announce(self, _event: Event) -> None:
        pid = self.record["main"]["pid"]
        self.record["message"] = ""
        self.say(f"{self.spec.name} runs (pid {pid}), log {self.record['log']}")
        self._notify({"ready": {"pid": pid, "run_id": self.record["run_id"], "log": self.record["log"]}})
        for client in self.clients.values():
            if client.waits_for_end == "restart":
                client.answer({"restarted": True, "pid": pid, "run_id": self.record["run_id"]})
                client.waits_for_end = ""

    def _notify(self, message: dict[str, Any]) -> None:
        if self.plan.notify >= 0:
            from safesh.core.keeper import keeper_report

            keeper_report(self.plan.notify, message)
            os.close(self.plan.notify)
            self.plan.notify = -1

    def _do_give_up(self, _event: Event) -> None:
        error = self.refusal or SafeshError("was not started")
        self.record["message"] = str(error)
        self.events.write("failed", self.spec.name, self.record["run_id"], message=str(error))
        self._notify(
            {"failed": {"code": error.exit_code, "message": error.message, "place": error.place, "hint": error.hint}}
        )
        self.say(f"{error}" + (f" ({error.hint})" if error.hint else ""))
        self.code = error.exit_code

    def _do_end_tree(self, _event: Event) -> None:
        if self.keeper is not None:
            self.keeper.handle.send(_signal.SIGCONT)  # a stopped keeper could not hear us
            self.keeper.end(self._stop_policy, now=False)

    def _do_end_tree_now(self, _event: Event) -> None:
        if self.keeper is not None:
            self.keeper.handle.send(_signal.SIGCONT)
            self.keeper.end(self._stop_policy, now=True)

    _do_hurry = _do_end_tree_now

    def _do_clean_up(self, _event: Event) -> None:
        """The keeper's orphans have passed to us, their subreaper: end them here."""
        compressor = self.capture.compressor_pid() if self.capture is not None else None
        group = open_group(self.record["cgroup"]) or open_group(self._group_path())
        tree = Tree(self.record["run_id"], os.getpid(), group, spare=[compressor] if compressor else [])
        main = self.record["main"]
        verdict = kill.end_tree(
            tree,
            self._stop_policy,
            main=(main["pid"], main["start"]) if main else None,
            wait=self._wait_cleaning,
        )
        tree.close()
        verdict.target = self.spec.name
        self.verdict = verdict
        self._over()

    def _group_path(self) -> str:
        """Where the keeper's cgroup would be, had it lived to report it."""
        if self.record["backend"] != "cgroup":
            return ""
        from safesh._platform import cgroup

        return os.path.join(cgroup.find_parent()[0], cgroup.PREFIX + self.record["run_id"])

    def _wait_cleaning(self, handles: list[Any], deadline: float) -> bool:
        """Wait for members while the log keeps flowing; another stop signal means hurry."""
        watch = select.poll()
        watch.register(self.signals.fileno(), select.POLLIN)
        if self.capture is not None and self.capture.fileno() >= 0:
            watch.register(self.capture.fileno(), select.POLLIN)
        blind = False
        for handle in handles:
            if handle.fileno() >= 0:
                watch.register(handle.fileno(), select.POLLIN)
            else:
                blind = True
        hurry = False
        watch.poll(kill.poll_milliseconds(deadline, blind))
        for number in self.signals.read():
            if number in _STOPS:
                hurry = self.intent == "stop"
                self.intent = "stop"
        if self.capture is not None and self.capture.fileno() >= 0:
            self.capture.pump()
        spare = self.capture.compressor_pid() if self.capture is not None else None
        for pid, status, usage in reap.reap_all():
            if pid == spare and self.capture is not None:
                self.capture.reaped(pid, status)
            elif self.record["main"] and pid == self.record["main"]["pid"]:
                self._exits = reap.read_status(status, usage)
                self.record["last_exit"] = self._exits.to_dict()
        return hurry

    def _do_schedule(self, _event: Event) -> None:
        delay = self.restarts.delay()
        self.due = monotonic() + delay
        self.record["next_start_at"] = wall() + delay
        cause = self._exits.cause if self._exits is not None else "its keeper was killed"
        self.record["message"] = f"{cause}; starts again in {format_duration(delay)}"
        self.events.write("restarting", self.spec.name, self.record["run_id"], delay=round(delay, 3))
        self.say(f"{self.spec.name}: {self.record['message']}")

    def _do_finish(self, _event: Event) -> None:
        self.due = self.record["next_start_at"] = None
        last = self.record["last_exit"]
        end = ExitInfo.from_dict(last) if last else None
        self.code = reap.shell_status(end) if end is not None else (0 if self.state == "finished" else 1)
        if self.verdict is not None and not self.verdict.ok:
            self.code = self.code or 1
        event = "stopped" if self.state == "finished" else "failed"
        self.events.write(event, self.spec.name, self.record["run_id"], message=self.record["message"])
        self._notify({"failed": {"code": self.code or 1, "message": self.record["message"] or "ended", "place": self.spec.name, "hint": ""}})
        if self.verdict is not None and self.plan.mode == "foreground":
            self.say_verdict(self.verdict)

    def say_verdict(self, verdict: Verdict) -> None:
        for line in verdict.killed:
            self.say(f"killed {line.pid} {line.command}")
        for line in verdict.survivors:
            self.say(f"SURVIVED {line.pid} {line.command}: {line.reason}")
        if self.state == "failed":
            self.say(f"{self.spec.name} failed: {self.record['message']}")

    # ---- requests

    def _on_connection(self) -> None:
        client = control.accept(self.server)
        if client is not None:
            self.clients[client.fileno()] = client

    def _on_client(self, fd: int) -> None:
        client = self.clients[fd]
        requests, more = client.requests()
        for request in requests:
            self._serve(client, request)
        if not more:
            del self.clients[fd]
            client.close()

    def _serve(self, client: control.Client, request: dict[str, Any]) -> None:
        """stop and restart: ``{"do", "now", "grace": seconds or null, "spec": for restart}``."""
        do = request.get("do")
        if do not in ("stop", "restart"):
            client.answer({"error": f"unknown request {do!r}; this supervisor knows stop and restart"})
            return
        grace = request.get("grace")
        self._stop_policy = StopPolicy(
            signal=self.spec.stop.signal,
            scope=self.spec.stop.scope,
            grace=float(grace) if isinstance(grace, (int, float)) else self.spec.stop.grace,
        )
        client.waits_for_end = do
        client.answer({"accepted": do, "state": self.state, "grace": self._stop_policy.grace})
        if do == "restart":
            if self.intent != "stop":
                self.intent = "restart"
                if isinstance(request.get("spec"), dict):
                    self.next_spec = TargetSpec.from_dict(request["spec"])
                self.record["message"] = "restarted by request"
                self.feed("restart")
        else:
            self.intent = "stop"
            self.record["message"] = "stopped by request"
            self.feed("kill" if request.get("now") else "stop")


def new_run_id() -> str:
    """Sorts by time, unique by chance: ``20261121T140309-9f86d081``."""
    import time

    return time.strftime("%Y%m%dT%H%M%S-", time.gmtime(wall())) + os.urandom(4).hex()
