"""A probe that is a command: exit status 0 means that the target serves, its last line says more."""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.core import reap
from safesh.core.contain import Tree
from safesh.core.spawn import spawn
from safesh.supervise.probes import Attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable

    from safesh._platform import Info
    from safesh.model import Probe
    from safesh.supervise.probes import Context, Finish, Readers
else:
    import _signal

TOKEN = "SAFESH_PROBE"  # finds those whom a probe command daemonised
_KEPT = 4096
_CHUNK = 65536
_PASSES = 20


class Command(Attempt):
    """The command in a session of its own, in the target's folder, with its environment."""

    def __init__(self, probe: Probe, context: Context, finish: Finish) -> None:
        super().__init__(finish)
        self._name = os.path.basename(probe.command[0])
        self._token = os.urandom(8).hex()
        self._output = b""
        self._pid = self._start = 0
        self._collected = self._killed = False
        self._pipe, writing = os.pipe()
        try:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._pid = spawn(
                    probe.command,
                    cwd=context.cwd,
                    env={**context.env, TOKEN: self._token},
                    stdio=(null, writing, writing),
                    before_exec=lambda: _platform.set_pdeathsig(_signal.SIGKILL),  # we may be killed in the middle
                )
            finally:
                os.close(null)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)
        os.set_blocking(self._pipe, False)
        self._start = _platform.start_time(self._pid) or 0

    def readers(self) -> Readers:
        return {self._pipe: (select.POLLIN, self._read)} if self._pipe >= 0 else {}

    def children(self) -> list[int]:
        return [self._pid] if self._pid and not self._collected else []

    def waits_for(self) -> str:
        said = self._last_line()
        return f"{self._name} has not ended" + (f' (it said "{said}")' if said else "")

    def _read(self) -> None:
        """A chunk at a time: a probe that floods gets no more of the loop than anybody else."""
        try:
            chunk = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return
        self._output = (self._output + chunk)[-_KEPT:]
        if not chunk:
            os.close(self._pipe)
            self._pipe = -1

    def reaped(self, pid: int, status: int) -> bool:
        self._collected = True
        for _ in range(2):  # 64 KiB, more than a pipe holds unread by default
            if self._pipe >= 0:
                self._read()
        end = reap.read_status(status)
        if not self._killed:
            self._end_rest()
        said = self._last_line()
        if end.ok:
            self.finish(True, said or f"{self._name} exited 0")
        else:
            self.finish(False, f"{said} ({end.cause})" if said else f"{self._name} {end.cause}")
        return True

    def _last_line(self) -> str:
        lines = self._output.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def ended(self) -> None:
        """For a caller who is no subreaper: what the command left is not its child. The zombie keeps the number."""
        try:
            os.killpg(self._pid, _signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _end_rest(self) -> None:
        """What the command left in its process group is nobody's: it would pile up, check by check."""
        try:
            # A child of ours in that group keeps the group's number from being anybody else's.
            os.waitid(os.P_PGID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        self._kill_whole()

    def _kill_whole(self) -> None:
        """SIGKILL to everything the command has started, without waiting: first still, then dead."""
        tree = Tree()
        tree.find_more = self._mine
        if not self._collected:
            tree.adopt(self._pid, self._start)
        try:
            stopped: set[tuple[int, int]] = set()
            for _ in range(_PASSES):
                fresh = {(one.pid, one.start) for one in tree.look().values()} - stopped
                if not fresh:
                    break
                stopped |= fresh
                for key in fresh:
                    _send(tree, key, _signal.SIGSTOP)
            for key in stopped:
                _send(tree, key, _signal.SIGKILL)
        finally:
            tree.close()

    def _mine(self, everything: dict[int, Info]) -> Iterable[int]:
        """Those that left the parent's line: still in the session, or with the token in their environment."""
        for one in everything.values():
            if one.start < self._start or one.pid == os.getpid():
                continue
            if one.sid == self._pid or (_platform.environ(one.pid, TOKEN) or {}).get(TOKEN) == self._token:
                yield one.pid

    def close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._pid and not self._collected and not self._killed:
            self._killed = True
            self._kill_whole()


def _send(tree: Tree, key: tuple[int, int], number: int) -> None:
    handle = tree.handles.get(key)
    try:
        if handle is not None:
            handle.send(number)
    except PermissionError:
        pass  # it has become another user's; nothing of ours reaches it
