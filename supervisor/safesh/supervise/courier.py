"""A courier: brings one recipient's letters, tries again, and is gone by its deadline.

Executed as a file by ``recipients.send_courier`` in a session of its own, its order on standard input. It is the
subreaper of the hooks it runs, so that nothing they started outlives them; and it needs no supervisor, which may end
meanwhile.
"""

from __future__ import annotations

import os
import select
import sys

if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]


from safesh import _platform, wire
from safesh.clock import format_duration, monotonic, sleep
from safesh.core import fds, kill, reap
from safesh.core.contain import HOLDER, INSTANCE, RUN_ID, Tree
from safesh.core.environment import inherited
from safesh.core.spawn import spawn
from safesh.errors import ResourceError, SafeshError
from safesh.model import StopPolicy
from safesh.supervise.events import EventLog
from safesh.supervise.letters import pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from safesh._platform import Handle
    from safesh.model import ExitInfo

    Letter = dict[str, Any]
else:
    import _signal

DELIVERED, FAILED, NOT_THERE = 0, 1, 3  # exit statuses
# What apprise_send.py exits with when trying again cannot help (EX_UNAVAILABLE, EX_CONFIG).
_USELESS = (69, 78)
_SENDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apprise_send.py")
_CHUNK = 1 << 16
_KEPT = 4096
_LAST_LINE = 300
_TYPES = {"failed": "failure", "unhealthy": "warning", "limit": "warning", "strays": "warning", "restarted": "warning",
          "ready": "success", "recovered": "success"}  # fmt: skip


