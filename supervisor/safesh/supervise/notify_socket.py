"""systemd's notification protocol (sd_notify(3)), as the one that is told: READY, STATUS, WATCHDOG and the rest.

The kernel names each sender (SO_PASSCRED, unix(7)), so only members of the run are listened to: a process below its
keeper, or in its cgroup. Where there are no such names the state folder, closed to others, has to do. As with systemd,
a sender that has ended before it was heard cannot be told from a stranger; ``systemd-notify`` waits for its barrier.
"""

from __future__ import annotations

import os
import select

from safesh import _platform
from safesh.clock import monotonic, wall
from safesh.core.contain import open_group
from safesh.errors import SafeshError
from safesh.paths import remove
from safesh.supervise.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from collections.abc import Callable

    from safesh.supervise.run import LiveRun
    from safesh.supervise.supervisor import Supervisor
else:
    import _socket

_SUN_PATH = 100  # sun_path holds 108 bytes, 104 elsewhere (unix(7))
_LARGEST = 4096
_MOST_FDS = 253  # SCM_MAX_FD
_BUDGET = 64  # messages a wake-up, so that a flood does not keep the supervisor from its other work
_SAVE_EVERY = 1.0  # seconds between two records for STATUS alone
_MOST_STRANGERS = 20  # told of by name, in one run
_CREDENTIALS = 12  # struct ucred: pid, uid, gid


