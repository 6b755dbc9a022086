"""The supervisor: holds the lock, asks the table, does what it says, and sleeps in between."""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.clock import format_duration, monotonic, wall
from safesh.core import kill, reap, signals
from safesh.core.keeper import tell
from safesh.errors import AlreadyRunning, ResourceError, SafeshError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.model import ExitInfo, StopPolicy, TargetSpec, Verdict
from safesh.paths import InstancePaths, remove
from safesh.supervise import policy, watchers
from safesh.supervise.journal import Journal
from safesh.supervise.machine import TABLE
from safesh.supervise.plan import Plan
from safesh.supervise.requests import Desk, grace_of, spec_of
from safesh.supervise.run import LiveRun
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any

    from safesh.model import State
    from safesh.supervise.control import Client
    from safesh.supervise.machine import Event
else:
    import _signal

_STOPS = (_signal.SIGTERM, _signal.SIGINT)
_SCARCE = "look at ulimit -n, ulimit -u and free memory, then try again"
_JOB_CONTROL = (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU)


class Supervisor:
    """One instance, from the taking of its lock to its release."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        """say: tells people something in one line (foreground only; a no-op otherwise)."""
        self.spec = TargetSpec.from_dict(plan.spec)
        self.plan = plan
        self.say = say
        self.paths = InstancePaths(plan.folder, self.spec.instance, self.spec.lock_file, self.spec.pid_file)
        self.lock = locks.Lock(self.paths.lock, plan.lock)
        self.journal = Journal(self.spec, self.paths, plan.mode)
        self.record = self.journal.record
        self.restarts = policy.Restarts(self.spec.backoff, self.spec.start_limit)
        self.signals = _platform.SignalSource([*signals.FORWARDABLE, _signal.SIGCHLD])
        self.state: State = "idle"
        self.intent = ""  # "", "stop" or "restart": what the end of this run is for
        self.stop_policy = self.spec.stop
        self.next_spec: TargetSpec | None = None
        self.run: LiveRun | None = None
        self.desk: Desk | None = None
        self.due: float | None = None
        self.refusal: SafeshError | None = None
        self.verdict: Verdict | None = None
        self.sentence: tuple[str, str] | None = None  # (what follows the end of this run, why) by a watcher's word
        self.watchers: list[Watcher] = []  # of the instance
        self.run_watchers: list[Watcher] = []  # of this run
        self.code: int | None = None
        self.farewell: dict[str, Any] = {}

    # ---- life

    def supervise(self) -> int:
        """Hold the instance until it is over; the exit status for ``start``."""
        _platform.set_name("safesh")
        _platform.become_subreaper()
        os.chdir(self.paths.folder)  # no file system is kept busy by our working directory
        self.lock.describe(self.spec)
        self.watchers = watchers.for_instance(self)
        try:
            self.desk = Desk(self.paths.socket, self._serve)
            records.write_pid(self.paths, os.getpid())
            records.write_record(self.paths, self.record)  # later failures cost an event; the first one, the start
        except SafeshError as error:
            self._refuse(error)
        else:
            self.feed("start")
        while self.code is None:
            self._turn()
        return self._leave(self.code)

    def feed(self, event: Event) -> None:
        """One event through the table."""
        action, after = TABLE[self.state][event]
        if after != self.state:
            self.state = self.record["state"] = after
            self.record["since"] = wall()
        getattr(self, "_do_" + action)(event)
        if action != "ignore":
            for watcher in [*self.watchers, *self.run_watchers]:
                watcher.on_event(event)
            self.journal.save()

    def condemn(self, follows: str, why: str, event: Event = "condemned") -> None:
        """A watcher wants the run ended. follows: ``restart``, ``stop`` or, by the restart policy, ``policy``."""
        if self.sentence is None and self.intent == "" and self.state in ("starting", "running", "unhealthy"):
            self.sentence = (follows, why)
            self.record["message"] = why
            self.feed(event)

    def _leave(self, code: int) -> int:
        """Let go of everything, the lock before the last answer: who hears that it is over can start at once."""
        leaving, self.watchers = self.watchers, []
        for watcher in leaving:
            watcher.close()
        self.journal.save()
        clients = self.desk.close() if self.desk is not None else []
        cleanups: list[tuple[str, Callable[[], None]]] = [
            (self.paths.pid, lambda: records.remove_pid(self.paths, os.getpid())),
            (self.paths.socket, lambda: remove(self.paths.socket)),
        ]
        for path, cleanup in cleanups:
            try:
                cleanup()
            except SafeshError as error:
                self.journal.event("cleanup_failed", path=path, message=str(error))
        self.lock.release()
        if self.farewell:
            self._notify(self.farewell)
        verdict = self.verdict or Verdict(target=self.spec.name, run_id=self.record["run_id"])
        over = {"over": True, "state": self.state, "message": self.record["message"]}
        for client in clients:
            client.answer({**over, "exit": self.record["last_exit"], "verdict": verdict.to_dict()})
            client.close()
        for watcher in leaving:
            watcher.leave()
        return code

    # ---- the loop

    def _turn(self) -> None:
        """Sleep until something happens, then deal with it."""
        watch = select.poll()
        readers: dict[int, Callable[[], None]] = {self.signals.fileno(): self._on_signals}
        if self.desk is not None:
            readers |= self.desk.readers()
        capture = None
        if self.run is not None:
            capture = self.run.capture
            if self.run.keeper is not None:
                readers[self.run.keeper.report] = self._on_report
            if capture is not None:
                readers[capture.fileno()] = self._on_output
        for fd in readers:
            watch.register(fd, select.POLLIN)
        echo = capture.echo_fileno() if capture is not None and capture.wants_write else -1
        if echo >= 0:
            watch.register(echo, select.POLLOUT)
        if self.plan.terminal >= 0:
            watch.register(self.plan.terminal, 0)  # poll(2) tells a hang-up unasked
        watchers = [*self.watchers, *self.run_watchers]
        for watcher in watchers:
            for fd, (mask, call) in watcher.readers().items():
                readers[fd] = call
                watch.register(fd, mask)
        dues = [due for due in (self.due, *(watcher.due for watcher in watchers)) if due is not None]
        for fd, _what in watch.poll(kill.poll_milliseconds(min(dues)) if dues else None):
            if self.code is not None:
                return
            if fd in readers:
                readers[fd]()
            elif fd == self.plan.terminal:
                self.plan.terminal = -1
                self._on_signal(_signal.SIGHUP)
            elif capture is not None:
                capture.flush_echo()
        if self.due is not None and monotonic() >= self.due and self.code is None:
            self.due = None
            self.feed("due")
        for watcher in watchers:
            # One that an event of this turn has closed is in neither list any more.
            open_still = watcher in self.watchers or watcher in self.run_watchers
            if open_still and self.code is None and watcher.due is not None and monotonic() >= watcher.due:
                watcher.tick()

    def _on_output(self) -> None:
        if self.run is not None and self.run.capture is not None and not self.run.capture.pump():
            self.run.close_log()
        for watcher in self.run_watchers:
            watcher.on_output()

    def _on_signals(self) -> None:
        for number in self.signals.read():
            if number == _signal.SIGCHLD:
                self._reap()
            elif self.code is None:
                self._on_signal(number)

    def _reap(self) -> None:
        """Collect the compressor and adopted strangers; the keeper's end is handled where its report ends."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            run = self.run
            if found is None or (run is not None and run.keeper is not None and found.si_pid == run.keeper.pid):
                return
            pid, status = os.waitpid(found.si_pid, 0)
            if run is not None and pid == run.compressor():
                run.reaped(pid, status)
                continue
            for watcher in [*self.watchers, *self.run_watchers]:
                if watcher.reaped(pid, status):
                    break

    def _on_signal(self, number: int) -> None:
        sent = self._rewrite(number)
        if number in _STOPS or (number == _signal.SIGHUP and self.plan.hup_ends):
            self._stop_by(number, sent)
        elif sent in _JOB_CONTROL and self.plan.mode == "foreground":
            self._pause()
        elif sent and self.run is not None:
            self.run.signal(sent)

    def _stop_by(self, number: int, sent: int) -> None:
        """A first one reaches the target and ends the tree; a second one does not wait."""
        self.journal.event("signal", signal=signals.name(number))
        if self.intent == "stop":
            self.feed("kill")
            return
        self.intent = "stop"
        self.record["message"] = f"stopped by {signals.name(number)}"
        stop = self.spec.stop
        # A terminal sends Ctrl-C to everybody in the foreground; a shell that alone got it waits for its children.
        everybody = number == _signal.SIGINT and self.plan.mode == "foreground"
        self.stop_policy = StopPolicy(
            signal=signals.name(sent) if sent else stop.signal,
            scope="tree" if everybody else stop.scope,
            grace=stop.grace,
        )
        self.feed("stop")

    def _rewrite(self, number: int) -> int:
        """What the target gets for a received signal; 0 when it is dropped."""
        for received, sent in self.spec.signals.items():
            if signals.number(received) == number:
                return signals.number(sent) if sent else 0
        return number

    def _pause(self) -> None:
        """Ctrl-Z on a foreground start: the job pauses with us and goes on with us."""
        if self.run is not None:
            self.run.signal_group(_signal.SIGSTOP)
        os.kill(os.getpid(), _signal.SIGSTOP)
        if self.run is not None:
            self.run.signal_group(_signal.SIGCONT)

    def _pause_job(self) -> None:
        """The target, which has the terminal, was stopped by Ctrl-Z: its shell must see us stop, and fg wakes both."""
        if self.plan.tty < 0 or self.run is None or self.run.main is None:
            return
        from safesh.core import ctty

        ctty.take_foreground(self.plan.tty)
        os.kill(os.getpid(), _signal.SIGSTOP)
        if ctty.foreground(self.plan.tty) == os.getpgrp():  # fg; after bg the terminal is the shell's
            ctty.take_foreground(self.plan.tty, self.run.main.pid)
        self.run.signal_group(_signal.SIGCONT)

    # ---- what the keeper tells

    def _on_report(self) -> None:
        run = self.run
        if run is None or run.keeper is None:
            return
        messages, more = run.keeper.read()
        for message in messages:
            self._on_message(run, message)
        if not more:
            self._on_keeper_end(run)

    def _on_message(self, run: LiveRun, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "spawned":
            self.journal.event("started", pid=message["pid"], command=self.spec.command)
            run.spawned(message["pid"], message["start"], message["group"])
            self.feed("spawned")
        elif event == "exited":
            run.exit = ExitInfo.from_dict(message["exit"])
            self.record["last_exit"] = message["exit"]
            self.record["ended_by"] = self.sentence[1] if self.sentence is not None else ""
            self.journal.event("exited", exit=message["exit"])
            self.feed("exited")
        elif event == "paused":
            self._pause_job()
        elif event == "gone":
            run.verdict = Verdict.from_dict(message["verdict"])
            run.usage = message.get("usage")
        elif event == "refused":
            run.refusal = SafeshError(message["message"], place=message["place"], hint=message["hint"])
            run.refusal.exit_code = message["code"]
        else:
            self.journal.event("keeper_broken", message=message["message"])
            run.trouble = f"its keeper failed: {message['message'].rpartition('] ')[2]}"

    def _on_keeper_end(self, run: LiveRun) -> None:
        keeper = run.keeper.pid if run.keeper is not None else 0
        run.collect_keeper()
        if run.refusal is not None:
            self._close_watchers()
            run.close()
            self._refuse(run.refusal)
        elif run.verdict is not None:
            self._over(run, run.verdict)
        elif run.trouble and self.record["main"] is None:
            self._close_watchers()
            self.verdict = self._clean_up(run)  # the keeper may have got as far as a fork
            run.close()
            self._refuse(ResourceError(f"cannot be started: {run.trouble}", place=self.spec.name, hint=_SCARCE))
        else:
            self.journal.event("keeper_lost", keeper=keeper)
            run.trouble = f"{run.trouble or 'its keeper was killed'}; the supervisor ended the tree"
            self.record["message"] = run.trouble
            self.feed("keeper_lost")
        self._reap()

    def _refuse(self, error: SafeshError) -> None:
        """The target could not be started. Want of resources may pass, so it counts as a failed run."""
        self.refusal = error
        self._close_watchers()
        passing = error.exit_code == ResourceError.exit_code and self.spec.restart != "no"
        if passing and self.state == "starting" and not self.restarts.exhausted(monotonic()):
            self.record["message"] = str(error)
            self.feed("over_restart")
        elif self.state == "idle":
            self.state = self.record["state"] = "failed"
            self._do_give_up("refused")
        else:
            self.feed("refused")

    def _over(self, run: LiveRun, verdict: Verdict) -> None:
        """The tree has been dealt with: what now?"""
        self._close_watchers()
        run.close()
        self._take_terminal_back(run)
        self.verdict = verdict
        self.record["last_verdict"] = verdict.to_dict()
        self.record["ended_by"] = self.sentence[1] if self.sentence is not None else ""
        self.record["cgroup"] = "" if verdict.ok else self.record["cgroup"]
        self.journal.event("ended", verdict=verdict.to_dict())
        self.restarts.ended(monotonic())
        follows = self._judge(run, verdict)
        self._note(run, follows)
        self.feed(follows)

    def _note(self, run: LiveRun, follows: Event) -> None:
        """What the run used and how it ended, before the next one takes its place."""
        end, why = run.exit, self.sentence[1] if self.sentence is not None else run.trouble
        if not why and (self.intent or follows == "over_fail"):
            why = self.record["message"]
        said = end.cause if end is not None else ""
        cause = f"{why} ({said})" if why and said and why not in said else said or why
        failed = follows == "over_fail" or why == run.trouble != "" or self.sentence is not None
        failed = failed or (not self.intent and (end is None or not end.ok))
        seen = {name: value for watcher in self.watchers for name, value in watcher.totals(run.run_id).items()}
        self.journal.note_run(run, "failed" if failed else "finished", cause, seen)

    def _take_terminal_back(self, run: LiveRun) -> None:
        """The target had the terminal: take it back, and take Ctrl-C there as its user's stop."""
        if self.plan.tty < 0:
            return
        from safesh.core import ctty

        ctty.take_foreground(self.plan.tty)
        if run.exit is not None and run.exit.signal in ("SIGINT", "SIGQUIT"):
            self.intent = self.intent or "stop"

    def _close_watchers(self) -> None:
        watchers, self.run_watchers = self.run_watchers, []
        for watcher in watchers:
            watcher.close()

    def _judge(self, run: LiveRun, verdict: Verdict) -> Event:
        if not verdict.ok:
            self.record["message"] = f"{len(verdict.survivors)} processes could not be ended"
            return "over_fail"
        if self.intent == "stop":
            return "over_finish"
        if self.intent == "restart":
            return "over_now"
        follows, why = self.sentence or ("policy", "")
        if why:
            self.record["message"] = why
        if follows == "stop":
            return "over_fail"
        # A run that a watcher condemned has failed, however it exited then.
        if follows == "restart" or policy.wants_restart(self.spec, None if why else run.exit):
            if not self.restarts.exhausted(monotonic()):
                return "over_restart"
            limit = self.spec.start_limit
            self.record["message"] = f"start limit reached: {limit.count} starts in {format_duration(limit.window)}"
            return "over_fail"
        if run.exit is not None and run.exit.ok and not why:
            return "over_finish"
        if run.exit is not None and not run.trouble and not why:
            self.record["message"] = run.exit.cause
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
            self.journal.set_target(self.spec)
            self.lock.describe(self.spec)
            self.watchers += watchers.for_instance(self)
        if self.run is not None:
            self.record["restarts"] += 1
        self.due = self.record["next_start_at"] = None
        self.intent = ""
        self.sentence = None
        self.stop_policy = self.spec.stop
        self.restarts.started(monotonic())
        try:
            self._keep_lock()
            self.run = LiveRun(self.spec, self.journal, self.lock)
            self.run_watchers = watchers.for_run(self, self.run)
            self.run.start(self.plan.stdin, self.plan.echo, self._on_log_event, self.plan.tty)
        except SafeshError as error:
            self._refuse(error)
        except OSError as error:
            self._refuse(ResourceError(f"cannot be started: {error.strerror}", place=self.spec.name, hint=_SCARCE))

    def _keep_lock(self) -> None:
        """Between two runs nobody of ours may live, so a start that found no lock of ours has taken its own."""
        lock = locks.renew(self.lock)
        if lock is None:
            raise AlreadyRunning(
                "was removed or replaced meanwhile, and somebody else holds it now, so nothing is started again",
                place=self.lock.path,
                hint=f"safe.sh status {self.spec.name}",
            )
        if lock is not self.lock:
            self.lock = lock
            lock.describe(self.spec)

    def _on_log_event(self, event: str, details: dict[str, Any]) -> None:
        self.journal.event(event, **details)
        if event == "log_loss":
            self.record["message"] = f"the log is losing output: {details.get('reason', '')}"
            self.say(self.record["message"])
        elif event == "log_recovered":
            self.record["message"] = f"{details.get('bytes', 0)} bytes of output were lost: {details.get('reason', '')}"
        if self.run is not None and self.run.capture is not None:
            self.record["log_lost_bytes"] = self.run.capture.lost_bytes
        self.journal.save()

    def _do_watch(self, _event: Event) -> None:
        if not self.spec.ready.kind:
            self.feed("ready")  # without a readiness probe, a program that has been executed serves
            return
        self.record["message"] = "not ready yet"
        self.say(f"{self.spec.name} starts (pid {self.record['main']['pid']}), log {self.record['log']}")

    def _do_announce(self, _event: Event) -> None:
        pid = self.record["main"]["pid"]
        self.record["message"] = ""
        ready = {"pid": pid, "run_id": self.record["run_id"], "log": self.record["log"]}
        if self.spec.ready.kind:
            ready["ready_after"] = round(max(0.0, wall() - self.record["started_at"]), 3)
            self.say(f"{self.spec.name} is ready (pid {pid})")
        else:
            self.say(f"{self.spec.name} runs (pid {pid}), log {self.record['log']}")
        self.journal.save()  # who hears that it runs may look at once
        self._notify({"ready": ready})
        if self.desk is not None:
            self.desk.answer("restart", {"restarted": True, "pid": pid, "run_id": self.record["run_id"]})
            self.desk.answer("ready", {"ready": True, "state": self.state})

    def _notify(self, message: dict[str, Any]) -> None:
        """Answer the detached start that waits; once."""
        if self.plan.notify >= 0:
            tell(self.plan.notify, message)
            os.close(self.plan.notify)
            self.plan.notify = -1

    def _notify_failure(self, code: int, message: str, hint: str = "", place: str = "") -> None:
        if self.plan.notify < 0:
            return
        failed = {"code": code, "message": message, "place": place or self.spec.name, "hint": hint}
        if self.run is not None and self.record["last_exit"] is not None:
            from safesh.supervise.lastwords import last_words

            if not self.record["message"].startswith("stopped by") and self.sentence is None:
                failed["message"] = f"{message} before it was ready"
            failed["log"] = last_words(self.record["log"], self.record["log_offset"], 5)
        if self.state == "backoff":
            self._notify({"failed": failed})
        else:
            self.farewell = {"failed": failed}  # told when the lock is free, so that the next start finds it so

    def _do_give_up(self, _event: Event) -> None:
        error = self.refusal or SafeshError("was not started")
        self.record["message"] = str(error)
        self.journal.event("failed", message=str(error))
        self._notify_failure(error.exit_code, error.message, error.hint, error.place)
        self.say(f"{error}" + (f"\n  → {error.hint}" if error.hint else ""))
        self.code = error.exit_code

    def _do_end_tree(self, _event: Event) -> None:
        if self.run is not None:
            self.run.end(self.stop_policy, now=False)

    def _do_end_tree_now(self, _event: Event) -> None:
        if self.run is not None:
            self.run.end(self.stop_policy, now=True)

    _do_hurry = _do_end_tree_now

    def _do_clean_up(self, _event: Event) -> None:
        run = self.run
        if run is not None:
            self._over(run, self._clean_up(run))

    def _clean_up(self, run: LiveRun) -> Verdict:
        spare = [pid for watcher in [*self.watchers, *self.run_watchers] for pid in watcher.children()]
        return run.clean_up(self.stop_policy, self._wait_cleaning, spare)

    def _wait_cleaning(self, handles: list[Any], deadline: float) -> bool:
        """While orphans are ended here, signals are heard: a second stop is in a hurry."""
        if self.run is not None:
            for pid, status in self.run.wait_cleaning(handles, deadline, self.signals.fileno()):
                for watcher in [*self.watchers, *self.run_watchers]:
                    if watcher.reaped(pid, status):
                        break
        hurry = False
        for number in self.signals.read():
            if number in _STOPS:
                hurry = self.intent == "stop"
                self.intent = "stop"
        return hurry

    def _do_schedule(self, _event: Event) -> None:
        delay = self.restarts.delay()
        self.due = monotonic() + delay
        self.record["next_start_at"] = wall() + delay
        cause = self.record["message"]
        if self.sentence is None and self.run is not None and self.run.exit is not None:
            cause = self.run.exit.cause
        end = self.run.exit if self.run is not None else None
        # Who waits for it to be ready has waited for this run.
        hint = f"it starts again in {format_duration(delay)}; look: safe.sh status {self.spec.name}"
        if self.record["last_exit"] is not None:
            self._notify_failure(1 if self.sentence or end is None else reap.shell_status(end) or 1, cause, hint)
        elif self.refusal is not None:  # there was no run at all
            self._notify_failure(self.refusal.exit_code, self.refusal.message, hint, self.refusal.place)
        self.record["message"] = f"{cause}; starts again in {format_duration(delay)}"
        self.journal.event("restarting", delay=round(delay, 3))
        self.say(f"{self.spec.name}: {self.record['message']}")

    def _do_finish(self, _event: Event) -> None:
        self.due = self.record["next_start_at"] = None
        end = ExitInfo.from_dict(self.record["last_exit"]) if self.record["last_exit"] else None
        self.code = reap.shell_status(end) if end is not None else int(self.state == "failed")
        failed = self.state == "failed"
        if self.verdict is not None and not self.verdict.ok:
            self.code = self.code or 1
        self.journal.event("failed" if failed else "stopped", message=self.record["message"])
        if failed and self.sentence is not None:
            self.code = self.code or 1  # it was ended for a fault, however politely it went
        cause = self.record["message"] or (end.cause if end is not None else "ended")
        self._notify_failure(1 if self.sentence else self.code or 1, cause)
        verdict = self.verdict or Verdict()
        for line in verdict.killed:
            self.say(f"killed pid {line.pid}: {line.command}")
        for line in verdict.survivors:
            self.say(f"SURVIVED pid {line.pid}: {line.command}: {line.reason}")
        if self.record["message"]:
            self.say(f"{self.spec.name} {'failed: ' if failed else ''}{self.record['message']}")

    # ---- requests

    def _serve(self, client: Client, request: dict[str, Any]) -> None:
        """stop and restart: ``{"do", "now", "grace": seconds or null, "spec": for restart}``; wait: until ready."""
        do = request.get("do")
        if do == "wait":
            if self.state in ("running", "unhealthy"):
                client.answer({"ready": True, "state": self.state})
            else:
                client.waits_for = "ready"
            return
        if do not in ("stop", "restart"):
            client.answer({"error": f"unknown request {do!r}; this supervisor knows stop, restart and wait"})
            return
        spec = spec_of(request.get("spec"))
        same = spec is None or (spec.project, spec.instance) == (self.spec.project, self.spec.instance)
        if not same or (spec is None and request.get("spec") is not None):
            client.answer({"error": "its spec is not a target of this instance"})
            return
        stop = self.spec.stop
        self.stop_policy = StopPolicy(signal=stop.signal, scope=stop.scope, grace=grace_of(request, stop.grace))
        client.waits_for = do
        client.answer({"accepted": do, "state": self.state, "grace": self.stop_policy.grace})
        now = bool(request.get("now"))
        if do == "stop":
            self.intent = "stop"
            self.record["message"] = "stopped by request"
            self.feed("kill" if now else "stop")
        elif self.intent != "stop":
            self.intent = "restart"
            self.next_spec = spec or self.next_spec
            self.record["message"] = "restarted by request"
            self.feed("restart")
            if now:
                self._do_end_tree_now("restart")