class Failure(Exception):
    """An attempt that failed. useless: another one would, too; gone: there is nothing to execute."""

    def __init__(self, reason: str, *, useless: bool = False, gone: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.useless = useless or gone
        self.gone = gone


class Attempt:
    """One run of a hook: its main process, what it is told, what it says last, and all it started."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str], data: bytes, signals: Any) -> None:
        """SafeshError when it cannot be executed."""
        self.signals = signals
        self.said = b""
        self.end: ExitInfo | None = None
        self._data = data
        reading, self._input = os.pipe()
        self._output, writing = os.pipe()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        try:
            # Should we be killed, it is too: then nobody would be left to see to its deadline.
            self.pid = spawn(argv, cwd=cwd, env=env, stdio=(reading, writing, writing),
                             before_exec=lambda: _platform.set_pdeathsig(_signal.SIGKILL))  # fmt: skip
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reading)
            os.close(writing)
        self.start = _platform.start_time(self.pid) or 0

    def wait(self, deadline: float) -> bool:
        """Until it and all it started have ended: False when they had to be killed at the deadline."""
        while not self._collect():
            if monotonic() >= deadline:
                self._kill()
                return False
            self._turn(deadline)
        self._listen()
        return True

    def _turn(self, deadline: float) -> None:
        watch = select.poll()
        watch.register(self.signals.fileno(), select.POLLIN)
        if self._input >= 0:
            watch.register(self._input, select.POLLOUT)
        if self._output >= 0:
            watch.register(self._output, select.POLLIN)
        for fd, _event in watch.poll(kill.poll_milliseconds(deadline)):
            if fd == self._input:
                self._tell()
            elif fd == self._output:
                self._listen()
        self.signals.read()

    def _tell(self) -> None:
        try:
            self._data = self._data[os.write(self._input, self._data) :]
        except BlockingIOError:
            return
        except OSError:  # it does not want to know
            self._data = b""
        if not self._data:
            os.close(self._input)
            self._input = -1

    def _listen(self) -> None:
        """Everything is read, so that it never blocks on a full pipe, and all but the end of it forgotten."""
        for _ in range(16):
            if self._output < 0:
                return
            try:
                chunk = os.read(self._output, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                os.close(self._output)
                self._output = -1
            self.said = (self.said + chunk)[-_KEPT:]

    def _collect(self) -> bool:
        """Reap; whether nobody is left."""
        for pid, status, usage in reap.reap_all():
            if pid == self.pid:
                self.end = reap.read_status(status, usage)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def _kill(self) -> None:
        def wait(handles: list[Handle], deadline: float) -> bool:
            kill.wait_plainly(handles, deadline)
            self._collect()
            return False

        before = self.end
        tree = Tree(root=os.getpid())
        try:
            kill.end_tree(tree, StopPolicy(), main=(self.pid, self.start), wait=wait, now=True)
        finally:
            tree.close()
        self._collect()
        self.end = before  # what it came to by itself
        self._listen()

    @property
    def last_line(self) -> str:
        text = self.said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return "".join(letter if letter.isprintable() else " " for letter in text)[-_LAST_LINE:].strip()

    def close(self) -> None:
        for fd in (self._input, self._output):
            if fd >= 0:
                os.close(fd)
        self._input = self._output = -1


class Courier:
    """The order: see ``recipients.Recipient.order``."""

    def __init__(self, order: dict[str, Any], signals: Any) -> None:
        self.order = order
        self.signals = signals
        self.log = EventLog(order["events"], order["instance"])

    def bring_all(self) -> int:
        """An exit status. The last letter gets every attempt; older ones one each, and all before it one timeout."""
        *older, last = self.order["letters"]
        cut = monotonic() + self.order["timeout"]
        if self.order["after"]:
            pid, start = self.order["after"]
            self._follow(pid, start, cut)
        for at, letter in enumerate(older):
            if monotonic() >= cut:
                self._report(letter, f"{len(older) - at} events were not told: it ended before they could be", 0)
                break
            self._bring(letter, 0, cut)
        late = bool(older or self.order["after"])
        life = self.order["life"] - (self.order["timeout"] if late else 0.0)
        return self._bring(last, self.order["retries"], monotonic() + life + kill.KILL_SECONDS)

    def _follow(self, pid: int, start: int, cut: float) -> None:
        """Let an earlier courier finish, so that what happened first is told first; not for ever."""
        handle = _platform.open_handle(pid, start)
        while handle is not None and handle.alive() and monotonic() < cut:
            kill.wait_plainly([handle], cut)

    def _bring(self, letter: Letter, retries: int, end: float) -> int:
        attempts = 0
        while True:
            attempts += 1
            try:
                self._try(letter, end)
            except Failure as failure:
                rest = pause(attempts)
                if attempts > retries or failure.useless or monotonic() + rest >= end:
                    if not (failure.gone and self.order["quiet"]):
                        self._report(letter, failure.reason, attempts)
                    return NOT_THERE if failure.gone else FAILED
                sleep(rest)
            else:
                return DELIVERED

    def _try(self, letter: Letter, end: float) -> None:
        """One attempt; Failure."""
        timeout = min(self.order["timeout"], end - monotonic())
        argv, cwd, env, data = self._prepare(letter)
        try:
            attempt = Attempt(argv, cwd, env, data, self.signals)
        except ResourceError as error:
            raise Failure(str(error)) from None
        except SafeshError as error:
            raise Failure(f"{error}" + (f" ({error.hint})" if error.hint else ""), gone=True) from None
        except OSError as error:
            raise Failure(f"cannot be started: {error.strerror}") from None
        try:
            in_time = attempt.wait(monotonic() + timeout)
            if attempt.end is None:
                reason = f"did not end in {format_duration(timeout)} and was killed" if not in_time else "was lost"
                raise Failure(_with(reason, attempt.last_line))
            if not attempt.end.ok:
                useless = bool(self.order["url"]) and attempt.end.code in _USELESS
                raise Failure(_with(attempt.end.cause, attempt.last_line), useless=useless, gone=useless)
        finally:
            attempt.close()

    def _prepare(self, letter: Letter) -> tuple[list[str], str, dict[str, str], bytes]:
        """(argv, cwd, environment, standard input) of an attempt."""
        env = inherited()
        if self.order["url"]:
            message = {"url": self.order["url"], "type": _TYPES.get(letter["event"], "info"), **_in_words(letter)}
            words = [sys.executable, "-E", "-s", "-S", _SENDER]
            return words, "/", env, wire.dumps(message).encode() + b"\n"
        env |= self.order["env"]
        # A hook is not of the run, and who carries the run's marks is taken for a stray of it.
        for name in (RUN_ID, INSTANCE, HOLDER):
            env.pop(name, None)
        facts = {
            "SAFESH_EVENT": letter["event"],
            "SAFESH_MESSAGE": letter["message"],
            "SAFESH_TARGET": letter["target"],
            "SAFESH_PROJECT": letter["project"],
            "SAFESH_EVENT_INSTANCE": letter["instance"],
            "SAFESH_EVENT_RUN_ID": letter["run_id"],
            "SAFESH_EVENT_AT": str(letter["at"]),
        }
        env |= {name: value.encode("utf-8", "replace").decode().replace("\0", "?") for name, value in facts.items()}
        return self.order["command"], self.order["cwd"], env, wire.dumps(letter).encode() + b"\n"

    def _report(self, letter: Letter, reason: str, attempts: int) -> None:
        self.log.write("hook_failed", letter["target"], letter["run_id"], hook=self.order["label"],
                       told=letter["event"], reason=reason, attempts=attempts)  # fmt: skip


def _with(cause: str, last_line: str) -> str:
    return f"{cause}: {last_line}" if last_line else cause


def _in_words(letter: Letter) -> dict[str, str]:
    """An event as a title and a body for people."""
    from safesh.clock import format_time

    body = f"{letter['message']}\n{letter['host']}, {format_time(letter['at'])}"
    if letter["repeated"]:
        body += f", {letter['repeated']} more of the same since the last message"
    if letter["dropped"]:
        body += f", {letter['dropped']} earlier events were dropped"
    return {"title": f"{letter['project']}/{letter['target']}: {letter['event']}", "body": body}


def run() -> int:
    """Read the order, carry it out; the exit status."""
    data = b""
    while chunk := os.read(0, _CHUNK):
        data += chunk
    fds.point_stdio_at_null()
    order = wire.loads(data.decode())
    # Whatever hangs, a folder of a dead file server say, this ends it; our hooks die with us.
    _signal.alarm(int(order["life"] + 3 * kill.KILL_SECONDS) + 2)
    _platform.set_name("safesh-courier")
    _platform.become_subreaper()
    return Courier(order, _platform.SignalSource([_signal.SIGCHLD])).bring_all()


if __name__ == "__main__":
    os._exit(run())