class NotifySocket(Watcher):
    """One run's socket. on_ready, on_extend, on_trouble: what readiness and health want to hear.

    watchdog_at: monotonic time of the last WATCHDOG=1, or of the beginning; triggered: WATCHDOG=trigger came.
    """

    def __init__(self, supervisor: Supervisor, run: LiveRun) -> None:
        """OSError or SafeshError when there can be no socket."""
        self.on_ready: Callable[[], None] = lambda: None
        self.on_extend: Callable[[float], None] = lambda _seconds: None
        self.on_trouble: Callable[[], None] = lambda: None
        self.watchdog_at = monotonic()
        self.watchdog_seen = False
        self.triggered = False
        self.stopping = False
        self._supervisor = supervisor
        self._run = run
        self._strangers: set[int] = set()
        self._listening = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._path = _bind(self._socket, os.path.join(supervisor.paths.folder, run.spec.instance + ".notify"))
            self._named = hasattr(_socket, "SO_PASSCRED")
            if self._named:
                self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        except BaseException:
            self._socket.close()
            raise
        run.extra_env["NOTIFY_SOCKET"] = self._path

    def readers(self) -> dict[int, tuple[int, Callable[[], None]]]:
        # What comes before the keeper's word that the target runs waits in the socket.
        return {self._socket.fileno(): (select.POLLIN, self._read)} if self._listening else {}

    def on_event(self, event: str) -> None:
        if event == "spawned":
            self._listening = True
            self.watchdog_at = monotonic()

    def tick(self) -> None:
        self.due = None
        self._supervisor.journal.save()

    def _read(self) -> None:
        space = _socket.CMSG_SPACE(_MOST_FDS * 4) + _socket.CMSG_SPACE(_CREDENTIALS)
        flags = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
        for _ in range(_BUDGET):
            if not self._listening:
                return
            try:
                data, extra, _flags, _address = self._socket.recvmsg(_LARGEST, space, flags)
            except BlockingIOError:
                return
            except OSError as error:
                self._supervisor.journal.event("notify_failed", message=str(error))
                return
            sender, fds = 0, []
            for _level, kind, value in extra:
                if kind == _socket.SCM_RIGHTS:
                    fds += [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value) - 3, 4)]
                elif self._named and kind == _socket.SCM_CREDENTIALS:
                    sender = int.from_bytes(value[:4], "little")
            try:
                if self._is_ours(sender):
                    self._hear(data.decode("utf-8", "replace"))
                else:
                    self._refuse(sender, data)
            finally:
                for fd in fds:  # we keep nobody's descriptors; a barrier's sender waits for just this
                    os.close(fd)

    # ---- who speaks

    def _is_ours(self, pid: int) -> bool:
        if not self._named:
            return True
        return pid > 0 and (self._is_below_keeper(pid) or self._is_in_group(pid))

    def _is_below_keeper(self, pid: int) -> bool:
        keeper = self._run.keeper
        for _ in range(100):
            if keeper is None or pid <= 1:
                return False
            one = _platform.info(pid)
            if one is None:
                return False
            if one.ppid == keeper.pid:
                return True
            pid = one.ppid
        return False

    def _is_in_group(self, pid: int) -> bool:
        group = open_group(self._supervisor.record["cgroup"])
        return group is not None and pid in group.pids()

    def _refuse(self, pid: int, data: bytes) -> None:
        if pid in self._strangers or len(self._strangers) >= _MOST_STRANGERS:
            return
        self._strangers.add(pid)
        text = data[:80].decode("utf-8", "replace").replace("\n", " ")
        gone = pid <= 0 or _platform.info(pid) is None
        why = "had ended before it was heard" if gone else "is not of this run"
        self._supervisor.journal.event("notify_ignored", pid=pid, text=text, message=f"its sender {why}")

    # ---- what is said

    def _hear(self, text: str) -> None:
        said = self._supervisor.record.setdefault("notify", {})
        for line in text.split("\n"):
            key, equals, value = line.partition("=")
            if not equals:
                continue
            if key == "STATUS":
                said["status"] = "".join(letter if letter.isprintable() else " " for letter in value)[:300]
                said["at"] = wall()
                if self.due is None:
                    self.due = monotonic() + (_SAVE_EVERY if self._supervisor.state != "starting" else 0.0)
            elif key == "WATCHDOG":
                self._watchdog(value)
            elif key == "EXTEND_TIMEOUT_USEC" and _is_number(value):
                self.on_extend(int(value) / 1e6)
            elif key == "MAINPID" and _is_number(value):
                self._main_pid(int(value), said)
            elif key in ("STOPPING", "RELOADING") and value == "1":
                self.stopping = self.stopping or key == "STOPPING"
                self._supervisor.journal.event(key.lower())
        # Last, whatever its line: a message says all of its things at one time.
        if "READY=1" in text.split("\n"):
            self.on_ready()

    def _watchdog(self, value: str) -> None:
        if value == "1":
            self.watchdog_at = monotonic()
            self.watchdog_seen = True
            self.triggered = False
        elif value == "trigger":
            self.triggered = True
            self.on_trouble()

    def _main_pid(self, pid: int, said: dict[str, object]) -> None:
        if self._is_ours(pid):
            said["main_pid"] = pid
            self._supervisor.journal.event("main_pid", pid=pid)
        else:
            self._supervisor.journal.event("notify_ignored", pid=pid, text=f"MAINPID={pid}",
                                           message="that process is not of this run")  # fmt: skip

    def close(self) -> None:
        self._listening = False
        self.due = None
        self._supervisor.record.pop("notify", None)
        self._socket.close()
        if not self._path.startswith("@"):
            try:
                remove(self._path)
            except SafeshError:
                pass  # the next run replaces it


def _bind(sock: _socket.socket, path: str) -> str:
    """Give ``sock`` a name that the whole tree can reach; what NOTIFY_SOCKET has to say.

    A tree of root's may drop to other users, who cannot enter our folder; an abstract name has no folder.
    """
    named = hasattr(_socket, "SO_PASSCRED")
    if named and (os.geteuid() == 0 or len(os.fsencode(path)) > _SUN_PATH):
        name = f"safesh/{os.urandom(8).hex()}"
        sock.bind("\0" + name)
        return "@" + name
    remove(path)
    sock.bind(path)
    os.chmod(path, 0o600)
    return path


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 18
