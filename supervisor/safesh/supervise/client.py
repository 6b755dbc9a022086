"""Asking a supervisor to stop or restart, and what to do when it cannot answer."""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.clock import monotonic
from safesh.core.contain import Tree, open_group
from safesh.core.kill import KILL_SECONDS, end_tree, poll_milliseconds
from safesh.errors import StateError
from safesh.instance import lock as locks
from safesh.instance import record as records
from safesh.instance.strays import mark
from safesh.model import StopPolicy, Verdict
from safesh.supervise import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from safesh.paths import InstancePaths
else:
    import _signal

MARGIN = 0.5  # seconds in which a keeper whose grace is over kills and buries
_LOOK_SECONDS = 2.0  # between two looks at the record of one that is waited for and does not answer
_ANSWER_SECONDS = 3.0  # a supervisor answers a request at once; one that is cleaning up, a little later


class Request:
    """One stop or restart under way; several can be asked first and waited for afterwards."""

    def __init__(self, paths: InstancePaths, do: str, grace: float | None, now: bool) -> None:
        """grace: seconds instead of the target's own; now: kill without asking the target."""
        self.paths = paths
        self.do = do
        self.grace = grace
        self.now = now
        self.accepted_grace = 0.0
        self.deadline = monotonic()
        self.talk: control.Conversation | None = None
        self.verdict = Verdict(target=paths.instance)

    def ask(self, spec: dict[str, Any] | None = None) -> bool:
        """Send it; False when no supervisor answers."""
        deadline = monotonic() + _ANSWER_SECONDS
        while self.talk is None:
            holder = find_holder(self.paths)
            if holder is None:
                return False
            self._wake(holder)
            try:
                self.talk = control.Conversation(control.connect(self.paths.socket, _ANSWER_SECONDS))
                self.talk.ask({"do": self.do, "grace": self.grace, "now": self.now, "spec": spec})
                answer = self.talk.answer(_ANSWER_SECONDS)
            except (OSError, ValueError):
                answer = None
            if answer is not None and "accepted" in answer:
                self.accepted_grace = 0.0 if self.now else answer["grace"]
                self.deadline = monotonic() + self.accepted_grace + 2 * KILL_SECONDS
                return True
            if answer is not None and answer.get("over"):
                self._take(answer)
                return True
            if self.talk is not None:
                self.talk.close()
                self.talk = None
            if monotonic() >= deadline:
                return False
            # It may be between taking the lock and listening, or on its way out.
            select.poll().poll(20)
        return False

    def _wake(self, holder: dict[str, Any]) -> None:
        """A stopped supervisor (Ctrl-Z, SIGSTOP) cannot answer: let it run again."""
        info = _platform.info(holder["pid"])
        if info is not None and info.start == holder["start"] and info.state == "T":
            handle = _platform.open_handle(info.pid, info.start)
            if handle is not None:
                handle.send(_signal.SIGCONT)
                handle.close()

    def _take(self, answer: dict[str, Any]) -> None:
        self.verdict = Verdict.from_dict(answer["verdict"])

    def wait(self) -> dict[str, Any] | None:
        """The final answer (``over`` or ``restarted``), None when the supervisor vanished or never gave one."""
        if self.talk is None:
            return None
        try:
            answer = self.talk.answer(max(0.01, self.deadline - monotonic()))
        except (OSError, ValueError):
            answer = None
        if answer is not None and "verdict" in answer:
            self._take(answer)
        self.talk.close()
        return answer


def find_holder(paths: InstancePaths) -> dict[str, Any] | None:
    """The living supervisor by the lock's word or, where that file is damaged or gone, by the record's."""
    try:
        holder = locks.read_holder(paths.lock)
    except StateError:
        holder = None
    if locks.is_alive(holder):
        return holder
    last, _problem = records.read_record(paths)
    if last is None or not locks.is_alive(last["supervisor"]):
        return None
    return {**last["supervisor"], "target": last["target"], "command": last["command"],
            "since": last["supervised_since"]}  # fmt: skip


