"""Real processes in tests: started with an owner, waited for with a deadline, always ended.

A process is told by pid and kernel start time, and signalled through a pidfd only, so a test can never
hit what it did not start. Written apart from ``safesh`` on purpose: what is tested must not vouch for itself.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")

SPAWN_MARK = "SAFESH_TEST_SPAWN"
DEADLINE = 10.0


class Process(NamedTuple):
    """One process at one moment. start: clock ticks since boot, proc_pid_stat(5) field 22."""

    pid: int
    start: int
    ppid: int
    pgid: int
    sid: int
    state: str
    name: str

    @property
    def dead(self) -> bool:
        return self.state in "ZX"

    @property
    def command(self) -> str:
        """The command line as it is now, the kernel's name where there is none."""
        return " ".join(argv(self.pid)) or f"[{self.name}]"

    def __str__(self) -> str:
        return f"pid {self.pid} (start {self.start}, parent {self.ppid}, state {self.state}): {self.command}"


# --- looking ----------------------------------------------------------------------------------


def look(pid: int) -> Process | None:
    """The process with this pid, zombies included; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
    except OSError:
        return None
    fields = tail.split()
    if len(fields) < 20:
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Process(
        pid, int(fields[19]), int(fields[1]), int(fields[2]), int(fields[3]), fields[0].decode(), name
    )  # fmt: skip


def scan() -> dict[int, Process]:
    """Every visible process by pid."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {one.pid: one for one in found if one is not None}


