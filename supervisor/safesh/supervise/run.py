"""One run as its supervisor holds it: the keeper, the main process's handle, the log."""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.clock import monotonic, wall
from safesh.core import kill, reap, signals
from safesh.core.contain import INSTANCE, RUN_ID, Tree, group_path, new_run_id, open_group
from safesh.core.environment import inherited
from safesh.core.keeper import KeeperLink, Run, start_keeper
from safesh.core.output import Capture
from safesh.core.tally import Tally
from safesh.errors import SafeshError
from safesh.instance import strays
from safesh.model import ExitInfo, StopPolicy, Verdict
from safesh.paths import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from collections.abc import Callable
    from typing import Any

    from safesh._platform import Handle
    from safesh.instance.lock import Lock
    from safesh.model import TargetSpec
    from safesh.supervise.journal import Journal

_DRAIN_SECONDS = 2.0


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


class LiveRun:
    """From the fork of a keeper to the verdict on its tree.

    keeper is None once it has ended; capture is None once the log has everything.
    """

    def __init__(self, spec: TargetSpec, journal: Journal, lock: Lock) -> None:
        self.spec = spec
        self.journal = journal
        self.lock = lock
        self.run_id = new_run_id()
        self.keeper: KeeperLink | None = None
        self.main: Handle | None = None
        self.capture: Capture | None = None
        self.exit: ExitInfo | None = None
        self.verdict: Verdict | None = None
        self.refusal: SafeshError | None = None
        self.trouble = ""  # what befell its keeper, in words
        self.extra_env: dict[str, str] = {}  # what watchers tell the target
        self.usage: dict[str, Any] | None = None  # what its tree used (``core.tally``)
        self.began = 0.0  # monotonic seconds
        self._early: list[int] = []
        self._spare: list[int] = []
        self._spent = (0.0, 0.0, 0)  # user and system seconds, largest peak in bytes: of those that we waited for

    def start(self, stdin: int, echo: int, on_log_event: Callable[[str, dict[str, Any]], None], tty: int = -1) -> None:
        """Fork the keeper, which starts the target. OSError or SafeshError when that cannot be.

        stdin, echo: descriptors of a foreground start, -1 for none. tty: the terminal that the target gets with our
        stdio, -1 for none; then there is no log.
        """
        record = self.journal.record
        log = record["log"]
        record |= {"run_id": self.run_id, "started_at": wall(), "cgroup": "", "main": None}
        self.began = monotonic()
        record["log_offset"] = _size(log)  # where this run's output begins
        self.journal.save()  # before anything exists that a later command would have to find by it
        read, write = os.pipe() if tty < 0 else (-1, -1)
        nothing = -1
        try:
            try:
                if tty < 0:
                    self.capture = Capture(read, log, self.spec.log, echo if echo >= 0 else None, on_log_event)
            except BaseException:
                os.close(read)
                raise
            if stdin < 0 and tty < 0:
                stdin = nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

            env, keep_open = self.environment(), [self.lock.fd, *([tty] if tty >= 0 else [])]
            run = Run(self.spec, self.run_id, env, stdin, (read, write), keep_open, self._bury, log, tty)
            self.keeper = start_keeper(run)
        except BaseException:
            if write >= 0:
                os.close(write)  # first: the log is drained until nobody can write any more
            write = -1
            self.close_log()
            raise
        finally:
            for fd in (write, nothing):
                if fd >= 0:
                    os.close(fd)
        record["keeper"] = {
            "pid": self.keeper.pid,
            "start": self.keeper.handle.start,
            "boot": _platform.boot_id(),
        }

    def environment(self) -> dict[str, str]:
        """The whole environment of the target."""
        record = self.journal.record
        env = inherited() | self.spec.env
        env |= self.extra_env
        env |= {RUN_ID: self.run_id, "SAFESH_TARGET": self.spec.name}
        env[INSTANCE] = strays.mark(self.journal.paths.folder, record["instance"])
        return env

    def _bury(self, end: ExitInfo | None, verdict: Verdict, usage: dict[str, Any] | None) -> None:
        """Runs in the keeper of a vanished supervisor: the record tells what became of the run."""
        journal = self.journal
        journal.record |= {
            "state": "failed",
            "since": wall(),
            "keeper": None,
            "main": None,
            "last_verdict": verdict.to_dict(),
            "message": "its supervisor vanished; the keeper ended the tree",
        }
        if end is not None:
            journal.record["last_exit"] = end.to_dict()
        self.exit, self.usage = end, usage
        journal.note_run(self, "failed", f"its supervisor vanished{f' ({end.cause})' if end is not None else ''}", {})
        journal.event("supervisor_lost", verdict=verdict.to_dict())
        journal.save()
        try:
            remove(journal.paths.socket)
        except SafeshError:
            pass  # nobody is left to tell; the next start replaces it
        self.lock.release()

    # ---- while it lives

    def spawned(self, pid: int, start: int, group: str) -> None:
        """The target's program has been executed; signals that came too early go to it now."""
        record = self.journal.record
        self.main = _platform.open_handle(pid, start)
        record |= {"main": {"pid": pid, "start": start, "boot": _platform.boot_id()}}
        record |= {"cgroup": group, "started_at": wall()}
        self.began = monotonic()
        if not group and record["backend"] == "cgroup":
            record["backend"] = "subreaper"  # a place to make groups in, and still none could be made
        early, self._early = self._early, []
        for number in early:
            self.signal(number)

    def signal(self, number: int) -> None:
        """Send a signal on to the main process."""
        if self.journal.record["main"] is None and self.keeper is not None:
            self._early.append(number)
        elif self.main is not None:
            try:
                self.main.send(number)
            except PermissionError:
                self.journal.event("signal_denied", signal=signals.name(number))

    def signal_group(self, number: int) -> None:
        """Send a signal to the main process's group, which it leads."""
        if self.main is not None and self.main.alive():  # a living leader's group cannot be another one
            os.killpg(self.main.pid, number)

    def end(self, policy: StopPolicy, *, now: bool) -> None:
        """Have the keeper end the tree; once more with ``now`` ends the grace."""
        if self.keeper is not None:
            self.keeper.wake()
            self.keeper.end(policy, now=now)

    def compressor(self) -> int:
        """The pid of the child that compresses old log parts, 0 when there is none."""
        return self.capture.compressor_pid() if self.capture is not None else 0

    def reaped(self, pid: int, status: int) -> None:
        if self.capture is not None:
            self.capture.reaped(pid, status)

    # ---- at its end

    def collect_keeper(self) -> None:
        """The keeper's report has ended: wait until its children have passed to us, and let go of it."""
        if self.keeper is not None:
            # A process closes its descriptors first and gives up its children later (exit_notify): only when it
            # can be collected are they ours.
            self._count(os.wait4(self.keeper.pid, 0)[2])  # with those that it has waited for
            self.keeper.close()
            self.keeper = None
            self.journal.record["keeper"] = None

    def clean_up(self, policy: StopPolicy, wait: kill.Wait, spare: list[int]) -> Verdict:
        """The keeper was killed: its orphans have passed to us, their subreaper; end them here."""
        self._spare = spare
        verdict = kill.insist(lambda left: self._end_orphans(left, wait), policy, lambda: True)
        verdict.target = self.spec.name
        return verdict

    def _end_orphans(self, policy: StopPolicy, wait: kill.Wait) -> Verdict:
        record = self.journal.record
        compressor = self.compressor()
        group = open_group(record["cgroup"] or group_path(self.run_id))
        tree = Tree(self.run_id, os.getpid(), group, spare=[*self._spare, *([compressor] if compressor else [])])
        tally = Tally(tree)
        main = record["main"]
        try:
            verdict = kill.end_tree(tree, policy, main=(main["pid"], main["start"]) if main else None, wait=wait)
            user, system, peak = self._spent
            try:
                self.usage = tally.account(user, system, peak, peak, io=False)  # the peak may be the keeper's own
            except OSError:
                self.usage = None  # a figure that cannot be had must not cost the verdict
        finally:
            tree.close()
        return verdict

    def _count(self, usage: resource.struct_rusage) -> None:
        user, system, peak = self._spent
        most = max(peak, usage.ru_maxrss * _platform.MAXRSS_UNIT)
        self._spent = (user + usage.ru_utime, system + usage.ru_stime, most)

    def wait_cleaning(self, handles: list[Handle], deadline: float, signal_fd: int) -> list[tuple[int, int]]:
        """One wait of :meth:`clean_up`: the log keeps flowing, whoever ends is collected.

        Returns (pid, wait status) of those that are not the run's.
        """
        watch = select.poll()
        watch.register(signal_fd, select.POLLIN)
        if self.capture is not None:
            watch.register(self.capture.fileno(), select.POLLIN)
        blind = kill.register(watch, handles)
        watch.poll(kill.poll_milliseconds(deadline, blind))
        if self.capture is not None and not self.capture.pump():
            self.close_log()
        main = self.journal.record["main"]
        others = []
        for pid, status, usage in reap.reap_all():
            if pid == self.compressor():
                self.reaped(pid, status)
                continue
            if pid not in self._spare:
                self._count(usage)
            if main is not None and pid == main["pid"]:
                self.exit = reap.read_status(status, usage)
                self.journal.record["last_exit"] = self.exit.to_dict()
            else:
                others.append((pid, status))
        return others

    def close_log(self) -> None:
        """Everything that was written goes into the log; then it is closed."""
        if self.capture is not None:
            self.capture.drain(monotonic() + _DRAIN_SECONDS)
            self.capture.close()
            self.journal.record["log_lost_bytes"] += self.capture.lost_bytes
            self.capture = None

    def close(self) -> None:
        """Let go of everything; the run is over."""
        self.close_log()
        if self.main is not None:
            self.main.close()
            self.main = None
        self.journal.record["main"] = None