def wait_ready(paths: InstancePaths, timeout: float | None) -> bool:
    """Whether the instance's target serves, waiting for one that is starting: at most ``timeout`` seconds."""
    try:
        talk = control.Conversation(control.connect(paths.socket, _ANSWER_SECONDS))
    except OSError:
        return False
    deadline = float("inf") if timeout is None else monotonic() + timeout
    try:
        talk.ask({"do": "wait"})
        while True:
            try:
                answer = talk.answer(max(0.01, min(_LOOK_SECONDS, deadline - monotonic())))
                return answer is not None and bool(answer.get("ready"))
            except TimeoutError:
                # It may have no descriptor for our connection; then its record is all that tells.
                last, _problem = records.read_record(paths)
                if last is not None and last["state"] in ("running", "unhealthy"):
                    return True
                if monotonic() >= deadline or find_holder(paths) is None:
                    return False
    except (OSError, ValueError):
        return False
    finally:
        talk.close()


def end_without_supervisor(paths: InstancePaths, policy: StopPolicy, *, now: bool) -> Verdict:
    """End what a silent supervisor, or a keeper whose supervisor vanished, still holds.

    The supervisor is killed, which makes its keeper end the tree; a keeper that does not is killed
    too, and the members are ended from here.
    """
    last, _problem = records.read_record(paths)
    holder = find_holder(paths)
    verdict = Verdict(target=paths.instance)
    if holder is not None:
        handle = _platform.open_handle(holder["pid"], holder["start"])
        if handle is not None:
            handle.send(_signal.SIGKILL)
            wait_for(handle, KILL_SECONDS)
            handle.close()
            verdict.notes.append(f"the supervisor (pid {holder['pid']}) did not answer and was killed")
    if last is None or not locks.is_alive(last["keeper"]):
        return verdict
    keeper = _platform.open_handle(last["keeper"]["pid"], last["keeper"]["start"])
    if keeper is None:
        return verdict
    keeper.send(_signal.SIGCONT)
    # The keeper gives the target's own grace; who asked for a shorter one gets it, by killing from here.
    if now or not wait_for(keeper, policy.grace + MARGIN):
        tree = Tree(last["run_id"], keeper.pid, open_group(last["cgroup"]), spare=[keeper.pid])
        tree.helpers = mark(paths.folder, paths.instance)
        found = end_tree(tree, policy, now=True)
        tree.close()
        verdict.killed, verdict.survivors = found.killed, found.survivors
        verdict.run_id = found.run_id
        if not wait_for(keeper, KILL_SECONDS) and not found.survivors:
            keeper.send(_signal.SIGKILL)
            wait_for(keeper, KILL_SECONDS)
            verdict.notes.append(f"the keeper (pid {keeper.pid}) hung and was killed")
    else:
        after, _problem = records.read_record(paths)
        if after is not None and after["run_id"] == last["run_id"] and after["last_verdict"]:
            notes = verdict.notes
            verdict = Verdict.from_dict(after["last_verdict"])
            verdict.notes += notes
    keeper.close()
    return verdict


def wait_for(handle: Any, seconds: float) -> bool:
    """Whether the process ended within ``seconds``."""
    deadline = monotonic() + seconds
    while handle.alive():
        if monotonic() >= deadline:
            return False
        watch = select.poll()
        if handle.fileno() >= 0:
            watch.register(handle.fileno(), select.POLLIN)
        watch.poll(poll_milliseconds(deadline, handle.fileno() < 0))
    return True


def own_ancestor(pid: int) -> bool:
    """Whether ``pid`` is this process or above it: a command inside a target cannot end what it runs in."""
    everything = _platform.scan()
    at = os.getpid()
    while at in everything:
        if at == pid:
            return True
        at = everything[at].ppid
    return False