def argv(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            data = file.read()
    except OSError:
        return []
    return data.removesuffix(b"\0").decode("utf-8", "replace").split("\0") if data else []


def environ(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when gone, a zombie or closed to us."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in data.decode("utf-8", "replace").split("\0"))
    return {key: value for key, equals, value in pairs if equals}


def start_of(pid: int) -> int:
    """The start time of a process that must be there."""
    found = look(pid)
    assert found is not None, f"there is no process {pid}"
    return found.start


def alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    found = look(pid)
    return found is not None and found.start == start and not found.dead


def tree_of(pid: int) -> list[Process]:
    """The process and all that descend from it now, itself first, zombies included."""
    everyone = scan()
    children: dict[int, list[Process]] = {}
    for one in everyone.values():
        children.setdefault(one.ppid, []).append(one)
    tree = [everyone[pid]] if pid in everyone else []
    for one in tree:
        tree += children.get(one.pid, [])
    return tree


def marked(name: str, value: str, known: Iterable[tuple[int, int]] = ()) -> list[Process]:
    """Live processes started with ``name=value`` in their environment, us and ``known`` (pid, start) left out."""
    skip = set(known)
    return [
        one
        for one in scan().values()
        if (one.pid, one.start) not in skip
        and one.pid != os.getpid()
        and not one.dead
        and environ(one.pid).get(name) == value
    ]


# --- acting -----------------------------------------------------------------------------------


def send(pid: int, start: int, number: int) -> bool:
    """Signal exactly this process; False when it is gone. Its pid may have passed on: the pidfd is checked."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(pid, start):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def end(find: Callable[[], Sequence[Process]], deadline: float = 5.0) -> list[str]:
    """SIGKILL what ``find`` finds until it finds nothing alive; who was met. AssertionError for survivors."""
    met: dict[tuple[int, int], str] = {}

    def gone() -> bool:
        left = [one for one in find() if not one.dead]
        for one in left:
            met.setdefault((one.pid, one.start), str(one))
            send(one.pid, one.start, signal.SIGKILL)
        return not left

    if not gone():
        wait_until(gone, deadline)
    return list(met.values())


# --- waiting: the only place where tests sleep ------------------------------------------------


def wait_until(condition: Callable[[], T], deadline: float = DEADLINE, what: str = "") -> T:
    """Call ``condition`` until its answer is true and return that answer.

    An AssertionError counts as "not yet". After ``deadline`` seconds it is an AssertionError with the last
    reason. While it waits, the output of every :class:`Spawn` is drained, so no child blocks on a full pipe.
    """
    limit = time.monotonic() + deadline
    pause = 0.002
    while True:
        late = time.monotonic() >= limit  # looked at before the last try, so a slow machine gets a try
        reason = ""
        try:
            answer = condition()
            if answer:
                return answer
            reason = f"the answer was {answer!r}"
        except AssertionError as error:
            reason = str(error)
        if late:
            raise AssertionError(f"not within {deadline:g} s: {what or _name(condition)}: {reason}")
        _drain(pause)
        pause = min(pause * 1.5, 0.05)


def until_passes(check: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Call ``check``, a function of assertions, until none fails."""

    def passes() -> bool:
        check()
        return True

    wait_until(passes, deadline, _name(check))


def _name(function: Callable[..., object]) -> str:
    code = getattr(function, "__code__", None)
    where = f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code else ""
    return getattr(function, "__name__", repr(function)) + where


_live: list[Spawn] = []


def _drain(seconds: float) -> None:
    limit = time.monotonic() + seconds
    while True:
        streams = {fd: stream for spawn in _live for stream in spawn.streams if (fd := stream.fd) >= 0}
        watch = select.poll()
        for fd in streams:
            watch.register(fd, select.POLLIN)
        ready = watch.poll(max(0.0, limit - time.monotonic()) * 1000)
        for fd, _ in ready:
            streams[fd].read()
        if not ready or time.monotonic() >= limit:
            return


class _Stream:
    """One output pipe: what came so far, and how far :meth:`Spawn.wait_line` has read."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.fd = file.fileno() if file else -1
        self.data = bytearray()
        self.seen = 0
        if file:
            os.set_blocking(self.fd, False)

    def read(self) -> None:
        for _ in range(16):  # a pipe's worth, but no more: an endless writer must not hold us here
            try:
                chunk = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            self.data += chunk

    def close(self) -> None:
        if self.file:
            self.file.close()
        self.file, self.fd = None, -1


class Spawn:
    """A child of the test, ended with all that belongs to it when the ``with`` block is left, however it is left.

    ``Spawn("prog", "arg", ...)``: options env (replaces the environment), extra_env (adds to it), cwd,
    stdin/stdout/stderr (default: pipes), session (its own; default), group (its own), pass_fds. With ``whole=False``
    only the child itself is ended, not what it left behind (a detached supervisor is meant to stay).

    What belongs to it: descendants, members of its session, processes with its mark in their environment, and
    those handed over with :meth:`adopt`.
    """

    def __init__(
        self,
        *command: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        extra_env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        session: bool = True,
        group: bool = False,
        pass_fds: Sequence[int] = (),
        whole: bool = True,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.mark = uuid.uuid4().hex
        self._session = session
        self._whole = whole
        self._adopted: list[tuple[int, int]] = []
        environment = {**(os.environ if env is None else env), **(extra_env or {})}
        if whole:
            environment[SPAWN_MARK] = self.mark
        self._popen = subprocess.Popen(
            self.command,
            env=environment,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=session,
            process_group=0 if group and not session else None,
            pass_fds=pass_fds,
        )
        self.pid = self._popen.pid
        self.streams = (_Stream(self._popen.stdout), _Stream(self._popen.stderr))
        _live.append(self)
        self.start = start_of(self.pid)  # ours and not reaped yet, so it is there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what it said

    @property
    def out(self) -> str:
        """Standard output so far."""
        _drain(0)
        return self.streams[0].data.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        """Standard error so far."""
        _drain(0)
        return self.streams[1].data.decode("utf-8", "replace")

    def wait_line(self, pattern: str, deadline: float = DEADLINE, stream: str = "out") -> re.Match[str]:
        """The match of the next whole line that ``pattern`` (re.search) is found in; earlier lines are passed over."""
        source = self.streams[0 if stream == "out" else 1]

        def find() -> re.Match[str] | None:
            ended = self.returncode is not None
            _drain(0)
            while (cut := source.data.find(b"\n", source.seen)) >= 0:
                line = source.data[source.seen : cut].decode("utf-8", "replace")
                source.seen = cut + 1
                if match := re.search(pattern, line):
                    return match
            if ended:
                raise _Ended(f"{self} ended before a line with {pattern!r}")
            return None

        try:
            match = wait_until(find, deadline, f"a line with {pattern!r}")
        except (AssertionError, _Ended) as error:
            raise AssertionError(f"{error}{self._told()}") from None
        assert match is not None
        return match

    def _told(self) -> str:
        return f"\n--- stdout\n{self.out}--- stderr\n{self.err}---"

    def __str__(self) -> str:
        code = self._popen.returncode
        return f"{' '.join(self.command)!r} (pid {self.pid}, {'running' if code is None else f'status {code}'})"

    # how it is acted upon

    def send(self, number: int) -> None:
        """Signal the child; it must not have been waited for."""
        self._popen.send_signal(number)

    def write(self, text: str) -> None:
        """To its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text.encode())
        self._popen.stdin.flush()

    def close_stdin(self) -> None:
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def adopt(self, pid: int, start: int) -> None:
        """Be the owner of a process that this child left behind unmarked (a daemon with a cleared environment)."""
        self._adopted.append((pid, start))

    # its end

    @property
    def returncode(self) -> int | None:
        """As in Popen: the exit status, a signal as a negative number, None while it runs."""
        if self._popen.returncode is None and self._ended() and self._session and self._whole:
            # Once reaped, its pid may name another's session: who was in ours is noted while it cannot.
            self._adopted += [(one.pid, one.start) for one in scan().values() if one.sid == self.pid]
        return self._popen.poll()

    def _ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def alive(self) -> bool:
        return alive(self.pid, self.start)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Its return code, once it has ended."""
        try:
            wait_until(lambda: self.returncode is not None, deadline)
        except AssertionError:
            raise AssertionError(f"{self} still runs after {deadline:g} s{self._told()}") from None
        code = self._popen.returncode
        assert code is not None
        return code

    def wait_output(self, deadline: float = DEADLINE) -> None:
        """Until both outputs have ended, that is until nobody holds them open any more."""
        wait_until(lambda: all(stream.fd < 0 for stream in self.streams), deadline, f"the end of the output of {self}")

    def members(self) -> list[Process]:
        """What belongs to it and is alive."""
        held = self._popen.returncode is None  # then its pid, as a parent's or a session's, means it alone
        found: dict[int, Process] = {}
        for one in scan().values():
            if (
                (held and (one.pid == self.pid or (self._session and one.sid == self.pid)))
                or (one.pid, one.start) in self._adopted
                or (one.start >= self.start and environ(one.pid).get(SPAWN_MARK) == self.mark)
            ):
                for member in tree_of(one.pid):
                    found[member.pid] = member
        return [one for one in found.values() if not one.dead and one.pid != os.getpid()]

    def close(self) -> None:
        """End it and what belongs to it, and give back every descriptor. May be called twice."""
        if self not in _live:
            return
        try:
            if self._whole:
                end(self.members)
            elif self._popen.poll() is None:
                send(self.pid, self.start, signal.SIGKILL)
            self._popen.wait(5)
        finally:
            _live.remove(self)
            for stream in self.streams:
                stream.close()
            if self._popen.stdin is not None:
                try:
                    self._popen.stdin.close()
                except BrokenPipeError:
                    pass  # what it did not read is lost, which is all right at the end


class _Ended(Exception):
    """No AssertionError, so that waiting stops at once."""


def spawn(*command: str | os.PathLike[str], **options: Any) -> Spawn:
    """``with spawn("prog", "arg") as child: ...``; see :class:`Spawn`."""
    return Spawn(*command, **options)
